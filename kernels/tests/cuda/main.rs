//! `CudaGpu` on stand-ins for the driver and cublasLt: what it calls, in which order, and that it gives all back.
//!
//! # Layout
//! - `driver.c`, `cublaslt.c`: the stand-ins; device memory is the host's, a stream's work is done when it is waited for
//! - `stand_in`: compiles and loads them
//! - `device`: opening, memory, rings, launches, graphs, errors
//! - `products`: matrix products and their plans

mod device;
mod products;
mod stand_in;

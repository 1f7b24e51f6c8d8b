//! Every hot operation as one file: shape checks, the CPU version (which is the reference), later the CUDA launch.
//!
//! # Layout
//! - `dtype`: storage types of weights
//! - `device`, `pool`: the CPU, its instruction set and threads
//! - `kv`, `arena`: cache kinds, block geometry, the memory that holds keys and values
pub mod arena;
pub mod device;
pub mod dtype;
pub mod kv;
pub mod pool;

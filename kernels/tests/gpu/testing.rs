//! What tests of several kernels share.

use sconce_kernels::gpu::pod::Pod;
use sconce_kernels::gpu::verify::Array;

use super::emu::EmulatedBed;

/// Memory of the device that holds `values`.
pub(crate) fn upload<T: Pod>(bed: &mut EmulatedBed, values: &[T]) -> Array<T> {
    bed.upload(values).expect("memory")
}

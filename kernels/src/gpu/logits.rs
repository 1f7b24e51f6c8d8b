//! Scale and soft cap of logits on the device (`kernels/cuda/logits.cu`).
//!
//! The CPU's versions, and the reference, are [`crate::elementwise::scale`] and [`crate::elementwise::softcap`].

use super::launch::{DevicePtr, Launch, Params};

/// Threads a block, each taking 4 values.
const THREADS: usize = 256;

/// The struct of that name in `logits.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ScaleSoftcapParams {
    x: DevicePtr,
    len: u64,
    multiplier: f32,
    cap: f32,
}

// SAFETY: two 8-byte and two 4-byte fields, no padding; the fields of the struct in `logits.cu`.
unsafe impl Params for ScaleSoftcapParams {
    const NAME: &'static str = "ScaleSoftcapParams";
}

/// `x = cap * tanh(x * multiplier / cap)` over `x[len]` in f32, or only the product where there is no cap.
///
/// # Panics
/// If the cap is not positive, or the grid passes `i32::MAX`.
pub fn scale_softcap(x: DevicePtr, len: usize, multiplier: f32, cap: Option<f32>) -> Launch {
    assert!(cap.is_none_or(|cap| cap > 0.0), "scale_softcap: cap {cap:?}");
    let params = ScaleSoftcapParams { x, len: len as u64, multiplier, cap: cap.unwrap_or(0.0) };
    let mut launch = Launch::new("logits", "scale_softcap", &params);
    launch.grid = [i32::try_from(len.div_ceil(4 * THREADS)).expect("scale_softcap: grid") as u32, 1, 1];
    launch.threads = THREADS as u32;
    launch.overlap = true;
    launch
}

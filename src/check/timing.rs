//! How long things take on the device, and what it does at best.

use std::time::{Duration, Instant};

use sconce_kernels::error::KernelError;
use sconce_kernels::gpu::device::GpuDevice;
use sconce_kernels::gpu::gemm::Gemm;
use sconce_kernels::gpu::gemv::{Gemv, GemvOutput, GemvWeight};
use sconce_kernels::gpu::launch::{DevicePtr, HalfType};
use serde::Serialize;

/// What the card does at best.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Floors {
    /// Bytes a second that a product of one row reads.
    pub bytes_per_second: f64,
    /// Operations a second of a large product.
    pub flops: f64,
}

/// How thoroughly something is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Repetitions that a median is taken of: at least one.
    pub runs: usize,
    /// Least time of a repetition.
    pub long: Duration,
}

/// Seconds an iteration.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The median of the repetitions.
    pub seconds: f64,
    /// The fastest.
    pub fastest: f64,
    /// The slowest.
    pub slowest: f64,
}

/// The median of several loops, each long enough that its start and end don't count. `once` issues work;
/// `wait` waits for all of it.
///
/// # Errors
/// When one of the two fails.
pub fn median<T, E>(
    on: &mut T,
    effort: Effort,
    mut once: impl FnMut(&mut T) -> Result<(), E>,
    mut wait: impl FnMut(&mut T) -> Result<(), E>,
) -> Result<Timing, E> {
    let mut times = Vec::with_capacity(effort.runs);
    let mut iterations = 1;
    once(on)?;
    wait(on)?;
    while times.len() < effort.runs.max(1) {
        let begin = Instant::now();
        for _ in 0..iterations {
            once(on)?;
        }
        wait(on)?;
        let elapsed = begin.elapsed();
        if elapsed < effort.long && iterations < 1 << 12 {
            iterations *= 2;
            continue;
        }
        times.push(elapsed.as_secs_f64() / f64::from(iterations));
    }
    times.sort_by(f64::total_cmp);
    Ok(Timing { seconds: times[times.len() / 2], fastest: times[0], slowest: times[times.len() - 1] })
}

/// [`median`] of what is issued on a device.
///
/// # Errors
/// When the device fails.
pub fn on_device<D: GpuDevice>(
    device: &mut D,
    effort: Effort,
    mut once: impl FnMut(&mut D) -> Result<(), KernelError>,
) -> Result<Timing, KernelError> {
    median(device, effort, &mut once, |device| Ok(device.synchronize()?))
}

/// What `issue` issues when called with each number below `count`, in one graph: seconds a call, without the cost of
/// launches.
///
/// # Errors
/// When the device fails.
pub fn in_graph<D: GpuDevice>(
    device: &mut D,
    effort: Effort,
    count: usize,
    mut issue: impl FnMut(&mut D, usize) -> Result<(), KernelError>,
) -> Result<Timing, KernelError> {
    // Modules are loaded and libraries initialised before the capture.
    issue(device, 0)?;
    device.synchronize()?;
    device.begin_capture()?;
    let issued = (0..count).try_for_each(|index| issue(device, index));
    let graph = device.end_capture();
    issued?;
    let graph = graph?;
    let all = on_device(device, effort, |device| Ok(device.replay(graph)?))?;
    let each = |seconds: f64| seconds / count as f64;
    Ok(Timing { seconds: each(all.seconds), fastest: each(all.fastest), slowest: each(all.slowest) })
}

/// The card's bandwidth from a product of one row over `bytes` of weights, and its rate from one of `size` cubed.
///
/// # Errors
/// When the device fails.
pub fn floors<D: GpuDevice>(device: &mut D, effort: Effort, bytes: usize, size: usize) -> Result<Floors, KernelError> {
    let (k, half) = (size, HalfType::Bf16);
    let n = bytes / (2 * k);
    let weight = random_bf16(device, n * k, "a floor's weights")?;
    let operands = random_bf16(device, 2 * size * size, "a floor's operands")?;
    let out = device.alloc((size * size).max(n) * 2, "a floor's results")?;
    let (output, format) = (GemvOutput::Half, GemvWeight::Dense);
    let gemv =
        Gemv { x: operands, weight, format, bias: None, norm: None, y: out, y_stride: n, m: 1, n, k, output, half };
    let launch = gemv.launch();
    let read = on_device(device, effort, |device| Ok(device.launch(&launch)?))?;
    let gemm = Gemm {
        m: size,
        n: size,
        k: size,
        a: operands,
        w: operands.byte_add(size * size * 2),
        bias: DevicePtr::NULL,
        out,
        half,
        out_f32: false,
        accumulate: false,
    };
    device.tune(&gemm)?;
    let product = on_device(device, effort, |device| Ok(device.gemm(&gemm)?))?;
    let flops = 2.0 * (size as f64).powi(3) / product.seconds;
    Ok(Floors { bytes_per_second: (n * k * 2) as f64 / read.seconds, flops })
}

/// Most bytes of random values that are made; longer arrays repeat them.
pub const RANDOM_BYTES: usize = 16 << 20;

/// `len` values of [`bf16_block`] on the device.
///
/// # Errors
/// When the device fails.
pub fn random_bf16<D: GpuDevice>(device: &mut D, len: usize, what: &'static str) -> Result<DevicePtr, KernelError> {
    let at = device.alloc(len * 2, what)?;
    let block = bf16_block(RANDOM_BYTES.min(len * 2));
    for start in (0..len * 2).step_by(RANDOM_BYTES) {
        device.write(at.byte_add(start), &block[..RANDOM_BYTES.min(len * 2 - start)])?;
    }
    Ok(at)
}

/// bf16 values between 1/128 and 1/64 of either sign, so that sums neither vanish nor overflow.
pub fn bf16_block(bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut pairs = Vec::with_capacity(bytes + 1);
    while pairs.len() < bytes {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let bits = (state >> 33) as u16;
        pairs.extend((0x3c00 | bits & 0x807f).to_le_bytes());
    }
    pairs.truncate(bytes);
    pairs
}

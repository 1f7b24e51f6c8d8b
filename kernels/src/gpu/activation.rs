//! Gated activations on the device (`kernels/cuda/activation.cu`).
//!
//! The CPU's version, and the reference, is [`crate::activation`].

use super::launch::{DevicePtr, HalfType, Launch, Params};
use crate::activation::GateActivation;

/// Threads a block, each taking 8 values.
const THREADS: usize = 256;

/// Values a thread takes at once.
const PACK: usize = 8;

/// The struct of that name in `activation.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct GatedParams {
    gate_up: DevicePtr,
    out: DevicePtr,
    rows: i32,
    width: i32,
    activation: i32,
    chunks: i32,
}

// SAFETY: two addresses and four 4-byte numbers, no padding; the fields of the struct in `activation.cu`.
unsafe impl Params for GatedParams {
    const NAME: &'static str = "GatedParams";
}

/// The number that `activation.cuh` gives an activation.
pub(super) fn activation_code(activation: GateActivation) -> i32 {
    match activation {
        GateActivation::Silu => 0,
        GateActivation::GeluTanh => 1,
        GateActivation::Gelu => 2,
    }
}

/// `out[rows, width] = act(gate_up[rows, 0..width]) * gate_up[rows, width..2 width]`, all of type `half`.
#[derive(Clone, Copy, Debug)]
pub struct Gated {
    /// `[rows, 2 width]`: gate and up side by side.
    pub gate_up: DevicePtr,
    /// `[rows, width]`.
    pub out: DevicePtr,
    /// Rows of both.
    pub rows: usize,
    /// Columns of `out`: a multiple of 8.
    pub width: usize,
    /// What the gate goes through.
    pub activation: GateActivation,
    /// Type of the values.
    pub half: HalfType,
}

impl Gated {
    /// The launch: a thread for 8 values.
    ///
    /// # Panics
    /// If the width is not a positive multiple of 8, or the grid passes `i32::MAX`.
    pub fn launch(&self) -> Launch {
        let Self { rows, width, .. } = *self;
        assert!(width > 0 && width.is_multiple_of(PACK), "gated: width {width} is no multiple of 8");
        let chunks = width.div_ceil(PACK * THREADS);
        let params = GatedParams {
            gate_up: self.gate_up,
            out: self.out,
            rows: i32::try_from(rows).expect("gated: rows"),
            width: i32::try_from(width).expect("gated: width"),
            activation: activation_code(self.activation),
            chunks: chunks as i32,
        };
        let mut launch = Launch::new("activation", format!("gated_{}", self.half.name()), &params);
        launch.grid = [i32::try_from(rows * chunks).expect("gated: grid") as u32, 1, 1];
        launch.threads = THREADS as u32;
        launch.overlap = true;
        launch
    }
}

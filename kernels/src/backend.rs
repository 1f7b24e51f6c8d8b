//! What a model graph asks of a device: the operations between token ids and logits, in destination-passing style.
//!
//! The graph in `sconce-models` is written once over this trait. The CPU implements it here (`cpu`); a CUDA device
//! implements it with kernels launched on one stream. Activations are row-major `[rows, width]`.

use crate::activation::GateActivation;
use crate::attention::AttentionShape;
use crate::error::KernelError;
use crate::kv::{LayerSlot, SeqSpan};
use crate::linear::MatrixView;
use crate::rope::RopeTable;

/// The metadata of one step, flat: what a device uploads once.
#[derive(Clone, Copy, Debug)]
pub struct StepInput<'a> {
    /// Token ids, `[M]`; [`TOKEN_FROM_SLOT`] stands for the token that the device itself sampled last for the sequence.
    pub tokens: &'a [u32],
    /// Their positions, `[M]`.
    pub positions: &'a [u32],
    /// Per cache group, the spans of rows that belong to one sequence; the same sequences in the same order in each.
    pub groups: &'a [Vec<SeqSpan<'a>>],
    /// One entry a span: where a device keeps what it knows of the sequence. The CPU keeps nothing.
    pub slots: &'a [u32],
    /// Rows of `M` whose logits are wanted, ascending.
    pub logit_rows: &'a [u32],
}

/// A token that only the device knows yet.
pub const TOKEN_FROM_SLOT: u32 = u32::MAX;

/// How a norm treats its weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormParams {
    /// Added to the mean square.
    pub eps: f32,
    /// Multiply by `1 + w` instead of `w`.
    pub one_plus: bool,
}

/// One attention layer as a device needs it.
#[derive(Clone, Copy, Debug)]
pub struct AttentionLayer<'a, V> {
    /// Heads, widths, scale, window, soft cap.
    pub shape: &'a AttentionShape,
    /// Where its keys and values lie.
    pub slot: LayerSlot,
    /// Index of the rope table, if the layer rotates.
    pub rope: Option<usize>,
    /// Weights of the query and key norms.
    pub qk_norm: Option<(&'a V, &'a V)>,
    /// Parameters of these norms.
    pub norm: NormParams,
}

/// A device that computes a model's steps.
pub trait Backend {
    /// Activations.
    type Buffer: Default + Send;
    /// Logits, in f32.
    type Logits: Default + Send;
    /// Small parameters: norm weights.
    type Vector: Send;
    /// A weight matrix in the device's own layout, with its bias.
    type Linear: Send;

    /// Brings row-stacked matrices to the device.
    ///
    /// # Errors
    /// When shapes and data don't agree, or memory runs out.
    fn linear_from(&mut self, parts: &[MatrixView<'_>], bias: Option<Vec<f32>>) -> Result<Self::Linear, KernelError>;

    /// Brings a vector to the device.
    ///
    /// # Errors
    /// When memory runs out.
    fn vector_from(&mut self, data: Vec<f32>) -> Result<Self::Vector, KernelError>;

    /// Bytes a matrix takes on the device.
    fn linear_bytes(&self, linear: &Self::Linear) -> usize;

    /// The rope tables that `AttentionLayer::rope` refers to.
    ///
    /// # Errors
    /// When memory runs out.
    fn set_ropes(&mut self, ropes: Vec<RopeTable>) -> Result<(), KernelError>;

    /// Makes `buffer` hold `len` elements; contents are unspecified.
    ///
    /// # Errors
    /// When memory runs out.
    fn resize(&mut self, buffer: &mut Self::Buffer, len: usize) -> Result<(), KernelError>;

    /// Makes `logits` hold `len` elements; contents are unspecified.
    ///
    /// # Errors
    /// When memory runs out.
    fn resize_logits(&mut self, logits: &mut Self::Logits, len: usize) -> Result<(), KernelError>;

    /// Takes in the step's metadata; the operations below refer to it. Not part of a captured graph, they are.
    ///
    /// # Errors
    /// When the device fails.
    fn begin_step(&mut self, step: &StepInput<'_>) -> Result<(), KernelError>;

    /// Whatever the metadata means for the layers: block tables, rotations.
    ///
    /// # Errors
    /// When the device fails.
    fn prepare(&mut self, step: &StepInput<'_>) -> Result<(), KernelError>;

    /// `out[m] = table[tokens[m]] * scale`, `[M, hidden]`.
    ///
    /// # Errors
    /// When a token lies outside the table.
    fn embed(
        &mut self,
        step: &StepInput<'_>,
        table: &Self::Linear,
        scale: f32,
        out: &mut Self::Buffer,
    ) -> Result<(), KernelError>;

    /// `out = rms_norm(x)` row by row.
    ///
    /// # Errors
    /// When shapes don't agree.
    fn rms_norm(
        &mut self,
        x: &Self::Buffer,
        weight: &Self::Vector,
        params: NormParams,
        out: &mut Self::Buffer,
    ) -> Result<(), KernelError>;

    /// `residual += rms_norm(x)` row by row.
    ///
    /// # Errors
    /// When shapes don't agree.
    fn rms_norm_add(
        &mut self,
        x: &Self::Buffer,
        weight: &Self::Vector,
        params: NormParams,
        residual: &mut Self::Buffer,
    ) -> Result<(), KernelError>;

    /// Makes room for what products with these matrices need beside their operands, before the first step.
    ///
    /// # Errors
    /// When memory runs out.
    fn reserve_for<'a>(&mut self, _linears: impl Iterator<Item = &'a Self::Linear>) -> Result<(), KernelError>
    where
        Self::Linear: 'a,
    {
        Ok(())
    }

    /// `qkv = rms_norm(x) W^T + bias`, then [`Self::qkv_post`]; `normed` is scratch as large as `x`. Afterwards only the
    /// queries in `qkv` are of use.
    ///
    /// # Errors
    /// When shapes don't agree.
    fn norm_qkv(
        &mut self,
        step: &StepInput<'_>,
        layer: &AttentionLayer<'_, Self::Vector>,
        x: &Self::Buffer,
        (weight, params): (&Self::Vector, NormParams),
        (normed, qkv): (&mut Self::Buffer, &mut Self::Buffer),
        w: &Self::Linear,
    ) -> Result<(), KernelError> {
        self.rms_norm(x, weight, params, normed)?;
        self.linear(w, normed, qkv, false)?;
        self.qkv_post(step, layer, qkv)
    }

    /// `out = act(g) * u` of `g | u = rms_norm(x) W^T + bias`; `normed` is scratch as large as `x`, `gate_up` for `g | u`.
    ///
    /// # Errors
    /// When shapes don't agree.
    fn norm_gated(
        &mut self,
        x: &Self::Buffer,
        (weight, params): (&Self::Vector, NormParams),
        (normed, gate_up): (&mut Self::Buffer, &mut Self::Buffer),
        (w, activation): (&Self::Linear, GateActivation),
        out: &mut Self::Buffer,
        width: usize,
    ) -> Result<(), KernelError> {
        self.rms_norm(x, weight, params, normed)?;
        self.linear(w, normed, gate_up, false)?;
        self.gated_activation(gate_up, activation, width, out)
    }

    /// `y = x W^T + bias`, added onto `y` when `accumulate`.
    ///
    /// # Errors
    /// When shapes don't agree.
    fn linear(
        &mut self,
        w: &Self::Linear,
        x: &Self::Buffer,
        y: &mut Self::Buffer,
        accumulate: bool,
    ) -> Result<(), KernelError>;

    /// Query/key norms, rope, and the write of keys and values into the cache; queries stay in `qkv`.
    ///
    /// # Errors
    /// When shapes don't agree.
    fn qkv_post(
        &mut self,
        step: &StepInput<'_>,
        layer: &AttentionLayer<'_, Self::Vector>,
        qkv: &mut Self::Buffer,
    ) -> Result<(), KernelError>;

    /// Attention of the queries in `qkv` over the cache, `out [M, heads * head_dim_v]`.
    ///
    /// # Errors
    /// When shapes don't agree.
    fn attention(
        &mut self,
        step: &StepInput<'_>,
        layer: &AttentionLayer<'_, Self::Vector>,
        qkv: &Self::Buffer,
        out: &mut Self::Buffer,
    ) -> Result<(), KernelError>;

    /// `out = act(gate) * up` of `gate_up [M, 2 I]`.
    ///
    /// # Errors
    /// When shapes don't agree.
    fn gated_activation(
        &mut self,
        gate_up: &Self::Buffer,
        activation: GateActivation,
        width: usize,
        out: &mut Self::Buffer,
    ) -> Result<(), KernelError>;

    /// `out = rms_norm` of the step's logit rows of `x`, gathered.
    ///
    /// # Errors
    /// When a row lies outside `x`.
    fn gather_norm(
        &mut self,
        step: &StepInput<'_>,
        x: &Self::Buffer,
        weight: &Self::Vector,
        params: NormParams,
        out: &mut Self::Buffer,
    ) -> Result<(), KernelError>;

    /// `logits = x W^T`, the output head.
    ///
    /// # Errors
    /// When shapes don't agree.
    fn head(&mut self, w: &Self::Linear, x: &Self::Buffer, logits: &mut Self::Logits) -> Result<(), KernelError>;

    /// `x = cap * tanh(x * multiplier / cap)`, or only the product where there is no cap.
    ///
    /// # Errors
    /// When the device fails.
    fn scale_and_softcap(
        &mut self,
        x: &mut Self::Logits,
        multiplier: f32,
        softcap: Option<f32>,
    ) -> Result<(), KernelError>;
}

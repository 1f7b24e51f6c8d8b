//! The CPU as a [`Backend`]: f32 activations in plain buffers, packed weights, keys and values in the arena.

use crate::activation::{GateActivation, gated_activation};
use crate::arena::KvArena;
use crate::attention::{Attention, AttentionScratch, attention};
use crate::backend::{AttentionLayer, Backend, NormParams, StepInput};
use crate::device::Cpu;
use crate::elementwise::{scale, softcap};
use crate::error::KernelError;
use crate::linear::{Linear, LinearScratch, MatrixView, linear};
use crate::norm::{RmsNorm, rms_norm, rms_norm_add, rms_norm_rows};
use crate::qkv_post::{QkNorm, QkvPost, qkv_post};
use crate::rope::{RopeRows, RopeTable};

/// A CPU with its KV arena and the scratch its kernels reuse.
#[derive(Debug)]
pub struct CpuBackend {
    cpu: Cpu,
    arena: KvArena,
    ropes: Vec<RopeTable>,
    /// Rotations of the step's rows, one entry a table.
    rope_rows: Vec<RopeRows>,
    linear_scratch: LinearScratch,
    attention_scratch: AttentionScratch,
}

impl CpuBackend {
    /// A backend over `arena`, which every layer's cache lies in.
    pub fn new(cpu: Cpu, arena: KvArena) -> Self {
        Self {
            cpu,
            arena,
            ropes: Vec::new(),
            rope_rows: Vec::new(),
            linear_scratch: LinearScratch::default(),
            attention_scratch: AttentionScratch::default(),
        }
    }

    /// Threads and instruction set.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// Keys and values.
    pub fn arena(&self) -> &KvArena {
        &self.arena
    }
}

fn norm(weight: &[f32], params: NormParams) -> RmsNorm<'_> {
    RmsNorm { weight, eps: params.eps, one_plus: params.one_plus }
}

impl Backend for CpuBackend {
    type Buffer = Vec<f32>;
    type Logits = Vec<f32>;
    type Vector = Vec<f32>;
    type Linear = Linear;

    fn linear_from(&mut self, parts: &[MatrixView<'_>], bias: Option<Vec<f32>>) -> Result<Linear, KernelError> {
        Linear::pack(&self.cpu, parts, bias)
    }

    fn vector_from(&mut self, data: Vec<f32>) -> Result<Vec<f32>, KernelError> {
        Ok(data)
    }

    fn linear_bytes(&self, linear: &Linear) -> usize {
        linear.bytes()
    }

    fn set_ropes(&mut self, ropes: Vec<RopeTable>) -> Result<(), KernelError> {
        self.rope_rows = vec![RopeRows::default(); ropes.len()];
        self.ropes = ropes;
        Ok(())
    }

    fn resize_logits(&mut self, logits: &mut Vec<f32>, len: usize) -> Result<(), KernelError> {
        self.resize(logits, len)
    }

    fn resize(&mut self, buffer: &mut Vec<f32>, len: usize) -> Result<(), KernelError> {
        if buffer.capacity() < len {
            // What it held is not needed: growing must not copy it.
            buffer.clear();
            let bytes = len.saturating_mul(size_of::<f32>());
            buffer.try_reserve_exact(len).map_err(|_| KernelError::OutOfMemory { what: "activations", bytes })?;
        }
        buffer.resize(len, 0.0);
        Ok(())
    }

    fn begin_step(&mut self, _: &StepInput<'_>) -> Result<(), KernelError> {
        Ok(())
    }

    fn prepare(&mut self, step: &StepInput<'_>) -> Result<(), KernelError> {
        for (table, rows) in self.ropes.iter().zip(&mut self.rope_rows) {
            table.rows(step.positions, rows);
        }
        Ok(())
    }

    fn embed(
        &mut self,
        step: &StepInput<'_>,
        table: &Linear,
        multiplier: f32,
        out: &mut Vec<f32>,
    ) -> Result<(), KernelError> {
        for (&token, row) in step.tokens.iter().zip(out.chunks_exact_mut(table.in_features())) {
            table.dequantize_row(token as usize, row)?;
        }
        if multiplier != 1.0 {
            scale(&self.cpu, multiplier, out);
        }
        Ok(())
    }

    fn rms_norm(
        &mut self,
        x: &Vec<f32>,
        weight: &Vec<f32>,
        params: NormParams,
        out: &mut Vec<f32>,
    ) -> Result<(), KernelError> {
        rms_norm(&self.cpu, norm(weight, params), x, out);
        Ok(())
    }

    fn rms_norm_add(
        &mut self,
        x: &Vec<f32>,
        weight: &Vec<f32>,
        params: NormParams,
        residual: &mut Vec<f32>,
    ) -> Result<(), KernelError> {
        rms_norm_add(&self.cpu, norm(weight, params), x, residual);
        Ok(())
    }

    fn linear(&mut self, w: &Linear, x: &Vec<f32>, y: &mut Vec<f32>, accumulate: bool) -> Result<(), KernelError> {
        linear(&self.cpu, w, x, y, accumulate, &mut self.linear_scratch)
    }

    fn qkv_post(
        &mut self,
        step: &StepInput<'_>,
        layer: &AttentionLayer<'_, Vec<f32>>,
        qkv: &mut Vec<f32>,
    ) -> Result<(), KernelError> {
        let AttentionLayer { shape, slot, rope, qk_norm, norm } = *layer;
        let norms = qk_norm.map(|(q, k)| QkNorm { q, k, eps: norm.eps, one_plus: norm.one_plus });
        let post = QkvPost { shape, norms, rope: rope.map(|table| &self.rope_rows[table]) };
        qkv_post(&self.cpu, post, qkv, &step.groups[slot.group], (&mut self.arena, slot));
        Ok(())
    }

    fn attention(
        &mut self,
        step: &StepInput<'_>,
        layer: &AttentionLayer<'_, Vec<f32>>,
        qkv: &Vec<f32>,
        out: &mut Vec<f32>,
    ) -> Result<(), KernelError> {
        let slot = layer.slot;
        let call = Attention { shape: layer.shape, spans: &step.groups[slot.group], arena: &self.arena, slot };
        attention(&self.cpu, call, qkv, out, &mut self.attention_scratch);
        Ok(())
    }

    fn gated_activation(
        &mut self,
        gate_up: &Vec<f32>,
        activation: GateActivation,
        width: usize,
        out: &mut Vec<f32>,
    ) -> Result<(), KernelError> {
        gated_activation(&self.cpu, activation, width, gate_up, out);
        Ok(())
    }

    fn gather_norm(
        &mut self,
        step: &StepInput<'_>,
        x: &Vec<f32>,
        weight: &Vec<f32>,
        params: NormParams,
        out: &mut Vec<f32>,
    ) -> Result<(), KernelError> {
        let len = x.len() / weight.len().max(1);
        if let Some(&row) = step.logit_rows.iter().find(|&&row| row as usize >= len) {
            return Err(KernelError::Index { what: "logit row", index: row as usize, len });
        }
        rms_norm_rows(&self.cpu, norm(weight, params), x, step.logit_rows, out);
        Ok(())
    }

    fn head(&mut self, w: &Linear, x: &Vec<f32>, logits: &mut Vec<f32>) -> Result<(), KernelError> {
        self.linear(w, x, logits, false)
    }

    fn scale_and_softcap(&mut self, x: &mut Vec<f32>, multiplier: f32, cap: Option<f32>) -> Result<(), KernelError> {
        if multiplier != 1.0 {
            scale(&self.cpu, multiplier, x);
        }
        if let Some(cap) = cap {
            softcap(&self.cpu, cap, x);
        }
        Ok(())
    }
}

//! The graph's operations, each a launch or a few.

use super::super::activation::Gated;
use super::super::attention::Attention;
use super::super::blocks::update_tables;
use super::super::device::{GpuDevice, GpuError};
use super::super::embed::Embed;
use super::super::gemv::GemvOutput;
use super::super::launch::DevicePtr;
use super::super::logits::scale_softcap;
use super::super::norm::NormTarget;
use super::super::product::{PACKED_ROWS, Product};
use super::super::qkv_post::{DeviceQkNorm, DeviceRope, QkvPost};
use super::super::rope::RopeRows;
use super::super::weights::{GpuBuffer, GpuLinear, GpuLogits, GpuVector, ROW_PAD, upload_linear, upload_vector};
use super::{GpuBackend, Rope};
use crate::activation::GateActivation;
use crate::backend::{AttentionLayer, Backend, NormParams, StepInput};
use crate::error::KernelError;
use crate::linear::MatrixView;
use crate::rope::RopeTable;

impl<D: GpuDevice> Backend for GpuBackend<D> {
    type Buffer = GpuBuffer;
    type Logits = GpuLogits;
    type Vector = GpuVector;
    type Linear = GpuLinear;

    fn linear_from(&mut self, parts: &[MatrixView<'_>], bias: Option<Vec<f32>>) -> Result<GpuLinear, KernelError> {
        upload_linear(&mut self.device, self.half, parts, bias.as_deref())
    }

    fn vector_from(&mut self, data: Vec<f32>) -> Result<GpuVector, KernelError> {
        upload_vector(&mut self.device, &data)
    }

    fn linear_bytes(&self, linear: &GpuLinear) -> usize {
        linear.bytes()
    }

    fn set_ropes(&mut self, ropes: Vec<RopeTable>) -> Result<(), KernelError> {
        self.ropes.clear();
        for table in ropes {
            let inv_freq = upload_vector(&mut self.device, &table.inv_freq)?.at;
            let rows = self.device.alloc(self.sizes.max_tokens * table.inv_freq.len() * 8, "rotations")?;
            self.ropes.push(Rope { table, inv_freq, rows });
        }
        Ok(())
    }

    fn resize(&mut self, buffer: &mut GpuBuffer, len: usize) -> Result<(), KernelError> {
        if buffer.capacity < len {
            (buffer.at, buffer.capacity) = (self.device.alloc(len * 2, "activations")?, len);
        }
        buffer.len = len;
        Ok(())
    }

    fn resize_logits(&mut self, logits: &mut GpuLogits, len: usize) -> Result<(), KernelError> {
        let padded = len + self.sizes.max_logit_rows * ROW_PAD;
        if logits.capacity < padded {
            (logits.at, logits.capacity) = (self.device.alloc(padded * 4, "logits")?, padded);
        }
        Ok(())
    }

    fn begin_step(&mut self, step: &StepInput<'_>) -> Result<(), KernelError> {
        self.find_updates(step)?;
        self.write_meta(step, None);
        Ok(self.device.upload(self.meta_at, self.meta.bytes())?)
    }

    fn prepare(&mut self, step: &StepInput<'_>) -> Result<(), KernelError> {
        let updates = self.at(self.meta.updates);
        let capacity = (self.meta.updates.len - 2) / 2;
        if capacity > 0 {
            self.device.launch(&update_tables(self.tables, updates.byte_add(8), updates, capacity))?;
        }
        let (positions, rows) = (self.at(self.meta.positions), step.positions.len());
        for Rope { table, inv_freq, rows: out } in &self.ropes {
            let launch = RopeRows { table, inv_freq: *inv_freq, positions, out: *out, rows }.launch();
            self.device.launch(&launch)?;
        }
        Ok(())
    }

    fn embed(
        &mut self,
        step: &StepInput<'_>,
        table: &GpuLinear,
        scale: f32,
        out: &mut GpuBuffer,
    ) -> Result<(), KernelError> {
        let [part] = table.parts[..] else {
            return Err(GpuError::Operand("an embedding of several parts".to_owned()).into());
        };
        let embed = Embed {
            table: part.at,
            packed: part.packed.map(|layout| layout.ty()),
            vocab: table.out_features,
            tokens: self.at(self.meta.tokens),
            row_slot: self.at(self.meta.row_slot),
            next_token: self.next_token,
            out: out.at,
            rows: step.tokens.len(),
            width: table.in_features,
            scale,
            half: self.half,
        };
        Ok(self.device.launch(&embed.launch())?)
    }

    fn rms_norm(
        &mut self,
        x: &GpuBuffer,
        weight: &GpuVector,
        params: NormParams,
        out: &mut GpuBuffer,
    ) -> Result<(), KernelError> {
        self.rms_norm_to(x, weight, params, (out.at, NormTarget::Rows, x.len / weight.len))
    }

    fn rms_norm_add(
        &mut self,
        x: &GpuBuffer,
        weight: &GpuVector,
        params: NormParams,
        residual: &mut GpuBuffer,
    ) -> Result<(), KernelError> {
        self.rms_norm_to(x, weight, params, (residual.at, NormTarget::Added, x.len / weight.len))
    }

    fn gather_norm(
        &mut self,
        step: &StepInput<'_>,
        x: &GpuBuffer,
        weight: &GpuVector,
        params: NormParams,
        out: &mut GpuBuffer,
    ) -> Result<(), KernelError> {
        let target = NormTarget::Gathered(self.at(self.meta.logit_rows));
        self.rms_norm_to(x, weight, params, (out.at, target, step.logit_rows.len()))
    }

    fn reserve_for<'a>(&mut self, linears: impl Iterator<Item = &'a GpuLinear>) -> Result<(), KernelError> {
        let expands = !self.sizes.deterministic && self.sizes.max_tokens > PACKED_ROWS;
        let expanded = linears.filter(|w| w.is_packed()).map(|w| w.out_features * w.in_features * 2).max().unwrap_or(0);
        if expands && expanded > self.products.workspace_bytes {
            self.products.workspace = self.device.alloc(expanded, "an expanded matrix")?;
            self.products.workspace_bytes = expanded;
        }
        Ok(())
    }

    fn norm_qkv(
        &mut self,
        step: &StepInput<'_>,
        layer: &AttentionLayer<'_, GpuVector>,
        x: &GpuBuffer,
        (weight, params): (&GpuVector, NormParams),
        (normed, qkv): (&mut GpuBuffer, &mut GpuBuffer),
        w: &GpuLinear,
    ) -> Result<(), KernelError> {
        let m = x.len / w.in_features;
        if !self.products.fuses(m) {
            self.rms_norm(x, weight, params, normed)?;
            self.linear(w, normed, qkv, false)?;
            return self.qkv_post(step, layer, qkv);
        }
        let heads = self.post(step, layer, qkv).heads();
        // A head's norm needs the whole head.
        let whole = layer.qk_norm.is_none() && self.products.fuses_heads(w, m, &heads);
        let output = if whole { GemvOutput::Heads(heads) } else { GemvOutput::Half };
        let norm = Some((weight.at, params));
        let product = Product { m, x: x.at, norm, y: qkv.at, stride: w.out_features, output };
        self.products.issue(&mut self.device, w, &product)?;
        if whole { Ok(()) } else { self.qkv_post(step, layer, qkv) }
    }

    fn norm_gated(
        &mut self,
        x: &GpuBuffer,
        (weight, params): (&GpuVector, NormParams),
        (normed, gate_up): (&mut GpuBuffer, &mut GpuBuffer),
        (w, activation): (&GpuLinear, GateActivation),
        out: &mut GpuBuffer,
        width: usize,
    ) -> Result<(), KernelError> {
        if !self.products.fuses_gate(w, x.len / w.in_features) {
            self.rms_norm(x, weight, params, normed)?;
            self.linear(w, normed, gate_up, false)?;
            return self.gated_activation(gate_up, activation, width, out);
        }
        let m = x.len / w.in_features;
        let (norm, output) = (Some((weight.at, params)), GemvOutput::Gated(activation));
        let product = Product { m, x: x.at, norm, y: out.at, stride: width, output };
        self.products.issue(&mut self.device, w, &product)
    }

    fn linear(&mut self, w: &GpuLinear, x: &GpuBuffer, y: &mut GpuBuffer, accumulate: bool) -> Result<(), KernelError> {
        let m = x.len / w.in_features;
        KernelError::check("product elements", m * w.out_features, y.len)?;
        let output = if accumulate { GemvOutput::Added } else { GemvOutput::Half };
        let product = Product { m, x: x.at, norm: None, y: y.at, stride: w.out_features, output };
        self.products.issue(&mut self.device, w, &product)
    }

    fn head(&mut self, w: &GpuLinear, x: &GpuBuffer, logits: &mut GpuLogits) -> Result<(), KernelError> {
        (logits.rows, logits.stride) = (x.len / w.in_features, w.padded_rows());
        KernelError::check("room for logits", 0, (logits.rows * logits.stride).saturating_sub(logits.capacity))?;
        let (m, stride) = (logits.rows, logits.stride);
        let product = Product { m, x: x.at, norm: None, y: logits.at, stride, output: GemvOutput::F32 };
        self.products.issue(&mut self.device, w, &product)
    }

    fn qkv_post(
        &mut self,
        step: &StepInput<'_>,
        layer: &AttentionLayer<'_, GpuVector>,
        qkv: &mut GpuBuffer,
    ) -> Result<(), KernelError> {
        let launch = self.post(step, layer, qkv).launch();
        Ok(self.device.launch(&launch)?)
    }

    fn attention(
        &mut self,
        _step: &StepInput<'_>,
        layer: &AttentionLayer<'_, GpuVector>,
        qkv: &GpuBuffer,
        out: &mut GpuBuffer,
    ) -> Result<(), KernelError> {
        let group = layer.slot.group;
        let attention = Attention {
            shape: layer.shape,
            tiles: &self.groups[group].tiles,
            arena: self.groups[group].map.as_ref(),
            cache: self.cache(layer),
            qkv: qkv.at,
            out: out.at,
            work: self.at(self.meta.work[group]),
            partials: self.partials,
            tickets: self.tickets,
            sinks: DevicePtr::NULL,
            half: self.half,
        };
        let launch = attention.launch();
        Ok(self.device.launch(&launch)?)
    }

    fn gated_activation(
        &mut self,
        gate_up: &GpuBuffer,
        activation: GateActivation,
        width: usize,
        out: &mut GpuBuffer,
    ) -> Result<(), KernelError> {
        let rows = gate_up.len / (2 * width);
        let gated = Gated { gate_up: gate_up.at, out: out.at, rows, width, activation, half: self.half };
        Ok(self.device.launch(&gated.launch())?)
    }

    fn scale_and_softcap(&mut self, x: &mut GpuLogits, multiplier: f32, cap: Option<f32>) -> Result<(), KernelError> {
        if multiplier == 1.0 && cap.is_none() {
            return Ok(());
        }
        Ok(self.device.launch(&scale_softcap(x.at, x.rows * x.stride, multiplier, cap))?)
    }
}

impl<D: GpuDevice> GpuBackend<D> {
    /// What is done with the rows of `q | k | v`.
    fn post<'a>(&'a self, step: &StepInput<'_>, layer: &AttentionLayer<'a, GpuVector>, qkv: &GpuBuffer) -> QkvPost<'a> {
        let rope = layer.rope.map(|index| {
            let Rope { table, rows, .. } = &self.ropes[index];
            DeviceRope { rows: *rows, pairs: table.inv_freq.len(), interleaved: table.interleaved }
        });
        let norms = layer.qk_norm.map(|(q, k)| DeviceQkNorm { q: q.at, k: k.at, params: layer.norm });
        QkvPost {
            shape: layer.shape,
            cache: self.cache(layer),
            qkv: qkv.at,
            positions: self.at(self.meta.positions),
            row_slot: self.at(self.meta.row_slot),
            norms,
            rope,
            rows: step.tokens.len(),
            half: self.half,
        }
    }
}

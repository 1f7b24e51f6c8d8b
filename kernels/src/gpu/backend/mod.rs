//! A GPU as a [`Backend`](crate::backend::Backend): the model's graph becomes launches and products on a [`GpuDevice`].
//!
//! All memory is taken before the first step; a step uploads its metadata once and then only launches. What a step needs
//! to be told is here, the operations are in `ops`.

mod ops;

use super::attention::{AttentionKernel, AttentionTiles, DeviceLimits, LayerCache};
use super::attention_sm90a::{self, ArenaMap};
use super::blocks::update_tables;
use super::device::{GpuDevice, GpuError};
use super::launch::{DevicePtr, HalfType};
use super::norm::{NormTarget, RmsNorm};
use super::product::Products;
use super::step::{Section, StepMeta, TableMirror, slot_of};
use super::weights::{GpuBuffer, GpuVector};
use super::work_list::{SplitPolicy, WorkPlanner, WorkSpan};
use crate::attention::AttentionShape;
use crate::backend::{AttentionLayer, NormParams, StepInput};
use crate::error::KernelError;
use crate::kv::{ArenaGeometry, BLOCK_SIZE, KvDtype};
use crate::rope::RopeTable;

/// Tokens of a split in deterministic mode.
const FIXED_SPLIT: usize = 1024;

/// What a GPU engine is built for; every size is a bound that no step passes.
#[derive(Clone, Debug)]
pub struct GpuSizes {
    /// Rows of a step.
    pub max_tokens: usize,
    /// Sequences that hold a slot.
    pub max_seqs: usize,
    /// Rows of a step whose logits are wanted.
    pub max_logit_rows: usize,
    /// Tokens of a sequence.
    pub max_model_len: usize,
    /// Superpages of the KV arena.
    pub num_superpages: usize,
    /// Bytes that the runner adds to a step's metadata.
    pub extra_bytes: usize,
    /// A row's bits depend on that row alone.
    pub deterministic: bool,
    /// The family of attention kernels.
    pub attention: AttentionKernel,
}

/// One cache group on the device.
#[derive(Debug)]
struct Group {
    tiles: AttentionTiles,
    planner: WorkPlanner,
    /// The arena as tensor copies see it, where the kernel makes such.
    map: Option<ArenaMap>,
}

/// One rope table on the device.
#[derive(Debug)]
struct Rope {
    table: RopeTable,
    inv_freq: DevicePtr,
    /// Rotations of the step's rows.
    rows: DevicePtr,
}

/// A GPU with its KV arena, block tables and the step under way.
pub struct GpuBackend<D: GpuDevice> {
    device: D,
    half: HalfType,
    products: Products,
    sizes: GpuSizes,
    geometry: ArenaGeometry,
    arena: DevicePtr,
    groups: Vec<Group>,
    ropes: Vec<Rope>,
    mirror: TableMirror,
    tables: DevicePtr,
    next_token: DevicePtr,
    partials: DevicePtr,
    tickets: DevicePtr,
    meta: StepMeta,
    meta_at: DevicePtr,
    meta_capacity: usize,
    extra: Vec<u32>,
    updates: Vec<u32>,
    spans: Vec<WorkSpan>,
}

impl<D: GpuDevice> GpuBackend<D> {
    /// Takes the memory of the KV cache, the block tables and the attention workspace. `shapes` has the attention of each
    /// cache group's layers.
    ///
    /// # Errors
    /// When a group has no kernel, or memory runs out.
    pub fn new(
        mut device: D,
        half: HalfType,
        geometry: ArenaGeometry,
        shapes: &[AttentionShape],
        sizes: GpuSizes,
    ) -> Result<Self, GpuError> {
        let splits =
            if sizes.deterministic { SplitPolicy::Fixed { tokens: FIXED_SPLIT } } else { SplitPolicy::Adaptive };
        let mut groups = Vec::with_capacity(shapes.len());
        for (shape, group) in shapes.iter().zip(&geometry.groups) {
            let fp8 = group.spec.dtype == KvDtype::E4m3;
            let tiles = match sizes.attention {
                AttentionKernel::Mma => AttentionTiles::new(shape, fp8, DeviceLimits::from(device.info()))
                    .ok_or_else(|| no_kernel(shape))?,
                AttentionKernel::Wgmma => attention_sm90a::tiles_on(shape, fp8, &device)?,
            };
            groups.push(Group { tiles, planner: WorkPlanner::new(tiles.work_shape(shape, splits)), map: None });
        }
        let max_blocks = sizes.max_model_len.div_ceil(BLOCK_SIZE);
        let mirror = TableMirror::new(groups.len(), sizes.max_seqs, max_blocks);
        let arena_bytes = sizes.num_superpages * geometry.superpage_bytes;
        let arena = device.alloc(arena_bytes, "the KV cache")?;
        if sizes.attention == AttentionKernel::Wgmma {
            for (index, group) in groups.iter_mut().enumerate() {
                group.map = Some(ArenaMap::new(&mut device, &geometry, index, half, (arena, arena_bytes))?);
            }
        }
        let tables = device.alloc(mirror.bytes(), "block tables")?;
        let next_token = device.alloc(sizes.max_seqs * 4, "sampled tokens")?;
        device.fill(next_token, 0, sizes.max_seqs * 4)?;
        let workspaces = || groups.iter().zip(shapes).map(|(group, shape)| group.tiles.workspace(shape.num_kv_heads));
        let (partials, tickets) = workspaces().fold((0, 0), |(p, t), w| (p.max(w.partials), t.max(w.tickets)));
        let partials = device.alloc(partials * 4, "attention's partial results")?;
        let tickets_at = device.alloc(tickets * 4, "attention's tickets")?;
        device.fill(tickets_at, 0, tickets * 4)?;
        let meta_capacity = meta_bytes(&sizes, &groups, max_blocks);
        let meta_at = device.alloc(meta_capacity, "step metadata")?;
        Ok(Self {
            device,
            half,
            products: Products {
                half,
                deterministic: sizes.deterministic,
                tuning: false,
                workspace: DevicePtr::NULL,
                workspace_bytes: 0,
            },
            sizes,
            geometry,
            arena,
            groups,
            ropes: Vec::new(),
            mirror,
            tables,
            next_token,
            partials,
            tickets: tickets_at,
            meta: StepMeta::default(),
            meta_at,
            meta_capacity,
            extra: Vec::new(),
            updates: Vec::new(),
            spans: Vec::new(),
        })
    }

    /// The device, for what a runner does beside the graph.
    pub fn device(&mut self) -> &mut D {
        &mut self.device
    }

    /// Type of activations and dense weights.
    pub fn half(&self) -> HalfType {
        self.half
    }

    /// While this is on, every product of a step first looks for its fastest algorithm; what the step computes is then of
    /// no use.
    pub fn set_tuning(&mut self, tuning: bool) {
        self.products.tuning = tuning;
    }

    /// Bytes that one step's metadata may have.
    pub fn meta_capacity(&self) -> usize {
        self.meta_capacity
    }

    /// Bytes of the KV arena.
    pub fn arena_bytes(&self) -> usize {
        self.sizes.num_superpages * self.geometry.superpage_bytes
    }

    /// `[slots]` u32: the token sampled last for each slot.
    pub fn next_token(&self) -> DevicePtr {
        self.next_token
    }

    /// Sends words ahead of a step; they lie at the address until the next step begins.
    ///
    /// # Errors
    /// When the device fails.
    pub fn send_words(&mut self, words: &[u32]) -> Result<DevicePtr, KernelError> {
        self.meta.clear();
        self.meta.push(words.iter().copied());
        self.device.upload(self.meta_at, self.meta.bytes())?;
        Ok(self.meta_at)
    }

    /// Words that travel with the metadata of the next step.
    pub fn extra_mut(&mut self) -> &mut Vec<u32> {
        &mut self.extra
    }

    /// Where these words lie once that step has begun.
    pub fn extra_at(&self) -> DevicePtr {
        self.meta.extra.address(self.meta_at)
    }

    fn at(&self, section: Section) -> DevicePtr {
        section.address(self.meta_at)
    }

    fn group_tables(&self, group: usize) -> DevicePtr {
        self.tables.byte_add(self.mirror.group_start(group) * 4)
    }

    fn cache(&self, layer: &AttentionLayer<'_, GpuVector>) -> LayerCache<'_> {
        LayerCache {
            arena: self.arena,
            geometry: &self.geometry.groups[layer.slot.group],
            layer: layer.slot.index,
            tables: self.group_tables(layer.slot.group),
            max_blocks: self.mirror.max_blocks(),
        }
    }

    /// Sends table entries beyond what a step's metadata has room for: many sequences came back with long tables.
    fn send_surplus_updates(&mut self) -> Result<(), KernelError> {
        let room = 2 * max_updates(&self.sizes, self.groups.len(), self.mirror.max_blocks());
        while self.updates.len() > room {
            let piece = self.updates.split_off(self.updates.len() - room.min(self.updates.len() - room));
            self.send_updates(&piece)?;
        }
        Ok(())
    }

    /// Sends (index, value) pairs by themselves, in front of a step.
    fn send_updates(&mut self, pairs: &[u32]) -> Result<(), KernelError> {
        self.meta.clear();
        self.meta.push([pairs.len() as u32 / 2, 0].into_iter().chain(pairs.iter().copied()));
        self.device.upload(self.meta_at, self.meta.bytes())?;
        let entries = self.meta_at.byte_add(8);
        Ok(self.device.launch(&update_tables(self.tables, entries, self.meta_at, pairs.len() / 2))?)
    }

    /// The entries of the block tables that this step changes.
    fn find_updates(&mut self, step: &StepInput<'_>) -> Result<(), KernelError> {
        self.mirror.changes(step, &self.geometry, &mut self.updates);
        self.send_surplus_updates()
    }

    /// As `begin_step`, with every section where it lies in any step of as many rows, so that a captured graph finds it.
    ///
    /// # Errors
    /// When the device fails.
    pub fn begin_fixed_step(&mut self, step: &StepInput<'_>) -> Result<(), KernelError> {
        self.find_updates(step)?;
        let rows = step.tokens.len();
        // A row begins at most one block in each group. What comes beside that, a sequence's first table, goes ahead.
        let room = 2 * rows * self.groups.len();
        if self.updates.len() > room {
            let updates = std::mem::take(&mut self.updates);
            self.send_updates(&updates)?;
        }
        self.write_meta(step, Some(rows));
        Ok(self.device.upload(self.meta_at, self.meta.bytes())?)
    }

    /// Plans the work lists and writes all of the step's metadata; with `fixed` rows, sections have the length that the
    /// largest step of so many rows needs.
    fn write_meta(&mut self, step: &StepInput<'_>, fixed: Option<usize>) {
        self.meta.begin(step);
        let count = self.updates.len() as u32 / 2;
        // The count, padded to a pair's alignment, then the pairs.
        let updates = self.meta.push([count, 0].into_iter().chain(self.updates.iter().copied()));
        self.meta.updates = match fixed {
            Some(rows) => self.meta.pad(updates, 2 + 2 * rows * self.groups.len()),
            None => updates,
        };
        for (group, spans) in self.groups.iter_mut().zip(step.groups) {
            self.spans.clear();
            self.spans.extend(spans.iter().enumerate().map(|(index, span)| WorkSpan {
                slot: slot_of(step, index),
                first_row: span.first_row as u32,
                num_rows: span.num_rows as u32,
                start: span.start as u32,
            }));
            let section = self.meta.push(group.planner.plan(&self.spans).iter().copied());
            let shape = group.planner.shape();
            let section = match fixed {
                Some(rows) => self.meta.pad(section, shape.max_words(rows, rows)),
                None => section,
            };
            self.meta.work.push(section);
        }
        self.meta.extra = self.meta.push(self.extra.drain(..));
    }

    fn rms_norm_to(
        &mut self,
        x: &GpuBuffer,
        weight: &GpuVector,
        params: NormParams,
        (out, target, rows): (DevicePtr, NormTarget, usize),
    ) -> Result<(), KernelError> {
        let norm =
            RmsNorm { x: x.at, weight: weight.at, out, target, rows, width: weight.len, params, half: self.half };
        Ok(self.device.launch(&norm.launch())?)
    }
}

/// Metadata of the largest step.
fn meta_bytes(sizes: &GpuSizes, groups: &[Group], max_blocks: usize) -> usize {
    let updates = 2 * max_updates(sizes, groups.len(), max_blocks);
    let work: usize = groups.iter().map(|g| g.planner.shape().max_words(sizes.max_seqs, sizes.max_tokens)).sum();
    let words = 3 * sizes.max_tokens + sizes.max_logit_rows + updates + 2 + work;
    (words + 4 * (groups.len() + 8)) * 4 + sizes.extra_bytes
}

/// Table entries that travel with a step's metadata: what its rows fill, and some sequences that come with a long table.
fn max_updates(sizes: &GpuSizes, num_groups: usize, max_blocks: usize) -> usize {
    num_groups * (sizes.max_tokens / BLOCK_SIZE + 2 * sizes.max_seqs + 8 * max_blocks)
}

fn no_kernel(shape: &AttentionShape) -> GpuError {
    GpuError::Unusable(format!(
        "no attention kernel for heads of {} (keys) and {} (values) on this card; use --device cpu",
        shape.head_dim_k, shape.head_dim_v
    ))
}

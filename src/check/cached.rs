//! Rates of the kernels that read or write the KV cache.

use sconce_kernels::attention::AttentionShape;
use sconce_kernels::gpu::attention::{Attention, AttentionKernel, AttentionTiles, DeviceLimits, LayerCache};
use sconce_kernels::gpu::attention_sm90a::{self, ArenaMap};
use sconce_kernels::gpu::device::GpuDevice;
use sconce_kernels::gpu::launch::{DevicePtr, HalfType};
use sconce_kernels::gpu::qkv_post::{DeviceRope, QkvPost};
use sconce_kernels::gpu::verify::attention::shape;
use sconce_kernels::gpu::work_list::{SplitPolicy, WorkPlanner, WorkSpan};
use sconce_kernels::kv::{ArenaGeometry, BLOCK_SIZE, CacheGroup, CacheSpec, KvDtype, REGION_ALIGN};

use super::lists::step_rows;
use super::rates::{Bench, Issue, Rates, Work};
use super::report::Reason;

/// Bytes of caches that launches take in turn: more than any L2 cache has.
const TURN_BYTES: usize = 256 << 20;

/// Sequences in a cache, all alike.
struct Cached {
    shape: AttentionShape,
    geometry: ArenaGeometry,
    /// Address and bytes.
    arena: (DevicePtr, usize),
    tables: DevicePtr,
    max_blocks: usize,
    layers: usize,
    batch: usize,
    /// Tokens in the cache in front of those of the step.
    context: usize,
    /// Tokens of each sequence in the step.
    tokens: usize,
}

impl Cached {
    fn new<D: GpuDevice>(bench: &mut Bench<D>, batch: usize, context: usize, tokens: usize) -> Result<Self, Reason> {
        let (heads, kv_heads, dim) = bench.sizes.heads;
        let shape = shape((heads, kv_heads), dim);
        let spec = CacheSpec {
            kind: shape.kind,
            num_kv_heads: kv_heads,
            head_dim_k: dim,
            head_dim_v: dim,
            dtype: KvDtype::Bf16,
        };
        let max_blocks = (context + tokens).div_ceil(BLOCK_SIZE);
        let one = batch * max_blocks * BLOCK_SIZE * spec.bytes_per_token();
        let layers = TURN_BYTES.min(bench.sizes.region).div_ceil(one).clamp(1, bench.sizes.launches);
        let geometry = ArenaGeometry::new(&[CacheGroup { spec, layers: (0..layers).collect() }]);
        let offset = |block: usize| geometry.block_offset(0, block as u32);
        let entries: Vec<u32> = (0..batch * max_blocks).map(|block| (offset(block) / REGION_ALIGN) as u32).collect();
        let bytes = offset(batch * max_blocks - 1) + geometry.groups[0].block_bytes;
        let arena = (bench.random(bytes)?, bytes);
        let tables = bench.put(&entries)?;
        Ok(Self { shape, geometry, arena, tables, max_blocks, layers, batch, context, tokens })
    }

    fn layer(&self, index: usize) -> LayerCache<'_> {
        LayerCache {
            arena: self.arena.0,
            geometry: &self.geometry.groups[0],
            layer: index % self.layers,
            tables: self.tables,
            max_blocks: self.max_blocks,
        }
    }

    /// The cache as tensor copies see it.
    fn map<D: GpuDevice>(&self, bench: &mut Bench<D>) -> Result<ArenaMap, Reason> {
        Ok(ArenaMap::new(bench.bed.device(), &self.geometry, 0, HalfType::Bf16, self.arena)?)
    }

    fn rows(&self) -> usize {
        self.batch * self.tokens
    }

    fn spans(&self) -> Vec<WorkSpan> {
        let span = |slot: usize| WorkSpan {
            slot: slot as u32,
            first_row: (slot * self.tokens) as u32,
            num_rows: self.tokens as u32,
            start: self.context as u32,
        };
        (0..self.batch).map(span).collect()
    }
}

/// Both families of kernels where the card has both.
pub(super) fn attention<D: GpuDevice>(rates: &mut Rates<'_, '_, D>) {
    let sizes = rates.bench.sizes.clone();
    for family in [AttentionKernel::Mma, AttentionKernel::Wgmma] {
        let has_it = rates.bench.tiles(family).is_ok();
        if family == AttentionKernel::Wgmma && !has_it {
            continue;
        }
        let name = match family {
            AttentionKernel::Mma => "attention",
            AttentionKernel::Wgmma => "attention with wgmma",
        };
        for (&context, &batch) in sizes.contexts.iter().flat_map(|c| sizes.batches.iter().map(move |b| (c, b))) {
            let name = format!("{name}, decode, batch {batch}, context {context}");
            attention_line(rates, &name, family, (batch, context - 1, 1));
        }
        attention_line(rates, &format!("{name}, prefill of {}", sizes.prompt), family, (1, 0, sizes.prompt));
    }
}

impl<D: GpuDevice> Bench<D> {
    fn tiles(&mut self, family: AttentionKernel) -> Result<AttentionTiles, Reason> {
        let (heads, kv_heads, dim) = self.sizes.heads;
        let shape = shape((heads, kv_heads), dim);
        match family {
            AttentionKernel::Mma => {
                let limits = DeviceLimits::from(self.bed.device().info());
                Ok(AttentionTiles::new(&shape, false, limits).ok_or("no kernel")?)
            }
            AttentionKernel::Wgmma => Ok(attention_sm90a::tiles_on(&shape, false, self.bed.device())?),
        }
    }
}

fn attention_line<D: GpuDevice>(
    rates: &mut Rates<'_, '_, D>,
    name: &str,
    family: AttentionKernel,
    (batch, context, tokens): (usize, usize, usize),
) {
    let (heads, kv_heads, dim) = rates.bench.sizes.heads;
    let kv = 4 * batch * (context + tokens) * kv_heads * dim;
    let pairs = batch * (tokens * context + tokens * (tokens + 1) / 2);
    let work = Work { bytes: kv + 4 * batch * tokens * heads * dim, flops: 4.0 * (pairs * heads * dim) as f64 };
    rates.line(name, work, |bench| {
        let cached = Cached::new(bench, batch, context, tokens)?;
        let tiles = bench.tiles(family)?;
        let map = match family {
            AttentionKernel::Mma => None,
            AttentionKernel::Wgmma => Some(cached.map(bench)?),
        };
        let mut planner = WorkPlanner::new(tiles.work_shape(&cached.shape, SplitPolicy::Adaptive));
        let work = bench.put(planner.plan(&cached.spans()))?;
        let workspace = tiles.workspace(kv_heads);
        let (partials, tickets) = (bench.out(4 * workspace.partials)?, bench.put(&vec![0u32; workspace.tickets])?);
        let qkv = bench.parts(2 * cached.rows() * cached.shape.qkv_width())?;
        let out = bench.out(2 * cached.rows() * cached.shape.out_width())?;
        Ok(Box::new(move |index| {
            let attention = Attention {
                shape: &cached.shape,
                tiles: &tiles,
                cache: cached.layer(index),
                qkv: qkv(index),
                arena: map.as_ref(),
                out,
                work,
                partials,
                tickets,
                sinks: DevicePtr::NULL,
                half: HalfType::Bf16,
            };
            Issue::from(attention.launch())
        }))
    });
}

pub(super) fn qkv_post<D: GpuDevice>(rates: &mut Rates<'_, '_, D>) {
    let (heads, kv_heads, dim) = rates.bench.sizes.heads;
    for rows in step_rows(&rates.bench.sizes.clone()) {
        // Rows are read; queries are written where they are, keys and values to the cache; rotations are read.
        let work = Work::bytes(rows * dim * (4 * heads + 8 * kv_heads + 4));
        rates.line(&format!("qkv_post, {rows} rows"), work, |bench| {
            let cached = Cached::new(bench, 1, 0, rows)?;
            let positions: Vec<u32> = (0..rows as u32).collect();
            let (positions, row_slot) = (bench.put(&positions)?, bench.put(&vec![0i32; rows])?);
            let pairs = dim / 2;
            let rope =
                Some(DeviceRope { rows: bench.put(&vec![0.7f32; 2 * rows * pairs])?, pairs, interleaved: false });
            let qkv = bench.parts(2 * rows * cached.shape.qkv_width())?;
            Ok(Box::new(move |index| {
                let (shape, cache, norms) = (&cached.shape, cached.layer(index), None);
                let (qkv, half) = (qkv(index), HalfType::Bf16);
                Issue::from(QkvPost { shape, cache, qkv, positions, row_slot, norms, rope, rows, half }.launch())
            }))
        });
    }
}

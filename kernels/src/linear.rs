//! Linear layers on the CPU: weight matrices stacked along their outputs, packed once, multiplied many times.
//!
//! `y[rows, out] = x[rows, in] W^T + bias`. Block-quantised weights stay as small as in the file. With
//! `Precision::Int8` the activations are rounded to 8 bits a block of 32 and dot products are integer; with
//! `Precision::F32` tiles are dequantised as they are used. Dense weights are always multiplied in f32.
//! (`packed` has the errors.) A row's result is bit-identical whatever the other rows, the tiling and the number of threads.

use std::ops::Range;

use crate::device::{Cpu, Isa, Precision};
use crate::dtype::WeightType;
use crate::error::KernelError;
use crate::packed::activation::{self, ActBlock};
use crate::packed::buffer::Buffer;
use crate::packed::kernel::{self, Args, Set, Sink};
use crate::packed::layout::{Geometry, TILE};
use crate::packed::pack;
use crate::pool::DisjointMut;

/// A weight matrix as its file has it: `rows x cols` = outputs x inputs, row-major, little-endian, no padding.
#[derive(Clone, Copy, Debug)]
pub struct MatrixView<'a> {
    /// Storage type.
    pub ty: WeightType,
    /// `rows * ty.row_bytes(cols)` bytes.
    pub data: &'a [u8],
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
}

/// One packed matrix inside the buffer of a `Linear`.
#[derive(Debug)]
struct Part {
    ty: WeightType,
    rows: usize,
    geometry: Geometry,
    /// Byte at which its tiles begin.
    at: usize,
    /// Output at which its rows begin.
    first_output: usize,
}

impl Part {
    fn tile<'a>(&self, buffer: &'a Buffer, tile: usize) -> &'a [u8] {
        &buffer.bytes()[self.at + tile * self.geometry.tile_bytes..][..self.geometry.tile_bytes]
    }
}

/// Packed weights of one linear layer: matrices of the same number of inputs, stacked along their outputs.
#[derive(Debug)]
pub struct Linear {
    parts: Vec<Part>,
    buffer: Buffer,
    bias: Option<Vec<f32>>,
    outputs: usize,
    inputs: usize,
}

impl Linear {
    /// Packs `parts` (q, k and v, or gate and up; types may differ) on the threads of `cpu`, straight from the bytes
    /// of the file. Allocates `packed_bytes` and a few kilobytes a thread.
    ///
    /// # Errors
    /// No parts, different numbers of inputs, a part that is empty or whose bytes don't fit its shape, a bias of
    /// another length than the outputs, no memory.
    pub fn pack(cpu: &Cpu, parts: &[MatrixView], bias: Option<Vec<f32>>) -> Result<Self, KernelError> {
        let inputs = parts.first().map_or(0, |p| p.cols);
        let mut placed = Vec::with_capacity(parts.len());
        let (mut bytes, mut outputs) = (0usize, 0usize);
        for view in parts {
            KernelError::check("input features of a stacked part", inputs, view.cols)?;
            let (geometry, size) = part_size(view.ty, view.rows, view.cols)?;
            let shape = KernelError::Shape { ty: view.ty, rows: view.rows, cols: view.cols };
            let expected = view.ty.row_bytes(view.cols).and_then(|b| b.checked_mul(view.rows)).ok_or(shape)?;
            KernelError::check("bytes of a weight matrix", expected, view.data.len())?;
            placed.push(Part { ty: view.ty, rows: view.rows, geometry, at: bytes, first_output: outputs });
            // Both sums are below twice the bytes of the views, which exist in memory.
            bytes += size;
            outputs += view.rows;
        }
        if parts.is_empty() {
            return Err(KernelError::Size { what: "parts of a linear layer", expected: 1, actual: 0 });
        }
        if let Some(bias) = &bias {
            KernelError::check("bias elements", outputs, bias.len())?;
        }
        let mut buffer = Buffer::zeroed(bytes)?;
        for (part, view) in placed.iter().zip(parts) {
            pack_part(cpu, part, view, &mut buffer);
        }
        Ok(Self { parts: placed, buffer, bias, outputs, inputs })
    }

    /// What `pack` would allocate for parts of (type, rows, cols); parts that `pack` would refuse count nothing.
    pub fn packed_bytes(parts: &[(WeightType, usize, usize)]) -> usize {
        let sizes = parts.iter().filter_map(|&(ty, rows, cols)| part_size(ty, rows, cols).ok());
        sizes.fold(0, |sum, (_, bytes)| sum.saturating_add(bytes))
    }

    /// Output features of all parts.
    pub fn out_features(&self) -> usize {
        self.outputs
    }

    /// Input features.
    pub fn in_features(&self) -> usize {
        self.inputs
    }

    /// Bytes held: packed weights and bias.
    pub fn bytes(&self) -> usize {
        self.buffer.bytes().len() + self.bias.as_ref().map_or(0, |b| b.len() * size_of::<f32>())
    }

    /// Writes the weights of output `row` (an embedding, where they are tied) to `out[in_features]`, exactly as
    /// `dequantize` gives them.
    ///
    /// # Errors
    /// `row` is past the outputs or `out` has another length than the inputs.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) -> Result<(), KernelError> {
        KernelError::check("elements of a weight row", self.inputs, out.len())?;
        let out_of_range = KernelError::Index { what: "weight row", index: row, len: self.outputs };
        let part = self.parts.iter().rfind(|p| p.first_output <= row).ok_or(out_of_range.clone())?;
        let row = row - part.first_output;
        if row >= part.rows {
            return Err(out_of_range);
        }
        let tile = part.tile(&self.buffer, row / TILE);
        pack::dequantize_row(part.ty, &part.geometry, tile, row % TILE, out);
        Ok(())
    }
}

fn part_size(ty: WeightType, rows: usize, cols: usize) -> Result<(Geometry, usize), KernelError> {
    if rows == 0 || cols == 0 {
        return Err(KernelError::Shape { ty, rows, cols });
    }
    if !cols.is_multiple_of(ty.block_len()) {
        return Err(KernelError::RowLength { ty, cols });
    }
    let geometry = Geometry::new(ty, rows, cols).ok_or(KernelError::Shape { ty, rows, cols })?;
    let bytes = geometry.bytes().ok_or(KernelError::Shape { ty, rows, cols })?;
    Ok((geometry, bytes))
}

fn pack_part(cpu: &Cpu, part: &Part, view: &MatrixView, buffer: &mut Buffer) {
    let row_bytes = view.data.len() / view.rows;
    let size = part.geometry.tile_bytes;
    let start = part.at;
    let target = DisjointMut::new(buffer.bytes_mut());
    cpu.pool.run(part.geometry.tiles, &|tile| {
        let first = tile * TILE;
        let mut rows: [&[u8]; TILE] = [&[]; TILE];
        let count = TILE.min(part.rows - first);
        for (r, row) in rows[..count].iter_mut().enumerate() {
            *row = &view.data[(first + r) * row_bytes..][..row_bytes];
        }
        // SAFETY: tiles don't overlap, and each is packed once.
        let out = unsafe { target.slice(start + tile * size, size) };
        pack::pack_tile(part.ty, &part.geometry, &rows[..count], out);
    });
}

/// Buffers that `linear` reuses; they grow to the largest product and stay.
#[derive(Debug, Default)]
pub struct LinearScratch {
    q: Vec<i8>,
    blocks: Vec<ActBlock>,
}

impl LinearScratch {
    /// Empty buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.q.capacity() + self.blocks.capacity() * size_of::<ActBlock>()
    }

    /// Rounds `x` (rows of `cols`, a multiple of 32) to 8 bits.
    fn quantize(&mut self, cpu: &Cpu, x: &[f32], cols: usize) {
        if self.q.len() < x.len() {
            self.q.resize(x.len(), 0);
            self.blocks.resize(x.len() / 32, ActBlock::default());
        }
        // Few values aren't worth waking threads for.
        const PER_TASK: usize = 32 * 1024;
        let rows = x.len() / cols;
        let rows_per_task = (PER_TASK / cols).max(1);
        let (q, blocks) = (DisjointMut::new(&mut self.q), DisjointMut::new(&mut self.blocks));
        let task = |i: usize| {
            let start = i * rows_per_task * cols;
            let len = (rows_per_task * cols).min(x.len() - start);
            // SAFETY: tasks cut x, and with it both buffers, into disjoint ranges.
            let (q, blocks) = unsafe { (q.slice(start, len), blocks.slice(start / 32, len / 32)) };
            activation::quantize_on(cpu.isa.min(Isa::detect()), &x[start..start + len], q, blocks);
        };
        match rows.div_ceil(rows_per_task) {
            1 => task(0),
            tasks => cpu.pool.run(tasks, &task),
        }
    }
}

/// y[rows, out] = x[rows, in] W^T, plus the bias if there is one, plus y if `accumulate`.
///
/// # Errors
/// `x` isn't a whole number of rows, or `y` hasn't as many.
pub fn linear(
    cpu: &Cpu,
    w: &Linear,
    x: &[f32],
    y: &mut [f32],
    accumulate: bool,
    scratch: &mut LinearScratch,
) -> Result<(), KernelError> {
    let rows = x.len() / w.inputs;
    KernelError::check("x elements", rows * w.inputs, x.len())?;
    KernelError::check("y elements", rows * w.outputs, y.len())?;
    if rows == 0 {
        return Ok(());
    }
    let int8 = cpu.precision == Precision::Int8 && w.parts.iter().any(|p| !p.ty.is_dense());
    if int8 {
        scratch.quantize(cpu, x, w.inputs);
    }
    let product =
        Product { w, x, scratch, y: Results(y.as_mut_ptr()), accumulate, int8, isa: cpu.isa.min(Isa::detect()) };
    let plan = Plan::new(w, rows, cpu.pool.threads(), int8);
    cpu.pool.run(plan.tasks(), &|task| product.task(&plan, task));
    Ok(())
}

/// How a product is cut into tasks: blocks of rows by chunks of tiles.
struct Plan {
    rows: usize,
    /// Rows of a task.
    row_block: usize,
    /// Tiles of a task.
    chunk: usize,
    /// Chunks of all parts.
    chunks: usize,
}

impl Plan {
    fn new(w: &Linear, rows: usize, threads: usize, int8: bool) -> Self {
        // Activations of a block of rows stay in half of a small L2 while weights stream past.
        const ACTIVATION_BYTES: usize = 256 * 1024;
        // Quantised rows in f32 precision are worth a long block: each pays the tile's dequantisation again.
        let row_bytes = if int8 { w.inputs * 3 / 2 } else { w.inputs };
        let row_block = (ACTIVATION_BYTES / row_bytes / 8 * 8).clamp(32, 512);
        let tiles: usize = w.parts.iter().map(|p| p.geometry.tiles).sum();
        let chunk = (tiles / (threads * 6)).next_multiple_of(4).clamp(4, 64);
        let chunks = w.parts.iter().map(|p| p.geometry.tiles.div_ceil(chunk)).sum();
        Self { rows, row_block, chunk, chunks }
    }

    fn tasks(&self) -> usize {
        self.chunks * self.rows.div_ceil(self.row_block)
    }
}

/// The start of y, which tasks share: each writes some outputs of some rows, never two the same.
struct Results(*mut f32);
// SAFETY: only a pointer; `Product::sweep` states why what it writes is its own.
unsafe impl Sync for Results {}

/// The operands that all tasks share.
struct Product<'a> {
    w: &'a Linear,
    x: &'a [f32],
    scratch: &'a LinearScratch,
    y: Results,
    accumulate: bool,
    int8: bool,
    isa: Isa,
}

impl Product<'_> {
    fn task(&self, plan: &Plan, task: usize) {
        let first = task / plan.chunks * plan.row_block;
        let rows = first..(first + plan.row_block).min(plan.rows);
        let mut chunk = task % plan.chunks;
        for part in &self.w.parts {
            let chunks = part.geometry.tiles.div_ceil(plan.chunk);
            if chunk >= chunks {
                chunk -= chunks;
                continue;
            }
            let start = chunk * plan.chunk;
            let tiles = start..(start + plan.chunk).min(part.geometry.tiles);
            match kernel::int8_kernels(self.isa, part.ty).filter(|_| self.int8) {
                Some(set) => self.packed(part, set, rows, tiles),
                None if part.ty.is_dense() => self.packed(part, kernel::dense_kernels(self.isa, part.ty), rows, tiles),
                None => self.dequantized(part, rows, tiles),
            }
            return;
        }
    }

    /// Multiplies tiles as they are packed.
    fn packed(&self, part: &Part, set: Set, rows: Range<usize>, tiles: Range<usize>) {
        let tile = part.tile(&self.w.buffer, tiles.start).as_ptr();
        let block = TileBlock { tile, tile_bytes: part.geometry.tile_bytes, scales_at: part.geometry.scales_at };
        self.sweep(part, set, rows, tiles, block);
    }

    /// Expands a few tiles to f32 at a time, then multiplies them like dense ones.
    fn dequantized(&self, part: &Part, rows: Range<usize>, tiles: Range<usize>) {
        let set = kernel::dense_kernels(self.isa, WeightType::F32);
        let len = self.w.inputs * TILE;
        let width = set.of(rows.len(), tiles.len())[0].tiles;
        EXPANDED.with_borrow_mut(|expanded| {
            if expanded.len() < len * width {
                expanded.resize(len * width, 0.0);
            }
            let mut start = tiles.start;
            while start < tiles.end {
                let end = (start + width).min(tiles.end);
                for (tile, out) in (start..end).zip(expanded.chunks_exact_mut(len)) {
                    pack::dequantize_tile(part.ty, &part.geometry, part.tile(&self.w.buffer, tile), out);
                }
                let block = TileBlock { tile: expanded.as_ptr().cast(), tile_bytes: len * 4, scales_at: 0 };
                self.sweep(part, set, rows.clone(), start..end, block);
                start = end;
            }
        });
    }

    /// Multiplies `tiles` (the first lies at `block.tile`) with `rows`.
    fn sweep(&self, part: &Part, set: Set, rows: Range<usize>, tiles: Range<usize>, block: TileBlock) {
        let (inputs, outputs) = (self.w.inputs, self.w.outputs);
        let mut t = tiles.start;
        while t < tiles.end {
            let variants = set.of(self.x.len() / inputs, tiles.end - t);
            let output = part.first_output + t * TILE;
            // Each call fetches its share of the next tiles.
            let pair = variants[0].tiles * block.tile_bytes;
            let calls = rows.len().div_ceil(variants[0].rows);
            let more = rows.len() > 1 && t + variants[0].tiles < tiles.end;
            let ahead_lines = if more { pair.div_ceil(calls * (inputs * 2).max(64)).min(4) } else { 0 };
            let mut row = rows.start;
            while row < rows.end {
                let last = variants[variants.len() - 1];
                let v = *variants.iter().find(|v| v.rows <= rows.end - row).unwrap_or(&last);
                let bias = self.w.bias.as_ref().map_or(std::ptr::null(), |b| b[output..].as_ptr());
                // SAFETY: rows and tiles are inside the operands (`linear` checked their sizes, tasks are disjoint
                // in y), the buffers of 8-bit rows cover x when `int8`, and `isa` is present.
                unsafe {
                    (v.run)(&Args {
                        tile: block.tile.add((t - tiles.start) * block.tile_bytes),
                        tile_bytes: block.tile_bytes,
                        scales_at: block.scales_at,
                        cols: inputs,
                        x: self.x.as_ptr().add(row * inputs),
                        q: self.scratch.q.as_ptr().wrapping_add(row * inputs),
                        blocks: self.scratch.blocks.as_ptr().wrapping_add(row * inputs / 32),
                        ahead: block
                            .tile
                            .wrapping_add((t - tiles.start) * block.tile_bytes + pair)
                            .wrapping_add((row - rows.start) / variants[0].rows * ahead_lines * inputs * 2),
                        ahead_lines,
                        sink: Sink {
                            y: self.y.0.add(row * outputs + output),
                            stride: outputs,
                            outputs: part.rows - t * TILE,
                            bias,
                            accumulate: self.accumulate,
                        },
                    });
                }
                row += v.rows;
            }
            t += variants[0].tiles;
        }
    }
}

/// Where the tiles of a sweep lie.
struct TileBlock {
    tile: *const u8,
    tile_bytes: usize,
    scales_at: usize,
}

thread_local! {
    /// A few tiles in f32, reused by `Precision::F32`.
    static EXPANDED: std::cell::RefCell<Vec<f32>> = const { std::cell::RefCell::new(Vec::new()) };
}

#[cfg(test)]
#[path = "linear_tests.rs"]
mod tests;

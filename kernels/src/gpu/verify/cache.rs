//! A paged cache as it lies on the device: an arena of NaN, blocks dealt at random, tables of offsets.

use super::super::attention::LayerCache;
use super::super::attention_sm90a::ArenaMap;
use super::super::device::{GpuDevice, GpuError};
use super::super::launch::HalfType;
use super::{Array, Bed, Half, Random, e4m3};
use crate::attention::AttentionShape;
use crate::kv::{ArenaGeometry, BLOCK_SIZE, CacheGroup, CacheSpec, KvDtype};

/// Layers of the group; the checks use the second.
const LAYERS: usize = 2;
const LAYER: usize = 1;

/// Blocks that nobody owns.
const SPARE: usize = 3;

fn bytes_of(dtype: KvDtype, value: f32) -> Vec<u8> {
    match dtype {
        KvDtype::F16 => half::f16::from_f32(value.clamp(-65504.0, 65504.0)).to_le_bytes().to_vec(),
        KvDtype::Bf16 => half::bf16::from_f32(value).to_le_bytes().to_vec(),
        KvDtype::F32 => value.to_le_bytes().to_vec(),
        KvDtype::E4m3 => vec![e4m3(value).0 as u8],
    }
}

/// The cache dtype that activations of type `T` go with.
pub fn cache_dtype<T: Half>(fp8: bool) -> KvDtype {
    match (fp8, T::TYPE) {
        (true, _) => KvDtype::E4m3,
        (false, HalfType::Bf16) => KvDtype::Bf16,
        (false, HalfType::F16) => KvDtype::F16,
    }
}

/// One group's cache, in host memory until it is uploaded.
#[derive(Clone)]
pub struct PagedCache {
    geometry: ArenaGeometry,
    bytes: Vec<u8>,
    /// Block ids, by sequence.
    tables: Vec<Vec<u32>>,
    max_blocks: usize,
}

/// It on the device.
pub struct DeviceCache<'a> {
    arena: Array<u8>,
    tables: Array<u32>,
    geometry: &'a ArenaGeometry,
    max_blocks: usize,
}

/// The slot of a sequence: every other one, so that slot and sequence differ.
pub fn slot_of(sequence: usize) -> u32 {
    2 * sequence as u32 + 1
}

impl PagedCache {
    /// Room for sequences of these lengths, at blocks of a seeded shuffle.
    pub fn new(shape: &AttentionShape, dtype: KvDtype, lengths: &[usize], seed: u64) -> Self {
        let (kind, num_kv_heads) = (shape.kind, shape.num_kv_heads);
        let (head_dim_k, head_dim_v) = (shape.head_dim_k, shape.head_dim_v);
        let spec = CacheSpec { kind, num_kv_heads, head_dim_k, head_dim_v, dtype };
        let geometry = ArenaGeometry::new(&[CacheGroup { spec, layers: (0..LAYERS).collect() }]);
        let needs: Vec<usize> = lengths.iter().map(|len| len.div_ceil(BLOCK_SIZE)).collect();
        let mut ids: Vec<u32> = (0..(needs.iter().sum::<usize>() + SPARE) as u32).collect();
        let mut random = Random(seed);
        (1..ids.len()).rev().for_each(|i| ids.swap(i, random.below(i + 1)));
        let last = ids.iter().map(|&id| geometry.block_offset(0, id)).max().unwrap_or(0);
        let bytes = vec![0xff; last + geometry.groups[0].block_bytes];
        let tables = needs.iter().map(|&need| ids.split_off(ids.len() - need)).collect();
        Self { geometry, bytes, tables, max_blocks: needs.iter().copied().max().unwrap_or(0) + 2 }
    }

    /// Where the key (or value) of a token and head begins.
    fn offset(&self, sequence: usize, token: usize, kv_head: usize, is_value: bool) -> usize {
        let group = &self.geometry.groups[0];
        let block = self.geometry.block_offset(0, self.tables[sequence][token / BLOCK_SIZE]);
        let region = if is_value { group.v_offset(LAYER, kv_head) } else { group.k_offset(LAYER, kv_head) };
        block + region + token % BLOCK_SIZE * self.row_bytes()
    }

    fn row_bytes(&self) -> usize {
        let spec = self.geometry.groups[0].spec;
        spec.head_dim_k * spec.dtype.bytes()
    }

    /// Writes a key or value.
    pub fn write(&mut self, at: (usize, usize), kv_head: usize, is_value: bool, values: &[f32]) {
        let dtype = self.geometry.groups[0].spec.dtype;
        let offset = self.offset(at.0, at.1, kv_head, is_value);
        let bytes: Vec<u8> = values.iter().flat_map(|&value| bytes_of(dtype, value)).collect();
        self.bytes[offset..offset + bytes.len()].copy_from_slice(&bytes);
    }

    /// Writes the keys and values of each sequence's first `lengths[sequence]` tokens, of 16-bit numbers that `next` gives.
    pub fn fill(&mut self, lengths: &[usize], mut next: impl FnMut() -> [u8; 2]) {
        let (heads, row) = (self.geometry.groups[0].spec.num_kv_heads, self.row_bytes());
        for (sequence, &len) in lengths.iter().enumerate() {
            for (token, region) in (0..len).flat_map(|token| (0..2 * heads).map(move |region| (token, region))) {
                let at = self.offset(sequence, token, region % heads, region >= heads);
                self.bytes[at..at + row].chunks_mut(2).for_each(|pair| pair.copy_from_slice(&next()));
            }
        }
    }

    /// Reads a key or value.
    pub fn read(&self, at: (usize, usize), kv_head: usize, is_value: bool) -> Vec<f32> {
        let dtype = self.geometry.groups[0].spec.dtype;
        let offset = self.offset(at.0, at.1, kv_head, is_value);
        let bytes = &self.bytes[offset..offset + self.row_bytes()];
        let pairs = || bytes.chunks(2).map(|pair| [pair[0], pair[1]]);
        match dtype {
            KvDtype::F16 => pairs().map(|pair| half::f16::from_le_bytes(pair).to_f32()).collect(),
            KvDtype::Bf16 => pairs().map(|pair| half::bf16::from_le_bytes(pair).to_f32()).collect(),
            _ => bytes.iter().map(|&byte| decode_e4m3(byte)).collect(),
        }
    }

    /// Bytes that are not as `other` has them.
    pub fn count_changed(&self, other: &Self) -> usize {
        self.bytes.iter().zip(&other.bytes).filter(|(a, b)| a != b).count()
    }

    /// Takes over what the device wrote.
    ///
    /// # Errors
    /// When the device fails.
    pub fn download<D: GpuDevice>(&mut self, bed: &mut Bed<D>, device: &DeviceCache<'_>) -> Result<(), GpuError> {
        self.bytes = bed.read(&device.arena)?;
        Ok(())
    }

    /// Uploads it; entries of blocks before `first_blocks[sequence]` are freed ones.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn upload<D: GpuDevice>(&self, bed: &mut Bed<D>, first_blocks: &[usize]) -> Result<DeviceCache<'_>, GpuError> {
        let mut tables = vec![u32::MAX; (2 * self.tables.len() + 1) * self.max_blocks];
        for (sequence, table) in self.tables.iter().enumerate() {
            let row = slot_of(sequence) as usize * self.max_blocks;
            for (i, &id) in table.iter().enumerate().skip(first_blocks[sequence]) {
                tables[row + i] = (self.geometry.block_offset(0, id) / 64) as u32;
            }
        }
        let (arena, tables) = (bed.upload(&self.bytes)?, bed.upload(&tables)?);
        Ok(DeviceCache { arena, tables, geometry: &self.geometry, max_blocks: self.max_blocks })
    }
}

impl DeviceCache<'_> {
    /// The layer the checks use.
    pub fn layer(&self) -> LayerCache<'_> {
        let Self { arena, tables, geometry, max_blocks } = self;
        let geometry = &geometry.groups[0];
        LayerCache { arena: arena.ptr(), geometry, layer: LAYER, tables: tables.ptr(), max_blocks: *max_blocks }
    }

    /// The arena as a matrix.
    ///
    /// # Errors
    /// When it is none, or the device has no use for it.
    pub fn map<D: GpuDevice>(&self, bed: &mut Bed<D>, half: HalfType) -> Result<ArenaMap, GpuError> {
        ArenaMap::new(bed.device(), self.geometry, 0, half, (self.arena.ptr(), self.arena.len()))
    }
}

fn decode_e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let magnitude = if exponent == 0 { mantissa / 512.0 } else { (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7) };
    if byte & 0x7f == 0x7f {
        f32::NAN
    } else if byte & 0x80 != 0 {
        -magnitude
    } else {
        magnitude
    }
}

//! The memory behind every KV block: one anonymous mapping, reserved as a whole, touched lazily.
//!
//! Pages cost nothing until a block on them is first written, so the reservation may be the whole
//! budget. The arena knows addresses only; who owns which block is the KV manager's business.

use memmap2::{MmapMut, MmapOptions};

use crate::kv::ArenaGeometry;

/// Why an arena could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// The byte count does not fit the address space.
    #[error("KV arena: {superpages} superpages of {superpage_bytes} bytes overflow; lower kv-cache-memory")]
    Overflow {
        /// Superpages asked for.
        superpages: usize,
        /// Bytes of one.
        superpage_bytes: usize,
    },
    /// The system refused the mapping.
    #[error("KV arena: cannot reserve {bytes} bytes ({source}); lower kv-cache-memory")]
    Reserve {
        /// Bytes asked for.
        bytes: usize,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// All KV blocks of all groups.
#[derive(Debug)]
pub struct KvArena {
    map: MmapMut,
    geometry: ArenaGeometry,
    num_superpages: usize,
}

impl KvArena {
    /// Reserves `num_superpages` superpages of zeros.
    ///
    /// # Errors
    /// [`ArenaError`] if the size overflows or the system refuses the reservation.
    pub fn new(geometry: ArenaGeometry, num_superpages: usize) -> Result<Self, ArenaError> {
        let superpage_bytes = geometry.superpage_bytes;
        let bytes = num_superpages
            .checked_mul(superpage_bytes)
            .filter(|&bytes| isize::try_from(bytes).is_ok())
            .ok_or(ArenaError::Overflow { superpages: num_superpages, superpage_bytes })?;
        let map = MmapOptions::new()
            .len(bytes.max(1))
            .no_reserve_swap()
            .map_anon()
            .map_err(|source| ArenaError::Reserve { bytes, source })?;
        // Fewer TLB misses while attention streams; a kernel without huge pages is fine too.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self { map, geometry, num_superpages })
    }

    /// Bytes reserved (not resident).
    pub fn bytes(&self) -> usize {
        self.num_superpages * self.geometry.superpage_bytes
    }

    /// How it is cut.
    pub fn geometry(&self) -> &ArenaGeometry {
        &self.geometry
    }

    /// Superpages reserved.
    pub fn num_superpages(&self) -> usize {
        self.num_superpages
    }

    /// Offset of block `id` of group `group`, checked to lie inside the arena as a whole block.
    ///
    /// # Panics
    /// If the block lies outside the arena: the block table is wrong.
    pub fn checked_block_offset(&self, group: usize, id: u32) -> usize {
        let geometry = &self.geometry.groups[group];
        let superpage = id as usize / geometry.blocks_per_superpage;
        assert!(superpage < self.num_superpages, "block {id} of group {group} lies outside the KV arena");
        self.geometry.block_offset(group, id)
    }

    /// The first byte; block offsets count from here. Aligned to the system's pages.
    pub fn base(&self) -> *const u8 {
        self.map.as_ptr()
    }

    /// The first byte, for writing.
    pub fn base_mut(&mut self) -> *mut u8 {
        self.map.as_mut_ptr()
    }

    /// Overwrites every byte: tests show with it that nothing unwritten is used.
    #[cfg(test)]
    pub(crate) fn poison(&mut self, byte: u8) {
        self.map.fill(byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{CacheGroup, CacheKind, CacheSpec, KvDtype};

    fn geometry() -> ArenaGeometry {
        let spec =
            CacheSpec { kind: CacheKind::Full, num_kv_heads: 2, head_dim_k: 64, head_dim_v: 64, dtype: KvDtype::F16 };
        ArenaGeometry::new(&[CacheGroup { spec, layers: vec![0, 1] }])
    }

    #[test]
    fn a_reservation_larger_than_the_address_space_is_an_error() {
        assert!(matches!(KvArena::new(geometry(), usize::MAX / 2), Err(ArenaError::Overflow { .. })));
        assert!(matches!(KvArena::new(geometry(), 1 << 38), Err(ArenaError::Reserve { .. })));
    }

    #[test]
    fn an_empty_arena_is_legal_and_blocks_outside_are_refused() {
        let arena = KvArena::new(geometry(), 0).unwrap();
        assert_eq!(arena.bytes(), 0);
        let outside = std::panic::catch_unwind(|| arena.checked_block_offset(0, 0));
        assert!(outside.is_err());
    }

    #[test]
    fn memory_starts_as_aligned_zeros() {
        let arena = KvArena::new(geometry(), 2).unwrap();
        assert_eq!(arena.base() as usize % 64, 0);
        assert!(arena.map.iter().all(|&byte| byte == 0));
    }
}

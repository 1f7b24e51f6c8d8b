//! Anonymous, page-aligned memory for packed weights: zero pages that appear when first written, so that packing
//! threads take the page faults in parallel; huge pages where the system has them.

use memmap2::MmapMut;

use crate::error::KernelError;

/// Zeroed memory that is at least 64-byte aligned.
#[derive(Debug)]
pub(crate) struct Buffer(MmapMut);

impl Buffer {
    /// `bytes` > 0 zero bytes.
    pub(crate) fn zeroed(bytes: usize) -> Result<Self, KernelError> {
        let map = MmapMut::map_anon(bytes).map_err(|_| KernelError::OutOfMemory { what: "packed weights", bytes })?;
        #[cfg(target_os = "linux")]
        if bytes >= 2 << 20 {
            // A hint only: without huge pages the weights are just slower to walk through.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Ok(Self(map))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

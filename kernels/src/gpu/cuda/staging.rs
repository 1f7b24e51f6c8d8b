//! The pinned rings of a running engine: three buffers of metadata to the card, four of results back.

use super::super::device::{Download, GpuError};
use super::super::launch::DevicePtr;
use super::context::{Context, Event};
use super::memory::Pinned;

/// Uploads that may be under way.
const NUM_UPLOADS: usize = 3;

/// Downloads whose bytes are kept: one more than the trait promises, so that the newest three are never written to.
const NUM_DOWNLOADS: usize = 4;

/// A pinned buffer and the event of its last use.
struct Slot {
    pinned: Pinned,
    passed: Event,
}

impl Slot {
    fn new(bytes: usize) -> Result<Self, GpuError> {
        Ok(Self { pinned: Pinned::new(bytes)?, passed: Event::new()? })
    }
}

/// Both rings.
pub(super) struct Staging {
    uploads: Vec<Slot>,
    num_uploaded: usize,
    downloads: Vec<Slot>,
    ring: DownloadRing,
}

impl Staging {
    /// Pins the buffers.
    pub(super) fn new(upload_bytes: usize, download_bytes: usize) -> Result<Self, GpuError> {
        let slots = |count, bytes| (0..count).map(|_| Slot::new(bytes)).collect::<Result<Vec<_>, _>>();
        Ok(Self {
            uploads: slots(NUM_UPLOADS, upload_bytes)?,
            num_uploaded: 0,
            downloads: slots(NUM_DOWNLOADS, download_bytes)?,
            ring: DownloadRing::default(),
        })
    }

    /// Copies to the card; waits only for the upload before the last two.
    pub(super) fn upload(&mut self, context: &Context, to: DevicePtr, bytes: &[u8]) -> Result<(), GpuError> {
        let slot = &mut self.uploads[self.num_uploaded % NUM_UPLOADS];
        check_length("upload", bytes.len(), slot.pinned.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        slot.passed.wait()?;
        slot.pinned.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
        slot.pinned.copy_to(to, bytes.len(), context.stream())?;
        slot.passed.record(context.stream())?;
        self.num_uploaded += 1;
        Ok(())
    }

    /// Issues a copy to the host. It follows the stream's order, so the buffer's previous copy is over by then.
    pub(super) fn begin_download(
        &mut self,
        context: &Context,
        from: DevicePtr,
        bytes: usize,
    ) -> Result<Download, GpuError> {
        let (slot, download) = self.ring.next();
        let slot = &mut self.downloads[slot];
        check_length("download", bytes, slot.pinned.len())?;
        if bytes > 0 {
            slot.pinned.copy_from(from, bytes, context.stream())?;
        }
        slot.passed.record(context.stream())?;
        self.ring.begin(bytes);
        Ok(download)
    }

    /// Waits for a copy to the host.
    pub(super) fn end_download(&self, download: &Download) -> Result<&[u8], GpuError> {
        let (slot, bytes) = self.ring.find(download)?;
        let slot = &self.downloads[slot];
        slot.passed.wait()?;
        Ok(&slot.pinned.as_slice()[..bytes])
    }
}

fn check_length(what: &str, bytes: usize, reserved: usize) -> Result<(), GpuError> {
    if bytes <= reserved {
        return Ok(());
    }
    Err(GpuError::Operand(format!("{what} of {bytes} bytes, {reserved} are reserved")))
}

/// Which buffer holds which download.
#[derive(Default)]
struct DownloadRing {
    /// Downloads begun.
    count: usize,
    /// Bytes of the last download in each buffer.
    bytes: [usize; NUM_DOWNLOADS],
}

impl DownloadRing {
    /// Buffer and name of the download that would begin now.
    fn next(&self) -> (usize, Download) {
        (self.count % NUM_DOWNLOADS, Download(self.count))
    }

    /// It has begun.
    fn begin(&mut self, bytes: usize) {
        self.bytes[self.count % NUM_DOWNLOADS] = bytes;
        self.count += 1;
    }

    /// Buffer and length of a download, while its bytes are there.
    fn find(&self, download: &Download) -> Result<(usize, usize), GpuError> {
        let number = download.0;
        if number < self.count && self.count - number <= NUM_DOWNLOADS {
            return Ok((number % NUM_DOWNLOADS, self.bytes[number % NUM_DOWNLOADS]));
        }
        Err(GpuError::Operand(format!("download {number} of {} is not there", self.count)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_stays_until_three_more_have_begun() {
        let mut ring = DownloadRing::default();
        assert!(ring.find(&Download(0)).is_err(), "not begun");
        for number in 0..20 {
            let (slot, download) = ring.next();
            assert_eq!((slot, &download), (number % NUM_DOWNLOADS, &Download(number)));
            ring.begin(100 + number);
            for back in 0..=3.min(number) {
                let found = ring.find(&Download(number - back)).expect("kept");
                assert_eq!(found, ((number - back) % NUM_DOWNLOADS, 100 + number - back));
            }
            if number >= 4 {
                assert!(ring.find(&Download(number - 4)).is_err(), "overwritten");
            }
        }
    }

    #[test]
    fn lengths_are_checked() {
        assert_eq!(check_length("upload", 8, 8), Ok(()));
        let error = check_length("upload", 9, 8).expect_err("too long").to_string();
        assert_eq!(error, "upload of 9 bytes, 8 are reserved");
    }
}

//! The card, its context and stream; events. Everything else of the device is made under this context and dropped first.

use std::cell::Cell;
use std::ptr;

use cudarc::driver::result;
use cudarc::driver::sys::{self, CUcontext, CUdevice, CUdevice_attribute, CUevent, CUevent_flags, CUresult, CUstream};

use super::super::device::{DeviceInfo, GpuError};
use super::error::{check, is_sticky};

/// Oldest driver, as it writes its version: major * 1,000 + minor * 10.
const MIN_DRIVER: i32 = 13_000;

/// Oldest compute capability that the kernels are compiled for.
const MIN_COMPUTE: (u32, u32) = (8, 0);

thread_local! {
    /// The context that [`Context::bind`] has made this thread's current one.
    static BOUND: Cell<CUcontext> = const { Cell::new(ptr::null_mut()) };
}

/// The primary context of a card and the one stream that everything is issued on.
pub(super) struct Context {
    device: CUdevice,
    context: CUcontext,
    stream: CUstream,
}

impl Context {
    /// Takes a card. The driver's library is open already.
    pub(super) fn open(ordinal: usize) -> Result<(Self, DeviceInfo), GpuError> {
        let (device, info) = find(ordinal)?;
        let mut context = ptr::null_mut();
        // SAFETY: the device comes from cuDeviceGet.
        check("cuDevicePrimaryCtxRetain", unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, device) })?;
        let mut opened = Self { device, context, stream: ptr::null_mut() };
        opened.make_current()?;
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the context is current.
        check("cuStreamCreate", unsafe { sys::cuStreamCreate(&mut opened.stream, flags) })?;
        Ok((opened, info))
    }

    /// Makes the context current on the calling thread, unless it was the last one that this made so there.
    pub(super) fn bind(&self) -> Result<(), GpuError> {
        if BOUND.get() == self.context { Ok(()) } else { self.make_current() }
    }

    fn make_current(&self) -> Result<(), GpuError> {
        // SAFETY: the context is retained until `drop`.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.context) })?;
        BOUND.set(self.context);
        Ok(())
    }

    /// The stream.
    pub(super) fn stream(&self) -> CUstream {
        self.stream
    }

    /// Waits for everything issued.
    pub(super) fn synchronize(&self) -> Result<(), GpuError> {
        // SAFETY: the stream lives as long as `self`.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.stream) })
    }

    /// The error that every call gives from now on, if there is one. Not while capturing: that would end the capture.
    pub(super) fn lost(&self) -> Option<GpuError> {
        // SAFETY: the stream lives as long as `self`.
        let result = unsafe { sys::cuStreamQuery(self.stream) };
        if is_sticky(result) { check("cuStreamQuery", result).err() } else { None }
    }

    /// Bytes free on the card.
    pub(super) fn free_bytes(&self) -> Result<u64, GpuError> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: two numbers are written.
        check("cuMemGetInfo", unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) })?;
        Ok(free as u64)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if !self.stream.is_null() {
            // SAFETY: made by `open`, and nothing uses it after this.
            let _ = unsafe { sys::cuStreamDestroy_v2(self.stream) };
        }
        if BOUND.get() == self.context {
            BOUND.set(ptr::null_mut());
        }
        // SAFETY: retained once by `open`.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// A card and what it is, without a context. The driver's library is open already.
pub(super) fn find(ordinal: usize) -> Result<(CUdevice, DeviceInfo), GpuError> {
    driver_version()?;
    // SAFETY: may be called any number of times, from any thread.
    match unsafe { sys::cuInit(0) } {
        CUresult::CUDA_SUCCESS => {}
        CUresult::CUDA_ERROR_NO_DEVICE => {
            return Err(GpuError::Unusable(
                "no NVIDIA GPU is visible (cuInit: CUDA_ERROR_NO_DEVICE); look at nvidia-smi and \
                 CUDA_VISIBLE_DEVICES, or use --device cpu"
                    .to_owned(),
            ));
        }
        other => {
            return Err(GpuError::Unusable(format!(
                "the NVIDIA driver doesn't start (cuInit: {other:?}); look at nvidia-smi, or use --device cpu"
            )));
        }
    }
    let device = device(ordinal)?;
    let info = describe(device)?;
    if info.compute < MIN_COMPUTE {
        return Err(GpuError::Unusable(format!(
            "{} has compute capability {}.{}, {}.{} is needed; use --device cpu",
            info.name, info.compute.0, info.compute.1, MIN_COMPUTE.0, MIN_COMPUTE.1
        )));
    }
    Ok((device, info))
}

/// The driver's version, checked: a function that an older one lacks would be a panic of cudarc.
pub(super) fn driver_version() -> Result<i32, GpuError> {
    let mut version = 0;
    // SAFETY: may be called before cuInit; a number is written.
    let result = unsafe { sys::cuDriverGetVersion(&mut version) };
    if result != CUresult::CUDA_SUCCESS {
        let text = format!(
            "the NVIDIA driver doesn't tell its version (cuDriverGetVersion: {result:?}); is libcuda.so a stub in \
             LD_LIBRARY_PATH?"
        );
        return Err(GpuError::Unusable(text));
    }
    check_driver(version)?;
    Ok(version)
}

fn check_driver(version: i32) -> Result<(), GpuError> {
    let written = |version: i32| format!("{}.{}", version / 1000, version % 1000 / 10);
    if version < MIN_DRIVER {
        let (found, needed) = (written(version), written(MIN_DRIVER));
        return Err(GpuError::Unusable(format!(
            "the NVIDIA driver is of CUDA {found}, {needed} is needed; install driver 580 or later, or use --device cpu"
        )));
    }
    Ok(())
}

/// The card of that number; the error lists those that there are.
fn device(ordinal: usize) -> Result<CUdevice, GpuError> {
    let driver =
        |call: &'static str| move |error: result::DriverError| GpuError::Unusable(format!("{call}: {:?}", error.0));
    let count = result::device::get_count().map_err(driver("cuDeviceGetCount"))?;
    if let Ok(number) = i32::try_from(ordinal)
        && number < count
    {
        return result::device::get(number).map_err(driver("cuDeviceGet"));
    }
    let name = |number| result::device::get(number).and_then(result::device::get_name).unwrap_or_default();
    let names: Vec<String> = (0..count).map(|number| format!("{number}: {}", name(number))).collect();
    let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Err(GpuError::Unusable(format!("there is no GPU {ordinal}; found {count}: {found}")))
}

fn describe(device: CUdevice) -> Result<DeviceInfo, GpuError> {
    use CUdevice_attribute::*;
    let attribute = |attribute| -> Result<u32, GpuError> {
        let mut value = 0;
        // SAFETY: the device comes from cuDeviceGet; a number is written.
        check("cuDeviceGetAttribute", unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, device) })?;
        Ok(u32::try_from(value).unwrap_or(0))
    };
    let mut total = 0;
    // SAFETY: as above.
    check("cuDeviceTotalMem", unsafe { sys::cuDeviceTotalMem_v2(&mut total, device) })?;
    Ok(DeviceInfo {
        name: result::device::get_name(device)
            .map_err(|error| GpuError::Unusable(format!("cuDeviceGetName: {:?}", error.0)))?,
        compute: (
            attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        num_sms: attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize,
        shared_bytes: attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as usize,
        shared_bytes_per_sm: attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)? as usize,
        total_bytes: total as u64,
    })
}

/// A point in the stream. The context is current in every call.
pub(super) struct Event(CUevent);

impl Event {
    /// One that says only whether it has passed: cheaper than one that takes the time.
    pub(super) fn new() -> Result<Self, GpuError> {
        Self::with(CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    /// One that takes the time.
    pub(super) fn timed() -> Result<Self, GpuError> {
        Self::with(CUevent_flags::CU_EVENT_DEFAULT)
    }

    fn with(flags: CUevent_flags) -> Result<Self, GpuError> {
        let mut event = ptr::null_mut();
        // SAFETY: a handle is written.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&mut event, flags as u32) })?;
        Ok(Self(event))
    }

    /// Marks what has been issued so far.
    pub(super) fn record(&self, stream: CUstream) -> Result<(), GpuError> {
        // SAFETY: both handles are alive.
        check("cuEventRecord", unsafe { sys::cuEventRecord(self.0, stream) })
    }

    /// Waits for what [`Self::record`] marked; at once when there was none.
    pub(super) fn wait(&self) -> Result<(), GpuError> {
        // SAFETY: the handle is alive.
        check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(self.0) })
    }

    /// Milliseconds from this event to a later one; both have passed.
    pub(super) fn millis_to(&self, later: &Self) -> Result<f32, GpuError> {
        let mut millis = 0.0;
        // SAFETY: both handles are alive; a number is written.
        check("cuEventElapsedTime", unsafe { sys::cuEventElapsedTime_v2(&mut millis, self.0, later.0) })?;
        Ok(millis)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `with` and destroyed once.
        let _ = unsafe { sys::cuEventDestroy_v2(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_driver_is_told_with_both_versions() {
        assert_eq!(check_driver(13_000), Ok(()));
        assert_eq!(check_driver(13_020), Ok(()));
        let text = check_driver(12_080).expect_err("too old").to_string();
        assert!(text.contains("CUDA 12.8") && text.contains("13.0 is needed"), "{text}");
    }
}

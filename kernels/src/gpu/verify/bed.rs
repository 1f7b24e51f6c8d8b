//! Typed memory on a device.

use std::marker::PhantomData;

use super::super::device::{GpuDevice, GpuError};
use super::super::launch::{DevicePtr, Launch};
use super::super::pod::Pod;

/// A device with what a check needs of it. Memory is given back with the device.
pub struct Bed<D> {
    device: D,
}

/// `len` values on the device.
#[derive(Clone, Copy, Debug)]
pub struct Array<T> {
    at: DevicePtr,
    len: usize,
    values: PhantomData<T>,
}

impl<T> Array<T> {
    /// Its address.
    pub fn ptr(&self) -> DevicePtr {
        self.at
    }

    /// Values that it holds.
    #[expect(clippy::len_without_is_empty, reason = "an array of nothing is of no interest")]
    pub fn len(&self) -> usize {
        self.len
    }
}

impl<D: GpuDevice> Bed<D> {
    /// A bed on a device.
    pub fn new(device: D) -> Self {
        Self { device }
    }

    /// The device.
    pub fn device(&mut self) -> &mut D {
        &mut self.device
    }

    /// Memory for `len` values, every bit set: NaN, or -1.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn alloc<T: Pod>(&mut self, len: usize) -> Result<Array<T>, GpuError> {
        let bytes = len * size_of::<T>();
        let at = self.device.alloc(bytes, "a check")?;
        self.device.fill(at, 0xff, bytes)?;
        Ok(Array { at, len, values: PhantomData })
    }

    /// Memory that holds a copy of `values`.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn upload<T: Pod>(&mut self, values: &[T]) -> Result<Array<T>, GpuError> {
        let array = self.alloc(values.len())?;
        self.write(&array, values)?;
        Ok(array)
    }

    /// Overwrites the first values.
    ///
    /// # Errors
    /// When the device fails.
    ///
    /// # Panics
    /// If there are more than it holds.
    pub fn write<T: Pod>(&mut self, array: &Array<T>, values: &[T]) -> Result<(), GpuError> {
        assert!(values.len() <= array.len, "{} values into {}", values.len(), array.len);
        // SAFETY: a `Pod` is its bytes.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values)) };
        self.device.write(array.at, bytes)
    }

    /// All values.
    ///
    /// # Errors
    /// When the device fails, or something issued before did.
    pub fn read<T: Pod>(&mut self, array: &Array<T>) -> Result<Vec<T>, GpuError> {
        let bytes = array.len * size_of::<T>();
        let mut values: Vec<T> = Vec::with_capacity(array.len);
        // SAFETY: room for so many bytes, zeroed first; every pattern of them is a value of a `Pod`.
        unsafe {
            std::ptr::write_bytes(values.as_mut_ptr().cast::<u8>(), 0, bytes);
            let room = std::slice::from_raw_parts_mut(values.as_mut_ptr().cast::<u8>(), bytes);
            self.device.read(array.at, room)?;
            values.set_len(array.len);
        }
        Ok(values)
    }

    /// Issues a kernel.
    ///
    /// # Errors
    /// When the device refuses it.
    pub fn launch(&mut self, launch: &Launch) -> Result<(), GpuError> {
        self.device.launch(launch)
    }
}

//! Values and records that the host and the kernels exchange as their bytes.

/// A value that is its bytes.
///
/// # Safety
/// No padding (`repr(C)` for structs), and every bit pattern is a value.
pub unsafe trait Pod: Copy + 'static {}

macro_rules! pod {
    ($($ty:ty),*) => { $(
        // SAFETY: a number.
        unsafe impl Pod for $ty {}
    )* };
}
pod!(u8, i8, u16, i16, u32, i32, u64, i64, f32, half::bf16, half::f16);

/// The words of records of 4-byte fields, as they are uploaded.
pub fn words<T: Pod>(records: &[T]) -> &[u32] {
    const { assert!(align_of::<T>() == 4 && size_of::<T>().is_multiple_of(4)) };
    // SAFETY: a `Pod` is its bytes without padding; these are whole words, and aligned as words are.
    unsafe { std::slice::from_raw_parts(records.as_ptr().cast(), size_of_val(records) / 4) }
}

/// The bytes of words, as they are uploaded.
pub fn bytes(words: &[u32]) -> &[u8] {
    // SAFETY: a word is its bytes, and bytes need no alignment.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}

/// The `index`th record of bytes that came back; `None` past their end.
pub fn record<T: Pod>(bytes: &[u8], index: usize) -> Option<T> {
    let source = bytes.get(index.checked_mul(size_of::<T>())?..)?.get(..size_of::<T>())?;
    // SAFETY: as many bytes as a `T` has, and every pattern is one; the source need not be aligned.
    Some(unsafe { source.as_ptr().cast::<T>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_where_they_end_and_not_beyond() {
        let bytes = [0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
        assert_eq!(record::<u32>(&bytes[1..], 1), Some(2));
        assert_eq!(record::<u32>(&bytes[1..], 2), None);
        assert_eq!(record::<u32>(&bytes, usize::MAX), None);
        assert_eq!(words(&[1.0f32, -0.0]), [0x3f80_0000, 0x8000_0000]);
    }
}

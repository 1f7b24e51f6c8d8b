//! What can go wrong in a kernel: shapes that don't fit, bytes that are missing. Every message is one line with the numbers.

use crate::dtype::WeightType;

/// An operand that doesn't fit its operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// An operand has the wrong number of elements (or bytes, as `what` says).
    #[error("{what}: expected {expected}, got {actual}")]
    Size {
        /// Operand and unit, such as `x elements`.
        what: &'static str,
        /// What the shapes ask for.
        expected: usize,
        /// What was given.
        actual: usize,
    },
    /// A row that doesn't consist of whole blocks.
    #[error("a row of {cols} values isn't a whole number of {} blocks of {}", ty.name(), ty.block_len())]
    RowLength {
        /// Storage type of the row.
        ty: WeightType,
        /// Values in the row.
        cols: usize,
    },
    /// A matrix without rows or columns, or one whose size overflows.
    #[error("a {} matrix of {rows} x {cols} is empty or too large", ty.name())]
    Shape {
        /// Storage type.
        ty: WeightType,
        /// Output features.
        rows: usize,
        /// Input features.
        cols: usize,
    },
    /// An index past the end.
    #[error("{what} {index} is out of range, there are {len}")]
    Index {
        /// What is counted.
        what: &'static str,
        /// The index asked for.
        index: usize,
        /// How many there are.
        len: usize,
    },
    /// The system gave no memory.
    #[error("can't allocate {bytes} bytes for {what}; free memory or choose a smaller model")]
    OutOfMemory {
        /// Purpose of the memory.
        what: &'static str,
        /// Bytes asked for.
        bytes: usize,
    },
    /// A GPU.
    #[error(transparent)]
    Device(#[from] crate::gpu::device::GpuError),
}

impl KernelError {
    /// `Ok` when `actual` is `expected`.
    pub(crate) fn check(what: &'static str, expected: usize, actual: usize) -> Result<(), Self> {
        if expected == actual { Ok(()) } else { Err(Self::Size { what, expected, actual }) }
    }
}

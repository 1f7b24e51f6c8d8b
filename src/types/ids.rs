//! Newtypes on identifiers, so that a block can't be taken for a sequence.

use std::fmt;

/// One sequence: a prompt and one of its `n` continuations. Unique for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(pub u64);

/// A block of the KV cache within its cache group (the id space of each group is its own).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u32);

impl BlockId {
    /// Stands in a block table where the block has left the attention window and was freed.
    pub const NULL: BlockId = BlockId(u32::MAX);

    /// True for [`BlockId::NULL`].
    pub fn is_null(self) -> bool {
        self == Self::NULL
    }
}

impl fmt::Display for SeqId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seq-{}", self.0)
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

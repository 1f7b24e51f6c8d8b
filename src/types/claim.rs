//! Who a request is computed for.

/// Who a sequence is computed for, and how it stands to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Whose sequences share a turn.
    pub tenant: u64,
    /// How much of the machine the tenant gets beside others, at least 1.
    pub weight: u32,
    /// Lower goes first, whosever it is.
    pub priority: i64,
}

impl Default for Claim {
    fn default() -> Self {
        Self { tenant: 0, weight: 1, priority: 0 }
    }
}

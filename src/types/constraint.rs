//! What the text of a sequence must look like, token by token: the seam between grammars, which know text, and the
//! engine, which knows tokens.

use std::fmt::Debug;

use super::SeqId;

/// Why a constraint can't be followed further; the request fails, others go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// A step costs more than it may: what the client sent is at fault.
    #[error("{0}")]
    TooCostly(String),
    /// A fault of this program.
    #[error("{0}")]
    Failed(String),
}

/// Something that each continuation of a request must satisfy.
pub trait Constraint: Debug + Send + Sync {
    /// The state of one continuation before its first token.
    fn begin(&self) -> Box<dyn ConstraintState>;
}

/// Where one sequence stands in its constraint.
pub trait ConstraintState: Send {
    /// Sets bit `t % 32` of word `t / 32` for each token `t` that may follow; `mask` comes zeroed, `[vocab / 32, rounded up]`.
    ///
    /// # Errors
    /// When it costs too much to tell.
    fn allowed(&mut self, mask: &mut [u32]) -> Result<(), ConstraintError>;

    /// `token` follows.
    ///
    /// # Errors
    /// When it must not.
    fn accept(&mut self, token: u32) -> Result<(), ConstraintError>;

    /// Takes the tokens that must follow now, as if each had been accepted; empty when there is a choice.
    ///
    /// # Errors
    /// When it costs too much to tell.
    fn take_forced(&mut self) -> Result<Vec<u32>, ConstraintError>;

    /// The text is complete: nothing but an end may follow.
    fn is_over(&self) -> bool;
}

/// What a constraint adds to a token that was sampled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follow {
    /// Whose token it was.
    pub seq: SeqId,
    /// Tokens that must follow, so that none of them is sampled.
    pub forced: Vec<u32>,
    /// The sequence ends after these.
    pub over: bool,
}

/// The masks of one step: one row for each constrained sequence that samples, in batch order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Masks {
    /// Words of a row: `vocab / 32`, rounded up.
    pub width: usize,
    /// `[seqs, width]`: bit `t % 32` of word `t / 32` is set where token `t` may follow.
    pub words: Vec<u32>,
    /// Whose they are.
    pub seqs: Vec<SeqId>,
}

impl Masks {
    /// What `seq` may say; `None` when it has no mask.
    pub fn of(&self, seq: SeqId) -> Option<&[u32]> {
        let row = self.seqs.iter().position(|&s| s == seq)?;
        self.words.get(row * self.width..(row + 1) * self.width)
    }
}

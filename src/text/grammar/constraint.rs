//! Grammars as the engine takes them.

use super::compiler::CompiledGrammar;
use super::error::GrammarError;
use super::matcher::Matcher;
use crate::types::{Constraint, ConstraintError, ConstraintState};

impl Constraint for CompiledGrammar {
    fn begin(&self) -> Box<dyn ConstraintState> {
        Box::new(self.matcher())
    }
}

impl ConstraintState for Matcher {
    fn allowed(&mut self, mask: &mut [u32]) -> Result<(), ConstraintError> {
        Ok(Self::allowed(self, mask)?)
    }

    fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
        Ok(Self::accept(self, token)?)
    }

    fn take_forced(&mut self) -> Result<Vec<u32>, ConstraintError> {
        let forced = self.forced()?;
        for &token in &forced {
            ConstraintState::accept(self, token)?;
        }
        Ok(forced)
    }

    fn is_over(&self) -> bool {
        Self::is_over(self)
    }
}

impl From<GrammarError> for ConstraintError {
    fn from(error: GrammarError) -> Self {
        match error {
            GrammarError::StepTooCostly => Self::TooCostly(error.to_string()),
            other => Self::Failed(other.to_string()),
        }
    }
}

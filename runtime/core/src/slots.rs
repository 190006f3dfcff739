//! Concurrency: a count of held slots. A slot is held from the admission until the body has ended or the attempt was
//! given up; an RAII token of the host makes sure of it.

use std::num::NonZeroU32;

/// Slots held, against an optional maximum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Slots(u32);

impl Slots {
    /// Whether one more may be held.
    pub(crate) fn free(self, max: Option<NonZeroU32>) -> bool {
        max.is_none_or(|max| self.0 < max.get())
    }

    /// How many are held.
    pub(crate) fn held(self) -> u32 {
        self.0
    }

    /// Takes one.
    pub(crate) fn take(&mut self) {
        self.0 = self.0.saturating_add(1);
    }

    /// Gives one back.
    pub(crate) fn give(&mut self) {
        self.0 = self.0.saturating_sub(1);
    }
}

//! One line of a trail.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// Longest text of a note, bytes; the rest of a longer one is cut. Whoever calls chooses URLs, and with them the texts.
const TEXT: usize = 512;
/// What the allocator adds to a text at most, bytes.
const TEXT_OVERHEAD: u64 = 16;
const ELLIPSIS: char = '…';

/// Cuts a text that is longer than so many bytes, between two characters, and shows that it was.
pub(crate) fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most.saturating_sub(ELLIPSIS.len_utf8())));
        text.push(ELLIPSIS);
    }
}

/// One decision, with its reason. Every variant reads as a sentence by `Display`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Note {
    /// An instance was found or made.
    Instance {
        /// Whether it had served before.
        reused: bool,
        /// Time spent waiting for a place in the pool.
        waited: Duration,
    },
    /// The guest was ended or refused by a bound or by itself.
    Guest(String),
    /// An outbound call entered the door.
    Call {
        /// Number of the call in this trail, from 1.
        call: u32,
        /// Method and URL without query.
        what: String,
    },
    /// The actor made the call wait.
    Queued {
        /// Number of the call.
        call: u32,
        /// Why, as the actor says it.
        why: String,
    },
    /// The actor let an attempt go.
    Admitted {
        /// Number of the call.
        call: u32,
        /// Time since the call asked for this attempt.
        waited: Duration,
        /// For what at the end, where that is not what it was told when it asked.
        why: Option<String>,
    },
    /// An attempt was answered.
    Answered {
        /// Number of the call.
        call: u32,
        /// Number of the attempt, from 1.
        attempt: u32,
        /// Status.
        status: u16,
        /// Time to the head.
        first_byte: Duration,
    },
    /// An attempt failed without an answer.
    Failed {
        /// Number of the call.
        call: u32,
        /// Number of the attempt, from 1.
        attempt: u32,
        /// What went wrong.
        why: String,
    },
    /// The answer broke off.
    Broke(String),
    /// A decision about the call: put back, retried, refused, given up, denied.
    Decided {
        /// Number of the call.
        call: u32,
        /// The decision and its reason.
        what: String,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance { reused, waited } if *waited > Duration::from_millis(1) => {
                let kind = if *reused { "reused" } else { "fresh" };
                write!(f, "{kind} instance, waited {waited:.1?} for a place")
            }
            Self::Instance { reused: true, .. } => f.write_str("reused instance"),
            Self::Instance { reused: false, .. } => f.write_str("fresh instance"),
            Self::Guest(what) => write!(f, "guest: {what}"),
            Self::Call { call, what } => write!(f, "call {call}: {what}"),
            Self::Queued { call, why } => write!(f, "call {call}: queued, {why}"),
            Self::Admitted { call, waited, why: None } => write!(f, "call {call}: let go after {waited:.1?}"),
            Self::Admitted { call, waited, why: Some(why) } => {
                write!(f, "call {call}: let go after {waited:.1?}, at the end {why}")
            }
            Self::Answered { call, attempt, status, first_byte } => {
                write!(f, "call {call}: attempt {attempt} answered {status} in {first_byte:.1?}")
            }
            Self::Failed { call, attempt, why } => write!(f, "call {call}: attempt {attempt} failed, {why}"),
            Self::Broke(why) => write!(f, "the answer broke off: {why}"),
            Self::Decided { call, what } => write!(f, "call {call}: {what}"),
        }
    }
}

impl Note {
    fn text(&self) -> Option<&String> {
        match self {
            Self::Guest(text) | Self::Broke(text) => Some(text),
            Self::Call { what, .. } | Self::Decided { what, .. } => Some(what),
            Self::Queued { why, .. } | Self::Failed { why, .. } => Some(why),
            Self::Admitted { why, .. } => why.as_ref(),
            Self::Instance { .. } | Self::Answered { .. } => None,
        }
    }

    fn text_mut(&mut self) -> Option<&mut String> {
        match self {
            Self::Guest(text) | Self::Broke(text) => Some(text),
            Self::Call { what, .. } | Self::Decided { what, .. } => Some(what),
            Self::Queued { why, .. } | Self::Failed { why, .. } => Some(why),
            Self::Admitted { why, .. } => why.as_mut(),
            Self::Instance { .. } | Self::Answered { .. } => None,
        }
    }

    /// The note with its text cut where it is too long.
    pub(super) fn bounded(mut self) -> Self {
        if let Some(text) = self.text_mut() {
            cut(text, TEXT);
            if text.capacity() > TEXT {
                text.shrink_to_fit();
            }
        }
        self
    }

    /// Memory of its text, bytes.
    pub(super) fn text_bytes(&self) -> u64 {
        match self.text().map(String::capacity) {
            None | Some(0) => 0,
            Some(room) => room as u64 + TEXT_OVERHEAD,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters_and_says_so() {
        for (text, length, cut) in [
            ("x".repeat(TEXT), TEXT, false),
            ("x".repeat(TEXT + 1), TEXT, true),
            ("é".repeat(TEXT), TEXT - 1, true),
            ("x".repeat(60_000), TEXT, true),
        ] {
            let Note::Guest(kept) = Note::Guest(text).bounded() else { panic!() };
            assert_eq!((kept.len(), kept.ends_with(ELLIPSIS)), (length, cut));
            assert!(kept.capacity() <= TEXT);
        }
    }
}

//! One line of a trail.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tidegate_core::units::Rounded;

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
        /// The destination's label, shared with it.
        destination: Arc<str>,
        /// Whether that is a configured name.
        configured: bool,
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
    /// The call stands below a span of the guest's own.
    Under {
        /// Number of the call.
        call: u32,
        /// The span.
        span: u64,
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
    /// An attempt is a copy of another one.
    Copy {
        /// Number of the call.
        call: u32,
        /// Number of the attempt, from 1.
        attempt: u32,
        /// Of which one it is a copy; 0 where that has not left.
        of: u32,
        /// What it is for.
        kind: CopyKind,
        /// The endpoint that it goes to, where the destination has any.
        to: Option<String>,
    },
    /// An attempt ended before it was answered, and did not fail.
    Stopped {
        /// Number of the call.
        call: u32,
        /// Number of the attempt, from 1.
        attempt: u32,
        /// Since it left.
        lasted: Duration,
        /// Why.
        why: Stop,
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
    /// The call is over for whoever sent it; the body of its answer may still come.
    Over {
        /// Number of the call.
        call: u32,
        /// What it came to.
        came: Came,
        /// Since it entered the door.
        took: Duration,
        /// Of that, in queues and pauses.
        waited: Duration,
        /// Attempts, those included that could not connect.
        attempts: u32,
    },
}

/// What a copy of an attempt is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CopyKind {
    /// The first was late.
    Hedge,
    /// The first answer counts.
    Race,
    /// An endpoint that was ejected is tried.
    Trial,
}

impl CopyKind {
    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hedge => "hedge",
            Self::Race => "race",
            Self::Trial => "trial",
        }
    }
}

/// Why an attempt ended without an answer, and is no failure of its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stop {
    /// Another one of the same call was answered first.
    Lost,
    /// Whoever sent the call went away.
    GivenUp,
    /// The call's deadline passed.
    Deadline,
    /// The sender's own bound or its body ended it.
    Sender,
    /// It was written to an old connection that its peer had closed.
    Connection,
}

impl Stop {
    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::GivenUp => "cancelled",
            Self::Deadline => "deadline",
            Self::Sender => "sender",
            Self::Connection => "connection",
        }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "another was answered first",
            Self::GivenUp => "its sender went away",
            Self::Deadline => "the deadline of the call passed",
            Self::Sender => "its sender's own bound or body ended it",
            Self::Connection => "its old connection was closed meanwhile",
        })
    }
}

/// What a call came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Came {
    /// The upstream's answer with this status.
    Answer(u16),
    /// A refusal of the gate itself with this status.
    Refused(u16),
    /// Nobody answered.
    Failed,
    /// Its sender went away.
    GivenUp,
}

impl Came {
    /// Whether somebody refused it: the gate, or the upstream with a 429.
    pub fn is_refusal(self) -> bool {
        matches!(self, Self::Refused(_) | Self::Answer(429))
    }

    /// Whether it failed: no answer, or one that says that the upstream failed.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::Answer(500..))
    }
}

impl fmt::Display for Came {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(status) => write!(f, "answered {status}"),
            Self::Refused(status) => write!(f, "refused by the gate with {status}"),
            Self::Failed => f.write_str("failed without an answer"),
            Self::GivenUp => f.write_str("given up"),
        }
    }
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
            Self::Call { call, what, destination, configured: true } => {
                write!(f, "call {call}: {what}, destination {destination}")
            }
            Self::Call { call, what, .. } => write!(f, "call {call}: {what}"),
            Self::Queued { call, why } => write!(f, "call {call}: queued, {why}"),
            Self::Admitted { call, waited, why: None } => write!(f, "call {call}: let go after {waited:.1?}"),
            Self::Admitted { call, waited, why: Some(why) } => {
                write!(f, "call {call}: let go after {waited:.1?}, at the end {why}")
            }
            Self::Under { call, span } => write!(f, "call {call}: below the guest's own span {span:016x}"),
            Self::Answered { call, attempt, status, first_byte } => {
                write!(f, "call {call}: attempt {attempt} answered {status} in {first_byte:.1?}")
            }
            Self::Failed { call, attempt, why } => write!(f, "call {call}: attempt {attempt} failed, {why}"),
            Self::Copy { call, attempt, of, kind, to } => {
                write!(f, "call {call}: attempt {attempt} is a copy ({})", kind.name())?;
                if *of > 0 {
                    write!(f, " of attempt {of}")?;
                }
                to.as_ref().map_or(Ok(()), |to| write!(f, " to {to}"))
            }
            Self::Stopped { call, attempt, lasted, why } => {
                write!(f, "call {call}: attempt {attempt} ended after {lasted:.1?}, {why}")
            }
            Self::Broke(why) => write!(f, "the answer broke off: {why}"),
            Self::Decided { call, what } => write!(f, "call {call}: {what}"),
            Self::Over { call, came, took, waited, attempts } => {
                write!(f, "call {call}: over after {}, {came}", Rounded(*took))?;
                if !waited.is_zero() {
                    write!(f, ", {} of it waiting", Rounded(*waited))?;
                }
                if *attempts > 1 { write!(f, ", {attempts} attempts") } else { Ok(()) }
            }
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
            Self::Copy { to, .. } => to.as_ref(),
            Self::Instance { .. }
            | Self::Under { .. }
            | Self::Answered { .. }
            | Self::Stopped { .. }
            | Self::Over { .. } => None,
        }
    }

    fn text_mut(&mut self) -> Option<&mut String> {
        match self {
            Self::Guest(text) | Self::Broke(text) => Some(text),
            Self::Call { what, .. } | Self::Decided { what, .. } => Some(what),
            Self::Queued { why, .. } | Self::Failed { why, .. } => Some(why),
            Self::Admitted { why, .. } => why.as_mut(),
            Self::Copy { to, .. } => to.as_mut(),
            Self::Instance { .. }
            | Self::Under { .. }
            | Self::Answered { .. }
            | Self::Stopped { .. }
            | Self::Over { .. } => None,
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

    /// The number of the call that it is about.
    pub fn call(&self) -> Option<u32> {
        match self {
            Self::Instance { .. } | Self::Guest(_) | Self::Broke(_) => None,
            Self::Call { call, .. }
            | Self::Queued { call, .. }
            | Self::Admitted { call, .. }
            | Self::Under { call, .. }
            | Self::Answered { call, .. }
            | Self::Failed { call, .. }
            | Self::Copy { call, .. }
            | Self::Stopped { call, .. }
            | Self::Decided { call, .. }
            | Self::Over { call, .. } => Some(*call),
        }
    }

    /// Memory of its text, bytes. The name of a destination counts, too: it may be gone but for us.
    pub(super) fn text_bytes(&self) -> u64 {
        let shared = if let Self::Call { destination, .. } = self { destination.len() as u64 } else { 0 };
        match self.text().map(String::capacity) {
            None | Some(0) => shared,
            Some(room) => shared + room as u64 + TEXT_OVERHEAD,
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

//! Trails: what happened to an invocation or a call, decision by decision.
//!
//! A trail is written by whoever holds it and stored when it ends ([`TrailStore`]): with the body of its answer, as a
//! handler may go on calling while it streams. Notes are typed, so that a timeline, a log line and a search read the
//! same facts.

mod notable;
mod search;
mod store;
mod tags;
#[cfg(test)]
mod tests;
mod timeline;
mod verdict;

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

pub use notable::NotableBounds;
pub use search::{Cursor, Order, StatusFilter, TrailQuery};
pub(super) use store::read as read_exported;
pub use store::{TrailRecord, TrailStore, TrailSummary};
pub use tags::TAG;
pub(crate) use tags::{LONGEST as TAG_LENGTH, MOST as TAGS, of_headers as tags_of};
pub use timeline::{AttemptCame, CallSpan, Step, StepKind, Timeline};
pub use verdict::verdict;

use super::note::Note;
use crate::{
    clock,
    ids::{TraceContext, TraceId},
};

/// Whose a trail is, and what it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject<'a> {
    /// Whose it is.
    pub tenant: &'a str,
    /// The function that was invoked and its version; nothing for a call that a program sent through `/to`.
    pub invocation: Option<(&'a str, u64)>,
}

/// How a trail ended.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Ending {
    /// An answer with this status was given whole.
    Status(u16),
    /// One with this status was begun, and not given to its end: it broke off, or whoever asked went away.
    Cut(u16),
    /// Before an answer began, whoever asked went away.
    Cancelled,
}

/// Notes, each with the time since the beginning.
type Notes = SmallVec<[(Duration, Note); INSIDE]>;
/// Of them inside the trail itself.
const INSIDE: usize = 2;

/// Memory that the notes of one trail take at most; later ones are counted only. A guest with 1,000 calls fits.
const NOTE_BYTES: u64 = 1 << 20;

/// Memory of so many notes outside the trail itself, bytes.
fn spilled(room: usize) -> u64 {
    if room > INSIDE { (room * size_of::<(Duration, Note)>()) as u64 } else { 0 }
}

/// What became of a trail's calls and its answer, for whoever searches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// A call was refused: by the gate, or by its upstream to the end.
    pub refused: bool,
    /// A call failed, or the answer broke off.
    pub failed: bool,
}

impl Marks {
    fn see(&mut self, note: &Note) {
        match note {
            Note::Over { came, .. } => {
                self.refused |= came.is_refusal();
                self.failed |= came.is_failure();
            }
            Note::Broke(_) => self.failed = true,
            _ => {}
        }
    }
}

struct Open {
    notes: Notes,
    /// Memory of their texts, bytes.
    texts: u64,
    dropped: u32,
    calls: u32,
    tags: Vec<Box<str>>,
    /// Stated tags that are none of them.
    unkept: u32,
    marks: Marks,
    head: Option<Duration>,
    ended: bool,
}

impl Open {
    fn write(&mut self, at: Duration, note: Note) {
        self.marks.see(&note);
        let (count, room) = (self.notes.len(), self.notes.capacity());
        // As the vector grows.
        let room = if count < room { room } else { (count + 1).next_power_of_two() };
        let texts = self.texts + note.text_bytes();
        if spilled(room) + texts > NOTE_BYTES {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        self.texts = texts;
        self.notes.push((at, note));
    }
}

/// A trail that is still being written. Cheap to clone; all clones write to the same one.
#[derive(Clone)]
pub struct Trail(Arc<Inner>);

struct Inner {
    trace: TraceContext,
    began: Instant,
    began_wall: SystemTime,
    open: Mutex<Open>,
}

impl Trail {
    /// Begins a trail now, of a trace that nobody samples.
    pub fn begin(id: TraceId) -> Self {
        Self::begin_at(Instant::now(), TraceContext::of(id))
    }

    /// Begins a trail of what began a moment ago.
    pub fn begin_at(began: Instant, trace: TraceContext) -> Self {
        Self(Arc::new(Inner {
            trace,
            began,
            began_wall: clock::wall(),
            open: Mutex::new(Open {
                notes: Notes::new(),
                texts: 0,
                dropped: 0,
                calls: 0,
                tags: Vec::new(),
                unkept: 0,
                marks: Marks::default(),
                head: None,
                ended: false,
            }),
        }))
    }

    /// Its id.
    pub fn id(&self) -> TraceId {
        self.0.trace.trace
    }

    /// Writes a decision, with its text cut where it is long. One that comes after the end is lost.
    pub fn note(&self, note: Note) {
        self.note_at(Instant::now(), note);
    }

    /// Writes a decision that was made at this time.
    pub(crate) fn note_at(&self, now: Instant, note: Note) {
        let (at, note) = (now.saturating_duration_since(self.0.began), note.bounded());
        let mut open = self.0.open.lock();
        if !open.ended {
            open.write(at, note);
        }
    }

    /// Keeps tags by which the trail is found again, each once and as many as one may have, and counts those that are not
    /// kept: they, and what stands for one that can't be.
    pub fn tag<'a>(&self, tags: impl Iterator<Item = Option<Cow<'a, str>>>) {
        let mut open = self.0.open.lock();
        for tag in tags {
            if open.ended {
                break;
            }
            match tag {
                Some(tag) if open.tags.iter().any(|known| **known == *tag) => {}
                Some(tag) if open.tags.len() < tags::MOST => open.tags.push(tag.into()),
                _ => open.unkept = open.unkept.saturating_add(1),
            }
        }
    }

    /// Its tags, with commas between; nothing where it has none.
    pub(crate) fn tags(&self) -> Option<String> {
        let open = self.0.open.lock();
        (!open.tags.is_empty()).then(|| open.tags.join(","))
    }

    /// The head of the answer leaves. Says where the time went until now.
    pub fn answered(&self) -> Waits {
        let total = self.0.began.elapsed();
        let mut open = self.0.open.lock();
        let mut waits = Waits { total, unkept: open.unkept, ..Waits::default() };
        open.head = Some(total);
        // From the last wait to the first: they are in the order in which they ended, so all of one that is not counted
        // yet is before all that is.
        let mut counted = total;
        for (at, note) in open.notes.iter().rev() {
            match note {
                Note::Instance { waited, .. } => waits.instance = Some(*waited),
                Note::Admitted { waited, .. } => {
                    let from = at.saturating_sub(*waited);
                    waits.gate += counted.min(*at).saturating_sub(from);
                    counted = counted.min(from);
                }
                _ => {}
            }
        }
        // Calls that wait side by side wait once.
        waits.gate = waits.gate.min(total);
        waits
    }

    /// Numbers a new outbound call, from 1.
    pub fn next_call(&self) -> u32 {
        let mut open = self.0.open.lock();
        open.calls += 1;
        open.calls
    }
}

/// What an invocation or call took, and waited for, and what its sender should know.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waits {
    /// For a place in the pool; nothing where no instance was needed.
    pub instance: Option<Duration>,
    /// At the gate: while one call or more waited there, so that it is never more than the whole.
    pub gate: Duration,
    /// All of it, with the work between.
    pub total: Duration,
    /// Tags that were not kept.
    pub unkept: u32,
}

//! Trails: what happened to an invocation or a call, decision by decision.
//!
//! A trail is written by whoever holds it and stored when it ends, in a ring with a bound in bytes. Notes are typed, so
//! that a timeline, a log line and a search read the same facts.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::ids::{TenantId, TraceId};

/// What a trail is about.
#[derive(Clone, Debug)]
pub enum Subject {
    /// An invocation of a function's version.
    Invocation {
        /// The function.
        function: Arc<str>,
        /// Its version.
        version: u64,
    },
    /// A call that a program sent through `/to`.
    Call,
}

/// One decision, with its reason. Every variant reads as a sentence by `Display`.
#[derive(Clone, Debug)]
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
        /// Time since the call asked.
        waited: Duration,
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
            Self::Admitted { call, waited } => write!(f, "call {call}: let go after {waited:.1?}"),
            Self::Answered { call, attempt, status, first_byte } => {
                write!(f, "call {call}: attempt {attempt} answered {status} in {first_byte:.1?}")
            }
            Self::Failed { call, attempt, why } => write!(f, "call {call}: attempt {attempt} failed, {why}"),
            Self::Decided { call, what } => write!(f, "call {call}: {what}"),
        }
    }
}

/// How a trail ended.
#[derive(Clone, Debug)]
pub enum Ending {
    /// An answer with this status was given.
    Status(u16),
    /// Whoever asked went away first.
    Cancelled,
}

/// A finished trail, as it is kept.
#[derive(Debug)]
pub struct TrailRecord {
    /// Its id, the W3C trace id.
    pub id: TraceId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What it is about.
    pub subject: Subject,
    /// When it began, by the wall clock.
    pub began: SystemTime,
    /// How long it lasted, to the head of the answer or the cancellation.
    pub lasted: Duration,
    /// How it ended.
    pub ending: Ending,
    /// Decisions, each with the time since the beginning.
    pub notes: SmallVec<[(Duration, Note); 2]>,
    /// Notes that were dropped beyond the bound of a trail.
    pub dropped: u32,
}

/// Notes that one trail keeps at most; later ones are counted only. A guest with 1,000 calls fits.
const NOTES: usize = 8_192;

impl TrailRecord {
    fn cost(&self) -> u64 {
        // Texts inside notes are short; their mean is taken rather than a walk over each.
        (size_of::<Self>() + self.notes.len() * (size_of::<(Duration, Note)>() + 48)) as u64
    }
}

struct Open {
    notes: SmallVec<[(Duration, Note); 2]>,
    dropped: u32,
    calls: u32,
    ended: bool,
}

/// A trail that is still being written. Cheap to clone; all clones write to the same one.
#[derive(Clone)]
pub struct Trail(Arc<Inner>);

struct Inner {
    id: TraceId,
    tenant: TenantId,
    subject: Subject,
    began: Instant,
    began_wall: SystemTime,
    open: Mutex<Open>,
}

impl Trail {
    /// Begins a trail now.
    pub fn begin(id: TraceId, tenant: TenantId, subject: Subject) -> Self {
        Self(Arc::new(Inner {
            id,
            tenant,
            subject,
            began: Instant::now(),
            began_wall: SystemTime::now(),
            open: Mutex::new(Open { notes: SmallVec::new(), dropped: 0, calls: 0, ended: false }),
        }))
    }

    /// Its id.
    pub fn id(&self) -> TraceId {
        self.0.id
    }

    /// When it began.
    pub fn began(&self) -> Instant {
        self.0.began
    }

    /// Writes a decision.
    pub fn note(&self, note: Note) {
        let at = self.0.began.elapsed();
        let mut open = self.0.open.lock();
        if open.notes.len() < NOTES {
            open.notes.push((at, note));
        } else {
            open.dropped += 1;
        }
    }

    /// What was waited for so far.
    pub fn waits(&self) -> Waits {
        let mut waits = Waits::default();
        for (_, note) in &self.0.open.lock().notes {
            match note {
                Note::Instance { waited, .. } => waits.instance = Some(*waited),
                Note::Admitted { waited, .. } => waits.gate += *waited,
                _ => {}
            }
        }
        waits
    }

    /// Numbers a new outbound call, from 1.
    pub fn next_call(&self) -> u32 {
        let mut open = self.0.open.lock();
        open.calls += 1;
        open.calls
    }
}

/// What an invocation or call waited for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waits {
    /// For a place in the pool; nothing where no instance was needed.
    pub instance: Option<Duration>,
    /// At the gate, all calls together.
    pub gate: Duration,
}

/// The ring of finished trails.
pub struct TrailStore {
    ring: Mutex<Ring>,
    bound: u64,
}

#[derive(Default)]
struct Ring {
    order: VecDeque<Arc<TrailRecord>>,
    by_id: HashMap<TraceId, Arc<TrailRecord>>,
    bytes: u64,
}

impl TrailStore {
    /// A ring of at most `bound` bytes.
    pub fn new(bound: u64) -> Self {
        Self { ring: Mutex::default(), bound }
    }

    /// Ends a trail and keeps it. Ending it twice keeps the first.
    pub fn finish(&self, trail: &Trail, ending: Ending) {
        let lasted = trail.0.began.elapsed();
        let (notes, dropped) = {
            let mut open = trail.0.open.lock();
            if open.ended {
                return;
            }
            open.ended = true;
            (std::mem::take(&mut open.notes), open.dropped)
        };
        let record = Arc::new(TrailRecord {
            id: trail.0.id,
            tenant: trail.0.tenant.clone(),
            subject: trail.0.subject.clone(),
            began: trail.0.began_wall,
            lasted,
            ending,
            notes,
            dropped,
        });
        let mut ring = self.ring.lock();
        ring.bytes += record.cost();
        ring.by_id.insert(record.id, Arc::clone(&record));
        ring.order.push_back(record);
        while ring.bytes > self.bound {
            let Some(oldest) = ring.order.pop_front() else { break };
            ring.bytes -= oldest.cost();
            // A trace may have several trails; only the one that leaves goes.
            if ring.by_id.get(&oldest.id).is_some_and(|kept| Arc::ptr_eq(kept, &oldest)) {
                ring.by_id.remove(&oldest.id);
            }
        }
    }

    /// A finished trail by its id, for its own tenant.
    pub fn get(&self, tenant: &TenantId, id: TraceId) -> Option<Arc<TrailRecord>> {
        self.ring.lock().by_id.get(&id).filter(|record| record.tenant == *tenant).cloned()
    }

    /// The newest `limit` trails of a tenant, newest first.
    pub fn recent(&self, tenant: &TenantId, limit: usize) -> Vec<Arc<TrailRecord>> {
        self.ring.lock().order.iter().rev().filter(|record| record.tenant == *tenant).take(limit).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_forgets_the_oldest_trail_first_and_its_id_with_it() {
        let subject = Subject::Call;
        let trail = || Trail::begin(TraceId::random(), "t".into(), subject.clone());
        let first = trail();
        let store = TrailStore::new(3 * size_of::<TrailRecord>() as u64);
        store.finish(&first, Ending::Status(200));
        assert!(store.get(&"t".into(), first.id()).is_some());
        for _ in 0..3 {
            store.finish(&trail(), Ending::Status(200));
        }
        assert!(store.get(&"t".into(), first.id()).is_none());
        assert_eq!(store.recent(&"t".into(), 10).len(), 3);
    }

    #[test]
    fn notes_keep_their_order_and_read_as_sentences() {
        let trail = Trail::begin(TraceId::random(), "t".into(), Subject::Call);
        let call = trail.next_call();
        trail.note(Note::Queued { call, why: "10/s".into() });
        trail.note(Note::Decided { call, what: "put back at no cost".into() });
        let store = TrailStore::new(1 << 20);
        store.finish(&trail, Ending::Status(200));
        let kept = store.get(&"t".into(), trail.id()).unwrap();
        let texts: Vec<_> = kept.notes.iter().map(|(_, note)| note.to_string()).collect();
        assert_eq!(texts, ["call 1: queued, 10/s", "call 1: put back at no cost"]);
    }
}

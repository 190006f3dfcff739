//! Trails: what happened to an invocation or a call, decision by decision.
//!
//! A trail is written by whoever holds it and stored when it ends, in a ring with a bound in bytes: with the body of its
//! answer, as a handler may go on calling while it streams. Notes are typed, so that a timeline, a log line and a search
//! read the same facts.

use std::{
    cmp::Reverse,
    collections::VecDeque,
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use crate::ids::{FunctionName, TenantId, TraceId};

/// What a trail is about.
#[derive(Clone, Debug)]
pub enum Subject {
    /// An invocation of a function's version.
    Invocation {
        /// The function.
        function: FunctionName,
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

/// How a trail ended.
#[derive(Clone, Debug)]
pub enum Ending {
    /// An answer with this status was given whole.
    Status(u16),
    /// One with this status was begun, and not given to its end: it broke off, or whoever asked went away.
    Cut(u16),
    /// Before an answer began, whoever asked went away.
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
    /// Time to the head of the answer, where there was one.
    pub head: Option<Duration>,
    /// How long it lasted, to the end of the answer or the cancellation.
    pub lasted: Duration,
    ended: Instant,
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
    head: Option<Duration>,
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
        Self::begin_at(Instant::now(), id, tenant, subject)
    }

    /// Begins a trail of what began a moment ago.
    pub fn begin_at(began: Instant, id: TraceId, tenant: TenantId, subject: Subject) -> Self {
        Self(Arc::new(Inner {
            id,
            tenant,
            subject,
            began,
            began_wall: SystemTime::now(),
            open: Mutex::new(Open { notes: SmallVec::new(), dropped: 0, calls: 0, head: None, ended: false }),
        }))
    }

    /// Its id.
    pub fn id(&self) -> TraceId {
        self.0.id
    }

    /// Writes a decision. One that comes after the end is lost.
    pub fn note(&self, note: Note) {
        let at = self.0.began.elapsed();
        let mut open = self.0.open.lock();
        if open.ended {
            return;
        }
        if open.notes.len() < NOTES {
            open.notes.push((at, note));
        } else {
            open.dropped += 1;
        }
    }

    /// The head of the answer leaves. Says where the time went until now.
    pub fn answered(&self) -> Waits {
        let total = self.0.began.elapsed();
        let mut waits = Waits { total, ..Waits::default() };
        let mut open = self.0.open.lock();
        open.head = Some(total);
        for (_, note) in &open.notes {
            match note {
                Note::Instance { waited, .. } => waits.instance = Some(*waited),
                Note::Admitted { waited, .. } => waits.gate += *waited,
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

/// What an invocation or call took, and waited for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waits {
    /// For a place in the pool; nothing where no instance was needed.
    pub instance: Option<Duration>,
    /// At the gate, all calls together.
    pub gate: Duration,
    /// All of it, with the work between.
    pub total: Duration,
}

/// Rings that a store's bytes are divided among. Every request ends in one: on one lock the threads would meet.
const RINGS: usize = 16;

/// The rings of finished trails.
pub struct TrailStore {
    rings: [Mutex<Ring>; RINGS],
    /// Of one ring, bytes.
    bound: u64,
}

/// Its trails, the oldest first. One is looked for from the end: people ask rarely, and every request would pay for an
/// index.
#[derive(Default)]
struct Ring {
    trails: VecDeque<Kept>,
    bytes: u64,
}

/// What is asked of many trails is beside their records, which are cold by then.
struct Kept {
    id: TraceId,
    bytes: u64,
    record: Arc<TrailRecord>,
}

impl Ring {
    fn push(&mut self, record: Arc<TrailRecord>) {
        let bytes = record.cost();
        self.bytes += bytes;
        self.trails.push_back(Kept { id: record.id, bytes, record });
    }

    /// The oldest, taken out where the ring is over its bound.
    fn pop_beyond(&mut self, bound: u64) -> Option<Arc<TrailRecord>> {
        if self.bytes <= bound {
            return None;
        }
        let oldest = self.trails.pop_front()?;
        self.bytes -= oldest.bytes;
        Some(oldest.record)
    }

    fn newest_first(&self) -> impl Iterator<Item = &Kept> {
        self.trails.iter().rev()
    }
}

impl TrailStore {
    /// Keeps at most `bound` bytes.
    pub fn new(bound: u64) -> Self {
        Self { rings: Default::default(), bound: bound / RINGS as u64 }
    }

    /// Whoever chooses trace ids so that they meet in one ring has only that ring's bytes.
    fn ring(&self, id: TraceId) -> &Mutex<Ring> {
        let [first, ..] = &self.rings;
        // Tracers put the time into the upper half, and ours sets the lowest bit.
        self.rings.get((id.0 >> 8) as usize % RINGS).unwrap_or(first)
    }

    /// Ends a trail and keeps it. Ending it twice keeps the first.
    pub fn finish(&self, trail: &Trail, ending: Ending) {
        let ended = Instant::now();
        let (notes, dropped, head) = {
            let mut open = trail.0.open.lock();
            if open.ended {
                return;
            }
            open.ended = true;
            (std::mem::take(&mut open.notes), open.dropped, open.head)
        };
        let record = Arc::new(TrailRecord {
            id: trail.0.id,
            tenant: trail.0.tenant.clone(),
            subject: trail.0.subject.clone(),
            began: trail.0.began_wall,
            head,
            lasted: ended.duration_since(trail.0.began),
            ended,
            ending,
            notes,
            dropped,
        });
        let mut ring = self.ring(record.id).lock();
        ring.push(record);
        while let Some(gone) = ring.pop_beyond(self.bound) {
            // Freed while nobody waits for the ring.
            MutexGuard::unlocked(&mut ring, || drop(gone));
        }
    }

    /// The finished trail of a trace that ended last, for its own tenant.
    pub fn get(&self, tenant: &TenantId, id: TraceId) -> Option<Arc<TrailRecord>> {
        self.of_trace(tenant, id, 1).pop()
    }

    /// The newest `limit` finished trails of a trace, for their own tenant, newest first: an agent's steps share one.
    pub fn of_trace(&self, tenant: &TenantId, id: TraceId, limit: usize) -> Vec<Arc<TrailRecord>> {
        let ring = self.ring(id).lock();
        let of_trace = ring.newest_first().filter(|kept| kept.id == id).map(|kept| &kept.record);
        of_trace.filter(|record| record.tenant == *tenant).take(limit).cloned().collect()
    }

    /// The newest `limit` trails of a tenant, newest first.
    pub fn recent(&self, tenant: &TenantId, limit: usize) -> Vec<Arc<TrailRecord>> {
        let mut newest = Vec::new();
        for ring in &self.rings {
            let ring = ring.lock();
            let trails = ring.newest_first().map(|kept| &kept.record);
            newest.extend(trails.filter(|record| record.tenant == *tenant).take(limit).cloned());
        }
        newest.sort_by_key(|record| Reverse(record.ended));
        newest.truncate(limit);
        newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(store: &TrailStore, id: u128) -> Trail {
        let trail = Trail::begin(TraceId(id), "t".into(), Subject::Call);
        store.finish(&trail, Ending::Status(200));
        trail
    }

    #[test]
    fn a_ring_forgets_the_oldest_trail_first_and_its_id_with_it() {
        let store = TrailStore::new((RINGS * 3 * size_of::<TrailRecord>()) as u64);
        let first = finished(&store, 1);
        assert!(store.get(&"t".into(), first.id()).is_some());
        let in_its_ring = |number: u128| number << 32 | 1;
        for number in 1..=3 {
            finished(&store, in_its_ring(number));
        }
        assert!(store.get(&"t".into(), first.id()).is_none());
        assert_eq!(store.recent(&"t".into(), 10).len(), 3);
    }

    #[test]
    fn the_newest_come_first_whatever_ring_they_are_in() {
        let store = TrailStore::new(1 << 20);
        let ids: Vec<_> = (1..=100).map(|number| finished(&store, number << 8 | 1).id()).collect();
        let recent: Vec<_> = store.recent(&"t".into(), 30).iter().map(|record| record.id).collect();
        assert_eq!(recent, ids.into_iter().rev().take(30).collect::<Vec<_>>());
        assert!(store.recent(&"other".into(), 30).is_empty());
    }

    #[test]
    fn what_is_noted_after_the_head_is_kept_and_after_the_end_is_not() {
        let (store, trail) = (TrailStore::new(1 << 20), Trail::begin(TraceId::random(), "t".into(), Subject::Call));
        trail.note(Note::Guest("before".into()));
        let waits = trail.answered();
        trail.note(Note::Guest("streaming".into()));
        store.finish(&trail, Ending::Cut(200));
        trail.note(Note::Guest("late".into()));
        let kept = store.get(&"t".into(), trail.id()).unwrap();
        assert_eq!(kept.notes.len(), 2);
        assert_eq!(kept.head, Some(waits.total));
        assert!(kept.lasted >= waits.total);
        assert!(trail.0.open.lock().notes.is_empty(), "what nobody will read is not held");
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

//! Trails: what happened to an invocation or a call, decision by decision.
//!
//! A trail is written by whoever holds it and stored when it ends, in a ring with a bound in bytes: with the body of its
//! answer, as a handler may go on calling while it streams. Notes are typed, so that a timeline, a log line and a search
//! read the same facts.

use std::{
    cmp::Reverse,
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use super::note::Note;
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
    pub notes: Notes,
    /// Notes that were dropped beyond the bound of a trail.
    pub dropped: u32,
    /// Memory of the notes' texts, bytes.
    texts: u64,
}

/// Notes, each with the time since the beginning.
type Notes = SmallVec<[(Duration, Note); INSIDE]>;
/// Of them inside the trail itself.
const INSIDE: usize = 2;

/// Memory that the notes of one trail take at most; later ones are counted only. A guest with 1,000 calls fits.
const NOTE_BYTES: u64 = 1 << 20;
/// What the allocator adds to a record, and its counts of references.
const RECORD_OVERHEAD: u64 = 32;

/// Memory of so many notes outside the trail itself, bytes.
fn spilled(room: usize) -> u64 {
    if room > INSIDE { (room * size_of::<(Duration, Note)>()) as u64 } else { 0 }
}

impl TrailRecord {
    /// All of its memory, bytes. Names are shared with what they name.
    fn cost(&self) -> u64 {
        size_of::<Self>() as u64 + RECORD_OVERHEAD + spilled(self.notes.capacity()) + self.texts
    }
}

struct Open {
    notes: Notes,
    /// Memory of their texts, bytes.
    texts: u64,
    dropped: u32,
    calls: u32,
    head: Option<Duration>,
    ended: bool,
}

impl Open {
    fn write(&mut self, at: Duration, note: Note) {
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
            open: Mutex::new(Open { notes: Notes::new(), texts: 0, dropped: 0, calls: 0, head: None, ended: false }),
        }))
    }

    /// Its id.
    pub fn id(&self) -> TraceId {
        self.0.id
    }

    /// Writes a decision, with its text cut where it is long. One that comes after the end is lost.
    pub fn note(&self, note: Note) {
        let (at, note) = (self.0.began.elapsed(), note.bounded());
        let mut open = self.0.open.lock();
        if !open.ended {
            open.write(at, note);
        }
    }

    /// The head of the answer leaves. Says where the time went until now.
    pub fn answered(&self) -> Waits {
        let total = self.0.began.elapsed();
        let mut waits = Waits { total, ..Waits::default() };
        let mut open = self.0.open.lock();
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

/// What an invocation or call took, and waited for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waits {
    /// For a place in the pool; nothing where no instance was needed.
    pub instance: Option<Duration>,
    /// At the gate: while one call or more waited there, so that it is never more than the whole.
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

    /// Its memory, with the room for trails that it has.
    fn held(&self) -> u64 {
        self.bytes + (self.trails.capacity() * size_of::<Kept>()) as u64
    }

    /// The oldest, taken out where the ring is over its bound.
    fn pop_beyond(&mut self, bound: u64) -> Option<Arc<TrailRecord>> {
        if self.held() <= bound {
            return None;
        }
        let oldest = self.trails.pop_front()?;
        self.bytes -= oldest.bytes;
        // After many small ones, room for them would keep fewer large ones than there is memory for.
        if self.trails.capacity() / 4 > self.trails.len() {
            self.trails.shrink_to(self.trails.len() * 2);
        }
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
        let (notes, texts, dropped, head) = {
            let mut open = trail.0.open.lock();
            if open.ended {
                return;
            }
            open.ended = true;
            (std::mem::take(&mut open.notes), open.texts, open.dropped, open.head)
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
            texts,
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

    /// The newest `limit` trails of a tenant that are wanted, newest first.
    pub fn recent(
        &self,
        tenant: &TenantId,
        limit: usize,
        wanted: impl Fn(&TrailRecord) -> bool,
    ) -> Vec<Arc<TrailRecord>> {
        let mut newest = Vec::new();
        for ring in &self.rings {
            let ring = ring.lock();
            let trails = ring.newest_first().map(|kept| &kept.record);
            newest.extend(trails.filter(|record| record.tenant == *tenant && wanted(record)).take(limit).cloned());
        }
        newest.sort_by_key(|record| Reverse(record.ended));
        newest.truncate(limit);
        newest
    }
}

#[cfg(test)]
mod tests;

//! Finished trails, within a bound in bytes.
//!
//! Every request ends in one and hardly any is ever read, so they are kept as a log keeps its lines: one behind the
//! other in chunks of memory, of which the oldest is written over. As objects of their own each would be freed when its
//! memory had been cold for long, and wait for it.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{
    Ending, Marks, Subject, Trail,
    notable::{Candidate, Notable, NotableBounds},
    search::{Found, Order, TrailQuery},
};
use crate::{
    clock,
    ids::{FunctionName, TraceId},
    observe::{
        Note,
        otlp::{self, ExportCounts},
    },
};

/// Rings that a store's bytes are divided among: on one lock the threads would meet.
const RINGS: usize = 16;
/// Bytes of a chunk, where the ring has room for several of them.
const CHUNK: u64 = 64 << 10;
/// Chunks that a small ring has at least.
const CHUNKS: u64 = 8;
/// What a chunk takes besides its bytes: its place in the ring, its counts of references, what the allocator adds.
const CHUNK_OVERHEAD: u64 = 96;

/// A finished trail without its notes.
#[derive(Debug)]
pub struct TrailSummary {
    /// Its id, the W3C trace id.
    pub id: TraceId,
    /// The function that was invoked and its version; nothing for a call that a program sent through `/to`.
    pub invocation: Option<(FunctionName, u64)>,
    /// When it began, by the wall clock.
    pub began: SystemTime,
    /// Time to the head of the answer, where there was one.
    pub head: Option<Duration>,
    /// How long it lasted, to the end of the answer or the cancellation.
    pub lasted: Duration,
    pub(super) ended: u64,
    /// How it ended.
    pub ending: Ending,
    /// What became of its calls.
    pub marks: Marks,
    /// What it was tagged with.
    pub tags: Vec<String>,
    /// How many notes it has.
    pub notes: u32,
    /// Notes that were dropped beyond the bound of a trail.
    pub dropped: u32,
}

/// A finished trail.
#[derive(Debug)]
pub struct TrailRecord {
    /// What is said of it where many are listed.
    pub summary: TrailSummary,
    /// Decisions, each with the time since the beginning.
    pub notes: Vec<(Duration, Note)>,
}

/// The rings of finished trails.
pub struct TrailStore {
    rings: [Mutex<Ring>; RINGS],
    /// Of one ring, bytes.
    bound: u64,
    /// Of one ring.
    notable: NotableBounds,
    subjects: RandomState,
    export: Option<Export>,
}

/// Where trails of sampled traces go besides.
struct Export {
    queue: Arc<otlp::Queue>,
    counts: Arc<ExportCounts>,
}

/// A trail as it lies in its chunk, behind its [`Prefix`] and in front of its notes.
#[derive(Serialize, Deserialize)]
pub(super) struct Kept<'a> {
    #[serde(borrow)]
    pub(super) subject: Subject<'a>,
    /// Since 1970.
    pub(super) began: Duration,
    head: Option<Duration>,
    lasted: Duration,
    /// In [`clock::nanos`].
    pub(super) ended: u64,
    pub(super) ending: Ending,
    pub(super) marks: Marks,
    #[serde(borrow)]
    pub(super) tags: Vec<&'a str>,
    notes: u32,
    dropped: u32,
}

/// What is looked at of every trail that is not wanted: the bytes that follow, and the id.
struct Prefix;

impl Prefix {
    const LENGTH: usize = 4;
    const SIZE: usize = Self::LENGTH + 16;

    /// The trails of a chunk, each with its id and what is kept of it, the oldest first.
    fn split(mut chunk: &[u8]) -> impl Iterator<Item = (TraceId, &[u8])> {
        std::iter::from_fn(move || {
            let (length, rest) = chunk.split_first_chunk()?;
            let (id, rest) = rest.split_first_chunk()?;
            let (kept, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            chunk = rest;
            Some((TraceId(u128::from_le_bytes(*id)), kept))
        })
    }
}

/// Bytes that a trail is written to.
struct Bytes(Vec<u8>);

impl postcard::ser_flavors::Flavor for Bytes {
    type Output = Vec<u8>;

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<Vec<u8>> {
        Ok(self.0)
    }
}

fn write(id: TraceId, kept: &Kept<'_>, notes: &[(Duration, Note)]) -> postcard::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(&[0; Prefix::LENGTH]);
    bytes.extend_from_slice(&{ id.0 }.to_le_bytes());
    let mut bytes = postcard::serialize_with_flavor(kept, Bytes(bytes))?;
    for note in notes {
        bytes = postcard::serialize_with_flavor(note, Bytes(bytes))?;
    }
    let length = u32::try_from(bytes.len() - Prefix::SIZE).map_err(|_| postcard::Error::SerializeBufferFull)?;
    if let Some(prefix) = bytes.first_chunk_mut() {
        *prefix = length.to_le_bytes();
    }
    Ok(bytes)
}

/// A trail as [`write`] wrote it.
pub(in crate::observe) fn read(bytes: &[u8]) -> Option<TrailRecord> {
    let (id, kept) = Prefix::split(bytes).next()?;
    let (kept, notes) = Kept::read(kept)?;
    Some(kept.record(id, notes))
}

impl Kept<'_> {
    fn read(bytes: &[u8]) -> Option<(Kept<'_>, &[u8])> {
        postcard::take_from_bytes(bytes).ok()
    }

    /// Time to the head of the answer, or in all where there was none.
    pub(super) fn took(&self) -> Duration {
        self.head.unwrap_or(self.lasted)
    }

    /// Whether people look for it more than for others.
    fn failed(&self) -> bool {
        let failed = matches!(self.ending, Ending::Status(429 | 500..) | Ending::Cut(500..));
        failed || self.marks.refused || self.marks.failed
    }

    fn summary(&self, id: TraceId) -> TrailSummary {
        TrailSummary {
            id,
            invocation: self.subject.invocation.map(|(function, version)| (function.into(), version)),
            began: SystemTime::UNIX_EPOCH + self.began,
            head: self.head,
            lasted: self.lasted,
            ended: self.ended,
            ending: self.ending,
            marks: self.marks,
            tags: self.tags.iter().map(|tag| (*tag).to_owned()).collect(),
            notes: self.notes,
            dropped: self.dropped,
        }
    }

    /// The notes that follow.
    pub(super) fn notes(&self, mut notes: &[u8]) -> impl Iterator<Item = (Duration, Note)> {
        let next = move |_| {
            let (note, rest) = postcard::take_from_bytes(notes).ok()?;
            notes = rest;
            Some(note)
        };
        (0..self.notes).map_while(next)
    }

    /// The whole trail.
    fn record(&self, id: TraceId, notes: &[u8]) -> TrailRecord {
        TrailRecord { summary: self.summary(id), notes: self.notes(notes).collect() }
    }
}

/// Chunks of trails, the oldest first.
#[derive(Default)]
struct Ring {
    /// Shared with whoever reads, who must not keep requests from ending.
    full: VecDeque<Arc<Vec<u8>>>,
    /// The one that is written to.
    open: Vec<u8>,
    /// Memory of the full ones, bytes.
    bytes: u64,
    /// Those that are kept beside.
    notable: Notable,
}

/// Memory of a chunk with so much room, bytes.
fn cost(room: usize) -> u64 {
    if room == 0 { 0 } else { room as u64 + CHUNK_OVERHEAD }
}

impl Ring {
    /// Keeps a trail, and forgets the oldest where there is no room for it otherwise. One that is beyond the bound alone
    /// is not kept.
    fn push(&mut self, trail: &[u8], bound: u64) {
        if self.open.capacity() - self.open.len() < trail.len() {
            let room = trail.len().max((bound / CHUNKS).saturating_sub(CHUNK_OVERHEAD).min(CHUNK) as usize);
            if cost(room) > bound {
                return;
            }
            self.begin_chunk(room, bound);
        }
        self.open.extend_from_slice(trail);
    }

    fn begin_chunk(&mut self, room: usize, bound: u64) {
        let full = std::mem::take(&mut self.open);
        if full.capacity() > 0 {
            self.bytes += cost(full.capacity());
            self.full.push_back(Arc::new(full));
        }
        while self.bytes + cost(room) > bound {
            let Some(oldest) = self.full.pop_front() else { break };
            self.bytes -= cost(oldest.capacity());
            // Its memory serves again, if nobody reads it just now.
            if oldest.capacity() == room
                && let Some(mut oldest) = Arc::into_inner(oldest)
            {
                oldest.clear();
                self.open = oldest;
            }
        }
        if self.open.capacity() != room {
            self.open = Vec::with_capacity(room);
        }
    }

    /// Its memory.
    #[cfg(test)]
    fn held(&self) -> u64 {
        self.bytes + cost(self.open.capacity()) + self.notable.held()
    }
}

/// Shows all trails of a ring that have an id that is wanted: the newest first, until that is enough, then the notable
/// ones.
fn visit(
    ring: &Mutex<Ring>,
    is_wanted: impl Fn(TraceId) -> bool,
    mut see: impl FnMut(TraceId, &Kept<'_>, &[u8]) -> ControlFlow<()>,
) {
    let (chunks, notable) = {
        let ring = ring.lock();
        let chunks: Vec<_> = ring.full.iter().cloned().chain([Arc::new(ring.open.clone())]).collect();
        (chunks, ring.notable.all().cloned().collect::<Vec<_>>())
    };
    let mut see = |(id, kept): (TraceId, &[u8])| match Kept::read(kept) {
        Some((kept, notes)) => see(id, &kept, notes),
        None => ControlFlow::Continue(()),
    };
    let _ = chunks.iter().rev().try_for_each(|chunk| {
        let trails: Vec<_> = Prefix::split(chunk).filter(|(id, _)| is_wanted(*id)).collect();
        trails.into_iter().rev().try_for_each(&mut see)
    });
    for trail in notable.iter().flat_map(|trail| Prefix::split(trail)).filter(|(id, _)| is_wanted(*id)) {
        // The order is none, so nothing is enough.
        let _ = see(trail);
    }
}

impl TrailStore {
    /// Keeps at most `bound` bytes, besides chunks that were written over while somebody read them, and the notable ones.
    pub fn new(bound: u64, notable: NotableBounds) -> Self {
        Self {
            rings: Default::default(),
            bound: bound / RINGS as u64,
            notable: notable.part(RINGS),
            subjects: RandomState::new(),
            export: None,
        }
    }

    /// Leaves trails of sampled traces in a queue besides.
    pub(in crate::observe) fn export(self, queue: Arc<otlp::Queue>, counts: Arc<ExportCounts>) -> Self {
        Self { export: Some(Export { queue, counts }), ..self }
    }

    /// Whoever chooses trace ids so that they meet in one ring has only that ring's bytes.
    fn ring(&self, id: TraceId) -> &Mutex<Ring> {
        let [first, ..] = &self.rings;
        // Tracers put the time into the upper half, and ours sets the lowest bit.
        self.rings.get((id.0 >> 8) as usize % RINGS).unwrap_or(first)
    }

    /// Ends a trail and keeps it. Ending it twice keeps the first.
    pub fn finish(&self, trail: &Trail, subject: Subject<'_>, ending: Ending) {
        let ended = Instant::now();
        let trail = &trail.0;
        let (notes, dropped, head, tags, marks) = {
            let mut open = trail.open.lock();
            if open.ended {
                return;
            }
            open.ended = true;
            let (notes, tags) = (std::mem::take(&mut open.notes), std::mem::take(&mut open.tags));
            (notes, open.dropped, open.head, tags, open.marks)
        };
        let kept = Kept {
            subject,
            began: trail.began_wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            head,
            lasted: ended.duration_since(trail.began),
            ended: clock::nanos_at(ended),
            ending,
            marks,
            tags: tags.iter().map(|tag| &**tag).collect(),
            notes: notes.len() as u32,
            dropped,
        };
        // Only the length of a trail could fail, which its bound in bytes keeps far below what fits.
        let id = trail.trace.trace;
        let Ok(bytes) = write(id, &kept, &notes) else { return };
        let candidate = Candidate {
            hour: (kept.began + kept.lasted).as_secs() / 3600,
            subject: self.subjects.hash_one((subject.tenant, about(&subject, &notes))),
            failed: kept.failed(),
            took: kept.took(),
            bytes: &bytes,
        };
        if let Some(Export { queue, counts }) = self.export.as_ref().filter(|_| trail.trace.sampled)
            && !queue.offer(trail.trace, &bytes)
        {
            counts.dropped(1);
        }
        let mut ring = self.ring(id).lock();
        ring.push(&bytes, self.bound);
        ring.notable.offer(&candidate, &self.notable);
    }

    /// The finished trail of a trace that ended last, for its own tenant.
    pub fn get(&self, tenant: &str, id: TraceId) -> Option<TrailRecord> {
        self.of_trace(tenant, id, 1).pop()
    }

    /// The newest `limit` finished trails of a trace, for their own tenant, newest first: an agent's steps share one.
    pub fn of_trace(&self, tenant: &str, id: TraceId, limit: usize) -> Vec<TrailRecord> {
        let mut found = Found::new(Order::Newest, limit);
        visit(
            self.ring(id),
            |other| other == id,
            |id, kept, notes| {
                if kept.subject.tenant == tenant {
                    found.add(id, kept, || kept.record(id, notes));
                }
                ControlFlow::Continue(())
            },
        );
        found.into_vec()
    }

    /// Trails of a tenant that are wanted, in the order that is asked for. Where few are, it looks through all that are
    /// kept.
    pub fn search(&self, tenant: &str, query: &TrailQuery) -> Vec<TrailSummary> {
        let mut found = Found::new(query.order, query.limit);
        for ring in &self.rings {
            let mut of_ring = 0;
            visit(
                ring,
                |_| true,
                |id, kept, notes| {
                    if !query.wants(tenant, id, kept, notes) {
                        return ControlFlow::Continue(());
                    }
                    found.add(id, kept, || kept.summary(id));
                    of_ring += 1;
                    let is_enough = of_ring >= query.limit && query.order == Order::Newest;
                    if is_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                },
            );
        }
        found.into_vec()
    }

    /// All of its memory, bytes.
    #[cfg(test)]
    pub(super) fn held(&self) -> u64 {
        self.rings.iter().map(|ring| ring.lock().held()).sum()
    }
}

/// What of a trail's own the notable ones are counted by: the function, or the destination of the first call. All that is
/// not configured counts as one, or whoever calls could make any number.
fn about<'a>(subject: &Subject<'a>, notes: &'a [(Duration, Note)]) -> (u8, &'a str) {
    let destination = || {
        notes.iter().find_map(|(_, note)| match note {
            Note::Call { destination, configured: true, .. } => Some(&**destination),
            _ => None,
        })
    };
    match subject.invocation {
        Some((function, _)) => (0, function),
        None => (1, destination().unwrap_or_default()),
    }
}

#[cfg(test)]
pub(super) fn full_chunks(store: &TrailStore, id: TraceId) -> Vec<Arc<Vec<u8>>> {
    store.ring(id).lock().full.iter().cloned().collect()
}

#[cfg(test)]
pub(super) fn ids(chunk: &[u8]) -> Vec<TraceId> {
    Prefix::split(chunk).map(|(id, _)| id).collect()
}

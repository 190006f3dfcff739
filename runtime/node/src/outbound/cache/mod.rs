//! Stored answers of destinations that opted in (`"cache": {"enabled": true}`).
//!
//! A shared cache by RFC 9111, in front of the actors: what it answers costs no limit, no attempt, and meets no queue, and
//! when a destination is paused or fails it has an answer where there would be a refusal. `core::cache` has the rules of
//! use, `rules` asks a library what may be stored, `door::cached` is the way of a call through all of it.
//!
//! **Two steps to an answer.** A resource (tenant, destination, URI) has a mark: a random number, and which headers its
//! answers vary by. An answer is found by that number, by the values of those headers, and by all that could be a
//! credential of who asks (`key`). To forget a resource, for everybody who ever asked for it, is to give its mark another
//! number. A mark that is pushed out or lost takes its answers with it; nothing makes them appear again. A destination is forgotten likewise, by the number of times it was (`purges`).
//!
//! **Nobody waits for the cache.** A body is stored while it goes to its client (`fill`); memory is bounded (`cache_memory`,
//! of which a quarter is for answers on their way and those that slow clients read yet: `memory`), so is one object
//! (`cache_object`), so are the files (`cache_disk`); a
//! disk that fails makes misses, is counted, and told once. Equal requests wait for one of them (`flight`), each for as
//! long as its own deadline lets it.

mod fill;
mod flight;
mod key;
mod memory;
mod purges;
mod rules;
mod store;
mod stored;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header};
use parking_lot::Mutex;
use tidegate_core::cache::{self as core, Answer, Demand};

pub(crate) use fill::{Kept, Unkept, tee};
use flight::Flights;
pub(crate) use flight::{Follower, Landed, Lead, Place};
pub(crate) use key::Scope;
use key::{Key, Variant};
use memory::Memory;
pub(crate) use memory::StoredBody;
use purges::Purges;
use store::Store;
pub(crate) use stored::Stored;
use stored::{Mark, Slot};

use super::Origin;
use crate::{clock, observe::CacheMetrics, settings::OutboundSettings};

/// How long equal requests for something that could not be stored no longer wait for each other (no setting: then one
/// finds out again).
const PASS: Duration = Duration::from_secs(60);

/// What the configuration of a destination says about stored answers.
#[derive(Debug)]
pub(crate) struct Caching {
    /// Whose they are.
    pub(crate) scope: Scope,
    /// Stale use where the upstream is silent about it.
    pub(crate) stale: core::Stale,
    /// Headers of requests that say nothing about who asks, beside those that never do.
    pub(crate) ignored: Box<[HeaderName]>,
    /// Headers that split the destination: they always tell requests apart.
    pub(crate) splits: Box<[HeaderName]>,
}

/// The stored answers of a node.
pub struct Cache {
    store: Store,
    purges: Purges,
    flights: Arc<Flights>,
    /// Held while a mark is read and written again, never across an await.
    marking: Mutex<()>,
    /// Of all bodies: stored, on their way, or read yet.
    memory: Arc<Memory>,
    /// Largest body that is stored, bytes (setting `cache_object`).
    object: u64,
    metrics: CacheMetrics,
}

/// A request as the cache sees it.
pub(crate) struct Request<'a> {
    pub(crate) caching: &'a Caching,
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) demand: &'a Demand,
}

/// What is there for a request.
pub(crate) struct Found {
    resource: Key,
    generation: u64,
    credentials: Key,
    /// What equal requests have in common, as far as it is known yet.
    pub(crate) variant: Variant,
    pub(crate) stored: Option<Arc<Stored>>,
    /// Requests for it go by themselves.
    pub(crate) passes: bool,
}

impl Cache {
    /// The least that files may have, bytes: so many of the smallest blocks.
    pub const SMALLEST_DISK: u64 = store::SMALLEST;

    /// The cache of a node; nothing where `cache_memory` is 0. `directory`: where its files are, if it has any. What is
    /// wrong with them is told, and the cache does without.
    pub async fn open(
        settings: &OutboundSettings,
        directory: Option<&Path>,
        metrics: CacheMetrics,
    ) -> Option<Arc<Self>> {
        let memory = settings.cache_memory.get();
        if memory == 0 {
            return None;
        }
        let directory = directory.filter(|_| settings.cache_disk.get() > 0);
        let store = Store::open(memory - memory / 4, settings.cache_disk.get(), directory, metrics.clone()).await?;
        let purges = Purges::open(directory.filter(|_| store.has_disk()));
        Some(Arc::new(Self {
            store,
            purges,
            flights: Arc::default(),
            marking: Mutex::default(),
            memory: Memory::new(memory, metrics.held_bytes.clone()),
            object: settings.cache_object.get(),
            metrics,
        }))
    }

    /// Writes out what waits to be written.
    pub async fn close(&self) {
        self.store.close().await;
    }

    /// Looks for an answer to a request.
    pub(crate) async fn find(&self, request: &Request<'_>) -> Option<Found> {
        let origin = Origin::of(request.uri).ok()?;
        let resource =
            key::resource(&request.caching.scope, self.purges.count(&request.caching.scope), &origin, request.uri);
        let mark = match self.store.get(&resource).await {
            Some(Slot::Mark(mark)) => Some(mark),
            _ => None,
        };
        let credentials = key::credentials(request.caching, request.headers);
        let (generation, passes) = match &mark {
            Some(mark) => (mark.generation, mark.passes(clock::wall())),
            None => (self.mark(&resource), false),
        };
        let vary = mark.as_deref().map_or(&[][..], |mark| &mark.vary);
        let variant = key::variant(generation, &credentials, vary, request.headers);
        let stored = match mark {
            None => None,
            Some(_) => self.answer(&variant).await,
        };
        Some(Found { resource, generation, credentials, variant, stored, passes })
    }

    async fn answer(&self, variant: &Variant) -> Option<Arc<Stored>> {
        match self.store.get(&variant.0).await {
            Some(Slot::Answer(stored)) => self.held(stored),
            _ => None,
        }
    }

    /// What a file gave has room, or it is not there.
    fn held(&self, stored: Arc<Stored>) -> Option<Arc<Stored>> {
        if stored.body.hold(&self.memory) {
            return Some(stored);
        }
        self.metrics.unstored.inc();
        None
    }

    /// What came into memory since somebody looked for it.
    pub(crate) fn again(&self, found: &Found) -> Option<Arc<Stored>> {
        match self.store.peek(&found.variant.0) {
            Some(Slot::Answer(stored)) => self.held(stored),
            _ => None,
        }
    }

    /// Makes a mark where there is none. It is in memory only, until something is stored by it.
    fn mark(&self, resource: &Key) -> u64 {
        let _marking = self.marking.lock();
        if let Some(Slot::Mark(mark)) = self.store.peek(resource) {
            return mark.generation;
        }
        let mark = Mark::new();
        let generation = mark.generation;
        self.store.remember(resource, Slot::Mark(Arc::new(mark)));
        generation
    }

    /// Changes the mark that a request began with; false where it is gone: what was asked for then is of no use to others.
    fn remark(&self, found: &Found, keep: bool, change: impl FnOnce(&mut Mark)) -> bool {
        let _marking = self.marking.lock();
        let Some(Slot::Mark(mark)) = self.store.peek(&found.resource) else { return false };
        if mark.generation != found.generation {
            return false;
        }
        let mut next = Mark::clone(&mark);
        change(&mut next);
        let slot = Slot::Mark(Arc::new(next));
        match keep {
            true => self.store.insert(&found.resource, slot),
            false => self.store.remember(&found.resource, slot),
        }
        true
    }

    /// Requests for this go by themselves for a while.
    pub(crate) fn passes(&self, found: &Found) {
        let until = stored::millis(clock::wall() + PASS);
        self.remark(found, false, |mark| mark.pass_until = until);
    }

    /// How an answer may be used, where it may be stored.
    pub(crate) fn judge(
        &self,
        request: &Request<'_>,
        status: StatusCode,
        headers: &HeaderMap,
        came: SystemTime,
        took: Duration,
    ) -> Option<Answer> {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > self.object) {
            return None;
        }
        rules::judge(request, status, headers, came, took)
    }

    /// Stores an answer, in place of the one that was there.
    pub(crate) fn put(&self, found: &Found, request: &HeaderMap, stored: &Arc<Stored>) {
        let Some(vary) = key::vary(&stored.headers) else { return };
        let mut all = Vec::new();
        let marked = self.remark(found, true, |mark| {
            mark.pass_until = 0;
            mark.add(vary);
            all.clone_from(&mark.vary);
        });
        if !marked {
            return;
        }
        let variant = key::variant(found.generation, &found.credentials, &all, request);
        self.store.insert(&variant.0, Slot::Answer(Arc::clone(stored)));
        self.metrics.stored_bytes.inc_by(stored.body.len() as u64);
    }

    /// Forgets an answer that the upstream has another for now.
    pub(crate) fn drop_answer(&self, found: &Found) {
        self.store.remove(&found.variant.0);
    }

    /// Whether an answer that another request fetched is the one to this request, too: the same values of all headers that
    /// it varies by. Their credentials are the same: they are a part of what both waited for.
    pub(crate) fn fits(found: &Found, stored: &Stored, theirs: &Variant, headers: &HeaderMap) -> bool {
        let Some(vary) = key::vary(&stored.headers) else { return false };
        *theirs == key::variant(found.generation, &found.credentials, &vary, headers)
    }

    /// What an answer is the answer to, by what it varies by itself.
    pub(crate) fn variant_of(found: &Found, headers: &HeaderMap, stored: &Stored) -> Option<Variant> {
        Some(key::variant(found.generation, &found.credentials, &key::vary(&stored.headers)?, headers))
    }

    /// A place among those who want the same. `late`: whoever leads asks again, as there was no answer in time.
    pub(crate) fn join(&self, found: &Found, late: bool) -> Place {
        Flights::join(&self.flights, found.variant.clone(), late)
    }

    /// What an answer on its way is stored with.
    pub(crate) fn filling(&self) -> (&Arc<Memory>, u64) {
        (&self.memory, self.object)
    }

    /// An answer could not be stored.
    pub(crate) fn unkept(&self, found: &Found, why: Unkept) {
        match why {
            Unkept::TooLarge => self.passes(found),
            // There may be some the next time.
            Unkept::NoMemory => {
                self.metrics.unstored.inc();
            }
        }
    }

    /// Forgets what a request that was not safe may have changed (RFC 9111 section 4.4): its own resource, and those of the
    /// same origin that the answer names.
    pub(crate) fn invalidate(&self, caching: &Caching, uri: &Uri, answer: &HeaderMap) {
        let Ok(origin) = Origin::of(uri) else { return };
        self.forget(&caching.scope, &origin, uri);
        let base = url::Url::parse(&uri.to_string()).ok();
        for name in [header::LOCATION, header::CONTENT_LOCATION] {
            let named = answer.get(name).and_then(|value| value.to_str().ok());
            let Some(named) = named.and_then(|named| base.as_ref()?.join(named).ok()) else { continue };
            let Ok(named) = Uri::try_from(named.as_str()) else { continue };
            if Origin::of(&named).is_ok_and(|of| of == origin) {
                self.forget(&caching.scope, &origin, &named);
            }
        }
    }

    fn forget(&self, scope: &Scope, origin: &Origin, uri: &Uri) {
        let resource = key::resource(scope, self.purges.count(scope), origin, uri);
        let _marking = self.marking.lock();
        // Another mark in its place, and not none: one that is on its way into the files would be found there yet.
        if self.store.may_have(&resource) {
            self.store.insert(&resource, Slot::Mark(Arc::new(Mark::new())));
        }
    }

    /// Forgets all answers of a destination, or those to one URL.
    ///
    /// # Errors
    /// When the word that they are forgotten can't be written down, so that they would be there again after a restart.
    pub(crate) fn purge(&self, scope: &Scope, uri: Option<&Uri>) -> std::io::Result<()> {
        match uri {
            Some(uri) => {
                if let Ok(origin) = Origin::of(uri) {
                    self.forget(scope, &origin, uri);
                }
                Ok(())
            }
            None => self.purges.add(scope),
        }
    }

    /// The time of day.
    pub(crate) fn now() -> SystemTime {
        clock::wall()
    }
}

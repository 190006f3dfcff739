//! A seed, then choices: what happens to a few destinations of one shard, step by step. Whatever happens, and in whatever
//! order, nobody is answered twice or lost, no limit is passed, and nothing is left when all have gone.

mod books;
mod settings;
mod steps;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tidegate_core::{
    Call, Cost, Effect, Effects, NewCall, Permit, Settings, Shard, Submitted, Ticket, Time, endpoint::Mask,
    shard::Config,
};

use crate::bytes::Choices;
use books::{Books, Page, brakes};
use settings::SETTINGS;

/// The world does not begin at zero: neither does a machine's clock.
const START: Time = Time::from_millis(3_600_123);
/// Destinations that a shard keeps, of more that are asked for.
const KEPT: usize = 4;
const KEYS: usize = 6;
/// Steps that are looked at.
const STEPS: usize = 400;

pub(crate) fn run(bytes: &[u8]) {
    let mut choices = Choices::of(bytes);
    let mut world = World::new(choices.byte().into());
    while !choices.is_empty() && world.step < STEPS {
        world.step += 1;
        world.act(&mut choices);
        world.heed();
        world.check();
    }
    world.leave();
}

/// A call of somebody who waits for its answer.
#[derive(Debug, Clone, Copy)]
struct Caller {
    key: u128,
    new: NewCall,
    /// It has its answer.
    answered: bool,
}

/// An attempt that was admitted.
#[derive(Debug, Clone, Copy)]
struct Flying {
    id: usize,
    permit: Permit,
    /// Of another that flies, or flew: nobody waits for its end.
    copy: bool,
    departed: bool,
    reported: bool,
    amended: bool,
    /// What it is charged for.
    cost: Cost,
    /// When its slot lapses.
    slot: Time,
    step: usize,
    page: Page,
    /// It left during the pause that ends then and began with this cut.
    probe: Option<(Time, u32)>,
}

struct World {
    shard: Shard,
    fx: Effects,
    now: Time,
    step: usize,
    callers: Vec<Caller>,
    /// The endpoints that each may take, as its last ticket has it; none: any.
    ways: Vec<Vec<u64>>,
    waiting: HashMap<Call, usize>,
    flying: Vec<Flying>,
    books: BTreeMap<u128, Books>,
}

impl World {
    fn new(seed: u64) -> World {
        World {
            shard: Shard::with_capacity(seed, KEPT),
            fx: Effects::default(),
            now: START,
            step: 0,
            callers: Vec::new(),
            ways: Vec::new(),
            waiting: HashMap::new(),
            flying: Vec::new(),
            books: BTreeMap::new(),
        }
    }

    /// The settings a destination follows; the first ones where it is not known.
    fn settings(&self, key: u128) -> (usize, &'static Settings, &'static Arc<Config>) {
        let number = self.books.get(&key).map_or(0, |books| books.settings);
        let (settings, config) = &SETTINGS[number];
        (number, settings, config)
    }

    /// Asks for admission under these settings.
    fn ask(&mut self, id: usize, number: usize, returning: Option<Ticket>) {
        let Caller { key, new, .. } = self.callers[id];
        let (settings, config) = &SETTINGS[number];
        let new = NewCall { returning, ..new };
        if self.shard.keys().any(|known| known == key) {
            self.follow(key, number);
        }
        let allowed = (0u8..).zip(&settings.endpoints).filter(|(index, _)| new.ways.allowed.has(*index));
        let all = new.ways.allowed == Mask::ALL;
        self.ways[id] = allowed.filter(|_| !all).map(|(_, it)| it.id).collect();
        let submitted = self.shard.submit(self.now, key, config, new, &mut self.fx);
        if self.shard.keys().any(|known| known == key) {
            let step = self.step;
            self.books.entry(key).or_insert_with(|| Books::new(number, settings, step));
        }
        match submitted {
            Submitted::Admitted(permit) => {
                // Those that it let go before came first.
                self.heed();
                self.admitted(id, permit, None);
            }
            Submitted::Queued { call, why, .. } => {
                assert!(!why.to_string().is_empty());
                assert!(self.waiting.insert(call, id).is_none());
            }
            Submitted::Refused(refusal) => {
                assert!(!refusal.to_string().is_empty() && refusal.value().is_none_or(|value| !value.is_empty()));
                self.heed();
                self.answer(id);
            }
        }
        let (_, draining) = brakes(settings, self.now);
        assert!(!draining || returning.is_some() || matches!(submitted, Submitted::Refused(_)), "taken while draining");
        self.heed();
        if matches!(submitted, Submitted::Queued { .. }) {
            let there = self.shard.snapshot(self.now, key).unwrap();
            let bounds = settings.queue;
            let fits = there.queued <= bounds.calls as usize && there.queued_bytes <= bounds.bytes.0;
            assert!(fits, "{} calls and {} bytes wait", there.queued, there.queued_bytes);
        }
    }

    /// A destination follows other settings from now on.
    fn follow(&mut self, key: u128, number: usize) {
        let settings = &SETTINGS[number].0;
        let Some(books) = self.books.get_mut(&key).filter(|books| books.settings != number) else { return };
        books.follow(number, settings, self.step);
        for (_, ways) in self.callers.iter().zip(&mut self.ways).filter(|(caller, _)| caller.key == key) {
            ways.retain(|id| settings.endpoints.iter().any(|it| it.id == *id));
        }
    }

    /// A call was admitted, or a copy `of` one that flies.
    fn admitted(&mut self, id: usize, permit: Permit, of: Option<Flying>) {
        let Caller { key, new, .. } = self.callers[id];
        let (_, settings, _) = self.settings(key);
        let (now, step) = (self.now, self.step);
        assert!(of.is_some() || now < new.deadline, "admitted after its deadline");
        assert!(!brakes(settings, now).0, "admitted while an operator pauses");
        let endpoint = settings.endpoints.iter().position(|it| it.id == permit.endpoint());
        assert!(settings.endpoints.is_empty() || endpoint.is_some(), "admitted to an endpoint that is not there");
        let allowed = &self.ways[id];
        assert!(allowed.is_empty() || allowed.contains(&permit.endpoint()), "admitted where it may not go");
        // A lapsed slot is another's.
        let held = |flying: &&Flying| self.callers[flying.id].key == key && flying.slot > now;
        if let Some(max) = settings.max_concurrency {
            let held = self.flying.iter().filter(held).count();
            assert!(held < max as usize, "{held} of {max} slots were held");
        }
        let books = self.books.get_mut(&key).unwrap();
        let own = endpoint.map(|at| &settings.endpoints[at]);
        if let Some((own, max)) = own.and_then(|own| Some((own, own.max_concurrency?))) {
            let since = books.limited.iter().find(|(id, _)| *id == own.id).map_or(0, |(_, since)| *since);
            let there = |flying: &&Flying| flying.permit.endpoint() == own.id && flying.step >= since;
            let held = self.flying.iter().filter(held).filter(there).count();
            assert!(held < max as usize, "{held} of {max} slots of endpoint {} were held", own.id);
        }
        let limited = settings.max_concurrency.is_some() || own.is_some_and(|own| own.max_concurrency.is_some());
        let cost = of.map_or(new.cost, |of| of.cost);
        let page = books.leaves(permit.endpoint(), cost, now, step);
        self.flying.push(Flying {
            id,
            permit,
            copy: of.is_some(),
            departed: false,
            reported: false,
            amended: false,
            cost,
            slot: if limited { new.deadline } else { Time::NEVER },
            step,
            page,
            probe: None,
        });
    }

    fn answer(&mut self, id: usize) {
        let answered = std::mem::replace(&mut self.callers[id].answered, true);
        assert!(!answered, "call {id} was answered twice");
    }

    /// Does what the effects say.
    fn heed(&mut self) {
        let effects: Vec<Effect> = self.fx.drain().collect();
        for effect in effects {
            match effect {
                Effect::Admit { call, permit, .. } => {
                    assert_eq!(call, permit.call());
                    let id = self.waiting.remove(&call).expect("admitted what does not wait");
                    self.admitted(id, permit, None);
                }
                Effect::Refuse { call, refusal } => {
                    assert!(!refusal.to_string().is_empty());
                    let id = self.waiting.remove(&call).expect("refused what does not wait");
                    self.answer(id);
                }
                Effect::SentOn { call, ticket } => {
                    assert!(ticket.since() <= self.now);
                    let id = self.waiting.remove(&call).expect("sent on what does not wait");
                    self.answer(id);
                }
                Effect::Forgot { key } => {
                    assert_eq!(self.of(key), (0, 0), "forgotten, and busy");
                    self.books.remove(&key).expect("forgotten, and not known").hold();
                }
            }
        }
    }

    /// How many wait and how many fly.
    fn of(&self, key: u128) -> (usize, usize) {
        let waiting = self.waiting.values().filter(|id| self.callers[**id].key == key).count();
        (waiting, self.flying.iter().filter(|it| self.callers[it.id].key == key).count())
    }

    fn check(&self) {
        assert_eq!(self.shard.calls(), self.waiting.len() + self.flying.len());
        assert!(self.shard.destinations() <= KEPT);
        let wake = self.shard.next_wake();
        let first = self.waiting.values().map(|id| self.callers[*id].new.deadline).min();
        assert!(first.is_none_or(|first| wake.is_some_and(|wake| wake <= first)), "nobody wakes at a deadline");
        for key in self.books.keys() {
            let now = self.shard.snapshot(self.now, *key).unwrap();
            assert_eq!((now.queued, now.in_flight as usize), self.of(*key));
            let bytes = |id: &usize| (self.callers[*id].key == *key).then_some(self.callers[*id].new.bytes);
            assert_eq!(now.queued_bytes, self.waiting.values().filter_map(bytes).sum::<u64>());
            assert!(now.unanswered <= now.in_flight, "{now:?}");
            let rates = now.endpoints.iter().map(|it| it.learned_rate).chain([now.learned_rate]);
            assert!(rates.flatten().all(|rate| rate.is_finite() && rate > 0.0), "{now:?}");
        }
    }

    /// Everybody goes.
    fn leave(&mut self) {
        // Whoever goes makes room for others.
        loop {
            if let Some(flying) = self.flying.pop() {
                self.shard.release(self.now, flying.permit, &mut self.fx);
                self.gone(flying);
            } else if let Some((call, id)) = self.waiting.iter().map(|(call, id)| (*call, *id)).min() {
                self.waiting.remove(&call);
                self.shard.release_call(self.now, call, &mut self.fx);
                self.answer(id);
            } else {
                break;
            }
            self.heed();
        }
        assert!(self.callers.iter().all(|caller| caller.answered), "somebody was lost");
        assert_eq!((self.shard.calls(), self.shard.next_wake()), (0, None));
        for (key, books) in &self.books {
            books.hold();
            let rest = self.shard.snapshot(self.now, *key).unwrap();
            let left = (rest.queued, rest.queued_bytes, rest.in_flight, rest.unanswered, rest.oldest_wait);
            assert_eq!(left, (0, 0, 0, 0, None));
            assert!(rest.endpoints.iter().all(|it| it.unanswered == 0), "{rest:?}");
        }
        self.shard.tick(self.now + Duration::from_secs(3_600), &mut self.fx);
        assert!(self.fx.is_empty());
    }

    /// An attempt was given up or is over.
    fn gone(&mut self, flying: Flying) {
        if !flying.departed
            && let Some(books) = self.books.get_mut(&self.callers[flying.id].key)
        {
            books.stays(flying.page);
        }
        if !flying.copy {
            self.answer(flying.id);
        }
    }
}

//! What can happen.

use std::num::NonZeroU16;

use tidegate_core::{
    Attempt, Call, Cost, Effective, Flow, NewCall, Outcome, Signal, Verdict,
    endpoint::{Mask, Ranks, Ways},
    guard::LONGEST_BACKOFF,
    repeat::{Class, Failure},
    shard::{CopyFor, Departure},
    signal::{Counted, Source, SpentQuota},
};

use super::{Caller, Flying, KEYS, SETTINGS, World};
use crate::bytes::Choices;

impl World {
    pub(super) fn act(&mut self, choices: &mut Choices<'_>) {
        let flies = !self.flying.is_empty();
        match choices.below(24) {
            0..=5 => self.comes(choices),
            6..=8 if flies => self.departs(choices.below(self.flying.len())),
            9..=11 if flies => self.ends(choices),
            12 if flies => {
                let at = choices.below(self.flying.len());
                let flying = self.flying.swap_remove(at);
                self.shard.release(self.now, flying.permit, &mut self.fx);
                self.gone(flying);
                if choices.below(2) == 0 {
                    // Twice is once.
                    self.heed();
                    self.shard.release(self.now, flying.permit, &mut self.fx);
                    assert!(self.fx.is_empty());
                }
            }
            13 if !self.waiting.is_empty() => {
                let mut calls: Vec<Call> = self.waiting.keys().copied().collect();
                calls.sort_unstable();
                let call = choices.one(&calls);
                let id = self.waiting.remove(&call).unwrap();
                self.shard.release_call(self.now, call, &mut self.fx);
                self.answer(id);
            }
            14 if flies => self.is_copied(choices),
            15 if flies => self.flows_on(choices),
            16 => self.is_reconfigured(choices),
            17 => self.is_operated(choices),
            // Nobody ticks: what is due happens later.
            18 => self.now += choices.time(),
            19 | 20 => {
                self.now += choices.time();
                self.ticks();
            }
            _ => {
                self.now = self.shard.next_wake().map_or(self.now, |wake| wake.max(self.now));
                self.ticks();
            }
        }
    }

    fn ticks(&mut self) {
        self.shard.tick(self.now, &mut self.fx);
        self.heed();
        assert!(self.shard.next_wake().is_none_or(|wake| wake > self.now), "due again at once");
        let late = self.waiting.values().find(|id| self.callers[**id].new.deadline <= self.now);
        assert!(late.is_none(), "{late:?} waits beyond its deadline");
    }

    fn comes(&mut self, choices: &mut Choices<'_>) {
        let key = choices.below(KEYS) as u128;
        let first = if choices.below(4) > 0 { usize::from(choices.byte()) } else { 0 };
        let known = self.books.get(&key).map(|books| books.settings);
        let number = known.unwrap_or(first % SETTINGS.len());
        let more = choices.byte();
        let flow = Flow { id: u64::from(more & 3), weight: NonZeroU16::new(1 + u16::from(more >> 2 & 3)).unwrap() };
        let there = (1 << SETTINGS[number].0.endpoints.len()) - 1;
        let ways = match u16::from(more >> 4 & 7) & there {
            0 => Ways::ANY,
            some if more & 0x80 != 0 => Ways { allowed: Mask(some), preferred: Ranks::NONE },
            some => Ways { allowed: Mask::ALL, preferred: Mask(some).into() },
        };
        let new = NewCall {
            deadline: self.now + choices.time(),
            bytes: 4 * u64::from(choices.byte()),
            cost: Cost { requests: 1, tokens: u32::from(choices.byte()) },
            flow,
            priority: i8::try_from(choices.below(5)).unwrap() - 2,
            ways,
            part_of: Some(u64::from(key < 3)),
            fallback: choices.below(4) == 0,
            returning: None,
        };
        self.callers.push(Caller { key, new, answered: false });
        self.ways.push(Vec::new());
        self.ask(self.callers.len() - 1, number, None);
    }

    fn departs(&mut self, at: usize) {
        let flying = self.flying[at];
        let key = self.callers[flying.id].key;
        let before = self.shard.snapshot(self.now, key).unwrap();
        let endpoint = flying.permit.endpoint();
        let paused = match before.endpoints.iter().find(|it| it.id == endpoint) {
            Some(it) => it.paused,
            None => before.paused.filter(|_| before.endpoints.is_empty()),
        };
        match self.shard.departed(self.now, flying.permit, &mut self.fx) {
            Departure::Go if !flying.departed && !flying.reported => {
                self.flying[at].departed = true;
                if let Some((left, _)) = paused {
                    let pause = Some((self.now + left, before.cuts));
                    let another = |other: &&Flying| {
                        let same = self.callers[other.id].key == key && other.permit.endpoint() == endpoint;
                        same && other.probe == pause && !other.reported
                    };
                    assert!(self.flying.iter().find(another).is_none(), "two probes of a pause");
                    self.flying[at].probe = pause;
                }
            }
            Departure::Go => {}
            Departure::PutBack(ticket) => {
                assert!(!flying.departed && !flying.reported);
                self.flying.swap_remove(at);
                self.shard.release(self.now, flying.permit, &mut self.fx);
                self.books.get_mut(&key).unwrap().stays(flying.page);
                self.heed();
                if !flying.copy {
                    self.ask(flying.id, self.settings(key).0, Some(ticket));
                }
            }
            Departure::Released => panic!("nobody released it"),
        }
    }

    fn outcome(choices: &mut Choices<'_>) -> Outcome {
        let (what, wait) = (choices.below(16), choices.time());
        let none = Signal::default();
        let waits = Some((wait, Source::RetryAfter)).filter(|(wait, _)| !wait.is_zero());
        let spent = SpentQuota { wait, reset: wait, source: Source::XRateLimit, counted: Counted::Requests };
        let spent = Some(spent).filter(|spent| !spent.wait.is_zero());
        let answer = |status, signal| Outcome::Answer { status, signal };
        match what {
            0 => answer(429, Signal { wait: waits, ..none }),
            1 => answer(429, none),
            2 => answer(503, none),
            3 => answer(503, Signal { wait: waits, ..none }),
            4 => answer(500, none),
            5 => answer(404, none),
            6 => answer(402, Signal { last_word: true, ..none }),
            7 => answer(200, Signal { spent, ..none }),
            8 => answer(429, Signal { wait: waits, concurrency: true, ..none }),
            9 => answer(429, Signal { spent, refused: Some(Counted::Requests), ..none }),
            10 => Outcome::Failed([Failure::Connect, Failure::Hopeless][usize::from(wait.is_zero())]),
            11 => Outcome::Failed([Failure::Broken, Failure::TimedOut][usize::from(wait.is_zero())]),
            12 => Outcome::Failed(Failure::Unprocessed),
            13 => answer(409, none),
            _ => answer(200, none),
        }
    }

    /// The outcome of an attempt is known.
    fn ends(&mut self, choices: &mut Choices<'_>) {
        let at = choices.below(self.flying.len());
        let outcome = World::outcome(choices);
        let flying = self.flying[at];
        let key = self.callers[flying.id].key;
        // An answer proves that it left.
        let left = matches!(outcome, Outcome::Answer { .. }) && !flying.reported;
        (self.flying[at].reported, self.flying[at].departed) = (true, flying.departed || left);
        if !self.flying[at].departed {
            self.books.get_mut(&key).unwrap().stays(flying.page);
        }
        if flying.copy {
            self.shard.observe(self.now, flying.permit, Some(&outcome), &mut self.fx);
            return;
        }
        let policy = Effective::default();
        let how = choices.byte();
        let attempt = Attempt {
            policy: &policy,
            repeatable: how & 1 == 0,
            costs: how & 2 != 0,
            replayable: how & 4 == 0,
            keyed: how & 32 != 0,
            spent: u32::from(how >> 3 & 3),
        };
        let max_pause = self.settings(key).1.max_pause;
        let before = self.shard.pause(self.now, key).map(|(left, _)| left).unwrap_or_default();
        let verdict = self.shard.report(self.now, flying.permit, &outcome, &attempt, &mut self.fx);
        if let Some((left, cause)) = self.shard.pause(self.now, key) {
            assert!(left <= max_pause.max(LONGEST_BACKOFF).max(before), "paused for {left:?} {cause}");
        }
        match verdict {
            Verdict::Return(_) => {}
            Verdict::PutBack(ticket) | Verdict::Retry(ticket) => {
                let key_in_use = attempt.keyed && matches!(outcome, Outcome::Answer { status: 409, .. });
                let good = outcome.class() == Class::Accepted && !key_in_use;
                assert!(!flying.reported && !good, "a good answer was repeated");
                self.heed();
                // Others may have left for it meanwhile.
                let at = self.flying.iter().position(|it| it.permit == flying.permit).unwrap();
                let flying = self.flying.swap_remove(at);
                self.shard.release(self.now, flying.permit, &mut self.fx);
                if !flying.departed {
                    self.books.get_mut(&key).unwrap().stays(flying.page);
                }
                self.heed();
                if how & 0xc0 == 0xc0 {
                    // Its caller has gone.
                    self.answer(flying.id);
                } else {
                    self.ask(flying.id, self.settings(key).0, Some(ticket));
                }
            }
        }
    }

    fn is_copied(&mut self, choices: &mut Choices<'_>) {
        let at = choices.below(self.flying.len());
        let of = self.flying[at];
        let why = choices.one(&[CopyFor::Hedge, CopyFor::Race, CopyFor::Trial]);
        if choices.below(4) == 0 {
            // The copy was faster: its answer is the caller's.
            let other = self.flying.iter().position(|it| it.id == of.id && it.copy != of.copy && !it.reported);
            if let Some(other) = other.filter(|_| !of.reported) {
                self.flying[at].copy ^= true;
                self.flying[other].copy ^= true;
            }
            return;
        }
        if choices.below(4) == 0 && of.copy {
            let gone = self.flying.swap_remove(at);
            self.shard.observe(self.now, gone.permit, None, &mut self.fx);
            self.heed();
            self.shard.release(self.now, gone.permit, &mut self.fx);
            self.gone(gone);
            return;
        }
        let key = self.callers[of.id].key;
        // An endpoint that went and came back is another.
        let several = self.settings(key).1.endpoints.len() > 1 && self.books[&key].since < of.step;
        if let Some(permit) = self.shard.copy(self.now, of.permit, why, &mut self.fx) {
            assert!(!of.reported, "what is over was copied");
            assert!(!several || permit.endpoint() != of.permit.endpoint(), "copied to where it is");
            self.admitted(of.id, permit, Some(of));
        }
    }

    /// An answer flows, ends otherwise than it began, or says what it used.
    fn flows_on(&mut self, choices: &mut Choices<'_>) {
        let at = choices.below(self.flying.len());
        let flying = self.flying[at];
        match choices.below(3) {
            0 => {
                let until = self.now + choices.time();
                self.shard.flows(self.now, flying.permit, until, &mut self.fx);
                if flying.reported && !flying.slot.is_never() {
                    self.flying[at].slot = until;
                }
            }
            1 if flying.reported && !flying.amended => {
                let outcome = World::outcome(choices);
                self.flying[at].amended = true;
                self.shard.amend(self.now, flying.permit, &outcome, &mut self.fx);
            }
            _ => {
                let tokens = u32::from(choices.byte()) * 2;
                let key = self.callers[flying.id].key;
                // Before what it gives back lets others go.
                if flying.departed {
                    self.books.get_mut(&key).unwrap().used(flying.page, tokens);
                    self.flying[at].cost.tokens = tokens;
                }
                self.shard.settle(self.now, flying.permit, tokens, &mut self.fx);
            }
        }
    }

    fn is_reconfigured(&mut self, choices: &mut Choices<'_>) {
        let key = choices.below(KEYS) as u128;
        let new = choices.below(SETTINGS.len());
        let (old, _, before) = self.settings(key);
        self.shard.reconfigure(self.now, before, &SETTINGS[new].1, &mut self.fx);
        let following = self.books.iter().filter(|(_, books)| books.settings == old).map(|(key, _)| *key);
        let following: Vec<u128> = following.collect();
        following.into_iter().for_each(|key| self.follow(key, new));
    }

    fn is_operated(&mut self, choices: &mut Choices<'_>) {
        let key = choices.below(KEYS) as u128;
        let (waiting, _) = self.of(key);
        match choices.below(3) {
            0 => {
                assert_eq!(self.shard.flush(self.now, key, &mut self.fx), waiting);
                self.heed();
                assert_eq!(self.of(key).0, 0, "flushed, and somebody waits");
            }
            1 => {
                assert_eq!(self.shard.send_on(self.now, key, &mut self.fx), waiting);
                self.heed();
                assert_eq!(self.of(key).0, 0, "sent on, and somebody waits");
            }
            _ => {
                self.shard.resume(self.now, key, &mut self.fx);
                self.heed();
                assert!(self.shard.pause(self.now, key).is_none(), "resumed, and paused");
            }
        }
    }
}

//! Equal requests that come at once: one asks, the others wait for what it gets.
//!
//! Whoever leads holds a [`Lead`]. However that ends, somebody is told: an answer that may be shared goes to all, one that
//! may not lets all go by themselves at once, and a lead that is only dropped (its call failed, or its client went away) is
//! taken over by one who waits. No lock is held while anybody waits.

use std::{
    collections::{HashMap, hash_map},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Stored, Variant};

/// What came of a lead.
#[derive(Clone)]
pub(crate) enum Landed {
    /// An answer for all that it fits.
    Stored {
        stored: Arc<Stored>,
        /// What it is the answer to.
        of: Variant,
    },
    /// Asking failed; a stale answer, for all who take one.
    StandIn(Arc<Stored>),
    /// Nothing that could be shared.
    Open,
}

#[derive(Clone)]
enum Phase {
    Led,
    Vacant,
    Landed(Landed),
}

struct Flight {
    /// Which of those that there were.
    number: u64,
    phase: watch::Sender<Phase>,
    led: bool,
    /// Whoever leads asks again, as there was no answer in time.
    late: bool,
    followers: usize,
}

/// All of a node.
#[derive(Default)]
pub(crate) struct Flights(Mutex<Open>);

#[derive(Default)]
struct Open {
    flights: HashMap<Variant, Flight>,
    /// There were so far.
    count: u64,
}

/// A place among those who want the same.
pub(crate) enum Place {
    Lead(Lead),
    Follow(Follower),
}

impl Flights {
    /// The first leads, all others follow.
    pub(super) fn join(this: &Arc<Self>, variant: Variant, late: bool) -> Place {
        let mut open = this.0.lock();
        let Open { flights, count } = &mut *open;
        let flight = match flights.entry(variant.clone()) {
            hash_map::Entry::Occupied(flight) => flight.into_mut(),
            hash_map::Entry::Vacant(vacant) => {
                *count += 1;
                vacant.insert(Flight {
                    number: *count,
                    phase: watch::Sender::new(Phase::Led),
                    led: true,
                    late,
                    followers: 0,
                });
                return Place::Lead(Lead { flights: Arc::clone(this), variant, over: false });
            }
        };
        flight.followers += 1;
        let (phase, number, late) = (flight.phase.subscribe(), flight.number, flight.late);
        Place::Follow(Follower { flights: Arc::clone(this), variant, number, phase, late, over: false })
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.lock().flights.len()
    }
}

/// Somebody who asks for all.
pub(crate) struct Lead {
    flights: Arc<Flights>,
    variant: Variant,
    over: bool,
}

impl Lead {
    /// Tells all who wait what came of it.
    pub(crate) fn land(mut self, landed: Landed) {
        self.over = true;
        if let Some(flight) = self.flights.0.lock().flights.remove(&self.variant) {
            flight.phase.send_replace(Phase::Landed(landed));
        }
    }

    /// Whether anybody waits.
    pub(crate) fn is_followed(&self) -> bool {
        self.flights.0.lock().flights.get(&self.variant).is_some_and(|flight| flight.followers > 0)
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let flights = &mut self.flights.0.lock().flights;
        let Some(flight) = flights.get_mut(&self.variant) else { return };
        if flight.followers == 0 {
            flights.remove(&self.variant);
            return;
        }
        flight.led = false;
        flight.phase.send_replace(Phase::Vacant);
    }
}

/// Somebody who waits.
pub(crate) struct Follower {
    flights: Arc<Flights>,
    variant: Variant,
    number: u64,
    phase: watch::Receiver<Phase>,
    late: bool,
    over: bool,
}

impl Follower {
    /// Whether somebody asked before and got no answer in time: there may be none for long.
    pub(crate) fn is_late(&self) -> bool {
        self.late
    }

    /// Waits for what comes of the lead, or for the lead itself.
    pub(crate) async fn wait(mut self) -> Result<Landed, Lead> {
        loop {
            let phase = self.phase.borrow_and_update().clone();
            match phase {
                Phase::Landed(landed) => {
                    self.over = true;
                    return Ok(landed);
                }
                Phase::Vacant => {
                    if let Some(lead) = self.take_over() {
                        return Err(lead);
                    }
                }
                Phase::Led => {}
            }
            if self.phase.changed().await.is_err() {
                // Can't be: whoever leads says how it ends.
                return Ok(Landed::Open);
            }
        }
    }

    fn take_over(&mut self) -> Option<Lead> {
        let flights = &mut self.flights.0.lock().flights;
        let flight = flights.get_mut(&self.variant).filter(|flight| flight.number == self.number && !flight.led)?;
        flight.led = true;
        flight.followers -= 1;
        flight.phase.send_replace(Phase::Led);
        self.over = true;
        Some(Lead { flights: Arc::clone(&self.flights), variant: self.variant.clone(), over: false })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let flights = &mut self.flights.0.lock().flights;
        let Some(flight) = flights.get_mut(&self.variant).filter(|flight| flight.number == self.number) else { return };
        flight.followers -= 1;
        if flight.followers == 0 && !flight.led {
            flights.remove(&self.variant);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::{super::key, *};

    fn variant() -> Variant {
        let key = key::credentials(
            &super::super::Caching {
                scope: key::Scope::of(1, &[], &[]),
                stale: Default::default(),
                ignored: [].into(),
                splits: [].into(),
            },
            &http::HeaderMap::new(),
        );
        Variant(key)
    }

    fn join(flights: &Arc<Flights>) -> Place {
        Flights::join(flights, variant(), false)
    }

    fn lead(flights: &Arc<Flights>) -> Lead {
        match join(flights) {
            Place::Lead(lead) => lead,
            Place::Follow(_) => panic!("somebody leads already"),
        }
    }

    fn follow(flights: &Arc<Flights>) -> Follower {
        match join(flights) {
            Place::Follow(follower) => follower,
            Place::Lead(_) => panic!("nobody leads"),
        }
    }

    #[test]
    fn what_can_not_be_shared_lets_all_go_at_once() {
        let flights = Arc::default();
        let first = lead(&flights);
        let waiting: Vec<_> = (0..5).map(|_| follow(&flights)).collect();
        assert!(first.is_followed());
        first.land(Landed::Open);
        for follower in waiting {
            assert!(matches!(follower.wait().now_or_never(), Some(Ok(Landed::Open))));
        }
        assert_eq!(flights.len(), 0);
        assert!(!lead(&flights).is_followed());
    }

    #[test]
    fn a_lead_that_ends_is_taken_over_by_one_who_waits_and_the_others_go_on_waiting() {
        let flights = Arc::default();
        let first = lead(&flights);
        let (gone, one, two) = (follow(&flights), follow(&flights), follow(&flights));
        let mut two = Box::pin(two.wait());
        assert!((&mut two).now_or_never().is_none());
        drop(gone);
        drop(first);
        let Some(Err(second)) = one.wait().now_or_never() else { panic!("nobody took over") };
        assert!((&mut two).now_or_never().is_none());
        assert!(matches!(join(&flights), Place::Follow(_)), "those who come later wait, too");
        drop(second);
        let Some(Err(third)) = two.now_or_never() else { panic!("nobody took over") };
        assert!(!third.is_followed());
        third.land(Landed::Open);
        assert_eq!(flights.len(), 0);
    }

    #[test]
    fn nothing_is_left_of_those_who_go_away() {
        let flights = Arc::default();
        let first = lead(&flights);
        let (one, two) = (follow(&flights), follow(&flights));
        drop(first);
        drop(one);
        assert_eq!(flights.len(), 1);
        drop(two);
        assert_eq!(flights.len(), 0);
        // One of an earlier flight counts in no later one.
        let first = lead(&flights);
        let old = follow(&flights);
        first.land(Landed::Open);
        let second = lead(&flights);
        let new = follow(&flights);
        drop(old);
        assert!(second.is_followed());
        drop(new);
        assert!(!second.is_followed());
    }
}

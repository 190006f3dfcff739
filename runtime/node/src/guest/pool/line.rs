//! What is free, what is on its way back, and who waits for it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
};

use tokio::sync::oneshot;

use super::{Account, Charge};
use crate::guest::hogs::FunctionKey;

/// Hands a permit or an instance to a waiter; gives it back if there is none any more.
pub(super) type Offer = Box<dyn std::any::Any + Send>;

/// One who waits.
pub(super) struct Waiter {
    /// When it came, among all.
    pub(super) turn: u64,
    pub(super) account: Arc<Account>,
    pub(super) sender: oneshot::Sender<Offer>,
}

/// Places, and the line for them.
pub(super) struct State {
    pub(super) free: u32,
    /// Places of evicted instances that are on their way back.
    pub(super) coming: u32,
    /// Bytes of memory of the same.
    pub(super) coming_bytes: u64,
    pub(super) next_turn: u64,
    /// Who waits, by function. No line is empty.
    pub(super) lines: HashMap<FunctionKey, VecDeque<Waiter>>,
    pub(super) waiters: usize,
}

impl State {
    /// The function whose first waiter is the next in line, of those that may hold more.
    pub(super) fn next(&mut self) -> Option<(FunctionKey, u64, u32)> {
        // Waiters who left are found by their closed channels.
        let mut gone = 0;
        self.lines.retain(|_, line| {
            while line.front().is_some_and(|waiter| waiter.sender.is_closed()) {
                line.pop_front();
                gone += 1;
            }
            !line.is_empty()
        });
        self.waiters -= gone;
        let heads = self.lines.iter().filter_map(|(function, line)| Some((*function, line.front()?)));
        let entitled = heads.filter(|(_, waiter)| waiter.account.has_share_left() && waiter.account.has_memory());
        let first = entitled.min_by_key(|(_, waiter)| waiter.turn);
        first.map(|(function, waiter)| (function, waiter.turn, waiter.account.places))
    }

    pub(super) fn pop(&mut self, function: FunctionKey) -> Option<Waiter> {
        let line = self.lines.get_mut(&function)?;
        let waiter = line.pop_front();
        self.waiters -= usize::from(waiter.is_some());
        if line.is_empty() {
            self.lines.remove(&function);
        }
        waiter
    }

    /// Takes the places for the next in line, if they are there.
    pub(super) fn grant(&mut self) -> Option<(Waiter, Charge)> {
        let (function, _, places) = self.next()?;
        if places > self.free {
            return None;
        }
        // A guest that grew meanwhile may have it. When that ends, somebody looks again.
        let charge = self.lines.get(&function)?.front()?.account.charge()?;
        let waiter = self.pop(function)?;
        self.take(&waiter.account);
        Some((waiter, charge))
    }

    pub(super) fn take(&mut self, account: &Account) {
        self.free -= account.places;
        account.share.held.fetch_add(account.places, Ordering::Relaxed);
    }

    pub(super) fn put_back(&mut self, account: &Account, expected: Option<u64>) {
        self.free += account.places;
        account.share.held.fetch_sub(account.places, Ordering::Relaxed);
        if let Some(bytes) = expected {
            self.expect_no_more(account, bytes);
        }
    }

    pub(super) fn expect_no_more(&mut self, account: &Account, bytes: u64) {
        self.coming = self.coming.saturating_sub(account.places);
        self.coming_bytes = self.coming_bytes.saturating_sub(bytes);
    }

    /// Places that all in line could take and that are neither free nor on their way.
    pub(super) fn missing(&self) -> u32 {
        let wanted = |line: &VecDeque<Waiter>| {
            let account = line.front().map(|waiter| &waiter.account).filter(|account| account.has_memory())?;
            let left = account.bound.value.saturating_sub(account.share.held.load(Ordering::Relaxed));
            let all = u32::try_from(line.len()).unwrap_or(u32::MAX).saturating_mul(account.places);
            Some(all.min(left))
        };
        let wanted = self.lines.values().filter_map(wanted).fold(0, u32::saturating_add);
        wanted.saturating_sub(self.free).saturating_sub(self.coming)
    }
}

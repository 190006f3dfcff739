//! Hog permits: guests that compute for long share the processors that are left over.
//!
//! A guest may run for two milliseconds as it likes. Past that it goes on only with a permit, and there is one fewer of
//! them than guest threads (but at least one), handed out round robin by function. So however many guests spin, one
//! thread stays free for short requests, and no function starves another.
//!
//! A permit is held for one slice: it is given back whenever the guest's poll ends (see [`super::meter`]).

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;

use super::meter::Meter;

/// What the round robin goes by: one function, whatever its version.
pub(super) type FunctionKey = u64;

/// Hands out the permits. Its queues hold one entry a waiting instance at most, so `max_instances` bounds them.
pub(super) struct Hogs(Mutex<State>);

struct State {
    free: usize,
    /// Functions with somebody waiting, next first.
    order: VecDeque<FunctionKey>,
    waiting: HashMap<FunctionKey, VecDeque<Arc<Ticket>>>,
}

#[derive(Default)]
struct Ticket(Mutex<TicketState>);

#[derive(Default)]
enum TicketState {
    #[default]
    New,
    Waiting(Waker),
    Granted,
    Gone,
}

impl Hogs {
    /// Permits for so many guest threads.
    pub(super) fn new(threads: usize) -> Arc<Self> {
        let free = threads.saturating_sub(1).max(1);
        Arc::new(Self(Mutex::new(State { free, order: VecDeque::new(), waiting: HashMap::new() })))
    }

    /// Waits for the function's turn. Always lets other tasks run first, even when a permit is free.
    pub(super) fn turn(self: &Arc<Self>, function: FunctionKey, meter: Arc<Meter>) -> Turn {
        Turn { hogs: Arc::clone(self), function, meter, yielded: false, ticket: None }
    }

    fn try_take(&self) -> bool {
        let mut state = self.0.lock();
        let free = state.free > 0;
        if free {
            state.free -= 1;
        }
        free
    }

    fn enqueue(&self, function: FunctionKey, ticket: &Arc<Ticket>) {
        let mut state = self.0.lock();
        let queue = state.waiting.entry(function).or_default();
        let first = queue.is_empty();
        queue.push_back(Arc::clone(ticket));
        if first {
            state.order.push_back(function);
        }
    }

    /// Gives a permit back: to the next function in turn, else to the free ones.
    pub(super) fn release(&self) {
        loop {
            let next = {
                let mut state = self.0.lock();
                let Some(function) = state.order.pop_front() else {
                    state.free += 1;
                    return;
                };
                let queue = state.waiting.entry(function).or_default();
                let next = queue.pop_front();
                if queue.is_empty() {
                    state.waiting.remove(&function);
                } else {
                    state.order.push_back(function);
                }
                next
            };
            let Some(ticket) = next else { continue };
            let granted = {
                let mut state = ticket.0.lock();
                match std::mem::replace(&mut *state, TicketState::Granted) {
                    TicketState::Waiting(waker) => Some(Some(waker)),
                    TicketState::New => Some(None),
                    gone => {
                        *state = gone;
                        None
                    }
                }
            };
            if let Some(waker) = granted {
                if let Some(waker) = waker {
                    waker.wake();
                }
                return;
            }
        }
    }
}

/// The wait for one slice.
pub(super) struct Turn {
    hogs: Arc<Hogs>,
    function: FunctionKey,
    meter: Arc<Meter>,
    yielded: bool,
    ticket: Option<Arc<Ticket>>,
}

impl Future for Turn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.yielded {
            self.yielded = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let ticket = match &self.ticket {
            Some(ticket) => Arc::clone(ticket),
            None => {
                if self.hogs.try_take() {
                    self.meter.hold();
                    return Poll::Ready(());
                }
                let ticket = Arc::new(Ticket(Mutex::new(TicketState::Waiting(cx.waker().clone()))));
                self.ticket = Some(Arc::clone(&ticket));
                self.hogs.enqueue(self.function, &ticket);
                // A permit given back between the two steps above went to the free ones, not to us.
                if self.hogs.try_take() {
                    self.hogs.release();
                }
                ticket
            }
        };
        let mut state = ticket.0.lock();
        match &mut *state {
            TicketState::Granted => {
                *state = TicketState::Gone;
                drop(state);
                self.ticket = None;
                self.meter.hold();
                Poll::Ready(())
            }
            TicketState::Waiting(waker) => {
                waker.clone_from(cx.waker());
                Poll::Pending
            }
            TicketState::New | TicketState::Gone => Poll::Ready(()),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        let granted = matches!(std::mem::replace(&mut *ticket.0.lock(), TicketState::Gone), TicketState::Granted);
        if granted {
            self.hogs.release();
            return;
        }
        let mut state = self.hogs.0.lock();
        if let Some(queue) = state.waiting.get_mut(&self.function) {
            queue.retain(|other| !Arc::ptr_eq(other, &ticket));
            if queue.is_empty() {
                let function = self.function;
                state.waiting.remove(&function);
                state.order.retain(|other| *other != function);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker;

    use super::*;

    fn poll(turn: &mut Turn) -> bool {
        let waker = noop_waker();
        Pin::new(turn).poll(&mut Context::from_waker(&waker)).is_ready()
    }

    fn turn(hogs: &Arc<Hogs>, function: FunctionKey) -> Turn {
        let mut turn = hogs.turn(function, Arc::new(Meter::new(None)));
        assert!(!poll(&mut turn), "the first poll only yields");
        turn
    }

    #[test]
    fn permits_go_round_by_function_not_by_instance() {
        let hogs = Hogs::new(2);
        let mut holder = turn(&hogs, 1);
        assert!(poll(&mut holder));
        let mut busy: Vec<_> = (0..3).map(|_| turn(&hogs, 1)).collect();
        let mut other = turn(&hogs, 2);
        assert!(busy.iter_mut().all(|turn| !poll(turn)) && !poll(&mut other));
        hogs.release();
        assert!(poll(&mut busy[0]), "the first of the function that asked first");
        hogs.release();
        assert!(poll(&mut other), "then the other function, before the rest of the first");
        assert!(!poll(&mut busy[1]));
    }

    #[test]
    fn a_guest_that_ends_while_it_waits_leaves_no_trace_and_one_that_was_granted_passes_it_on() {
        let hogs = Hogs::new(1);
        let mut holder = turn(&hogs, 1);
        assert!(poll(&mut holder));
        let (mut gone, mut granted, mut last) = (turn(&hogs, 1), turn(&hogs, 2), turn(&hogs, 3));
        assert!(!poll(&mut gone) && !poll(&mut granted) && !poll(&mut last));
        drop(gone);
        hogs.release();
        drop(granted);
        assert!(poll(&mut last));
        hogs.release();
        let state = hogs.0.lock();
        assert!(state.free == 1 && state.order.is_empty() && state.waiting.is_empty());
    }
}

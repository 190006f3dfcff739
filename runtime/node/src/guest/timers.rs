//! Timers that guests can't hold up: they are driven by a thread of their own.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::oneshot, time::Instant};

use crate::{alarm::Alarm, threads};

/// Lists of timers that are used again: on one the threads would meet.
const LISTS: usize = 16;
/// Timers that one list keeps, each with what is left of the task that used it last. Requests at once beyond all of
/// them make their own.
const KEPT: usize = 64;

/// Makes timers. Cheap to clone; the thread ends with the last clone.
#[derive(Clone)]
pub(super) struct Timers(Arc<Inner>);

struct Inner {
    handle: Handle,
    /// Every request needs one for the time of its guest. One that is used again is set to a later time than it was,
    /// mostly, and that costs nothing.
    free: [Mutex<Vec<Pin<Box<Alarm>>>>; LISTS],
    _stop: oneshot::Sender<()>,
}

impl Timers {
    /// Starts the thread.
    pub(super) fn start() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::Builder::new().name("tidegate-timers".into()).spawn(move || {
            // Ends when the sender is dropped; nothing is ever sent.
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Self(Arc::new(Inner { handle, free: Default::default(), _stop: stop })))
    }

    /// Ready after `duration`.
    pub(super) fn sleep(&self, duration: Duration) -> Timer<'_> {
        self.sleep_from(Instant::now(), duration)
    }

    /// Ready at `duration` after `now`, which was read already.
    pub(super) fn sleep_from(&self, now: Instant, duration: Duration) -> Timer<'_> {
        // As tokio takes times that nobody lives to see.
        let due = now.checked_add(duration).unwrap_or_else(|| now + Duration::from_secs(86_400 * 365 * 30));
        let kept = self.list().lock().pop();
        let alarm = match kept {
            Some(mut alarm) => {
                alarm.as_mut().set(due);
                alarm
            }
            None => {
                let _context = self.0.handle.enter();
                Box::pin(Alarm::new(due))
            }
        };
        Timer { alarm: Some(alarm), timers: self }
    }

    /// This thread's list.
    fn list(&self) -> &Mutex<Vec<Pin<Box<Alarm>>>> {
        let [first, ..] = &self.0.free;
        threads::own(&self.0.free).unwrap_or(first)
    }
}

/// Ready when its time has come.
pub(super) struct Timer<'a> {
    /// There until this is dropped.
    alarm: Option<Pin<Box<Alarm>>>,
    timers: &'a Timers,
}

impl Future for Timer<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.alarm.as_mut().map_or(Poll::Ready(()), |alarm| alarm.as_mut().poll(cx))
    }
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        let Some(alarm) = self.alarm.take() else { return };
        let mut list = self.timers.list().lock();
        if list.len() < KEPT {
            list.push(alarm);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_timer_that_is_used_again_keeps_its_own_time() {
        let timers = Timers::start().unwrap();
        for _ in 0..3 {
            let mut long = timers.sleep(Duration::from_secs(3_600));
            assert!(futures::poll!(&mut long).is_pending());
        }
        assert_eq!(timers.list().lock().len(), 1, "it is one and the same");
        let began = Instant::now();
        timers.sleep(Duration::from_millis(20)).await;
        assert!(began.elapsed() >= Duration::from_millis(20));
        let mut later = timers.sleep(Duration::from_secs(3_600));
        assert!(futures::poll!(&mut later).is_pending(), "it rang for another");
        assert!(futures::poll!(&mut timers.sleep(Duration::MAX)).is_pending());
    }
}

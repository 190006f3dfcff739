//! Wakers that remember that they were used.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::task::AtomicWaker;

/// Wakes another waker, and remembers it.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: AtomicBool,
    outer: AtomicWaker,
}

impl Bell {
    /// Whom it wakes, once.
    pub(crate) fn register(&self, waker: &Waker) {
        self.outer.register(waker);
    }

    /// Whether it rang since this was last asked.
    pub(crate) fn take(&self) -> bool {
        self.rung.load(Ordering::Acquire) && self.rung.swap(false, Ordering::AcqRel)
    }

    /// Whether it rang since then.
    pub(crate) fn is_rung(&self) -> bool {
        self.rung.load(Ordering::Acquire)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.outer.wake();
    }
}

pin_project_lite::pin_project! {
    /// A future that is polled when it asked for it, and not whenever something beside it did: for what a task waits
    /// for all its life, where polling takes a lock.
    pub(crate) struct Seldom<F> {
        #[pin]
        future: F,
        bell: Arc<Bell>,
        waker: Waker,
    }
}

impl<F: Future> Seldom<F> {
    pub(crate) fn new(future: F) -> Self {
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), outer: AtomicWaker::new() });
        Self { future, waker: Waker::from(Arc::clone(&bell)), bell }
    }
}

impl<F: Future> Future for Seldom<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        // Each time, and before the bell is asked: one that rings takes the waker with it, also a moment after it was
        // heard.
        this.bell.register(cx.waker());
        if this.bell.take() { this.future.poll(&mut Context::from_waker(this.waker)) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin, sync::atomic::AtomicU32};

    use futures::{FutureExt, future::join, task::noop_waker_ref};
    use parking_lot::Mutex;
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[test]
    fn it_is_polled_once_and_then_when_it_was_woken_only() {
        let (polls, waker) = (AtomicU32::new(0), Mutex::new(None::<Waker>));
        let mut seldom = pin!(Seldom::new(poll_fn(|cx| {
            *waker.lock() = Some(cx.waker().clone());
            if polls.fetch_add(1, Ordering::Relaxed) < 2 { Poll::Pending } else { Poll::Ready(7) }
        })));
        let poll = |seldom: Pin<&mut Seldom<_>>| seldom.poll(&mut Context::from_waker(noop_waker_ref()));
        for woken in 1..=2 {
            for _ in 0..5 {
                assert!(poll(seldom.as_mut()).is_pending());
            }
            assert_eq!(polls.load(Ordering::Relaxed), woken);
            waker.lock().take().unwrap().wake();
        }
        assert_eq!(poll(seldom.as_mut()), Poll::Ready(7));
    }

    /// Ready when it was woken so often, by threads that ring while it is polled for other reasons, too.
    #[test]
    fn no_ring_is_lost_however_it_falls_together_with_polls() {
        const RINGS: u32 = 20_000;
        let (left, inner) = (AtomicU32::new(RINGS), AtomicWaker::new());
        let seldom = poll_fn(|cx| {
            inner.register(cx.waker());
            if left.load(Ordering::SeqCst) == 0 { Poll::Ready(()) } else { Poll::Pending }
        });
        let mut seldom = pin!(Seldom::new(seldom));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..RINGS {
                    left.fetch_sub(1, Ordering::SeqCst);
                    inner.wake();
                }
            });
            // Polled again at once half of the time, and when it was woken the other half.
            let mut again = false;
            let polls = poll_fn(|cx| {
                again = !again;
                let polled = seldom.as_mut().poll(cx);
                if polled.is_pending() && again {
                    cx.waker().wake_by_ref();
                }
                polled
            });
            tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(polls);
        });
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_polls_last_is_woken() {
        for _ in 0..200 {
            let token = CancellationToken::new();
            let mut seldom = Box::pin(Seldom::new(token.clone().cancelled_owned()));
            assert!(seldom.as_mut().now_or_never().is_none());
            let cancelled = tokio::spawn(async move { token.cancel() });
            let (waited, cancelled) = join(tokio::spawn(seldom), cancelled).await;
            waited.and(cancelled).unwrap();
        }
    }
}

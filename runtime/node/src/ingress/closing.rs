//! The end of a node's patience: what has no answer when the drain is over gets one that says so.

use std::{
    future::Future,
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
};

use tokio::sync::{Notify, futures::Notified};

use crate::threads;

/// Lists of those who wait for an answer: on one the threads would meet.
const LISTS: usize = 16;

/// Whether the drain is over.
#[derive(Debug, Default)]
pub struct Closing {
    is_over: AtomicBool,
    waiting: [Notify; LISTS],
}

impl Closing {
    /// The drain is over: all work that is still waited for ends.
    pub fn over(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.waiting.iter().for_each(Notify::notify_waiters);
    }

    /// What the work comes to; nothing where the drain was over before. Work that is done at once meets no lock here.
    pub fn until_over<F: Future>(&self, work: F) -> UntilOver<'_, F> {
        let [first, ..] = &self.waiting;
        let list = threads::own(&self.waiting).unwrap_or(first);
        // Before anything is polled: it is told of all that comes from now on.
        UntilOver { over: list.notified(), closing: self, work }
    }
}

pin_project_lite::pin_project! {
    /// Work, until the drain is over.
    pub struct UntilOver<'a, F> {
        closing: &'a Closing,
        #[pin]
        over: Notified<'a>,
        #[pin]
        work: F,
    }
}

impl<F: Future> Future for UntilOver<'_, F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(done) = this.work.poll(cx) {
            return Poll::Ready(Some(done));
        }
        if this.closing.is_over.load(Ordering::SeqCst) || this.over.poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::Arc};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn work_ends_when_the_drain_is_over_and_not_before() {
        let closing = Arc::new(Closing::default());
        assert_eq!(closing.until_over(async { 7 }).await, Some(7));
        let early: Vec<_> = (0..64)
            .map(|_| {
                let closing = Arc::clone(&closing);
                tokio::spawn(async move { closing.until_over(pending::<()>()).await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(early.iter().all(|work| !work.is_finished()));
        closing.over();
        for work in early {
            assert_eq!(work.await.unwrap(), None);
        }
        assert_eq!(closing.until_over(pending::<()>()).await, None, "nor later");
        assert_eq!(closing.until_over(async { 7 }).await, Some(7), "what is done at once is done");
    }
}

//! How long a connection of HTTP/1.1 waits for a head: long before its first byte, and not for long once it has begun.
//!
//! hyper knows one time for both, and takes it from the timer it is given. The timer here shortens it with the first
//! byte that comes.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::rt;
use hyper_util::rt::TokioTimer;
use parking_lot::Mutex;

use super::traffic::Traffic;
use crate::alarm::Alarm;

/// hyper's timer of one connection. It is asked for one thing: to wait for a head.
pub(super) struct HeadTimer(Arc<Waiting>);

struct Waiting {
    traffic: Arc<Traffic>,
    /// For a head that has begun.
    begun: Duration,
    /// The alarm between two waits. hyper drops each wait when its head has come, and the next is due later.
    alarm: Mutex<Option<Pin<Box<Alarm>>>>,
}

impl HeadTimer {
    pub(super) fn new(traffic: Arc<Traffic>, begun: Duration) -> Self {
        Self(Arc::new(Waiting { traffic, begun, alarm: Mutex::default() }))
    }
}

impl rt::Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn rt::Sleep>> {
        TokioTimer::new().sleep(duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn rt::Sleep>> {
        let kept = self.0.alarm.lock().take();
        let mut alarm = kept.unwrap_or_else(|| Box::pin(Alarm::new(deadline.into())));
        alarm.as_mut().set(deadline.into());
        let (read, begun) = (self.0.traffic.read(), Some(self.0.begun));
        Box::pin(HeadWait { alarm: Some(alarm), waiting: Arc::clone(&self.0), read, begun })
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into()
    }
}

struct HeadWait {
    /// There until this is dropped.
    alarm: Option<Pin<Box<Alarm>>>,
    waiting: Arc<Waiting>,
    /// What had been read when the wait began.
    read: u64,
    /// The time from the first byte on, until it comes.
    begun: Option<Duration>,
}

impl Future for HeadWait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(alarm) = &mut this.alarm else { return Poll::Ready(()) };
        if this.waiting.traffic.read() != this.read
            && let Some(begun) = this.begun.take()
        {
            alarm.as_mut().set(tokio::time::Instant::now() + begun);
        }
        alarm.as_mut().poll(cx)
    }
}

impl Drop for HeadWait {
    fn drop(&mut self) {
        *self.waiting.alarm.lock() = self.alarm.take();
    }
}

impl rt::Sleep for HeadWait {}

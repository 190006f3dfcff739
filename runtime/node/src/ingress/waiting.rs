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

use super::traffic::Traffic;
use crate::alarm::Alarm;

/// hyper's timer of one connection. It is asked for one thing: to wait for a head.
pub(super) struct HeadTimer {
    traffic: Arc<Traffic>,
    /// For a head that has begun.
    begun: Duration,
}

impl HeadTimer {
    pub(super) fn new(traffic: Arc<Traffic>, begun: Duration) -> Self {
        Self { traffic, begun }
    }
}

impl rt::Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn rt::Sleep>> {
        TokioTimer::new().sleep(duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(HeadWait {
            alarm: Alarm::new(deadline.into()),
            read: self.traffic.read(),
            traffic: Arc::clone(&self.traffic),
            begun: Some(self.begun),
        })
    }

    // For every head but a connection's first: the wait that is there begins anew.
    fn reset(&self, sleep: &mut Pin<Box<dyn rt::Sleep>>, deadline: Instant) {
        let Some(wait) = sleep.as_mut().downcast_mut_pin::<HeadWait>() else {
            *sleep = self.sleep_until(deadline);
            return;
        };
        let wait = wait.project();
        wait.alarm.set(deadline.into());
        *wait.read = self.traffic.read();
        *wait.begun = Some(self.begun);
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into()
    }
}

pin_project_lite::pin_project! {
    struct HeadWait {
        #[pin]
        alarm: Alarm,
        traffic: Arc<Traffic>,
        // What had been read when the wait began.
        read: u64,
        // The time from the first byte on, until it comes.
        begun: Option<Duration>,
    }
}

impl Future for HeadWait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        if this.traffic.read() != *this.read
            && let Some(begun) = this.begun.take()
        {
            this.alarm.as_mut().set(tokio::time::Instant::now() + begun);
        }
        this.alarm.poll(cx)
    }
}

impl rt::Sleep for HeadWait {}

//! A timer that is set far more often than it rings.
//!
//! Nearly all that requests wait for comes in time, so their timers are set anew again and again and never ring. Each
//! setting of a tokio timer takes the lock of a wheel that all threads share. An [`Alarm`] that is put off leaves its
//! timer where it is, and sleeps on when that wakes it too early.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::time::{Instant, Sleep};

pin_project_lite::pin_project! {
    /// Ready when it is due.
    #[derive(Debug)]
    pub(crate) struct Alarm {
        #[pin]
        sleep: Sleep,
        // Never before the timer's own deadline.
        due: Instant,
    }
}

impl Alarm {
    /// Due then, on the timers of the runtime it is made in.
    pub(crate) fn new(due: Instant) -> Self {
        Self { sleep: tokio::time::sleep_until(due), due }
    }

    /// Due at another time.
    pub(crate) fn set(self: Pin<&mut Self>, due: Instant) {
        let this = self.project();
        *this.due = due;
        if due < this.sleep.deadline() {
            this.sleep.reset(due);
        }
    }
}

impl Future for Alarm {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        loop {
            ready!(this.sleep.as_mut().poll(cx));
            if this.sleep.deadline() >= *this.due {
                return Poll::Ready(());
            }
            this.sleep.as_mut().reset(*this.due);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, time::Duration};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const SOON: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn it_rings_when_it_is_due_however_it_was_set_before() {
        for settings in [&[SOON][..], &[SOON, SOON * 2], &[HOUR, SOON], &[HOUR, HOUR * 2, SOON], &[SOON, HOUR, SOON]] {
            let began = Instant::now();
            let mut alarm = pin!(Alarm::new(began + settings[0]));
            for due in settings {
                alarm.as_mut().set(began + *due);
                assert!(futures::poll!(alarm.as_mut()).is_pending());
            }
            alarm.await;
            assert!(began.elapsed() >= settings[settings.len() - 1], "{settings:?}");
        }
    }

    #[tokio::test]
    async fn one_that_rang_can_be_set_again() {
        let began = Instant::now();
        let mut alarm = pin!(Alarm::new(began + SOON));
        alarm.as_mut().await;
        alarm.as_mut().set(began + SOON * 3);
        assert!(futures::poll!(alarm.as_mut()).is_pending());
        alarm.await;
        assert!(began.elapsed() >= SOON * 3);
    }
}

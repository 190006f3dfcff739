//! Bounds in time, kept from outside the store: a guest that spins or blocks can't hold them up.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot::error::RecvError;

use super::{InvokeError, deployment::Deployed, failure, hogs::Migrating, running::Running};

/// Waits for the head of the answer: within the wall time without the time at the gate, and the client's deadline.
/// Nobody sends one any more when the guest's work is over.
pub(super) async fn head<H>(
    deployed: &Deployed,
    running: &Arc<Running>,
    mut now: Instant,
    mut head: impl Future<Output = Result<H, RecvError>> + Unpin,
) -> Result<H, InvokeError> {
    loop {
        let wall = running.limits.wall;
        let left = wall.value.saturating_sub(running.worked(now));
        let to_deadline = running.deadline.map(|deadline| deadline.saturating_duration_since(now));
        let expired = if left.is_zero() {
            Some(InvokeError::Wall(wall))
        } else if to_deadline.is_some_and(|left| left.is_zero()) {
            Some(InvokeError::Deadline)
        } else {
            None
        };
        if let Some(error) = expired {
            failure::overdue(deployed, running, error.clone());
            return Err(error);
        }
        let most = to_deadline.map_or(left, |deadline| deadline.min(left));
        let sleep = pin!(deployed.timers.sleep_from(now.into(), most));
        tokio::select! {
            biased;
            head = &mut head => return head.map_err(|_| failure::of(running)),
            () = sleep => now = Instant::now(),
        }
    }
}

/// Drives a guest's work to its end, or until its answer stands still or lasts too long.
pub(super) async fn stream(mut work: Migrating, running: Arc<Running>, deployed: Arc<Deployed>) {
    loop {
        let sleep = pin!(deployed.timers.sleep(next_look(&running)));
        tokio::select! {
            biased;
            () = &mut work => return,
            () = sleep => {
                if let Some(error) = overdue(&running) {
                    failure::overdue(&deployed, &running, error);
                    // The work, and with it the instance, is dropped after the reason was said.
                    running.end();
                    return;
                }
            }
        }
    }
}

/// When a bound could be passed at the earliest. Before the head, only that the stream begins may change this.
pub(super) fn next_look(running: &Running) -> Duration {
    let limits = &running.limits;
    let least = limits.stream_idle.value.min(limits.stream_total.value).min(limits.wall.value);
    let next = match running.stream_age() {
        None => least,
        Some(_) if running.is_answered() => limits.wall.value.saturating_sub(running.idle()),
        Some(age) => {
            limits.stream_idle.value.saturating_sub(running.idle()).min(limits.stream_total.value.saturating_sub(age))
        }
    };
    // A guest's limits can't make the host spin.
    next.max(Duration::from_millis(5))
}

/// Which bound of the stream is passed.
pub(super) fn overdue(running: &Running) -> Option<InvokeError> {
    let limits = &running.limits;
    let age = running.stream_age()?;
    if running.is_answered() {
        // Work after the answer has as long as work before it.
        return (running.idle() > limits.wall.value).then_some(InvokeError::Wall(limits.wall));
    }
    if age > limits.stream_total.value {
        return Some(InvokeError::StreamTotal(limits.stream_total));
    }
    (running.idle() > limits.stream_idle.value).then_some(InvokeError::StreamIdle(limits.stream_idle))
}

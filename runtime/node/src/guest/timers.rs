//! Timers that guests can't hold up: they are driven by a thread of their own.

use std::{sync::Arc, time::Duration};

use tokio::{runtime::Handle, sync::oneshot};

/// Makes timers. Cheap to clone; the thread ends with the last clone.
#[derive(Clone)]
pub(super) struct Timers(Arc<Inner>);

struct Inner {
    handle: Handle,
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
        Ok(Self(Arc::new(Inner { handle, _stop: stop })))
    }

    /// Ready after `duration`.
    pub(super) fn sleep(&self, duration: Duration) -> tokio::time::Sleep {
        let _context = self.0.handle.enter();
        tokio::time::sleep(duration)
    }
}

//! Waiting for the signals that end a program.

use tokio::signal::unix::{SignalKind, signal};

use super::failure::Failure;

/// Waits for SIGINT or SIGTERM.
pub(super) async fn stop() -> Result<(), Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

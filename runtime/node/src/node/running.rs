//! A node that listens, and its end.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::ready::Readiness;
use crate::{guest::GuestHost, ingress::Closing, observe::Observe, outbound::Cache};

/// A node that listens. Dropping it ends it at once; [`RunningNode::shutdown`] lets open requests finish.
pub struct RunningNode {
    /// Address of the data listener.
    pub data_addr: SocketAddr,
    /// Address of the control listener.
    pub control_addr: SocketAddr,
    /// Address of `/metrics`, where it is served.
    pub metrics_addr: Option<SocketAddr>,
    /// The first token, where it is known.
    pub admin_token: Option<String>,
    /// What people can see.
    pub observe: Arc<Observe>,
    /// File of a token that was made now.
    pub(super) token_file: Option<PathBuf>,
    pub(super) readiness: Arc<Readiness>,
    pub(super) grace: Duration,
    pub(super) drain: Duration,
    pub(super) stop: CancellationToken,
    pub(super) closing: Arc<Closing>,
    pub(super) listeners: Vec<JoinHandle<()>>,
    /// Cancelled by the first of them that ends.
    pub(super) listener_ended: CancellationToken,
    // Outlive the listeners: a change under way is answered once it serves, and a keeper makes it serve.
    pub(super) stop_keepers: CancellationToken,
    pub(super) keepers: Vec<JoinHandle<()>>,
    pub(super) cache: Option<Arc<Cache>>,
    // Goes last: its runtime runs the listeners.
    pub(super) _guests: Arc<GuestHost>,
}

impl RunningNode {
    /// Whether the functions used lately are open.
    pub fn is_ready(&self) -> bool {
        self.readiness.is_ready()
    }

    /// Until a listener ends. Before a shutdown that is a fault: the node answers nobody there any more.
    pub async fn listener_ended(&self) {
        self.listener_ended.cancelled().await;
    }

    /// Says that it is not ready for the drain grace, then stops accepting and lets open requests finish within the
    /// drain timeout. What has no answer then is told so, and what is left ends. Says whether all finished.
    pub async fn shutdown(mut self) -> bool {
        self.readiness.draining();
        tokio::time::sleep(self.grace).await;
        self.stop.cancel();
        let deadline = tokio::time::Instant::now() + self.drain;
        let all = ended(&mut self.listeners, deadline).await;
        if !all {
            self.closing.over();
            let told = ended(&mut self.listeners, deadline + TELLING).await;
            if !told {
                end(&mut self.listeners).await;
            }
        }
        self.stop_keepers.cancel();
        let kept = ended(&mut self.keepers, tokio::time::Instant::now() + KEEPERS).await;
        if !kept {
            end(&mut self.keepers).await;
        }
        if let Some(cache) = &self.cache {
            cache.close().await;
        }
        all && kept
    }
}

/// Time in which those whose requests are not waited for any more are told so.
const TELLING: Duration = Duration::from_millis(500);
/// Time that keepers have to write down what they know, once the listeners have ended.
const KEEPERS: Duration = Duration::from_secs(2);

/// Waits for tasks until the deadline. Says whether all ended; those that did are taken out.
async fn ended(tasks: &mut Vec<JoinHandle<()>>, deadline: tokio::time::Instant) -> bool {
    while let Some(task) = tasks.last_mut() {
        if tokio::time::timeout_at(deadline, task).await.is_err() {
            return false;
        }
        tasks.pop();
    }
    true
}

/// Ends tasks.
async fn end(tasks: &mut Vec<JoinHandle<()>>) {
    for task in tasks.drain(..) {
        task.abort();
        let _ = task.await;
    }
}

impl Drop for RunningNode {
    fn drop(&mut self) {
        self.stop.cancel();
        self.stop_keepers.cancel();
        for task in self.listeners.iter().chain(&self.keepers) {
            task.abort();
        }
    }
}

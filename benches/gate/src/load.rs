//! How clients call: each when the last call is answered, or all at an even pace.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::client::{Client, Done};

/// So many clients until the end, each with one call at a time; all their calls, when the last is over.
pub(crate) async fn closed_loop(client: Arc<Client>, clients: u32, end: Instant) -> Vec<Done> {
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let client = Arc::clone(&client);
        tasks.spawn(async move {
            let mut calls = Vec::new();
            while Instant::now() < end {
                calls.push(client.call(Instant::now()).await);
            }
            calls
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

/// So many calls a second from `begin` to `end`, whatever became of the ones before; all of them, when the last is over.
///
/// A call counts from the moment at which it was due, so that a stall of the clients hides nothing.
pub(crate) async fn open_loop(client: Arc<Client>, rate: f64, begin: Instant, end: Instant) -> Vec<Done> {
    let apart = Duration::from_secs_f64(1.0 / rate);
    let mut tasks = JoinSet::new();
    let mut due = begin;
    while due < end {
        tokio::time::sleep_until(due.into()).await;
        let client = Arc::clone(&client);
        tasks.spawn(async move { client.call(due).await });
        due += apart;
    }
    tasks.join_all().await
}

//! A fake upstream: the APIs of OpenAI and Anthropic, with limits that refuse, lie and stall on demand.
//!
//! It exists so that a person can see the gate at work without an account, and so that tests know exactly what an
//! upstream saw. Three things make it useful for that:
//!
//! - **Answers are a function of the request.** The same conversation gets the same text, whatever the order, the
//!   number of retries or the node it came through, so an agent's run can be compared with another run word by word.
//! - **Faults are a function of the seed.** Request number n is slow, fails or is dropped by a roll of (seed, n).
//! - **It remembers what it saw** (`GET /__stats`): refusals, what was in flight at once, the busiest period, so that a
//!   claim like "never more than 10 a second" can be checked at the place where it matters.
//!
//! [`limiter`] and [`faults`] are pure; [`server`] is the loop around them; [`openai`] and [`anthropic`] know the two
//! dialects.

mod answers;
mod anthropic;
mod faults;
mod limiter;
mod openai;
mod options;
mod server;
mod stats;
mod stream;

use std::{io, net::SocketAddr, sync::Arc};

use tokio::{net::TcpListener, task::JoinHandle};

pub use options::{Candour, LimiterKind, MockOptions, Quota, Share, SplitBy};
pub use stats::Stats;

/// A running fake upstream. Dropping it closes its listener and every connection.
pub struct MockLlm {
    addr: SocketAddr,
    upstream: Arc<server::Upstream>,
    accepting: JoinHandle<()>,
}

impl MockLlm {
    /// The address it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its origin, such as `http://127.0.0.1:9999`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What it saw so far.
    pub fn stats(&self) -> Stats {
        self.upstream.stats()
    }

    /// Forgets what it saw and fills its limiters again.
    pub fn reset(&self) {
        self.upstream.reset();
    }
}

impl Drop for MockLlm {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Starts a fake upstream on the current runtime.
///
/// # Errors
/// When the address can't be listened on.
pub async fn start(options: MockOptions) -> io::Result<MockLlm> {
    let listener = TcpListener::bind(options.listen).await?;
    let addr = listener.local_addr()?;
    let upstream = Arc::new(server::Upstream::new(options));
    let accepting = tokio::spawn(server::accept(listener, Arc::clone(&upstream)));
    Ok(MockLlm { addr, upstream, accepting })
}

#[cfg(test)]
mod tests;

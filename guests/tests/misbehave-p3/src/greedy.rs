//! Taking more than one's share.

use std::hint::black_box;
use wasip3::clocks::monotonic_clock::{now, wait_for};
use wasip3::http::types::{ErrorCode, Fields, Request, Trailers};
use wasip3::{wit_future, wit_stream};

/// Never ends and never calls the host.
pub fn spin() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

/// Computes for so long and never calls the host but to see the time.
pub fn compute(ms: u64) {
    let began = now();
    let mut turns = 0_u64;
    while now() - began < ms * 1_000_000 {
        for _ in 0..10_000 {
            turns = black_box(turns.wrapping_add(1));
        }
    }
}

/// Allocates and touches 1 MiB at a time, for ever.
pub fn alloc() -> ! {
    let mut held = Vec::new();
    loop {
        held.push(black_box(vec![1_u8; 1 << 20]));
    }
}

/// Recurses until the call stack ends.
#[inline(never)]
pub fn recurse(depth: u64) -> u64 {
    // The addition after the call keeps it from becoming a loop.
    if depth == u64::MAX { 0 } else { recurse(depth + 1).wrapping_mul(31) + depth }
}

/// Writes log lines without end.
pub fn log() -> ! {
    let line = "x".repeat(1023);
    loop {
        eprintln!("{line}");
    }
}

/// `n` streams, both ends kept.
pub fn streams(count: u64) -> String {
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(wit_stream::new::<u8>());
    }
    format!("{} streams held\n", held.len())
}

/// `n` futures, both ends kept.
pub fn futures(count: u64) -> String {
    for _ in 0..count {
        std::mem::forget(wit_future::new::<Result<Option<Trailers>, ErrorCode>>(|| Ok(None)));
    }
    format!("{count} futures held\n")
}

/// `n` field sets of `bytes` each, all held.
pub fn fields(count: u64, bytes: u64) -> String {
    let value = vec![b'x'; usize::try_from(bytes).unwrap_or(usize::MAX)];
    let mut held = Vec::new();
    for made in 0..count {
        let fields = Fields::new();
        if let Err(error) = fields.append("x-bomb", &value) {
            return format!("refused after {made}: {error:?}\n");
        }
        held.push(fields);
    }
    format!("{} field sets held\n", held.len())
}

/// `n` timers of an hour, all running at once.
pub async fn timers(count: u64) -> String {
    let mut held: Vec<_> = (0..count).map(|_| Box::pin(wait_for(3_600_000_000_000))).collect();
    std::future::poll_fn(|cx| {
        for timer in &mut held {
            let _running = timer.as_mut().poll(cx);
        }
        std::task::Poll::Ready(())
    })
    .await;
    format!("{} timers run\n", held.len())
}

/// `n` requests with a body each, never sent.
pub fn requests(count: u64) -> String {
    for _ in 0..count {
        let (writer, reader) = wit_stream::new();
        let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
        let made = Request::new(Fields::new(), Some(reader), trailers_reader, None);
        std::mem::forget((writer, trailers, made));
    }
    format!("{count} requests held\n")
}

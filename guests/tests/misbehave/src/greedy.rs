//! Taking more than one's share: time, memory, stack, log, host memory.

use crate::query::Query;
use crate::wasi::Exchange;
use std::hint::black_box;
use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::http::types::{Fields, OutgoingRequest};

/// Never ends and never calls the host.
pub fn spin() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

/// Allocates and touches 1 MiB at a time, for ever.
pub fn alloc() -> ! {
    let mut held = Vec::new();
    loop {
        held.push(black_box(vec![1_u8; 1 << 20]));
    }
}

/// Recurses until the call stack ends. Nothing of a frame lives in linear memory, so it is the engine's own stack that ends.
#[inline(never)]
pub fn recurse(depth: u64) -> u64 {
    // The addition after the call keeps it from becoming a loop.
    if depth == u64::MAX { 0 } else { recurse(depth + 1).wrapping_mul(31) + depth }
}

/// Writes log lines without end.
pub fn log() -> ! {
    let line = [b'x'; 1023].into_iter().chain([b'\n']).collect::<Vec<_>>();
    loop {
        let stderr = wasip2::cli::stderr::get_stderr();
        while stderr.blocking_write_and_flush(&line).is_ok() {}
    }
}

/// A line to each output.
pub fn say(exchange: Exchange) {
    let (stdout, stderr) = (wasip2::cli::stdout::get_stdout(), wasip2::cli::stderr::get_stderr());
    let out = stdout.blocking_write_and_flush(b"to standard output\n");
    let err = stderr.blocking_write_and_flush(b"to standard error\n");
    exchange.answer(&format!("{out:?} {err:?}\n"));
}

/// Panics as the standard library does it: a message, then a trap. Not every build's library has an output to write to.
pub fn panic() -> ! {
    std::panic::set_hook(Box::new(|panic| {
        let stderr = wasip2::cli::stderr::get_stderr();
        let _ = stderr.blocking_write_and_flush(format!("{panic}\n").as_bytes());
    }));
    panic!("the tide is out")
}

/// `bytes` random bytes in one call.
pub fn random(exchange: Exchange, query: &Query) {
    let bytes = wasip2::random::random::get_random_bytes(query.number("bytes", 1 << 30));
    exchange.answer(&format!("{} random bytes\n", bytes.len()));
}

/// `n` field sets of `bytes` each, all held: host memory outside the guest's own limit.
pub fn fields(exchange: Exchange, query: &Query) {
    let (count, bytes) = (query.number("n", 20_000), query.number("bytes", 120_000));
    let value = vec![b'x'; usize::try_from(bytes).unwrap_or(usize::MAX)];
    let mut held = Vec::new();
    for made in 0..count {
        let fields = Fields::new();
        if let Err(error) = fields.append("x-bomb", &value) {
            return exchange.answer(&format!("refused after {made}: {error:?}\n"));
        }
        held.push(fields);
    }
    exchange.answer(&format!("{} field sets held\n", held.len()));
}

/// `n` handles that are never given back.
pub fn handles(exchange: Exchange, query: &Query) {
    let count = query.number("n", 1_000_000);
    for _ in 0..count {
        std::mem::forget(subscribe_duration(u64::MAX / 2));
    }
    exchange.answer(&format!("{count} handles held\n"));
}

/// `n` request bodies that are filled as far as the host takes bytes and never sent.
pub fn bodies(exchange: Exchange, query: &Query) {
    let count = query.number("n", 1000);
    let chunk = [b'x'; 64 * 1024];
    let mut written = 0_u64;
    for _ in 0..count {
        let request = OutgoingRequest::new(Fields::new());
        let Ok(body) = request.body() else { break };
        let Ok(stream) = body.write() else { break };
        while let Ok(room @ 1..) = stream.check_write() {
            let now = room.min(chunk.len() as u64);
            if stream.write(&chunk[..now as usize]).is_err() {
                break;
            }
            written += now;
        }
        std::mem::forget((request, body, stream));
    }
    exchange.answer(&format!("{count} bodies hold {written} bytes\n"));
}

/// Holds `mib` MiB that it has written to, for `ms`.
pub fn hold(exchange: Exchange, query: &Query) {
    let held = black_box(vec![1_u8; usize::try_from(query.number("mib", 32) << 20).unwrap_or(usize::MAX)]);
    subscribe_duration(query.number("ms", 1000) * 1_000_000).block();
    exchange.answer(&format!("{} bytes held\n", held.len()));
}

/// Fills 128 MiB in one instruction, over and over: nothing interrupts the instruction itself.
pub fn fill() -> ! {
    let mut block = vec![0_u8; 128 << 20];
    let mut value = 0_u8;
    loop {
        value = value.wrapping_add(1);
        black_box(&mut block[..]).fill(value);
    }
}

/// Polls a hundred pollables that are all ready, for ever.
pub fn poll() -> ! {
    let ready: Vec<_> = (0..100).map(|_| subscribe_duration(0)).collect();
    let ready: Vec<_> = ready.iter().collect();
    loop {
        black_box(wasip2::io::poll::poll(&ready));
    }
}

/// Sleeps for a nanosecond, for ever.
pub fn naps() -> ! {
    loop {
        subscribe_duration(1).block();
    }
}

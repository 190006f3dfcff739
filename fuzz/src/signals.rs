//! An answer: `STATUS MAX_PAUSE_MS`, header lines, a blank line, a body.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use tidegate_core::{
    Outcome, Signal,
    signal::{Answer, Finals, read, wants_body},
};

use crate::bytes::{halves, lines, map};

static FINALS: Finals = Finals::known(&["insufficient_quota", "credit balance is too low"]);

pub(crate) fn run(bytes: &[u8]) {
    let (head, body) = halves(bytes);
    let first = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let first = String::from_utf8_lossy(first);
    let mut numbers = first.split_whitespace().filter_map(|word| word.parse::<u32>().ok());
    let status = numbers.next().and_then(|status| StatusCode::from_u16(u16::try_from(status).ok()?).ok());
    let status = status.unwrap_or(StatusCode::TOO_MANY_REQUESTS);
    let max_pause = Duration::from_millis(numbers.next().map_or(600_000, u64::from));
    let mut headers = lines(head);
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_600_000);

    let there = map(&headers);
    let _ = wants_body(status, &there, &FINALS);
    for body in [None, Some(body)] {
        let answer = Answer { status, headers: &there, body, finals: &FINALS };
        let signal = read(&answer, wall, max_pause);
        holds(status, &signal, max_pause);
        // Only the order of one header's own lines means anything, whichever way it is spelled.
        let spelled = |start| headers.iter().any(|(name, _)| name.as_str().starts_with(start));
        if !spelled("x-ratelimit-") || !spelled("x-rate-limit-") {
            headers.sort_by(|(one, _), (other, _)| other.as_str().cmp(one.as_str()));
            let turned = map(&headers);
            assert_eq!(read(&Answer { headers: &turned, ..answer }, wall, max_pause), signal);
        }
    }
}

fn holds(status: StatusCode, signal: &Signal, max_pause: Duration) {
    let sane = |wait: Duration| assert!(!wait.is_zero() && wait <= max_pause, "{signal:?}");
    signal.wait.into_iter().for_each(|(wait, source)| {
        sane(wait);
        assert!(!source.to_string().is_empty());
    });
    signal.spent.into_iter().for_each(|spent| sane(spent.wait));
    if !status.is_client_error() && !status.is_server_error() {
        let only = Signal { quotas: signal.quotas, spent: signal.spent, ..Signal::default() };
        assert_eq!(*signal, only, "a success asks for nothing");
    }
    let _ = Outcome::Answer { status: status.as_u16(), signal: *signal }.class();
}

//! Answers as services give them, each read as it is meant, and then mixed and broken in every way: nothing panics, and
//! no wait is more than `max_pause`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use proptest::prelude::*;
use std::{
    path::Path,
    time::{Duration, SystemTime},
};
use tidegate_core::{
    Signal,
    signal::{Answer, Counted, Finals, Source, read},
};

const MAX: Duration = Duration::from_secs(600);

/// One of the files in `answers`: status, headers, an empty line, a body.
struct Sample {
    name: String,
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

fn samples() -> Vec<Sample> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/answers");
    let mut samples: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let text = std::fs::read_to_string(entry.path()).unwrap();
            let (head, body) = text.split_once("\n\n").unwrap();
            let mut lines = head.lines();
            Sample {
                name: entry.file_name().into_string().unwrap(),
                status: lines.next().unwrap().parse().unwrap(),
                headers: lines
                    .map(|line| line.split_once(": ").unwrap())
                    .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
                    .collect(),
                body: body.trim().as_bytes().to_vec(),
            }
        })
        .collect();
    samples.sort_by(|a, b| a.name.cmp(&b.name));
    samples
}

fn signal(status: u16, headers: &[(String, Vec<u8>)], body: &[u8], wall: SystemTime) -> Signal {
    let headers: HeaderMap = headers
        .iter()
        .filter_map(|(name, value)| Some((HeaderName::try_from(name).ok()?, HeaderValue::from_bytes(value).ok()?)))
        .collect();
    let status = StatusCode::from_u16(status).unwrap();
    let answer = Answer { status, headers: &headers, body: Some(body), finals: Finals::NONE };
    read(&answer, wall, MAX)
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_514_400)
}

#[test]
fn each_service_is_understood() {
    let mut told = Vec::new();
    for Sample { name, status, headers, body } in samples() {
        let signal = signal(status, &headers, &body, now());
        told.push((name, signal.wait.map(|(wait, by)| (wait.as_millis(), by)), signal.refused, signal.concurrency));
    }
    let told: Vec<_> =
        told.iter().map(|(name, wait, refused, slots)| (name.as_str(), *wait, *refused, *slots)).collect();
    let requests = Some(Counted::Requests);
    assert_eq!(
        told,
        [
            ("anthropic-429.http", Some((13_000, Source::RetryAfter)), requests, false),
            ("azure-429.http", Some((5_800, Source::RetryAfterMs)), Some(Counted::Tokens), false),
            ("draft-429.http", Some((30_000, Source::RateLimit)), requests, false),
            ("gemini-429.http", Some((34_000, Source::Body)), None, false),
            ("github-403.http", Some((600_000, Source::XRateLimit)), requests, false),
            ("odd-503.http", Some((600_000, Source::RateLimit)), requests, false),
            ("openai-200.http", None, None, false),
            ("openai-429.http", Some((1_250, Source::RetryAfterMs)), requests, false),
            ("openrouter-429.http", Some((12_000, Source::Body)), requests, false),
            ("stripe-429.http", None, None, true),
        ]
    );
}

/// What is done to a sample.
#[derive(Clone, Debug)]
enum Harm {
    /// Lines of another sample come along.
    Mix(usize, usize),
    /// A value is cut.
    Cut(usize, usize),
    /// A byte of a value becomes another.
    Byte(usize, usize, u8),
    /// A value moves to another name.
    Swap(usize, usize),
    /// A number becomes this one.
    Number(usize, String),
    /// The body is cut, or gets another byte.
    Body(usize, Option<u8>),
}

fn harm() -> impl Strategy<Value = Harm> {
    let at = 0usize..64;
    prop_oneof![
        (at.clone(), at.clone()).prop_map(|(a, b)| Harm::Mix(a, b)),
        (at.clone(), at.clone()).prop_map(|(a, b)| Harm::Cut(a, b)),
        (at.clone(), at.clone(), any::<u8>()).prop_map(|(a, b, c)| Harm::Byte(a, b, c)),
        (at.clone(), at.clone()).prop_map(|(a, b)| Harm::Swap(a, b)),
        (at, "-?[0-9]{0,30}(\\.[0-9]{0,9})?(ms|s|m|h)?").prop_map(|(a, b)| Harm::Number(a, b)),
        (0usize..400, any::<Option<u8>>()).prop_map(|(a, b)| Harm::Body(a, b)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn no_mix_of_answers_makes_it_panic_or_wait_too_long(
        which: usize, status in 100u16..1000, keep: bool, harms in prop::collection::vec(harm(), 0..8), wall in 0u64..4_000_000_000,
    ) {
        let all = samples();
        let sample = &all[which % all.len()];
        let (mut headers, mut body) = (sample.headers.clone(), sample.body.clone());
        for harm in harms {
            let count = headers.len().max(1);
            match harm {
                Harm::Mix(other, line) => {
                    let other = &all[other % all.len()].headers;
                    headers.extend(other.iter().skip(line % (other.len() + 1)).cloned());
                }
                Harm::Cut(line, at) => {
                    if let Some((_, value)) = headers.get_mut(line % count) { value.truncate(at) }
                }
                Harm::Byte(line, at, byte) => {
                    if let Some((_, value)) = headers.get_mut(line % count) && let Some(place) = value.get_mut(at) { *place = byte }
                }
                Harm::Swap(one, two) => {
                    if let Some((name, _)) = headers.get(one % count).cloned() && let Some((other, _)) = headers.get_mut(two % count) {
                        *other = name;
                    }
                }
                Harm::Number(line, number) => {
                    if let Some((_, value)) = headers.get_mut(line % count) { *value = number.into_bytes() }
                }
                Harm::Body(at, None) => body.truncate(at),
                Harm::Body(at, Some(byte)) => if let Some(place) = body.get_mut(at) { *place = byte },
            }
        }
        let status = if keep { sample.status } else { status };
        let signal = signal(status, &headers, &body, SystemTime::UNIX_EPOCH + Duration::from_secs(wall));
        let within = |wait: Duration| wait <= MAX && !wait.is_zero();
        prop_assert!(signal.wait.is_none_or(|(wait, _)| within(wait)));
        prop_assert!(signal.spent.is_none_or(|spent| within(spent.wait)));
        if status < 400 {
            prop_assert!(signal.wait.is_none() && signal.should_retry.is_none() && !signal.last_word && !signal.refuses);
        }
    }
}

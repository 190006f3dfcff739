use super::*;
use http::{HeaderName, HeaderValue};
use proptest::prelude::*;

static CREDIT: Finals =
    Finals::known(&["insufficient_quota", "billing_hard_limit_reached", "credit balance is too low"]);
const MAX: Duration = Duration::from_secs(600);
/// The wall clock of all tests: 1,795,514,400 s since 1970.
const NOW: &str = "Tue, 24 Nov 2026 10:00:00 GMT";

fn map(headers: &[(&str, &str)]) -> HeaderMap {
    headers
        .iter()
        .map(|(name, value)| (HeaderName::try_from(*name).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap()))
        .collect()
}

fn of(status: u16, headers: &[(&str, &str)], body: Option<&str>) -> Signal {
    let (status, headers) = (StatusCode::from_u16(status).unwrap(), map(headers));
    let answer = Answer { status, headers: &headers, body: body.map(str::as_bytes), finals: &CREDIT };
    read(&answer, httpdate::parse_http_date(NOW).unwrap(), MAX)
}

fn millis(wait: Option<(Duration, Source)>) -> Option<(u64, Source)> {
    wait.map(|(wait, source)| (wait.as_millis() as u64, source))
}

#[test]
fn every_header_that_names_a_wait_is_read_in_its_order() {
    use Source::{GrpcPushback, RetryAfter, RetryAfterMs, XAmzRetryAfter};
    for (headers, wait) in [
        (&[("retry-after", "12")][..], Some((12_000, RetryAfter))),
        (&[("retry-after", " 1.5 ")], Some((1_500, RetryAfter))),
        (&[("retry-after", "\t2\t")], Some((2_000, RetryAfter))),
        (&[("retry-after-ms", "250")], Some((250, RetryAfterMs))),
        (&[("x-ms-retry-after-ms", "80")], Some((80, RetryAfterMs))),
        (&[("retry-after-ms", "250"), ("x-ms-retry-after-ms", "80")], Some((250, RetryAfterMs))),
        (&[("x-amz-retry-after", "1500")], Some((1_500, XAmzRetryAfter))),
        (&[("grpc-retry-pushback-ms", "70")], Some((70, GrpcPushback))),
        (&[("retry-after", "1"), ("retry-after-ms", "250")], Some((250, RetryAfterMs))),
        (&[("retry-after", "1"), ("x-amz-retry-after", "20")], Some((20, XAmzRetryAfter))),
        (&[("retry-after", "1"), ("retry-after-ms", "soon")], Some((1_000, RetryAfter))),
        (&[("retry-after", "Tue, 24 Nov 2026 10:00:30 GMT")], Some((30_000, RetryAfter))),
        // The upstream's clock is an hour off: its own Date counts.
        (
            &[("retry-after", "Tue, 24 Nov 2026 11:00:07 GMT"), ("date", "Tue, 24 Nov 2026 11:00:00 GMT")],
            Some((7_000, RetryAfter)),
        ),
        // The first of several lines counts, be it nonsense.
        (&[("retry-after", "3"), ("retry-after", "90")], Some((3_000, RetryAfter))),
        (&[("retry-after", "soon"), ("retry-after", "90")], None),
        // Lies and nonsense.
        (&[("retry-after", "86400")], Some((600_000, RetryAfter))),
        (&[("retry-after", "99999999999999999999999999")], Some((600_000, RetryAfter))),
        (&[("retry-after", "0")], None),
        (&[("retry-after", "0.0000000000001")], None),
        (&[("retry-after", "-5")], None),
        (&[("retry-after", "NaN")], None),
        (&[("retry-after", "inf")], None),
        (&[("retry-after", "1e3")], None),
        (&[("retry-after", "1.2.3")], None),
        (&[("retry-after", "5, 10")], None),
        (&[("retry-after", "")], None),
        (&[("retry-after", "soon")], None),
        (&[("retry-after", "b\u{e4}ld")], None),
        (&[("retry-after", "Tue, 24 Nov 2026 09:00:00 GMT")], None),
        (&[("retry-after", "Tue, 24 Nov 9026 09:00:00 GMT")], None),
        (&[], None),
    ] {
        assert_eq!(millis(of(429, headers, None).wait), wait, "{headers:?}");
    }
}

#[test]
fn every_family_of_quotas_is_read() {
    use Counted::{InputTokens, OutputTokens, Requests, Tokens};
    use Refill::{AtOnce, Evenly};
    let quota = |limit, remaining, reset: Option<f64>, refill| Quota {
        limit,
        remaining,
        reset: reset.map(Duration::from_secs_f64),
        refill,
    };
    for (headers, counted, expected) in [
        (
            &[
                ("x-ratelimit-limit-requests", "500"),
                ("x-ratelimit-remaining-requests", "499"),
                ("x-ratelimit-reset-requests", "120ms"),
            ][..],
            Requests,
            quota(Some(500), Some(499), Some(0.12), Evenly),
        ),
        (
            &[
                ("x-ratelimit-limit-tokens", "30000"),
                ("x-ratelimit-remaining-tokens", "0"),
                ("x-ratelimit-reset-tokens", "6m0s"),
            ],
            Tokens,
            quota(Some(30_000), Some(0), Some(360.0), Evenly),
        ),
        (
            &[("x-ratelimit-remaining-tokens_usage_based", "7"), ("x-ratelimit-reset-tokens_usage_based", "1s")],
            Tokens,
            quota(None, Some(7), Some(1.0), Evenly),
        ),
        // Azure: plain seconds; -1 and a limit of 0 are unknown.
        (
            &[("x-ratelimit-remaining-tokens", "19913"), ("x-ratelimit-reset-tokens", "30")],
            Tokens,
            quota(None, Some(19_913), Some(30.0), Evenly),
        ),
        (
            &[
                ("x-ratelimit-limit-tokens", "0"),
                ("x-ratelimit-remaining-tokens", "-1"),
                ("x-ratelimit-reset-tokens", "0"),
            ],
            Tokens,
            Quota::default(),
        ),
        (
            &[
                ("anthropic-ratelimit-input-tokens-limit", "50000"),
                ("anthropic-ratelimit-input-tokens-remaining", "0"),
                ("anthropic-ratelimit-input-tokens-reset", "2026-11-24T10:00:12Z"),
            ],
            InputTokens,
            quota(Some(50_000), Some(0), Some(12.0), Evenly),
        ),
        (
            &[
                ("anthropic-ratelimit-output-tokens-remaining", "10"),
                ("anthropic-ratelimit-output-tokens-reset", "2026-11-24T11:00:01.5+01:00"),
            ],
            OutputTokens,
            quota(None, Some(10), Some(1.5), Evenly),
        ),
        // A reset that has passed is not there.
        (
            &[
                ("anthropic-ratelimit-requests-remaining", "0"),
                ("anthropic-ratelimit-requests-reset", "2026-11-24T09:00:00Z"),
            ],
            Requests,
            quota(None, Some(0), None, Evenly),
        ),
        // The draft: strings or tokens; the narrowest of requests.
        (
            &[
                ("ratelimit-policy", r#""burst";q=100;w=60,"daily";q=1000;w=86400"#),
                ("ratelimit", r#""burst";r=50;t=30"#),
            ],
            Requests,
            quota(Some(100), Some(50), Some(30.0), AtOnce),
        ),
        (
            &[("ratelimit", r#""a";r=9;t=1, "b";r=0;t=5, "c";r=0;t=7"#)],
            Requests,
            quota(None, Some(0), Some(7.0), AtOnce),
        ),
        (
            &[("ratelimit-policy", r#""b";q=9;qu="content-bytes""#), ("ratelimit", r#""b";r=0;t=5"#)],
            Requests,
            Quota::default(),
        ),
        (&[("ratelimit", r#""a";r=9"#), ("ratelimit", r#""b";r=4"#)], Requests, quota(None, Some(4), None, AtOnce)),
        (&[("ratelimit", "limit=100, remaining=50, reset=5")], Requests, quota(Some(100), Some(50), Some(5.0), AtOnce)),
        (&[("ratelimit", r#""a";r="9""#)], Requests, Quota::default()),
        (&[("ratelimit", r#""a";r=-9;t=1"#)], Requests, Quota::default()),
        (&[("ratelimit", "what's this")], Requests, Quota::default()),
        // Older ones.
        (
            &[("ratelimit-limit", "100, 100;w=60"), ("ratelimit-remaining", "3"), ("ratelimit-reset", "12")],
            Requests,
            quota(Some(100), Some(3), Some(12.0), AtOnce),
        ),
        (
            &[("x-ratelimit-limit", "60"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1795514460")],
            Requests,
            quota(Some(60), Some(0), Some(60.0), AtOnce),
        ),
        (
            &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1795514460000")],
            Requests,
            quota(None, Some(0), Some(60.0), AtOnce),
        ),
        (
            &[("x-rate-limit-remaining", "1"), ("x-rate-limit-reset", "9")],
            Requests,
            quota(None, Some(1), Some(9.0), AtOnce),
        ),
        (
            &[("x-ratelimit-remaining", "1"), ("x-ratelimit-reset", "1795514460"), ("x-ratelimit-reset-after", "0.25")],
            Requests,
            quota(None, Some(1), Some(0.25), AtOnce),
        ),
        // What names its unit comes before what does not; a reset alone says nothing.
        (
            &[("x-ratelimit-remaining", "5"), ("x-ratelimit-remaining-requests", "6")],
            Requests,
            quota(None, Some(6), None, Evenly),
        ),
        (&[("x-ratelimit-reset", "5")], Requests, Quota::default()),
    ] {
        for status in [200, 429] {
            assert_eq!(of(status, headers, None).quotas.of(counted), expected, "{status} {headers:?}");
        }
    }
}

#[test]
fn a_quota_of_which_nothing_is_left_says_how_long() {
    let spent = |headers: &[(&str, &str)]| {
        of(200, headers, None).spent.map(|spent| (spent.wait.as_millis() as u64, spent.source, spent.counted))
    };
    let open = |unit: &str, limit: &str, remaining: &str, reset: &str| {
        let names = ["limit", "remaining", "reset"].map(|part| format!("x-ratelimit-{part}-{unit}"));
        let headers: Vec<_> = names.iter().map(String::as_str).zip([limit, remaining, reset]).collect();
        spent(&headers)
    };
    // The bucket is full after 60 s: one of 20 is back after three.
    assert_eq!(open("requests", "20", "0", "60s"), Some((3_000, Source::OpenAi, Counted::Requests)));
    assert_eq!(open("tokens", "20000", "0", "60s"), Some((3_000, Source::OpenAi, Counted::Tokens)));
    assert_eq!(open("requests", "20", "1", "60s"), None, "time until full is no wait");
    assert_eq!(open("requests", "20", "0", "0s"), None);
    let window = [("x-ratelimit-limit", "60"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "40")];
    assert_eq!(spent(&window), Some((40_000, Source::XRateLimit, Counted::Requests)));
    assert_eq!(of(429, &window, None).wait, Some((Duration::from_secs(40), Source::XRateLimit)));
    assert_eq!(of(200, &window, None).wait, None);
    let far = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "86400")];
    assert_eq!(spent(&far), Some((600_000, Source::XRateLimit, Counted::Requests)), "max_pause");
    // Retry-After wins over the draft's t, and a longer reset over a shorter.
    let both = [("ratelimit", r#""a";r=0;t=30"#), ("retry-after", "5")];
    assert_eq!(of(429, &both, None).wait, Some((Duration::from_secs(5), Source::RetryAfter)));
    assert_eq!(of(429, &both[..1], None).wait, Some((Duration::from_secs(30), Source::RateLimit)));
    let two = [
        ("anthropic-ratelimit-requests-remaining", "0"),
        ("anthropic-ratelimit-requests-reset", "2026-11-24T10:00:02Z"),
        ("anthropic-ratelimit-output-tokens-remaining", "0"),
        ("anthropic-ratelimit-output-tokens-reset", "2026-11-24T10:02:00Z"),
    ];
    assert_eq!(spent(&two), Some((6_000, Source::Anthropic, Counted::OutputTokens)));
    assert_eq!(of(429, &two, None).refused, Some(Counted::OutputTokens));
}

#[test]
fn a_quota_of_a_part_of_githubs_api_holds_nobody_back_but_who_was_refused() {
    for (resource, spent) in [("core", true), ("Core", true), ("code_search", false), ("graphql", false)] {
        let headers = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "40"), ("x-ratelimit-resource", resource)];
        assert_eq!(of(200, &headers, None).spent.is_some(), spent, "{resource}");
        assert_eq!(of(403, &headers, None).wait, Some((Duration::from_secs(40), Source::XRateLimit)), "{resource}");
    }
}

#[test]
fn should_retry_is_read_and_a_success_asks_for_no_pause_and_no_repetition() {
    let asked = |headers| of(429, headers, None).should_retry;
    assert_eq!(asked(&[("x-should-retry", "false")]), Some(false));
    assert_eq!(asked(&[("x-should-retry", "True")]), Some(true));
    assert_eq!(asked(&[("x-should-retry", "maybe")]), None);
    assert_eq!(asked(&[("grpc-retry-pushback-ms", "-1")]), Some(false));
    assert_eq!(asked(&[("grpc-retry-pushback-ms", "-1"), ("x-should-retry", "true")]), Some(true));
    for status in [200, 201, 302] {
        let signal = of(status, &[("retry-after", "5"), ("x-should-retry", "true")], None);
        assert_eq!(signal, Signal::default(), "{status}");
    }
}

#[test]
fn the_table_of_bodies() {
    let none = body::Said::default();
    let refuses = body::Said { refuses: true, ..none };
    let seconds = |seconds: f64| Some(Duration::from_secs_f64(seconds));
    for (text, said) in [
        // OpenAI
        (
            r#"{"error": {"message": "Rate limit reached for x on requests per min", "type": "requests", "code": "rate_limit_exceeded"}}"#,
            body::Said { refused: Some(Counted::Requests), ..refuses },
        ),
        (
            r#"{"error": {"message": "x", "type": "tokens", "code": "rate_limit_exceeded"}}"#,
            body::Said { refused: Some(Counted::Tokens), ..refuses },
        ),
        (
            r#"{"error": {"message": "x", "type": "insufficient_quota", "code": "insufficient_quota"}}"#,
            body::Said { last_word: true, ..none },
        ),
        // Anthropic
        (r#"{"type": "error", "error": {"type": "rate_limit_error", "message": "x"}}"#, refuses),
        (r#"{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}"#, none),
        (
            r#"{"type": "error", "error": {"type": "rate_limit_error", "message": "Number of concurrent connections has exceeded your rate limit."}}"#,
            body::Said { concurrency: true, ..refuses },
        ),
        // OpenRouter
        (
            r#"{"error": {"code": 429, "message": "x"}, "availability": {"retry_after": 7.5}}"#,
            body::Said { wait: seconds(7.5), ..refuses },
        ),
        (
            r#"{"error": {"code": 429, "message": "x", "metadata": {"retry_after_seconds": 17}}}"#,
            body::Said { wait: seconds(17.0), ..refuses },
        ),
        (r#"{"error": {"code": 503, "message": "x", "metadata": {"error_type": "rate_limited"}}}"#, refuses),
        // Gemini
        (
            r#"{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "x", "details": [
                {"@type": "type.googleapis.com/google.rpc.Help"},
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"}]}}"#,
            body::Said { wait: seconds(34.0), ..refuses },
        ),
        (
            r#"[{"error": {"code": 429, "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.5s"}]}}]"#,
            body::Said { wait: seconds(0.5), ..refuses },
        ),
        (
            r#"{"error": {"details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "-5s"}]}}"#,
            none,
        ),
        (r#"{"error": {"code": 403, "errors": [{"reason": "userRateLimitExceeded"}]}}"#, refuses),
        // GitHub
        (
            r#"{"message": "You have exceeded a secondary rate limit. Please wait a few minutes."}"#,
            body::Said { wait: seconds(60.0), ..refuses },
        ),
        (r#"{"message": "API rate limit exceeded for user ID 1."}"#, refuses),
        (r#"{"message": "Resource not accessible by integration"}"#, none),
        // Waits in words
        (
            r#"{"error": {"type": "tokens", "message": "Rate limit reached. Please try again in 1m2.5s. Visit"}}"#,
            body::Said { wait: seconds(62.5), refused: Some(Counted::Tokens), ..refuses },
        ),
        (
            r#"{"error": {"code": 429, "message": "Quota exceeded. Please retry in 46.25s."}}"#,
            body::Said { wait: seconds(46.25), ..refuses },
        ),
        (
            r#"{"error": {"code": 429, "message": "Please retry after 6 seconds."}}"#,
            body::Said { wait: seconds(6.0), ..refuses },
        ),
        (r#"{"error": {"code": 429, "message": "Please try again in a while, retry after 5 cups"}}"#, refuses),
        // Concurrency by code
        (
            r#"{"error": {"code": "too_many_concurrent_requests", "message": ""}}"#,
            body::Said { concurrency: true, ..refuses },
        ),
        (r#"{"error": "concurrency_limit_exceeded"}"#, body::Said { concurrency: true, ..refuses }),
        // The draft's problems
        (
            r#"{"type": "https://iana.org/assignments/http-problem-types#quota-exceeded", "violated-policies": ["slots"]}"#,
            body::Said { concurrency: true, ..refuses },
        ),
        (
            r#"{"type": "https://iana.org/assignments/http-problem-types#quota-exceeded", "violated-policies": ["slots", "rate"]}"#,
            body::Said { refused: Some(Counted::Requests), ..refuses },
        ),
        (r#"{"type": "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"}"#, refuses),
        // Nothing
        ("{}", none),
        ("[]", none),
        ("null", none),
        (r#"{"error": {"message": "requests are fine", "code": 500}}"#, none),
        (r#"{"availability": {"retry_after": -1}, "error": {"details": 5}}"#, none),
    ] {
        let headers = map(&[("ratelimit-policy", r#""rate";q=9, "slots";q=5;qu="concurrent-requests""#)]);
        let draft = Draft::read(&Fields::of(&headers), &mut Quotas::default());
        assert_eq!(body::look(&serde_json::from_str(text).unwrap(), draft.as_ref(), &CREDIT), said, "{text}");
    }
}

#[test]
fn headers_and_body_say_one_thing_together() {
    let waits = r#"{"error": {"code": 429}, "availability": {"retry_after": 7}}"#;
    assert_eq!(millis(of(429, &[], Some(waits)).wait), Some((7_000, Source::Body)));
    assert_eq!(millis(of(429, &[("retry-after", "2")], Some(waits)).wait), Some((2_000, Source::RetryAfter)));
    let spent = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "40")];
    assert_eq!(millis(of(429, &spent, Some(waits)).wait), Some((7_000, Source::Body)));
    assert_eq!(of(200, &[], Some(waits)), Signal::default());
    for (headers, concurrency) in [
        (&[("stripe-rate-limited-reason", "global-concurrency")][..], true),
        (&[("stripe-rate-limited-reason", "global-rate")], false),
        (&[("ratelimit-policy", r#""s";q=2;qu="concurrent-requests""#), ("ratelimit", r#""s";r=0"#)], true),
        (&[("ratelimit-policy", r#""s";q=2;qu="concurrent-requests""#), ("ratelimit", r#""s";r=1"#)], false),
        (&[("ratelimit", r#""s";r=0"#)], false),
    ] {
        assert_eq!(of(429, headers, None).concurrency, concurrency, "{headers:?}");
        assert!(!of(200, headers, None).concurrency);
    }
    let both = [("stripe-rate-limited-reason", "global-concurrency"), spent[0], spent[1]];
    assert_eq!(of(429, &both, None).wait, None, "a slot comes back before the window does");
}

#[test]
fn a_body_is_wanted_only_where_it_can_say_more() {
    let json = ("content-type", "application/json; charset=utf-8");
    for (status, headers, wanted) in [
        (429, &[json][..], true),
        (429, &[json, ("retry-after", "1")], true),
        (429, &[("content-type", "Application/Problem+JSON")], true),
        (429, &[("content-type", "text/plain")], false),
        (429, &[], false),
        (403, &[json], true),
        (403, &[json, ("retry-after", "1")], false),
        (503, &[json], true),
        (529, &[json], true),
        (500, &[json], false),
        (200, &[json], false),
        (400, &[json], false),
    ] {
        let wants = |finals| wants_body(StatusCode::from_u16(status).unwrap(), &map(headers), finals);
        assert_eq!(wants(Finals::NONE), wanted, "{status} {headers:?}");
        // Where something is known that no waiting changes, it may be said of a request, too.
        assert_eq!(wants(&Finals::own(["broke"])), wanted || status == 400, "{status} {headers:?}");
    }
}

proptest! {
    #[test]
    fn no_value_makes_a_reader_panic(text: String, near in "[-+0-9.:;,TZeEmhsuµ ]{0,44}") {
        for text in [&text, &near] {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_514_400);
            let _ = (values::wait(text, 0.001), values::count(text), values::go_duration(text));
            let _ = (values::instant(text), values::reset(text, now));
        }
    }

    #[test]
    fn no_body_makes_it_panic(bytes: Vec<u8>, near in r#"\{"(error|code|type|availability)": ?[{"\[]{0,3}[a-z_"0-9]{0,30}[}"\]]{0,4}"#) {
        for body in [&bytes[..], near.as_bytes()] {
            let headers = HeaderMap::new();
            let answer = Answer { status: StatusCode::TOO_MANY_REQUESTS, headers: &headers, body: Some(body), finals: &CREDIT };
            let signal = read(&answer, SystemTime::UNIX_EPOCH, MAX);
            prop_assert!(signal.wait.is_none_or(|(wait, _)| wait <= MAX && !wait.is_zero()));
        }
    }
}

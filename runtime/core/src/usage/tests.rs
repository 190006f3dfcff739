use super::*;
use crate::repeat::Class;
use proptest::prelude::*;

const MAX: Duration = Duration::from_secs(600);

fn scan(framing: Framing, pieces: &[&[u8]], bound: usize) -> Scanner {
    let mut scanner = Scanner::new(framing, bound, Finals::known(&["insufficient_quota"]), MAX);
    pieces.iter().for_each(|piece| scanner.feed(piece));
    scanner.end();
    scanner
}

/// Tokens in, out and in all, and the status and class of an error in the midst.
type Found = (Option<(u64, u64, u64)>, Option<(u16, Class)>);

/// What is found in a text, in whatever pieces it comes.
fn found(framing: Framing, text: &str) -> Found {
    let read = |pieces: &[&[u8]]| {
        let mut scanner = scan(framing, pieces, 16 << 10);
        let usage = scanner.usage().map(|usage| (usage.input, usage.output, usage.tokens()));
        let trouble = scanner.take_trouble().map(|outcome| match outcome {
            Outcome::Answer { status, .. } => (status, outcome.class()),
            Outcome::Failed(_) => panic!("an answer came"),
        });
        (usage, trouble)
    };
    let whole = read(&[text.as_bytes()]);
    for size in [1, 2, 3, 7, 64] {
        let pieces: Vec<_> = text.as_bytes().chunks(size).collect();
        assert_eq!(read(&pieces), whole, "in pieces of {size}: {text}");
    }
    whole
}

#[test]
fn tokens_are_read_from_every_shape() {
    use Framing::{Events, Json};
    for (framing, text, usage) in [
        // OpenAI, chat
        (
            Json,
            r#"{"id": "x", "choices": [{"message": {"content": "\"usage\": {\"prompt_tokens\": 1}"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21, "prompt_tokens_details": {"cached_tokens": 0}}, "z": 1}"#,
            Some((9, 12, 21)),
        ),
        (
            Events,
            "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"},\"finish_reason\":null}],\"usage\":null}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4,\"total_tokens\":7}}\n\ndata: [DONE]\n\n",
            Some((3, 4, 7)),
        ),
        // Nothing asked for it.
        (Events, "data: {\"choices\":[{\"delta\":{}}]}\n\ndata: [DONE]\n\n", None),
        // OpenAI, responses
        (
            Events,
            "event: response.created\r\ndata: {\"type\":\"response.created\",\"response\":{\"error\":null,\"usage\":null}}\r\n\r\nevent: response.completed\r\ndata: {\"type\":\"response.completed\",\"response\":{\"output\":[{\"usage\":{\"input_tokens\":99}}],\"usage\":{\"input_tokens\":5,\"output_tokens\":6,\"total_tokens\":11}}}\r\n\r\n",
            Some((5, 6, 11)),
        ),
        (
            Json,
            r#"{"object":"response","error":null,"usage":{"input_tokens":5,"output_tokens":6,"total_tokens":11}}"#,
            Some((5, 6, 11)),
        ),
        // Anthropic: what is written into the cache counts, what is read from it does not.
        (
            Json,
            r#"{"type":"message","content":[],"usage":{"input_tokens":5,"cache_creation_input_tokens":100,"cache_read_input_tokens":9000,"output_tokens":6}}"#,
            Some((105, 6, 111)),
        ),
        (
            Events,
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"content\":[],\"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}\n\nevent: ping\ndata: {\"type\": \"ping\"}\n\nevent: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":15}}\n\n",
            Some((25, 15, 40)),
        ),
        // Gemini, with thoughts in the sum
        (
            Events,
            "data: {\"candidates\":[],\"usageMetadata\":{\"promptTokenCount\":4,\"totalTokenCount\":4}}\n\ndata: {\"candidates\":[],\"usageMetadata\":{\"promptTokenCount\":4,\"candidatesTokenCount\":5,\"thoughtsTokenCount\":20,\"totalTokenCount\":29}}",
            Some((4, 5, 29)),
        ),
        (
            Json,
            "[{\"usageMetadata\":{\"promptTokenCount\":4}},\n{\"usageMetadata\":{\"promptTokenCount\":4,\"candidatesTokenCount\":5}}]",
            Some((4, 5, 9)),
        ),
        // Elsewhere it means something else.
        (Json, r#"{"choices": [{"usage": {"prompt_tokens": 9}}], "data": {"usage": {"prompt_tokens": 9}}}"#, None),
        (Json, r#"{"usage": {"prompt_tokens": -1, "completion_tokens": "x"}}"#, None),
        (Json, r#"{"usage": 5, "us\u0061ge": {"prompt_tokens": 9}}"#, None),
        (Json, r#"[[{"usage": {"prompt_tokens": 9}}]]"#, None),
        (Json, "", None),
        (Json, "no JSON", None),
        (Events, ": comment\n\nid: 1\nretry: 5\n\n", None),
        (Events, "data\ndata:{\"usage\":\ndata:{\"prompt_tokens\":9}}\n\n", Some((9, 0, 9))),
    ] {
        assert_eq!(found(framing, text), (usage, None), "{text}");
    }
}

#[test]
fn errors_in_the_midst_of_an_answer_are_what_they_would_have_been() {
    use Framing::{Events, Json};
    for (framing, text, trouble) in [
        (
            Events,
            "data: {\"id\":\"x\",\"error\":{\"code\":429,\"message\":\"limited\"},\"choices\":[{\"delta\":{\"content\":\"\"},\"finish_reason\":\"error\"}]}\n\n",
            Some((429, Class::Refused)),
        ),
        (
            Events,
            "data: {\"error\":{\"code\":502,\"message\":\"gone\"},\"choices\":[{\"finish_reason\":\"error\"}]}\n\n",
            Some((502, Class::Down)),
        ),
        (Events, "data: {\"choices\":[{\"finish_reason\":\"error\"}]}\n\n", Some((500, Class::Faulty))),
        (
            Events,
            "event: error\ndata: {\"type\":\"error\",\"code\":\"rate_limit_exceeded\",\"message\":\"x\",\"param\":null}\n\n",
            Some((429, Class::Refused)),
        ),
        (
            Events,
            "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":\"server_error\",\"message\":\"x\"}}}\n\n",
            Some((500, Class::Faulty)),
        ),
        (
            Events,
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n",
            Some((529, Class::Down)),
        ),
        (
            Events,
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"x\"}}\n\n",
            Some((429, Class::Refused)),
        ),
        (
            Events,
            "data: {\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":\"x\"}}\n\n",
            Some((400, Class::Accepted)),
        ),
        (Json, r#"{"error": {"code": "insufficient_quota", "message": "x"}}"#, Some((429, Class::Denied))),
        (Json, r#"{"error": {"code": 503, "message": "x"}}"#, Some((503, Class::Down))),
        (Json, r#"{"error": null, "type": "message"}"#, None),
        (Events, "data: {\"type\":\"ping\"}\n\ndata: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n", None),
    ] {
        assert_eq!(found(framing, text), (None, trouble), "{text}");
    }
}

#[test]
fn an_error_is_told_once_and_what_it_asks_for_is_bounded() {
    let event = "data: {\"error\":{\"code\":429,\"metadata\":{\"retry_after_seconds\":9999}}}\n\n";
    let mut scanner = scan(Framing::Events, &[event.as_bytes(), event.as_bytes()], 1 << 10);
    let Some(Outcome::Answer { signal, .. }) = scanner.take_trouble() else { panic!("none") };
    assert_eq!(signal.wait, Some((MAX, crate::signal::Source::Body)));
    assert!(scanner.take_trouble().is_none());
}

#[test]
fn where_a_stream_is_cut_into_pieces_makes_no_difference() {
    let stream =
        b"event: error\r\ndata: {\"code\": \"overloaded\"}\r\n\r\ndata: {\"usage\": {\"total_tokens\": 3}}\r\r\n";
    let whole = scan(Framing::Events, &[stream], 1_000);
    assert_eq!(whole.usage().map(|usage| usage.tokens()), Some(3));
    for at in 0..stream.len() {
        let mut pieces = scan(Framing::Events, &[&stream[..at], &stream[at..]], 1_000);
        let trouble = pieces.take_trouble();
        assert!(matches!(trouble, Some(Outcome::Answer { status: 529, .. })), "cut at {at}: {trouble:?}");
        assert_eq!(pieces.usage(), whole.usage(), "cut at {at}");
    }
}

#[test]
fn memory_is_bounded_whatever_comes_and_what_was_too_long_is_told() {
    let long = format!(r#"{{"usage": {{"x": "{}"}}, "type": "y"}}"#, "z".repeat(5_000));
    let scanner = scan(Framing::Json, &[long.as_bytes()], 1_000);
    assert!(scanner.is_cut() && scanner.usage().is_none());
    let deep = format!("{}{}", "[{\"a\":".repeat(100_000), "\"x".repeat(100_000));
    let scanner = scan(Framing::Json, &[deep.as_bytes()], 1_000);
    assert!(!scanner.is_cut());
    let line = format!("data: {{\"content\": \"{}\", \"usage\": {{\"prompt_tokens\": 3}}}}\n\n", "x".repeat(1 << 20));
    let scanner = scan(Framing::Events, &[line.as_bytes()], 1_000);
    assert_eq!(scanner.usage().map(|usage| usage.tokens()), Some(3));
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(
        bytes: Vec<u8>,
        near in prop::collection::vec("(data: ?|event: ?|error|\\{|\\}|\\[|\\]|\"usage\"|\"error\"|\"choices\"|:|,|\\\\|\"|[0-9]{1,3}|\\r?\\n|null){1,8}", 0..20),
        bound in 0usize..64,
    ) {
        let near: Vec<_> = near.iter().map(String::as_bytes).collect();
        for framing in [Framing::Json, Framing::Events] {
            scan(framing, &[&bytes], bound);
            scan(framing, &near, bound);
        }
    }
}

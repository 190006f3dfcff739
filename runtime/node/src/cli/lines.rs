//! How an event of a node reads in a terminal: a guest's line, an outbound call, a refusal.
//!
//! `tidegate dev` has the events as types, `tidegate logs -f` as JSON; both read the same.

use std::{fmt::Write as _, time::Duration};

use serde_json::Value;

use super::output::{millis, paint};
use crate::observe::FeedEvent;

/// The line of an event in the live feed.
pub(super) fn from_feed(event: &FeedEvent) -> String {
    match event {
        FeedEvent::Log(line) => serde_json::to_value(&**line).map(|line| log(&line)).unwrap_or_default(),
        FeedEvent::Call(line) => serde_json::to_value(&**line).map(|line| call(&line)).unwrap_or_default(),
        FeedEvent::Refused { status, host, paused, waiting } => refused(*status, host, *paused, *waiting),
    }
}

/// The line of an event of the log stream; `None` for one of another kind.
pub(super) fn from_event(kind: &str, value: &Value) -> Option<String> {
    match kind {
        "log" => Some(log(value)),
        "call" => Some(call(value)),
        "missed" => {
            let count = value.get("events").and_then(Value::as_u64).unwrap_or_default();
            Some(format!("{warn}missed some of {count} events: they came too fast{warn:#}", warn = paint::WARN))
        }
        _ => None,
    }
}

/// `429 api.openai.com: paused 12 s, 3 waiting`.
pub(super) fn refused(status: u16, host: &str, paused: Duration, waiting: u32) -> String {
    let paused = millis(u64::try_from(paused.as_millis()).unwrap_or(u64::MAX));
    let waiting = if waiting > 0 { format!(", {waiting} waiting") } else { String::new() };
    format!("{style}{status}{style:#} {host}: paused {paused}{waiting}", style = status_style(status))
}

/// `200 POST api.openai.com/v1/chat/completions 812 ms (waited 1.2 s, 2 attempts)`.
fn call(line: &Value) -> String {
    let text = |key: &str| line.get(key).and_then(Value::as_str).unwrap_or_default();
    let number = |key: &str| line.get(key).and_then(Value::as_u64).unwrap_or_default();
    let code = u16::try_from(number("status")).unwrap_or_default();
    let style = status_style(code);
    let status = if code == 0 { "---".to_owned() } else { code.to_string() };
    let mut shown = format!(
        "{style}{status}{style:#} {} {}{} {}",
        text("method"),
        text("host"),
        text("path"),
        millis(number("total_ms"))
    );
    let mut remarks = Vec::new();
    if number("waited_ms") > 0 {
        remarks.push(format!("waited {}", millis(number("waited_ms"))));
    }
    if number("attempts") != 1 {
        remarks.push(format!("{} attempts", number("attempts")));
    }
    if !text("remark").is_empty() {
        remarks.push(text("remark").to_owned());
    }
    if !remarks.is_empty() {
        let _ = write!(shown, " {dim}({}){dim:#}", remarks.join(", "), dim = paint::DIM);
    }
    shown
}

fn log(line: &Value) -> String {
    let text = |key: &str| line.get(key).and_then(Value::as_str).unwrap_or_default();
    let time = clock(line.get("time_ms").and_then(Value::as_u64).unwrap_or_default());
    let (mark, style) = match text("stream") {
        "stderr" => ("!", paint::WARN),
        "host" => ("#", paint::BAD),
        _ => ("|", paint::DIM),
    };
    let head = format!("{dim}{time}{dim:#} {} {style}{mark}{style:#}", text("function"), dim = paint::DIM);
    // A guest's control characters must not reach the terminal: they could rewrite what is on it. The host writes several
    // lines at once, each of which is marked as its.
    let printed = |line: &str| -> String {
        line.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
    };
    let lines: Vec<_> =
        text("text").trim_end_matches('\n').split('\n').map(|line| format!("{head} {}", printed(line))).collect();
    lines.join("\n")
}

/// Time of day in UTC.
fn clock(ms: u64) -> String {
    let seconds = ms / 1_000 % 86_400;
    format!("{:02}:{:02}:{:02}.{:03}", seconds / 3_600, seconds / 60 % 60, seconds % 60, ms % 1_000)
}

fn status_style(status: u16) -> anstyle::Style {
    match status {
        100..=399 => paint::GOOD,
        400..=499 => paint::WARN,
        _ => paint::BAD,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn a_refusal_says_how_long_and_how_many() {
        let line = refused(429, "api.openai.com", Duration::from_secs(12), 3);
        assert_eq!(plain(&line), "429 api.openai.com: paused 12 s, 3 waiting");
    }

    #[test]
    fn a_call_says_only_what_is_worth_saying() {
        let call = |waited, attempts, status| {
            let value = json!({"method": "POST", "host": "api.openai.com", "path": "/v1/chat/completions",
                "status": status, "attempts": attempts, "waited_ms": waited, "total_ms": 812});
            plain(&from_event("call", &value).unwrap())
        };
        assert_eq!(call(0, 1, 200), "200 POST api.openai.com/v1/chat/completions 812 ms");
        assert_eq!(
            call(1_234, 2, 200),
            "200 POST api.openai.com/v1/chat/completions 812 ms (waited 1.2 s, 2 attempts)"
        );
        assert!(call(0, 1, 0).starts_with("--- POST"));
    }

    #[test]
    fn a_guests_control_characters_never_reach_the_terminal() {
        let line = json!({"time_ms": 3_661_007, "function": "f", "stream": "stderr", "text": "a\u{1b}[2Jb"});
        assert_eq!(plain(&from_event("log", &line).unwrap()), "01:01:01.007 f ! a\u{fffd}[2Jb");
    }

    #[test]
    fn what_the_host_says_in_several_lines_is_shown_in_as_many() {
        let line = json!({"time_ms": 3_661_007, "function": "f", "stream": "host", "text": "it trapped\nat main\r\n"});
        let shown = plain(&from_event("log", &line).unwrap());
        assert_eq!(shown, "01:01:01.007 f # it trapped\n01:01:01.007 f # at main\u{fffd}");
    }
}

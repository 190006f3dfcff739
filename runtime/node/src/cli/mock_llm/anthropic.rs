//! Anthropic's dialect: messages, their stream, errors and headers.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    answers::{self, Tool, Turn},
    stream::{Reply, event},
};

/// Answers `POST /v1/messages`.
pub(super) fn messages(request: &Value, number: u64) -> Reply {
    let model = request.get("model").and_then(Value::as_str).unwrap_or("mock-large");
    let mut messages: Vec<_> =
        request.get("system").map(|system| ("system".to_owned(), answers::text_of(system))).into_iter().collect();
    messages.extend(answers::messages_of(request.get("messages")).into_iter().map(as_tool_result(request)));
    let insist = matches!(request.pointer("/tool_choice/type").and_then(Value::as_str), Some("any" | "tool"));
    let turn = answers::turn(model, &messages, &tools(request), insist);
    let id = format!("msg_mock{number:08}");
    let input = messages.iter().map(|(_, text)| answers::tokens(text)).sum::<u64>();
    let (block, stop, output) = match &turn {
        Turn::Says(text) => (json!({"type": "text", "text": text}), "end_turn", answers::tokens(text)),
        Turn::Calls { name, arguments } => (
            json!({"type": "tool_use", "id": format!("toolu_mock{number:08}"), "name": name, "input": arguments}),
            "tool_use",
            answers::tokens(&arguments.to_string()),
        ),
    };
    let message = |content: Value, stop: Value, output: u64| {
        json!({"id": id, "type": "message", "role": "assistant", "model": model, "content": content,
            "stop_reason": stop, "stop_sequence": null, "usage": {"input_tokens": input, "output_tokens": output}})
    };
    if request.get("stream") != Some(&Value::Bool(true)) {
        return Reply::Json(message(json!([block]), json!(stop), output));
    }

    let mut events: Vec<Bytes> = Vec::new();
    let mut send = |kind: &str, mut body: Value| {
        if let Some(body) = body.as_object_mut() {
            body.insert("type".into(), json!(kind));
        }
        events.push(event(Some(kind), &body));
    };
    send("message_start", json!({"message": message(json!([]), Value::Null, 1)}));
    let (empty, deltas): (Value, Vec<Value>) = match &turn {
        Turn::Says(text) => (
            json!({"type": "text", "text": ""}),
            answers::pieces(text).map(|piece| json!({"type": "text_delta", "text": piece})).collect(),
        ),
        Turn::Calls { arguments, .. } => {
            let mut empty = block;
            if let Some(empty) = empty.as_object_mut() {
                empty.insert("input".into(), json!({}));
            }
            (empty, vec![json!({"type": "input_json_delta", "partial_json": arguments.to_string()})])
        }
    };
    send("content_block_start", json!({"index": 0, "content_block": empty}));
    send("ping", json!({}));
    for delta in deltas {
        send("content_block_delta", json!({"index": 0, "delta": delta}));
    }
    send("content_block_stop", json!({"index": 0}));
    let delta = json!({"stop_reason": stop, "stop_sequence": null});
    send("message_delta", json!({"delta": delta, "usage": {"output_tokens": output}}));
    send("message_stop", json!({}));
    Reply::Events(events)
}

/// An error's body.
pub(super) fn error(kind: &str, message: &str, number: u64) -> Value {
    json!({"type": "error", "error": {"type": kind, "message": message},
        "request_id": format!("req_mock{number:08}")})
}

/// A point in time as RFC 3339 writes it, in UTC.
pub(super) fn rfc3339(unix: u64) -> String {
    let (days, seconds) = (unix / 86_400, unix % 86_400);
    // Days since 1970 to a date in the proleptic Gregorian calendar, counted in years that begin on 1 March.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Marks a person's message that only hands a tool's result back, so that it is not taken for a new question.
fn as_tool_result(request: &Value) -> impl FnMut((String, String)) -> (String, String) {
    let messages = request.get("messages").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut contents = messages.into_iter();
    move |(role, text)| {
        let message = contents.next().unwrap_or_default();
        let is_result = message.get("content").and_then(Value::as_array).is_some_and(|parts| {
            parts.iter().any(|part| part.get("type").and_then(Value::as_str) == Some("tool_result"))
        });
        (if is_result { "tool".to_owned() } else { role }, text)
    }
}

fn tools(request: &Value) -> Vec<Tool> {
    if request.pointer("/tool_choice/type").is_some_and(|kind| kind == "none") {
        return Vec::new();
    }
    let tools = request.get("tools").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    tools
        .iter()
        .filter_map(|tool| {
            let name = tool.get("name")?.as_str()?.to_owned();
            Some(Tool { name, schema: tool.get("input_schema").cloned().unwrap_or_default() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_calendar_times() {
        for (unix, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(unix), text);
        }
    }

    #[test]
    fn a_tool_result_ends_the_tools_turn() {
        let tools = json!([{"name": "look", "input_schema": {"type": "object"}}]);
        let asked = json!({"tools": tools, "messages": [{"role": "user", "content": "look, please"}]});
        let Reply::Json(first) = messages(&asked, 1) else { panic!("a stream") };
        assert_eq!(first["stop_reason"], "tool_use");
        let told = json!({"tools": tools, "messages": [
            {"role": "user", "content": "look, please"},
            {"role": "assistant", "content": first["content"]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "content": "look: a cat"}]}]});
        let Reply::Json(second) = messages(&told, 2) else { panic!("a stream") };
        assert_eq!(second["stop_reason"], "end_turn");
        assert!(second["content"][0]["text"].as_str().unwrap().ends_with("look: a cat"));
    }
}

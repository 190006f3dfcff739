//! OpenAI's dialect: chat completions, responses, embeddings, models; their streams, errors and headers.

use base64::Engine as _;
use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    answers::{self, Tool, Turn},
    stream::{Reply, event, unix_seconds},
};

/// Answers `POST /v1/chat/completions`.
pub(super) fn chat(request: &Value, number: u64) -> Reply {
    let model = model(request);
    let messages = answers::messages_of(request.get("messages"));
    let insist = request.get("tool_choice").is_some_and(|choice| choice == "required" || choice.is_object());
    let turn = answers::turn(model, &messages, &tools(request), insist);
    let id = format!("chatcmpl-mock{number:08}");
    let created = unix_seconds();
    let (content, calls, finish, completion) = match &turn {
        Turn::Says(text) => (json!(text), None, "stop", answers::tokens(text)),
        Turn::Calls { name, arguments } => {
            let arguments = arguments.to_string();
            let completion = answers::tokens(&arguments);
            let call = json!({"id": format!("call_mock{number:08}"), "type": "function",
                "function": {"name": name, "arguments": arguments}});
            (Value::Null, Some(call), "tool_calls", completion)
        }
    };
    let prompt = messages.iter().map(|(_, text)| answers::tokens(text)).sum::<u64>();
    let usage = json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion});

    if request.get("stream") != Some(&Value::Bool(true)) {
        let mut message = json!({"role": "assistant", "content": content, "refusal": null});
        if let (Some(call), Some(message)) = (calls, message.as_object_mut()) {
            message.insert("tool_calls".into(), json!([call]));
        }
        let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": finish});
        return Reply::Json(json!({"id": id, "object": "chat.completion", "created": created, "model": model,
            "choices": [choice], "usage": usage, "system_fingerprint": "fp_mock"}));
    }

    let with_usage = request.pointer("/stream_options/include_usage") == Some(&Value::Bool(true));
    let chunk = |choices: Value, usage: Value| {
        let mut chunk = json!({"id": id, "object": "chat.completion.chunk", "created": created, "model": model,
            "system_fingerprint": "fp_mock", "choices": choices});
        if let (true, Some(chunk)) = (with_usage, chunk.as_object_mut()) {
            chunk.insert("usage".into(), usage);
        }
        event(None, &chunk)
    };
    let delta = |delta: Value, finish: Value| {
        chunk(json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]), Value::Null)
    };
    let mut events = vec![delta(json!({"role": "assistant", "content": ""}), Value::Null)];
    match (&turn, calls) {
        (Turn::Says(text), _) => {
            events.extend(answers::pieces(text).map(|piece| delta(json!({"content": piece}), Value::Null)));
        }
        (Turn::Calls { .. }, call) => {
            let mut call = call.unwrap_or_default();
            if let Some(call) = call.as_object_mut() {
                call.insert("index".into(), json!(0));
            }
            events.push(delta(json!({"tool_calls": [call]}), Value::Null));
        }
    }
    events.push(delta(json!({}), json!(finish)));
    if with_usage {
        events.push(chunk(json!([]), usage));
    }
    events.push(Bytes::from_static(b"data: [DONE]\n\n"));
    Reply::Events(events)
}

/// Answers `POST /v1/responses`, text only.
pub(super) fn responses(request: &Value, number: u64) -> Reply {
    let model = model(request);
    let mut messages: Vec<(String, String)> = request
        .get("instructions")
        .and_then(Value::as_str)
        .map(|text| ("system".to_owned(), text.to_owned()))
        .into_iter()
        .collect();
    match request.get("input") {
        Some(Value::String(text)) => messages.push(("user".into(), text.clone())),
        input => messages.extend(answers::messages_of(input)),
    }
    let text = match answers::turn(model, &messages, &[], false) {
        Turn::Says(text) => text,
        Turn::Calls { name, .. } => name,
    };
    let prompt = messages.iter().map(|(_, text)| answers::tokens(text)).sum::<u64>();
    let completion = answers::tokens(&text);
    let item = format!("msg_mock{number:08}");
    let part = json!({"type": "output_text", "text": text, "annotations": []});
    let message =
        json!({"id": item, "type": "message", "role": "assistant", "status": "completed", "content": [part.clone()]});
    let response = |status: &str, output: Value, usage: Value| {
        json!({"id": format!("resp_mock{number:08}"), "object": "response", "created_at": unix_seconds(),
            "status": status, "error": null, "incomplete_details": null, "instructions": request.get("instructions"),
            "model": model, "output": output, "parallel_tool_calls": true, "tool_choice": "auto", "tools": [],
            "metadata": {}, "usage": usage})
    };
    let usage = json!({"input_tokens": prompt, "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": completion, "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + completion});
    let whole = response("completed", json!([message.clone()]), usage);
    if request.get("stream") != Some(&Value::Bool(true)) {
        return Reply::Json(whole);
    }

    let mut events = Vec::new();
    let mut send = |kind: &str, mut body: Value| {
        if let Some(body) = body.as_object_mut() {
            body.insert("type".into(), json!(kind));
            body.insert("sequence_number".into(), json!(events.len()));
        }
        events.push(event(Some(kind), &body));
    };
    let at = |mut body: Value| {
        if let Some(body) = body.as_object_mut() {
            body.extend([
                ("item_id".to_owned(), json!(item)),
                ("output_index".to_owned(), json!(0)),
                ("content_index".to_owned(), json!(0)),
            ]);
        }
        body
    };
    send("response.created", json!({"response": response("in_progress", json!([]), Value::Null)}));
    let begun = json!({"id": item, "type": "message", "role": "assistant", "status": "in_progress", "content": []});
    send("response.output_item.added", json!({"output_index": 0, "item": begun}));
    let empty = json!({"type": "output_text", "text": "", "annotations": []});
    send("response.content_part.added", at(json!({"part": empty})));
    for piece in answers::pieces(&text) {
        send("response.output_text.delta", at(json!({"delta": piece, "logprobs": []})));
    }
    send("response.output_text.done", at(json!({"text": text, "logprobs": []})));
    send("response.content_part.done", at(json!({"part": part})));
    send("response.output_item.done", json!({"output_index": 0, "item": message}));
    send("response.completed", json!({"response": whole}));
    Reply::Events(events)
}

/// Answers `POST /v1/embeddings`.
pub(super) fn embeddings(request: &Value) -> Reply {
    let inputs = match request.get("input") {
        Some(Value::Array(inputs)) => inputs.iter().map(answers::text_of).collect(),
        input => vec![input.map(answers::text_of).unwrap_or_default()],
    };
    // More than the largest model's would be somebody's mistake, and a way to make us allocate.
    let dimensions = request.get("dimensions").and_then(Value::as_u64).unwrap_or(64).clamp(1, 4_096) as usize;
    let base64 = request.get("encoding_format").is_some_and(|format| format == "base64");
    let data: Vec<_> = inputs
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let vector = answers::embedding(text, dimensions);
            let vector = if base64 {
                let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
                json!(base64::engine::general_purpose::STANDARD.encode(bytes))
            } else {
                json!(vector)
            };
            json!({"object": "embedding", "index": index, "embedding": vector})
        })
        .collect();
    let prompt = inputs.iter().map(|text| answers::tokens(text)).sum::<u64>();
    Reply::Json(json!({"object": "list", "data": data, "model": model(request),
        "usage": {"prompt_tokens": prompt, "total_tokens": prompt}}))
}

/// Answers `GET /v1/models`.
pub(super) fn models() -> Value {
    let model = |id: &str| json!({"id": id, "object": "model", "created": 0, "owned_by": "mock"});
    json!({"object": "list", "data": [model("mock-large"), model("mock-small"), model("gpt-4o-mini")]})
}

/// An error's body.
pub(super) fn error(kind: &str, code: Option<&str>, message: &str) -> Value {
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}

/// A duration as OpenAI's headers write it: `12ms`, `1.5s`, `6m0s`.
pub(super) fn go_duration(duration: std::time::Duration) -> String {
    let millis = duration.as_millis();
    let seconds = |millis: u128| {
        if millis.is_multiple_of(1_000) { format!("{}s", millis / 1_000) } else { format!("{}s", millis as f64 / 1e3) }
    };
    match (millis / 3_600_000, millis / 60_000 % 60) {
        (0, 0) if millis < 1_000 => format!("{millis}ms"),
        (0, 0) => seconds(millis),
        (0, minutes) => format!("{minutes}m{}", seconds(millis % 60_000)),
        (hours, minutes) => format!("{hours}h{minutes}m{}", seconds(millis % 60_000)),
    }
}

fn model(request: &Value) -> &str {
    request.get("model").and_then(Value::as_str).unwrap_or("mock-large")
}

fn tools(request: &Value) -> Vec<Tool> {
    if request.get("tool_choice").is_some_and(|choice| choice == "none") {
        return Vec::new();
    }
    let tools = request.get("tools").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let functions = tools.iter().filter_map(|tool| tool.get("function"));
    functions
        .filter_map(|function| {
            let name = function.get("name")?.as_str()?.to_owned();
            Some(Tool { name, schema: function.get("parameters").cloned().unwrap_or_default() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn durations_read_as_go_writes_them() {
        for (millis, text) in
            [(12, "12ms"), (1_000, "1s"), (1_500, "1.5s"), (360_000, "6m0s"), (3_661_000, "1h1m1s"), (0, "0ms")]
        {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn a_forced_tool_is_called_in_a_stream_too() {
        let request = json!({"stream": true, "tool_choice": "required", "messages": [{"role": "user", "content": "x"}],
            "tools": [{"type": "function", "function": {"name": "look", "parameters": {}}}]});
        let Reply::Events(events) = chat(&request, 1) else { panic!("no stream") };
        let text: String = events.iter().map(|event| String::from_utf8_lossy(event)).collect();
        assert!(text.contains(r#""name":"look""#) && text.contains(r#""finish_reason":"tool_calls""#), "{text}");
    }
}

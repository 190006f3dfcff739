//! Trails as the JSON form of OTLP: a span of the whole, one of each call, one of each attempt. Waits and decisions are
//! events of their call.
//!
//! Field names, ids in hex and 64-bit numbers as text: <https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::{
    ids::TraceContext,
    observe::{
        AttemptCame, Came, Ending, Note, Stop, TrailRecord,
        trail::{CallSpan, Timeline, verdict},
    },
};

/// Kinds of spans.
const INTERNAL: u8 = 1;
const SERVER: u8 = 2;
const CLIENT: u8 = 3;
/// The status of a span that failed.
const ERROR: u8 = 2;

/// The body of one request to a collector.
pub(super) fn request(
    resource: &[(&'static str, String)],
    trails: impl Iterator<Item = (TraceContext, TrailRecord)>,
) -> Value {
    let spans: Vec<_> = trails.flat_map(|(trace, record)| spans(trace, &record)).collect();
    let resource: Vec<_> = resource.iter().map(|(name, value)| text(name, value)).collect();
    let scope = json!({"name": "tidegate", "version": env!("CARGO_PKG_VERSION")});
    json!({"resourceSpans": [{
        "resource": {"attributes": resource},
        "scopeSpans": [{"scope": scope, "spans": spans}],
    }]})
}

/// The spans of one trail.
fn spans(trace: TraceContext, record: &TrailRecord) -> Vec<Value> {
    let timeline = Timeline::of(&record.notes);
    let began = record.summary.began;
    let mut spans = vec![whole(trace, record)];
    for (number, call) in &timeline.calls {
        let under = record.notes.iter().find_map(|(_, note)| match note {
            Note::Under { call, span } if call == number => Some(*span),
            _ => None,
        });
        let id = trace.below(*number, 0);
        spans.push(of_call(trace, (id, under.unwrap_or(trace.span)), *number, call, record));
        for attempt in &call.attempts {
            let mut attributes = vec![text("server.address", host(&call.destination))];
            let (mut status, mut doubled) = (json!({}), None);
            if let Some((kind, of)) = attempt.copy {
                attributes.push(text("tidegate.copy", kind.name()));
                doubled = (of > 0).then(|| trace.below(*number, of));
            }
            if let Some(endpoint) = &attempt.endpoint {
                attributes.push(text("tidegate.endpoint", endpoint));
            }
            attributes.push(text("tidegate.outcome", outcome(&attempt.came)));
            match &attempt.came {
                AttemptCame::Answer(code) => {
                    attributes.push(number_of("http.response.status_code", u64::from(*code)));
                    if *code >= 400 {
                        status = json!({"code": ERROR});
                    }
                }
                AttemptCame::Failed(why) => {
                    attributes.push(text("error.type", "transport"));
                    status = json!({"code": ERROR, "message": why});
                }
                AttemptCame::Stopped(why @ Stop::Deadline) => {
                    attributes.push(text("error.type", "timeout"));
                    status = json!({"code": ERROR, "message": why.to_string()});
                }
                // It says nothing of the upstream.
                AttemptCame::Stopped(_) => {}
            }
            let name = format!("attempt {}", attempt.number);
            let (from, to) = (began + attempt.from, began + attempt.to);
            let ids = (trace.below(*number, attempt.number), Some(id));
            let mut span = span(trace, ids, (&name, CLIENT), (from, to), attributes, Vec::new(), status);
            if let (Some(span), Some(doubled)) = (span.as_object_mut(), doubled) {
                // A copy is no child of the attempt that it doubles, but leads to it.
                let link = json!({"traceId": trace.trace.to_string(), "spanId": format!("{doubled:016x}")});
                span.insert("links".into(), json!([link]));
            }
            spans.push(span);
        }
    }
    spans
}

/// What an attempt came to, in a word.
fn outcome(came: &AttemptCame) -> &'static str {
    match came {
        AttemptCame::Answer(429) => "refused",
        AttemptCame::Answer(_) => "answered",
        AttemptCame::Failed(_) => "failed",
        AttemptCame::Stopped(why) => why.name(),
    }
}

/// The span of the invocation, or of the request to `/to`.
fn whole(trace: TraceContext, record: &TrailRecord) -> Value {
    let summary = &record.summary;
    let mut attributes = vec![text("tidegate.verdict", &verdict(record))];
    let name = match &summary.invocation {
        Some((function, version)) => {
            attributes.push(text("faas.name", function.as_str()));
            attributes.push(text("faas.version", &version.to_string()));
            format!("invoke {function}")
        }
        None => "through the gate".to_owned(),
    };
    if !summary.tags.is_empty() {
        let tags: Vec<_> = summary.tags.iter().map(|tag| json!({"stringValue": tag})).collect();
        attributes.push(json!({"key": "tidegate.tags", "value": {"arrayValue": {"values": tags}}}));
    }
    let (code, failed) = match summary.ending {
        Ending::Status(code) => (Some(code), code >= 500),
        Ending::Cut(code) => (Some(code), true),
        Ending::Cancelled => (None, false),
    };
    if let Some(code) = code {
        attributes.push(number_of("http.response.status_code", u64::from(code)));
    }
    let status = if failed { json!({"code": ERROR}) } else { json!({}) };
    let events = record.notes.iter().filter(|(_, note)| note.call().is_none());
    let events = events.map(|(at, note)| event(summary.began + *at, &note.to_string(), Vec::new())).collect();
    let times = (summary.began, summary.began + summary.lasted);
    span(trace, (trace.span, trace.parent), (&name, SERVER), times, attributes, events, status)
}

fn of_call(trace: TraceContext, (id, parent): (u64, u64), number: u32, call: &CallSpan, record: &TrailRecord) -> Value {
    let began = record.summary.began;
    let mut attributes = vec![text("tidegate.destination", &call.destination), text("tidegate.request", &call.what)];
    let mut status = json!({});
    match call.came {
        Some(came @ (Came::Answer(code) | Came::Refused(code))) => {
            attributes.push(number_of("http.response.status_code", u64::from(code)));
            if code >= 400 {
                status = json!({"code": ERROR, "message": came.to_string()});
            }
        }
        Some(came @ (Came::Failed | Came::GivenUp)) => status = json!({"code": ERROR, "message": came.to_string()}),
        None => {}
    }
    let waits = call.waits.iter().map(|(from, to, why)| {
        let seconds = (*to - *from).as_secs_f64();
        let attributes = vec![text("why", why), json!({"key": "seconds", "value": {"doubleValue": seconds}})];
        event(began + *to, "waited", attributes)
    });
    let decided = record.notes.iter().filter_map(|(at, note)| match note {
        Note::Decided { call, what } if *call == number => Some(event(began + *at, what, Vec::new())),
        _ => None,
    });
    let events = waits.chain(decided).collect();
    let name = format!("call {}", host(&call.destination));
    let times = (began + call.from, began + call.to);
    span(trace, (id, Some(parent)), (&name, INTERNAL), times, attributes, events, status)
}

fn span(
    trace: TraceContext,
    (id, parent): (u64, Option<u64>),
    (name, kind): (&str, u8),
    (from, to): (SystemTime, SystemTime),
    attributes: Vec<Value>,
    events: Vec<Value>,
    status: Value,
) -> Value {
    json!({
        "traceId": trace.trace.to_string(),
        "spanId": format!("{id:016x}"),
        "parentSpanId": parent.map_or_else(String::new, |parent| format!("{parent:016x}")),
        "name": name,
        "kind": kind,
        "startTimeUnixNano": nanos(from),
        "endTimeUnixNano": nanos(to),
        "attributes": attributes,
        "events": events,
        "status": status,
    })
}

fn event(at: SystemTime, name: &str, attributes: Vec<Value>) -> Value {
    json!({"timeUnixNano": nanos(at), "name": name, "attributes": attributes})
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

fn number_of(key: &str, value: u64) -> Value {
    json!({"key": key, "value": {"intValue": value.to_string()}})
}

fn nanos(time: SystemTime) -> String {
    let since: Duration = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_nanos().to_string()
}

fn host(label: &str) -> &str {
    label.split_once("://").map_or(label, |(_, host)| host)
}

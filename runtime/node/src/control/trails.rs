//! `/v1/trails`: what happened to an invocation or a call, for programs and for people.

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Control,
    auth::Caller,
    extract::{Asked, Named},
    problems::bad_request,
    set, wants,
};
use crate::{
    cluster::registry::Scope,
    ids::TraceId,
    observe::{Ending, Subject, TrailRecord},
    problem::Problem,
};

/// Trails shown when the caller does not say how many.
const SHOWN: usize = 50;
/// Trails shown at most in one answer.
const MOST: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    limit: Option<usize>,
    function: Option<String>,
}

pub(super) async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Asked(filter): Asked<Filter>,
) -> Result<Json<Value>, Problem> {
    caller.require(Scope::Deploy)?;
    let limit = filter.limit.unwrap_or(SHOWN).min(MOST);
    let within = if filter.function.is_some() { MOST } else { limit };
    let wanted = |record: &TrailRecord| match (&filter.function, &record.subject) {
        (None, _) => true,
        (Some(name), Subject::Invocation { function, .. }) => **name == **function,
        (Some(_), Subject::Call) => false,
    };
    let trails = control.observe.trails.recent(caller.tenant(), within);
    let trails: Vec<_> =
        trails.iter().filter(|record| wanted(record)).take(limit).map(|record| summary(record)).collect();
    Ok(Json(json!({"trails": trails})))
}

pub(super) async fn show(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(id): Named,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.require(Scope::Deploy)?;
    let id: TraceId = id.parse().map_err(|why: &str| bad_request(why))?;
    let Some(record) = control.observe.trails.get(caller.tenant(), id) else {
        let size = control.settings.observe.trail_bytes;
        let detail = format!("no finished trail `{id}` is kept: it goes on still, or fell out of the ring of {size}");
        return Err(Problem::new(StatusCode::NOT_FOUND, "not-found", "There is no such thing", detail).bound(
            "memory for trails",
            size,
            "trail_bytes",
        ));
    };
    if wants(&headers, "text/plain") {
        return Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], timeline(&record)).into_response());
    }
    let mut shown = summary(&record);
    let notes = record.notes.iter().map(|(at, note)| json!({"at_ms": millis(*at), "text": note.to_string()}));
    set(&mut shown, "notes", notes.collect::<Vec<_>>());
    set(&mut shown, "dropped", record.dropped);
    Ok(Json(shown).into_response())
}

fn summary(record: &TrailRecord) -> Value {
    let began = record.began.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut shown = json!({
        "id": record.id.to_string(),
        "began_ms": u64::try_from(began.as_millis()).unwrap_or(u64::MAX),
        "lasted_ms": millis(record.lasted),
        "notes": record.notes.len(),
    });
    match &record.subject {
        Subject::Invocation { function, version } => {
            set(&mut shown, "function", &**function);
            set(&mut shown, "version", *version);
        }
        Subject::Call => set(&mut shown, "call", true),
    }
    match record.ending {
        Ending::Status(status) => set(&mut shown, "status", status),
        Ending::Cancelled => set(&mut shown, "cancelled", true),
    }
    shown
}

/// The trail as a person reads it: one line a decision, with the time since the beginning.
fn timeline(record: &TrailRecord) -> String {
    let mut text = String::new();
    let what = match &record.subject {
        Subject::Invocation { function, version } => format!("invocation of {function}@{version}"),
        Subject::Call => "call through /to".to_owned(),
    };
    let ending = match record.ending {
        Ending::Status(status) => format!("answered {status}"),
        Ending::Cancelled => "cancelled".to_owned(),
    };
    // Writing to a String can't fail.
    let _ = writeln!(text, "{} {what}: {ending} after {:.1} ms", record.id, millis(record.lasted));
    for (at, note) in &record.notes {
        let _ = writeln!(text, "{:>10.1} ms  {note}", millis(*at));
    }
    if record.dropped > 0 {
        let _ = writeln!(text, "({} further notes were not kept)", record.dropped);
    }
    text
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{Note, Trail, TrailStore};

    #[test]
    fn a_timeline_reads_as_one_line_a_decision() {
        let store = TrailStore::new(1 << 20);
        let subject = Subject::Invocation { function: "agent".into(), version: 3 };
        let trail = Trail::begin(TraceId(0xab), "t".into(), subject);
        trail.note(Note::Instance { reused: true, waited: Duration::ZERO });
        trail.note(Note::Decided { call: 1, what: "put back at no cost".into() });
        store.finish(&trail, Ending::Status(200));
        let text = timeline(&store.get(&"t".into(), TraceId(0xab)).unwrap());
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("000000000000000000000000000000ab invocation of agent@3: answered 200"), "{text}");
        assert!(lines[1].ends_with("ms  reused instance"), "{text}");
        assert!(lines[2].ends_with("ms  call 1: put back at no cost"), "{text}");
    }
}

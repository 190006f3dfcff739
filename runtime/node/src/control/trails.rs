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
use tokio::task::spawn_blocking;

use super::{
    Control,
    auth::Caller,
    extract::{Asked, Named},
    problems::bad_request,
    set, wants,
};
use crate::{
    cluster::registry::Scope,
    guest::InvokeError,
    ids::TraceId,
    observe::{Ending, TrailRecord, TrailSummary},
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
    // Looking through all of them takes a while.
    let (observe, tenant) = (Arc::clone(&control.observe), caller.tenant().clone());
    let looking = spawn_blocking(move || observe.trails.recent(tenant.as_str(), limit, filter.function.as_deref()));
    let trails = looking.await.map_err(|_| InvokeError::ShuttingDown)?;
    let trails: Vec<_> = trails.iter().map(summary).collect();
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
    let trails = control.observe.trails.of_trace(caller.tenant().as_str(), id, MOST);
    let Some((last, earlier)) = trails.split_first() else {
        let size = control.settings.observe.trail_bytes;
        let detail = format!("no finished trail `{id}` is kept: it goes on still, or fell out of the ring of {size}");
        return Err(Problem::new(StatusCode::NOT_FOUND, "not-found", "There is no such thing", detail).bound(
            "memory for trails",
            size,
            "trail_bytes",
        ));
    };
    if wants(&headers, "text/plain") {
        return Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], timelines(&trails)).into_response());
    }
    Ok(Json(whole(last, earlier)).into_response())
}

/// The trail of a trace that ended last, as if it were the only one, with the earlier ones beside it where there are any.
fn whole(last: &TrailRecord, earlier: &[TrailRecord]) -> Value {
    let one = |record: &TrailRecord| {
        let mut shown = summary(&record.summary);
        let notes = record.notes.iter().map(|(at, note)| json!({"at_ms": millis(*at), "text": note.to_string()}));
        set(&mut shown, "notes", notes.collect::<Vec<_>>());
        set(&mut shown, "dropped", record.summary.dropped);
        shown
    };
    let mut shown = one(last);
    if !earlier.is_empty() {
        set(&mut shown, "earlier", earlier.iter().map(one).collect::<Vec<_>>());
    }
    shown
}

/// The trails of a trace as a person reads them: in the order in which they ended, a line between two.
fn timelines(newest_first: &[TrailRecord]) -> String {
    newest_first.iter().rev().map(timeline).collect::<Vec<_>>().join("\n")
}

fn summary(record: &TrailSummary) -> Value {
    let began = record.began.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut shown = json!({
        "id": record.id.to_string(),
        "began_ms": u64::try_from(began.as_millis()).unwrap_or(u64::MAX),
        "lasted_ms": millis(record.lasted),
        "notes": record.notes,
    });
    match &record.invocation {
        Some((function, version)) => {
            set(&mut shown, "function", function.as_str());
            set(&mut shown, "version", *version);
        }
        None => set(&mut shown, "call", true),
    }
    if let Some(head) = record.head {
        set(&mut shown, "head_ms", millis(head));
    }
    match record.ending {
        Ending::Status(status) => set(&mut shown, "status", status),
        Ending::Cut(status) => {
            set(&mut shown, "status", status);
            set(&mut shown, "cut", true);
        }
        Ending::Cancelled => set(&mut shown, "cancelled", true),
    }
    shown
}

/// The trail as a person reads it: one line a decision, with the time since the beginning.
fn timeline(record: &TrailRecord) -> String {
    let mut text = String::new();
    let TrailRecord { summary: record, notes } = record;
    let what = match &record.invocation {
        Some((function, version)) => format!("invocation of {function}@{version}"),
        None => "call through /to".to_owned(),
    };
    let lasted = millis(record.lasted);
    let head = millis(record.head.unwrap_or(record.lasted));
    let ending = match record.ending {
        Ending::Status(status) => format!("answered {status} after {head:.1} ms, whole after {lasted:.1} ms"),
        Ending::Cut(status) => format!("answered {status} after {head:.1} ms, cut after {lasted:.1} ms"),
        Ending::Cancelled => format!("cancelled after {lasted:.1} ms"),
    };
    // Writing to a String can't fail.
    let _ = writeln!(text, "{} {what}: {ending}", record.id);
    for (at, note) in notes {
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
    use crate::observe::{Note, Subject, Trail, TrailStore};

    fn call_of(tenant: &str) -> Subject<'_> {
        Subject { tenant, invocation: None }
    }

    #[test]
    fn a_timeline_reads_as_one_line_a_decision() {
        let store = TrailStore::new(1 << 20);
        let trail = Trail::begin(TraceId(0xab));
        trail.note(Note::Instance { reused: true, waited: Duration::ZERO });
        trail.note(Note::Decided { call: 1, what: "put back at no cost".into() });
        let subject = Subject { tenant: "t", invocation: Some(("agent", 3)) };
        store.finish(&trail, subject, Ending::Status(200));
        let text = timeline(&store.get("t", TraceId(0xab)).unwrap());
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("000000000000000000000000000000ab invocation of agent@3: answered 200"), "{text}");
        assert!(lines[1].ends_with("ms  reused instance"), "{text}");
        assert!(lines[2].ends_with("ms  call 1: put back at no cost"), "{text}");
    }

    #[test]
    fn an_answer_that_was_cut_is_told_from_a_whole_one() {
        let store = TrailStore::new(1 << 20);
        for (ending, cut, text) in
            [(Ending::Status(200), None, ", whole after "), (Ending::Cut(200), Some(true), ", cut after ")]
        {
            let trail = Trail::begin(TraceId::random());
            trail.answered();
            store.finish(&trail, call_of("t"), ending);
            let record = store.get("t", trail.id()).unwrap();
            let shown = summary(&record.summary);
            assert_eq!((&shown["status"], shown.get("cut").and_then(Value::as_bool)), (&200.into(), cut));
            assert!(shown["head_ms"].as_f64() <= shown["lasted_ms"].as_f64(), "{shown}");
            assert!(timeline(&record).contains(text), "{}", timeline(&record));
        }
    }

    #[test]
    fn all_trails_of_a_trace_are_shown_and_a_single_one_as_ever() {
        let (store, id) = (TrailStore::new(1 << 20), TraceId(0xab));
        let shown = || {
            let trails = store.of_trace("t", id, MOST);
            let (last, earlier) = trails.split_first().unwrap();
            (whole(last, earlier), timelines(&trails))
        };
        store.finish(&Trail::begin(id), call_of("t"), Ending::Status(429));
        store.finish(&Trail::begin(id), call_of("other"), Ending::Status(500));
        let (json, _) = shown();
        assert_eq!((&json["status"], json.get("earlier")), (&429.into(), None));
        store.finish(&Trail::begin(id), call_of("t"), Ending::Status(200));
        let (json, text) = shown();
        assert_eq!((&json["status"], &json["earlier"][0]["status"]), (&200.into(), &429.into()));
        assert_eq!(json["earlier"].as_array().unwrap().len(), 1, "another tenant's is not shown");
        let (first, second) = (text.find("answered 429").unwrap(), text.find("answered 200").unwrap());
        assert!(first < second, "{text}");
    }
}

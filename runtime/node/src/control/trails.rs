//! `/v1/trails`: what happened to an invocation or a call, for programs and for people.

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_core::units::Span;
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
    observe::{Came, Ending, Note, Order, Step, StepKind, Timeline, TrailQuery, TrailRecord, TrailSummary, verdict},
    problem::Problem,
};

/// Trails shown when the caller does not say how many.
const SHOWN: usize = 50;
/// Trails shown at most in one answer.
const MOST: usize = 1_000;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    limit: Option<usize>,
    function: Option<String>,
    destination: Option<String>,
    tag: Option<String>,
    slower_than: Option<String>,
    status: Option<String>,
    since: Option<String>,
    until: Option<String>,
    #[serde(default)]
    order: Order,
    after: Option<String>,
}

impl Filter {
    /// What is asked of the store.
    ///
    /// # Errors
    /// The first parameter that can't be read.
    fn query(self, now: SystemTime) -> Result<TrailQuery, Problem> {
        let order = self.order;
        if order == Order::Slowest && self.after.is_some() {
            return Err(bad_request(
                "`after` goes on from a page of the newest; with `order=slowest` there is one page",
            ));
        }
        Ok(TrailQuery {
            function: self.function,
            destination: self.destination,
            tag: self.tag,
            slower_than: read("slower_than", self.slower_than, |text| {
                text.parse::<Span>().map(Span::get).map_err(|error| error.to_string())
            })?,
            status: read("status", self.status, |text| text.parse().map_err(str::to_owned))?,
            since: read("since", self.since, |text| time(text, now))?,
            until: read("until", self.until, |text| time(text, now))?,
            order,
            after: read("after", self.after, |text| text.parse().map_err(str::to_owned))?,
            limit: self.limit.unwrap_or(SHOWN).min(MOST),
        })
    }
}

fn read<T>(
    name: &str,
    text: Option<String>,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, Problem> {
    let parsed = text.as_deref().map(read).transpose();
    parsed.map_err(|why| bad_request(format!("`{name}`: {why}")))
}

/// A time as milliseconds since 1970, or as how long ago it was.
fn time(text: &str, now: SystemTime) -> Result<SystemTime, String> {
    let wrong = || format!("`{text}` is neither milliseconds since 1970 nor a time ago such as 15m");
    let parsed = match text.parse() {
        Ok(ms) => UNIX_EPOCH.checked_add(Duration::from_millis(ms)),
        Err(_) => text.parse::<Span>().ok().and_then(|ago| now.checked_sub(ago.get())),
    };
    parsed.ok_or_else(wrong)
}

pub(super) async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Asked(filter): Asked<Filter>,
) -> Result<Json<Value>, Problem> {
    caller.require(Scope::Deploy)?;
    let mut query = filter.query(SystemTime::now())?;
    let limit = query.limit;
    // One more tells whether there is another page.
    query.limit += 1;
    // Looking through all of them takes a while.
    let (observe, tenant) = (Arc::clone(&control.observe), caller.tenant().clone());
    let order = query.order;
    let looking = spawn_blocking(move || observe.trails.search(tenant.as_str(), &query));
    let mut trails = looking.await.map_err(|_| InvokeError::ShuttingDown)?;
    let more = trails.len() > limit && order == Order::Newest;
    trails.truncate(limit);
    let next = trails.last().filter(|_| more).map(|last| last.cursor().to_string());
    let mut answer = json!({"trails": trails.iter().map(summary).collect::<Vec<_>>()});
    if let Some(next) = next {
        set(&mut answer, "next", next);
    }
    Ok(Json(answer))
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
        let steps = Timeline::of(&record.notes).steps;
        set(&mut shown, "notes", record.notes.iter().zip(steps).map(note).collect::<Vec<_>>());
        set(&mut shown, "dropped", record.summary.dropped);
        set(&mut shown, "verdict", verdict(record));
        shown
    };
    let mut shown = one(last);
    if !earlier.is_empty() {
        set(&mut shown, "earlier", earlier.iter().map(one).collect::<Vec<_>>());
    }
    shown
}

/// A note as a program reads it: its sentence, and what of it is a number.
fn note(((at, note), step): (&(Duration, Note), Step)) -> Value {
    let mut shown = json!({"at_ms": millis(*at), "text": note.to_string(), "kind": step.kind.name()});
    if step.from < step.to {
        set(&mut shown, "from_ms", millis(step.from));
    }
    if let Some(call) = note.call() {
        set(&mut shown, "call", call);
    }
    match (note, step.kind) {
        (Note::Call { destination, .. }, _) => set(&mut shown, "destination", &**destination),
        (_, StepKind::Attempt(_, Some(status)) | StepKind::Over(Came::Answer(status) | Came::Refused(status))) => {
            set(&mut shown, "status", status);
        }
        _ => {}
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
    if !record.tags.is_empty() {
        set(&mut shown, "tags", json!(record.tags));
    }
    for (name, is_so) in [("refused", record.marks.refused), ("failed", record.marks.failed)] {
        if is_so {
            set(&mut shown, name, true);
        }
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
    let said = verdict(record);
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
    let _ = writeln!(text, "{said}");
    text
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{NotableBounds, StatusFilter, Subject, Trail, TrailStore};

    fn call_of(tenant: &str) -> Subject<'_> {
        Subject { tenant, invocation: None }
    }

    #[test]
    fn a_timeline_reads_as_one_line_a_decision() {
        let store = TrailStore::new(1 << 20, NotableBounds::default());
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
    fn a_query_is_read_and_what_is_wrong_with_it_is_named() {
        let now = UNIX_EPOCH + Duration::from_secs(10_000);
        let filter = |name: &str, text: &str| {
            let text = Some(text.to_owned());
            match name {
                "slower_than" => Filter { slower_than: text, ..Filter::default() },
                "status" => Filter { status: text, ..Filter::default() },
                "since" => Filter { since: text, ..Filter::default() },
                "until" => Filter { until: text, ..Filter::default() },
                _ => Filter { after: text, ..Filter::default() },
            }
        };
        let query = |name: &str, text: &str| filter(name, text).query(now);
        assert_eq!(query("slower_than", "2s").unwrap().slower_than, Some(Duration::from_secs(2)));
        assert_eq!(query("status", "5xx").unwrap().status, Some(StatusFilter::Class(5)));
        assert_eq!(query("since", "15m").unwrap().since, Some(now - Duration::from_secs(900)));
        assert_eq!(query("until", "1500").unwrap().until, Some(UNIX_EPOCH + Duration::from_millis(1_500)));
        for (name, text) in
            [("slower_than", "soon"), ("status", "bad"), ("since", "yesterday"), ("until", "-1"), ("after", "x")]
        {
            let problem = query(name, text).unwrap_err();
            assert!(problem.detail.starts_with(&format!("`{name}`")), "{}", problem.detail);
        }
        let both = Filter { order: Order::Slowest, after: Some("1-ab".into()), ..Filter::default() };
        assert!(both.query(now).is_err());
    }

    #[test]
    fn an_answer_that_was_cut_is_told_from_a_whole_one() {
        let store = TrailStore::new(1 << 20, NotableBounds::default());
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
        let (store, id) = (TrailStore::new(1 << 20, NotableBounds::default()), TraceId(0xab));
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

//! What `top` knows: the last two samples of the node, and the calls of the last minute.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};

use ratatui::crossterm::event::KeyCode;
use serde_json::{Value, json};

use super::super::destinations::live::{pace, state};

/// How far back calls count, and how many at most.
const WINDOW: Duration = Duration::from_secs(60);
const CALLS: usize = 50_000;

/// What comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Sort {
    /// By name.
    Name,
    /// Most calls a second.
    #[default]
    Calls,
    /// Longest queue.
    Queue,
    /// Longest waits.
    Wait,
    /// Most refusals.
    Refusals,
}

impl Sort {
    /// A word for it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Calls => "calls",
            Self::Queue => "queue",
            Self::Wait => "wait",
            Self::Refusals => "refusals",
        }
    }
}

/// A partition of a destination as it is shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct DestinationRow {
    pub(super) name: String,
    pub(super) state: String,
    pub(super) paused: bool,
    pub(super) pace: String,
    pub(super) queued: u64,
    pub(super) in_flight: u64,
    /// Outcomes a second since the sample before: all attempts, refusals, failures.
    pub(super) rates: [f64; 3],
    /// Wait at the gate of the calls of the last minute, milliseconds: median and 99 of 100.
    pub(super) waits: Option<(u64, u64)>,
}

/// A function as it is shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct FunctionRow {
    pub(super) name: String,
    pub(super) version: Option<u64>,
    pub(super) in_flight: i64,
    pub(super) instances: i64,
    /// Invocations a second since the sample before.
    pub(super) rate: f64,
    /// Of those, with 500 or more.
    pub(super) failed: f64,
    /// Mean time to the head of those, milliseconds.
    pub(super) mean_ms: Option<f64>,
}

impl DestinationRow {
    pub(super) fn to_json(&self) -> Value {
        let [attempts, refusals, failures] = self.rates;
        let mut shown = json!({
            "destination": self.name, "state": self.state, "paused": self.paused, "pace": self.pace,
            "queued": self.queued, "in_flight": self.in_flight, "attempts_per_second": attempts,
            "refusals_per_second": refusals, "failures_per_second": failures,
        });
        if let (Some((median, worst)), Some(shown)) = (self.waits, shown.as_object_mut()) {
            shown.insert("wait_p50_ms".into(), median.into());
            shown.insert("wait_p99_ms".into(), worst.into());
        }
        shown
    }
}

impl FunctionRow {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "function": self.name, "version": self.version, "in_flight": self.in_flight, "instances": self.instances,
            "invocations_per_second": self.rate, "failures_per_second": self.failed, "mean_ms": self.mean_ms,
        })
    }
}

/// What a sample says that is compared with the next one.
type Counts = HashMap<String, Vec<f64>>;

/// Everything that is shown.
pub(super) struct Model {
    sort: Sort,
    stopped: bool,
    trouble: Option<String>,
    sampled: Option<Instant>,
    counts: Counts,
    destinations: Vec<DestinationRow>,
    functions: Vec<FunctionRow>,
    /// The newest last.
    calls: VecDeque<(Instant, Value)>,
}

impl Model {
    pub(super) fn new(sort: Sort) -> Self {
        Self {
            sort,
            stopped: false,
            trouble: None,
            sampled: None,
            counts: Counts::new(),
            destinations: Vec::new(),
            functions: Vec::new(),
            calls: VecDeque::new(),
        }
    }

    /// What the node said.
    pub(super) fn sample(&mut self, now: Instant, destinations: &[Value], functions: &[Value]) {
        let seconds = self.sampled.map(|before| now.saturating_duration_since(before).as_secs_f64());
        let before = std::mem::take(&mut self.counts);
        let mut counts = Counts::new();
        // What was counted since the sample before, of something that was in it.
        let mut since = |key: String, now: Vec<f64>| {
            let more = before
                .get(&key)
                .map(|before| now.iter().zip(before).map(|(now, before)| (now - before).max(0.0)).collect::<Vec<_>>());
            let more = more.unwrap_or_else(|| vec![0.0; now.len()]);
            counts.insert(key, now);
            more
        };
        let rate = |more: f64| seconds.filter(|seconds| *seconds > 0.0).map_or(0.0, |seconds| more / seconds);
        self.destinations = Vec::new();
        for destination in destinations {
            let name = text(destination, "/destination");
            let partitions =
                destination.get("partitions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            for partition in partitions {
                let label = match partition.get("partition").and_then(Value::as_str) {
                    Some(part) => format!("{name} {part}"),
                    None => name.to_owned(),
                };
                let of = |key: &str| number(partition, &format!("/outcomes/{key}"));
                let refused = of("refused") + of("turned_away");
                let failed = of("server_errors") + of("failed");
                let all = of("succeeded") + of("client_errors") + refused + failed + of("cancelled");
                let more = since(format!("d {label}"), vec![all, refused, failed]);
                let mut rates = [0.0; 3];
                rates.iter_mut().zip(more).for_each(|(rate_of, more)| *rate_of = rate(more));
                self.destinations.push(DestinationRow {
                    state: state(partition).0,
                    paused: partition.get("paused").is_some_and(Value::is_object),
                    pace: pace(partition),
                    queued: number(partition, "/queue/calls") as u64,
                    in_flight: number(partition, "/in_flight") as u64,
                    rates,
                    waits: None,
                    name: label,
                });
            }
        }
        self.functions = Vec::new();
        for function in functions {
            let name = text(function, "/name").to_owned();
            let of = |key: &str| number(function, &format!("/live/{key}"));
            let more = since(format!("f {name}"), vec![of("invocations"), of("failed"), of("answered"), of("seconds")]);
            let [invocations, failed, answered, seconds] = more.as_slice() else { continue };
            self.functions.push(FunctionRow {
                version: function.get("version").and_then(Value::as_u64),
                in_flight: of("in_flight") as i64,
                instances: of("instances") as i64,
                rate: rate(*invocations),
                failed: rate(*failed),
                mean_ms: (*answered > 0.0).then(|| seconds / answered * 1e3),
                name,
            });
        }
        self.counts = counts;
        self.sampled = Some(now);
    }

    /// A call ended.
    pub(super) fn call(&mut self, now: Instant, call: Value) {
        self.calls.push_back((now, call));
        while self.calls.len() > CALLS
            || self.calls.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > WINDOW)
        {
            self.calls.pop_front();
        }
    }

    /// The node could not be asked, or can be again.
    pub(super) fn trouble(&mut self, trouble: Option<String>) {
        self.trouble = trouble;
    }

    /// What is in the way.
    pub(super) fn what_is_wrong(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Somebody pressed a key.
    pub(super) fn key(&mut self, key: KeyCode) {
        match key {
            KeyCode::Char('n') => self.sort = Sort::Name,
            KeyCode::Char('c') => self.sort = Sort::Calls,
            KeyCode::Char('u') => self.sort = Sort::Queue,
            KeyCode::Char('w') => self.sort = Sort::Wait,
            KeyCode::Char('r') => self.sort = Sort::Refusals,
            KeyCode::Char('p') => self.stopped = !self.stopped,
            _ => {}
        }
    }

    /// Whether the picture stands still.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// What comes first.
    pub(super) fn sort(&self) -> Sort {
        self.sort
    }

    /// The destinations in order, with the waits of their calls of the last minute.
    pub(super) fn destinations(&self, now: Instant) -> Vec<DestinationRow> {
        let mut waits: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for (_, call) in self.calls.iter().filter(|(at, _)| now.saturating_duration_since(*at) <= WINDOW) {
            let waited = call.get("waited_ms").and_then(Value::as_u64).unwrap_or_default();
            waits.entry(text(call, "/destination")).or_default().push(waited);
        }
        waits.values_mut().for_each(|waits| waits.sort_unstable());
        let of_name = |name: &str| {
            // Calls know their destination, not their partition.
            let waits = waits.get(name).or_else(|| waits.get(name.split(' ').next()?))?;
            Some((percentile(waits, 50)?, percentile(waits, 99)?))
        };
        let mut rows = self.destinations.clone();
        rows.iter_mut().for_each(|row| row.waits = of_name(&row.name));
        let [all, refused] = [|row: &DestinationRow| row.rates[0], |row: &DestinationRow| row.rates[1]];
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        match self.sort {
            Sort::Name => {}
            Sort::Calls => rows.sort_by(|a, b| all(b).total_cmp(&all(a))),
            Sort::Refusals => rows.sort_by(|a, b| refused(b).total_cmp(&refused(a))),
            Sort::Queue => rows.sort_by_key(|row| Reverse(row.queued)),
            Sort::Wait => rows.sort_by_key(|row| Reverse(row.waits.map(|(median, worst)| (worst, median)))),
        }
        rows
    }

    /// The functions, the busiest first.
    pub(super) fn functions(&self) -> Vec<FunctionRow> {
        let mut rows = self.functions.clone();
        rows.sort_by(|a, b| b.rate.total_cmp(&a.rate).then_with(|| a.name.cmp(&b.name)));
        rows
    }

    /// The newest calls first.
    pub(super) fn newest(&self) -> impl Iterator<Item = &Value> {
        self.calls.iter().rev().map(|(_, call)| call)
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn number(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or_default()
}

/// Of sorted values the one that so many of a hundred are not above.
fn percentile(sorted: &[u64], of_hundred: usize) -> Option<u64> {
    sorted.get((sorted.len() * of_hundred).div_ceil(100).saturating_sub(1)).copied()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A destination of which so much was counted.
    pub(in super::super) fn destination(name: &str, succeeded: u64, refused: u64, queued: u64) -> Value {
        json!({"destination": name, "partitions": [{
            "limits": ["10/1s requests"], "pace": {}, "queue": {"calls": queued}, "in_flight": 3,
            "outcomes": {"succeeded": succeeded, "refused": refused, "client_errors": 0, "server_errors": 0, "failed": 0,
                "cancelled": 0, "turned_away": 0},
        }]})
    }

    pub(in super::super) fn function(name: &str, invocations: u64, seconds: f64) -> Value {
        json!({"name": name, "version": 3, "live": {"in_flight": 1, "instances": 2, "invocations": invocations,
            "failed": 0, "answered": invocations, "seconds": seconds}})
    }

    pub(in super::super) fn call(destination: &str, waited: u64) -> Value {
        json!({"destination": destination, "method": "GET", "host": "api.test", "path": "/v1", "status": 200,
            "attempts": 1, "waited_ms": waited, "total_ms": 812})
    }

    #[test]
    fn rates_are_what_was_counted_between_two_samples() {
        let (mut model, began) = (Model::new(Sort::Calls), Instant::now());
        model.sample(began, &[destination("a", 100, 50, 0)], &[function("f", 10, 1.0)]);
        assert_eq!(model.destinations(began)[0].rates, [0.0; 3], "one sample says nothing");
        let later = began + Duration::from_secs(2);
        let others = [destination("a", 110, 54, 7), destination("new", 1_000, 0, 0)];
        model.sample(later, &others, &[function("f", 14, 3.0)]);
        let rows = model.destinations(later);
        assert_eq!((&*rows[0].name, rows[0].rates, rows[0].queued), ("a", [7.0, 2.0, 0.0], 7));
        assert_eq!(rows[1].rates, [0.0; 3], "what is new has no rate yet");
        let function = &model.functions()[0];
        assert_eq!((function.rate, function.mean_ms, function.instances), (2.0, Some(500.0), 2));
        // The node began anew.
        model.sample(later + Duration::from_secs(1), &[destination("a", 1, 0, 0)], &[]);
        assert_eq!(model.destinations(later)[0].rates, [0.0; 3]);
    }

    #[test]
    fn keys_say_what_comes_first() {
        let (mut model, now) = (Model::new(Sort::Name), Instant::now());
        let sample = |more: u64| {
            [
                destination("calm", 10, 0, 0),
                destination("busy", 10 + more, 0, 1),
                destination("refused", 10, more / 2, 0),
            ]
        };
        model.sample(now, &sample(0), &[]);
        model.sample(now + Duration::from_secs(1), &sample(100), &[]);
        model.call(now, call("calm", 9_000));
        let mut first = |key| {
            model.key(KeyCode::Char(key));
            model.destinations(now)[0].name.clone()
        };
        assert_eq!(['n', 'c', 'u', 'w', 'r'].map(&mut first), ["busy", "busy", "busy", "calm", "refused"]);
    }

    #[test]
    fn waits_are_those_of_the_last_minute() {
        let (mut model, now) = (Model::new(Sort::Name), Instant::now());
        model.sample(now, &[destination("a", 0, 0, 0)], &[]);
        assert_eq!(model.destinations(now)[0].waits, None);
        for waited in 1..=100 {
            model.call(now, call("a", waited));
        }
        assert_eq!(model.destinations(now)[0].waits, Some((50, 99)));
        assert_eq!(model.destinations(now + WINDOW * 2)[0].waits, None);
        model.call(now + WINDOW * 2, call("a", 5));
        assert_eq!(model.newest().count(), 1, "older ones are forgotten");
    }
}

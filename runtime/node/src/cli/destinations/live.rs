//! The live state of destinations as a table: pace, queue, pauses and why, outcomes.

use serde_json::Value;

use super::super::{
    failure::Failure,
    output::{Cell, Out, millis, paint},
};

/// Prints one row a partition.
pub(super) fn table(out: Out, destinations: &[Value]) -> Result<(), Failure> {
    let rows: Vec<_> = destinations.iter().flat_map(rows).collect();
    out.table(&["destination", "state", "pace", "queued", "in flight", "answers in", "ok", "refused", "failed"], &rows)
}

fn rows(destination: &Value) -> Vec<Vec<Cell>> {
    let name = destination.get("destination").and_then(Value::as_str).unwrap_or("-");
    let partitions = destination.get("partitions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if partitions.is_empty() {
        let mut row = vec![Cell::styled(name, paint::BOLD), Cell::styled("not called yet", paint::DIM)];
        row.extend((0..7).map(|_| "-".into()));
        return vec![row];
    }
    partitions.iter().map(|partition| row(name, partition)).collect()
}

fn row(name: &str, partition: &Value) -> Vec<Cell> {
    let number = |pointer: &str| partition.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
    let name = match partition.get("partition").and_then(Value::as_str) {
        Some(part) => format!("{name} {part}"),
        None => name.to_owned(),
    };
    let (state, style) = state(partition);
    let latency = partition.get("latency_ms").and_then(Value::as_f64);
    vec![
        Cell::styled(name, paint::BOLD),
        Cell::styled(state, style),
        pace(partition).into(),
        queued(partition).into(),
        number("/in_flight").to_string().into(),
        latency.map_or("-".into(), |ms| millis(ms as u64)).into(),
        number("/outcomes/succeeded").to_string().into(),
        (number("/outcomes/refused") + number("/outcomes/turned_away")).to_string().into(),
        (number("/outcomes/server_errors") + number("/outcomes/failed")).to_string().into(),
    ]
}

/// Whether a partition is open, in words, and how that is painted.
pub(in super::super) fn state(partition: &Value) -> (String, anstyle::Style) {
    if let Some(held) = partition.get("held").filter(|held| held.is_object()) {
        let state = held.get("state").and_then(Value::as_str).unwrap_or("held");
        let left = held.get("left_ms").and_then(Value::as_f64).map(|left| format!(", {} left", millis(left as u64)));
        return (format!("{state} by an operator{}", left.unwrap_or_default()), paint::WARN);
    }
    match partition.get("paused").filter(|paused| paused.is_object()) {
        None => ("open".into(), paint::GOOD),
        Some(paused) => match paused.get("why").and_then(Value::as_str) {
            Some(why) => (format!("paused {why}"), paint::WARN),
            None => ("paused".into(), paint::WARN),
        },
    }
}

fn queued(partition: &Value) -> String {
    let calls = partition.pointer("/queue/calls").and_then(Value::as_u64).unwrap_or_default();
    match partition.pointer("/queue/oldest_ms").and_then(Value::as_f64) {
        Some(oldest) => format!("{calls} (oldest {})", millis(oldest as u64)),
        None => calls.to_string(),
    }
}

/// Limits in force and what was learned; nothing known is unlimited.
pub(in super::super) fn pace(partition: &Value) -> String {
    let limits = partition.get("limits").and_then(Value::as_array);
    let mut known: Vec<String> = limits.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    if let Some(count) = partition.get("max_concurrency").and_then(Value::as_u64) {
        known.push(format!("{count} at once"));
    }
    if let Some(rate) = partition.pointer("/pace/learned_per_second").and_then(Value::as_f64) {
        known.push(format!("{rate}/s learned"));
    }
    if let Some(slots) = partition.pointer("/pace/learned_at_once").and_then(Value::as_u64) {
        known.push(format!("{slots} at once learned"));
    }
    if known.is_empty() { "unlimited".to_owned() } else { known.join(", ") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pause_says_how_long_and_why() {
        let paused = json!({"paused": {"left_ms": 12_000.0, "why": "for 12s after 429"}});
        assert_eq!(state(&paused).0, "paused for 12s after 429");
        assert_eq!(state(&json!({"paused": null})).0, "open");
        let held = json!({"held": {"state": "paused", "left_ms": 4_900.0}, "paused": {"why": "for 12s after 429"}});
        assert_eq!(state(&held).0, "paused by an operator, 4.9 s left");
        assert_eq!(state(&json!({"held": {"state": "draining"}})).0, "draining by an operator");
    }

    #[test]
    fn the_pace_is_what_is_configured_and_what_was_learned() {
        let partition =
            json!({"limits": ["10/1s requests"], "max_concurrency": 4, "pace": {"learned_per_second": 9.5}});
        assert_eq!(pace(&partition), "10/1s requests, 4 at once, 9.5/s learned");
        let slots = json!({"limits": [], "pace": {"learned_at_once": 8}});
        assert_eq!(pace(&slots), "8 at once learned");
        assert_eq!(pace(&json!({"limits": [], "pace": {"learned_per_second": null}})), "unlimited");
    }

    #[test]
    fn every_partition_has_a_row_and_a_destination_without_one_too() {
        let destination = json!({"destination": "openai", "partitions": [
            {"partition": "/model=a", "queue": {"calls": 3, "oldest_ms": 1_500.0}}, {"partition": "/model=b"}]});
        assert_eq!(rows(&destination).len(), 2);
        assert_eq!(queued(&destination["partitions"][0]), "3 (oldest 1.5 s)");
        assert_eq!(rows(&json!({"destination": "unused", "partitions": []})).len(), 1);
    }
}

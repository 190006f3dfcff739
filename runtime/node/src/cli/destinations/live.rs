//! The live state of destinations as a table: pace, queue, pauses and why, outcomes.

use serde_json::Value;

use super::super::{
    failure::Failure,
    output::{Cell, Out, millis, now_ms, paint},
};

/// Prints one row a partition.
pub(super) fn table(out: Out, live: &[Value]) -> Result<(), Failure> {
    let rows: Vec<_> = live.iter().map(|partition| row(partition, now_ms())).collect();
    out.table(&["destination", "state", "pace", "queued", "in flight", "ok", "refused", "failed"], &rows)
}

fn row(partition: &Value, now: u64) -> Vec<Cell> {
    let number = |key: &str| partition.get(key).and_then(Value::as_u64);
    let count = |key: &str| partition.pointer(&format!("/counts/{key}")).and_then(Value::as_u64).unwrap_or_default();
    let (state, style) = state(partition, now);
    vec![
        Cell::styled(name(partition), paint::BOLD),
        Cell::styled(state, style),
        pace(partition).into(),
        number("queued").unwrap_or_default().to_string().into(),
        number("in_flight").unwrap_or_default().to_string().into(),
        count("succeeded").to_string().into(),
        (count("refused") + count("turned_away")).to_string().into(),
        (count("server_errors") + count("failed")).to_string().into(),
    ]
}

fn name(partition: &Value) -> String {
    let text = |key: &str| partition.get(key).and_then(Value::as_str);
    // Several partitions of one destination differ by their key, and by their host where it is a pattern.
    let parts = ["destination", "host", "partition"].map(text);
    let mut shown: Vec<_> = parts.into_iter().flatten().collect();
    shown.dedup();
    if shown.is_empty() { "-".to_owned() } else { shown.join(" ") }
}

fn state(partition: &Value, now: u64) -> (String, anstyle::Style) {
    let paused = partition.get("paused").filter(|paused| paused.is_object());
    let Some(paused) = paused else { return ("open".into(), paint::GOOD) };
    let number = |key: &str| paused.get(key).and_then(Value::as_u64);
    let left = number("for_ms").or_else(|| number("until_ms").map(|until| until.saturating_sub(now)));
    let why = paused.get("why").and_then(Value::as_str).unwrap_or("the upstream refused");
    (format!("paused {}: {why}", millis(left.unwrap_or_default())), paint::WARN)
}

fn pace(partition: &Value) -> String {
    let limits: Vec<_> =
        partition.get("limits").and_then(Value::as_array).into_iter().flatten().map(super::limits::show).collect();
    match partition.get("learned_rate").and_then(Value::as_f64) {
        Some(rate) => format!("{rate:.1}/s learned"),
        None if limits.is_empty() => "unlimited".to_owned(),
        None => limits.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pause_says_how_long_and_why() {
        let paused = json!({"paused": {"until_ms": 13_000, "why": "429 with Retry-After"}});
        assert_eq!(state(&paused, 1_000).0, "paused 12 s: 429 with Retry-After");
        assert_eq!(state(&json!({"paused": null}), 0).0, "open");
    }

    #[test]
    fn the_pace_is_what_was_learned_else_what_is_configured() {
        let limits = json!([{"unit": "requests", "quota": 10, "per": "1s"}]);
        assert_eq!(pace(&json!({"limits": limits})), "10/1s");
        assert_eq!(pace(&json!({"limits": limits, "learned_rate": 9.5})), "9.5/s learned");
        assert_eq!(pace(&json!({})), "unlimited");
    }
}

//! Limits as they are written on a command line and in a table: `500/1m`, `90000/1m:tokens`, `500/1m+20`.

use serde_json::{Value, json};
use tidegate_core::units::Span;

/// Reads a limit into the API's form.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let wrong = || "write it as QUOTA/PERIOD, such as 500/1m, 90000/1m:tokens or 500/1m+20".to_owned();
    let (rest, burst) = match text.split_once('+') {
        Some((rest, burst)) => (rest, Some(burst.parse::<u64>().map_err(|_| wrong())?)),
        None => (text, None),
    };
    let (rest, unit) = rest.split_once(':').unwrap_or((rest, "requests"));
    let (quota, per) = rest.split_once('/').ok_or_else(wrong)?;
    let quota: u64 = quota.trim().parse().map_err(|_| wrong())?;
    // `10/s` reads as `10/1s`.
    let per = if per.starts_with(|c: char| c.is_ascii_digit()) { per.to_owned() } else { format!("1{per}") };
    let per: Span = per.parse().map_err(|_| wrong())?;
    if quota == 0 || unit.is_empty() {
        return Err(wrong());
    }
    let mut limit = json!({"unit": unit, "quota": quota, "per": per});
    if let (Some(burst), Some(limit)) = (burst, limit.as_object_mut()) {
        limit.insert("burst".into(), json!(burst));
    }
    Ok(limit)
}

/// Writes a limit as it is read.
pub(super) fn show(limit: &Value) -> String {
    let number = |key: &str| limit.get(key).and_then(Value::as_u64);
    let (Some(quota), Some(per)) = (number("quota"), limit.get("per").and_then(Value::as_str)) else {
        return limit.to_string();
    };
    let unit = limit.get("unit").and_then(Value::as_str).filter(|unit| *unit != "requests");
    let unit = unit.map(|unit| format!(":{unit}")).unwrap_or_default();
    let burst = number("burst").map(|burst| format!("+{burst}")).unwrap_or_default();
    format!("{quota}/{per}{unit}{burst}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_reads_as_it_is_written() {
        for (text, limit) in [
            ("500/1m", json!({"unit": "requests", "quota": 500, "per": "1m"})),
            ("90000/1m:tokens", json!({"unit": "tokens", "quota": 90_000, "per": "1m"})),
            ("500/1m+20", json!({"unit": "requests", "quota": 500, "per": "1m", "burst": 20})),
        ] {
            assert_eq!(parse(text).as_ref(), Ok(&limit));
            assert_eq!(show(&limit), text);
        }
        assert_eq!(parse("10/s").unwrap()["per"], "1s");
        for text in ["", "10", "0/s", "10/1w", "10/s:", "10/s+x", "x/s"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}

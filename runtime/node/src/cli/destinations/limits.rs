//! Limits as they are written on a command line and in a table: `500/1m`, `90000/1m:tokens`, `500/1m+20`.

use serde_json::{Value, json};
use tidegate_core::limit::{Limit, NotALimit};

/// Reads a limit into the API's form.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let limit: Limit = text.parse().map_err(|error: NotALimit| error.to_string())?;
    Ok(json!(limit))
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
        assert!(parse("10").unwrap_err().contains("QUOTA/PERIOD"));
    }
}

//! Limits and endpoints as they are written on a command line and in a table: `500/1m`, `90000/1m:tokens`, `500/1m+20`.

use serde_json::{Map, Value, json};
use tidegate_core::limit::{Limit, NotALimit};

/// Reads a limit into the API's form.
pub(in super::super) fn parse(text: &str) -> Result<Value, String> {
    let limit: Limit = text.parse().map_err(|error: NotALimit| error.to_string())?;
    Ok(json!(limit))
}

/// Writes a limit as it is read.
pub(in super::super) fn show(limit: &Value) -> String {
    let number = |key: &str| limit.get(key).and_then(Value::as_u64);
    let (Some(quota), Some(per)) = (number("quota"), limit.get("per").and_then(Value::as_str)) else {
        return limit.to_string();
    };
    let unit = limit.get("unit").and_then(Value::as_str).filter(|unit| *unit != "requests");
    let unit = unit.map(|unit| format!(":{unit}")).unwrap_or_default();
    let burst = number("burst").map(|burst| format!("+{burst}")).unwrap_or_default();
    format!("{quota}/{per}{unit}{burst}")
}

/// What may be said of an endpoint.
const ENDPOINT_KEYS: &str = "name=N, region=R, weight=W, strip=/v1, secret=NAME or inject=TEMPLATE";

/// Reads an endpoint: `URL,key=value,...`.
pub(super) fn endpoint(text: &str) -> Result<Value, String> {
    let mut parts = text.split(',');
    let mut endpoint = Map::new();
    endpoint.insert("url".into(), json!(parts.next().unwrap_or_default()));
    for part in parts {
        let wrong = || format!("`{part}` says nothing about an endpoint: write {ENDPOINT_KEYS}");
        let (key, value) = part.split_once('=').ok_or_else(wrong)?;
        let value = match key {
            "name" | "region" | "strip" | "secret" | "inject" => json!(value),
            "weight" => json!(value.parse::<u16>().map_err(|_| format!("`{value}` is no weight: 1 to 1000"))?),
            _ => return Err(wrong()),
        };
        endpoint.insert(key.into(), value);
    }
    Ok(Value::Object(endpoint))
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

    #[test]
    fn an_endpoint_is_its_url_and_what_is_said_of_it() {
        assert_eq!(endpoint("https://a/b").unwrap(), json!({"url": "https://a/b"}));
        assert_eq!(
            endpoint("https://a,name=east,region=iad,weight=3,strip=/v1").unwrap(),
            json!({"url": "https://a", "name": "east", "region": "iad", "weight": 3, "strip": "/v1"})
        );
        assert_eq!(
            endpoint("https://a,secret=KEY,inject=?key={}").unwrap(),
            json!({"url": "https://a", "secret": "KEY", "inject": "?key={}"})
        );
        for (text, why) in
            [("https://a,east", "write name=N"), ("https://a,weight=x", "no weight"), ("https://a,x=1", "x=1")]
        {
            assert!(endpoint(text).unwrap_err().contains(why), "{text}");
        }
    }
}

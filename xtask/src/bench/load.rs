//! Load from `wrk`, and the numbers it prints.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::programs::last_core;

/// What one round of load measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Answers a second.
    pub(crate) rate: f64,
    /// Median latency in milliseconds.
    pub p50_ms: f64,
    /// 99th percentile in milliseconds.
    pub p99_ms: f64,
}

/// Sends load for some seconds over some connections, from one thread held on the last core where `taskset` exists.
pub(crate) fn wrk(url: &str, connections: u32, seconds: u32) -> Result<Load> {
    let mut command = Command::new("taskset");
    command.args(["-c", &last_core().to_string(), "wrk", "--latency", "-t1"]);
    command.arg(format!("-c{connections}")).arg(format!("-d{seconds}s")).arg(url);
    let output = command.output().context("wrk could not be started; install it (Debian: apt-get install wrk)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("wrk {url} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    if let Some(line) = text.lines().find(|line| line.contains("Non-2xx") || line.contains("Socket errors")) {
        bail!("wrk {url}: {}", line.trim());
    }
    let field =
        |label: &str| text.lines().find_map(|line| line.trim().strip_prefix(label)).map(|rest| rest.trim().to_owned());
    let rate = field("Requests/sec:").and_then(|text| text.parse().ok()).context("wrk printed no rate")?;
    let millis = |label| field(label).as_deref().and_then(millis).with_context(|| format!("wrk printed no {label}"));
    Ok(Load { rate, p50_ms: millis("50%")?, p99_ms: millis("99%")? })
}

/// wrk's latencies: `812.00us`, `1.13ms`, `2.00s`.
fn millis(text: &str) -> Option<f64> {
    let (number, factor) = if let Some(number) = text.strip_suffix("us") {
        (number, 0.001)
    } else if let Some(number) = text.strip_suffix("ms") {
        (number, 1.0)
    } else {
        (text.strip_suffix('s')?, 1_000.0)
    };
    number.parse::<f64>().ok().map(|number| number * factor)
}

/// The median.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    #[test]
    fn latencies_of_wrk_become_milliseconds() {
        for (text, expected) in [("812.00us", 0.812), ("1.13ms", 1.13), ("2.00s", 2_000.0)] {
            assert!((super::millis(text).unwrap() - expected).abs() < 1e-9);
        }
        assert_eq!(super::millis("fast"), None);
    }
}

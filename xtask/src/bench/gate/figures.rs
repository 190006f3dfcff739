//! What is asked of each figure, and how it is written.

use serde_json::Value;

/// What the sides of a case measured.
#[derive(Default)]
pub(super) struct Measured {
    pub(super) ours: Option<Value>,
    pub(super) plain: Option<Value>,
    pub(super) envoy: Option<Value>,
    pub(super) litellm: Option<Value>,
}

/// One row of the table.
pub(super) struct Figure {
    name: &'static str,
    asked: &'static str,
    show: fn(&Value) -> String,
    /// Nothing where nothing was asked.
    holds: Option<fn(&Value) -> bool>,
    /// What it takes to say so, and how many: a shortened run tells less.
    needs: Option<(&'static str, f64)>,
}

/// A number that was measured; `NaN` where it could not be, which holds nothing.
pub(super) fn number(figures: &Value, name: &str) -> f64 {
    figures.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN)
}

fn lost(figures: &Value) -> String {
    format!("{} of {} lost", number(figures, "lost"), number(figures, "calls"))
}

fn none_lost(figures: &Value) -> bool {
    number(figures, "lost") == 0.0 && number(figures, "calls") > 0.0
}

impl Figure {
    /// The row of a case.
    pub(super) fn row(&self, case: &str, measured: &Measured) -> String {
        let of = |side: &Option<Value>| side.as_ref().map_or_else(|| "-".into(), self.show);
        let holds = match (self.holds, &measured.ours) {
            (Some(_), Some(ours)) if self.needs.is_some_and(|(name, least)| number(ours, name) < least) => "too few",
            (Some(holds), Some(ours)) if holds(ours) => "yes",
            (Some(_), _) => "**no**",
            (None, _) => "-",
        };
        let Measured { ours, plain, envoy, litellm } = measured;
        let sides = [of(ours), of(plain), of(envoy), of(litellm)].join(" | ");
        format!("| {case}: {} | {sides} | {} | {holds} |", self.name, self.asked)
    }
}

const LOST: Figure =
    Figure { name: "calls answered 200", asked: "every one", show: lost, holds: Some(none_lost), needs: None };

pub(super) const UNKNOWN_LIMIT: &[Figure] = &[
    Figure {
        name: "goodput once learned",
        asked: "≥ 95 % of the limit",
        show: |figures| format!("{:.1} %", number(figures, "goodput")),
        holds: Some(|figures| number(figures, "goodput") >= 95.0),
        needs: None,
    },
    Figure {
        name: "refused requests once learned",
        asked: "< 4 %",
        show: |figures| format!("{:.1} %", number(figures, "refused")),
        holds: Some(|figures| number(figures, "refused") < 4.0),
        needs: None,
    },
    LOST,
    Figure {
        name: "while learning: goodput, refused",
        asked: "",
        show: |figures| {
            format!("{:.1} %, {:.1} %", number(figures, "learning_goodput"), number(figures, "learning_refused"))
        },
        holds: None,
        needs: None,
    },
    Figure {
        name: "p99 of good calls once learned",
        asked: "",
        show: |figures| format!("{:.1} s", number(figures, "p99_ms") / 1e3),
        holds: None,
        needs: None,
    },
];

/// The limit of the outage's destination, as `super::OUTAGE`.
const OUTAGE_LIMIT: f64 = super::OUTAGE as f64;

pub(super) const OUTAGE: &[Figure] = &[
    LOST,
    Figure {
        name: "requests for each call",
        asked: "≤ 1.1",
        show: |figures| {
            let countable = figures.get("countable").and_then(Value::as_bool) == Some(true);
            let in_outage = match number(figures, "requests_in_outage") {
                count if countable => format!("{count} in the outage"),
                _ => "refused connections can't be seen".into(),
            };
            format!("{:.3} ({in_outage})", number(figures, "requests_per_call"))
        },
        holds: Some(|figures| number(figures, "requests_per_call") <= 1.1),
        needs: None,
    },
    Figure {
        name: "full pace after recovery",
        asked: "≤ 5 s",
        show: |figures| {
            let (first, full) = (number(figures, "until_first_s"), number(figures, "until_full_s"));
            format!("{full:.1} s (first request {first:.1} s)")
        },
        holds: Some(|figures| number(figures, "until_full_s") <= 5.0),
        needs: None,
    },
    Figure {
        name: "pace of the backlog",
        asked: "the limit (even, without bursts: ≥ 90 %)",
        show: |figures| format!("{:.1} %", number(figures, "pace")),
        holds: Some(|figures| number(figures, "pace") >= 90.0),
        needs: None,
    },
    Figure {
        name: "most requests in a second",
        asked: "≤ the limit of 100",
        show: |figures| format!("{}", number(figures, "most_in_a_second")),
        holds: Some(|figures| number(figures, "most_in_a_second") <= OUTAGE_LIMIT),
        needs: None,
    },
    Figure {
        name: "last call answered after recovery",
        asked: "",
        show: |figures| format!("{:.1} s", number(figures, "until_all_s")),
        holds: None,
        needs: None,
    },
];

pub(super) const SLOW_REGION: &[Figure] = &[
    Figure {
        name: "p99 while slow, of healthy",
        asked: "≤ 1.3 times, of at least 2,000 calls",
        show: |figures| {
            let (slow, healthy) = (number(figures, "slow_p99_ms"), number(figures, "healthy_p99_ms"));
            let (times, calls) = (number(figures, "times"), number(figures, "slow_calls"));
            format!("{times:.2} ({slow:.0} / {healthy:.0} ms, {calls} calls)")
        },
        holds: Some(|figures| number(figures, "times") <= 1.3),
        needs: Some(("slow_calls", 2_000.0)),
    },
    Figure {
        name: "extra requests: in all, while slow",
        asked: "≤ 5 %",
        show: |figures| format!("{:.1} %, {:.1} %", number(figures, "extra"), number(figures, "extra_slow")),
        holds: Some(|figures| number(figures, "extra") <= 5.0 && number(figures, "extra_slow") <= 5.0),
        needs: None,
    },
    Figure {
        name: "fair share again after recovery",
        asked: "≤ 30 s",
        show: |figures| {
            let shares = ["healthy_share", "slow_share", "well_share"].map(|name| number(figures, name));
            let [healthy, slow, well] = shares;
            let after = number(figures, "used_after_s");
            format!("{after:.0} s (share {healthy:.0} % → {slow:.0} % → {well:.0} %)")
        },
        holds: Some(|figures| number(figures, "used_after_s") <= 30.0),
        needs: None,
    },
    LOST,
];

pub(super) const FAIRNESS: &[Figure] = &[
    Figure {
        name: "longest wait beside a queue of others",
        asked: "≤ 2 turns, a queue of 10,000",
        show: |figures| {
            let (turns, millis) = (number(figures, "most_turns"), number(figures, "most_ms"));
            let (median, queued) = (number(figures, "median_turns"), number(figures, "queued"));
            format!("{turns:.2} turns ({millis:.0} ms; median {median:.2} turns; {queued} queued)")
        },
        holds: Some(|figures| number(figures, "most_turns") <= 2.0),
        // Some leave before the last has come.
        needs: Some(("queued", 9_500.0)),
    },
    LOST,
    Figure {
        name: "calls of the queue that were lost",
        asked: "none",
        show: |figures| format!("{} ({} served)", number(figures, "many_lost"), number(figures, "many_served")),
        holds: Some(|figures| number(figures, "many_lost") == 0.0),
        needs: None,
    },
];

pub(super) const ADMISSION: &[Figure] = &[Figure {
    name: "p99 of an admission, half of the cores busy",
    asked: "< 20 µs",
    show: |figures| {
        let [p50, p99, p999, most] = ["p50_us", "p99_us", "p999_us", "most_us"].map(|name| number(figures, name));
        let due = number(figures, "from_due_p99_us");
        format!("{p99:.1} µs (p50 {p50:.1}, p99.9 {p999:.1}, most {most:.0}; from when it was due, p99 {due:.1})")
    },
    holds: Some(|figures| number(figures, "p99_us") < 20.0),
    needs: None,
}];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_judges_our_side_alone() {
        let figure = UNKNOWN_LIMIT.first().unwrap();
        let with = |ours| Measured { ours, plain: Some(json!({ "goodput": 50.0 })), ..Measured::default() };
        let row = |ours| figure.row("case", &with(ours));
        assert_eq!(
            row(Some(json!({ "goodput": 97.25 }))),
            "| case: goodput once learned | 97.2 % | 50.0 % | - | - | ≥ 95 % of the limit | yes |"
        );
        assert!(row(Some(json!({ "goodput": 94.9 }))).ends_with("**no** |"));
    }

    #[test]
    fn a_shortened_run_does_not_say_that_a_figure_holds() {
        let figure = SLOW_REGION.first().unwrap();
        let of = |calls| {
            let ours = Some(json!({ "times": 1.0, "slow_calls": calls }));
            figure.row("case", &Measured { ours, ..Measured::default() })
        };
        assert!(of(1_999).ends_with("too few |"), "{}", of(1_999));
        assert!(of(2_000).ends_with("yes |"));
    }

    #[test]
    fn what_could_not_be_measured_does_not_hold() {
        let all = [UNKNOWN_LIMIT, OUTAGE, SLOW_REGION, FAIRNESS, ADMISSION];
        for holds in all.into_iter().flatten().filter_map(|figure| figure.holds) {
            // A figure that is not a number is `null` in JSON.
            assert!(!holds(&json!({ "goodput": null })));
        }
    }
}

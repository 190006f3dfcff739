//! What operators do to a destination beside its configuration: brakes and limits for a time.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How a destination is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BrakeState {
    /// Nothing leaves; calls wait as far as their deadlines let them.
    Paused,
    /// No further call is taken; those that wait leave as they would.
    Draining,
}

/// A destination that an operator holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrakeRecord {
    /// How.
    pub state: BrakeState,
    /// When it ends by itself, milliseconds since 1970; nothing: when it is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// Since when, who and why.
    #[serde(flatten)]
    pub by: Signed,
}

/// Limits in the place of the configured ones, until then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OverrideRecord {
    /// Limits; nothing: the configured ones stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Vec<Value>>,
    /// Calls in flight at once; nothing: what is configured stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<u32>,
    /// When it ends by itself, milliseconds since 1970.
    pub until_ms: u64,
    /// Since when, who and why.
    #[serde(flatten)]
    pub by: Signed,
}

/// Who did something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// When, milliseconds since 1970.
    pub since_ms: u64,
    /// Id of the token.
    pub by: String,
    /// Why, in their words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// All that operators do to one destination.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Steering {
    /// Whether it is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brake: Option<BrakeRecord>,
    /// Limits for a time.
    #[serde(default, rename = "override", skip_serializing_if = "Option::is_none")]
    pub limits: Option<OverrideRecord>,
}

/// One change of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Steer {
    /// Holds it, or lets it go.
    Brake(Option<BrakeRecord>),
    /// Gives it other limits, or takes them back.
    Override(Option<OverrideRecord>),
}

impl Steering {
    /// Whether there is nothing.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// It after a change.
    #[must_use]
    pub fn with(&self, steer: Steer) -> Self {
        let mut next = self.clone();
        match steer {
            Steer::Brake(brake) => next.brake = brake,
            Steer::Override(limits) => next.limits = limits,
        }
        next
    }

    /// What of it is in force.
    #[must_use]
    pub fn at(&self, now_ms: u64) -> Self {
        Self {
            brake: self.brake.clone().filter(|brake| brake.until_ms.is_none_or(|until| until > now_ms)),
            limits: self.limits.clone().filter(|limits| limits.until_ms > now_ms),
        }
    }

    /// When something of it ends next.
    pub fn next_end(&self, now_ms: u64) -> Option<u64> {
        let brake = self.brake.as_ref().and_then(|brake| brake.until_ms);
        let limits = self.limits.as_ref().map(|limits| limits.until_ms);
        [brake, limits].into_iter().flatten().filter(|end| *end > now_ms).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed() -> Signed {
        Signed { since_ms: 1_000, by: "tok".into(), reason: None }
    }

    #[test]
    fn what_is_over_is_not_in_force_and_what_ends_next_is_known() {
        let brake = BrakeRecord { state: BrakeState::Paused, until_ms: Some(5_000), by: signed() };
        let limits = OverrideRecord { limits: None, max_concurrency: Some(2), until_ms: 9_000, by: signed() };
        let steering =
            Steering::default().with(Steer::Brake(Some(brake.clone()))).with(Steer::Override(Some(limits.clone())));
        for (now, is_braked, is_limited, next) in [
            (4_999, true, true, Some(5_000)),
            (5_000, false, true, Some(9_000)),
            (8_999, false, true, Some(9_000)),
            (9_000, false, false, None),
        ] {
            let at = steering.at(now);
            assert_eq!((at.brake.is_some(), at.limits.is_some()), (is_braked, is_limited), "{now}");
            assert_eq!(steering.next_end(now), next, "{now}");
        }
        let endless = Steering::default().with(Steer::Brake(Some(BrakeRecord { until_ms: None, ..brake })));
        assert!(endless.at(u64::MAX).brake.is_some());
        assert_eq!(endless.next_end(0), None);
        assert!(endless.with(Steer::Brake(None)).is_none());
    }

    #[test]
    fn it_reads_as_it_is_written() {
        let brake = BrakeRecord { state: BrakeState::Draining, until_ms: Some(5), by: signed() };
        let steering = Steering::default().with(Steer::Brake(Some(brake)));
        let text = serde_json::to_string(&steering).unwrap();
        assert_eq!(text, r#"{"brake":{"state":"draining","until_ms":5,"since_ms":1000,"by":"tok"}}"#);
        assert_eq!(serde_json::from_str::<Steering>(&text).unwrap(), steering);
    }
}

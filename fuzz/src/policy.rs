//! The text of a `tidegate-policy` header, or a policy in JSON.

use serde_json::Value;
use tidegate_core::{
    Effective, Policy,
    policy::{HEADER, header},
};

/// An error says which member is wrong, by a name that is there, and what would be right.
pub(crate) fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match header::parse(text) {
        Ok(policy) => {
            assert_eq!(policy.validate(), Ok(()));
            is_written_back(&policy);
        }
        Err(error) => {
            assert!(error.member == HEADER || text.contains(&error.member), "{error} in {text}");
            assert!(!error.problem.is_empty());
        }
    }
    if let Ok(policy) = serde_json::from_str::<Policy>(text) {
        is_written_back(&policy);
        if let Err(error) = policy.validate() {
            let there: Value = serde_json::from_str(text).unwrap();
            assert!(there.get(&error.member).is_some() && !error.problem.is_empty(), "{error} in {text}");
        }
    }
}

/// What is read is written back and reads the same, and lies over others as it says.
fn is_written_back(policy: &Policy) {
    let json = serde_json::to_string(policy).unwrap();
    let again: Policy = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{json}: {error}"));
    assert_eq!(again, *policy, "{json}");
    let below = Policy { retries: Some(1), ..Policy::default() };
    assert_eq!(Effective::of([&below, policy]), Effective::of([&policy.over(&below)]));
    assert_eq!(policy.over(policy), *policy);
}

//! Which request suffers what: a function of the seed and the request's number.

use std::time::Duration;

use super::options::{Candour, MockOptions};

/// What befalls one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fate {
    /// Its connection is closed without an answer.
    pub(super) dropped: bool,
    /// It stalls before the head.
    pub(super) slow: bool,
    /// It is answered with a server error.
    pub(super) fails: bool,
}

impl Fate {
    /// The fate of request `number`.
    pub(super) fn of(options: &MockOptions, number: u64) -> Self {
        let hit = |salt, share: f64| share > 0.0 && roll(options.seed, number, salt) < share;
        Self { dropped: hit(1, options.drop.0), slow: hit(2, options.slow.0), fails: hit(3, options.fail.0) }
    }
}

/// What a refusal's `Retry-After` says, in whole seconds rounded up where it is true, and the same in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hint {
    /// Value of `Retry-After`.
    pub(super) retry_after: Option<String>,
    /// Value of `retry-after-ms`.
    pub(super) retry_after_ms: Option<String>,
    /// Whether the ratelimit headers are there.
    pub(super) rate_headers: bool,
}

impl Hint {
    /// What request `number`, refused, is told when a client should in truth wait `wait`.
    pub(super) fn of(options: &MockOptions, number: u64, wait: Duration) -> Self {
        let true_seconds = wait.as_millis().div_ceil(1_000).max(1).to_string();
        let (retry_after, retry_after_ms, rate_headers) = match options.limits {
            Candour::Honest => (Some(true_seconds), Some(wait.as_millis().max(1).to_string()), true),
            Candour::RetryAfter => (Some(true_seconds), None, false),
            Candour::NoRetryAfter => (None, None, true),
            Candour::Bare => (None, None, false),
            Candour::Short => (Some("0".into()), None, false),
            Candour::Long => (Some("86400".into()), None, false),
            Candour::Lying => {
                const LIES: [&str; 7] =
                    ["0", "0.001", "86400", "99999999999999999999", "-5", "soon", "Thu, 01 Jan 1970 00:00:00 GMT"];
                let index = (roll(options.seed, number, 4) * LIES.len() as f64) as usize;
                (LIES.get(index).map(|lie| (*lie).to_owned()), None, false)
            }
        };
        Self { retry_after, retry_after_ms, rate_headers }
    }
}

/// A number in [0, 1) that depends on nothing but its arguments (the finaliser of SplitMix64).
fn roll(seed: u64, number: u64, salt: u64) -> f64 {
    let mut bits = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number.wrapping_mul(0xd1b5_4a32_d192_ed03) ^ (salt << 56);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_met_and_the_same_seed_meets_it_the_same_way() {
        let options = MockOptions::from_args(["--slow", "5%", "--fail", "20%", "--seed", "7"]).unwrap();
        let fates: Vec<_> = (0..20_000).map(|number| Fate::of(&options, number)).collect();
        let slow = fates.iter().filter(|fate| fate.slow).count();
        let fails = fates.iter().filter(|fate| fate.fails).count();
        let both = fates.iter().filter(|fate| fate.fails && fate.slow).count();
        assert!((900..1_100).contains(&slow), "{slow}");
        assert!((3_800..4_200).contains(&fails), "{fails}");
        assert!((130..270).contains(&both), "slow and failing are independent: {both}");
        assert!(fates.iter().all(|fate| !fate.dropped));
        assert!((0..20_000).all(|number| Fate::of(&options, number) == fates[number as usize]));
        let other = MockOptions::from_args(["--slow", "5%", "--fail", "20%", "--seed", "8"]).unwrap();
        assert!((0..100).any(|number| Fate::of(&other, number) != fates[number as usize]));
    }

    #[test]
    fn an_honest_hint_is_rounded_up_and_a_bare_one_says_nothing() {
        let hint = |manner| {
            let options = MockOptions::from_args(["--limits", manner]).unwrap();
            Hint::of(&options, 1, Duration::from_millis(1_200))
        };
        assert_eq!(hint("honest").retry_after.as_deref(), Some("2"));
        assert_eq!(hint("honest").retry_after_ms.as_deref(), Some("1200"));
        assert_eq!(hint("retry-after").retry_after_ms, None);
        assert_eq!(hint("bare"), Hint { retry_after: None, retry_after_ms: None, rate_headers: false });
        assert!(hint("lying").retry_after.is_some());
    }
}

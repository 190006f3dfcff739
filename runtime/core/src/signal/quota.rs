//! What an answer states of its quotas: limit, remaining, reset, per unit.

use super::{
    Source,
    fields::{Field, Fields},
    values,
};
use std::{
    fmt,
    time::{Duration, SystemTime},
};

/// What a quota counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Counted {
    /// Requests.
    Requests,
    /// Tokens of both directions together.
    Tokens,
    /// Tokens of prompts.
    InputTokens,
    /// Tokens of completions.
    OutputTokens,
}

impl Counted {
    /// All of them.
    pub const ALL: [Counted; 4] = [Counted::Requests, Counted::Tokens, Counted::InputTokens, Counted::OutputTokens];
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Counted::Requests => "requests",
            Counted::Tokens => "tokens",
            Counted::InputTokens => "input tokens",
            Counted::OutputTokens => "output tokens",
        })
    }
}

/// What a reset is the end of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Refill {
    /// A window: before it nothing comes back, at it all does.
    #[default]
    AtOnce,
    /// A bucket that fills evenly and is full at the reset: something comes back long before.
    Evenly,
}

/// One quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    /// Units per period.
    pub limit: Option<u64>,
    /// Units that are left.
    pub remaining: Option<u64>,
    /// Time to the reset.
    pub reset: Option<Duration>,
    /// What comes back at the reset.
    pub refill: Refill,
}

/// Of a bucket of tokens that is empty, the part that a request is taken to need: what one costs is not known here.
const SHARE_OF_A_REQUEST: u32 = 20;

impl Quota {
    fn is_stated(&self) -> bool {
        self.limit.is_some() || self.remaining.is_some()
    }

    /// How long nothing is left, as far as it says so.
    pub fn spent_for(&self, counted: Counted) -> Option<Duration> {
        let reset = self.reset.filter(|reset| self.remaining == Some(0) && !reset.is_zero())?;
        let wait = match (self.refill, counted, self.limit) {
            (Refill::AtOnce, ..) => reset,
            (Refill::Evenly, Counted::Requests, Some(limit)) => {
                reset.div_f64(limit.clamp(1, u64::from(u32::MAX)) as f64)
            }
            (Refill::Evenly, Counted::Requests, None) => reset,
            (Refill::Evenly, ..) => reset / SHARE_OF_A_REQUEST,
        };
        Some(wait).filter(|wait| !wait.is_zero())
    }
}

/// A quota in a quarter of its size: every outcome of an attempt carries four. Numbers beyond four billion and resets
/// beyond 49 days become that; a reset is in milliseconds, rounded up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Packed {
    limit: u32,
    remaining: u32,
    reset: u32,
    refill: Refill,
}

/// What a packed number is that is not stated.
const UNSTATED: u32 = u32::MAX;

impl Packed {
    const NONE: Packed = Packed { limit: UNSTATED, remaining: UNSTATED, reset: UNSTATED, refill: Refill::AtOnce };

    fn of(quota: Quota) -> Packed {
        let number = |number: Option<u64>| {
            number.map_or(UNSTATED, |number| u32::try_from(number).unwrap_or(UNSTATED).min(UNSTATED - 1))
        };
        let millis = |reset: Duration| u64::try_from(reset.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        Packed {
            limit: number(quota.limit),
            remaining: number(quota.remaining),
            reset: number(quota.reset.map(millis)),
            refill: quota.refill,
        }
    }

    fn quota(self) -> Quota {
        let number = |number: u32| (number != UNSTATED).then_some(u64::from(number));
        let reset = number(self.reset).map(Duration::from_millis);
        Quota { limit: number(self.limit), remaining: number(self.remaining), reset, refill: self.refill }
    }
}

/// The quotas of an answer, by what they count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quotas([Packed; Counted::ALL.len()]);

impl Default for Quotas {
    fn default() -> Quotas {
        Quotas([Packed::NONE; Counted::ALL.len()])
    }
}

impl Quotas {
    /// One of them; all its fields are empty where nothing was stated.
    pub fn of(&self, counted: Counted) -> Quota {
        self.0.get(counted as usize).copied().unwrap_or(Packed::NONE).quota()
    }

    /// States one, unless it was stated before.
    pub fn state(&mut self, counted: Counted, quota: Quota) {
        if let Some(place) = self.0.get_mut(counted as usize)
            && !place.quota().is_stated()
            && quota.is_stated()
        {
            *place = Packed::of(quota);
        }
    }

    /// The one that is spent for longest.
    pub fn spent(&self) -> Option<(Duration, Counted)> {
        Counted::ALL
            .into_iter()
            .filter_map(|counted| self.of(counted).spent_for(counted).map(|wait| (wait, counted)))
            .max_by_key(|(wait, _)| *wait)
    }
}

/// A family of headers for one unit: limit, remaining, reset.
struct Family {
    counted: Counted,
    source: Source,
    fields: [Field; 3],
}

const fn family(counted: Counted, source: Source, fields: [Field; 3]) -> Family {
    Family { counted, source, fields }
}

/// In order of precedence: what names its unit before what does not.
const FAMILIES: [Family; 9] = {
    use Counted::{InputTokens, OutputTokens, Requests, Tokens};
    use Field as F;
    let (open, usual) = (Source::OpenAi, Source::XRateLimit);
    [
        family(Requests, open, [F::OpenAiLimitRequests, F::OpenAiRemainingRequests, F::OpenAiResetRequests]),
        family(Tokens, open, [F::OpenAiLimitTokens, F::OpenAiRemainingTokens, F::OpenAiResetTokens]),
        family(Tokens, open, [F::UsageLimitTokens, F::UsageRemainingTokens, F::UsageResetTokens]),
        family(
            Requests,
            Source::Anthropic,
            [F::AnthropicLimitRequests, F::AnthropicRemainingRequests, F::AnthropicResetRequests],
        ),
        family(
            Tokens,
            Source::Anthropic,
            [F::AnthropicLimitTokens, F::AnthropicRemainingTokens, F::AnthropicResetTokens],
        ),
        family(
            InputTokens,
            Source::Anthropic,
            [F::AnthropicLimitInput, F::AnthropicRemainingInput, F::AnthropicResetInput],
        ),
        family(
            OutputTokens,
            Source::Anthropic,
            [F::AnthropicLimitOutput, F::AnthropicRemainingOutput, F::AnthropicResetOutput],
        ),
        family(Requests, Source::RateLimit, [F::OldLimit, F::OldRemaining, F::OldReset]),
        family(Requests, usual, [F::XLimit, F::XRemaining, F::XReset]),
    ]
};

/// Reads what is stated, after `quotas` that were stated already. `now`: when the answer was sent. Gives the source of
/// each unit.
pub(super) fn read(
    fields: &Fields<'_>,
    now: SystemTime,
    quotas: &mut Quotas,
    sources: &mut [Option<Source>; Counted::ALL.len()],
) {
    for Family { counted, source, fields: [limit, remaining, reset] } in FAMILIES {
        let read = |field| fields.text(field).and_then(values::count);
        let remaining = read(remaining);
        // A limit of 0 is none: it stands for "unknown" (Azure).
        let limit = read(limit).filter(|limit| *limit > 0);
        if limit.is_none() && remaining.is_none() {
            continue;
        }
        let text = fields.text(reset);
        let (reset, refill) = match source {
            // Durations to the full bucket, by both.
            Source::OpenAi => (text.and_then(values::go_duration), Refill::Evenly),
            Source::Anthropic => (text.and_then(values::instant).and_then(|at| values::until(at, now)), Refill::Evenly),
            _ => {
                let after = fields.text(Field::XResetAfter).filter(|_| source == Source::XRateLimit);
                let after = after.and_then(|text| values::span(text, 1.0));
                (after.or_else(|| text.and_then(|text| values::reset(text, now))), Refill::AtOnce)
            }
        };
        if let Some(place) = sources.get_mut(counted as usize)
            && !quotas.of(counted).is_stated()
        {
            *place = Some(source);
        }
        quotas.state(counted, Quota { limit, remaining, reset, refill });
    }
}

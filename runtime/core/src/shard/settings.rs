//! What the actors of a destination follow: its settings, checked and compiled.

#[cfg(doc)]
use super::Shard;
use crate::{
    budget::Budget,
    endpoint::{Compiled, EndpointSettings, MAX_ENDPOINTS},
    limit::{Limit, LimitError, LimitProblem, Unit},
    pace::Limits,
    queue::Bounds,
    time::Time,
};
use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Longest pause a header may ask for, unless stated.
pub const MAX_PAUSE: Duration = Duration::from_secs(600);
/// Longest pause that is believed where only a header speaks for it, unless stated.
pub const BELIEVED_PAUSE: Duration = Duration::from_secs(15);

/// What an operator does to a destination, until it is taken back or its time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Brake {
    /// Nothing.
    #[default]
    Off,
    /// Nothing leaves; calls wait, as far as their deadlines let them. [`Time::NEVER`]: until it is taken back.
    Paused {
        /// When it ends by itself.
        until: Time,
    },
    /// No further call is taken; those that wait leave as they would.
    Draining {
        /// When it ends by itself.
        until: Time,
    },
}

impl Brake {
    /// It, unless its time is over.
    pub(crate) fn at(self, now: Time) -> Brake {
        match self {
            Brake::Paused { until } | Brake::Draining { until } if until <= now => Brake::Off,
            brake => brake,
        }
    }

    /// Until when nothing leaves, where that is so.
    pub(crate) fn paused(self, now: Time) -> Option<Time> {
        match self {
            Brake::Paused { until } if now < until => Some(until),
            _ => None,
        }
    }

    /// Whether no further call is taken, and until when.
    pub(crate) fn draining(self, now: Time) -> Option<Time> {
        match self {
            Brake::Draining { until } if now < until => Some(until),
            _ => None,
        }
    }
}

/// The settings of a destination that its actors follow.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Limits per period.
    pub limits: Vec<Limit>,
    /// Attempts in flight at once; at least 1.
    pub max_concurrency: Option<u32>,
    /// Several equal ways to it; none: there is one, with nothing to say about it.
    pub endpoints: Vec<EndpointSettings>,
    /// Bounds of the queue.
    pub queue: Bounds,
    /// How much may be retried.
    pub retry_budget: Budget,
    /// Longest pause a header may ask for.
    pub max_pause: Duration,
    /// A pause for which only a header speaks is believed up to this; a longer one is tried before its end.
    pub believed_pause: Duration,
    /// What an operator does to it.
    pub brake: Brake,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            limits: Vec::new(),
            max_concurrency: None,
            endpoints: Vec::new(),
            queue: Bounds::default(),
            retry_budget: Budget::default(),
            max_pause: MAX_PAUSE,
            believed_pause: BELIEVED_PAUSE,
            brake: Brake::Off,
        }
    }
}

/// Settings checked and compiled, shared by all partitions of a destination. A different `Arc` given to
/// [`Shard::submit`] takes effect on the live actor at once, without losing its queue.
#[derive(Debug, Clone, Default)]
pub struct Config {
    pub(crate) limits: Limits,
    pub(crate) max_concurrency: Option<NonZeroU32>,
    pub(crate) endpoints: Box<[Compiled]>,
    pub(crate) queue: Bounds,
    pub(crate) retry_budget: Budget,
    pub(crate) max_pause: Duration,
    pub(crate) believed_pause: Duration,
    pub(crate) brake: Brake,
    /// Of two configurations the one that was made later has the greater one.
    pub(crate) generation: u64,
}

/// Of the configuration that is made next.
static GENERATION: AtomicU64 = AtomicU64::new(0);

impl Config {
    /// Whether the destination's limits are configured, so that nothing has to be found out. A limit in tokens alone says
    /// nothing about how many requests may leave.
    pub(crate) fn is_known(&self) -> bool {
        self.limits.iter().any(|limit| limit.unit == Unit::Requests) || self.max_concurrency.is_some()
    }

    pub(crate) fn endpoint(&self, index: u8) -> Option<&Compiled> {
        self.endpoints.get(usize::from(index))
    }

    /// Checks and compiles settings.
    ///
    /// # Errors
    /// The first field that is wrong, by name.
    pub fn new(settings: &Settings) -> Result<Config, LimitError> {
        let at_once = |max: Option<u32>, key: &str| match max.map(NonZeroU32::new) {
            None => Ok(None),
            Some(Some(max)) => Ok(Some(max)),
            Some(None) => Err(LimitError { key: key.into(), problem: LimitProblem::Zero }),
        };
        let (given, max) = (settings.endpoints.len(), MAX_ENDPOINTS);
        if given > max {
            return Err(LimitError { key: "endpoints".into(), problem: LimitProblem::TooMany { given, max } });
        }
        let Budget { share, hedges, .. } = settings.retry_budget;
        for (part, key) in [(share, "share"), (hedges, "hedges")] {
            if !part.is_finite() || part < 0.0 {
                return Err(LimitError { key: format!("retry_budget.{key}"), problem: LimitProblem::Negative });
            }
        }
        let endpoint = |(index, of): (usize, &EndpointSettings)| {
            let within = |error: LimitError| LimitError { key: format!("endpoints[{index}].{}", error.key), ..error };
            Ok(Compiled {
                id: of.id,
                weight: of.weight,
                home: of.home,
                limits: Limits::new(&of.limits).map_err(within)?,
                max_concurrency: at_once(of.max_concurrency, "max_concurrency").map_err(within)?,
            })
        };
        Ok(Config {
            limits: Limits::new(&settings.limits)?,
            max_concurrency: at_once(settings.max_concurrency, "max_concurrency")?,
            endpoints: settings.endpoints.iter().enumerate().map(endpoint).collect::<Result<_, _>>()?,
            queue: settings.queue,
            retry_budget: settings.retry_budget,
            max_pause: settings.max_pause,
            believed_pause: settings.believed_pause,
            brake: settings.brake,
            generation: GENERATION.fetch_add(1, Ordering::Relaxed),
        })
    }
}

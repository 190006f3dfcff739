//! What a fake upstream can be told, and how it is written on a command line.

use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};

use clap::{Args, FromArgMatches};
use tidegate_core::{Limit, Unit, units::Span};

/// Everything the fake upstream can be told.
#[derive(Args, Clone, Debug)]
pub struct MockOptions {
    /// Address to listen on. Port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9999")]
    pub listen: SocketAddr,
    /// Where randomness begins; the same seed gives the same faults
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// Open connections; more are closed at once
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    pub max_connections: usize,

    /// What it allows: 10/s, 500/m, 100/10s; a count with --limiter concurrency. None: everything
    #[arg(long, value_name = "QUOTA", help_heading = "Limits")]
    pub limit: Option<Quota>,
    /// How it counts: token-bucket, sliding-window, fixed-window, concurrency
    #[arg(long, value_name = "KIND", default_value = "token-bucket", value_enum, help_heading = "Limits")]
    #[arg(hide_possible_values = true)]
    pub limiter: LimiterKind,
    /// Size of the token bucket. None: the quota
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub burst: Option<u32>,
    /// What has a limit of its own: key (each API key), model, or both
    #[arg(long, value_name = "BY", value_enum, value_delimiter = ',', help_heading = "Limits")]
    #[arg(hide_possible_values = true)]
    pub split: Vec<SplitBy>,
    /// Refused requests use up the limit too
    #[arg(long, help_heading = "Limits")]
    pub count_refused: bool,
    /// Requests until the account is out of credit (429 insufficient_quota, for good)
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub credit: Option<u64>,
    /// What its headers tell: honest, retry-after (that only), no-retry-after, bare (nothing), short or long (a false
    /// Retry-After), lying (absurd ones by turns)
    #[arg(long, value_name = "MANNER", default_value = "honest", value_enum, help_heading = "Limits")]
    #[arg(hide_possible_values = true)]
    pub limits: Candour,

    /// Share of requests that stall before the head of the answer: 5%, 0.05
    #[arg(long, value_name = "SHARE", default_value = "0%", help_heading = "Faults")]
    pub slow: Share,
    /// How long a stalled request stalls
    #[arg(long, value_name = "DURATION", default_value = "2s", help_heading = "Faults")]
    pub slow_for: Span,
    /// Share of requests that are answered 500 (529 overloaded in Anthropic's dialect)
    #[arg(long, value_name = "SHARE", default_value = "0%", help_heading = "Faults")]
    pub fail: Share,
    /// Share of requests whose connection is closed without an answer
    #[arg(long, value_name = "SHARE", default_value = "0%", help_heading = "Faults")]
    pub drop: Share,
    /// Time every answer takes to its head
    #[arg(long, value_name = "DURATION", default_value = "0s", help_heading = "Faults")]
    pub latency: Span,
    /// Time between two chunks of a streamed answer
    #[arg(long, value_name = "DURATION", default_value = "0s", help_heading = "Faults")]
    pub chunk_delay: Span,
}

impl MockOptions {
    /// Options as they would be written on a command line, such as `["--limit", "10/s"]`; a free port unless one is
    /// named.
    ///
    /// # Errors
    /// When they would be refused there.
    pub fn from_args<'a>(args: impl IntoIterator<Item = &'a str>) -> Result<Self, clap::Error> {
        let command = Self::augment_args(clap::Command::new("mock-llm")).no_binary_name(true);
        let command = command.mut_arg("listen", |arg| arg.default_value("127.0.0.1:0"));
        let options = Self::from_arg_matches(&command.try_get_matches_from(args)?)?;
        options.check().map_err(|why| clap::Error::raw(clap::error::ErrorKind::ArgumentConflict, why))?;
        Ok(options)
    }

    /// Says which options don't go together.
    ///
    /// # Errors
    /// With a sentence about the first pair that does not.
    pub fn check(&self) -> Result<(), String> {
        if self.limit.is_none() && self.burst.is_some() {
            return Err("--burst needs --limit".into());
        }
        if self.burst.is_some() && self.limiter != LimiterKind::TokenBucket {
            return Err("--burst is the size of a token bucket: it goes with --limiter token-bucket only".into());
        }
        Ok(())
    }
}

/// How a limit is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LimiterKind {
    /// A bucket that refills evenly.
    TokenBucket,
    /// At most the quota in any period that ends now.
    SlidingWindow,
    /// At most the quota in each period on the clock.
    FixedWindow,
    /// At most so many in flight.
    Concurrency,
}

/// What has a limit of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SplitBy {
    /// Each API key.
    Key,
    /// Each model.
    Model,
}

/// What headers tell of the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Candour {
    /// Retry-After, retry-after-ms and x-ratelimit headers, all true
    #[value(alias = "truthful")]
    Honest,
    /// A true Retry-After and nothing else
    RetryAfter,
    /// True x-ratelimit headers, no Retry-After
    NoRetryAfter,
    /// Nothing but the status
    Bare,
    /// A Retry-After that is far too short
    Short,
    /// A Retry-After that is far too long
    Long,
    /// Too short, too long, absurd or no number at all, by turns
    #[value(alias = "dishonest")]
    Lying,
}

/// A number of requests in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Requests.
    pub count: u32,
    /// The period.
    pub per: Duration,
}

/// Largest quota: a sliding window remembers the time of each request in it.
const MAX_QUOTA: u32 = 1_000_000;

impl FromStr for Quota {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no limit: write it as 10/s, 500/m or 100/10s");
        let per_second = if text.contains('/') { "" } else { "/s" };
        let limit: Limit = format!("{text}{per_second}").parse().map_err(|_| wrong())?;
        if limit.unit != Unit::Requests || limit.burst.is_some() {
            return Err(wrong());
        }
        let count = u32::try_from(limit.quota).ok().filter(|count| *count <= MAX_QUOTA);
        let count = count.ok_or_else(|| format!("a limit is at most {MAX_QUOTA} requests in its period"))?;
        Ok(Self { count, per: limit.per.get() })
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} per {}", self.count, Span(self.per))
    }
}

/// A share of all requests, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(pub f64);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let share = match text.trim().strip_suffix('%') {
            Some(percent) => percent.trim().parse::<f64>().map(|percent| percent / 100.0),
            None => text.trim().parse::<f64>(),
        };
        match share {
            Ok(share) if (0.0..=1.0).contains(&share) => Ok(Self(share)),
            _ => Err(format!("`{text}` is no share: write it as 5% or 0.05, from 0 to 100%")),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0 * 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_read_as_people_write_them() {
        for (text, count, per_ms) in [
            ("10/s", 10, 1_000),
            ("500/m", 500, 60_000),
            ("100/10s", 100, 10_000),
            ("8", 8, 1_000),
            ("3/250ms", 3, 250),
        ] {
            let quota: Quota = text.parse().unwrap();
            assert_eq!((quota.count, quota.per), (count, Duration::from_millis(per_ms)), "{text}");
        }
        for text in ["", "0/s", "ten/s", "10/", "10/fortnight", "10/0s", "2000000/s"] {
            assert!(text.parse::<Quota>().is_err(), "{text}");
        }
    }

    #[test]
    fn shares_read_as_percent_or_as_fraction() {
        assert_eq!("5%".parse(), Ok(Share(0.05)));
        assert_eq!("0.25".parse(), Ok(Share(0.25)));
        for text in ["101%", "-1%", "many", "1.5", "NaN"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_burst_without_a_bucket_is_refused() {
        assert!(MockOptions::from_args(["--burst", "3"]).is_err());
        assert!(MockOptions::from_args(["--limit", "10/s", "--burst", "3", "--limiter", "fixed-window"]).is_err());
        assert!(MockOptions::from_args(["--limit", "10/s", "--burst", "3"]).is_ok());
    }
}

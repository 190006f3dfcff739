//! One line of the node's own log for each outbound call, within a rate: who reads the log must not be drowned, and the
//! calls must not be slowed down.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use prometheus_client::metrics::counter::Counter;

use super::note::Came;
use crate::settings::names;

/// Which calls have a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum CallLog {
    /// None.
    Off,
    /// Those that were refused, failed or were given up.
    Failures,
    /// All.
    #[default]
    All,
}

/// Says of each call whether it has a line.
#[derive(Debug)]
pub struct CallLines {
    which: CallLog,
    /// Lines a second (setting `call_log_rate`): so many of calls that failed, and so many of others.
    rate: u32,
    began: Instant,
    failures: Window,
    others: Window,
    /// Lines that were cut.
    pub(super) cut: Counter,
}

/// The lines of a second.
#[derive(Debug, Default)]
struct Window {
    /// Number of the second in the upper half, its lines in the lower one.
    taken: AtomicU64,
    /// Cut since it was told.
    cut: AtomicU64,
}

impl Window {
    /// Whether there is room for another in this second.
    fn take(&self, second: u64, rate: u32) -> bool {
        let taken = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
            let (at, count) = (taken >> 32, taken & u64::from(u32::MAX));
            match second {
                second if second > at => (rate > 0).then_some((second << 32) | 1),
                // A thread that is late counts in the second of the others.
                _ => (count < u64::from(rate)).then_some(taken + 1),
            }
        });
        if taken.is_err() {
            self.cut.fetch_add(1, Ordering::Relaxed);
        }
        taken.is_ok()
    }
}

/// What a line says.
#[derive(Debug)]
pub struct LoggedCall<'a> {
    /// Whose it is.
    pub tenant: &'a str,
    /// Function that sent it; nothing for a program at `/to`.
    pub function: Option<&'a str>,
    /// Configured name, or origin.
    pub destination: &'a str,
    /// The endpoint of the last attempt, where the destination has any.
    pub endpoint: Option<&'a str>,
    /// Method.
    pub method: &'a str,
    /// Path without query.
    pub path: &'a str,
    /// The trail that tells more.
    pub trace: crate::ids::TraceId,
    /// Words by which its sender finds it again.
    pub tags: Option<&'a str>,
    /// What it came to.
    pub came: Came,
    /// Since it entered the door, milliseconds.
    pub took_ms: f64,
    /// Of that, in queues and pauses.
    pub waited_ms: f64,
    /// Attempts.
    pub attempts: u32,
    /// Why, where there is more to say.
    pub remark: Option<&'a str>,
}

impl CallLog {
    /// Whether a call that came to this has a line.
    pub fn wants(self, came: Came) -> bool {
        match self {
            Self::Off => false,
            Self::Failures => is_failure(came),
            Self::All => true,
        }
    }
}

fn is_failure(came: Came) -> bool {
    came.is_refusal() || came.is_failure() || came == Came::GivenUp
}

impl CallLines {
    /// Lines for these calls, at most so many a second.
    pub fn new(which: CallLog, rate: u32, cut: Counter) -> Self {
        let (failures, others) = Default::default();
        Self { which, rate, began: Instant::now(), failures, others, cut }
    }

    /// Whether a call that came to this now has a line. What is cut is counted.
    pub fn takes(&self, came: Came, now: Instant) -> bool {
        if !self.which.wants(came) || !is_seen(came) {
            return false;
        }
        let window = if is_failure(came) { &self.failures } else { &self.others };
        // The first second is number 1: none is 0.
        window.take(now.saturating_duration_since(self.began).as_secs() + 1, self.rate)
    }

    /// Tells how many lines were cut since this was asked last, if any were.
    pub fn tell_cut(&self) {
        let [failures, others] = [&self.failures, &self.others].map(|window| window.cut.swap(0, Ordering::Relaxed));
        if failures + others > 0 {
            self.cut.inc_by(failures + others);
            tracing::warn!(
                target: "tidegate::call",
                failures,
                others,
                limit = self.rate,
                setting = names::CALL_LOG_RATE,
                "calls without a line: there were more than the limit a second",
            );
        }
    }
}

/// Whether anybody takes such a line.
fn is_seen(came: Came) -> bool {
    match is_failure(came) {
        true => tracing::enabled!(target: "tidegate::call", tracing::Level::WARN),
        false => tracing::enabled!(target: "tidegate::call", tracing::Level::INFO),
    }
}

impl LoggedCall<'_> {
    /// Writes the line: failures as warnings, all others as information.
    pub fn write(&self) {
        let status = match self.came {
            Came::Answer(status) | Came::Refused(status) => Some(status),
            Came::Failed | Came::GivenUp => None,
        };
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    target: "tidegate::call",
                    tenant = self.tenant,
                    function = self.function,
                    destination = self.destination,
                    endpoint = self.endpoint,
                    method = self.method,
                    path = self.path,
                    status,
                    took_ms = self.took_ms,
                    waited_ms = self.waited_ms,
                    attempts = self.attempts,
                    trace = %self.trace,
                    tags = self.tags,
                    remark = self.remark,
                    "call {}", self.came
                )
            };
        }
        if is_failure(self.came) { line!(warn) } else { line!(info) }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::Arc,
        time::Duration,
    };

    use parking_lot::Mutex;

    use super::*;
    use crate::ids::TraceId;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The objects that this writes.
    fn logged(write: impl FnOnce()) -> Vec<serde_json::Value> {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(log, write);
        let text = lines.0.lock();
        serde_json::Deserializer::from_slice(&text).into_iter().map(Result::unwrap).collect()
    }

    #[test]
    fn which_calls_have_a_line_is_a_setting() {
        for (came, failures) in [
            (Came::Answer(200), false),
            (Came::Answer(404), false),
            (Came::Answer(429), true),
            (Came::Answer(503), true),
            (Came::Refused(403), true),
            (Came::Failed, true),
            (Came::GivenUp, true),
        ] {
            assert!(!CallLog::Off.wants(came) && CallLog::All.wants(came));
            assert_eq!(CallLog::Failures.wants(came), failures, "{came:?}");
        }
    }

    #[test]
    fn a_line_is_an_object_with_a_field_for_each_thing_that_is_asked_for() {
        let call = LoggedCall {
            tenant: "default",
            function: Some("agent"),
            destination: "openai",
            endpoint: None,
            method: "POST",
            path: "/v1/chat/completions",
            trace: TraceId(0xab),
            tags: Some("thread-42"),
            came: Came::Refused(429),
            took_ms: 3.5,
            waited_ms: 0.0,
            attempts: 0,
            remark: Some("deadline-unreachable"),
        };
        let lines = logged(|| call.write());
        let line = &lines[0];
        assert_eq!((&line["level"], &line["target"]), (&"WARN".into(), &"tidegate::call".into()));
        let fields = &line["fields"];
        assert_eq!(fields["message"], "call refused by the gate with 429");
        assert_eq!((&fields["destination"], &fields["status"]), (&"openai".into(), &429.into()));
        assert_eq!((&fields["took_ms"], &fields["function"]), (&3.5.into(), &"agent".into()));
        assert_eq!((&fields["tenant"], &fields["tags"]), (&"default".into(), &"thread-42".into()));
        assert_eq!(fields["trace"], "000000000000000000000000000000ab");
        assert_eq!(fields.get("endpoint"), None, "what is not there is not said");
    }

    #[test]
    fn what_is_beyond_the_rate_is_cut_and_told_and_good_calls_hide_no_failures() {
        let mut taken = Vec::new();
        let lines = logged(|| {
            let calls = CallLines::new(CallLog::All, 2, Counter::default());
            let (first, second) = (calls.began, calls.began + Duration::from_secs(1));
            for now in [first, second, first] {
                let count = |came| (0..5).filter(|_| calls.takes(came, now)).count();
                taken.push((count(Came::Answer(200)), count(Came::Failed)));
            }
            calls.tell_cut();
            calls.tell_cut();
            assert_eq!(calls.cut.get(), 22);
        });
        assert_eq!(taken, [(2, 2), (2, 2), (0, 0)], "a late thread has no second of its own");
        assert_eq!(lines.len(), 1, "it is told once");
        let fields = &lines[0]["fields"];
        assert_eq!((&fields["failures"], &fields["others"]), (&11.into(), &11.into()));
        assert_eq!(fields["setting"], "call_log_rate");
    }
}

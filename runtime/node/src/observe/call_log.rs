//! One line of the node's own log for each outbound call, where somebody asks for it.

use super::note::Came;

/// Which calls have a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum CallLog {
    /// None.
    #[default]
    Off,
    /// Those that were refused, failed or were given up.
    Failures,
    /// All.
    All,
}

/// What a line says.
#[derive(Debug)]
pub struct LoggedCall<'a> {
    /// Configured name, or origin.
    pub destination: &'a str,
    /// Method.
    pub method: &'a str,
    /// Path without query.
    pub path: &'a str,
    /// Function that sent it; empty for a program at `/to`.
    pub function: &'a str,
    /// The trail that tells more.
    pub trace: crate::ids::TraceId,
    /// What it came to.
    pub came: Came,
    /// Since it entered the door, milliseconds.
    pub took_ms: f64,
    /// Of that, in queues and pauses.
    pub waited_ms: f64,
    /// Attempts.
    pub attempts: u32,
    /// Why, where there is more to say.
    pub remark: &'a str,
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

impl LoggedCall<'_> {
    /// Writes the line: failures as warnings, all others as information.
    pub fn write(&self) {
        let status = match self.came {
            Came::Answer(status) | Came::Refused(status) => status,
            Came::Failed | Came::GivenUp => 0,
        };
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    target: "tidegate::call",
                    destination = self.destination,
                    method = self.method,
                    path = self.path,
                    function = self.function,
                    status,
                    took_ms = self.took_ms,
                    waited_ms = self.waited_ms,
                    attempts = self.attempts,
                    trace = %self.trace,
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
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
        let call = LoggedCall {
            destination: "openai",
            method: "POST",
            path: "/v1/chat/completions",
            function: "agent",
            trace: TraceId(0xab),
            came: Came::Refused(429),
            took_ms: 3.5,
            waited_ms: 0.0,
            attempts: 0,
            remark: "deadline-unreachable",
        };
        tracing::subscriber::with_default(log, || call.write());
        let line: serde_json::Value = serde_json::from_slice(&lines.0.lock()).unwrap();
        assert_eq!((&line["level"], &line["target"]), (&"WARN".into(), &"tidegate::call".into()));
        let fields = &line["fields"];
        assert_eq!(fields["message"], "call refused by the gate with 429");
        assert_eq!((&fields["destination"], &fields["status"]), (&"openai".into(), &429.into()));
        assert_eq!((&fields["took_ms"], &fields["function"]), (&3.5.into(), &"agent".into()));
        assert_eq!(fields["trace"], "000000000000000000000000000000ab");
    }
}

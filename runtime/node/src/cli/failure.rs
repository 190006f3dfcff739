//! How a command ends: exit codes, and errors that say what happened and what to do next.

use std::{fmt::Write as _, io::Write as _, process::ExitCode};

use anstyle::{AnsiColor, Style};
use http::StatusCode;
use serde_json::{Value, json};

/// How a command ended. The numbers are stable and documented in `--help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// It did what it was asked.
    Ok,
    /// The server refused or failed, or something here did.
    Failed,
    /// The command line, a file named on it or a variable makes no sense.
    Usage,
    /// No connection.
    Unreachable,
    /// No token, or one that may not do this.
    Unauthorised,
    /// What it speaks of is not there.
    NotFound,
    /// Ctrl-C.
    Interrupted,
    /// The code of a child process, passed on.
    Child(u8),
}

/// The table of exit codes, for `--help`.
pub(super) const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no connection, 4 not authorised, 5 not found, 130 interrupted";

impl Exit {
    /// The number.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Unauthorised => 4,
            Self::NotFound => 5,
            Self::Interrupted => 130,
            Self::Child(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command did not do what it was asked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Failure {
    /// How the program ends.
    pub(super) exit: Exit,
    /// One sentence: what happened. Empty: nothing is printed.
    pub(super) what: String,
    /// What to do next.
    pub(super) next: Option<String>,
    /// The server's problem, as it came.
    pub(super) problem: Option<Box<Value>>,
}

impl Failure {
    /// A failure with its sentence.
    pub(super) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), next: None, problem: None }
    }

    /// A failure that is nobody's news, such as a closed pipe.
    pub(super) fn silent(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    /// Says what to do next.
    pub(super) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// What a server's refusal means for the person who asked for `doing`.
    pub(super) fn from_answer(status: StatusCode, body: &[u8], doing: &str) -> Self {
        let exit = match status.as_u16() {
            401 | 403 => Exit::Unauthorised,
            404 | 410 => Exit::NotFound,
            _ => Exit::Failed,
        };
        let problem = serde_json::from_slice::<Value>(body).ok().filter(Value::is_object).map(Box::new);
        let text = |key: &str| problem.as_ref().and_then(|problem| problem.get(key)).and_then(Value::as_str);
        let what = match (text("title"), text("detail")) {
            (Some(title), Some(detail)) if !detail.is_empty() => {
                format!("{doing}: {}: {detail}", title.trim_end_matches('.'))
            }
            (Some(only), _) | (None, Some(only)) => format!("{doing}: {only}"),
            (None, None) => {
                let text = String::from_utf8_lossy(body);
                let text: String = text.trim().chars().take(200).collect();
                let text = if text.is_empty() { String::new() } else { format!(": {text}") };
                format!("{doing}: the server answered {status}{text}")
            }
        };
        let next = match status.as_u16() {
            401 => Some("give a token with --token, TIDEGATE_TOKEN or `tidegate login`"),
            403 => {
                Some("this token's scopes do not cover it; `tidegate tokens create --scope ...` makes one that does")
            }
            _ => None,
        };
        Self { exit, what, next: next.map(str::to_owned), problem }
    }

    /// The HTTP status that the server's problem names.
    pub(super) fn problem_status(&self) -> Option<u64> {
        self.problem.as_ref()?.get("status")?.as_u64()
    }

    /// The lines for a person, without colours.
    fn text(&self) -> String {
        let mut text = self.what.clone();
        for key in ["limit", "value", "setting", "trail"] {
            match self.problem.as_ref().and_then(|problem| problem.get(key)) {
                Some(Value::String(value)) => {
                    let _ = write!(text, "\n  {key:<8} {value}");
                }
                Some(value) if !value.is_null() => {
                    let _ = write!(text, "\n  {key:<8} {value}");
                }
                _ => {}
            }
        }
        if let Some(next) = &self.next {
            let _ = write!(text, "\n  {:<8} {next}", "next");
        }
        text
    }

    /// The object for a program.
    fn json(&self) -> Value {
        json!({"error": {"exit": self.exit.code(), "what": self.what, "next": self.next, "problem": self.problem}})
    }

    /// Prints it on stderr, as JSON where the command was asked for JSON.
    pub(super) fn print(&self, as_json: bool) {
        if self.what.is_empty() {
            return;
        }
        let mut stderr = anstream::stderr().lock();
        // Nobody is left to tell when stderr itself is closed.
        let _ = if as_json {
            writeln!(stderr, "{}", self.json())
        } else {
            let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
            writeln!(stderr, "{red}error:{red:#} {}", self.text())
        };
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            // The reader of our output has seen enough.
            std::io::ErrorKind::BrokenPipe => Self::silent(Exit::Ok),
            _ => Self::new(Exit::Failed, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_its_limit_value_and_setting() {
        let body = br#"{"type":"/problems/too-large","title":"The module is too large","status":413,
            "detail":"It has 200 MiB.","limit":"module size","value":"128MiB","setting":"max_module"}"#;
        let failure = Failure::from_answer(StatusCode::PAYLOAD_TOO_LARGE, body, "deploying `a`");
        assert_eq!(failure.exit, Exit::Failed);
        assert_eq!(
            failure.text(),
            "deploying `a`: The module is too large: It has 200 MiB.\n  limit    module size\n  value    128MiB\n  \
             setting  max_module"
        );
        assert_eq!(failure.json()["error"]["problem"]["setting"], "max_module");
    }

    #[test]
    fn each_kind_of_refusal_has_its_code() {
        let exit = |status: u16| Failure::from_answer(StatusCode::from_u16(status).unwrap(), b"no", "x").exit.code();
        assert_eq!([401, 403, 404, 400, 422, 500].map(exit), [4, 4, 5, 1, 1, 1]);
    }
}

//! What is asked for on a terminal without being shown, or read from stdin.

use std::io::{IsTerminal as _, Read as _, Write as _};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::failure::{Exit, Failure};

/// Bytes that are read of stdin (no setting: no token and no secret is as long).
const LONGEST: u64 = 64 << 10;

/// Asks for a line on a terminal, without showing it, or takes all of stdin; without the end of the line.
pub(super) fn hidden(what: &str) -> Result<String, Failure> {
    let stdin = std::io::stdin();
    let mut text = String::new();
    if !stdin.is_terminal() {
        stdin.take(LONGEST).read_to_string(&mut text)?;
        return Ok(without_end(text));
    }
    write!(std::io::stderr(), "{what} (not shown): ")?;
    let before = tcgetattr(&stdin).map_err(std::io::Error::from)?;
    let mut quiet = before.clone();
    quiet.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Flush, &quiet).map_err(std::io::Error::from)?;
    let read = stdin.read_line(&mut text);
    // Whatever was read, the terminal must echo again.
    tcsetattr(&stdin, OptionalActions::Flush, &before).map_err(std::io::Error::from)?;
    writeln!(std::io::stderr())?;
    read?;
    Ok(without_end(text))
}

/// The value of a variable.
pub(super) fn variable(name: &str) -> Result<String, Failure> {
    std::env::var(name).map(without_end).map_err(|error| {
        let why = match error {
            std::env::VarError::NotPresent => "is not set",
            std::env::VarError::NotUnicode(_) => "is no text",
        };
        Failure::new(Exit::Usage, format!("the variable {name} {why}"))
    })
}

fn without_end(mut text: String) -> String {
    while text.ends_with(['\n', '\r']) {
        text.pop();
    }
    text
}

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
    // Byte by byte: a terminal that collects lines cuts them at 4,096 bytes, and signals would find the echo off.
    quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
    tcsetattr(&stdin, OptionalActions::Flush, &quiet).map_err(std::io::Error::from)?;
    let read = line(stdin.lock().bytes());
    // Whatever was read, the terminal must echo again.
    tcsetattr(&stdin, OptionalActions::Flush, &before).map_err(std::io::Error::from)?;
    writeln!(std::io::stderr())?;
    read
}

/// A line as a terminal gives it byte by byte.
fn line(typed: impl Iterator<Item = std::io::Result<u8>>) -> Result<String, Failure> {
    const INTERRUPT: u8 = 3;
    const END: u8 = 4;
    let mut bytes = Vec::new();
    for byte in typed {
        match byte? {
            INTERRUPT => return Err(Failure::silent(Exit::Interrupted)),
            END | b'\r' | b'\n' => break,
            8 | 127 => drop(bytes.pop()),
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).map_err(|_| Failure::new(Exit::Usage, "what was typed is no text"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_what_was_typed_before_its_end_and_an_interrupt_ends_the_command() {
        let typed = |text: &str| line(text.bytes().map(Ok)).map_err(|failure| failure.exit);
        assert_eq!(typed("sk-1\nrest"), Ok("sk-1".to_owned()));
        assert_eq!(typed("sk-12\u{7f}\r"), Ok("sk-1".to_owned()));
        assert_eq!(typed("sk-1"), Ok("sk-1".to_owned()));
        assert_eq!(typed("\u{4}"), Ok(String::new()));
        assert_eq!(typed("sk-1\u{3}\n"), Err(Exit::Interrupted));
    }
}

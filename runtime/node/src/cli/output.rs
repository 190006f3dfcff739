//! What goes to stdout: tables for people, JSON for programs.

use std::io::Write;

use anstyle::{AnsiColor, Style};
use serde_json::Value;

use super::failure::Failure;

/// Where results go, and in which form.
#[derive(Clone, Copy, Debug)]
pub(super) struct Out {
    json: bool,
}

/// One cell of a table.
pub(super) struct Cell {
    text: String,
    style: Style,
}

/// Colours, by meaning.
pub(super) mod paint {
    use super::{AnsiColor, Style};

    /// What went well.
    pub(in super::super) const GOOD: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Green)));
    /// What deserves a look.
    pub(in super::super) const WARN: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Yellow)));
    /// What went wrong.
    pub(in super::super) const BAD: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Red)));
    /// What matters less.
    pub(in super::super) const DIM: Style = Style::new().dimmed();
    /// What matters most.
    pub(in super::super) const BOLD: Style = Style::new().bold();
}

impl Cell {
    /// A cell in a style.
    pub(super) fn styled(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), style: Style::new() }
    }
}

impl Out {
    /// Output as JSON or for people.
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether JSON was asked for.
    pub(super) fn is_json(self) -> bool {
        self.json
    }

    /// One line. May hold styles; they are dropped where stdout is no terminal or `NO_COLOR` is set.
    pub(super) fn line(self, text: impl std::fmt::Display) -> Result<(), Failure> {
        let mut stdout = anstream::stdout().lock();
        writeln!(stdout, "{text}")?;
        Ok(stdout.flush()?)
    }

    /// Lines, written at once.
    pub(super) fn lines(self, lines: impl Iterator<Item = String>) -> Result<(), Failure> {
        let mut text = String::new();
        for line in lines {
            text.push_str(&line);
            text.push('\n');
        }
        let mut stdout = anstream::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        Ok(stdout.flush()?)
    }

    /// One JSON value on a line of its own.
    pub(super) fn value(self, value: &Value) -> Result<(), Failure> {
        self.line(value)
    }

    /// A table with its head.
    pub(super) fn table(self, head: &[&str], rows: &[Vec<Cell>]) -> Result<(), Failure> {
        let mut stdout = anstream::stdout().lock();
        stdout.write_all(layout(head, rows).as_bytes())?;
        Ok(stdout.flush()?)
    }
}

/// Columns of the terminal; of something else what `COLUMNS` says, or enough for a sentence.
pub(super) fn width() -> usize {
    let of_terminal = rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| usize::from(size.ws_col));
    let stated = || std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    of_terminal.filter(|columns| *columns > 0).or_else(stated).unwrap_or(120)
}

/// A note on stderr, not part of the result.
pub(super) fn note(text: impl std::fmt::Display) {
    // A closed stderr is nobody's loss.
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}

/// Columns as wide as their widest cell, two spaces between them.
fn layout(head: &[&str], rows: &[Vec<Cell>]) -> String {
    let head: Vec<Cell> = head.iter().map(|text| Cell::styled(text.to_uppercase(), paint::DIM)).collect();
    let width = |column: usize| {
        let cells = std::iter::once(&head).chain(rows).filter_map(|row| row.get(column));
        cells.map(|cell| cell.text.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for row in std::iter::once(&head).chain(rows) {
        for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let style = cell.style;
            let last = index + 1 == row.len();
            // No spaces at the end of a line: they would wrap on narrow terminals.
            let padding = if last { 0 } else { width - cell.text.chars().count() + 2 };
            text.push_str(&format!("{style}{}{style:#}{:padding$}", cell.text, ""));
        }
        text.push('\n');
    }
    text
}

/// Milliseconds since 1970 as a time ago, such as `3 min ago`.
pub(super) fn ago(then_ms: u64, now_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(then_ms) / 1_000;
    match seconds {
        0..=1 => "now".to_owned(),
        2..=89 => format!("{seconds} s ago"),
        90..=5_399 => format!("{} min ago", (seconds + 30) / 60),
        5_400..=172_799 => format!("{} h ago", (seconds + 1_800) / 3_600),
        _ => format!("{} days ago", (seconds + 43_200) / 86_400),
    }
}

/// Milliseconds as a person reads them: `812 ms`, `1.2 s`, `3 min 5 s`.
pub(super) fn millis(ms: u64) -> String {
    match ms {
        0..=999 => format!("{ms} ms"),
        1_000..=9_949 => format!("{:.1} s", ms as f64 / 1e3),
        9_950..=119_999 => format!("{} s", (ms + 500) / 1_000),
        _ => format!("{} min {} s", ms / 60_000, ms / 1_000 % 60),
    }
}

/// Bytes as a person reads them.
pub(super) fn bytes(count: u64) -> String {
    match count {
        0..=1_023 => format!("{count} B"),
        1_024..=1_048_575 => format!("{:.1} KiB", count as f64 / 1_024.0),
        _ => format!("{:.1} MiB", count as f64 / 1_048_576.0),
    }
}

/// Now, milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_tail() {
        let rows = vec![vec![Cell::from("agent"), "3".into()], vec!["a-longer-name".into(), "12".into()]];
        let text = anstream::adapter::strip_str(&layout(&["name", "version"], &rows)).to_string();
        assert_eq!(text, "NAME           VERSION\nagent          3\na-longer-name  12\n");
    }

    #[test]
    fn times_read_as_a_person_says_them() {
        assert_eq!(ago(0, 45_000), "45 s ago");
        assert_eq!(ago(0, 180_000), "3 min ago");
        assert_eq!([812, 1_234, 12_400, 185_000].map(millis), ["812 ms", "1.2 s", "12 s", "3 min 5 s"]);
        assert_eq!([10, 2_048, 13 << 20].map(bytes), ["10 B", "2.0 KiB", "13.0 MiB"]);
    }
}

//! The picture of `top`, and its tables where there is no terminal.

use std::time::Instant;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Cell, Paragraph, Row, Table},
};
use serde_json::Value;

use super::{
    super::{
        failure::Failure,
        lines,
        output::{self, Out, millis},
    },
    model::{DestinationRow, FunctionRow, Model},
};

const HEAD: Style = Style::new().add_modifier(Modifier::DIM);
const GOOD: Style = Style::new().fg(Color::Green);
const WARN: Style = Style::new().fg(Color::Yellow);
const BAD: Style = Style::new().fg(Color::Red);

/// Functions that are shown while there are other things to show.
const FUNCTIONS: usize = 8;
/// Lines that calls have at least where the terminal has them.
const CALLS: u16 = 6;

/// A column: its head, its width, the narrowest terminal that has it, and its share of what is left (then it has no width of
/// its own).
struct Column<R> {
    head: &'static str,
    width: u16,
    from: u16,
    grows: u16,
    cell: fn(&R) -> (String, Style),
}

fn plain(text: impl ToString) -> (String, Style) {
    (text.to_string(), Style::new())
}

/// A rate in at most six characters.
fn rate(per_second: f64) -> String {
    match per_second {
        ..0.05 => "-".to_owned(),
        ..99.95 => format!("{per_second:.1}"),
        ..99_999.5 => format!("{per_second:.0}"),
        _ => format!("{:.0}k", per_second / 1e3),
    }
}

/// The same, in a colour where it is not nothing.
fn alarming(per_second: f64, style: Style) -> (String, Style) {
    let style = if per_second >= 0.05 { style } else { Style::new() };
    (rate(per_second), style)
}

fn wait(ms: Option<u64>) -> (String, Style) {
    match ms {
        None => plain("-"),
        Some(ms) => (millis(ms), if ms >= 1_000 { WARN } else { Style::new() }),
    }
}

const DESTINATIONS: [Column<DestinationRow>; 10] = [
    Column { head: "destination", width: 20, from: 0, grows: 2, cell: |row| (row.name.clone(), bold()) },
    Column {
        head: "state",
        width: 14,
        from: 60,
        grows: 3,
        cell: |row| (row.state.clone(), if row.paused { WARN } else { GOOD }),
    },
    Column { head: "pace", width: 16, from: 130, grows: 2, cell: |row| plain(&row.pace) },
    Column { head: "queued", width: 7, from: 0, grows: 0, cell: |row| plain(row.queued) },
    Column { head: "flying", width: 6, from: 72, grows: 0, cell: |row| plain(row.in_flight) },
    Column { head: "calls/s", width: 7, from: 0, grows: 0, cell: |row| plain(rate(row.rates[0])) },
    Column { head: "wait p50", width: 8, from: 96, grows: 0, cell: |row| wait(row.waits.map(|(median, _)| median)) },
    Column { head: "p99", width: 8, from: 48, grows: 0, cell: |row| wait(row.waits.map(|(_, worst)| worst)) },
    Column { head: "refused", width: 7, from: 40, grows: 0, cell: |row| alarming(row.rates[1], WARN) },
    Column { head: "failed", width: 7, from: 60, grows: 0, cell: |row| alarming(row.rates[2], BAD) },
];

const OF_FUNCTIONS: [Column<FunctionRow>; 6] = [
    Column {
        head: "function",
        width: 20,
        from: 0,
        grows: 1,
        cell: |row| match row.version {
            Some(version) => (format!("{}@{version}", row.name), bold()),
            None => (row.name.clone(), bold()),
        },
    },
    Column { head: "running", width: 7, from: 0, grows: 0, cell: |row| plain(row.in_flight) },
    Column { head: "instances", width: 9, from: 48, grows: 0, cell: |row| plain(row.instances) },
    Column { head: "calls/s", width: 7, from: 0, grows: 0, cell: |row| plain(rate(row.rate)) },
    Column {
        head: "mean",
        width: 8,
        from: 40,
        grows: 0,
        cell: |row| plain(row.mean_ms.map_or("-".to_owned(), |ms| millis(ms as u64))),
    },
    Column { head: "failed", width: 7, from: 40, grows: 0, cell: |row| alarming(row.failed, BAD) },
];

const fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, now: Instant) {
    let functions = model.functions();
    let shown = functions.len().min(FUNCTIONS);
    let of_functions = if shown == 0 { 0 } else { shown as u16 + 2 };
    let area = frame.area();
    let of_calls = CALLS.min(area.height / 3);
    let [head, destinations, function_area, calls] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(of_functions.min(area.height / 3)),
        Constraint::Length(of_calls),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(title(model)), head);
    table(frame, destinations, &DESTINATIONS, &model.destinations(now));
    table(frame, function_area, &OF_FUNCTIONS, &functions);
    let lines: Vec<_> = model.newest().take(usize::from(calls.height)).map(call).collect();
    frame.render_widget(Paragraph::new(lines), calls);
}

fn title(model: &Model) -> Line<'_> {
    if let Some(wrong) = model.what_is_wrong() {
        return Line::from(vec![Span::styled("tidegate  ", bold()), Span::styled(clean(wrong), BAD)]);
    }
    let sorted = format!("by {}", model.sort().name());
    let keys = "  q quit  sort: n name, c calls, u queue, w wait, r refusals  p pause";
    Line::from(vec![Span::styled("tidegate  ", bold()), Span::raw(sorted), Span::styled(keys, HEAD)])
}

fn table<R>(frame: &mut Frame<'_>, area: Rect, columns: &[Column<R>], rows: &[R]) {
    let columns: Vec<_> = columns.iter().filter(|column| column.from <= area.width).collect();
    let head = columns.iter().map(|column| Cell::from(column.head.to_uppercase())).collect::<Row<'_>>().style(HEAD);
    let widths = columns.iter().map(|column| match column.grows {
        0 => Constraint::Length(column.width),
        share => Constraint::Fill(share),
    });
    let row = |row: &R| {
        let cell = |column: &&Column<R>| {
            let (text, style) = (column.cell)(row);
            Cell::from(Span::styled(clean(&text), style))
        };
        columns.iter().map(cell).collect::<Row<'_>>()
    };
    let shown = usize::from(area.height.saturating_sub(1));
    frame.render_widget(Table::new(rows.iter().take(shown).map(row), widths).header(head), area);
}

fn call(call: &Value) -> Line<'static> {
    let style = match call.get("status").and_then(Value::as_u64) {
        Some(100..=399) => GOOD,
        Some(400..=499) => WARN,
        _ => BAD,
    };
    let text = lines::from_event("call", call).unwrap_or_default();
    let text = clean(&anstream::adapter::strip_str(&text).to_string());
    match text.split_once(' ') {
        Some((status, rest)) => Line::from(vec![Span::styled(status.to_owned(), style), Span::raw(format!(" {rest}"))]),
        None => Line::from(text),
    }
}

/// Text from outside must not move the cursor.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The same as tables, for what is no terminal.
pub(super) fn print(out: Out, model: &Model, now: Instant) -> Result<(), Failure> {
    fn of<R>(out: Out, columns: &[Column<R>], rows: &[R]) -> Result<(), Failure> {
        let head: Vec<_> = columns.iter().map(|column| column.head).collect();
        let row = |row: &R| columns.iter().map(|column| output::Cell::from(clean(&(column.cell)(row).0))).collect();
        out.table(&head, &rows.iter().map(row).collect::<Vec<_>>())
    }
    of(out, &DESTINATIONS, &model.destinations(now))?;
    let functions = model.functions();
    if functions.is_empty() { Ok(()) } else { of(out, &OF_FUNCTIONS, &functions) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::{Terminal, backend::TestBackend};
    use serde_json::json;

    use super::{
        super::model::{
            Sort,
            tests::{call, destination, function},
        },
        *,
    };

    fn model() -> (Model, Instant) {
        let (mut model, began) = (Model::new(Sort::Calls), Instant::now());
        let later = began + Duration::from_secs(1);
        let mut paused = destination("anthropic", 0, 30, 12);
        paused["partitions"][0]["paused"] = json!({"left_ms": 9_000.0, "why": "for 9s by Retry-After of a 429"});
        model.sample(
            began,
            &[destination("openai", 0, 0, 0), destination("anthropic", 0, 0, 0)],
            &[function("agent", 0, 0.0)],
        );
        model.sample(later, &[destination("openai", 100, 0, 0), paused], &[function("agent", 8, 4.0)]);
        model.call(later, call("openai", 0));
        model.call(later, call("anthropic", 2_400));
        (model, later)
    }

    /// The picture of a terminal of this size, line by line.
    fn picture(model: &Model, now: Instant, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, model, now)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(line).collect()
    }

    #[test]
    fn a_wide_picture_has_destinations_functions_and_the_newest_calls() {
        let (model, now) = model();
        let lines = picture(&model, now, 140, 20);
        let shown = lines.join("\n");
        assert!(lines[0].starts_with("tidegate  by calls"), "{shown}");
        assert!(
            lines[1].starts_with("DESTINATION") && lines[1].contains("PACE") && lines[1].contains("WAIT P50"),
            "{shown}"
        );
        assert!(
            lines[2].starts_with("openai") && lines[2].contains("100") && lines[2].contains("10/1s requests"),
            "{shown}"
        );
        assert!(lines[3].starts_with("anthropic") && lines[3].contains("paused for 9s by Retry-After"), "{shown}");
        assert!(lines[3].contains("30.0") && lines[3].contains("2.4 s"), "{shown}");
        let function = lines.iter().find(|line| line.starts_with("agent@3")).expect(&shown);
        assert!(function.contains("8.0") && function.contains("500 ms"), "{shown}");
        let newest = lines.iter().position(|line| line.contains("waited 2.4 s")).expect(&shown);
        assert!(lines[newest + 1].starts_with("200 GET api.test/v1 812 ms"), "the newest comes first\n{shown}");
    }

    #[test]
    fn small_terminals_show_what_matters_most_and_the_smallest_break_nothing() {
        let (model, now) = model();
        let shown = picture(&model, now, 50, 12).join("\n");
        assert!(shown.contains("openai") && shown.contains("QUEUED") && !shown.contains("PACE"), "{shown}");
        for (width, height) in [(1, 1), (3, 2), (20, 3), (400, 100)] {
            picture(&model, now, width, height);
        }
    }

    #[test]
    fn trouble_is_told_where_people_look() {
        let (mut model, now) = model();
        model.trouble(Some("can't connect to http://127.0.0.1:1\u{1b}[2J".into()));
        let lines = picture(&model, now, 100, 12);
        assert_eq!(lines[0], "tidegate  can't connect to http://127.0.0.1:1\u{fffd}[2J");
    }

    #[test]
    fn a_rate_is_short() {
        assert_eq!([0.0, 0.04, 3.25, 99.9, 250.4, 123_456.0].map(rate), ["-", "-", "3.2", "99.9", "250", "123k"]);
    }
}

//! A trail as lines for a terminal: offsets, bars, sentences. Calls of an invocation stand one after another, each with
//! its own steps; the bars show what happened side by side.

use std::collections::BTreeMap;

use anstyle::Style;
use serde_json::Value;

use super::super::{
    output::{millis, paint},
    trails::{ending, subject, took},
};

/// Terminals narrower than this have no bars; from the second on bars are long.
const BARS_FROM: usize = 72;
const LONG_BARS_FROM: usize = 110;
/// Characters of an offset.
const OFFSET: usize = 9;
/// Texts are never squeezed into less.
const TEXT: usize = 24;

/// One line before it is laid out.
struct Line<'a> {
    from: f64,
    to: f64,
    /// What the bar is made of, and how it is painted; nothing: a point in time.
    bar: Option<(char, Style)>,
    depth: usize,
    text: String,
    style: Style,
    note: Option<&'a Value>,
}

/// The lines of a trail. They hold styles, which are dropped where nobody can see them.
pub(super) fn lines(trail: &Value, width: usize) -> Vec<String> {
    let (ended, style) = ending(trail);
    let text = |key: &str| trail.get(key).and_then(Value::as_str).unwrap_or_default();
    let tags: Vec<_> =
        trail.get("tags").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let mut head = format!(
        "{bold}{}{bold:#} {style}{ended}{style:#} after {}  {dim}{}{dim:#}",
        subject(trail),
        short(took(trail)),
        text("id"),
        bold = paint::BOLD,
        dim = paint::DIM,
    );
    if !tags.is_empty() {
        head.push_str(&format!("  {dim}tagged {}{dim:#}", clean(&tags.join(", ")), dim = paint::DIM));
    }
    let mut all = vec![head];
    let bar = match width {
        ..BARS_FROM => 0,
        BARS_FROM..LONG_BARS_FROM => 16,
        _ => 32,
    };
    let scale = Scale { whole: trail.get("lasted_ms").and_then(Value::as_f64).unwrap_or_default(), width: bar };
    for line in collected(trail) {
        all.extend(scale.lay_out(&line, width));
    }
    match trail.get("dropped").and_then(Value::as_u64) {
        Some(dropped) if dropped > 0 => all.push(format!("({dropped} further notes were not kept)")),
        _ => {}
    }
    let verdict = wrapped(&clean(text("verdict")), width);
    all.extend(verdict.into_iter().map(|line| format!("{bold}{line}{bold:#}", bold = paint::BOLD)));
    all
}

/// The lines of the notes: what is of no call where it happened, and each call where it began.
fn collected(trail: &Value) -> Vec<Line<'_>> {
    let notes = trail.get("notes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut calls: BTreeMap<u64, Vec<&Value>> = BTreeMap::new();
    for note in notes {
        if let Some(call) = note.get("call").and_then(Value::as_u64) {
            calls.entry(call).or_default().push(note);
        }
    }
    let mut lines = Vec::new();
    for note in notes {
        match note.get("call").and_then(Value::as_u64) {
            None => lines.push(step(note, 0)),
            Some(call) => {
                if let Some(of_call) = calls.remove(&call) {
                    lines.extend(of_one(call, &of_call));
                }
            }
        }
    }
    lines
}

/// The lines of one call: what it was and came to, then its steps.
fn of_one<'a>(call: u64, notes: &[&'a Value]) -> Vec<Line<'a>> {
    let is = |kind: &'static str| move |note: &&&Value| kind_of(note) == kind;
    let over = notes.iter().find(is("over"));
    let began = notes.iter().find(is("call")).or(notes.first());
    let mut lines = Vec::new();
    if let Some(began) = began {
        let said = text_of(began).to_owned();
        let came = over.map(|over| text_of(over).trim_start_matches("over after ").to_owned());
        let text = match &came {
            Some(came) => format!("call {call}: {said}: {came}"),
            None => format!("call {call}: {said}"),
        };
        let style = over.map_or(Style::new(), |over| style_of(over));
        let bar = over.map(|_| ('─', paint::DIM));
        let (from, to) = over.map_or((at(began), at(began)), |over| (at(began), at(over)));
        lines.push(Line { from, to, bar, depth: 0, text, style, note: None });
    }
    let mut queued: Option<&&Value> = None;
    for note in notes {
        match kind_of(note) {
            "over" => {}
            "call" => {}
            "queued" => queued = Some(note),
            "waited" => {
                let asked = queued.take();
                // Who did not wait needs no line for it.
                let Some(why) = asked.map(|asked| text_of(asked).trim_start_matches("queued, ")) else { continue };
                let mut line = step(note, 1);
                let end = text_of(note).split_once(", at the end ").map(|(_, end)| format!(", at the end {end}"));
                let colon = if why.starts_with("for ") { "" } else { ":" };
                let waited = short(line.to - line.from);
                line.text = format!("waited {waited}{colon} {why}{}", end.unwrap_or_default());
                lines.push(line);
            }
            _ => {
                if let Some(asked) = queued.take() {
                    lines.push(step(asked, 1));
                }
                lines.push(step(note, 1));
            }
        }
    }
    lines.extend(queued.map(|asked| step(asked, 1)));
    lines
}

fn step(note: &Value, depth: usize) -> Line<'_> {
    let bar = match kind_of(note) {
        "instance" => Some(('▒', paint::WARN)),
        "waited" => Some(('░', paint::WARN)),
        "attempt" => Some(('█', style_of(note))),
        _ => None,
    };
    let from = note.get("from_ms").and_then(Value::as_f64);
    let style = match kind_of(note) {
        "broke" => paint::BAD,
        _ => Style::new(),
    };
    let to = at(note);
    let bar = bar.filter(|_| from.is_some());
    Line { from: from.unwrap_or(to), to, bar, depth, text: text_of(note).to_owned(), style, note: Some(note) }
}

fn kind_of(note: &Value) -> &str {
    note.get("kind").and_then(Value::as_str).unwrap_or_default()
}

fn at(note: &Value) -> f64 {
    note.get("at_ms").and_then(Value::as_f64).unwrap_or_default()
}

/// The sentence without the number of the call, which stands above.
fn text_of(note: &Value) -> &str {
    let text = note.get("text").and_then(Value::as_str).unwrap_or_default();
    match note.get("call").and_then(Value::as_u64) {
        Some(call) => text.strip_prefix(&format!("call {call}: ")).unwrap_or(text),
        None => text,
    }
}

fn style_of(note: &Value) -> Style {
    match note.get("status").and_then(Value::as_u64) {
        Some(100..=399) => paint::GOOD,
        Some(400..=499) => paint::WARN,
        _ => paint::BAD,
    }
}

/// How time becomes characters.
struct Scale {
    whole: f64,
    width: usize,
}

impl Scale {
    /// A bar of [`Scale::width`] characters.
    fn bar(&self, line: &Line<'_>) -> String {
        if self.width == 0 {
            return String::new();
        }
        let place = |time: f64| {
            let share = if self.whole > 0.0 { (time / self.whole).clamp(0.0, 1.0) } else { 0.0 };
            ((share * self.width as f64) as usize).min(self.width - 1)
        };
        let (from, to) = (place(line.from), place(line.to));
        let (mark, style) = line.bar.unwrap_or(('·', paint::DIM));
        let length = if line.bar.is_some() { to + 1 - from.min(to) } else { 1 };
        let marks: String = std::iter::repeat_n(mark, length).collect();
        format!(" {:from$}{style}{marks}{style:#}{:rest$}", "", "", rest = self.width - from - length)
    }

    /// A line with its offset and bar; a long text goes on below itself.
    fn lay_out(&self, line: &Line<'_>, width: usize) -> Vec<String> {
        let indent = line.depth * 2;
        let left = OFFSET + if self.width > 0 { self.width + 1 } else { 0 } + 2 + indent;
        let texts = wrapped(&clean(&line.text), width.saturating_sub(left).max(TEXT));
        let style = if line.note.is_none() { paint::BOLD } else { line.style };
        let lay = |(index, text): (usize, String)| match index {
            0 => format!(
                "{dim}{:>OFFSET$}{dim:#}{}  {:indent$}{style}{text}{style:#}",
                short(line.from),
                self.bar(line),
                "",
                dim = paint::DIM
            ),
            _ => format!("{:left$}{style}{text}{style:#}", ""),
        };
        texts.into_iter().enumerate().map(lay).collect()
    }
}

/// Milliseconds with a digit more than elsewhere where they are few.
fn short(ms: f64) -> String {
    match ms {
        ..9.95 => format!("{ms:.1} ms"),
        ..1_000.0 => format!("{ms:.0} ms"),
        ..10_000.0 => format!("{:.2} s", ms / 1e3),
        _ => millis(ms as u64),
    }
}

/// Text from outside must not move the cursor.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The text in lines of so many characters, broken between words where that can be.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > width {
            lines.push(String::new());
            used = 0;
        }
        for (index, c) in word.chars().enumerate() {
            if index == 0 && used > 0 {
                if let Some(line) = lines.last_mut() {
                    line.push(' ');
                }
                used += 1;
            }
            if used >= width {
                lines.push(String::new());
                used = 0;
            }
            if let Some(line) = lines.last_mut() {
                line.push(c);
            }
            used += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plain(trail: &Value, width: usize) -> String {
        let lines: Vec<_> =
            lines(trail, width).iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect();
        lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
    }

    fn trail() -> Value {
        json!({
            "id": "ab", "function": "agent", "version": 3, "status": 200, "lasted_ms": 4000.0, "head_ms": 4000.0,
            "tags": ["thread-42"],
            "notes": [
                {"at_ms": 1000.0, "from_ms": 0.0, "text": "fresh instance, waited 1.0s for a place", "kind": "instance"},
                {"at_ms": 1000.0, "text": "call 1: POST https://api.test/v1, destination openai", "kind": "call", "call": 1},
                {"at_ms": 1000.0, "text": "call 1: queued, for 10/s", "kind": "queued", "call": 1},
                {"at_ms": 1500.0, "text": "call 2: GET https://b.test/", "kind": "call", "call": 2},
                {"at_ms": 1500.0, "text": "call 2: let go after 0.0ns", "kind": "waited", "call": 2},
                {"at_ms": 3000.0, "from_ms": 1000.0, "text": "call 1: let go after 2.0s", "kind": "waited", "call": 1},
                {"at_ms": 4000.0, "from_ms": 3000.0, "text": "call 1: attempt 1 answered 200 in 1.0s", "kind": "attempt",
                    "call": 1, "status": 200},
                {"at_ms": 4000.0, "from_ms": 1000.0, "text": "call 1: over after 3 s, answered 200, 2 s of it waiting",
                    "kind": "over", "call": 1, "status": 200},
                {"at_ms": 4000.0, "text": "guest: done\u{1b}[2J", "kind": "guest"},
            ],
            "dropped": 0, "verdict": "4 s in all: 2 s waiting for 10/s at openai; the upstream itself took 1 s",
        })
    }

    #[test]
    fn a_wide_terminal_shows_bars_and_each_call_with_its_steps() {
        let shown = plain(&trail(), 140);
        let wanted = "\
agent@3 200 after 4.00 s  ab  tagged thread-42
   0.0 ms ▒▒▒▒▒▒▒▒▒                         fresh instance, waited 1.0s for a place
   1.00 s         ────────────────────────  call 1: POST https://api.test/v1, destination openai: 3 s, answered 200, 2 s of it waiting
   1.00 s         ░░░░░░░░░░░░░░░░░           waited 2.00 s for 10/s
   3.00 s                         ████████    attempt 1 answered 200 in 1.0s
   1.50 s             ·                     call 2: GET https://b.test/
   4.00 s                                ·  guest: done\u{fffd}[2J
4 s in all: 2 s waiting for 10/s at openai; the upstream itself took 1 s";
        assert_eq!(shown, wanted, "\n{shown}");
    }

    #[test]
    fn a_narrow_terminal_has_no_bars_and_no_line_is_wider_than_it() {
        for width in [40, 60, 71, 80, 109, 120] {
            let shown = plain(&trail(), width);
            let widest = shown.lines().skip(1).map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= width, "{width}: {widest}\n{shown}");
            assert_eq!(shown.contains('░'), width >= BARS_FROM, "{shown}");
        }
    }

    #[test]
    fn text_is_broken_between_words_and_within_those_that_are_too_long() {
        assert_eq!(wrapped("one two three", 8), ["one two", "three"]);
        assert_eq!(wrapped("abcdefghij k", 4), ["abcd", "efgh", "ij k"]);
        assert_eq!(wrapped("", 4), [""]);
    }
}

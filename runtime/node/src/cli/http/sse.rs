//! Server-sent events, as the HTML standard parses them.

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Event {
    /// Its type; empty means `message`.
    pub(in super::super) kind: String,
    /// Its data, lines joined by line feeds.
    pub(in super::super) data: String,
    /// The last id the stream named, to resume after.
    pub(in super::super) id: String,
}

/// Longest line that is kept; the rest of a longer one is dropped.
const MAX_LINE: usize = 1 << 20;
/// Most data of one event; more is dropped.
const MAX_DATA: usize = 8 << 20;

/// A parser that is fed bytes as they come.
#[derive(Debug, Default)]
pub(in super::super) struct Parser {
    line: Vec<u8>,
    after_cr: bool,
    begun: bool,
    has_data: bool,
    event: Event,
}

impl Parser {
    /// Takes bytes and returns the events that they complete.
    pub(in super::super) fn feed(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for &byte in bytes {
            match byte {
                // The second half of a CR LF.
                b'\n' if self.after_cr => {}
                b'\n' | b'\r' => {
                    let line = std::mem::take(&mut self.line);
                    events.extend(self.line(&line));
                }
                byte if self.line.len() < MAX_LINE => self.line.push(byte),
                _ => {}
            }
            self.after_cr = byte == b'\r';
        }
        events
    }

    fn line(&mut self, line: &[u8]) -> Option<Event> {
        let line = match self.begun {
            true => line,
            // A byte order mark may open the stream.
            false => line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line),
        };
        self.begun = true;
        let text = String::from_utf8_lossy(line);
        if text.is_empty() {
            let event = Event { id: self.event.id.clone(), ..std::mem::take(&mut self.event) };
            self.event.id.clone_from(&event.id);
            return std::mem::take(&mut self.has_data).then_some(event);
        }
        let (field, value) = text.split_once(':').unwrap_or((&text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.kind),
            "data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.has_data = true;
                if self.event.data.len() + value.len() <= MAX_DATA {
                    self.event.data.push_str(value);
                }
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.event.id),
            // A comment, `retry`, or something of the future.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(kind: &str, data: &str, id: &str) -> Event {
        Event { kind: kind.into(), data: data.into(), id: id.into() }
    }

    #[test]
    fn fields_comments_and_ids_read_as_the_standard_says() {
        let text =
            "\u{feff}: hello\ndata: one\n\nevent: log\nid: 7\ndata:two\ndata: three\n\ndata\n\nid\n\ndata:  x\n\nlost";
        let events = Parser::default().feed(text.as_bytes());
        assert_eq!(
            events,
            [event("", "one", ""), event("log", "two\nthree", "7"), event("", "", "7"), event("", " x", "")]
        );
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_the_network_cuts_or_which_line_ends_are_used(
            cuts in prop::collection::vec(0_usize..60, 0..8),
            ending in prop::sample::select(vec!["\n", "\r", "\r\n"]),
        ) {
            let text = "id: 1\ndata: a\ndata: ü\n\nevent: x\ndata: b\n\n".replace('\n', ending);
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let mut parser = Parser::default();
            let mut events = Vec::new();
            for pair in cuts.windows(2) {
                events.extend(parser.feed(&text.as_bytes()[pair[0]..pair[1]]));
            }
            prop_assert_eq!(events, vec![event("", "a\nü", "1"), event("x", "b", "1")]);
        }
    }
}

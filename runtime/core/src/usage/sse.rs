//! Server-sent events, line by line, as far as they hold JSON: only what begins a line is kept.

/// What a line is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Line {
    /// Not known yet.
    Begins,
    Data,
    Event,
    Other,
}

/// Longest name of a field or an event that matters.
const NAME: usize = 32;

/// A piece of a stream.
pub(super) enum Piece<'a> {
    /// Of the data of an event.
    Data(&'a [u8]),
    /// The end of an event of this name.
    Event(&'a str),
}

/// The reader.
#[derive(Debug)]
pub(super) struct Reader {
    line: Line,
    head: Vec<u8>,
    name: Vec<u8>,
    /// A carriage return came last.
    returned: bool,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { line: Line::Begins, head: Vec::new(), name: Vec::new(), returned: false }
    }

    /// Reads on.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut found: impl FnMut(Piece<'_>)) {
        while !bytes.is_empty() {
            // The line feed of a CRLF ends no line of its own, be it in the next piece.
            if std::mem::take(&mut self.returned) && bytes.first() == Some(&b'\n') {
                bytes = bytes.get(1..).unwrap_or_default();
                continue;
            }
            let end = memchr::memchr2(b'\n', b'\r', bytes);
            let (mut line, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
            if self.line == Line::Begins {
                line = self.begin(line, end.is_some());
            }
            match self.line {
                Line::Data if !line.is_empty() => found(Piece::Data(line)),
                Line::Event => {
                    let room = NAME.saturating_sub(self.name.len());
                    self.name.extend_from_slice(line.get(..room).unwrap_or(line));
                }
                _ => {}
            }
            let Some((end, rest)) = rest.split_first() else { return };
            bytes = rest;
            self.returned = *end == b'\r';
            if self.line == Line::Begins && self.head.is_empty() {
                self.event(&mut found);
            } else if self.line == Line::Data {
                // Lines of one event's data are joined by line feeds.
                found(Piece::Data(b"\n"));
            }
            self.line = Line::Begins;
            self.head.clear();
        }
    }

    /// The end of the stream ends its last event.
    pub(super) fn end(&mut self, mut found: impl FnMut(Piece<'_>)) {
        self.event(&mut found);
    }

    fn event(&mut self, found: &mut impl FnMut(Piece<'_>)) {
        let name = std::str::from_utf8(&self.name).unwrap_or_default().trim();
        found(Piece::Event(name));
        self.name.clear();
    }

    /// Finds out what a line is that may have begun before; returns what follows the name of its field.
    fn begin<'a>(&mut self, line: &'a [u8], whole: bool) -> &'a [u8] {
        let colon = line.iter().position(|byte| *byte == b':');
        let (head, rest) = line.split_at(colon.unwrap_or(line.len()));
        let room = NAME.saturating_sub(self.head.len());
        self.head.extend_from_slice(head.get(..room).unwrap_or(head));
        if colon.is_none() && !whole && self.head.len() < NAME {
            return &[];
        }
        if colon.is_none() && self.head.is_empty() {
            return &[];
        }
        self.line = match self.head.as_slice() {
            b"data" if colon.is_some() => Line::Data,
            b"event" if colon.is_some() => {
                self.name.clear();
                Line::Event
            }
            _ => Line::Other,
        };
        rest.get(1..).unwrap_or_default()
    }
}

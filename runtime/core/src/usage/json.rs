//! JSON read as it comes, for a few values near its root. Everything else is passed over: memory is one value, whatever
//! the size of the whole. It checks nothing; who reads a value parses it.

use memchr::memchr2;

/// A value that is looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// `usage` or `usageMetadata`, of the root or of a `response` or `message` in it.
    Usage,
    /// `error`, likewise.
    Error,
    /// `type` of the root.
    Kind,
    /// `code` of the root.
    Code,
    /// `message` of the root, where it is a text.
    Message,
    /// `finish_reason` of one of the `choices`.
    Finish,
}

/// What an open array or object is, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Level {
    /// Objects in it are roots (Gemini's streams without SSE).
    List,
    Root,
    /// `response` or `message`.
    Inner,
    Choices,
    Choice,
    Other,
}

/// Levels that can matter.
const DEEP: usize = 5;
/// Longest key that is looked for.
const KEY: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lex {
    Plain,
    Text,
    Escape,
}

/// The reader.
#[derive(Debug)]
pub(super) struct Reader {
    lex: Lex,
    /// Open arrays and objects.
    depth: usize,
    levels: [Level; DEEP],
    /// The text that is read is a key; the next one would be.
    in_key: bool,
    key_next: bool,
    key: [u8; KEY],
    key_length: usize,
    /// The value that is kept, and at which depth it began.
    kept: Option<(Place, usize)>,
    buffer: Vec<u8>,
    bound: usize,
    /// A value was longer than the bound.
    pub(super) too_long: bool,
}

impl Reader {
    pub(super) fn new(bound: usize) -> Self {
        Self {
            lex: Lex::Plain,
            depth: 0,
            levels: [Level::Other; DEEP],
            in_key: false,
            key_next: false,
            key: [0; KEY],
            key_length: 0,
            kept: None,
            buffer: Vec::new(),
            bound,
            too_long: false,
        }
    }

    /// Begins anew. The memory stays, and so does what was too long.
    pub(super) fn reset(&mut self) {
        (self.lex, self.depth, self.kept) = (Lex::Plain, 0, None);
        (self.in_key, self.key_next, self.key_length) = (false, false, 0);
        self.buffer.clear();
    }

    fn level(&self) -> Level {
        match self.depth.checked_sub(1) {
            Some(depth) => self.levels.get(depth).copied().unwrap_or(Level::Other),
            None => Level::Other,
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.kept.is_none() {
            return;
        }
        if self.buffer.len() + bytes.len() > self.bound {
            self.too_long = true;
            self.kept = None;
            self.buffer.clear();
            return;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Reads on; `found` is given each value that is looked for when it is whole.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut found: impl FnMut(Place, &[u8])) {
        while let Some((first, rest)) = bytes.split_first() {
            match self.lex {
                Lex::Escape => {
                    self.keep(std::slice::from_ref(first));
                    // No key that is looked for has an escape.
                    self.key_length = KEY + 1;
                    self.lex = Lex::Text;
                    bytes = rest;
                }
                Lex::Text => {
                    let end = memchr2(b'"', b'\\', bytes);
                    let (text, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
                    self.text(text);
                    let Some((end, rest)) = rest.split_first() else { return };
                    self.keep(std::slice::from_ref(end));
                    bytes = rest;
                    if *end == b'\\' {
                        self.lex = Lex::Escape;
                        continue;
                    }
                    self.lex = Lex::Plain;
                    if !std::mem::take(&mut self.in_key) {
                        self.ended(&mut found);
                    }
                }
                Lex::Plain => {
                    self.plain(*first, &mut found);
                    bytes = rest;
                }
            }
        }
    }

    /// The end of the input: a number at its very end is whole now.
    pub(super) fn end(&mut self, mut found: impl FnMut(Place, &[u8])) {
        if self.lex == Lex::Plain {
            self.ended(&mut found);
        }
    }

    fn text(&mut self, text: &[u8]) {
        if self.in_key {
            match self.key.get_mut(self.key_length..self.key_length + text.len()) {
                Some(place) => {
                    place.copy_from_slice(text);
                    self.key_length += text.len();
                }
                None => self.key_length = KEY + 1,
            }
        }
        self.keep(text);
    }

    fn plain(&mut self, byte: u8, found: &mut impl FnMut(Place, &[u8])) {
        match byte {
            b'"' => {
                self.lex = Lex::Text;
                if self.key_next && self.kept.is_none() {
                    (self.in_key, self.key_next, self.key_length) = (true, false, 0);
                } else {
                    self.begins(byte);
                    self.keep(b"\"");
                }
            }
            b'{' | b'[' => {
                let inside = self.inside(byte);
                self.begins(byte);
                self.keep(&[byte]);
                if let Some(level) = self.levels.get_mut(self.depth) {
                    *level = inside;
                }
                self.depth += 1;
                self.key_next = byte == b'{';
                self.key_length = 0;
            }
            b'}' | b']' => {
                // A number or word before it is whole.
                self.ended(found);
                self.keep(&[byte]);
                self.depth = self.depth.saturating_sub(1);
                self.key_next = false;
                self.ended(found);
            }
            b',' => {
                self.ended(found);
                self.keep(b",");
                self.key_next = !matches!(self.level(), Level::List | Level::Choices);
                self.key_length = 0;
            }
            b':' => self.keep(b":"),
            b' ' | b'\t' | b'\n' | b'\r' => self.keep(&[byte]),
            _ => {
                self.begins(byte);
                self.keep(&[byte]);
            }
        }
    }

    /// What an array or object is that begins now.
    fn inside(&self, byte: u8) -> Level {
        if self.depth >= DEEP || self.kept.is_some() {
            return Level::Other;
        }
        let key = self.key.get(..self.key_length).unwrap_or_default();
        match (self.depth, self.level(), byte, key) {
            (0, _, b'{', _) | (_, Level::List, b'{', _) => Level::Root,
            (0, _, b'[', _) => Level::List,
            (_, Level::Root, b'{', b"response" | b"message") => Level::Inner,
            (_, Level::Root, b'[', b"choices") => Level::Choices,
            (_, Level::Choices, b'{', _) => Level::Choice,
            _ => Level::Other,
        }
    }

    /// A value begins.
    fn begins(&mut self, byte: u8) {
        if self.kept.is_some() {
            return;
        }
        let key = self.key.get(..self.key_length).unwrap_or_default();
        let place = match (self.level(), key) {
            (Level::Root, b"usageMetadata") | (Level::Root | Level::Inner, b"usage") => Place::Usage,
            (Level::Root | Level::Inner, b"error") => Place::Error,
            (Level::Root, b"type") => Place::Kind,
            (Level::Root, b"code") => Place::Code,
            (Level::Root, b"message") if byte == b'"' => Place::Message,
            (Level::Choice, b"finish_reason") => Place::Finish,
            _ => return,
        };
        self.buffer.clear();
        self.kept = Some((place, self.depth));
    }

    /// The value that is kept, if it began at this depth, is whole.
    fn ended(&mut self, found: &mut impl FnMut(Place, &[u8])) {
        if let Some((place, depth)) = self.kept
            && depth == self.depth
            && !self.buffer.is_empty()
        {
            found(place, &self.buffer);
            self.kept = None;
            self.buffer.clear();
            self.key_length = 0;
        }
    }
}

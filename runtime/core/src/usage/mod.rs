//! What an answer of a language model says about itself: the tokens it used, and errors that come when its head has long
//! said 200. Read from the bytes as they pass, with memory for one value (see [`Scanner::new`]), never in their way.
//!
//! | shape | tokens | errors |
//! |---|---|---|
//! | OpenAI, chat (JSON; SSE: the last chunk's) | `usage` | `error` of a chunk, `finish_reason: "error"` (OpenRouter) |
//! | OpenAI, responses | `usage`, in events `response.usage` | `event: error`, `response.error` |
//! | Anthropic | `usage`; `message.usage` of `message_start`, `usage` of `message_delta` | `event: error` |
//! | Gemini | `usageMetadata`, of each chunk | `error` |

mod json;
mod sse;
#[cfg(test)]
mod tests;

use crate::{
    repeat::Outcome,
    signal::{Finals, stream_error},
};
use json::{Place, Reader};
use serde_json::Value;
use std::time::Duration;

/// Tokens that a call used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Of the prompt; not those that were read from a cache, where the service does not count them against limits.
    pub input: u64,
    /// Of the answer.
    pub output: u64,
    /// All, as the service adds them up; 0 where it does not.
    total: u64,
}

impl Usage {
    /// What counts against a limit in tokens.
    pub fn tokens(&self) -> u64 {
        self.total.max(self.input.saturating_add(self.output))
    }

    fn read(text: &[u8]) -> Option<Usage> {
        let value: Value = serde_json::from_slice(text).ok()?;
        let first = |names: &[&str]| names.iter().find_map(|name| value.get(*name)?.as_u64());
        let input = first(&["prompt_tokens", "input_tokens", "promptTokenCount"]);
        // Anthropic states apart what it writes into its cache, and counts it.
        let cached = first(&["cache_creation_input_tokens"]).unwrap_or(0);
        let output = first(&["completion_tokens", "output_tokens", "candidatesTokenCount"]);
        let total = first(&["total_tokens", "totalTokenCount"]);
        if input.is_none() && output.is_none() && total.is_none() {
            return None;
        }
        Some(Usage {
            input: input.unwrap_or(0).saturating_add(cached),
            output: output.unwrap_or(0),
            total: total.unwrap_or(0),
        })
    }

    /// What is said later is of the whole, as far as it says it.
    fn join(&mut self, later: Usage) {
        self.input = self.input.max(later.input);
        self.output = self.output.max(later.output);
        self.total = self.total.max(later.total);
    }
}

/// How an answer is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// One JSON text.
    Json,
    /// Server-sent events with JSON as data.
    Events,
}

impl Framing {
    /// Of an answer with this `content-type`; nothing where it is neither.
    pub fn of(media: &str) -> Option<Framing> {
        match media.split(';').next().unwrap_or_default().trim() {
            media if media.eq_ignore_ascii_case("text/event-stream") => Some(Framing::Events),
            media if media.eq_ignore_ascii_case("application/json") => Some(Framing::Json),
            _ => None,
        }
    }
}

/// Reads the body of an answer as it passes.
#[derive(Debug)]
pub struct Scanner {
    events: Option<sse::Reader>,
    json: Reader,
    event: Event,
    usage: Option<Usage>,
    trouble: Option<Outcome>,
    troubled: bool,
    /// Something was said in this event, and an event was no error.
    said: bool,
    begun: bool,
    finals: Finals,
    max_pause: Duration,
}

/// What an event, or the whole, says besides its usage.
#[derive(Debug, Default)]
struct Event {
    kind: Option<Value>,
    code: Option<Value>,
    message: Option<Value>,
    error: Option<Value>,
    failed: bool,
}

impl Event {
    fn note(&mut self, place: Place, text: &[u8]) {
        let Ok(value) = serde_json::from_slice::<Value>(text) else { return };
        match place {
            Place::Kind => self.kind = Some(value),
            Place::Code => self.code = Some(value),
            Place::Message => self.message = Some(value),
            Place::Error if !value.is_null() => self.error = Some(value),
            Place::Finish => self.failed |= value == "error",
            Place::Error | Place::Usage => {}
        }
    }

    /// What it came to, where it is an error. `name`: of the event.
    fn trouble(self, name: &str, finals: &Finals, max_pause: Duration) -> Option<Outcome> {
        let kind = self.kind.as_ref().and_then(Value::as_str).unwrap_or_default();
        if self.error.is_none() && !self.failed && name != "error" && kind != "error" {
            return None;
        }
        // OpenAI's `error` event is an error itself.
        let error = self.error.unwrap_or_else(|| {
            let members = [("code", self.code), ("message", self.message)];
            members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect::<Value>()
        });
        let mut answer = serde_json::Map::new();
        answer.insert("error".into(), error);
        Some(stream_error(&Value::Object(answer), finals, max_pause))
    }
}

impl Scanner {
    /// A scanner that keeps no value longer than `bound` bytes. `finals`: errors that no waiting changes.
    /// `max_pause` bounds what an error may ask for.
    pub fn new(framing: Framing, bound: usize, finals: Finals, max_pause: Duration) -> Scanner {
        Scanner {
            events: (framing == Framing::Events).then(sse::Reader::new),
            json: Reader::new(bound),
            event: Event::default(),
            usage: None,
            trouble: None,
            troubled: false,
            said: false,
            begun: false,
            finals,
            max_pause,
        }
    }

    /// The next bytes of the body.
    pub fn feed(&mut self, bytes: &[u8]) {
        match self.events.take() {
            None => self.data(bytes),
            Some(mut events) => {
                events.feed(bytes, |piece| match piece {
                    sse::Piece::Data(data) => self.data(data),
                    sse::Piece::Event(name) => self.ended(name),
                });
                self.events = Some(events);
            }
        }
    }

    /// The end of the body.
    pub fn end(&mut self) {
        match self.events.take() {
            None => self.ended(""),
            Some(mut events) => events.end(|piece| {
                if let sse::Piece::Event(name) = piece {
                    self.ended(name);
                }
            }),
        }
    }

    fn data(&mut self, data: &[u8]) {
        self.said |= !data.is_empty();
        let (event, usage) = (&mut self.event, &mut self.usage);
        self.json.feed(data, |place, text| found(event, usage, place, text));
    }

    fn ended(&mut self, name: &str) {
        let (event, usage) = (&mut self.event, &mut self.usage);
        self.json.end(|place, text| found(event, usage, place, text));
        self.json.reset();
        let trouble = std::mem::take(&mut self.event).trouble(name, &self.finals, self.max_pause);
        self.begun |= std::mem::take(&mut self.said) && trouble.is_none();
        if !self.troubled && trouble.is_some() {
            (self.trouble, self.troubled) = (trouble, true);
        }
    }

    /// Whether there was an event that is no error.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Tokens, as far as they were said.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// The first error, as what it would have been as an answer; once.
    pub fn take_trouble(&mut self) -> Option<Outcome> {
        self.trouble.take()
    }

    /// Whether a value was longer than the bound, so that something may have been missed.
    pub fn is_cut(&self) -> bool {
        self.json.too_long
    }
}

fn found(event: &mut Event, usage: &mut Option<Usage>, place: Place, text: &[u8]) {
    if place != Place::Usage {
        event.note(place, text);
    } else if let Some(read) = Usage::read(text) {
        usage.get_or_insert_default().join(read);
    }
}

//! Takes the one chunk out of a stream that its sender did not ask for: OpenAI's last, with the usage and no choices.
//!
//! Events go on as they come; of one that is not whole yet, what has come waits for its rest, up to a bound: no reader of
//! events can do anything with a part of one.

use bytes::{Bytes, BytesMut};
use memchr::{memchr2_iter, memmem};
use serde_json::Value;

/// The filter of one stream.
pub(super) struct Filter {
    /// The beginning of an event.
    held: BytesMut,
    bound: usize,
    /// An event longer than the bound goes on as it comes.
    passing: bool,
    /// It was found: nothing more is held.
    over: bool,
}

impl Filter {
    pub(super) fn new(bound: usize) -> Self {
        Self { held: BytesMut::new(), bound, passing: false, over: false }
    }

    /// What goes on. `last`: nothing follows.
    pub(super) fn pass(&mut self, data: Bytes, last: bool) -> Bytes {
        if self.over && self.held.is_empty() {
            return data;
        }
        let (mut out, mut rest) = (BytesMut::new(), data);
        while let Some(end) = self.end_of_event(&rest) {
            let tail = rest.split_off(end);
            self.held.extend_from_slice(&rest);
            rest = tail;
            let event = self.held.split();
            if !std::mem::take(&mut self.passing) && !self.over && is_usage(&event) {
                self.over = true;
            } else {
                out.extend_from_slice(&event);
            }
        }
        self.held.extend_from_slice(&rest);
        if last || self.over || self.passing || self.held.len() > self.bound {
            self.passing = !last && !self.over;
            out.extend_from_slice(&self.held.split());
        }
        out.freeze()
    }

    /// Where an event ends in what follows the part that is held: behind an empty line.
    fn end_of_event(&self, data: &[u8]) -> Option<usize> {
        // Of an end that is spread over both, the held part has three bytes at most.
        let tail = self.held.len().saturating_sub(3);
        let held = self.held.get(tail..).unwrap_or_default();
        let at = |index: usize| held.get(index).or_else(|| data.get(index.checked_sub(held.len())?)).copied();
        let ends = memchr2_iter(b'\n', b'\r', data).map(|index| held.len() + index);
        (0..held.len()).chain(ends).find_map(|index| {
            let end = match (at(index), at(index + 1), at(index + 2), at(index + 3)) {
                (Some(b'\n'), Some(b'\n'), ..) | (Some(b'\r'), Some(b'\r'), ..) => index + 2,
                (Some(b'\r'), Some(b'\n'), Some(b'\r'), Some(b'\n')) => index + 4,
                _ => return None,
            };
            end.checked_sub(held.len()).filter(|end| *end > 0)
        })
    }
}

/// Whether an event can be one without choices. Most are told so without being parsed: each token is one.
fn has_no_choices(event: &[u8]) -> bool {
    const CHOICES: &[u8] = b"\"choices\"";
    memmem::find_iter(event, CHOICES).any(|at| {
        let rest = event.get(at + CHOICES.len()..).unwrap_or_default();
        rest.iter().filter(|byte| !byte.is_ascii_whitespace()).take(3).eq(b":[]")
    })
}

/// Whether an event is the chunk with the usage and no choices.
fn is_usage(event: &[u8]) -> bool {
    if !has_no_choices(event) {
        return false;
    }
    let Ok(text) = std::str::from_utf8(event) else { return false };
    let lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
    let [line] = lines[..] else { return false };
    let Some(chunk) = line.strip_prefix("data:").and_then(|data| serde_json::from_str::<Value>(data).ok()) else {
        return false;
    };
    let no_choices = chunk.get("choices").and_then(Value::as_array).is_some_and(Vec::is_empty);
    no_choices && chunk.get("usage").is_some_and(Value::is_object) && chunk.get("error").is_none_or(Value::is_null)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"total_tokens\":7}}\n\n";

    fn filtered(text: &str, size: usize, bound: usize) -> String {
        let mut filter = Filter::new(bound);
        let mut pieces = text.as_bytes().chunks(size).peekable();
        let mut out = Vec::new();
        while let Some(piece) = pieces.next() {
            out.extend(filter.pass(Bytes::copy_from_slice(piece), pieces.peek().is_none()));
        }
        out.extend(filter.pass(Bytes::new(), true));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_chunk_that_nobody_asked_for_goes_and_all_else_stays_in_whatever_pieces_it_comes() {
        let before = "data: {\"choices\":[{\"delta\":{\"content\":\"a\\n\\nb\"}}],\"usage\":null}\n\n: ping\n\n";
        let after = "data: [DONE]\n\ndata: {\"choices\":[],\"usage\":{}}\n\nend";
        for size in 1..80 {
            let text = format!("{before}{USAGE}{after}");
            assert_eq!(filtered(&text, size, 1 << 10), format!("{before}{after}"), "in pieces of {size}");
            let crlf = text.replace('\n', "\r\n");
            let left = format!("{before}{after}").replace('\n', "\r\n");
            assert_eq!(filtered(&crlf, size, 1 << 10), left, "in pieces of {size}");
            if size <= 8 {
                assert_eq!(filtered(&text, size, 8), text, "longer than the bound: as it comes");
            }
            assert_eq!(filtered(before, size, 1 << 10), before);
        }
    }

    /// A stream as OpenAI and Azure write it: a chunk about the prompt first, the usage last.
    const STOCK: &str = concat!(
        r#"data: {"id":"","object":"","created":0,"model":"","choices":[],"prompt_filter_results":[{"prompt_index":0}]}"#,
        "\n\n",
        r#"data: {"id":"c-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":null}"#,
        "\n\n",
        r#"data: {"id":"c-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"é \"choices\":[]"},"logprobs":null,"finish_reason":null}],"usage":null}"#,
        "\n\n",
        r#"data: {"id":"c-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}"#,
        "\n\n",
    );
    const STOCK_USAGE: &str = concat!(
        r#"data: {"id":"c-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7,"completion_tokens_details":{"reasoning_tokens":0}}}"#,
        "\n\n",
    );

    #[test]
    fn where_a_stock_stream_is_cut_makes_no_difference() {
        for end in ["\n", "\r\n", "\r"] {
            let written = |text: &str| text.replace('\n', end);
            let whole = written(&format!("{STOCK}{STOCK_USAGE}data: [DONE]\n\n"));
            let left = written(&format!("{STOCK}data: [DONE]\n\n"));
            for at in 0..=whole.len() {
                let mut filter = Filter::new(16 << 10);
                let (one, other) = whole.as_bytes().split_at(at);
                let mut out = filter.pass(Bytes::copy_from_slice(one), false).to_vec();
                out.extend(filter.pass(Bytes::copy_from_slice(other), true));
                assert_eq!(String::from_utf8(out).unwrap(), left, "cut at {at}, lines end with {end:?}");
            }
        }
    }

    #[test]
    fn a_chunk_that_says_more_stays() {
        for event in [
            "data: {\"choices\":[{}],\"usage\":{}}\n\n",
            "data: {\"choices\":[],\"usage\":null}\n\n",
            "data: {\"choices\":[],\"usage\":{},\"error\":{\"code\":429}}\n\n",
            "event: x\ndata: {\"choices\":[],\"usage\":{}}\n\n",
            "data: {\"usage\":{}}\n\n",
            "data: {\"choices\":[],\"prompt_filter_results\":[{\"prompt_index\":0}]}\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"choices\\\":[]\"}}],\"usage\":{}}\n\n",
            "data: {\"choices\":[],\"usage\":{}}",
        ] {
            assert_eq!(filtered(event, 1_000, 1 << 10), event);
        }
    }
}

//! Looks at the body of an answer of a language model as it passes: the tokens it used settle the charge of its limits,
//! an error in its midst counts as what it is. The bytes go on as they came, when they came; only the chunk that the gate
//! asked for itself is taken out (see [`filter`]).

mod filter;

use std::{
    io::{self, Write},
    sync::Arc,
};

use brotli_decompressor::DecompressorWriter;
use bytes::Bytes;
use flate2::write::{MultiGzDecoder, ZlibDecoder};
use http::{HeaderMap, Response, StatusCode, header};
use http_body::{Body as _, Frame};
use tidegate_core::{
    Outcome,
    repeat::Class,
    signal::Finals,
    units::Rounded,
    usage::{Framing, Scanner},
};

use self::filter::Filter;
use crate::{
    observe::{DestinationCounts, Note, Trail},
    outbound::{pool::Streaming, shards::Admission},
    settings::{OutboundSettings, names},
};

/// How many times its size a packed body may have: whoever packs more is not read, as reading costs time on the way. No
/// answer of a model comes near it.
const UNPACKED: u64 = 100;
/// What may come out of a body whatever its size, bytes.
const AT_LEAST: u64 = 1 << 20;
/// The buffer of a brotli reader, bytes.
const BUFFER: usize = 4 << 10;

/// What a call's answer is watched for.
pub(crate) struct Watched<'a> {
    pub(crate) settings: &'a OutboundSettings,
    /// Where it is counted.
    pub(crate) counts: &'a Arc<DestinationCounts>,
    pub(crate) trail: &'a Trail,
    /// Number of the call in its trail.
    pub(crate) call: u32,
    /// Errors that no waiting changes.
    pub(crate) finals: &'a Finals,
    /// What the call was charged in tokens, where a limit counts them.
    pub(crate) charged: Option<u32>,
    /// The gate asked for the usage of a stream, and its sender did not.
    pub(crate) asked: bool,
    /// That it is an error is known.
    pub(crate) known: bool,
}

/// Watches one answer.
pub(crate) struct Watch {
    reader: Option<Reader>,
    filter: Option<Filter>,
    counts: Arc<DestinationCounts>,
    trail: Trail,
    call: u32,
    charged: Option<u32>,
    known: bool,
}

impl Watch {
    /// A watch for an answer that may tell something.
    pub(crate) fn of(status: StatusCode, headers: &mut HeaderMap, watched: Watched<'_>) -> Option<Box<Self>> {
        let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok())?;
        let framing = Framing::of(media).filter(|_| status.is_success())?;
        let Watched { settings, counts, trail, call, finals, charged, asked, known } = watched;
        let buffer = usize::try_from(settings.usage_buffer.get()).unwrap_or(usize::MAX);
        let coding = codings(headers);
        let scanner = Scanner::new(framing, buffer, finals.clone(), settings.max_pause.get());
        let sink = Sink { scanner, room: AT_LEAST };
        let reader = Reader::new(&coding, sink);
        let mut watch =
            Self { reader: None, filter: None, counts: Arc::clone(counts), trail: trail.clone(), call, charged, known };
        match reader {
            Ok(reader) => watch.reader = Some(reader),
            Err(coding) => watch.give_up(&format!("its body is packed as `{coding}`, which is not unpacked here")),
        }
        if asked && framing == Framing::Events && coding.is_empty() {
            // One chunk less comes out than the upstream sends.
            headers.remove(header::CONTENT_LENGTH);
            watch.filter = Some(Filter::new(buffer));
        }
        (watch.reader.is_some() || watch.filter.is_some()).then(|| Box::new(watch))
    }

    /// Whether what comes out may be shorter than what comes in.
    pub(crate) fn shortens(&self) -> bool {
        self.filter.is_some()
    }

    /// Looks at a frame. `last`: none follows.
    pub(crate) fn frame(&mut self, frame: Frame<Bytes>, last: bool, admission: Option<&Admission>) -> Frame<Bytes> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(trailers) => {
                self.end(admission);
                return trailers;
            }
        };
        self.feed(&data, admission);
        let data = match &mut self.filter {
            None => data,
            Some(filter) => filter.pass(data, last),
        };
        if last {
            self.end(admission);
        }
        Frame::data(data)
    }

    /// What is held back when the body ends without a last frame that says so.
    pub(crate) fn rest(&mut self, admission: Option<&Admission>) -> Option<Frame<Bytes>> {
        self.end(admission);
        let rest = self.filter.as_mut()?.pass(Bytes::new(), true);
        (!rest.is_empty()).then(|| Frame::data(rest))
    }

    fn feed(&mut self, data: &[u8], admission: Option<&Admission>) {
        let Some(reader) = &mut self.reader else { return };
        if let Err(error) = reader.write(data) {
            self.reader = None;
            self.give_up(&error.to_string());
            return;
        }
        if let Some(outcome) = reader.scanner().take_trouble() {
            self.trouble(&outcome, admission);
        }
    }

    /// The whole body was seen. Does nothing the second time.
    fn end(&mut self, admission: Option<&Admission>) {
        let Some(mut reader) = self.reader.take() else { return };
        if let Err(error) = reader.finish() {
            self.give_up(&error.to_string());
            return;
        }
        reader.scanner().end();
        if let Some(outcome) = reader.scanner().take_trouble() {
            self.trouble(&outcome, admission);
        }
        match reader.scanner().usage() {
            Some(usage) => {
                let tokens = u32::try_from(usage.tokens()).unwrap_or(u32::MAX);
                self.counts.used(usage.tokens());
                let mut what = format!("used {tokens} tokens, {} in and {} out", usage.input, usage.output);
                if let Some(charged) = self.charged {
                    if let Some(admission) = admission {
                        admission.settle(tokens);
                    }
                    what = format!("{what}; {charged} were charged");
                }
                self.trail.note(Note::Decided { call: self.call, what });
            }
            None if reader.scanner().is_cut() => {
                self.give_up(&format!("it says so in more bytes than are kept (setting {})", names::USAGE_BUFFER));
            }
            None if self.charged.is_some() => self.give_up("its answer does not say"),
            None => {}
        }
    }

    fn give_up(&self, why: &str) {
        let what = format!("how many tokens it used is not known: {why}");
        self.trail.note(Note::Decided { call: self.call, what });
    }

    fn trouble(&self, outcome: &Outcome, admission: Option<&Admission>) {
        let Outcome::Answer { status, signal } = outcome else { return };
        if self.known {
            return;
        }
        self.counts.stream_error();
        let wait = signal.wait.map(|(wait, _)| format!(" that asks to wait {}", Rounded(wait))).unwrap_or_default();
        let counts = match outcome.class() {
            Class::Refused => "a refusal",
            Class::Denied => "a refusal that no waiting ends",
            Class::Down => "a failure of the destination",
            Class::Accepted | Class::Faulty => "a failure of its own",
        };
        let what = format!("an error in the midst of its answer counts as {counts}, as a {status}{wait} would");
        self.trail.note(Note::Decided { call: self.call, what });
        if let Some(admission) = admission {
            admission.amend(outcome);
        }
    }
}

/// What an answer with a good head comes to, where the first that it says is an error: within the bounds of what is looked
/// for in a refusal, so that an answer that is one waits for nothing but its own first event, and not for long.
pub(crate) async fn first_trouble(
    response: &mut Response<Streaming>,
    settings: &OutboundSettings,
    finals: &Finals,
) -> Option<Outcome> {
    let media = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok())?;
    let framing = Framing::of(media).filter(|_| response.status().is_success())?;
    let (bound, time) = (settings.refusal_body.get(), settings.refusal_wait.get());
    if framing == Framing::Json && response.body().size_hint().lower() > bound {
        return None;
    }
    let buffer = usize::try_from(bound).unwrap_or(usize::MAX);
    let scanner = Scanner::new(framing, buffer, finals.clone(), settings.max_pause.get());
    let mut reader = Reader::new(&codings(response.headers()), Sink { scanner, room: AT_LEAST }).ok()?;
    let mut trouble = None;
    let ended = response
        .body_mut()
        .look(bound, time, |bytes| {
            let read = reader.write(bytes);
            trouble = reader.scanner().take_trouble();
            read.is_err() || trouble.is_some() || reader.scanner().has_begun()
        })
        .await;
    if ended && reader.finish().is_ok() {
        reader.scanner().end();
        trouble = trouble.or_else(|| reader.scanner().take_trouble());
    }
    if trouble.is_some() {
        response.extensions_mut().insert(Known);
    }
    trouble
}

/// The error of an answer is known, and counted.
#[derive(Clone, Copy)]
pub(crate) struct Known;

/// How a body is packed.
fn codings(headers: &HeaderMap) -> String {
    let all = headers.get_all(header::CONTENT_ENCODING).iter();
    let all = all.flat_map(|value| value.to_str().unwrap_or("?").split(','));
    let all = all.map(|coding| coding.trim().to_ascii_lowercase());
    all.filter(|coding| !coding.is_empty() && coding != "identity").collect::<Vec<_>>().join(", ")
}

/// A scanner that takes what is unpacked.
struct Sink {
    scanner: Scanner,
    /// Bytes that may still come out.
    room: u64,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.room = self
            .room
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| io::Error::other(format!("its body is over {UNPACKED} times its packed size")))?;
        self.scanner.feed(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What unpacks a body on its way to the scanner.
enum Reader {
    Plain(Box<Sink>),
    Gzip(Box<MultiGzDecoder<Sink>>),
    Zlib(Box<ZlibDecoder<Sink>>),
    Brotli(Box<DecompressorWriter<Sink>>),
}

impl Reader {
    fn new(coding: &str, sink: Sink) -> Result<Self, String> {
        Ok(match coding {
            "" => Self::Plain(Box::new(sink)),
            "gzip" | "x-gzip" => Self::Gzip(Box::new(MultiGzDecoder::new(sink))),
            "deflate" => Self::Zlib(Box::new(ZlibDecoder::new(sink))),
            "br" => Self::Brotli(Box::new(DecompressorWriter::new(sink, BUFFER))),
            other => return Err(other.chars().take(32).collect()),
        })
    }

    fn sink(&mut self) -> &mut Sink {
        match self {
            Self::Plain(sink) => sink,
            Self::Gzip(reader) => reader.get_mut(),
            Self::Zlib(reader) => reader.get_mut(),
            Self::Brotli(reader) => reader.get_mut(),
        }
    }

    fn scanner(&mut self) -> &mut Scanner {
        &mut self.sink().scanner
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Self::Plain(sink) = self {
            sink.scanner.feed(bytes);
            return Ok(());
        }
        let sink = self.sink();
        sink.room = sink.room.saturating_add(bytes.len() as u64 * UNPACKED);
        let writer: &mut dyn Write = match self {
            Self::Plain(sink) => sink,
            Self::Gzip(reader) => reader,
            Self::Zlib(reader) => reader,
            Self::Brotli(reader) => reader,
        };
        writer.write_all(bytes)?;
        writer.flush()
    }

    fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Gzip(reader) => reader.try_finish(),
            Self::Zlib(reader) => reader.try_finish(),
            Self::Brotli(reader) => reader.close(),
        }
    }
}

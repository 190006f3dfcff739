//! What guests print: lines, attributed to an invocation, within bounds.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::SystemTime,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};

use super::running::Running;
use crate::{
    ids::{FunctionName, TenantId, TraceId},
    observe::{FeedEvent, LogLine, LogStream, Observe, TraceIdText},
};

/// A longer line is cut into several.
const LINE: usize = 16 << 10;
/// What a guest may write in one go.
const CHUNK: usize = 64 << 10;

/// Whose lines they are.
pub(super) struct LogOwner {
    pub(super) tenant: TenantId,
    pub(super) function: FunctionName,
    pub(super) version: u64,
    pub(super) observe: Arc<Observe>,
}

impl LogOwner {
    /// Writes one line.
    pub(super) fn write(&self, trace: Option<TraceId>, stream: LogStream, text: String) {
        let time_ms =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let line = self.observe.logs.push(LogLine {
            sequence: 0,
            time_ms,
            tenant: self.tenant.clone(),
            function: self.function.to_string(),
            version: self.version,
            trace: trace.map(TraceIdText),
            stream,
            text,
        });
        self.observe.feed.send(|| FeedEvent::Log(line));
    }
}

/// The logs of one instance.
pub(super) struct InstanceLogs {
    owner: Arc<LogOwner>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The invocation lines belong to: the only one that runs, or nothing where several share the instance.
    current: Option<Arc<Running>>,
    partial: [Vec<u8>; 2],
}

impl InstanceLogs {
    pub(super) fn new(owner: Arc<LogOwner>) -> Arc<Self> {
        Arc::new(Self { owner, state: Mutex::default() })
    }

    /// Attributes lines from now on.
    pub(super) fn attribute(&self, running: Option<Arc<Running>>) {
        self.state.lock().current = running;
    }

    /// An invocation ended: lines without an end are written, and what was cut is counted out.
    pub(super) fn finish(&self, running: &Running) {
        let mut state = self.state.lock();
        let partial = [LogStream::Stdout, LogStream::Stderr].into_iter().zip(&mut state.partial);
        for (stream, partial) in partial.filter(|(_, partial)| !partial.is_empty()) {
            let text = String::from_utf8_lossy(partial).into_owned();
            partial.clear();
            self.owner.write(Some(running.trace_id()), stream, text);
        }
        drop(state);
        let cut = running.take_log_cut();
        if cut > 0 {
            let bound = running.limits.log_bytes;
            let text = format!(
                "{cut} more bytes of log were cut: an invocation may write {} (setting {})",
                tidegate_core::units::Size(bound.value),
                bound.setting
            );
            self.owner.write(Some(running.trace_id()), LogStream::Host, text);
        }
    }

    /// The host's own word about an invocation.
    pub(super) fn host(&self, running: Option<&Running>, text: String) {
        self.owner.write(running.map(Running::trace_id), LogStream::Host, text);
    }

    fn write(&self, stream: LogStream, bytes: &[u8]) {
        let mut state = self.state.lock();
        let State { current, partial } = &mut *state;
        let granted = current.as_ref().map_or(bytes.len(), |running| running.take_log_bytes(bytes.len()));
        let trace = current.as_ref().map(|running| running.trace_id());
        let [out, error] = partial;
        let partial = if stream == LogStream::Stdout { out } else { error };
        let mut rest = bytes.get(..granted).unwrap_or_default();
        while !rest.is_empty() {
            let room = LINE.saturating_sub(partial.len()).max(1);
            let line_end = rest.iter().position(|byte| *byte == b'\n');
            let taken = line_end.unwrap_or(rest.len()).min(room);
            let (text, tail) = rest.split_at(taken);
            partial.extend_from_slice(text);
            let ended = line_end == Some(taken);
            rest = if ended { tail.get(1..).unwrap_or_default() } else { tail };
            if ended || partial.len() >= LINE {
                let text = String::from_utf8_lossy(partial).trim_end_matches('\r').to_owned();
                partial.clear();
                self.owner.write(trace, stream, text);
            }
        }
    }
}

/// Standard output or error of one instance.
#[derive(Clone)]
pub(super) struct LogPipe {
    logs: Arc<InstanceLogs>,
    stream: LogStream,
}

impl LogPipe {
    pub(super) fn new(logs: &Arc<InstanceLogs>, stream: LogStream) -> Self {
        Self { logs: Arc::clone(logs), stream }
    }
}

impl IsTerminal for LogPipe {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogPipe {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for LogPipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let bytes = bytes.get(..CHUNK).unwrap_or(bytes);
        self.logs.write(self.stream, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Pollable for LogPipe {
    fn ready<'life, 'future>(&'life mut self) -> Pin<Box<dyn Future<Output = ()> + Send + 'future>>
    where
        'life: 'future,
        Self: 'future,
    {
        Box::pin(std::future::ready(()))
    }
}

impl OutputStream for LogPipe {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.logs.write(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(CHUNK)
    }
}

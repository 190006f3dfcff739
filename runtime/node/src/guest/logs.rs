//! What guests print: lines, attributed to an invocation, within bounds.

use std::{
    collections::VecDeque,
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

struct State {
    /// The invocation lines belong to: the only one that runs, or nothing where several share the instance.
    current: Option<Arc<Running>>,
    /// The invocations that share the instance. What can't be told apart is written on the account of all of them.
    company: VecDeque<Arc<Running>>,
    /// Bytes that may be written where nobody is there to account for them.
    spare: u64,
    partial: [Vec<u8>; 2],
}

impl State {
    /// Takes so many bytes of the bounds of those who may have written them; returns how many there were.
    fn take(&mut self, wanted: usize) -> usize {
        if let Some(running) = &self.current {
            let granted = running.take_log_bytes(wanted);
            running.cut_log(wanted - granted);
            return granted;
        }
        let all_answered = self.company.iter().all(|running| running.is_answered());
        let writers = || self.company.iter().filter(|running| all_answered || !running.is_answered());
        let count = writers().count();
        if count == 0 {
            let granted = self.spare.min(wanted as u64);
            self.spare -= granted;
            return granted as usize;
        }
        // The same from each, then what is left from those who have it.
        let share = wanted.div_ceil(count);
        let mut left = wanted;
        for most in [share, wanted] {
            for running in writers() {
                left -= running.take_log_bytes(most.min(left));
            }
        }
        if let Some(running) = writers().next() {
            running.cut_log(left);
        }
        wanted - left
    }
}

impl InstanceLogs {
    /// `spare` bytes may be written where no invocation is there to account for them.
    pub(super) fn new(owner: Arc<LogOwner>, spare: u64) -> Arc<Self> {
        let state = State { current: None, company: VecDeque::new(), spare, partial: Default::default() };
        Arc::new(Self { owner, state: Mutex::new(state) })
    }

    /// An invocation came to an instance that it shares; it stays until it is finished.
    pub(super) fn join(&self, running: &Arc<Running>) {
        self.state.lock().company.push_back(Arc::clone(running));
    }

    /// Attributes lines from now on.
    pub(super) fn attribute(&self, running: Option<&Arc<Running>>) {
        let mut state = self.state.lock();
        if state.current.as_ref().map(Arc::as_ptr) != running.map(Arc::as_ptr) {
            state.current = running.cloned();
        }
    }

    /// An invocation ended: lines without an end are written, and what was cut is counted out.
    pub(super) fn finish(&self, running: &Running) {
        let mut state = self.state.lock();
        // Mostly the first: they go in the order in which they came.
        if let Some(place) = state.company.iter().position(|other| std::ptr::eq(&**other, running)) {
            state.company.remove(place);
        }
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
        let granted = state.take(bytes.len());
        let State { current, partial, .. } = &mut *state;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        guest::{Invocation, limits::Limits},
        ids::TraceContext,
        observe::{LogFilter, Trail},
        outbound::Hops,
        settings::Settings,
    };
    use clap::{Args, FromArgMatches};

    fn settings() -> Settings {
        let command = Settings::augment_args(clap::Command::new("serve"));
        Settings::from_arg_matches(&command.try_get_matches_from(["serve", "--guest-log-bytes", "100B"]).unwrap())
            .unwrap()
    }

    fn running() -> Arc<Running> {
        let trace = TraceContext::begin();
        let trail = Trail::begin(trace.trace);
        let limits = Limits::resolve(&Default::default(), &settings().guest);
        Running::new(Invocation { trail, trace, tracestate: None, deadline: None }, Arc::new(limits), Hops(0))
    }

    #[test]
    fn those_who_share_an_instance_write_together_what_each_may_and_the_rest_is_cut_and_told() {
        let observe = Observe::new(&settings().observe);
        let owner = LogOwner { tenant: "t".into(), function: "f".into(), version: 1, observe: Arc::clone(&observe) };
        let logs = InstanceLogs::new(Arc::new(owner), 50);
        let lines = |wanted: char| {
            let filter = LogFilter { tenant: "t".into(), function: None, after: 0 };
            let lines = observe.logs.recent(&filter, 1_000);
            lines.iter().filter(|line| line.text.starts_with(wanted)).map(|line| line.text.len()).sum::<usize>()
        };
        let write = |letter: char, bytes: usize| {
            for _ in 0..bytes / 10 {
                logs.write(LogStream::Stdout, format!("{}\n", letter.to_string().repeat(9)).as_bytes());
            }
        };
        write('s', 200);
        assert_eq!(lines('s'), 45, "nobody is there: what is spare");
        let (one, other) = (running(), running());
        logs.join(&one);
        logs.join(&other);
        write('c', 1_000);
        assert_eq!(lines('c'), 180, "the bounds of two");
        logs.attribute(Some(&other));
        write('o', 100);
        assert_eq!(lines('o'), 0, "its bound is used up");
        logs.attribute(None);
        logs.finish(&one);
        assert!(lines('8') > 0, "the cut is told");
        let late = running();
        logs.join(&late);
        write('l', 1_000);
        assert_eq!(lines('l'), 90, "another brings another bound");
    }
}

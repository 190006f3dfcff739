//! The node's own log, on its way out: a thread writes it, so that nobody waits for a terminal, a pipe or a disk. What waits
//! is bounded in bytes; beyond that lines are lost, and counted.

use std::{
    io::{self, Write},
    sync::{Arc, LazyLock},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use prometheus_client::metrics::counter::Counter;

use crate::settings::names;

/// How long the end of the process waits for lines that are not written yet.
const LAST: Duration = Duration::from_secs(1);

/// Lines of the process that were lost. There is one log a process, whatever nodes it has.
pub(super) static LOST: LazyLock<Counter> = LazyLock::new(Counter::default);

/// Takes lines and returns at once. Cheap to clone.
#[derive(Clone)]
pub struct LogQueue(Arc<Inner>);

struct Inner {
    waiting: Mutex<Waiting>,
    /// There is something to write, or no more comes.
    news: Condvar,
    /// All is written.
    written: Condvar,
    bound: usize,
    lost: Counter,
}

#[derive(Default)]
struct Waiting {
    lines: Vec<u8>,
    writing: bool,
    over: bool,
}

impl LogQueue {
    /// A queue of at most so many bytes, and the thread that writes it. Lines that can't be written are lost.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(bound: u64, to: impl Write + Send + 'static) -> io::Result<(Self, LogEnd)> {
        Self::counting(bound, to, LOST.clone())
    }

    fn counting(bound: u64, to: impl Write + Send + 'static, lost: Counter) -> io::Result<(Self, LogEnd)> {
        let inner = Arc::new(Inner {
            waiting: Mutex::default(),
            news: Condvar::new(),
            written: Condvar::new(),
            bound: usize::try_from(bound).unwrap_or(usize::MAX),
            lost,
        });
        let queue = Arc::clone(&inner);
        std::thread::Builder::new().name("tidegate-log".into()).spawn(move || queue.write(to))?;
        Ok((Self(Arc::clone(&inner)), LogEnd(inner)))
    }
}

impl Write for LogQueue {
    /// One call is one line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = self.0.waiting.lock();
        if waiting.lines.len() + line.len() > self.0.bound || waiting.over {
            drop(waiting);
            self.0.lost.inc();
            return Ok(line.len());
        }
        waiting.lines.extend_from_slice(line);
        let sleeps = !waiting.writing;
        drop(waiting);
        if sleeps {
            self.0.news.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Inner {
    fn write(&self, mut to: impl Write) {
        let mut lines = Vec::new();
        let mut told = self.lost.get();
        loop {
            {
                let mut waiting = self.waiting.lock();
                waiting.writing = false;
                while waiting.lines.is_empty() {
                    self.written.notify_all();
                    if waiting.over {
                        return;
                    }
                    self.news.wait(&mut waiting);
                }
                waiting.writing = true;
                std::mem::swap(&mut waiting.lines, &mut lines);
            }
            // Told there, it could not be told either.
            let _ = to.write_all(&lines).and_then(|()| to.flush());
            lines.clear();
            // A burst leaves no memory behind.
            lines.shrink_to(64 << 10);
            let lost = self.lost.get();
            if lost > told {
                let (count, setting) = (lost - told, names::LOG_QUEUE_BYTES);
                told = lost;
                tracing::warn!(
                    lost = count,
                    limit = self.bound,
                    setting,
                    "lines of the log are lost: whoever takes them is too slow"
                );
            }
        }
    }
}

/// Whoever holds it sees to it that what is logged is written before the process ends.
pub struct LogEnd(Arc<Inner>);

impl Drop for LogEnd {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting.lock();
        waiting.over = true;
        self.0.news.notify_one();
        if waiting.writing || !waiting.lines.is_empty() {
            self.0.written.wait_for(&mut waiting, LAST);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Takes lines when it is let.
    struct Slow {
        let_go: mpsc::Receiver<()>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.let_go.recv();
            self.taken.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn slow(bound: u64) -> (LogQueue, LogEnd, mpsc::Sender<()>, Arc<Mutex<Vec<u8>>>) {
        let (go, let_go) = mpsc::channel();
        let taken = Arc::<Mutex<Vec<u8>>>::default();
        let to = Slow { let_go, taken: Arc::clone(&taken) };
        let (queue, end) = LogQueue::counting(bound, to, Counter::default()).unwrap();
        (queue, end, go, taken)
    }

    #[test]
    fn a_reader_that_stands_still_holds_nobody_up_and_loses_what_is_beyond_the_bound() {
        let (mut queue, end, go, taken) = slow(10);
        queue.write_all(b"first\n").unwrap();
        // The thread has it, and stands still with it.
        while !queue.0.waiting.lock().writing {
            std::thread::yield_now();
        }
        for line in [b"1234\n", b"5678\n", b"lost\n", b"too \n"] {
            queue.write_all(line).unwrap();
        }
        assert_eq!(queue.0.lost.get(), 2);
        drop(go);
        drop(end);
        assert_eq!(*taken.lock(), b"first\n1234\n5678\n");
    }

    #[test]
    fn the_end_does_not_wait_for_ever() {
        let (mut queue, end, _go, _taken) = slow(10);
        queue.write_all(b"first\n").unwrap();
        let began = std::time::Instant::now();
        drop(end);
        assert!(began.elapsed() < LAST * 5);
        queue.write_all(b"more\n").unwrap();
        assert_eq!(queue.0.lost.get(), 1, "what comes after the end is lost");
    }
}

//! The socket of a connection, which tells what it reads, and does not wait for ever for who reads nothing.

use std::{
    future::Future,
    io::{Error, IoSlice},
    os::fd::AsRawFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{self, AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};

use super::traffic::Traffic;
use crate::{alarm::Alarm, settings::names};

/// Pieces that are this short together are put into one before they are written: to have the system gather them takes
/// longer. Heads with a short body are.
const GATHERED: usize = 2 << 10;

/// A client's socket.
pub(super) struct Socket {
    stream: TcpStream,
    traffic: Arc<Traffic>,
    write: Stall,
    /// Where short pieces are gathered.
    gathered: Vec<u8>,
}

/// A write that waits, and for how long it may.
struct Stall {
    most: Duration,
    /// Made for the first write that waits, and kept for the others of its connection.
    alarm: Option<Pin<Box<Alarm>>>,
    waits: bool,
    /// What the system held for the client when it was asked last, bytes.
    held: libc::c_int,
}

impl Socket {
    /// A write that makes no progress for `most` fails.
    pub(super) fn new(stream: TcpStream, traffic: Arc<Traffic>, most: Duration) -> Self {
        Self { stream, traffic, write: Stall { most, alarm: None, waits: false, held: 0 }, gathered: Vec::new() }
    }

    fn bounded(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.write.waits = false;
            return written;
        }
        self.write.poll(cx, &self.stream).map(Err)
    }
}

impl Stall {
    /// Ready when the client took nothing for too long.
    fn poll(&mut self, cx: &mut Context<'_>, stream: &TcpStream) -> Poll<Error> {
        let most = self.most;
        let due = || Instant::now() + most;
        let begins = !std::mem::replace(&mut self.waits, true);
        let alarm = match &mut self.alarm {
            Some(alarm) => {
                if begins {
                    alarm.as_mut().set(due());
                }
                alarm
            }
            none => none.insert(Box::pin(Alarm::new(due()))),
        };
        if begins {
            self.held = held(stream);
        }
        loop {
            ready!(alarm.as_mut().poll(cx));
            // The system has room again only once much of what it holds is gone; a slow client is none that stopped.
            let before = std::mem::replace(&mut self.held, held(stream));
            if self.held >= before {
                let why = format!("the client took nothing for {most:?} (setting {})", names::WRITE_TIMEOUT);
                return Poll::Ready(Error::new(io::ErrorKind::TimedOut, why));
            }
            alarm.as_mut().set(due());
        }
    }
}

/// Bytes that the system holds until the client has them.
fn held(stream: &TcpStream) -> libc::c_int {
    let mut bytes = 0;
    // SAFETY: the descriptor is open, and the system writes one integer.
    let asked = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if asked == 0 { bytes } else { libc::c_int::MAX }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Some(bytes) = buffer.filled().get(before..) {
            self.traffic.received(bytes);
        }
        polled
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.bounded(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = pieces.iter().map(|piece| piece.len()).fold(0, usize::saturating_add);
        let Self { stream, gathered, .. } = &mut *self;
        let written = if length > GATHERED {
            Pin::new(stream).poll_write_vectored(cx, pieces)
        } else {
            gathered.clear();
            pieces.iter().for_each(|piece| gathered.extend_from_slice(piece));
            Pin::new(stream).poll_write(cx, gathered)
        };
        self.bounded(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    const MOST: Duration = Duration::from_millis(200);

    async fn pair() -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        (client, Socket::new(stream, Arc::default(), MOST))
    }

    #[tokio::test]
    async fn a_write_to_who_reads_nothing_fails_and_says_which_setting_it_was() {
        let (_client, mut socket) = pair().await;
        let began = Instant::now();
        let error = socket.write_all(&vec![0; 64 << 20]).await.unwrap_err();
        assert!(began.elapsed() >= MOST);
        assert!(error.to_string().contains("write_timeout"), "{error}");
    }

    #[tokio::test]
    async fn who_reads_slowly_gets_it_all_however_long_that_takes() {
        let (mut client, mut socket) = pair().await;
        // So that the system sees room long after the client read.
        socket2::SockRef::from(&socket.stream).set_send_buffer_size(4 << 20).unwrap();
        let all = 24 << 20;
        let writing = tokio::spawn(async move { socket.write_all(&vec![0; all]).await });
        let (mut read, mut buffer, began) = (0, vec![0; 1 << 20], Instant::now());
        let mut every = tokio::time::interval(MOST / 8);
        while read < all {
            every.tick().await;
            read += client.read(&mut buffer).await.unwrap();
        }
        writing.await.unwrap().unwrap();
        assert!(began.elapsed() > MOST);
    }
}

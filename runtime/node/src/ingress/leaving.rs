//! Clients that leave while a body of theirs is unread.
//!
//! hyper reads a socket, and so sees its end, only while somebody wants what is on it. A request whose body its guest
//! or its upstream does not take would go on for a client that is long gone. So the socket itself is asked now and then,
//! while a body has not come whole.
//!
//! The end of what a client sends is not its leaving where the body is whole: it may wait for its answer still. That
//! it closed the connection altogether shows by a reset.

use std::{
    future::Future,
    os::fd::BorrowedFd,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::ioctl_fionread,
    net::{RecvFlags, recv},
};
use tokio::time::{Instant, Sleep};

use super::traffic::{Coming, Traffic, tail_of};

/// How often the socket is asked (no setting: half of what a client's leaving may go unnoticed).
const LOOK: Duration = Duration::from_millis(50);
/// How far the bytes that wait in the socket are looked through for the end of a body in chunks: more than systems hold.
const LOOK_AHEAD: u64 = 16 << 20;

/// Asks the socket, while there is reason to.
#[derive(Default)]
pub(super) struct Watch {
    /// Made for the first request that gives reason, and kept for the others of its connection.
    timer: Option<Pin<Box<Sleep>>>,
    set: bool,
    /// The body that was whole when the client ended what it sends: nothing can change that, so what waits in the socket
    /// is looked through once.
    whole: Option<Coming>,
}

impl Watch {
    /// Ready when the client has left. To be polled whenever its connection was.
    pub(super) fn poll_left(&mut self, cx: &mut Context<'_>, traffic: &Traffic, socket: BorrowedFd<'_>) -> Poll<()> {
        loop {
            let Some(coming) = traffic.coming() else {
                self.set = false;
                return Poll::Pending;
            };
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(LOOK)));
            if self.set {
                ready!(timer.as_mut().poll(cx));
                let known = &mut self.whole;
                let whole = || {
                    if *known != Some(coming) {
                        let (waiting, tail) = in_the_socket(socket, traffic.tail());
                        *known = coming.is_whole(traffic.read() + waiting, tail).then_some(coming);
                    }
                    known.is_some()
                };
                if has_left(socket, whole) {
                    return Poll::Ready(());
                }
            }
            timer.as_mut().reset(Instant::now() + LOOK);
            self.set = true;
        }
    }
}

/// Whether the peer has closed: altogether, or for sending before the body was whole.
fn has_left(socket: BorrowedFd<'_>, whole: impl FnOnce() -> bool) -> bool {
    let mut asked = [PollFd::from_borrowed_fd(socket, PollFlags::RDHUP)];
    if poll(&mut asked, Some(&Timespec::default())).is_err() {
        return false;
    }
    let [answer] = &asked;
    let is = |flags| answer.revents().intersects(flags);
    is(PollFlags::HUP | PollFlags::ERR) || (is(PollFlags::RDHUP) && !whole())
}

/// How many bytes wait in the socket, and with which the stream ends that ended with `tail` before them.
fn in_the_socket(socket: BorrowedFd<'_>, tail: u64) -> (u64, u64) {
    let waiting = ioctl_fionread(socket).unwrap_or(0);
    if waiting == 0 {
        return (0, tail);
    }
    let mut bytes = vec![0; usize::try_from(waiting.min(LOOK_AHEAD)).unwrap_or(0)];
    let seen = recv(socket, bytes.as_mut_slice(), RecvFlags::PEEK | RecvFlags::DONTWAIT).map_or(0, |(_, seen)| seen);
    (waiting, tail_of(tail, bytes.get(..seen).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        net::{Shutdown, TcpListener, TcpStream},
        os::fd::AsFd,
    };

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn soon(condition: impl Fn() -> bool) -> bool {
        (0..1_000).any(|_| {
            std::thread::sleep(Duration::from_millis(1));
            condition()
        })
    }

    #[test]
    fn the_end_of_what_is_sent_is_a_leave_only_before_the_body_is_whole() {
        let (client, server) = pair();
        assert!(!has_left(server.as_fd(), || false), "it is there");
        client.shutdown(Shutdown::Write).unwrap();
        assert!(soon(|| has_left(server.as_fd(), || false)));
        assert!(!has_left(server.as_fd(), || true), "it may wait for its answer");
    }

    #[test]
    fn a_reset_is_a_leave_always() {
        let (client, server) = pair();
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        assert!(soon(|| has_left(server.as_fd(), || true)));
    }

    #[test]
    fn what_waits_in_the_socket_is_counted_and_looked_at() {
        let (mut client, server) = pair();
        client.write_all(b"5\r\nhello\r\n0\r\n\r").unwrap();
        assert!(soon(|| in_the_socket(server.as_fd(), 0).0 == 14));
        assert_eq!(in_the_socket(server.as_fd(), 0).1, tail_of(0, b"lo\r\n0\r\n\r"));
        assert_eq!(in_the_socket(server.as_fd(), 0).0, 14, "it was only looked at");
    }
}

//! Trailers towards clients of HTTP/1.1, which get only those that the head names (RFC 9110 section 6.6.2).
//!
//! Guests rarely name them, and say what they are at the end. So where a client takes trailers, the head of an answer
//! of unknown length waits a moment for its end.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Version, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;

use super::recorded::Recorded;
use crate::{body::BodyError, outbound::trailer_names};

/// How long the head waits.
const LINGER: Duration = Duration::from_millis(5);
/// How much is read ahead of it, bytes and frames.
const AHEAD_BYTES: usize = 64 << 10;
const AHEAD_FRAMES: usize = 64;

/// Whether the client takes trailers, and gets only those that are named.
pub(super) fn wanted<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_11
        && request
            .headers()
            .get_all(header::TE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|text| text.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("trailers")))
}

/// Names the trailers of an answer in its head, if they come soon.
pub(super) async fn announce(answer: Response<Recorded>) -> Response<Recorded> {
    let body = answer.body();
    let is_known = body.is_end_stream() || body.size_hint().exact().is_some();
    if is_known || answer.headers().contains_key(header::TRAILER) {
        return answer;
    }
    let (mut parts, rest) = answer.into_parts();
    let mut body = Ahead { frames: VecDeque::new(), rest, ended: false };
    // Too late is late: the answer goes out without them.
    let _ = tokio::time::timeout(LINGER, body.read()).await;
    let last = body.frames.back().and_then(|frame| frame.as_ref().ok()?.trailers_ref());
    if let Some(names) = last.and_then(trailer_names) {
        parts.headers.insert(header::TRAILER, names);
    }
    Recorded::plain(Response::from_parts(parts, body.boxed_unsync()))
}

/// A body whose first frames were read already.
struct Ahead {
    frames: VecDeque<Result<Frame<Bytes>, BodyError>>,
    rest: Recorded,
    ended: bool,
}

impl Ahead {
    async fn read(&mut self) {
        let mut bytes = 0;
        while bytes < AHEAD_BYTES && self.frames.len() < AHEAD_FRAMES {
            let Some(frame) = self.rest.frame().await else {
                self.ended = true;
                return;
            };
            let data = frame.as_ref().ok().and_then(Frame::data_ref).map(Bytes::len);
            self.frames.push_back(frame);
            let Some(length) = data else { return };
            bytes += length;
        }
    }
}

impl http_body::Body for Ahead {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.frames.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None if self.ended => Poll::Ready(None),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && (self.ended || self.rest.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        if self.frames.is_empty() { self.rest.size_hint() } else { SizeHint::default() }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use http_body_util::StreamBody;

    use super::*;
    use crate::body::Body;

    fn frames(late: bool) -> Body {
        let data = futures::stream::iter([Ok(Frame::data(Bytes::from_static(b"abc")))]);
        let end = futures::stream::once(async move {
            if late {
                tokio::time::sleep(LINGER * 4).await;
            }
            let trailers = [("x-one", "1"), ("x-two", "2")]
                .map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)));
            Ok(Frame::trailers(trailers.into_iter().collect()))
        });
        StreamBody::new(data.chain(Box::pin(end))).boxed_unsync()
    }

    #[tokio::test]
    async fn trailers_that_come_soon_are_named_in_the_head_and_late_ones_hold_nothing_up() {
        for (late, named) in [(false, Some("x-one, x-two")), (true, None)] {
            let answer = announce(Recorded::plain(Response::new(frames(late)))).await;
            let names = answer.headers().get(header::TRAILER).map(|value| value.to_str().unwrap());
            assert_eq!(names, named);
            let whole = answer.into_body().collect().await.unwrap();
            assert_eq!(whole.trailers().map(http::HeaderMap::len), Some(2));
            assert_eq!(whole.to_bytes(), "abc");
        }
    }

    #[tokio::test]
    async fn answers_of_known_length_and_named_trailers_are_left_alone() {
        let whole = announce(Recorded::plain(Response::new(crate::body::full("abc")))).await;
        assert_eq!(whole.body().size_hint().exact(), Some(3));
        let named = Response::builder().header("trailer", "x-one").body(frames(true)).unwrap();
        assert_eq!(announce(Recorded::plain(named)).await.headers()["trailer"], "x-one");
    }

    #[test]
    fn only_clients_of_http_1_1_that_say_so_want_them_named() {
        let request = |te: &str, version| Request::builder().version(version).header("te", te).body(()).unwrap();
        assert!(wanted(&request("gzip, Trailers", Version::HTTP_11)));
        assert!(!wanted(&request("gzip", Version::HTTP_11)));
        assert!(!wanted(&request("trailers", Version::HTTP_2)));
    }
}

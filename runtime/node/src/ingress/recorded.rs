//! The body of an answer, which ends the record of its request when it ends.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Sleep;

use super::record::Record;
use crate::body::{Body, BodyError};

/// A body that holds the record of its request, where there is one.
pub struct Recorded {
    inner: Body,
    record: Option<Record>,
    /// Bytes that the head promised and that are still to come: hyper asks for none beyond them.
    left: Option<u64>,
    failed: Option<Pin<Box<Failed>>>,
}

/// How long the error of a body is held back. With it hyper drops what it has not written yet: the head, where the body
/// fails at once, and the data in front. Where the body is late it writes; over HTTP/2 another task does, and nothing
/// says when.
const HELD: Duration = Duration::from_millis(5);

pin_project_lite::pin_project! {
    /// An error that is told once what came before it has been written.
    struct Failed {
        #[pin]
        held: Sleep,
        error: Option<BodyError>,
    }
}

impl Future for Failed {
    type Output = Option<BodyError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<BodyError>> {
        let this = self.project();
        ready!(this.held.poll(cx));
        Poll::Ready(this.error.take())
    }
}

impl Recorded {
    /// A body of which nothing is kept.
    pub(super) fn plain(answer: Response<Body>) -> Response<Self> {
        answer.map(|inner| Self { inner, record: None, left: None, failed: None })
    }

    /// The body of the answer to a request with this method.
    pub(super) fn answer(answer: Response<Body>, mut record: Record, method: &Method) -> Response<Self> {
        let (parts, inner) = answer.into_parts();
        let bodiless =
            *method == Method::HEAD || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let left = inner.size_hint().exact().or_else(|| {
            let stated = parts.headers.get(header::CONTENT_LENGTH)?;
            stated.to_str().ok()?.parse().ok()
        });
        if bodiless || left == Some(0) || inner.is_end_stream() {
            record.whole();
        }
        Response::from_parts(parts, Self { inner, record: Some(record), left, failed: None })
    }
}

impl http_body::Body for Recorded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(failed) = &mut this.failed {
            return failed.as_mut().poll(cx).map(|error| error.map(Err));
        }
        let polled = Pin::new(&mut this.inner).poll_frame(cx);
        if let Some(record) = &mut this.record {
            match &polled {
                Poll::Pending => {}
                Poll::Ready(None) => record.whole(),
                Poll::Ready(Some(Err(error))) => record.broke(error.to_string()),
                Poll::Ready(Some(Ok(frame))) => {
                    if let (Some(left), Some(data)) = (&mut this.left, frame.data_ref()) {
                        *left = left.saturating_sub(data.len() as u64);
                    }
                    if this.left == Some(0) || frame.is_trailers() || this.inner.is_end_stream() {
                        record.whole();
                    }
                }
            }
        }
        match polled {
            Poll::Ready(Some(Err(error))) => {
                let failed = Failed { held: tokio::time::sleep(HELD), error: Some(error) };
                let failed = this.failed.insert(Box::pin(failed));
                failed.as_mut().poll(cx).map(|error| error.map(Err))
            }
            polled => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.failed.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    use hyper_util::rt::{TokioExecutor, TokioIo};

    /// The address of a server whose one answer has a body of these frames.
    async fn serve(frames: &'static [&'static str], http2: bool) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = hyper::service::service_fn(async |_| {
                let data = frames.iter().map(|text| Ok(Frame::data(Bytes::from_static(text.as_bytes()))));
                let error = Err(BodyError::Transport("never finished".into()));
                let failing = http_body_util::StreamBody::new(futures::stream::iter(data.chain([error])));
                let answer = Response::builder().status(500).body(failing.boxed_unsync()).unwrap();
                Ok::<_, std::convert::Infallible>(Recorded::plain(answer))
            });
            let stream = TokioIo::new(stream);
            if http2 {
                let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = serving.serve_connection(stream, answer).await;
            } else {
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(stream, answer).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn a_body_that_fails_takes_neither_its_head_nor_what_came_before_with_it() {
        for (frames, data) in [(&[][..], ""), (&["abc"], "abc"), (&["abc", "def"], "abcdef")] {
            let mut stream = TcpStream::connect(serve(frames, false).await).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            let mut said = String::new();
            stream.read_to_string(&mut said).await.unwrap();
            assert!(said.starts_with("HTTP/1.1 500") && !said.ends_with("0\r\n\r\n"), "{said}");
            assert!(frames.iter().all(|frame| said.contains(&format!("\r\n{frame}\r\n"))), "{said}");

            let stream = TokioIo::new(TcpStream::connect(serve(frames, true).await).await.unwrap());
            let connected = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await;
            let (mut sender, connection) = connected.unwrap();
            tokio::spawn(connection);
            let request = http::Request::get("http://x/").body(crate::body::empty()).unwrap();
            let answer = sender.send_request(request).await.unwrap();
            assert_eq!(answer.status(), 500);
            let (mut body, mut read) = (answer.into_body(), String::new());
            let ended = loop {
                match body.frame().await {
                    Some(Ok(frame)) => read.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap()),
                    ended => break ended,
                }
            };
            assert!(matches!(ended, Some(Err(_))) && read == data, "{read:?} {ended:?}");
        }
    }
}

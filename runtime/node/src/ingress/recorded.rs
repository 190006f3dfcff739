//! The body of an answer, which ends the record of its request when it ends.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};

use super::record::Record;
use crate::body::{Body, BodyError};

/// A body that holds the record of its request, where there is one.
pub struct Recorded {
    inner: Body,
    record: Option<Record>,
    /// Bytes that the head promised and that are still to come: hyper asks for none beyond them.
    left: Option<u64>,
    /// An error that was met and is told when asked again. hyper drops what it has not written when a body fails, and its
    /// client gets an empty reply for a status, and a beginning, that were there; where the body is late it writes them.
    failed: Option<BodyError>,
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
        if let Some(error) = this.failed.take() {
            return Poll::Ready(Some(Err(error)));
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
                this.failed = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            polled => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
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

    #[tokio::test]
    async fn a_body_that_fails_takes_neither_its_head_nor_its_beginning_with_it() {
        for beginning in [None, Some("begun")] {
            let said = said_of(beginning).await;
            assert!(said.starts_with("HTTP/1.1 500") && !said.ends_with("0\r\n\r\n"), "{said}");
            assert!(said.contains(beginning.unwrap_or_default()), "{said}");
        }
    }

    /// What a client gets of an answer that fails after this.
    async fn said_of(beginning: Option<&'static str>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = hyper::service::service_fn(async |_| {
                let begun = beginning.map(|text| Ok(Frame::data(Bytes::from_static(text.as_bytes()))));
                let failure = Err(BodyError::Transport("never finished".into()));
                let failing =
                    http_body_util::StreamBody::new(futures::stream::iter(begun.into_iter().chain([failure])));
                let inner = failing.boxed_unsync();
                let body = Recorded { inner, record: None, left: None, failed: None };
                Ok::<_, std::convert::Infallible>(Response::builder().status(500).body(body).unwrap())
            });
            hyper::server::conn::http1::Builder::new()
                .serve_connection(hyper_util::rt::TokioIo::new(stream), answer)
                .await
        });
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert!(serving.await.unwrap().is_err());
        said
    }
}

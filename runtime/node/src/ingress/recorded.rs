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
}

impl Recorded {
    /// A body of which nothing is kept.
    pub(super) fn plain(answer: Response<Body>) -> Response<Self> {
        answer.map(|inner| Self { inner, record: None, left: None })
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
        Response::from_parts(parts, Self { inner, record: Some(record), left })
    }
}

impl http_body::Body for Recorded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_frame(cx);
        let Some(record) = &mut this.record else { return polled };
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
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

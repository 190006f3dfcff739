//! A request body that tells how far it got.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;

use crate::body::{Body, BodyError};

/// How many bytes of an upload the connection has taken. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Progress(Arc<AtomicU64>);

impl Progress {
    /// Bytes so far.
    pub(in super::super) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Pieces that are small enough to make a bar move.
const PIECE: usize = 64 << 10;

struct Upload {
    parts: VecDeque<Bytes>,
    progress: Progress,
}

/// A body of these parts, one after the other, that counts what it gave away.
pub(in super::super) fn upload(parts: impl IntoIterator<Item = Bytes>, progress: Progress) -> Body {
    let parts = parts.into_iter().filter(|part| !part.is_empty()).collect();
    Upload { parts, progress }.boxed_unsync()
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(mut part) = self.parts.pop_front() else { return Poll::Ready(None) };
        let piece = part.split_to(part.len().min(PIECE));
        if !part.is_empty() {
            self.parts.push_front(part);
        }
        self.progress.0.fetch_add(piece.len() as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.parts.iter().map(|part| part.len() as u64).sum())
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;

    use super::*;

    #[tokio::test]
    async fn every_byte_arrives_in_order_and_is_counted() {
        let progress = Progress::default();
        let parts =
            [Bytes::from_static(b"head"), Bytes::from(vec![7; 3 * PIECE + 5]), Bytes::new(), Bytes::from("end")];
        let body = upload(parts.clone(), progress.clone());
        let whole = parts.concat();
        assert_eq!(body.size_hint().exact(), Some(whole.len() as u64));
        assert_eq!(body.collect().await.unwrap().to_bytes(), whole);
        assert_eq!(progress.bytes(), whole.len() as u64);
    }
}

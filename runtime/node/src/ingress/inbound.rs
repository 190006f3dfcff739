//! The body of an inbound request: counted as it streams, so that its bound holds without its length being known.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use tidegate_core::units::Size;

use super::Lingering;
use crate::{
    body::{self, Body, BodyError},
    problem::Problem,
    settings::names,
};

/// Whether a body turned out to be too large while it streamed.
#[derive(Clone, Debug, Default)]
pub(super) struct Exceeded(Option<Arc<AtomicBool>>);

impl Exceeded {
    /// Whether it did.
    pub(super) fn get(&self) -> bool {
        self.0.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed))
    }
}

/// The body within its bound.
///
/// # Errors
/// 413 at once where the stated length is beyond the bound.
pub(super) fn bounded(incoming: Lingering, limit: u64) -> Result<(Body, Exceeded), Problem> {
    let hint = incoming.size_hint();
    if hint.lower() > limit {
        return Err(too_large(limit));
    }
    if incoming.is_end_stream() {
        return Ok((body::empty(), Exceeded::default()));
    }
    // A stated length is kept by hyper: only a body without one can turn out too large.
    let flag = hint.upper().is_none_or(|most| most > limit).then(Arc::<AtomicBool>::default);
    let exceeded = Exceeded(flag.clone());
    Ok((Inbound { incoming, left: limit, limit, flag }.boxed_unsync(), exceeded))
}

/// 413.
pub(super) fn too_large(limit: u64) -> Problem {
    let limit = Size(limit);
    let detail = format!("the body of the request is larger than {limit} (setting {})", names::MAX_REQUEST_BODY);
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "request-too-large", "The request is too large", detail)
        .bound("request body", limit, names::MAX_REQUEST_BODY)
        .final_answer()
}

struct Inbound {
    incoming: Lingering,
    left: u64,
    limit: u64,
    flag: Option<Arc<AtomicBool>>,
}

impl http_body::Body for Inbound {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        Pin::new(&mut this.incoming).poll_frame(cx).map(|polled| {
            polled.map(|frame| {
                let frame = frame.map_err(|error| BodyError::Transport(error.to_string()))?;
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                match this.left.checked_sub(length) {
                    Some(left) => {
                        this.left = left;
                        Ok(frame)
                    }
                    None => {
                        if let Some(flag) = &this.flag {
                            flag.store(true, Ordering::Relaxed);
                        }
                        Err(BodyError::TooLarge { limit: this.limit, setting: names::MAX_REQUEST_BODY })
                    }
                }
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

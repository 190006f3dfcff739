//! What a refusal says in its body.

use http::Response;
use tidegate_core::{
    signal::{self, Finals},
    units::{Size, Span},
};

use crate::{
    outbound::{
        body::{Unread, plain},
        pool::{Peeked, Streaming},
    },
    settings::{OutboundSettings, names},
};

/// How much of a refusal is read, and how long it is waited for.
#[derive(Clone, Copy)]
pub(super) struct Refusals {
    size: Size,
    wait: Span,
}

impl Refusals {
    pub(super) fn new(settings: &OutboundSettings) -> Self {
        Self { size: settings.refusal_body, wait: settings.refusal_wait }
    }

    /// The body of a refusal, unpacked, where it may say more than the head. A bound that keeps it unread is told.
    pub(super) async fn body(
        self,
        response: &mut Response<Streaming>,
        finals: &Finals,
        tell: impl FnOnce(String),
    ) -> Option<Vec<u8>> {
        if !signal::wants_body(response.status(), response.headers(), finals) {
            return None;
        }
        let Self { size, wait } = self;
        let too_large = || format!("larger than {size} (setting {})", names::REFUSAL_BODY);
        let bound = match response.body_mut().peek(size.get(), wait.get()).await {
            Peeked::Whole(body) => match plain(response.headers(), body, size.get()) {
                Ok(body) => return Some(body),
                Err(Unread::TooLarge) => format!("unpacked, {}", too_large()),
                Err(other) => other.to_string(),
            },
            Peeked::Broken => return None,
            Peeked::TooLarge => too_large(),
            Peeked::TooSlow => format!("not here within {wait} (setting {})", names::REFUSAL_WAIT),
        };
        let status = response.status().as_u16();
        tell(format!("what the {status} means beyond its head is not known: its body is {bound}"));
        None
    }
}

//! One attempt: a connection, the word that it departs, the exchange.

use std::{error::Error as _, io, time::Duration};

use http::{HeaderValue, Method, Request, Response, Uri, header};
use tidegate_core::{Ticket, repeat::Failure, shard::Departure};
use tokio::time::Instant;

use super::calls::Call;
use crate::{
    outbound::{
        TransportError,
        body::OutBody,
        guard::AddressDenied,
        pool::{Broken, DialError, Lease, Streaming},
        shards::{self, Admission},
    },
    settings::names,
};

/// Connections that a request is moved to, free of charge, because the one before it turned out to be closed.
const MOVES: u32 = 3;

/// What an attempt came to.
pub(super) enum Attempted {
    /// The head of an answer, and the time it took.
    Answer(Box<Response<Streaming>>, Duration),
    /// No answer.
    Failed(Failure, TransportError),
    /// The address guard denies every address of the host.
    Denied(AddressDenied),
    /// The destination was paused meanwhile; nothing left.
    PutBack(Ticket),
    /// The sender's own body failed: nobody's fault but its.
    BodyFailed(TransportError),
}

impl Call<'_> {
    pub(super) async fn attempt(&mut self, admission: &Admission) -> Attempted {
        let mut moves = 0;
        let mut gone = false;
        loop {
            let lease = match self.connect().await {
                Ok(lease) => lease,
                Err(other) => return other,
            };
            if !gone {
                match admission.departed() {
                    Departure::Go | Departure::Released => {}
                    Departure::PutBack(ticket) => {
                        lease.give_back();
                        return Attempted::PutBack(ticket);
                    }
                }
                self.departed();
                gone = true;
            }
            let Some(body) = self.kept.attempt() else {
                let why = self.kept.failure().unwrap_or_else(|| "it was streamed and is gone".into());
                return Attempted::BodyFailed(TransportError::RequestBody { why });
            };
            let Some(request) = self.request(&lease, body) else {
                let why = "its URI can't be written".into();
                return Attempted::BodyFailed(TransportError::BadRequest { why });
            };
            let began = Instant::now();
            let limit = self.first_byte();
            let broken = match tokio::time::timeout(limit.min(self.left()), lease.exchange(request)).await {
                Ok(Ok(response)) => return Attempted::Answer(Box::new(response), began.elapsed()),
                Ok(Err(broken)) => broken,
                Err(_) => {
                    let host = self.target.host.to_string();
                    let setting = names::FIRST_BYTE_TIMEOUT;
                    return Attempted::Failed(
                        Failure::TimedOut,
                        TransportError::FirstByteTimeout { host, limit, setting },
                    );
                }
            };
            if let Some(why) = self.kept.failure() {
                return Attempted::BodyFailed(TransportError::RequestBody { why });
            }
            // Where not a byte left, or the peer closed an old connection under a request that may be repeated, the
            // request moves to another connection as if this one had never been there.
            let unsent = broken.request.is_some();
            let stale = broken.reused && self.repeatable && is_lost(&broken.error);
            if (unsent || stale) && moves < MOVES && self.kept.is_replayable() {
                moves += 1;
                continue;
            }
            return Attempted::Failed(Failure::Broken, self.classify(&broken));
        }
    }

    async fn connect(&self) -> Result<Lease, Attempted> {
        let limit = self.door.settings.connect_timeout.get();
        let limit = self.timeouts.connect.map_or(limit, |own| own.min(limit));
        let leased = tokio::time::timeout(limit.min(self.left()), self.target.upstream.lease()).await;
        match leased {
            Ok(Ok(lease)) => Ok(lease),
            Ok(Err(DialError::Denied(denied))) => Err(Attempted::Denied(denied)),
            Ok(Err(DialError::Failed(error))) => Err(Attempted::Failed(Failure::Connect, error)),
            Err(_) => {
                let host = self.target.host.to_string();
                let setting = names::CONNECT_TIMEOUT;
                Err(Attempted::Failed(
                    Failure::Connect,
                    TransportError::ConnectTimeout { host, limit, setting },
                ))
            }
        }
    }

    /// Time to the head of an answer.
    fn first_byte(&self) -> Duration {
        let limit = self.policy.attempt_timeout;
        self.timeouts.first_byte.map_or(limit, |own| own.min(limit))
    }

    /// Time to the deadline.
    pub(super) fn left(&self) -> Duration {
        self.deadline.since(shards::now())
    }

    fn request(&self, lease: &Lease, body: OutBody) -> Option<Request<OutBody>> {
        let head = &self.head;
        let mut headers = head.headers.clone();
        let uri = if lease.is_h2() {
            self.target.absolute(&head.uri)?
        } else {
            headers.insert(header::HOST, self.target.host_header()?);
            headers.remove(header::TE);
            match (body.length(), &head.method) {
                // A method that usually has a body says so when it has none (RFC 9110 section 8.6).
                (Some(0), &Method::POST | &Method::PUT | &Method::PATCH) => {
                    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
                }
                (None, _) => {
                    headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
                }
                _ => {}
            }
            match head.uri.path_and_query() {
                Some(path) => Uri::from(path.clone()),
                None => Uri::from_static("/"),
            }
        };
        let mut request = Request::new(body);
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Some(request)
    }

    /// What a broken exchange is called.
    fn classify(&self, broken: &Broken) -> TransportError {
        let host = self.target.host.to_string();
        let error = &broken.error;
        let why = match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        if error.is_parse() || error.is_parse_too_large() || error.is_parse_status() {
            TransportError::Protocol { host, why }
        } else {
            TransportError::Closed { host, why }
        }
    }
}

/// Whether the connection is gone without a byte of an answer.
fn is_lost(error: &hyper::Error) -> bool {
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return true;
    }
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted
            );
        }
        source = error.source();
    }
    false
}

//! Where a guest's outgoing request leaves wasmtime: counted, refused by an answer, or handed to the door.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderName, Request, Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpHooks,
    p3::bindings::http::types::{DnsErrorPayload, ErrorCode},
};

use super::{
    deployment::Deployed,
    running::{CallRefusal, OpenCall, Running, Turn},
    state::BODY_CHUNK,
};
use crate::{
    body::{Body, BodyError, ReadOn, read_on},
    ids::{TRACEPARENT, TRACESTATE},
    observe::Note,
    outbound::{CallTimeouts, OutboundCall, Said, TransportError},
    problem::Problem,
};

/// The answer to a call.
pub(super) type Answered = BoxFuture<'static, Result<Response<CallBody>, ErrorCode>>;

type SendResult = Result<(Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

/// The hooks of one store.
pub(super) struct Hooks {
    deployed: Arc<Deployed>,
    /// The one invocation that outgoing requests can belong to, where the instance serves one at a time.
    pub(super) current: Option<Arc<Running>>,
    /// Every head that the guest makes or sees holds it: on one of all stores the threads would meet.
    forbidden: ForbiddenHeaderFilter,
}

impl Hooks {
    pub(super) fn new(deployed: Arc<Deployed>) -> Self {
        Self { deployed, current: None, forbidden: Arc::new(|name| FORBIDDEN.contains(name)) }
    }

    /// Takes a call from the guest: counted, then refused by an answer or handed to the door.
    pub(super) fn call(
        &self,
        caller: Option<Arc<Running>>,
        mut request: Request<WasiBody>,
        options: Option<RequestOptions>,
    ) -> Answered {
        let Some(running) = caller else {
            return refuse(None, CallRefusal::Over, request, self.deployed.read_on);
        };
        let turn = match running.begin_call() {
            Ok(turn) => turn,
            Err(refusal) => return refuse(Some(&running), refusal, request, self.deployed.read_on),
        };
        let token = running.token();
        let what =
            matches!(turn, Turn::Later(_)).then(|| Said { method: request.method(), uri: request.uri() }.to_string());
        let trail = running.trail.clone();
        request.extensions_mut().insert(running.hops);
        // What a guest says of its own trace stays.
        if let Some(state) = &running.tracestate
            && !request.headers().contains_key(TRACEPARENT)
        {
            request.headers_mut().entry(TRACESTATE).or_insert_with(|| state.clone());
        }
        let call = OutboundCall {
            request: request.map(|body| body.map_err(from_guest).boxed_unsync()),
            sender: Arc::clone(&self.deployed.sender),
            timeouts: timeouts(options),
            trail: trail.clone(),
            trace: running.trace,
            wait_clock: Some(running.wait_clock()),
        };
        // Not inside the future: the door numbers calls in the order in which the guest makes them.
        let answer = self.deployed.egress.send(call);
        match turn {
            Turn::Now(open) => Box::pin(answered(token, open, answer)),
            Turn::Later(turn) => {
                let bound = running.limits.concurrent_calls;
                Box::pin(async move {
                    let began = Instant::now();
                    let turn = tokio::select! {
                        biased;
                        () = token.cancelled() => return Err(ErrorCode::ConnectionTerminated),
                        turn = turn => turn,
                    };
                    let Ok(open) = turn else { return Err(ErrorCode::ConnectionTerminated) };
                    trail.note(Note::Guest(format!(
                        "{} waited {:?} for calls before it: {} at once (setting {})",
                        what.unwrap_or_default(),
                        began.elapsed(),
                        bound.value,
                        bound.setting
                    )));
                    answered(token, open, answer).await
                })
            }
        }
    }
}

/// The answer to a call that is under way. It is open until the head is there: one that were open until its body is read
/// would wait for ever behind a guest that collects all its answers before it reads the first.
async fn answered(
    token: CancellationToken,
    open: OpenCall,
    answer: BoxFuture<'static, Result<Response<Body>, TransportError>>,
) -> Result<Response<CallBody>, ErrorCode> {
    let answer = tokio::select! {
        biased;
        () = token.cancelled() => return Err(ErrorCode::ConnectionTerminated),
        answer = answer => answer.map_err(to_code)?,
    };
    drop(open);
    let cancelled = Some(Box::pin(token.cancelled_owned()));
    Ok(answer.map(|inner| CallBody { inner, cancelled }))
}

/// As a constant it would be made for every question, which guests ask for each header.
static FORBIDDEN: [HeaderName; 9] = DEFAULT_FORBIDDEN_HEADERS;

impl WasiHttpHooks for Hooks {
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        FORBIDDEN.contains(name)
    }

    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        Arc::clone(&self.forbidden)
    }

    /// Calls over 0.2; those over 0.3 come by [`super::client`].
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _response_outcome: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = SendResult> + Send> {
        let answer = self.call(self.current.clone(), request, options);
        Box::new(async move {
            let nothing_to_drive: Box<dyn Future<Output = Result<(), Error>> + Send> =
                Box::new(std::future::ready(Ok(())));
            Ok((answer.await?.map(BodyExt::boxed_unsync), nothing_to_drive))
        })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK
    }
}

/// Refusals are answers: a wasi error code reaches JavaScript as a `TypeError` with nothing in it.
fn refuse(
    running: Option<&Arc<Running>>,
    refusal: CallRefusal,
    request: Request<WasiBody>,
    bounds: ReadOn,
) -> Answered {
    let Some((running, problem)) = running.and_then(|running| Some((running, problem(running, refusal)?))) else {
        return Box::pin(std::future::ready(Err(ErrorCode::ConnectionTerminated)));
    };
    let said = Said { method: request.method(), uri: request.uri() };
    running.trail.note(Note::Guest(format!("{said} refused: {}", problem.detail)));
    let body = request.into_body();
    if !body.is_end_stream() {
        let token = running.token();
        tokio::spawn(async move {
            tokio::select! {
                () = token.cancelled() => {}
                _ = read_on(body, bounds) => {}
            }
        });
    }
    let answer = problem.into_response().map(|inner| CallBody { inner, cancelled: None });
    Box::pin(std::future::ready(Ok(answer)))
}

fn problem(running: &Running, refusal: CallRefusal) -> Option<Problem> {
    let bound = match refusal {
        CallRefusal::Calls => running.limits.calls,
        CallRefusal::Over => return None,
    };
    let (kind, title) = ("outbound-calls", "This invocation made all its calls");
    let detail = format!("an invocation may make {} outbound calls (setting {})", bound.value, bound.setting);
    Some(
        Problem::new(StatusCode::TOO_MANY_REQUESTS, kind, title, detail)
            .bound(kind, bound.value, bound.setting)
            .final_answer()
            .trail(running.trace_id()),
    )
}

fn timeouts(options: Option<RequestOptions>) -> CallTimeouts {
    let options = options.unwrap_or_default();
    CallTimeouts {
        connect: options.connect_timeout,
        first_byte: options.first_byte_timeout,
        between_bytes: options.between_bytes_timeout,
    }
}

/// A transport failure, as precisely as `wasi:http` can say it.
fn to_code(error: TransportError) -> ErrorCode {
    match error {
        TransportError::Dns { why, .. } => ErrorCode::DnsError(DnsErrorPayload { rcode: Some(why), info_code: None }),
        TransportError::Connect { .. } => ErrorCode::ConnectionRefused,
        TransportError::ConnectTimeout { .. } => ErrorCode::ConnectionTimeout,
        TransportError::Tls { certificate: true, .. } => ErrorCode::TlsCertificateError,
        TransportError::Tls { .. } => ErrorCode::TlsProtocolError,
        TransportError::FirstByteTimeout { .. } => ErrorCode::ConnectionReadTimeout,
        TransportError::Unread { .. } => ErrorCode::ConnectionWriteTimeout,
        TransportError::Closed { .. } => ErrorCode::ConnectionTerminated,
        TransportError::HeadTooLarge { bytes, .. } => {
            ErrorCode::HttpResponseHeaderSectionSize(u32::try_from(bytes.get()).ok())
        }
        TransportError::Protocol { .. } => ErrorCode::HttpProtocolError,
        TransportError::InVain(last) => to_code(*last),
        error @ TransportError::RequestBody { .. } => ErrorCode::InternalError(Some(error.to_string())),
        TransportError::BadRequest { .. } => ErrorCode::HttpRequestUriInvalid,
    }
}

/// A body that comes to the guest failed.
pub(super) fn to_guest(error: BodyError) -> Error {
    match error {
        BodyError::Transport(_) | BodyError::Cancelled => Error::ConnectionTerminated,
        BodyError::Idle { .. } => Error::ConnectionReadTimeout,
        BodyError::Total { .. } => Error::HttpResponseTimeout,
        BodyError::TooLarge { limit, .. } => Error::HttpRequestBodySize(Some(limit)),
        BodyError::Guest(why) => Error::InternalError(Some(why)),
    }
}

/// The same as `wasi:http` says it. A guest that reads a body of its own gets what it said itself as text.
pub(super) fn code_of(error: Error) -> ErrorCode {
    match error {
        Error::ConnectionTerminated => ErrorCode::ConnectionTerminated,
        Error::ConnectionReadTimeout => ErrorCode::ConnectionReadTimeout,
        Error::HttpResponseTimeout => ErrorCode::HttpResponseTimeout,
        Error::HttpRequestBodySize(limit) => ErrorCode::HttpRequestBodySize(limit),
        Error::InternalError(why) => ErrorCode::InternalError(why),
        other => ErrorCode::InternalError(Some(other.to_string())),
    }
}

/// A body that comes from the guest failed.
pub(super) fn from_guest(error: Error) -> BodyError {
    BodyError::Guest(error.to_string())
}

/// The body of a call's answer. It ends with its invocation.
pub(super) struct CallBody {
    inner: Body,
    /// Nothing where the host itself answered.
    cancelled: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl http_body::Body for CallBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(to_guest)));
        }
        let Some(cancelled) = &mut self.cancelled else { return Poll::Pending };
        ready!(cancelled.as_mut().poll(cx));
        self.inner = crate::body::empty();
        Poll::Ready(Some(Err(Error::ConnectionTerminated)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

//! Where a guest's outgoing request leaves wasmtime: counted, refused by an answer, or handed to the door.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio_util::sync::WaitForCancellationFutureOwned;
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpHooks,
};

use super::{
    deployment::Deployed,
    running::{CallRefusal, OpenCall, Running},
    state::BODY_CHUNK,
};
use crate::{
    body::{Body, BodyError},
    observe::Note,
    outbound::{CallTimeouts, OutboundCall, TransportError},
    problem::Problem,
};

/// A refused call's request body is read on for this long, as some guests abort when it closes.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// Bytes of a refused call's request body that are read on.
const DRAIN_BYTES: u64 = 100 << 20;

type SendResult = Result<(Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

/// The hooks of one store.
pub(super) struct Hooks {
    deployed: Arc<Deployed>,
    /// The invocation that outgoing requests belong to. On a shared instance it is set just before each of them.
    pub(super) current: Option<Arc<Running>>,
    forbidden: ForbiddenHeaderFilter,
}

impl Hooks {
    pub(super) fn new(deployed: Arc<Deployed>) -> Self {
        let forbidden = Arc::clone(&deployed.forbidden_headers);
        Self { deployed, current: None, forbidden }
    }
}

/// Headers that guests can neither set nor see, shared by all stores.
pub(super) fn forbidden_headers() -> ForbiddenHeaderFilter {
    Arc::new(|name| DEFAULT_FORBIDDEN_HEADERS.contains(name))
}

impl WasiHttpHooks for Hooks {
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        DEFAULT_FORBIDDEN_HEADERS.contains(name)
    }

    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        Arc::clone(&self.forbidden)
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _response_outcome: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = SendResult> + Send> {
        let Some(running) = self.current.clone() else { return refuse(None, CallRefusal::Over, request) };
        let open = match running.begin_call() {
            Ok(open) => open,
            Err(refusal) => return refuse(Some(&running), refusal, request),
        };
        let token = running.token();
        let call = OutboundCall {
            request: request.map(|body| body.map_err(from_guest).boxed_unsync()),
            sender: Arc::clone(&self.deployed.sender),
            timeouts: timeouts(options),
            trail: running.trail.clone(),
            trace: running.trace,
            wait_clock: Some(running.wait_clock()),
        };
        // Not inside the future: the door numbers calls in the order in which the guest makes them.
        let answer = self.deployed.egress.send(call);
        Box::new(async move {
            let answer = tokio::select! {
                biased;
                () = token.cancelled() => return Err(Error::ConnectionTerminated),
                answer = answer => answer.map_err(to_error)?,
            };
            let answer = answer.map(|inner| {
                CallBody { inner, cancelled: Box::pin(token.cancelled_owned()), _open: open }.boxed_unsync()
            });
            Ok((answer, done()))
        })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK
    }
}

/// Nothing to drive besides the bodies.
fn done() -> Box<dyn Future<Output = Result<(), Error>> + Send> {
    Box::new(std::future::ready(Ok(())))
}

/// Refusals are answers: a wasi error code reaches JavaScript as a `TypeError` with nothing in it.
fn refuse(
    running: Option<&Arc<Running>>,
    refusal: CallRefusal,
    request: Request<WasiBody>,
) -> Box<dyn Future<Output = SendResult> + Send> {
    let Some((running, problem)) = running.and_then(|running| Some((running, problem(running, refusal)?))) else {
        return Box::new(std::future::ready(Err(Error::ConnectionTerminated)));
    };
    running.trail.note(Note::Guest(format!("{} {} refused: {}", request.method(), request.uri(), problem.detail)));
    let body = request.into_body();
    if !body.is_end_stream() {
        let token = running.token();
        tokio::spawn(async move {
            tokio::select! {
                () = token.cancelled() => {}
                _ = tokio::time::timeout(DRAIN_TIME, drain(body)) => {}
            }
        });
    }
    let answer = problem.into_response().map(|body| body.map_err(to_guest).boxed_unsync());
    Box::new(std::future::ready(Ok((answer, done()))))
}

async fn drain(mut body: WasiBody) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, |data| data.len() as u64);
        if read > DRAIN_BYTES {
            return;
        }
    }
}

fn problem(running: &Running, refusal: CallRefusal) -> Option<Problem> {
    let (kind, title, bound, what) = match refusal {
        CallRefusal::Calls => {
            ("outbound-calls", "This invocation made all its calls", running.limits.calls, "outbound calls")
        }
        CallRefusal::Concurrent => (
            "concurrent-calls",
            "Too many calls are open in this invocation",
            running.limits.concurrent_calls,
            "outbound calls at once",
        ),
        CallRefusal::Over => return None,
    };
    let detail = format!("an invocation may make {} {what}; setting {} changes it", bound.value, bound.setting);
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
fn to_error(error: TransportError) -> Error {
    match error {
        TransportError::Dns { why, .. } => Error::DnsError { rcode: Some(why), info_code: None },
        TransportError::Connect { .. } => Error::ConnectionRefused,
        TransportError::ConnectTimeout { .. } => Error::ConnectionTimeout,
        TransportError::Tls { why, .. } if why.contains("certificate") => Error::TlsCertificateError,
        TransportError::Tls { .. } => Error::TlsProtocolError,
        TransportError::FirstByteTimeout { .. } => Error::ConnectionReadTimeout,
        TransportError::Closed { .. } => Error::ConnectionTerminated,
        TransportError::Protocol { .. } => Error::HttpProtocolError,
        error @ TransportError::RequestBody { .. } => Error::InternalError(Some(error.to_string())),
        TransportError::BadRequest { .. } => Error::HttpRequestUriInvalid,
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

/// A body that comes from the guest failed.
pub(super) fn from_guest(error: Error) -> BodyError {
    BodyError::Guest(error.to_string())
}

/// The body of a call's answer: its call is open as long as it is, and it ends with its invocation.
struct CallBody {
    inner: Body,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
    _open: OpenCall,
}

impl http_body::Body for CallBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(frame.map(|frame| frame.map_err(to_guest))),
            Poll::Pending => match self.cancelled.as_mut().poll(cx) {
                Poll::Ready(()) => {
                    self.inner = crate::body::empty();
                    Poll::Ready(Some(Err(Error::ConnectionTerminated)))
                }
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

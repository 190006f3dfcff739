//! Bodies that come to a guest of 0.3: read by it, or passed on behind what it read of them.
//!
//! Wasmtime's own stream of such a body keeps what did not fit into a read outside the body, and drops it when the body
//! is passed on: a hole that nobody hears of. So the streams are ours. They keep the rest of a read in themselves, and a
//! body that is passed on begins with it.

use std::{
    any::{Any, TypeId},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, uri};
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::oneshot;
use wasmtime::{
    AsContextMut, StoreContextMut,
    component::{
        Access, Destination, FutureConsumer, FutureReader, Linker, Resource, Source, StreamProducer, StreamReader,
        StreamResult,
    },
};
use wasmtime_wasi_http::{
    Error, FieldMap, WasiBody, WasiHttp, WasiHttpView,
    p3::{
        Request as GuestRequest, Response as GuestResponse,
        bindings::http::types::{ErrorCode, HostRequestWithStore, HostResponseWithStore, RequestOptions},
    },
};

use super::{hooks::code_of, state::GuestState};

type Store<'a> = StoreContextMut<'a, GuestState>;
type Trailers = FutureReader<Result<Option<Resource<FieldMap>>, ErrorCode>>;
type Outcome = FutureReader<Result<(), ErrorCode>>;

/// Puts our own `consume-body` and `new` over those of wasmtime.
///
/// # Errors
/// When the interface is not linked.
pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    type Contents = Option<StreamReader<u8>>;
    type Options = Option<Resource<RequestOptions>>;
    linker.allow_shadowing(true);
    let mut types = linker.instance("wasi:http/types@0.3.0")?;
    types.func_wrap(
        "[static]request.consume-body",
        |mut store: Store<'_>, (request, outcome): (Resource<GuestRequest>, Outcome)| {
            let mut request = store.data_mut().http().table.delete(request)?;
            // Only its body is asked for: what else it holds must not be what this fails at.
            request.headers = FieldMap::default();
            request.scheme = Some(uri::Scheme::HTTP);
            request.authority = Some(uri::Authority::from_static("localhost"));
            request.path_with_query = Some(uri::PathAndQuery::from_static("/"));
            let told = told(&mut store, outcome)?;
            let (request, _) = request.into_http_with_getter(&mut store, told, GuestState::http).map_err(|error| {
                error.downcast().map_or_else(|trap| trap, |code| wasmtime::Error::msg(format!("{code:?}")))
            })?;
            Ok((read(&mut store, request.into_body())?,))
        },
    )?;
    types.func_wrap(
        "[static]response.consume-body",
        |mut store: Store<'_>, (response, outcome): (Resource<GuestResponse>, Outcome)| {
            let mut response = store.data_mut().http().table.delete(response)?;
            response.headers = FieldMap::default();
            let told = told(&mut store, outcome)?;
            let response = response.into_http_with_getter(&mut store, told, GuestState::http)?;
            Ok((read(&mut store, response.into_body())?,))
        },
    )?;
    types.func_wrap(
        "[static]request.new",
        |mut store: Store<'_>,
         (headers, contents, trailers, options): (Resource<FieldMap>, Contents, Trailers, Options)| {
            let contents = pass_on(&mut store, contents)?;
            let access = Access::<_, WasiHttp>::new(store, GuestState::http);
            Ok((<WasiHttp as HostRequestWithStore<_>>::new(access, headers, contents, trailers, options)?,))
        },
    )?;
    types.func_wrap(
        "[static]response.new",
        |mut store: Store<'_>, (headers, contents, trailers): (Resource<FieldMap>, Contents, Trailers)| {
            let contents = pass_on(&mut store, contents)?;
            let access = Access::<_, WasiHttp>::new(store, GuestState::http);
            Ok((<WasiHttp as HostResponseWithStore<_>>::new(access, headers, contents, trailers)?,))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

/// What the guest will say about how it got on with a body.
fn told(
    store: &mut Store<'_>,
    outcome: Outcome,
) -> wasmtime::Result<impl Future<Output = Result<(), Error>> + Send + use<>> {
    struct Tell(Option<oneshot::Sender<Result<(), Error>>>);

    impl FutureConsumer<GuestState> for Tell {
        type Item = Result<(), ErrorCode>;

        fn poll_consume(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            mut store: StoreContextMut<'_, GuestState>,
            mut source: Source<'_, Self::Item>,
            _: bool,
        ) -> Poll<wasmtime::Result<()>> {
            let mut outcome = None;
            source.read(&mut store, &mut outcome)?;
            if let (Some(teller), Some(outcome)) = (self.0.take(), outcome) {
                let _ = teller.send(outcome.map_err(Error::from));
            }
            Poll::Ready(Ok(()))
        }
    }

    let (teller, told) = oneshot::channel();
    outcome.pipe(store.as_context_mut(), Tell(Some(teller)))?;
    Ok(async move { told.await.unwrap_or(Ok(())) })
}

/// The body as a guest reads it.
fn read(store: &mut Store<'_>, body: WasiBody) -> wasmtime::Result<(StreamReader<u8>, Trailers)> {
    let (ended, end) = oneshot::channel();
    let reading = Reading { unread: Unread { rest: Bytes::new(), body }, ended: Some(ended) };
    let stream = StreamReader::new(store.as_context_mut(), reading)?;
    // One that is passed on or left has no trailers for the guest.
    let end = async move { wasmtime::error::Ok(end.await.unwrap_or(Ok(None))) };
    Ok((stream, FutureReader::new(store.as_context_mut(), end)?))
}

/// The contents of a new message. Where they are what is left of a body that the guest did not read to its end, they
/// become one that wasmtime knows as its own: it sends such a body without taking it through the guest's store.
fn pass_on(store: &mut Store<'_>, contents: Option<StreamReader<u8>>) -> wasmtime::Result<Option<StreamReader<u8>>> {
    let Some(contents) = contents else { return Ok(None) };
    let mut reading = match contents.try_into::<Reading>(store.as_context_mut()) {
        Ok(reading) => reading,
        Err(contents) => return Ok(Some(contents)),
    };
    let unread = std::mem::take(&mut reading.unread);
    let (message, _) = GuestRequest::new(Method::GET, None, None, None, FieldMap::default(), None, unread);
    let message = store.data_mut().http().table.push(message)?;
    let outcome = FutureReader::new(store.as_context_mut(), async { wasmtime::error::Ok(Ok(())) })?;
    let access = Access::<_, WasiHttp>::new(store.as_context_mut(), GuestState::http);
    let (contents, mut trailers) = <WasiHttp as HostRequestWithStore<_>>::consume_body(access, message, outcome)?;
    // They come with the body.
    trailers.close(store.as_context_mut())?;
    Ok(Some(contents))
}

/// A body that a guest reads.
struct Reading {
    unread: Unread,
    ended: Option<oneshot::Sender<Result<Option<Resource<FieldMap>>, ErrorCode>>>,
}

impl Reading {
    fn end(&mut self, how: Result<Option<Resource<FieldMap>>, ErrorCode>) -> Poll<wasmtime::Result<StreamResult>> {
        if let Some(ended) = self.ended.take() {
            let _ = ended.send(how);
        }
        Poll::Ready(Ok(StreamResult::Dropped))
    }
}

impl StreamProducer<GuestState> for Reading {
    type Item = u8;
    type Buffer = Bytes;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, GuestState>,
        mut destination: Destination<'a, u8, Bytes>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let this = &mut *self;
        let mut data = loop {
            let frame = match Pin::new(&mut this.unread).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(Some(Err(error))) => return this.end(Err(code_of(error))),
                Poll::Ready(None) => return this.end(Ok(None)),
                Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
                Poll::Pending => return Poll::Pending,
            };
            match frame.into_data().map_err(Frame::into_trailers) {
                Ok(data) if data.is_empty() => {}
                Ok(data) => break data,
                Err(Ok(trailers)) => {
                    let http = store.data_mut().http();
                    let trailers = FieldMap::new_immutable(http.hooks, trailers);
                    let trailers = http.table.push(trailers)?;
                    return this.end(Ok(Some(trailers)));
                }
                Err(Err(_)) => return this.end(Err(ErrorCode::HttpProtocolError)),
            }
        };
        match destination.remaining(&mut store) {
            Some(room) => {
                let now = data.split_to(room.min(data.len()));
                this.unread.rest = data;
                if !now.is_empty() {
                    let mut destination = destination.as_direct(store, now.len());
                    if let Some(place) = destination.remaining().get_mut(..now.len()) {
                        place.copy_from_slice(&now);
                    }
                    destination.mark_written(now.len());
                }
            }
            // Whoever reads in the host takes it all.
            None => destination.set_buffer(data),
        }
        Poll::Ready(Ok(StreamResult::Completed))
    }

    fn try_into(me: Pin<Box<Self>>, ty: TypeId) -> Result<Box<dyn Any>, Pin<Box<Self>>> {
        if ty != TypeId::of::<Self>() {
            return Err(me);
        }
        let me: Box<Self> = Pin::into_inner(me);
        Ok(me)
    }
}

/// What a guest has not read of a body: the rest of a frame, and what comes after it.
#[derive(Default)]
struct Unread {
    rest: Bytes,
    body: WasiBody,
}

impl http_body::Body for Unread {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.rest.is_empty() {
            return Pin::new(&mut self.body).poll_frame(cx);
        }
        Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.rest)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, body) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        if let Some(upper) = body.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(body.lower().saturating_add(rest));
        hint
    }
}

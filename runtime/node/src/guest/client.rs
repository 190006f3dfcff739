//! `wasi:http/client` 0.3: our own `send`.
//!
//! Wasmtime's has two faults that a guest can see: an empty path is no `/`, and a request that failed still tells the
//! guest that it was transmitted. And it does not say whose call it is: several requests share a 0.3 instance.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use wasmtime::{
    AsContextMut,
    component::{Accessor, Linker, Resource},
};
use wasmtime_wasi_http::{
    Error, WasiBody, WasiHttpView,
    p3::{Request, Response, bindings::http::types::ErrorCode},
};

use super::state::{self, GuestState};

type Transmitted = Result<(), Error>;

/// Offers `wasi:http/client@0.3`.
///
/// # Errors
/// When it is defined twice.
pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    linker
        .instance("wasi:http/client@0.3.0")?
        .func_wrap_concurrent("send", |accessor, (request,): (Resource<Request>,)| {
            Box::pin(async move { Ok((send(accessor, request).await?,)) })
        })
}

async fn send(
    accessor: &Accessor<GuestState>,
    request: Resource<Request>,
) -> wasmtime::Result<Result<Resource<Response>, ErrorCode>> {
    let (outcome, known) = oneshot::channel::<Transmitted>();
    let (end, ended) = oneshot::channel::<Transmitted>();
    // The future that `request.new` gave the guest: an error of the call counts, else how the body ended.
    let transmitted = async {
        known.await.unwrap_or(Err(Error::ConnectionTerminated))?;
        ended.await.unwrap_or(Err(Error::ConnectionTerminated))
    };
    let call = accessor.with(|mut access| {
        let mut store = access.as_context_mut();
        let caller = state::caller(&mut store)?;
        let mut request = store.data_mut().http().table.delete(request)?;
        if request.authority.is_some() && request.path_with_query.is_none() {
            request.path_with_query = Some(PathAndQuery::from_static("/"));
        }
        let (request, options) = match request.into_http_with_getter(&mut store, transmitted, GuestState::http) {
            Ok(request) => request,
            Err(error) => return error.downcast().map(Err),
        };
        let request = request.map(|inner| Outgoing { inner, end: Some(end) }.boxed_unsync());
        wasmtime::error::Ok(Ok(store.data_mut().hooks.call(caller, request, options.as_deref().copied())))
    })?;
    let answer = match call {
        Ok(call) => call.await,
        Err(code) => Err(code),
    };
    // The guest may have dropped its end of it.
    let _ = outcome.send(answer.as_ref().map(|_| ()).map_err(|code| code.clone().into()));
    let response = match answer {
        Ok(response) => response,
        Err(code) => return Ok(Err(code)),
    };
    accessor.with(|mut access| {
        let mut store = access.as_context_mut();
        let state = store.data_mut();
        let (response, _consumed) = Response::from_http(&mut state.hooks, response);
        Ok(Ok(state.http().table.push(response)?))
    })
}

/// A request's body that tells how it ended.
struct Outgoing {
    inner: WasiBody,
    end: Option<oneshot::Sender<Transmitted>>,
}

impl Outgoing {
    fn ended(&mut self, how: Transmitted) {
        if let Some(end) = self.end.take() {
            let _ = end.send(how);
        }
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            None => self.ended(Ok(())),
            Some(Err(error)) => self.ended(Err(Error::InternalError(Some(error.to_string())))),
            Some(Ok(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        let how = if self.inner.is_end_stream() { Ok(()) } else { Err(Error::ConnectionTerminated) };
        self.ended(how);
    }
}

//! A small HTTP client for commands: one connection a request, http or https, streams both ways.
//!
//! A command talks to one server a few times in its life. Pools, redirects, cookies and proxies would only add ways to
//! surprise; what it needs is a clear sentence when there is nobody at the other end.

pub(super) mod sse;
mod upload;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::failure::{Exit, Failure};
use crate::{body::Body, outbound::system_roots};

pub(super) use upload::{Progress, upload};

/// Time to connect, TLS included.
const CONNECT: Duration = Duration::from_secs(10);
/// Largest answer that is read whole.
const MAX_ANSWER: usize = 64 << 20;

/// Sends a request with an absolute URI and returns the head of the answer, its body still to come.
///
/// # Errors
/// When there is no connection, or it breaks before the head.
pub(super) async fn send(mut request: Request<Body>) -> Result<Response<Incoming>, Failure> {
    let uri = request.uri().clone();
    let origin = origin_of(&uri);
    let unreachable = |why: String| {
        Failure::new(Exit::Unreachable, format!("can't connect to {origin}: {why}"))
            .next("is a node running there? `tidegate dev` or `tidegate serve` starts one; --url names another")
    };
    let host = uri.host().ok_or_else(|| Failure::new(Exit::Usage, format!("`{uri}` names no host")))?;
    let bare_host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });

    let connecting = async {
        let stream = TcpStream::connect((bare_host.as_str(), port)).await.map_err(|error| error.to_string())?;
        let _ = stream.set_nodelay(true);
        if !secure {
            return Ok(Box::new(stream) as Box<dyn Transport>);
        }
        let name = ServerName::try_from(bare_host.clone()).map_err(|error| error.to_string())?;
        let stream = TlsConnector::from(tls_config()?).connect(name, stream).await;
        stream.map(|stream| Box::new(stream) as Box<dyn Transport>).map_err(|error| format!("TLS: {error}"))
    };
    let stream = tokio::time::timeout(CONNECT, connecting)
        .await
        .map_err(|_| unreachable(format!("no answer within {} s", CONNECT.as_secs())))?
        .map_err(unreachable)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    // The task ends with the connection, which ends when the answer's body is dropped.
    tokio::spawn(async move {
        let _ = connection.await;
    });

    if let Some(authority) = uri.authority()
        && let Ok(value) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(header::HOST, value);
    }
    let product = concat!("tidegate/", env!("CARGO_PKG_VERSION"));
    request.headers_mut().entry(header::USER_AGENT).or_insert(HeaderValue::from_static(product));
    *request.uri_mut() = uri.path_and_query().map_or_else(|| Uri::from_static("/"), |path| Uri::from(path.clone()));
    let broken = |error: hyper::Error| {
        Failure::new(Exit::Unreachable, format!("{origin} closed the connection before it answered: {error}"))
    };
    sender.send_request(request).await.map_err(broken)
}

/// Reads the whole body of an answer.
///
/// # Errors
/// When the connection breaks or the body is larger than 64 MiB.
pub(super) async fn read(body: Incoming) -> Result<Bytes, Failure> {
    let whole = Limited::new(body, MAX_ANSWER).collect().await;
    whole
        .map(http_body_util::Collected::to_bytes)
        .map_err(|error| Failure::new(Exit::Unreachable, format!("the answer broke off: {error}")))
}

trait Transport: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Transport for T {}

fn origin_of(uri: &Uri) -> String {
    match (uri.scheme_str(), uri.authority()) {
        (Some(scheme), Some(authority)) => format!("{scheme}://{authority}"),
        _ => uri.to_string(),
    }
}

/// The system's roots, Mozilla's where it has none.
fn tls_config() -> Result<Arc<ClientConfig>, String> {
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(Arc::new(config.with_root_certificates(system_roots()).with_no_client_auth()))
}

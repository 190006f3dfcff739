//! A small HTTP client for what is no call through the gate: a command that asks a node, a node that tells a collector.
//!
//! One connection a request, http or https, streams both ways. Pools, redirects, cookies and proxies would only add ways
//! to surprise.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{body::Body, outbound::system_roots};

/// Time to connect, TLS included.
const CONNECT: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The URI is not absolute.
    #[error("`{0}` names no host")]
    NoHost(Uri),
    /// There is no connection.
    #[error("can't connect to {origin}: {why}")]
    Unreachable {
        /// Scheme and authority.
        origin: String,
        /// What the system or TLS said.
        why: String,
    },
    /// It ended before the head of the answer.
    #[error("{origin} closed the connection before it answered: {why}")]
    Broken {
        /// Scheme and authority.
        origin: String,
        /// What was seen.
        why: hyper::Error,
    },
}

/// Sends a request with an absolute URI and returns the head of the answer, its body still to come.
///
/// # Errors
/// When there is no connection, or it breaks before the head.
pub(crate) async fn send(mut request: Request<Body>) -> Result<Response<Incoming>, ClientError> {
    let uri = request.uri().clone();
    let origin = origin_of(&uri);
    let unreachable = |why: String| ClientError::Unreachable { origin: origin.clone(), why };
    let host = uri.host().ok_or_else(|| ClientError::NoHost(uri.clone()))?;
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
    sender.send_request(request).await.map_err(|why| ClientError::Broken { origin, why })
}

/// Reads the whole body of an answer, of so many bytes at most.
///
/// # Errors
/// When the connection breaks or the body is larger.
pub(crate) async fn read(body: Incoming, most: usize) -> Result<Bytes, String> {
    let whole = Limited::new(body, most).collect().await;
    whole.map(http_body_util::Collected::to_bytes).map_err(|error| error.to_string())
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

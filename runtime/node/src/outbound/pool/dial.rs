//! From an origin to a connected socket: resolve, judge, connect.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use super::dns::{Dns, Unknown};
use crate::{
    ids::TenantId,
    outbound::{
        Origin, TransportError,
        guard::{AddressDenied, AddressGuard},
    },
};

/// Head start of an address over the next one (RFC 8305 calls it the connection attempt delay).
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses of one name that are tried at most.
const ADDRESSES: usize = 8;

/// Silence of a connection after which the system asks whether its peer is there, the time between two questions, and how
/// many stay without an answer (no settings: an upstream answers them without its program, and the first sign that NATs
/// forget a connection is at half a minute).
const QUIET: Duration = Duration::from_secs(15);
const PROBE: Duration = Duration::from_secs(5);
const PROBES: u32 = 3;

/// Why there is no connection.
#[derive(Clone, Debug)]
pub(crate) enum DialError {
    /// The guard denies every address there is.
    Denied(AddressDenied),
    /// It could not be made.
    Failed(TransportError),
    /// Nor can it be made at another time.
    Hopeless(TransportError),
}

/// Connects to the first address of the origin that answers, of those that the guard lets pass.
pub(super) async fn dial(
    tenant: &TenantId,
    origin: &Origin,
    dns: &Dns,
    guard: &AddressGuard,
) -> Result<TcpStream, DialError> {
    guard.check_name(&origin.host).map_err(DialError::Denied)?;
    let addresses = dns.look_up(tenant, &origin.host).await.map_err(|unknown| {
        let Unknown { why, lasting } = unknown;
        let error = TransportError::Dns { host: origin.host.to_string(), why: why.to_string(), lasting };
        if lasting { DialError::Hopeless(error) } else { DialError::Failed(error) }
    })?;
    let mut denied = None;
    let mut allowed = Vec::with_capacity(addresses.len().min(ADDRESSES));
    for address in addresses.iter() {
        match guard.check(&origin.host, *address) {
            Ok(()) if allowed.len() < ADDRESSES => allowed.push(*address),
            Ok(()) => break,
            Err(denial) => denied = Some(denial),
        }
    }
    if let (true, Some(denial)) = (allowed.is_empty(), denied) {
        return Err(DialError::Denied(denial));
    }
    let stream = connect_first(&allowed, origin.port).await.map_err(|error| {
        DialError::Failed(TransportError::Connect { host: origin.authority().to_string(), why: error.to_string() })
    })?;
    Ok(stream)
}

/// Sets a socket's options. One that refuses an option works without it.
pub(super) fn prepare(stream: &TcpStream, unread: Duration) {
    // A gate that waits for more bytes to fill a segment adds 40 ms to small requests.
    let _ = stream.set_nodelay(true);
    let socket = SockRef::from(stream);
    let alive = TcpKeepalive::new().with_time(QUIET).with_interval(PROBE).with_retries(PROBES);
    let _ = socket.set_tcp_keepalive(&alive);
    // Otherwise what nobody acknowledges is sent again for a quarter of an hour. It ends peers, too, that live and read
    // nothing, so that it leaves time to whoever bounds that and says so.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = socket.set_tcp_user_timeout(Some(unread.saturating_add(QUIET)));
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = unread;
}

/// Tries the addresses in order, each after a head start of the one before or its failure.
async fn connect_first(addresses: &[IpAddr], port: u16) -> io::Result<TcpStream> {
    if let [only] = addresses {
        return TcpStream::connect(SocketAddr::new(*only, port)).await;
    }
    let mut waiting = addresses.iter();
    let mut trying = FuturesUnordered::new();
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "no address to connect to");
    loop {
        if let Some(next) = waiting.next() {
            trying.push(TcpStream::connect(SocketAddr::new(*next, port)));
        } else if trying.is_empty() {
            return Err(last);
        }
        let ended = if waiting.len() > 0 {
            match tokio::time::timeout(STAGGER, trying.next()).await {
                Ok(ended) => ended,
                Err(_) => continue,
            }
        } else {
            trying.next().await
        };
        match ended {
            Some(Ok(stream)) => return Ok(stream),
            Some(Err(error)) => last = error,
            None => {}
        }
    }
}

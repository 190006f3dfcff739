//! From settings to a node that listens.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use axum::{Router, response::IntoResponse};
use http::{HeaderValue, Request, Response};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{
    data::DataDir,
    first_token::{self, FirstToken},
    keep,
    metrics::Scrapes,
    parts::{Intake, Openings},
    ready::Readiness,
    root::deploy_root,
    running::RunningNode,
    secret_keys,
};
use crate::{
    cluster::registry::{Bounds, Ceilings, Registry, RegistryError},
    control::{Control, router},
    guest::{GuestHost, InvokeError},
    ingress::{
        Closing, GuestOpener, Ingress, Lingering, Senders,
        listener::{self, Handler, Peer, bind, serve},
        live::Functions,
    },
    observe::{Endpoint, EndpointError, Exporter, Observe},
    outbound::{Cache, Door, DoorParts},
    problem::Problem,
    settings::{LogFormat, OutboundSettings, Settings, names},
};

/// What only `tidegate dev` and tests ask for.
#[derive(Clone, Debug, Default)]
pub struct NodeOptions {
    /// Nobody needs a token on the data listener.
    pub open: bool,
    /// A function that is deployed at the start and owns every path of the data listener.
    pub root: Option<RootFunction>,
    /// Form of the line on stdout that says where the node listens.
    pub listening: LogFormat,
    /// The program that is run as `PROGRAM compile-worker`; nothing: this one.
    pub compile_worker: Option<PathBuf>,
}

/// A function deployed at the start.
#[derive(Clone, Debug)]
pub struct RootFunction {
    /// Its name.
    pub name: String,
    /// The module's file.
    pub module: PathBuf,
    /// Its configuration, as the API takes it.
    pub config: serde_json::Value,
}

/// Why a node does not start. Its text is all that a person needs.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory or a listener.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The registry.
    #[error("the registry can't be opened: {0}")]
    Registry(#[from] RegistryError),
    /// The guest host.
    #[error(transparent)]
    Guests(#[from] crate::guest::StartError),
    /// The first token.
    #[error("{0}")]
    Token(String),
    /// The keys of secrets.
    #[error("{0}")]
    SecretKey(String),
    /// The function that is deployed at the start.
    #[error("{name}: {why}")]
    Root {
        /// The file or the function.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// A setting.
    #[error("{setting}: {why}")]
    Setting {
        /// Its key.
        setting: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

/// A node.
#[derive(Debug)]
pub struct Node;

impl Node {
    /// Starts a node on the current runtime. It listens when this returns; it is ready a little later.
    ///
    /// # Errors
    /// What is in the way, for a person to read.
    pub async fn start(settings: Settings, options: NodeOptions) -> Result<RunningNode, StartError> {
        let outbound = OutboundSettings { region: settings.node.region.clone(), ..settings.outbound.clone() };
        let settings = Arc::new(Settings { guest: settings.guest.clone().resolved(), outbound, ..settings });
        tracing::info!(
            "all guests together may hold {} (setting {}, {})",
            settings.guest.total_guest_memory,
            names::TOTAL_GUEST_MEMORY,
            settings.sources.get(names::TOTAL_GUEST_MEMORY),
        );
        let region = HeaderValue::from_str(&settings.node.region)
            .ok()
            .filter(|region| !region.is_empty() && region.as_bytes().iter().all(u8::is_ascii_graphic))
            .ok_or_else(|| setting("region", "a region is a short code such as iad"))?;
        if settings.node.domain.as_deref().is_some_and(|domain| !is_domain(domain)) {
            return Err(setting("domain", "a domain is a host's name such as functions.example.com"));
        }
        let data = Arc::new(DataDir::open(&settings.node.data)?);
        let control_settings = &settings.control;
        let bounds = Bounds {
            functions: control_settings.max_functions,
            destinations: control_settings.max_destinations,
            secrets: control_settings.max_secrets,
            tokens: control_settings.max_tokens,
            audit: control_settings.audit_records,
        };
        let registry = Registry::open(&data.path("registry.redb"), bounds)?;
        let first = first_token::ensure(&registry, &data, settings.node.admin_token.as_deref())
            .map_err(|error| StartError::Token(error.to_string()))?;
        let (observe, exporter) = observers(&settings)?;
        let keys = secret_keys::load(&data, &settings.node.secret_key);
        let keys = Arc::new(keys.map_err(|error| StartError::SecretKey(error.to_string()))?);
        secret_keys::seal_anew(&registry, &keys, &data, !settings.node.secret_key.is_empty())?;
        let read_on = settings.ingress.read_on();
        let disk = settings.outbound.cache_disk;
        if (1..Cache::SMALLEST_DISK).contains(&disk.get()) {
            return Err(setting(names::CACHE_DISK, "stored answers need 16MiB of files at least, or none: 0B"));
        }
        let cache = Cache::open(&settings.outbound, Some(&data.path("cache")), observe.metrics.cache.clone()).await;
        let parts = DoorParts { read_on, keys: Arc::clone(&keys), cache: cache.clone(), ..DoorParts::default() };
        let door = Arc::unwrap_or_clone(Door::with_parts(&settings.outbound, Arc::clone(&observe), parts)?);
        door.configure(&registry.state());
        let guests = {
            let (egress, observe) = (Arc::new(door.clone()) as _, Arc::clone(&observe));
            match options.compile_worker {
                None => GuestHost::start(&settings.guest, read_on, data.root(), egress, observe)?,
                Some(program) => {
                    GuestHost::start_with_compiler(&settings.guest, read_on, data.root(), egress, observe, program)?
                }
            }
        };
        let intake = Arc::new(Intake(Arc::clone(&guests)));
        let ceilings = Ceilings::from(&settings.guest);
        let root = match &options.root {
            Some(root) => Some(deploy_root(root, &registry, &data, &intake, &ceilings, &settings).await?),
            None => None,
        };
        let allow_any_host = settings.guest.allow_any_host;
        let opener = GuestOpener::new(Arc::clone(&guests), Arc::clone(&observe), allow_any_host);
        let functions = Arc::new(Functions::new(opener));
        functions.show(&registry.snapshot());

        let data_socket = listen(settings.node.listen, "--listen")?;
        let control_socket = listen(settings.node.control_listen, "--control-listen")?;
        let metrics_socket =
            settings.node.metrics_listen.map(|address| listen(address, "--metrics-listen")).transpose()?;
        let (data_addr, control_addr) = (data_socket.local_addr()?, control_socket.local_addr()?);
        let metrics_addr = metrics_socket.as_ref().map(std::net::TcpListener::local_addr).transpose()?;
        let (readiness, stop) = (Arc::<Readiness>::default(), CancellationToken::new());
        let max_deploys = u32::try_from(control_settings.max_deploys).unwrap_or(u32::MAX).max(1);
        let deploys = Arc::new(Semaphore::new(max_deploys as usize));

        let closing = Arc::<Closing>::default();
        let ingress = Arc::new(Ingress {
            functions: Arc::clone(&functions),
            guests: Arc::clone(&guests),
            door: door.clone(),
            registry: registry.clone(),
            observe: Arc::clone(&observe),
            readiness: Arc::clone(&readiness),
            region,
            domain: settings.node.domain.clone(),
            max_body: settings.ingress.max_request_body.get(),
            trusted_proxies: settings.ingress.trusted_proxies.clone(),
            open: options.open,
            root: root.clone(),
            senders: Senders::new(control_settings.max_tokens.max(1)),
            closing: Arc::clone(&closing),
        });
        let control = router(Arc::new(Control {
            settings: Arc::clone(&settings),
            registry: registry.clone(),
            shown: functions.watch(),
            observe: Arc::clone(&observe),
            data: Arc::clone(&data),
            modules: intake,
            versions: Arc::new(Openings(Arc::clone(&functions))),
            gate: Arc::new(door.clone()),
            readiness: Arc::clone(&readiness),
            data_url: format!("http://{data_addr}"),
            root,
            keys,
            ceilings,
            deploys: Arc::clone(&deploys),
            shutdown: stop.clone(),
        }));

        let of_data = bounds_of(&settings, settings.ingress.max_connections, names::MAX_CONNECTIONS);
        let of_control = bounds_of(&settings, control_settings.max_control_connections, names::MAX_CONTROL_CONNECTIONS);
        let listener_ended = CancellationToken::new();
        let of_data = Accepts { bounds: of_data, stop: stop.clone(), ended: listener_ended.clone() };
        let of_control = Accepts { bounds: of_control, stop: stop.clone(), ended: listener_ended.clone() };
        let mut listeners = vec![
            // On the guests' threads: a request meets its instance without changing them.
            guests.runtime_handle().spawn(accept(data_socket, ingress, of_data)),
            tokio::spawn(accept(control_socket, Api(control, Arc::clone(&closing)), of_control.clone())),
        ];
        if let Some(socket) = metrics_socket {
            let scrapes = Scrapes(Arc::clone(&observe), door.clone());
            listeners.push(tokio::spawn(accept(socket, scrapes, of_control)));
        }
        let keeper = keep::Keeper {
            registry,
            functions,
            door,
            guests: Arc::clone(&guests),
            data,
            deploys,
            max_deploys,
            observe,
        };
        let observe = Arc::clone(&keeper.observe);
        let stop_keepers = CancellationToken::new();
        let mut keepers = keeper.start(Arc::clone(&readiness), &stop_keepers);
        keepers.extend(exporter.map(|exporter| tokio::spawn(exporter.run(stop_keepers.clone()))));
        let token_file = matches!(first, FirstToken::Made(_)).then(|| settings.node.data.join(first_token::FILE));
        Ok(RunningNode {
            data_addr,
            control_addr,
            metrics_addr,
            admin_token: first.text().map(str::to_owned),
            observe,
            token_file,
            readiness,
            grace: settings.node.drain_grace.get(),
            drain: settings.node.drain_timeout.get(),
            stop,
            closing,
            listeners,
            listener_ended,
            stop_keepers,
            keepers,
            cache,
            _guests: guests,
        })
    }
}

/// The control API as a handler of a listener.
#[derive(Clone)]
struct Api(Router, Arc<Closing>);

impl Handler for Api {
    type Body = axum::body::Body;

    async fn handle(self: Arc<Self>, _: Peer, request: Request<Lingering>) -> Response<axum::body::Body> {
        let Self(router, closing) = Self::clone(&self);
        let answer = router.oneshot(request.map(|body| axum::body::Body::new(body.to_the_end())));
        match closing.until_over(answer).await {
            Some(Ok(answer)) => answer,
            Some(Err(never)) => match never {},
            None => IntoResponse::into_response(Problem::from(InvokeError::ShuttingDown)),
        }
    }
}

/// Whether functions can be served below it.
fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

fn setting(setting: &'static str, why: &str) -> StartError {
    StartError::Setting { setting, why: why.to_owned() }
}

fn bounds_of(settings: &Settings, connections: usize, setting: &'static str) -> listener::Bounds {
    listener::Bounds::new(&settings.ingress, connections, setting)
}

fn listen(address: SocketAddr, flag: &str) -> Result<std::net::TcpListener, StartError> {
    Ok(bind(address, flag)?)
}

/// How a listener accepts.
#[derive(Clone)]
struct Accepts {
    bounds: listener::Bounds,
    stop: CancellationToken,
    ended: CancellationToken,
}

async fn accept<H: Handler>(socket: std::net::TcpListener, handler: H, accepts: Accepts) {
    let Accepts { bounds, stop, ended } = accepts;
    // However it ends, a panic included.
    let _ended = ended.drop_guard();
    // Registered with the runtime that accepts from it.
    match TcpListener::from_std(socket) {
        Ok(socket) => serve(socket, handler, bounds, stop).await,
        Err(error) => tracing::error!(%error, "a listener could not be registered"),
    }
}

/// What people can see, and who tells a collector, where there is one.
fn observers(settings: &Settings) -> Result<(Arc<Observe>, Option<Exporter>), StartError> {
    let observe = &settings.observe;
    let variable = |name: &str| std::env::var(name).ok();
    let endpoint = Endpoint::find(observe.otlp_endpoint.as_deref(), observe.otlp_headers.as_deref(), variable);
    let endpoint = endpoint.map_err(|error| match error {
        EndpointError::Url(_) => setting(names::OTLP_ENDPOINT, &error.to_string()),
        EndpointError::Header(_) => setting(names::OTLP_HEADERS, &error.to_string()),
    })?;
    Ok(match endpoint {
        None => (Observe::new(observe), None),
        Some(endpoint) => {
            tracing::info!(%endpoint, "traces go to a collector");
            let (observe, exporter) = Observe::exporting(observe, endpoint, &settings.node.region);
            (observe, Some(exporter))
        }
    })
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};

    use super::*;

    /// Never asked.
    #[derive(Clone)]
    struct Nobody;

    impl Handler for Nobody {
        type Body = axum::body::Body;

        async fn handle(self: Arc<Self>, _: Peer, _: Request<Lingering>) -> Response<axum::body::Body> {
            Response::default()
        }
    }

    #[tokio::test]
    async fn a_listener_that_ends_in_whatever_way_is_noticed() {
        let command = Settings::augment_args(clap::Command::new("serve"));
        let settings = Settings::from_arg_matches(&command.get_matches_from(["serve"])).unwrap();
        let ended = CancellationToken::new();
        let bounds = bounds_of(&settings, 10, names::MAX_CONNECTIONS);
        let accepts = Accepts { bounds, stop: CancellationToken::new(), ended: ended.clone() };
        let socket = listen(([127, 0, 0, 1], 0).into(), "--listen").unwrap();
        let task = tokio::spawn(accept(socket, Nobody, accepts));
        tokio::task::yield_now().await;
        assert!(!ended.is_cancelled());
        task.abort();
        ended.cancelled().await;
    }

    #[test]
    fn a_domain_is_a_host_s_name() {
        for domain in ["functions.example.com", "localhost", "xn--bcher-kva.example"] {
            assert!(is_domain(domain), "{domain}");
        }
        for none in ["", "a b", ".example.com", "example.com.", "a..b", "b\u{fc}cher.example", &"a".repeat(64)] {
            assert!(!is_domain(none), "{none}");
        }
    }
}

//! A guest host with a fake way out, and the few steps every test takes.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::{Args, Command, FromArgMatches};
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tidegate::{
    body::{self, Body, BodyError},
    cluster::registry::{FunctionConfig, FunctionLimits, Isolation, VersionRecord},
    guest::{Deployment, Egress, FunctionIdentity, GuestHost, Invocation, InvokeError, ModuleError, ModuleInfo},
    ids::{TenantId, TraceContext},
    observe::{LogFilter, Observe, Trail},
    outbound::{Door, OutboundCall, Sender, SenderKind, TransportError},
    settings::{GuestSettings, Settings},
};

pub(crate) type Upstream =
    dyn Fn(OutboundCall) -> BoxFuture<'static, Result<Response<Body>, TransportError>> + Send + Sync;

struct FakeDoor(Box<Upstream>);

impl Egress for FakeDoor {
    fn send(&self, call: OutboundCall) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
        (self.0)(call)
    }
}

/// A host in a directory of its own.
pub(crate) struct Host {
    pub(crate) host: Arc<GuestHost>,
    pub(crate) observe: Arc<Observe>,
    pub(crate) dir: Arc<tempfile::TempDir>,
}

pub(crate) fn settings(flags: &[&str]) -> Settings {
    let command = Settings::augment_args(Command::new("serve"));
    let matches = command.try_get_matches_from(std::iter::once("serve").chain(flags.iter().copied())).unwrap();
    Settings::from_arg_matches(&matches).unwrap()
}

pub(crate) fn guest_settings(flags: &[&str]) -> GuestSettings {
    settings(flags).guest
}

/// A guest that `cargo xtask guests` builds.
pub(crate) fn guest(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../guests/build").join(format!("{name}.wasm"));
    assert!(path.exists(), "{} is missing: run `cargo xtask guests`", path.display());
    path
}

pub(crate) fn tenant() -> TenantId {
    TenantId::from("t")
}

impl Host {
    /// With flags of `serve`; every call out gets `hello from upstream`.
    pub(crate) fn new(flags: &[&str]) -> Self {
        Self::with_upstream(flags, |_| Box::pin(async { Ok(Response::new(body::full("hello from upstream"))) }))
    }

    pub(crate) fn with_upstream(
        flags: &[&str],
        upstream: impl Fn(OutboundCall) -> BoxFuture<'static, Result<Response<Body>, TransportError>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self::in_dir(Arc::new(tempfile::tempdir().unwrap()), flags, upstream)
    }

    /// With a real door.
    pub(crate) fn with_door(flags: &[&str]) -> Self {
        let settings = settings(flags);
        let observe = Observe::new(&settings.observe);
        let door = Door::new(&settings.outbound, settings.ingress.read_on(), Arc::clone(&observe)).unwrap();
        Self::start(Arc::new(tempfile::tempdir().unwrap()), &settings, observe, door)
    }

    pub(crate) fn in_dir(
        dir: Arc<tempfile::TempDir>,
        flags: &[&str],
        upstream: impl Fn(OutboundCall) -> BoxFuture<'static, Result<Response<Body>, TransportError>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let settings = settings(flags);
        let observe = Observe::new(&settings.observe);
        Self::start(dir, &settings, observe, Arc::new(FakeDoor(Box::new(upstream))))
    }

    /// With another program in the place of the compile worker.
    pub(crate) fn with_compiler(dir: Arc<tempfile::TempDir>, flags: &[&str], program: PathBuf) -> Self {
        let settings = settings(flags);
        let observe = Observe::new(&settings.observe);
        let egress = Arc::new(FakeDoor(Box::new(|_| Box::pin(async { Ok(Response::new(body::empty())) }))));
        let (guest, read_on) = (&settings.guest, settings.ingress.read_on());
        let to_observe = Arc::clone(&observe);
        let host = GuestHost::start_with_compiler(guest, read_on, dir.path(), egress, to_observe, program).unwrap();
        Self { host, observe, dir }
    }

    fn start(dir: Arc<tempfile::TempDir>, settings: &Settings, observe: Arc<Observe>, egress: Arc<dyn Egress>) -> Self {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_tidegate"));
        let (guest, read_on) = (&settings.guest, settings.ingress.read_on());
        let to_observe = Arc::clone(&observe);
        let host = GuestHost::start_with_compiler(guest, read_on, dir.path(), egress, to_observe, program).unwrap();
        Self { host, observe, dir }
    }

    pub(crate) async fn admit(&self, name: &str) -> ModuleInfo {
        self.host.admit_module(&tenant(), &guest(name), &FunctionLimits::default()).await.unwrap()
    }

    pub(crate) async fn admit_bytes(&self, bytes: &[u8]) -> Result<ModuleInfo, ModuleError> {
        let file = self.dir.path().join(format!("upload-{}", rand::random::<u64>()));
        std::fs::write(&file, bytes).unwrap();
        self.host.admit_module(&tenant(), &file, &FunctionLimits::default()).await
    }

    pub(crate) async fn deploy(&self, name: &str) -> Arc<Deployment> {
        self.deploy_with(name, FunctionConfig::default()).await
    }

    pub(crate) async fn deploy_reused(&self, name: &str) -> Arc<Deployment> {
        self.deploy_with(name, FunctionConfig { isolation: Some(Isolation::Function), ..Default::default() }).await
    }

    pub(crate) async fn deploy_with(&self, name: &str, config: FunctionConfig) -> Arc<Deployment> {
        let info = self.admit(name).await;
        self.open(name, info, config).await.unwrap()
    }

    pub(crate) async fn open(
        &self,
        name: &str,
        info: ModuleInfo,
        config: FunctionConfig,
    ) -> Result<Arc<Deployment>, ModuleError> {
        let version = VersionRecord {
            number: 1,
            digest: info.digest,
            size: info.size,
            world: info.world,
            reuse_safe: info.reuse_safe,
            config: Arc::new(config),
            created_ms: 0,
            message: None,
            handles: None,
        };
        let sender = Arc::new(Sender {
            tenant: tenant(),
            kind: SenderKind::Function {
                name: name.into(),
                version: 1,
                allowed_hosts: None,
                handles: Default::default(),
            },
            policy: Default::default(),
            flow: Default::default(),
        });
        self.host.open(FunctionIdentity { tenant: tenant(), name: name.into() }, &version, sender).await
    }

    pub(crate) async fn get(&self, deployment: &Arc<Deployment>, path: &str) -> Result<Response<Body>, InvokeError> {
        self.send(deployment, request(path)).await
    }

    pub(crate) async fn send(
        &self,
        deployment: &Arc<Deployment>,
        request: Request<Body>,
    ) -> Result<Response<Body>, InvokeError> {
        let invocation = invocation();
        self.host.invoke(deployment, request, invocation).await
    }

    /// The text of a 200, or a panic.
    pub(crate) async fn text(&self, deployment: &Arc<Deployment>, path: &str) -> String {
        let response = self.get(deployment, path).await.unwrap();
        let (parts, body) = response.into_parts();
        let text = String::from_utf8_lossy(&collect(body).await.unwrap()).into_owned();
        assert_eq!(parts.status, StatusCode::OK, "{text}");
        text
    }

    pub(crate) fn logs(&self) -> Vec<String> {
        let filter = LogFilter { tenant: tenant(), function: None, after: 0 };
        self.observe.logs.recent(&filter, 100_000).iter().map(|line| line.text.clone()).collect()
    }
}

pub(crate) fn invocation() -> Invocation {
    let trace = TraceContext::begin();
    Invocation { trail: Trail::begin(trace.trace), trace, tracestate: None, deadline: None }
}

pub(crate) fn request(path: &str) -> Request<Body> {
    Request::get(format!("http://example.test{path}")).body(body::empty()).unwrap()
}

pub(crate) async fn collect(body: Body) -> Result<Bytes, BodyError> {
    body.collect().await.map(|collected| collected.to_bytes())
}

/// Waits until the condition holds; a minute is never needed on a machine that works.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A 0.2 handler around a core module's text, whose function `h` is called for each request.
pub(crate) fn handler(module: &str) -> Vec<u8> {
    let text = format!(
        r#"(component
            (import "wasi:http/types@0.2.0" (instance $types
                (export "incoming-request" (type (sub resource)))
                (export "response-outparam" (type (sub resource)))))
            (alias export $types "incoming-request" (type $request))
            (alias export $types "response-outparam" (type $answer))
            (core module $module {module})
            (core instance $code (instantiate $module))
            (func $handle (param "request" (own $request)) (param "response-out" (own $answer))
                (canon lift (core func $code "h")))
            (instance $handler (export "handle" (func $handle)))
            (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#
    );
    wat::parse_str(text).unwrap()
}

/// Keeps what a test's upstream saw.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    pub(crate) fn push(&self, text: impl Into<String>) {
        self.0.lock().unwrap().push(text.into());
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

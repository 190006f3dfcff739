//! The guest host: engine, modules, pool and runtime of one node.

use std::{
    borrow::Cow,
    collections::HashSet,
    future::{Future, ready},
    hash::{BuildHasher, RandomState},
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicUsize},
};

use futures::future::Either;
use http::{HeaderValue, Request, Response, uri::PathAndQuery};
use percent_encoding::percent_decode_str;
use tokio::runtime::{Builder, Handle, Runtime};
use wasmtime_wasi_http::{p2::bindings::ProxyPre, p3::bindings::ServicePre};

use super::{
    Deployment, Egress, FunctionIdentity, Invocation, InvokeError, Limits, ModuleError, ModuleInfo,
    deployment::{Code, Deployed, Kept, Reuse, next_shelf_id},
    engine::{Engines, Ticker},
    hogs::{self, FunctionKey, Hogs},
    limits::Bound,
    logs::LogOwner,
    meter::Overseer,
    modules::ModuleStore,
    pool::{self, Memory, Pool, SWEEP, Shelf},
    running::Running,
    serve02::{self, Shelf02},
    serve03::{self, Shelf03},
    sockets,
    timers::Timers,
};
use crate::{
    body::{Body, ReadOn},
    cluster::registry::{FunctionLimits, Isolation, VersionRecord, World},
    ids::{Digest, SecretName, TenantId},
    observe::Observe,
    outbound::{Hops, Sender},
    secrets::Handles,
    settings::{GuestSettings, names},
};

/// Why guests can't be hosted.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The engine can't be set up.
    #[error("the WebAssembly engine can't be set up: {0}")]
    Engine(String),
    /// A thread or runtime can't be started.
    #[error("the threads of the guest host can't be started: {0}")]
    Threads(std::io::Error),
    /// The module store can't be opened.
    #[error(transparent)]
    Modules(#[from] ModuleError),
}

/// Hosts the guests of one node.
pub struct GuestHost {
    settings: GuestSettings,
    modules: Arc<ModuleStore>,
    pool: Arc<Pool>,
    hogs: Arc<Hogs>,
    ticker: Arc<Ticker>,
    timers: Timers,
    egress: Arc<dyn Egress>,
    observe: Arc<Observe>,
    read_on: ReadOn,
    keys: RandomState,
    runtime: Handle,
    /// Taken when the host is dropped: a runtime may not be dropped where tasks run.
    owned: Vec<Runtime>,
}

impl GuestHost {
    /// Starts the host: engine, runtime, epoch thread, module store in `data`. This program is its own compile worker.
    ///
    /// # Errors
    /// When the engine, the threads or the store can't be set up.
    pub fn start(
        settings: &GuestSettings,
        read_on: ReadOn,
        data: &Path,
        egress: Arc<dyn Egress>,
        observe: Arc<Observe>,
    ) -> Result<Arc<Self>, StartError> {
        let program = std::env::current_exe().map_err(StartError::Threads)?;
        Self::start_with_compiler(settings, read_on, data, egress, observe, program)
    }

    /// Starts the host with another program as its compile worker (`PROGRAM compile-worker ...`).
    ///
    /// # Errors
    /// When the engine, the threads or the store can't be set up.
    pub fn start_with_compiler(
        settings: &GuestSettings,
        read_on: ReadOn,
        data: &Path,
        egress: Arc<dyn Egress>,
        observe: Arc<Observe>,
        program: PathBuf,
    ) -> Result<Arc<Self>, StartError> {
        let settings = &settings.clone().resolved();
        let failed = |error: wasmtime::Error| StartError::Engine(format!("{error:#}"));
        let engines = Engines::start(settings).map_err(failed)?;
        let modules = Arc::new(ModuleStore::open(settings, data, &engines, program, observe.metrics.compiles.clone())?);
        let threads = match settings.guest_threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            threads => threads,
        };
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("tidegate-guest")
            .enable_all()
            // Guests may run a millisecond in one poll: sockets are looked at more often than by default.
            .event_interval(31)
            .build()
            .map_err(StartError::Threads)?;
        let hog_runtime = hogs::runtime(threads).map_err(StartError::Threads)?;
        let newcomers = hogs::newcomers().map_err(StartError::Threads)?;
        let timers = Timers::start().map_err(StartError::Threads)?;
        let total = Bound { value: settings.total_guest_memory.get(), setting: names::TOTAL_GUEST_MEMORY };
        observe.metrics.guest_memory_bound.set(total.value);
        let pool = Pool::new(
            settings.max_instances,
            Memory::new(total, observe.metrics.guest_memory.clone()),
            Bound { value: settings.instance_wait.get(), setting: names::INSTANCE_WAIT },
            Bound { value: settings.instance_queue, setting: names::INSTANCE_QUEUE },
        );
        let host = Arc::new(Self {
            settings: settings.clone(),
            ticker: Ticker::start(&engines).map_err(StartError::Threads)?,
            modules,
            hogs: Hogs::new(threads, hog_runtime.handle().clone(), newcomers.handle().clone()),
            pool,
            timers,
            egress,
            observe,
            read_on,
            keys: RandomState::new(),
            runtime: runtime.handle().clone(),
            owned: vec![runtime, hog_runtime, newcomers],
        });
        host.spawn_sweeper();
        Ok(host)
    }

    /// Retires idle and old instances now and then. Drops happen on the guests' threads.
    fn spawn_sweeper(self: &Arc<Self>) {
        let (pool, timers) = (Arc::downgrade(&self.pool), self.timers.clone());
        let (idle, age) = (self.settings.instance_idle.get(), self.settings.instance_age.get());
        self.runtime.spawn(async move {
            loop {
                timers.sleep(SWEEP).await;
                let Some(pool) = pool.upgrade() else { return };
                pool.sweep(idle, age);
            }
        });
    }

    /// The runtime that guests run on. The data listener's connections are served there too, so that a request meets
    /// its guest without changing threads.
    pub fn runtime_handle(&self) -> &Handle {
        &self.runtime
    }

    /// Checks an upload, compiles it in a process of its own, and keeps it.
    ///
    /// # Errors
    /// What is wrong with the module, which bound its compilation hit, or how the disk failed.
    pub async fn admit_module(
        &self,
        tenant: &TenantId,
        upload: &Path,
        limits: &FunctionLimits,
    ) -> Result<ModuleInfo, ModuleError> {
        let limits = Limits::resolve(limits, &self.settings);
        self.modules.admit(tenant, upload, limits.memory, limits.instances).await
    }

    /// Removes modules and artifacts that no kept version names.
    pub fn collect_modules(&self, keep: &HashSet<Digest>) {
        self.modules.collect(keep);
    }

    /// Makes a version ready to run: maps its code, compiling it first where that was not done for this engine.
    ///
    /// # Errors
    /// When the module is not here, does not compile any more, or needs more than the version may have.
    pub async fn open(
        &self,
        function: FunctionIdentity,
        version: &VersionRecord,
        sender: Arc<Sender>,
    ) -> Result<Arc<Deployment>, ModuleError> {
        let limits = Arc::new(Limits::resolve(&version.config.limits, &self.settings));
        let (hosted, component) =
            self.modules.open_module(&function.tenant, version.digest, limits.memory, limits.instances).await?;
        let invalid = |error: wasmtime::Error| ModuleError::Compile(format!("{error:#}").into());
        let linker = sockets::linker(&hosted.linker, &hosted.engine, &component).map_err(invalid)?;
        let pre = linker.instantiate_pre(&component).map_err(invalid)?;
        let code = match version.world {
            World::Http02 => Code::Http02(ProxyPre::new(pre).map_err(invalid)?),
            World::Http03 => Code::Http03(ServicePre::new(pre).map_err(invalid)?),
        };
        let isolation = version.config.isolation.unwrap_or(match version.world {
            World::Http03 => Isolation::Function,
            World::Http02 if version.reuse_safe => Isolation::Function,
            World::Http02 => Isolation::Request,
        });
        let log_owner = Arc::new(LogOwner {
            tenant: function.tenant.clone(),
            function: function.name.clone(),
            version: version.number,
            observe: Arc::clone(&self.observe),
        });
        let function_key = self.function_key(&function);
        let (needs, share) = (pool::needs(&component), limits.instances);
        let account = self.pool.account(function_key, next_shelf_id(), needs, share);
        let counts = self.observe.metrics.of_function(function.name.as_str());
        let deployed = Arc::new(Deployed {
            function_key,
            identity: function,
            version: version.number,
            digest: version.digest,
            engine: hosted.engine.clone(),
            env: {
                let stated = version.config.env.iter().map(|(name, value)| (name.clone(), value.clone()));
                stated.chain(sender.handles().into_iter().flat_map(Handles::variables)).collect()
            },
            limits,
            isolation,
            reuse: Reuse {
                requests: self.settings.instance_reuse,
                concurrency: self.settings.instance_concurrency,
                age: self.settings.instance_age.get(),
            },
            sender,
            egress: Arc::clone(&self.egress),
            log_owner,
            observe: Arc::clone(&self.observe),
            overseer: Overseer::new(Arc::clone(&self.ticker), Arc::clone(&self.hogs)),
            account,
            timers: self.timers.clone(),
            read_on: self.read_on,
            instances: AtomicUsize::new(0),
            counts,
            code,
        });
        let shelf = match &deployed.code {
            Code::Http02(_) => {
                let shelf = Shelf02::new(&deployed);
                let known: Arc<dyn Shelf> = Arc::clone(&shelf) as _;
                self.pool.register(Arc::downgrade(&known));
                Kept::Http02(shelf)
            }
            Code::Http03(_) => {
                let shelf = Shelf03::new(function_key);
                let known: Arc<dyn Shelf> = Arc::clone(&shelf) as _;
                self.pool.register(Arc::downgrade(&known));
                Kept::Http03(shelf)
            }
        };
        Ok(Arc::new(Deployment { deployed, shelf }))
    }

    /// One number a function, so that hog permits go round by functions whatever their versions. Nothing is kept for it;
    /// two functions that share a number share a turn.
    fn function_key(&self, function: &FunctionIdentity) -> FunctionKey {
        self.keys.hash_one(function)
    }

    /// Serves one request. Its URI is absolute and its authority valid. Dropping the future, or the answer's body before
    /// its end, ends the guest's work for it and frees its calls.
    ///
    /// # Errors
    /// Every way a guest can fail to answer; each becomes a problem.
    pub fn invoke<'a>(
        &self,
        deployment: &'a Arc<Deployment>,
        request: Request<Body>,
        invocation: Invocation,
    ) -> impl Future<Output = Result<Response<Body>, InvokeError>> + Send + use<'a> {
        let handles = deployment.deployed.sender.handles();
        if let Some(secret) = handles.and_then(|handles| handle_in(handles, &request)) {
            return Either::Left(Either::Left(ready(Err(InvokeError::Handle(secret)))));
        }
        let hops = Hops::of(request.headers());
        let running = Running::new(invocation, Arc::clone(&deployment.deployed.limits), hops);
        if Handle::try_current().is_ok_and(|current| current.id() == self.runtime.id()) {
            return Either::Left(Either::Right(serve(deployment, request, running)));
        }
        let (deployment, runtime) = (Arc::clone(deployment), self.runtime.clone());
        Either::Right(async move {
            let task = runtime.spawn(async move { serve(&deployment, request, running).await });
            match tokio_util::task::AbortOnDropHandle::new(task).await {
                Ok(result) => result,
                Err(_) => Err(InvokeError::ShuttingDown),
            }
        })
    }
}

/// The secret of which a request from outside holds a handle. Only its function knows it: whoever else sends it learned
/// it from the function, and would have the function send the secret for him if that hands its headers on.
fn handle_in(handles: &Handles, request: &Request<Body>) -> Option<SecretName> {
    let target = request.uri().path_and_query().map(PathAndQuery::as_str).unwrap_or_default();
    let target = Cow::from(percent_decode_str(target));
    let mut texts = request.headers().values().map(HeaderValue::as_bytes).chain([&*target]);
    texts.find_map(|text| handles.find(text)).map(|(_, name)| name.clone())
}

fn serve(
    deployment: &Arc<Deployment>,
    request: Request<Body>,
    running: Arc<Running>,
) -> impl Future<Output = Result<Response<Body>, InvokeError>> + Send + use<'_> {
    match (&deployment.deployed.code, &deployment.shelf) {
        (Code::Http02(pre), Kept::Http02(shelf)) => {
            Either::Left(serve02::invoke(&deployment.deployed, pre, shelf, request, running))
        }
        (Code::Http03(pre), Kept::Http03(shelf)) => {
            Either::Right(Either::Left(serve03::invoke(&deployment.deployed, pre, shelf, request, running)))
        }
        // A deployment's code and shelf are made together.
        _ => Either::Right(Either::Right(ready(Err(InvokeError::NoAnswer)))),
    }
}

impl Drop for GuestHost {
    fn drop(&mut self) {
        self.owned.drain(..).for_each(Runtime::shutdown_background);
    }
}

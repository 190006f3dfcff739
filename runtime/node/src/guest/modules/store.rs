//! Modules by their digest, and their compiled forms by digest and engine.
//!
//! ```text
//! DATA/modules/HEX.wasm                   as uploaded
//! DATA/artifacts/HEX-FLAVOR-ENGINE.cwasm  compiled and sealed, mapped to run
//! DATA/artifact-key                       what seals them, 0600
//! ```
//! Files appear whole, by rename, and are never written to again: a node that is killed at any point leaves either the
//! file or nothing, and a mapped artifact can't change under a running guest.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tempfile::NamedTempFile;
use tidegate_core::units::Size;
use tokio::{io::AsyncReadExt, process::Command, sync::Semaphore};
use wasmtime::component::Component;

use super::{
    ModuleInfo,
    compile_worker::{self, Report},
    error::{Flaw, ModuleError},
    inspect,
    kept::{Kept, read_through},
    seal::{Key, sync_parent},
};
use crate::{
    guest::{
        engine::{Engines, Flavor, Hosted},
        limits::Bound,
        pool,
    },
    ids::{Digest, TenantId},
    settings::{GuestSettings, names},
};

/// What a compile worker may say on its two streams.
const REPORT_BYTES: u64 = 1 << 20;
/// Address space that the worker's allocator takes at a time, KiB.
const ARENA_KIB: &str = "65536";
/// Files that are being written; whatever is left of them after a crash is removed at the next start.
const PARTIAL: &str = ".partial-";

/// The modules of one node.
pub(in crate::guest) struct ModuleStore {
    engines: Arc<Engines>,
    modules: PathBuf,
    artifacts: PathBuf,
    key: Key,
    program: PathBuf,
    max_module: Size,
    cpu: Duration,
    memory: Size,
    /// Artifacts whose seal was checked by this process.
    verified: Mutex<HashSet<PathBuf>>,
    compiling: Semaphore,
    compiles: Counter,
    tenants: Mutex<HashMap<TenantId, Arc<tokio::sync::Mutex<()>>>>,
}

impl ModuleStore {
    /// Opens the store in the data directory. `program` is what is run as `compile-worker`.
    pub(in crate::guest) fn open(
        settings: &GuestSettings,
        data: &Path,
        engines: &Arc<Engines>,
        program: PathBuf,
        compiles: Counter,
    ) -> Result<Self, ModuleError> {
        let (modules, artifacts) = (data.join("modules"), data.join("artifacts"));
        for dir in [&modules, &artifacts] {
            std::fs::create_dir_all(dir).map_err(ModuleError::system(format!("can't make {}", dir.display())))?;
            remove_partial(dir);
        }
        let key = data.join("artifact-key");
        let key = Key::open(&key).map_err(ModuleError::system(format!("can't open {}", key.display())))?;
        let compilers = std::thread::available_parallelism().map_or(1, |cores| cores.get().saturating_sub(1).max(1));
        Ok(Self {
            engines: Arc::clone(engines),
            modules,
            artifacts,
            key,
            program,
            max_module: settings.max_module,
            cpu: settings.compile_cpu.get(),
            memory: settings.compile_memory,
            verified: Mutex::default(),
            compiling: Semaphore::new(compilers),
            compiles,
            tenants: Mutex::default(),
        })
    }

    fn module_path(&self, digest: Digest) -> PathBuf {
        self.modules.join(format!("{digest}.wasm"))
    }

    fn artifact_path(&self, digest: Digest, flavor: Flavor, hosted: &Hosted) -> PathBuf {
        self.artifacts.join(format!("{digest}-{}-{}.cwasm", flavor.name(), hosted.tag))
    }

    fn engine(&self, flavor: Flavor) -> Result<&Hosted, ModuleError> {
        self.engines.get(flavor).map_err(|error| ModuleError::Compile(format!("{error:#}").into()))
    }

    /// Checks, compiles and keeps an upload.
    pub(in crate::guest) async fn admit(
        self: &Arc<Self>,
        tenant: &TenantId,
        upload: &Path,
        memory: Bound<u64>,
        places: Bound<u32>,
    ) -> Result<ModuleInfo, ModuleError> {
        let upload = upload.to_owned();
        let this = Arc::clone(self);
        let path = upload.clone();
        let (digest, size) = blocking(move || this.measure(&path)).await?;
        // The same bytes were compiled before: only what this deployer may use is new.
        if let Some((_, component)) = self.load(digest).await? {
            fits(&component, memory, places)?;
            let this = Arc::clone(self);
            let findings = blocking(move || {
                // An artifact may have outlived its module.
                this.keep(&upload, digest)?;
                let bytes = std::fs::read(&upload).map_err(ModuleError::system("can't read the upload"))?;
                let (component, _) = compile_worker::as_component(bytes)?;
                Ok(inspect::component(&component)?)
            })
            .await?;
            compile_worker::begins(findings.memory, memory.value, memory.setting)?;
            return Ok(ModuleInfo { digest, size, world: findings.world, reuse_safe: findings.reuse_safe });
        }
        let (world, reuse_safe) = match self.compile(tenant, &upload, digest, memory).await? {
            Report::Compiled { world, reuse_safe, .. } => (world, reuse_safe),
            Report::Flawed(flaw) => return Err(flaw.into()),
            Report::Failed(why) => return Err(ModuleError::Compile(why.into())),
        };
        let this = Arc::clone(self);
        blocking(move || this.keep(&upload, digest)).await?;
        // Whatever the pool would refuse, it refuses now.
        let (_, component) = self.load(digest).await?.ok_or(ModuleError::Missing(digest))?;
        fits(&component, memory, places)?;
        Ok(ModuleInfo { digest, size, world, reuse_safe })
    }

    /// The code of a module, compiled anew where there is no artifact that this engine takes.
    pub(in crate::guest) async fn open_module(
        self: &Arc<Self>,
        tenant: &TenantId,
        digest: Digest,
        memory: Bound<u64>,
        places: Bound<u32>,
    ) -> Result<(Hosted, Component), ModuleError> {
        if let Some((flavor, component)) = self.load(digest).await? {
            fits(&component, memory, places)?;
            self.begins(digest, &component, memory).await?;
            return Ok((self.engine(flavor)?.clone(), component));
        }
        let path = self.module_path(digest);
        let module = path.clone();
        match blocking(move || Kept::of(&module, digest)).await? {
            Kept::Whole => {}
            Kept::Absent => return Err(ModuleError::Missing(digest)),
            Kept::Other => return Err(ModuleError::Damaged(digest)),
        }
        tracing::info!(%digest, "compiling a module for this engine");
        match self.compile(tenant, &path, digest, memory).await? {
            Report::Compiled { .. } => {}
            Report::Flawed(flaw) => return Err(flaw.into()),
            Report::Failed(why) => return Err(ModuleError::Compile(why.into())),
        }
        let (flavor, component) = self.load(digest).await?.ok_or(ModuleError::Missing(digest))?;
        fits(&component, memory, places)?;
        Ok((self.engine(flavor)?.clone(), component))
    }

    /// Checks what the module's memories are in all, where they could be too much: a version may have less than when its
    /// module came.
    async fn begins(&self, digest: Digest, component: &Component, memory: Bound<u64>) -> Result<(), ModuleError> {
        if compile_worker::at_most(component).is_some_and(|bytes| bytes <= memory.value) {
            return Ok(());
        }
        let path = self.module_path(digest);
        let bytes = blocking(move || {
            // An artifact may have outlived its module.
            let Ok(bytes) = std::fs::read(path) else { return Ok(0) };
            let (component, _) = compile_worker::as_component(bytes)?;
            Ok(inspect::component(&component)?.memory)
        })
        .await?;
        Ok(compile_worker::begins(bytes, memory.value, memory.setting)?)
    }

    /// Removes modules that no version names, and artifacts that no module or no engine of this release needs.
    pub(in crate::guest) fn collect(&self, keep: &HashSet<Digest>) {
        let digest_of = |name: &str| name.get(..64).and_then(|hex| hex.parse::<Digest>().ok());
        // Of an engine that no guest needed yet, it is not known which artifacts it takes.
        let needed = |name: &str| {
            Flavor::ALL.into_iter().any(|flavor| {
                name.contains(&format!("-{}-", flavor.name()))
                    && self.engines.if_made(flavor).is_none_or(|hosted| name.contains(&*hosted.tag))
            })
        };
        for (dir, tagged) in [(&self.modules, false), (&self.artifacts, true)] {
            let Ok(entries) = std::fs::read_dir(dir) else { continue };
            for entry in entries.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let Some(digest) = digest_of(&name) else { continue };
                if !keep.contains(&digest) || (tagged && !needed(&name)) {
                    // Still mapped artifacts stay readable until they are unmapped.
                    let _ = std::fs::remove_file(entry.path());
                    self.verified.lock().remove(&entry.path());
                }
            }
        }
    }

    /// Digest and size of an upload.
    fn measure(&self, upload: &Path) -> Result<(Digest, u64), ModuleError> {
        let io = || ModuleError::system("can't read the upload");
        let mut file = File::open(upload).map_err(io())?;
        let size = file.metadata().map_err(io())?.len();
        if size > self.max_module.get() {
            return Err(ModuleError::TooLarge { size, limit: self.max_module });
        }
        let (digest, is_wasm) = read_through(&mut file).map_err(io())?;
        if is_wasm { Ok((digest, size)) } else { Err(Flaw::NotWasm.into()) }
    }

    /// Keeps the upload under its digest.
    fn keep(&self, upload: &Path, digest: Digest) -> Result<(), ModuleError> {
        let path = self.module_path(digest);
        match Kept::of(&path, digest)? {
            Kept::Whole => return Ok(()),
            Kept::Absent => {}
            Kept::Other => tracing::warn!(%digest, "the stored module was damaged; the upload takes its place"),
        }
        let io = || ModuleError::system("can't keep the module");
        let mut from = File::open(upload).map_err(io())?;
        let mut file = partial(&self.modules).map_err(io())?;
        std::io::copy(&mut from, file.as_file_mut()).map_err(io())?;
        publish(file, &path).map_err(io())
    }

    /// Maps the artifact. `None` where there is none of these engines, or none that can be trusted.
    async fn load(self: &Arc<Self>, digest: Digest) -> Result<Option<(Flavor, Component)>, ModuleError> {
        let this = Arc::clone(self);
        blocking(move || {
            for flavor in Flavor::ALL {
                if this.engines.if_made(flavor).is_none() && !this.has_artifact(digest, flavor) {
                    continue;
                }
                if let Some(component) = this.load_for(digest, flavor)? {
                    return Ok(Some((flavor, component)));
                }
            }
            Ok(None)
        })
        .await
    }

    /// Whether there is an artifact of any engine of this flavor.
    fn has_artifact(&self, digest: Digest, flavor: Flavor) -> bool {
        let prefix = format!("{digest}-{}-", flavor.name());
        let entries = std::fs::read_dir(&self.artifacts).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
    }

    fn load_for(&self, digest: Digest, flavor: Flavor) -> Result<Option<Component>, ModuleError> {
        let hosted = self.engine(flavor)?;
        let path = self.artifact_path(digest, flavor, hosted);
        if !path.exists() {
            return Ok(None);
        }
        let known = self.verified.lock().contains(&path);
        if !known {
            let genuine = self.key.verify(&path).map_err(ModuleError::system("can't read an artifact"))?;
            if !genuine {
                tracing::warn!(%digest, "an artifact does not carry this node's seal: compiling it anew");
                self.discard(&path)?;
                return Ok(None);
            }
            self.verified.lock().insert(path.clone());
        }
        // SAFETY: the file carries this node's seal, checked by this process; files in this directory are made by rename
        // and never written to, so it is what the compiler wrote.
        match unsafe { Component::deserialize_file(&hosted.engine, &path) } {
            Ok(component) => {
                // Page tables and the memory image now, not within the first request.
                if let Err(error) = component.initialize_copy_on_write_image() {
                    tracing::debug!(%digest, error = format!("{error:#}"), "no copy-on-write image");
                }
                Ok(Some(component))
            }
            Err(error) => {
                if let Some(flaw) = beyond_the_pool(&format!("{error:#}")) {
                    return Err(flaw.into());
                }
                tracing::warn!(%digest, error = format!("{error:#}"), "an artifact does not load: compiling it anew");
                self.discard(&path)?;
                Ok(None)
            }
        }
    }

    fn discard(&self, artifact: &Path) -> Result<(), ModuleError> {
        self.verified.lock().remove(artifact);
        std::fs::remove_file(artifact).map_err(ModuleError::system("can't remove an artifact"))
    }

    /// Runs the compile worker over `module`, one at a time for a tenant, and keeps what it makes.
    async fn compile(
        self: &Arc<Self>,
        tenant: &TenantId,
        module: &Path,
        digest: Digest,
        memory: Bound<u64>,
    ) -> Result<Report, ModuleError> {
        let turn = Arc::clone(self.tenants.lock().entry(tenant.clone()).or_default());
        let guard = turn.lock().await;
        let result = self.compile_now(module, digest, memory).await;
        drop(guard);
        drop(turn);
        // Two holders: the map and we. Anybody else still waits.
        self.tenants.lock().retain(|_, turn| Arc::strong_count(turn) > 1);
        result
    }

    async fn compile_now(
        self: &Arc<Self>,
        module: &Path,
        digest: Digest,
        memory: Bound<u64>,
    ) -> Result<Report, ModuleError> {
        let system = || ModuleError::system("can't run the compile worker");
        let _one = self.compiling.acquire().await.map_err(|_| ModuleError::Compile("shutting down".into()))?;
        self.compiles.inc();
        let output = partial(&self.artifacts).map_err(ModuleError::system("can't make an artifact"))?;
        let mut child = Command::new(&self.program)
            .arg("compile-worker")
            .arg("--module")
            .arg(module)
            .arg("--output")
            .arg(output.path())
            .args(["--cpu", &self.cpu.as_secs().max(1).to_string()])
            .args(["--memory", &self.memory.get().to_string()])
            .args(["--guest-memory", &memory.value.to_string()])
            .args(["--guest-memory-setting", memory.setting])
            // No secret of the node's environment belongs into a process that reads strangers' bytes.
            .env_clear()
            // The allocator would reserve a gibibyte at once, which counts against the address space.
            .env("MIMALLOC_ARENA_RESERVE", ARENA_KIB)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(system())?;
        // The worker ends when this closes, however this process ends.
        let _alive = child.stdin.take();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let finished = tokio::time::timeout(compile_worker::wall(self.cpu), async {
            let (report, errors) = tokio::join!(read_some(stdout), read_some(stderr));
            (child.wait().await, report, errors)
        })
        .await;
        let Ok((status, report, errors)) = finished else { return Err(ModuleError::wall(self.cpu)) };
        let status = status.map_err(system())?;
        if !status.success() {
            return Err(self.killed(status, &errors));
        }
        let report: Report = serde_json::from_slice(&report)
            .map_err(|error| ModuleError::Compile(format!("the worker's report is not readable: {error}").into()))?;
        if let Report::Compiled { concurrent, .. } = report {
            let this = Arc::clone(self);
            let flavor = if concurrent { Flavor::Concurrent } else { Flavor::Plain };
            blocking(move || {
                let io = || ModuleError::system("can't keep an artifact");
                let path = this.artifact_path(digest, flavor, this.engine(flavor)?);
                this.key.seal(output.path()).map_err(io())?;
                publish(output, &path).map_err(io())?;
                this.verified.lock().insert(path);
                Ok(())
            })
            .await?;
        }
        Ok(report)
    }

    /// What ended the worker: one of its bounds, or something else.
    fn killed(&self, status: std::process::ExitStatus, errors: &[u8]) -> ModuleError {
        use std::os::unix::process::ExitStatusExt;
        let errors = String::from_utf8_lossy(errors);
        let out_of_memory = ["memory allocation", "Cannot allocate memory", "out of memory", "Resource temporarily"]
            .iter()
            .any(|sign| errors.contains(sign));
        match status.signal() {
            Some(24) => ModuleError::cpu(self.cpu),
            // Of our bounds none kills: a worker that computes for too long gets the signal above first.
            Some(9) => ModuleError::CompileKilled(self.memory),
            Some(6 | 11) if out_of_memory || errors.is_empty() => ModuleError::memory(self.memory),
            _ if out_of_memory => ModuleError::memory(self.memory),
            _ => {
                let last: String = errors.lines().last().unwrap_or_default().chars().take(400).collect();
                ModuleError::Compile(format!("the compile worker ended with {status}: {last}").into())
            }
        }
    }
}

/// What a version may have, against what its component needs.
fn fits(component: &Component, memory: Bound<u64>, places: Bound<u32>) -> Result<(), ModuleError> {
    compile_worker::needs(component, memory.value, memory.setting)?;
    let needs = pool::needs(component).places;
    if needs > places.value {
        return Err(Flaw::NeedsMore {
            what: "the instance pool's places".into(),
            needs: needs.to_string(),
            limit: places.value.to_string(),
            setting: places.setting.into(),
        }
        .into());
    }
    Ok(())
}

/// What the engine's pool has no room for, however often it is compiled. Wasmtime says so in words only.
fn beyond_the_pool(error: &str) -> Option<Flaw> {
    if !error.contains("pooling allocator") {
        return None;
    }
    let number =
        |text: &str| text.split(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty()).map(str::to_owned);
    let (before, after) = error.split_once(" core module instances").unwrap_or((error, ""));
    let counted = before.rsplit_once("contains ").and_then(|(_, text)| number(text)).zip(number(after));
    Some(match counted {
        Some((needs, limit)) => {
            Flaw::NeedsMore { what: "core instances".into(), needs, limit, setting: names::GUEST_CORE_INSTANCES.into() }
        }
        None => Flaw::Invalid { why: format!("the component is too big for this release: {error}") },
    })
}

async fn read_some(stream: Option<impl tokio::io::AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        // A worker whose pipe breaks is judged by its exit status.
        let _ = stream.take(REPORT_BYTES).read_to_end(&mut bytes).await;
    }
    bytes
}

/// A new file, 0600, that is removed unless it is published.
fn partial(dir: &Path) -> std::io::Result<NamedTempFile> {
    tempfile::Builder::new().prefix(PARTIAL).tempfile_in(dir)
}

/// Gives a whole file its name, durably.
fn publish(mut file: NamedTempFile, path: &Path) -> std::io::Result<()> {
    file.flush()?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    sync_parent(path)
}

fn remove_partial(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PARTIAL)) {
        let _ = std::fs::remove_file(entry.path());
    }
}

async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, ModuleError> + Send + 'static,
) -> Result<R, ModuleError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            Err(ModuleError::System { what: "a task of the module store ended".into(), why: error.to_string().into() })
        }
    }
}

//! `PUT /v1/functions/{name}`: a module, with or without its configuration, becomes a version.
//!
//! The body is the module itself (`application/wasm`), with the configuration in `?config=` if it is small; or a form
//! (`multipart/form-data`) with the parts `module` and `config`. Without a configuration the function keeps its own.
//! Deploying what serves already, module and configuration alike, makes no new version.

use std::{
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json,
    body::BodyDataStream,
    extract::{FromRequest, Multipart, Request, State, multipart::Field},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_core::units::{Size, Span};

use super::{
    Control, Deed,
    auth::Caller,
    body, etag,
    extract::{Asked, Named},
    functions,
    problems::{bad_request, upload_idle},
    seams::{Admitted, Spooled},
    secrets, set,
};
use crate::{
    cluster::registry::{
        Change, Command, FunctionConfig, FunctionRecord, Rejection, Scope, VersionRecord, now_ms, parse_function,
        validate_name,
    },
    ids::FunctionName,
    problem::Problem,
    settings::{ControlSettings, names},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wishes {
    activate: Option<bool>,
    message: Option<String>,
    config: Option<String>,
}

/// Characters a message may have (no setting: it is a remark, not data).
const MESSAGE: usize = 1_000;

pub(super) async fn deploy(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(name): Named,
    Asked(wishes): Asked<Wishes>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    let began = Instant::now();
    caller.require(Scope::Deploy)?;
    validate_name(&name).map_err(|error| bad_request(error.to_string()))?;
    let key = (caller.tenant().clone(), FunctionName::from(name.as_str()));
    let is = control.registry.state().functions.get(&key).map(|function| function.revision);
    let if_revision = etag::expected(&headers, is)?;
    // Checked again when the version is added; who is late already need not upload.
    if let Some(expected) = if_revision.filter(|expected| *expected != is.unwrap_or(0)) {
        return Err(Rejection::Changed { name, is: is.unwrap_or(0), expected }.into());
    }
    if wishes.message.as_ref().is_some_and(|message| message.chars().count() > MESSAGE) {
        return Err(bad_request(format!("a message has at most {MESSAGE} characters")));
    }
    let config = wishes.config.as_deref().map(|text| parse_config(&control, text.as_bytes())).transpose()?;
    let settings = &control.settings.control;
    let Ok(_permit) = tokio::time::timeout(settings.deploy_wait.get(), control.deploys.acquire()).await else {
        return Err(busy(settings));
    };
    let whole = tokio::time::timeout(settings.upload_timeout.get(), receive(&control, &headers, request));
    let (module, in_form) = whole.await.map_err(|_| slow(settings.upload_timeout))??;
    let uploaded = began.elapsed();
    let config = in_form.or(config);
    // What the module may use is what it will run with: the configuration given, else the one it inherits.
    let inherited = || {
        let state = control.registry.state();
        state
            .functions
            .get(&key)
            .and_then(|function| function.active_version().map(|version| Arc::clone(&version.config)))
    };
    let runs_with = config.clone().map(Arc::new).or_else(inherited).unwrap_or_default();
    let of_secrets = secrets::check(&control, caller.tenant(), &name, &runs_with)?;
    let limits = runs_with.limits.clone();
    let admitted = control.modules.admit(caller.tenant(), module, &limits).await?;
    let compiled = began.elapsed() - uploaded;
    let deploy = Deploy { wishes: &wishes, config, admitted: &admitted, if_revision };
    let (function, number, unchanged) = deploy.write(&control, &caller, key.1).await?;
    let mut answer = functions::summary(&control, &function);
    if let Some(version) = function.versions.get(&number) {
        merge(&mut answer, functions::version_json(version));
        set(&mut answer, "config", json!(version.config));
    }
    set(&mut answer, "activated", function.active == Some(number));
    set(&mut answer, "unchanged", unchanged);
    let mut warnings = admitted.warnings;
    warnings.extend(of_secrets);
    set(&mut answer, "warnings", json!(warnings));
    set(
        &mut answer,
        "timings",
        json!({
            "upload_ms": millis(uploaded),
            "compile_ms": millis(compiled),
            "total_ms": millis(began.elapsed()),
        }),
    );
    let status = if is.is_none() && !unchanged { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, [etag::tag(function.revision)], Json(answer)).into_response())
}

struct Deploy<'a> {
    wishes: &'a Wishes,
    config: Option<FunctionConfig>,
    admitted: &'a Admitted,
    if_revision: Option<u64>,
}

impl Deploy<'_> {
    /// Adds the version; says its number and whether it was there already.
    async fn write(
        &self,
        control: &Control,
        caller: &Caller,
        name: FunctionName,
    ) -> Result<(Arc<FunctionRecord>, u64, bool), Problem> {
        let key = (caller.tenant().clone(), name);
        loop {
            let now = control.registry.state().functions.get(&key).cloned();
            let serving = now.as_ref().and_then(|function| function.active_version());
            let config = match (&self.config, serving) {
                (Some(config), _) => Arc::new(config.clone()),
                (None, Some(serving)) => Arc::clone(&serving.config),
                (None, None) => Arc::default(),
            };
            if let (Some(function), Some(serving)) = (&now, serving)
                && serving.digest == self.admitted.digest
                && serving.config == config
                && self.wishes.message.is_none()
                && self.if_revision.is_none_or(|revision| revision == function.revision)
            {
                return Ok((Arc::clone(function), serving.number, true));
            }
            let inherits = self.config.is_none();
            let activate = self.wishes.activate.unwrap_or(true);
            let handles = secrets::seed(&config);
            let version = VersionRecord {
                number: control.registry.state().next_number(&key.0, &key.1),
                digest: self.admitted.digest,
                size: self.admitted.size,
                world: self.admitted.world,
                reuse_safe: self.admitted.reuse_safe,
                config,
                created_ms: now_ms(),
                message: self.wishes.message.clone(),
                handles,
            };
            let version = Arc::new(version);
            let _opened = match activate {
                true => Some(control.open_ahead(&key.0, &key.1, &version).await?),
                false => None,
            };
            let seen = || now.as_ref().map_or(0, |function| function.revision);
            let command = Command::AddVersion {
                tenant: key.0.clone(),
                name: key.1.clone(),
                version: VersionRecord::clone(&version),
                activate,
                // An inherited configuration must be the one that serves when the version is added, and a version that
                // was opened must get the number it was opened with.
                if_revision: self.if_revision.or_else(|| (inherits || activate).then(seen)),
                keep: control.settings.guest.keep_versions,
            };
            let detail = version.digest.to_string();
            match control.write(caller, Deed { action: "deploy", detail }, command).await {
                Ok(applied) => {
                    if let Some(Change::Function { function, added: Some(number) }) = applied.change {
                        return Ok((function, number, false));
                    }
                }
                Err(problem) if problem.status == StatusCode::PRECONDITION_FAILED && self.if_revision.is_none() => {}
                Err(problem) => return Err(problem),
            }
        }
    }
}

/// Spools the module; returns the configuration where the form holds one.
async fn receive(
    control: &Control,
    headers: &HeaderMap,
    request: Request,
) -> Result<(Spooled, Option<FunctionConfig>), Problem> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media_type.as_str() {
        "multipart/form-data" => receive_form(control, request).await,
        "application/wasm" | "application/octet-stream" | "" => {
            Ok((spool(control, &mut request.into_body().into_data_stream()).await?, None))
        }
        other => {
            // `curl --data-binary` calls everything a form. What begins as WebAssembly is taken for what it is.
            let mut stream = request.into_body().into_data_stream();
            let begin = first_bytes(control, &mut stream).await?;
            if begin.starts_with(MAGIC) {
                let whole = futures::stream::once(std::future::ready(Ok(begin))).chain(stream);
                return Ok((spool(control, &mut std::pin::pin!(whole)).await?, None));
            }
            let detail = format!(
                "`{other}` can't be deployed: send the module as application/wasm, or a \
                multipart/form-data with the parts `module` and `config`"
            );
            Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "Not a module", detail))
        }
    }
}

/// How WebAssembly begins.
const MAGIC: &[u8] = b"\0asm";

/// What came first, as far as it takes to see what it is.
async fn first_bytes(control: &Control, stream: &mut BodyDataStream) -> Result<Bytes, Problem> {
    let mut begin = BytesMut::new();
    while begin.len() < MAGIC.len()
        && let Some(chunk) = in_time(control, stream.next()).await?
    {
        begin.extend_from_slice(&chunk.map_err(|error| bad_request(format!("the upload ended early: {error}")))?);
    }
    Ok(begin.freeze())
}

async fn receive_form(control: &Control, request: Request) -> Result<(Spooled, Option<FunctionConfig>), Problem> {
    let broken = |error: &dyn std::fmt::Display| bad_request(format!("the form can't be read: {error}"));
    let mut form = Multipart::from_request(request, &()).await.map_err(|error| broken(&error))?;
    let (mut module, mut config) = (None, None);
    while let Some(mut field) = in_time(control, form.next_field()).await?.map_err(|error| broken(&error))? {
        match field.name() {
            Some("module") if module.is_none() => module = Some(spool(control, &mut field).await?),
            Some("config") if config.is_none() => {
                config = Some(parse_config(control, &small_field(control, field).await?)?);
            }
            Some(name) => {
                let name = name.to_owned();
                return Err(bad_request(format!(
                    "the form has a part `{name}` too many: send `module` and `config` once"
                )));
            }
            None => return Err(bad_request("a part of the form has no name")),
        }
    }
    let module = module.ok_or_else(|| bad_request("the form has no part `module`"))?;
    Ok((module, config))
}

async fn small_field(control: &Control, mut field: Field<'_>) -> Result<Vec<u8>, Problem> {
    let limit = control.settings.control.max_control_body.get();
    let mut bytes = Vec::new();
    while let Some(chunk) = in_time(control, field.next()).await? {
        bytes.extend_from_slice(&chunk.map_err(|error| bad_request(format!("the form ended early: {error}")))?);
        if bytes.len() as u64 > limit {
            return Err(super::problems::body_too_large(limit, names::MAX_CONTROL_BODY));
        }
    }
    Ok(bytes)
}

fn parse_config(control: &Control, text: &[u8]) -> Result<FunctionConfig, Problem> {
    let value = body::object(text).map_err(|why| bad_request(format!("the configuration {why}")))?;
    Ok(parse_function(value, &control.ceilings)?)
}

/// Writes the stream to a file of its own, within the bound.
async fn spool<S, E>(control: &Control, stream: &mut S) -> Result<Spooled, Problem>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: std::fmt::Display,
{
    let limit = control.settings.guest.max_module.get();
    let failed = |error: std::io::Error| {
        tracing::error!(%error, "an upload could not be spooled");
        let detail = format!("the upload could not be written to the node's data directory: {error}");
        Problem::new(StatusCode::INSUFFICIENT_STORAGE, "storage", "The node could not store the upload", detail)
    };
    let mut file = Some(control.data.temporary().map_err(failed)?);
    let mut size = 0;
    while let Some(chunk) = in_time(control, stream.next()).await? {
        let chunk = chunk.map_err(|error| bad_request(format!("the upload ended early: {error}")))?;
        size += chunk.len() as u64;
        if size > limit {
            return Err(module_too_large(limit));
        }
        // Disks stall; the threads that answer others do not.
        let Some(mut open) = file.take() else { break };
        let written = tokio::task::spawn_blocking(move || open.write_all(&chunk).map(|()| open)).await;
        file = Some(written.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(failed)?);
    }
    let (Some(file), true) = (file, size > 0) else {
        return Err(bad_request("the body is empty: send the bytes of a .wasm file"));
    };
    Ok(Spooled { path: file.into_temp_path() })
}

fn module_too_large(limit: u64) -> Problem {
    let limit = Size(limit);
    let detail = format!("the module is larger than {limit} (setting {})", names::MAX_MODULE);
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "module-too-large", "The module is too large", detail).bound(
        "module size",
        limit,
        names::MAX_MODULE,
    )
}

/// The next piece of an upload, if it comes in time: who sends nothing would hold a place that others wait for.
async fn in_time<T>(control: &Control, piece: impl Future<Output = T>) -> Result<T, Problem> {
    let limit = control.settings.control.upload_idle;
    tokio::time::timeout(limit.get(), piece).await.map_err(|_| {
        let detail = format!("nothing came of the upload for {limit} (setting {})", names::UPLOAD_IDLE);
        upload_idle("time between two chunks of an upload", detail, limit)
    })
}

/// No place for another deploy became free.
fn busy(settings: &ControlSettings) -> Problem {
    let (places, time) = (settings.max_deploys, settings.deploy_wait);
    let detail = format!(
        "{places} others are deployed (setting {}), and none was done within {time} (setting {}); nothing was changed",
        names::MAX_DEPLOYS,
        names::DEPLOY_WAIT,
    );
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "deploys-busy", "Too many deploys at once", detail)
        .bound("time that a deploy waits for its turn", time, names::DEPLOY_WAIT)
        .retry_after(time.get())
}

fn slow(limit: Span) -> Problem {
    let detail = format!("the upload took more than {limit} (setting {})", names::UPLOAD_TIMEOUT);
    Problem::new(StatusCode::REQUEST_TIMEOUT, "upload-timeout", "The upload took too long", detail).bound(
        "time of an upload",
        limit,
        names::UPLOAD_TIMEOUT,
    )
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

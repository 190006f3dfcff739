//! `tidegate deploy`: a module and its configuration become a version of a function.

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, HeaderValue, Method, header};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::{
    api::{self, Api, segment},
    failure::{Exit, Failure},
    http::{self as client, Progress, upload},
    manifest::{self, Manifest},
    output::{Out, bytes, millis, note, paint},
    target::ClientArgs,
};

/// Arguments of `tidegate deploy`.
#[derive(Args, Debug)]
#[command(after_help = "\
Reads tidegate.toml of this directory where there is one: `name`, `module`, and the configuration (env, secrets, \
allowed_hosts, auth, limits, ...). With neither a file nor --env, --allow-host, --secret or --public the function keeps its \
configuration.")]
pub(super) struct DeployArgs {
    /// Component or core module. Default: `module` of tidegate.toml
    file: Option<PathBuf>,
    /// Function to deploy to. Default: `name` of tidegate.toml
    #[arg(short, long, value_name = "NAME")]
    name: Option<String>,
    /// TOML or JSON file in place of tidegate.toml
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Variable of the guest's environment. Repeatable
    #[arg(short, long = "env", value_name = "NAME=VALUE", value_parser = manifest::pair)]
    env: Vec<(String, String)>,
    /// Host the guest may send to: api.openai.com, *.example.com, host:port, *. Repeatable
    #[arg(long = "allow-host", value_name = "HOST", value_delimiter = ',')]
    allow_hosts: Vec<String>,
    /// Secret that the guest gets a handle of, as a variable of that name. Repeatable
    #[arg(long = "secret", value_name = "NAME", value_delimiter = ',')]
    secrets: Vec<String>,
    /// Let anyone invoke it, without a token
    #[arg(long)]
    public: bool,
    /// What is new in this version
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Make the version, but let the present one go on serving
    #[arg(long)]
    no_activate: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs the command.
pub(super) async fn run(args: DeployArgs, out: Out) -> Result<Exit, Failure> {
    let mut manifest = Manifest::find(args.config.as_deref())?;
    manifest.set_env(&args.env);
    manifest.allow_hosts(&args.allow_hosts);
    manifest.add_secrets(&args.secrets);
    if args.public {
        manifest.config.insert("auth".into(), json!("public"));
    }
    let file = args.file.clone().or_else(|| manifest.module.clone()).ok_or_else(|| {
        Failure::new(Exit::Usage, "it is not said which module to deploy")
            .next("name the .wasm file, or set `module` in tidegate.toml")
    })?;
    let module = read_module(&file)?;
    let name = args.name.clone().or_else(|| manifest.name.clone()).ok_or_else(|| {
        let stem = file.file_stem().map(|stem| stem.to_string_lossy().replace('_', "-")).unwrap_or_default();
        Failure::new(Exit::Usage, "it is not said which function to deploy to")
            .next(format!("name it: --name {stem}, or set `name` in tidegate.toml"))
    })?;
    let api = Api::new(&args.client, out)?;
    let mut query = Vec::new();
    if args.no_activate {
        query.push("activate=false".to_owned());
    }
    if let Some(message) = &args.message {
        query.push(format!("message={}", segment(message)));
    }
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    let config = (!manifest.config.is_empty()).then_some(Value::Object(manifest.config));
    let made = send(&api, &name, &query, module, config.as_ref(), out.is_json()).await?;
    report(&api, &name, &made)?;
    Ok(Exit::Ok)
}

pub(super) fn read_module(file: &Path) -> Result<Bytes, Failure> {
    let module = std::fs::read(file)
        .map_err(|error| Failure::new(Exit::Usage, format!("{}: {error}", file.display())).next("build it first?"))?;
    if !module.starts_with(b"\0asm") {
        let what = format!("{} is no WASM: it does not begin with the bytes \\0asm", file.display());
        return Err(Failure::new(Exit::Usage, what).next("name the .wasm file that your build makes"));
    }
    Ok(module.into())
}

/// Uploads, with a bar where stderr is a terminal and lines elsewhere unless `quiet`, and waits for the version.
pub(super) async fn send(
    api: &Api,
    name: &str,
    query: &str,
    module: Bytes,
    config: Option<&Value>,
    quiet: bool,
) -> Result<Value, Failure> {
    let path = format!("/v1/functions/{}{query}", segment(name));
    let boundary = format!("tidegate-{:032x}", rand::random::<u128>());
    let head = part_head(&boundary, "module", "application/wasm");
    let tail = match config {
        Some(config) => format!("\r\n{}{config}", part_head(&boundary, "config", "application/json")),
        None => String::new(),
    };
    let size = module.len() as u64;
    let parts = [Bytes::from(head), module, Bytes::from(format!("{tail}\r\n--{boundary}--\r\n"))];
    let mut headers = HeaderMap::new();
    let form = HeaderValue::from_str(&format!("multipart/form-data; boundary={boundary}"));
    headers.insert(header::CONTENT_TYPE, form.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?);

    let doing = format!("deploying `{name}`");
    let progress = Progress::default();
    let mut watch = Watch::begin(size, quiet);
    let mut sending = Box::pin(async {
        let answer = api.send(Method::PUT, &path, headers, upload(parts, progress.clone()), &doing).await?;
        client::read(answer.into_body()).await
    });
    let mut tick = tokio::time::interval(Duration::from_millis(80));
    let answer = loop {
        tokio::select! {
            answer = &mut sending => break answer,
            _ = tick.tick() => watch.show(progress.bytes()),
        }
    };
    watch.end();
    Ok(api.reachable(api::parse(&answer?, &doing)?))
}

fn part_head(boundary: &str, name: &str, kind: &str) -> String {
    format!("--{boundary}\r\ncontent-disposition: form-data; name=\"{name}\"\r\ncontent-type: {kind}\r\n\r\n")
}

/// What a person sees while it goes on.
enum Watch {
    /// A bar, then a spinner.
    Bar { bar: ProgressBar, size: u64, compiling: bool },
    /// A line for each step.
    Lines { size: u64, compiling: bool },
    /// Nothing.
    Silent,
}

impl Watch {
    fn begin(size: u64, quiet: bool) -> Self {
        if quiet {
            return Self::Silent;
        }
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(size);
            let style = ProgressStyle::with_template("uploading {bar:30} {bytes}/{total_bytes} {bytes_per_sec}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            return Self::Bar { bar, size, compiling: false };
        }
        note(format_args!("uploading {}", bytes(size)));
        Self::Lines { size, compiling: false }
    }

    fn show(&mut self, sent: u64) {
        match self {
            Self::Bar { bar, size, compiling } if sent < *size || *compiling => {
                if *compiling {
                    bar.tick()
                } else {
                    bar.set_position(sent)
                }
            }
            Self::Bar { bar, compiling, .. } => {
                *compiling = true;
                let style = ProgressStyle::with_template("{spinner} compiling and activating, {elapsed}");
                bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
                bar.reset_elapsed();
            }
            Self::Lines { size, compiling } if sent >= *size && !*compiling => {
                *compiling = true;
                note("compiling and activating");
            }
            Self::Lines { .. } | Self::Silent => {}
        }
    }

    fn end(self) {
        if let Self::Bar { bar, .. } = self {
            bar.finish_and_clear();
        }
    }
}

fn report(api: &Api, name: &str, made: &Value) -> Result<(), Failure> {
    let texts = |key: &str| made.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    for warning in texts("warnings").iter().filter_map(Value::as_str) {
        note(format_args!("{warn}warning:{warn:#} {warning}", warn = paint::WARN));
    }
    if api.out.is_json() {
        return api.out.value(made);
    }
    let number = |pointer: &str| made.pointer(pointer).and_then(Value::as_u64);
    let version = number("/version").unwrap_or_default();
    let truth = |key: &str| made.get(key) == Some(&Value::Bool(true));
    let times = match (number("/timings/upload_ms"), number("/timings/compile_ms")) {
        (Some(upload), Some(compile)) => format!(" (upload {}, compilation {})", millis(upload), millis(compile)),
        (Some(upload), None) => format!(" (upload {}, compiled before)", millis(upload)),
        _ => String::new(),
    };
    let bold = paint::BOLD;
    if truth("unchanged") {
        api.out.line(format_args!("{bold}{name}{bold:#}: nothing changed, version {version} serves{times}"))?;
    } else if truth("activated") {
        api.out.line(format_args!("{bold}{name}{bold:#}: version {version} serves now{times}"))?;
    } else {
        api.out.line(format_args!("{bold}{name}{bold:#}: version {version} is there, not serving{times}"))?;
        api.out.line(format_args!("  `tidegate functions rollback {name} --to {version}` lets it serve"))?;
    }
    for url in texts("urls").iter().filter_map(Value::as_str) {
        api.out.line(format_args!("  {url}"))?;
    }
    Ok(())
}

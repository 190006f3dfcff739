//! `tidegate dev`: a node in this terminal, with one guest at `/` or none, that says what happens.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use clap::Args;
use serde_json::{Map, Value, json};

use super::{
    api::Api,
    deploy,
    failure::{Exit, Failure},
    lines,
    local_node::{self, LocalNode},
    manifest::{self, Manifest},
    output::{Out, bytes, millis, note, paint},
    signals,
};
use crate::{
    node::{RootFunction, keep_pages_small},
    observe::{FeedEvent, FeedItem},
    settings::Settings,
};

/// Arguments of `tidegate dev`.
#[derive(Args, Debug)]
#[command(after_help = "\
No token is needed, loopback and any host may be called: for development only. The guest is deployed again when its \
file changes. Settings of `tidegate serve` can be given too, as flags, variables or in the file that --config names.")]
pub(super) struct DevArgs {
    /// Guest to serve at /. Default: `module` of tidegate.toml; without either, just the gate
    file: Option<PathBuf>,
    /// TOML or JSON file of the guest's configuration in place of tidegate.toml
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Variable of the guest's environment. Repeatable
    #[arg(short, long = "env", value_name = "NAME=VALUE", value_parser = manifest::pair)]
    env: Vec<(String, String)>,
    /// File of settings (node.toml)
    #[arg(long, env = "TIDEGATE_CONFIG", value_name = "FILE", hide_env_values = true)]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Box<Settings>,
}

impl DevArgs {
    /// The settings.
    pub(super) fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }
}

#[cfg(test)]
impl DevArgs {
    /// The settings, for tests of the command line.
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }
}

/// How often the guest's file is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Runs until SIGINT or SIGTERM.
pub(super) async fn run(args: DevArgs, out: Out) -> Result<Exit, Failure> {
    // Not for `tidegate run`, whose program would inherit it.
    keep_pages_small();
    let mut stop = signals::Stop::catch()?;
    let guest = Guest::find(&args)?;
    let mut settings = *args.settings;
    local_node::give_way(&mut settings.node)?;
    let (began, deployed) = (Instant::now(), guest.as_ref().and_then(|guest| Stamp::of(&guest.file)));
    if let (Some(guest), false) = (&guest, out.is_json()) {
        // A large guest takes seconds, and an empty terminal looks like a program that hangs.
        note(format_args!("compiling {}", guest.file.display()));
    }
    let node = tokio::select! {
        node = LocalNode::start(settings, guest.as_ref().map(Guest::root)) => node?,
        () = stop.wait() => return Ok(Exit::Ok),
    };
    let mut feed = node.feed();
    banner(out, &node, guest.as_ref(), began.elapsed())?;
    let api = node.api(out)?;
    let deploying = guest.map(|guest| tokio::spawn(guest.keep_deployed(api, deployed)));

    let outcome = loop {
        let items = tokio::select! {
            items = feed.next() => items,
            () = stop.wait() => break Ok(()),
        };
        let Some(items) = items else { break Ok(()) };
        if let Err(failure) = out.lines(items.iter().filter_map(|item| line(out, item))) {
            break Err(failure);
        }
    };
    if let Some(deploying) = deploying {
        deploying.abort();
    }
    node.stop().await;
    outcome.map(|()| Exit::Ok)
}

fn banner(out: Out, node: &LocalNode, guest: Option<&Guest>, took: Duration) -> Result<(), Failure> {
    let (gate, control) = (node.gate(), node.control());
    if out.is_json() {
        return out.value(&json!({"event": "listening", "url": gate, "control": control}));
    }
    let (bold, dim) = (paint::BOLD, paint::DIM);
    out.line(format_args!("tidegate listening on {gate}, control on {control}"))?;
    match guest {
        // Every path is the guest's then, /to among them.
        Some(guest) => {
            let took = millis(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
            out.line(format_args!("  {bold}{gate}/{bold:#}  {}, compiled and up in {took}", guest.file.display()))?;
        }
        None => {
            let base = format!("{gate}/to/https://api.openai.com/v1");
            out.line(format_args!("  {bold}{base}{bold:#}  a base URL for any program"))?;
        }
    }
    let also = "tidegate destinations, tidegate trails";
    out.line(format_args!("  {dim}{also}: what the gate knows and did; Ctrl-C ends it{dim:#}"))?;
    note(format_args!(
        "{warn}for development only:{warn:#} no token is needed to send requests here, and any host may be called",
        warn = paint::WARN
    ));
    Ok(())
}

/// An item as a line; nothing where people need not know.
fn line(out: Out, item: &FeedItem) -> Option<String> {
    match item {
        FeedItem::Event(event) if out.is_json() => Some(as_json(event).to_string()),
        FeedItem::Event(event) => Some(lines::from_feed(event)),
        FeedItem::Missed(count) => {
            let missed = json!({"event": "missed", "events": count});
            if out.is_json() { Some(missed.to_string()) } else { lines::from_event("missed", &missed) }
        }
    }
}

fn as_json(event: &FeedEvent) -> Value {
    let (kind, value) = match event {
        FeedEvent::Log(line) => ("log", serde_json::to_value(&**line)),
        FeedEvent::Call(line) => ("call", serde_json::to_value(&**line)),
        FeedEvent::Refused { status, host, paused, waiting } => {
            let paused = u64::try_from(paused.as_millis()).unwrap_or(u64::MAX);
            ("refused", Ok(json!({"status": status, "host": &**host, "paused_ms": paused, "waiting": waiting})))
        }
    };
    let mut object = Map::from_iter([("event".to_owned(), json!(kind))]);
    if let Ok(Value::Object(members)) = value {
        object.extend(members);
    }
    Value::Object(object)
}

/// The guest that is developed.
struct Guest {
    file: PathBuf,
    name: String,
    config: Map<String, Value>,
}

impl Guest {
    fn find(args: &DevArgs) -> Result<Option<Self>, Failure> {
        let mut manifest = Manifest::find(args.manifest.as_deref())?;
        manifest.set_env(&args.env);
        let Some(file) = args.file.clone().or(manifest.module) else {
            return match (&args.manifest, args.env.is_empty()) {
                (None, true) => Ok(None),
                _ => Err(Failure::new(Exit::Usage, "there is no guest to configure").next("name its .wasm file")),
            };
        };
        if file.exists() {
            deploy::read_module(&file)?;
        } else {
            return Err(
                Failure::new(Exit::Usage, format!("{}: there is no such file", file.display())).next("build it first")
            );
        }
        let name = manifest.name.unwrap_or_else(|| name_from(&file));
        let mut config = manifest.config;
        config.insert("auth".into(), json!("public"));
        Ok(Some(Self { file, name, config }))
    }

    /// The function that owns every path of the data listener.
    fn root(&self) -> RootFunction {
        let config = Value::Object(self.config.clone());
        RootFunction { name: self.name.clone(), module: self.file.clone(), config }
    }

    /// Deploys the guest again whenever its file changes from what is deployed.
    async fn keep_deployed(self, api: Api, mut deployed: Option<Stamp>) {
        loop {
            tokio::time::sleep(LOOK).await;
            let now = Stamp::of(&self.file);
            if now.is_none() || now == deployed {
                continue;
            }
            // What builds the file may not be done with it.
            tokio::time::sleep(LOOK).await;
            if Stamp::of(&self.file) == now {
                deployed = now;
                self.deploy(&api).await;
            }
        }
    }

    async fn deploy(&self, api: &Api) {
        let config = Value::Object(self.config.clone());
        let made = match deploy::read_module(&self.file) {
            Ok(module) => deploy::send(api, &self.name, "", module, Some(&config), true).await,
            Err(failure) => Err(failure),
        };
        let made = match made {
            Ok(made) => made,
            Err(failure) => {
                failure.print(api.out.is_json());
                return note("the version before goes on serving");
            }
        };
        let number = |pointer: &str| made.pointer(pointer).and_then(Value::as_u64);
        // The terminal may be gone; the node ends by its signal then.
        let _ = if api.out.is_json() {
            api.out.value(&json!({"event": "deployed", "version": number("/version")}))
        } else {
            let compiled = number("/timings/compile_ms").map(|ms| format!(", compiled in {}", millis(ms)));
            api.out.line(format_args!(
                "{good}{}{good:#} changed: version {} serves now, {}{}",
                self.name,
                number("/version").unwrap_or_default(),
                bytes(number("/size").unwrap_or_default()),
                compiled.unwrap_or_default(),
                good = paint::GOOD
            ))
        };
    }
}

/// What a change of a file changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
}

impl Stamp {
    fn of(file: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(file).ok()?;
        Some(Self { modified: metadata.modified().ok(), length: metadata.len() })
    }
}

/// A function's name from its file: letters, digits and -, beginning with a letter.
fn name_from(file: &Path) -> String {
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().to_lowercase()).unwrap_or_default();
    let fits = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    let name: String = stem.chars().map(fits).take(63).collect();
    let name = name.trim_matches('-').trim_start_matches(|c: char| c.is_ascii_digit() || c == '-');
    if name.is_empty() { "guest".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_file_name_makes_a_valid_function_name() {
        for (file, name) in [
            ("hello.wasm", "hello"),
            ("target/My_Guest.2.wasm", "my-guest-2"),
            ("9lives.wasm", "lives"),
            ("_.wasm", "guest"),
            ("ünïcode.wasm", "n-code"),
        ] {
            assert_eq!(name_from(Path::new(file)), name, "{file}");
            crate::cluster::registry::validate_name(name).unwrap();
        }
    }

    #[test]
    fn a_refusal_is_an_object_with_milliseconds() {
        let event = FeedEvent::Refused { status: 429, host: "a".into(), paused: Duration::from_secs(12), waiting: 3 };
        assert_eq!(
            as_json(&event),
            json!({"event": "refused", "status": 429, "host": "a", "paused_ms": 12_000, "waiting": 3})
        );
    }
}

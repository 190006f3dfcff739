//! `tidegate serve`: a node until a signal.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::{
    keep_pages_small,
    running::RunningNode,
    start::{Node, NodeOptions, StartError},
};
use crate::{
    observe::{LogEnd, LogQueue},
    settings::{LogFormat, NodeSettings, Settings},
};

/// Exit code after a second signal, as shells count them: 128 and SIGINT.
const INTERRUPTED: u8 = 130;
/// What Linux sends to who writes beyond the limit of file sizes; tokio has no name for it.
const SIGXFSZ: i32 = 25;
/// Threads of everything that is no guest: the control API, the keepers.
const THREADS: usize = 2;

/// Runs a node until SIGTERM or SIGINT, then drains it. The first line on stdout says where it listens.
///
/// # Errors
/// Why it did not start.
pub fn serve(settings: Settings, options: NodeOptions) -> Result<ExitCode, StartError> {
    let _log = log_to_stderr(&settings.node)?;
    keep_pages_small();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("tidegate-node")
        .enable_all()
        .build()?;
    let code = runtime.block_on(until_signal(settings, options));
    // Whatever still blocks (a disk, a resolver) must not keep the process.
    runtime.shutdown_background();
    code
}

async fn until_signal(settings: Settings, options: NodeOptions) -> Result<ExitCode, StartError> {
    // Before anything is announced: a signal right after the first line must drain, too.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // A write beyond the limit of file sizes fails, as on a full disk; untreated, the signal would end the node.
    let _too_large = signal(SignalKind::from_raw(SIGXFSZ))?;
    if settings.node.control_is_exposed() {
        tracing::warn!(address = %settings.node.control_listen, "the control API is reachable from beyond this machine");
    }
    let (grace, drain) = (settings.node.drain_grace, settings.node.drain_timeout);
    let listening = options.listening;
    let node = Node::start(settings, options).await?;
    announce(&node, listening)?;
    let mut code = ExitCode::SUCCESS;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = node.listener_ended() => {
            tracing::error!("a listener ended although nobody asked for it; the node ends, for whoever watches it to start another");
            code = ExitCode::FAILURE;
        }
    }
    tracing::info!(grace = %grace, within = %drain, "draining; a second signal ends the node at once");
    tokio::select! {
        all = node.shutdown() => {
            if !all {
                tracing::warn!(limit = %drain, setting = "drain_timeout", "some requests did not finish in time");
            }
            Ok(code)
        }
        _ = terminate.recv() => Ok(ExitCode::from(INTERRUPTED)),
        _ = interrupt.recv() => Ok(ExitCode::from(INTERRUPTED)),
    }
}

/// Says where the node listens on stdout, in one form, for people and programs: the first line has the two listeners
/// that there always are.
fn announce(node: &RunningNode, form: LogFormat) -> io::Result<()> {
    if let Some(file) = &node.token_file {
        // Whoever does not read this still has the file.
        let _ = writeln!(io::stderr(), "tidegate: admin token written to {}", file.display());
    }
    let (data, control) = (node.data_addr, node.control_addr);
    let lines = match form {
        LogFormat::Human => {
            let mut lines = format!("tidegate listening on http://{data}, control on http://{control}\n");
            if let Some(address) = node.metrics_addr {
                lines.push_str(&format!("metrics on http://{address}/metrics\n"));
            }
            lines
        }
        LogFormat::Json => {
            let metrics = node.metrics_addr.map(|address| format!("http://{address}/metrics"));
            let line = serde_json::json!({
                "event": "listening",
                "url": format!("http://{data}"),
                "control": format!("http://{control}"),
                "metrics": metrics,
            });
            format!("{line}\n")
        }
    };
    // At once: who has read the first line may have closed the stream.
    let mut out = io::stdout().lock();
    out.write_all(lines.as_bytes())?;
    out.flush()
}

/// The node's own log, on stderr, until the process ends: what it gives is dropped last. Nobody waits for it. Somebody who
/// set one up already keeps it.
///
/// # Errors
/// When the setting `log` holds no directives, or the system gives no thread.
pub fn log_to_stderr(settings: &NodeSettings) -> Result<LogEnd, StartError> {
    let filter = EnvFilter::try_new(&settings.log)
        .map_err(|error| StartError::Setting { setting: "log", why: error.to_string() })?;
    // Escapes are for a terminal; in a file they only hide the words.
    let colours = anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never;
    let (queue, end) = LogQueue::start(settings.log_queue_bytes.get(), io::stderr())?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || queue.clone()).with_ansi(colours);
    // A line that can't be written is lost. Told on stderr, it would be a panic there.
    let log = log.log_internal_errors(false);
    let format = settings.log_format.unwrap_or(match io::stderr().is_terminal() {
        true => LogFormat::Human,
        // Whoever collects it reads fields.
        false => LogFormat::Json,
    });
    let _ = match format {
        LogFormat::Human => log.try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    Ok(end)
}

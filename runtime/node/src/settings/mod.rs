//! A node's settings: flags, then `TIDEGATE_*`, then `node.toml`, then the default.
//!
//! There is one declaration of each setting, a clap argument. Its long name with `_` for `-` is its key in `node.toml`,
//! its upper-case form behind `TIDEGATE_` is its variable, its doc comment is its text in `--help` and on the reference
//! page. Errors of limits name settings by their key, through the constants in [`names`].

mod bounds;
mod file;
mod machine;
pub mod names;
mod nearest;
mod observe;
mod reference;
mod sources;
mod values;

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, builder::BoolishValueParser};
use ipnet::IpNet;
use tidegate_core::units::{Size, Span};

use crate::body::ReadOn;

pub use bounds::{Bound, bounds};
pub use file::{FileError, parse_with_file};
pub(crate) use nearest::nearest;
pub use observe::ObserveSettings;
pub use reference::reference_page;
pub use sources::{Source, Sources};
pub use values::{KeyText, without_empty_variables};
use values::{address, count};

/// Everything `tidegate serve` can be told.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// Listeners, identity, files.
    #[command(flatten)]
    pub node: NodeSettings,
    /// What clients may send.
    #[command(flatten)]
    pub ingress: IngressSettings,
    /// What the control API keeps and takes.
    #[command(flatten)]
    pub control: ControlSettings,
    /// What guests may use.
    #[command(flatten)]
    pub guest: GuestSettings,
    /// What leaves the node.
    #[command(flatten)]
    pub outbound: OutboundSettings,
    /// What is kept for people to look at.
    #[command(flatten)]
    pub observe: ObserveSettings,
    /// Where they come from, for people to see.
    #[arg(skip)]
    pub sources: Sources,
}

/// Form of what a node says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for a terminal.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// Listeners, identity, files.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Node")]
pub struct NodeSettings {
    /// Data listener: functions and /to. Port 0 takes a free one
    #[arg(long, env = "TIDEGATE_LISTEN", value_name = "ADDR", value_parser = address, default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Control listener: /v1. Meant for loopback or a private network; elsewhere the node warns at the start
    #[arg(long, env = "TIDEGATE_CONTROL_LISTEN", value_name = "ADDR", value_parser = address, default_value = "127.0.0.1:8081")]
    pub control_listen: SocketAddr,
    /// Listener of /metrics (Prometheus). None: not served
    #[arg(long, env = "TIDEGATE_METRICS_LISTEN", value_name = "ADDR", value_parser = address)]
    pub metrics_listen: Option<SocketAddr>,
    /// Directory of everything the node keeps
    #[arg(long, env = "TIDEGATE_DATA", value_name = "DIR", default_value = ".tidegate")]
    pub data: PathBuf,
    /// Region this node is in, such as iad
    #[arg(long, env = "TIDEGATE_REGION", value_name = "CODE", default_value = "local")]
    pub region: String,
    /// Functions are also served at NAME.DOMAIN
    #[arg(long, env = "TIDEGATE_DOMAIN", value_name = "DOMAIN")]
    pub domain: Option<String>,
    /// First admin token. None: one is made and written to DATA/admin-token
    #[arg(long, env = "TIDEGATE_ADMIN_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub admin_token: Option<String>,
    /// Keys that secrets are sealed with, of 32 characters at least: the first seals, all open. None: one is made and written to DATA/secret-key
    #[arg(
        long,
        env = "TIDEGATE_SECRET_KEY",
        value_name = "KEY",
        value_delimiter = ',',
        hide_env_values = true,
        hide_default_value = true
    )]
    pub secret_key: Vec<KeyText>,
    /// Time after SIGTERM or SIGINT in which the node still accepts while /readyz says 503, so that balancers look elsewhere
    #[arg(long, env = "TIDEGATE_DRAIN_GRACE", value_name = "DURATION", default_value = "0s")]
    pub drain_grace: Span,
    /// Time that open requests have to finish after that; those without an answer then get 503
    #[arg(long, env = "TIDEGATE_DRAIN_TIMEOUT", value_name = "DURATION", default_value = "30s")]
    pub drain_timeout: Span,
    /// Form of the node's own log on stderr, human or json. None: human on a terminal, json elsewhere
    #[arg(long, env = "TIDEGATE_LOG_FORMAT", value_name = "FORMAT", value_enum, hide_possible_values = true)]
    pub log_format: Option<LogFormat>,
    /// What the node logs, as tracing directives, such as info or tidegate=debug
    #[arg(long, env = "TIDEGATE_LOG", value_name = "DIRECTIVES", default_value = "info,foyer=warn")]
    pub log: String,
    /// Memory of lines of the log that wait to be written; further ones are lost and counted
    #[arg(long, env = "TIDEGATE_LOG_QUEUE_BYTES", value_name = "SIZE", default_value = "4MiB")]
    pub log_queue_bytes: Size,
}

/// What clients may send.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Inbound requests")]
pub struct IngressSettings {
    /// Largest body of a request to a function or to /to; streamed, not held
    #[arg(long, env = "TIDEGATE_MAX_REQUEST_BODY", value_name = "SIZE", default_value = "100MiB")]
    pub max_request_body: Size,
    /// Open connections on the data listener
    #[arg(long, env = "TIDEGATE_MAX_CONNECTIONS", value_name = "COUNT", default_value_t = 20_000, value_parser = count(1..=10_000_000))]
    pub max_connections: usize,
    /// Time to read the head of a request, from its first byte; for the first one of a connection from its begin
    #[arg(long, env = "TIDEGATE_HEADER_TIMEOUT", value_name = "DURATION", default_value = "10s")]
    pub header_timeout: Span,
    /// Time between two requests of an HTTP/1.1 connection. Longer than clients keep theirs, or they meet its end
    #[arg(long, env = "TIDEGATE_IDLE_TIMEOUT", value_name = "DURATION", default_value = "75s")]
    pub idle_timeout: Span,
    /// Time in which a client must take something of an answer that waits for it; over HTTP/2 of each answer. Then the answer ends, and over HTTP/1.1 the connection
    #[arg(long, env = "TIDEGATE_WRITE_TIMEOUT", value_name = "DURATION", default_value = "30s")]
    pub write_timeout: Span,
    /// Largest head of a request. Over HTTP/2 a larger one is answered with a bare 431
    #[arg(long, env = "TIDEGATE_MAX_HEADER_BYTES", value_name = "SIZE", default_value = "64KiB")]
    pub max_header_bytes: Size,
    /// Streams that one HTTP/2 connection may have open
    #[arg(long, env = "TIDEGATE_MAX_HTTP2_STREAMS", value_name = "COUNT", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_http2_streams: u32,
    /// Bytes that are read on of a request's body that nobody wants (it was refused or answered early), of a client or of a guest's call, so that its sender gets the answer and no reset
    #[arg(long, env = "TIDEGATE_READ_ON_BYTES", value_name = "SIZE", default_value_t = ReadOn::BYTES)]
    pub read_on_bytes: Size,
    /// Time for that
    #[arg(long, env = "TIDEGATE_READ_ON_TIME", value_name = "DURATION", default_value_t = ReadOn::TIME)]
    pub read_on_time: Span,
    /// Networks whose X-Forwarded-For and X-Forwarded-Proto are believed, such as those of a load balancer
    #[arg(long, env = "TIDEGATE_TRUSTED_PROXIES", value_name = "NETWORK", value_delimiter = ',')]
    pub trusted_proxies: Vec<IpNet>,
}

/// What the control API keeps and takes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Control API")]
pub struct ControlSettings {
    /// Functions that are kept
    #[arg(long, env = "TIDEGATE_MAX_FUNCTIONS", value_name = "COUNT", default_value_t = 1_000)]
    pub max_functions: usize,
    /// Configured destinations that are kept
    #[arg(long, env = "TIDEGATE_MAX_DESTINATIONS", value_name = "COUNT", default_value_t = 1_000)]
    pub max_destinations: usize,
    /// Secrets that are kept
    #[arg(long, env = "TIDEGATE_MAX_SECRETS", value_name = "COUNT", default_value_t = 1_000)]
    pub max_secrets: usize,
    /// Tokens that are kept
    #[arg(long, env = "TIDEGATE_MAX_TOKENS", value_name = "COUNT", default_value_t = 1_000)]
    pub max_tokens: usize,
    /// Records of the audit trail that are kept
    #[arg(long, env = "TIDEGATE_AUDIT_RECORDS", value_name = "COUNT", default_value_t = 10_000)]
    pub audit_records: u64,
    /// Largest body of a control request that is no module
    #[arg(long, env = "TIDEGATE_MAX_CONTROL_BODY", value_name = "SIZE", default_value = "1MiB")]
    pub max_control_body: Size,
    /// Open connections on the control listener
    #[arg(long, env = "TIDEGATE_MAX_CONTROL_CONNECTIONS", value_name = "COUNT", default_value_t = 256, value_parser = count(1..=1_000_000))]
    pub max_control_connections: usize,
    /// Time between two chunks of an uploaded module, and of a whole body that is no module
    #[arg(long, env = "TIDEGATE_UPLOAD_IDLE", value_name = "DURATION", default_value = "30s")]
    pub upload_idle: Span,
    /// Time an upload of a module may take in all
    #[arg(long, env = "TIDEGATE_UPLOAD_TIMEOUT", value_name = "DURATION", default_value = "10m")]
    pub upload_timeout: Span,
    /// Time a deploy waits for its turn before it gets 503
    #[arg(long, env = "TIDEGATE_DEPLOY_WAIT", value_name = "DURATION", default_value = "60s")]
    pub deploy_wait: Span,
    /// Time that a deploy, a configuration or a rollback waits for its version to open; after it, nothing is changed
    #[arg(long, env = "TIDEGATE_OPEN_TIMEOUT", value_name = "DURATION", default_value = "60s")]
    pub open_timeout: Span,
    /// Deploys that are uploaded or compiled at once; more wait
    #[arg(long, env = "TIDEGATE_MAX_DEPLOYS", value_name = "COUNT", default_value_t = 4, value_parser = count(1..=1_000))]
    pub max_deploys: usize,
}

/// What guests may use. Where a function's own `limits` may ask for less or more, these are its defaults and its
/// ceilings.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Guests")]
pub struct GuestSettings {
    /// Guest instances alive at once on this node
    #[arg(long, env = "TIDEGATE_MAX_INSTANCES", value_name = "COUNT", default_value_t = 1_000)]
    pub max_instances: u32,
    /// Instances of one function alive at once, all versions together; one place at least is always others'
    #[arg(long, env = "TIDEGATE_GUEST_INSTANCES", value_name = "COUNT", default_value_t = 800)]
    pub guest_instances: u32,
    /// Core instances in one instance: a component's modules, their adapters, and those of components in it
    #[arg(long, env = "TIDEGATE_GUEST_CORE_INSTANCES", value_name = "COUNT", default_value_t = 1_000)]
    pub guest_core_instances: u32,
    /// Time a request waits for an instance before it gets 503
    #[arg(long, env = "TIDEGATE_INSTANCE_WAIT", value_name = "DURATION", default_value = "5s")]
    pub instance_wait: Span,
    /// Requests that wait for an instance at once
    #[arg(long, env = "TIDEGATE_INSTANCE_QUEUE", value_name = "COUNT", default_value_t = 10_000)]
    pub instance_queue: u32,
    /// Memory of one instance
    #[arg(long, env = "TIDEGATE_GUEST_MEMORY", value_name = "SIZE", default_value = "256MiB")]
    pub guest_memory: Size,
    /// Largest memory a function's own limits may ask for
    #[arg(long, env = "TIDEGATE_MAX_GUEST_MEMORY", value_name = "SIZE", default_value = "1GiB")]
    pub max_guest_memory: Size,
    /// Memory of all guests together; one function holds no more of it than it leaves free. 0: half of the machine's, or of what its control group may have
    #[arg(long, env = "TIDEGATE_TOTAL_GUEST_MEMORY", value_name = "SIZE", default_value = "0B")]
    pub total_guest_memory: Size,
    /// Time to the head of a guest's answer; waiting at the gate does not count
    #[arg(long, env = "TIDEGATE_GUEST_WALL", value_name = "DURATION", default_value = "30s")]
    pub guest_wall: Span,
    /// Longest wall time a function's own limits may ask for
    #[arg(long, env = "TIDEGATE_MAX_GUEST_WALL", value_name = "DURATION", default_value = "15m")]
    pub max_guest_wall: Span,
    /// CPU time of one request (of one instance where it is reused)
    #[arg(long, env = "TIDEGATE_GUEST_CPU", value_name = "DURATION", default_value = "5s")]
    pub guest_cpu: Span,
    /// Longest CPU time a function's own limits may ask for
    #[arg(long, env = "TIDEGATE_MAX_GUEST_CPU", value_name = "DURATION", default_value = "60s")]
    pub max_guest_cpu: Span,
    /// Time between two chunks of a guest's streamed answer
    #[arg(long, env = "TIDEGATE_GUEST_STREAM_IDLE", value_name = "DURATION", default_value = "5m")]
    pub guest_stream_idle: Span,
    /// Time a guest's streamed answer may last in all
    #[arg(long, env = "TIDEGATE_GUEST_STREAM_TOTAL", value_name = "DURATION", default_value = "1h")]
    pub guest_stream_total: Span,
    /// Outbound calls of one invocation
    #[arg(long, env = "TIDEGATE_GUEST_CALLS", value_name = "COUNT", default_value_t = 1_000)]
    pub guest_calls: u32,
    /// Outbound calls of one invocation that wait for the heads of their answers at once; more wait in line
    #[arg(long, env = "TIDEGATE_GUEST_CONCURRENT_CALLS", value_name = "COUNT", default_value_t = 64)]
    pub guest_concurrent_calls: u32,
    /// Resources (requests, bodies, headers, streams) that one instance holds; each can cost the host up to twice `guest_fields`
    #[arg(long, env = "TIDEGATE_GUEST_HANDLES", value_name = "COUNT", default_value_t = 2_000)]
    pub guest_handles: u32,
    /// Size of one set of headers or trailers that a guest makes, names and values; many short ones take more to hold
    #[arg(long, env = "TIDEGATE_GUEST_FIELDS", value_name = "SIZE", default_value = "32KiB")]
    pub guest_fields: Size,
    /// Log bytes of one invocation; more is cut and counted
    #[arg(long, env = "TIDEGATE_GUEST_LOG_BYTES", value_name = "SIZE", default_value = "256KiB")]
    pub guest_log_bytes: Size,
    /// Requests a reused instance serves, within 20 %
    #[arg(long, env = "TIDEGATE_INSTANCE_REUSE", value_name = "COUNT", default_value_t = 1_000)]
    pub instance_reuse: u32,
    /// Age at which a reused instance is retired
    #[arg(long, env = "TIDEGATE_INSTANCE_AGE", value_name = "DURATION", default_value = "10m")]
    pub instance_age: Span,
    /// Time after which an idle instance is retired
    #[arg(long, env = "TIDEGATE_INSTANCE_IDLE", value_name = "DURATION", default_value = "30s")]
    pub instance_idle: Span,
    /// Requests that one instance of a 0.3 guest serves at once
    #[arg(long, env = "TIDEGATE_INSTANCE_CONCURRENCY", value_name = "COUNT", default_value_t = 16)]
    pub instance_concurrency: u32,
    /// Memory kept warm in pool slots, all slots together
    #[arg(long, env = "TIDEGATE_WARM_MEMORY", value_name = "SIZE", default_value = "1GiB")]
    pub warm_memory: Size,
    /// Threads that run guests. 0: one a core
    #[arg(long, env = "TIDEGATE_GUEST_THREADS", value_name = "COUNT", default_value_t = 0, value_parser = count(0..=1_024))]
    pub guest_threads: usize,
    /// Largest module that can be deployed
    #[arg(long, env = "TIDEGATE_MAX_MODULE", value_name = "SIZE", default_value = "128MiB")]
    pub max_module: Size,
    /// CPU time of one compilation
    #[arg(long, env = "TIDEGATE_COMPILE_CPU", value_name = "DURATION", default_value = "60s")]
    pub compile_cpu: Span,
    /// Memory of one compilation
    #[arg(long, env = "TIDEGATE_COMPILE_MEMORY", value_name = "SIZE", default_value = "3GiB")]
    pub compile_memory: Size,
    /// Versions of a function that are kept besides the one that serves
    #[arg(long, env = "TIDEGATE_KEEP_VERSIONS", value_name = "COUNT", default_value_t = 10)]
    pub keep_versions: usize,
    /// Functions may send to any host when they name none (dev)
    #[arg(long, env = "TIDEGATE_ALLOW_ANY_HOST", default_value_t = false, value_parser = BoolishValueParser::new())]
    pub allow_any_host: bool,
}

/// What leaves the node.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Outbound calls")]
pub struct OutboundSettings {
    /// The node's region.
    #[arg(skip)]
    pub region: String,
    /// Networks that calls may reach although they are not public, such as 127.0.0.0/8. Repeatable
    #[arg(long, env = "TIDEGATE_EGRESS_ALLOW", value_name = "CIDR", value_delimiter = ',')]
    pub egress_allow: Vec<IpNet>,
    /// Deadline of a call that states none
    #[arg(long, env = "TIDEGATE_CALL_DEADLINE", value_name = "DURATION", default_value = "60s")]
    pub call_deadline: Span,
    /// Time of one attempt to connect, TLS included
    #[arg(long, env = "TIDEGATE_CONNECT_TIMEOUT", value_name = "DURATION", default_value = "5s")]
    pub connect_timeout: Span,
    /// Time of one attempt to the head of the answer
    #[arg(long, env = "TIDEGATE_FIRST_BYTE_TIMEOUT", value_name = "DURATION", default_value = "60s")]
    pub first_byte_timeout: Span,
    /// The same at most where the client says that it waits longer and no policy says how long; also between two chunks
    #[arg(long, env = "TIDEGATE_PATIENT_FIRST_BYTE_TIMEOUT", value_name = "DURATION", default_value = "5m")]
    pub patient_first_byte_timeout: Span,
    /// Time between two chunks of an answer's body
    #[arg(long, env = "TIDEGATE_BODY_IDLE_TIMEOUT", value_name = "DURATION", default_value = "60s")]
    pub body_idle_timeout: Span,
    /// Headers in the head of an answer
    #[arg(long, env = "TIDEGATE_MAX_ANSWER_HEADERS", value_name = "COUNT", default_value_t = 100)]
    pub max_answer_headers: usize,
    /// Largest head of an answer; 8KiB at least. Over HTTP/2 a larger one is reset as a protocol error, and no error names this bound
    #[arg(long, env = "TIDEGATE_MAX_ANSWER_HEAD", value_name = "SIZE", default_value = "400KiB")]
    pub max_answer_head: Size,
    /// Attempts of a call at most, waiting for a limit not counted
    #[arg(long, env = "TIDEGATE_ATTEMPTS", value_name = "COUNT", default_value_t = 4)]
    pub attempts: u32,
    /// Request bodies up to this size are kept so that a call can be repeated
    #[arg(long, env = "TIDEGATE_REPLAY_BODY", value_name = "SIZE", default_value = "1MiB")]
    pub replay_body: Size,
    /// Memory of all kept request bodies together
    #[arg(long, env = "TIDEGATE_REPLAY_MEMORY", value_name = "SIZE", default_value = "256MiB")]
    pub replay_memory: Size,
    /// Calls that wait in the queue of one destination partition
    #[arg(long, env = "TIDEGATE_QUEUE_CALLS", value_name = "COUNT", default_value_t = 10_000)]
    pub queue_calls: u32,
    /// Body bytes that wait in the queue of one destination partition
    #[arg(long, env = "TIDEGATE_QUEUE_BYTES", value_name = "SIZE", default_value = "64MiB")]
    pub queue_bytes: Size,
    /// Retries of one destination, as percent of its requests over ten seconds
    #[arg(long, env = "TIDEGATE_RETRY_SHARE", value_name = "PERCENT", default_value_t = 20)]
    pub retry_share: u32,
    /// Retries a second that a destination may always make
    #[arg(long, env = "TIDEGATE_RETRY_RATE", value_name = "COUNT", default_value_t = 10)]
    pub retry_rate: u32,
    /// Hedges, and copies that try ejected endpoints, percent of the requests of the last ten seconds; they are retries, too
    #[arg(long, env = "TIDEGATE_HEDGE_SHARE", value_name = "PERCENT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub hedge_share: u32,
    /// Longest pause, asked for by an upstream or chosen after refusals and failures
    #[arg(long, env = "TIDEGATE_MAX_PAUSE", value_name = "DURATION", default_value = "10m")]
    pub max_pause: Span,
    /// Longest pause that is believed where only a header speaks for it; a longer one is tried before its end
    #[arg(long, env = "TIDEGATE_BELIEVED_PAUSE", value_name = "DURATION", default_value_t = Span(tidegate_core::shard::BELIEVED_PAUSE))]
    pub believed_pause: Span,
    /// Time after which whoever asked for a stream and still waits at the gate is answered with a comment, and between those that follow; 0s for none
    #[arg(long, env = "TIDEGATE_STREAM_COMMENT", value_name = "DURATION", default_value = "10s")]
    pub stream_comment: Span,
    /// Bytes of a refusal's JSON body that are looked into before it counts: how long, of what, and whether waiting helps
    #[arg(long, env = "TIDEGATE_REFUSAL_BODY", value_name = "SIZE", default_value = "16KiB")]
    pub refusal_body: Size,
    /// Time that such a body is waited for. Mostly it comes with its head
    #[arg(long, env = "TIDEGATE_REFUSAL_WAIT", value_name = "DURATION", default_value = "250ms")]
    pub refusal_wait: Span,
    /// Largest value that is kept of a passing answer of a language model, to find the tokens it used and errors in its midst
    #[arg(long, env = "TIDEGATE_USAGE_BUFFER", value_name = "SIZE", default_value = "16KiB")]
    pub usage_buffer: Size,
    /// Destination partitions a node remembers
    #[arg(long, env = "TIDEGATE_MAX_ACTORS", value_name = "COUNT", default_value_t = 1_000_000)]
    pub max_actors: usize,
    /// Idle time after which an upstream connection is closed
    #[arg(long, env = "TIDEGATE_CONNECTION_IDLE", value_name = "DURATION", default_value = "60s")]
    pub connection_idle: Span,
    /// Idle upstream connections kept on this node
    #[arg(long, env = "TIDEGATE_MAX_IDLE_CONNECTIONS", value_name = "COUNT", default_value_t = 4_096)]
    pub max_idle_connections: usize,
    /// Memory of stored answers of destinations with `cache`, a quarter of it for those on their way and those that slow clients read. 0: none are stored
    #[arg(long, env = "TIDEGATE_CACHE_MEMORY", value_name = "SIZE", default_value = "64MiB")]
    pub cache_memory: Size,
    /// Largest body of an answer that is stored
    #[arg(long, env = "TIDEGATE_CACHE_OBJECT", value_name = "SIZE", default_value = "1MiB")]
    pub cache_object: Size,
    /// Size of the files in DATA/cache, from which stored answers are there again after a restart; 16MiB at least. 0: memory only
    #[arg(long, env = "TIDEGATE_CACHE_DISK", value_name = "SIZE", default_value = "0B")]
    pub cache_disk: Size,
    /// Time that a call waits for its turn and its upstream's answer where a stale one may stand in for it; 0s: until its deadline
    #[arg(long, env = "TIDEGATE_CACHE_PATIENCE", value_name = "DURATION", default_value = "10s")]
    pub cache_patience: Span,
}

impl IngressSettings {
    /// How far bodies are read that nobody wants.
    pub fn read_on(&self) -> ReadOn {
        ReadOn { bytes: self.read_on_bytes.get(), time: self.read_on_time.get() }
    }
}

impl GuestSettings {
    /// With the bounds worked out that are a share of the machine.
    pub fn resolved(mut self) -> Self {
        if self.total_guest_memory.get() == 0 {
            let unknown = u64::from(self.max_instances).saturating_mul(self.guest_memory.get());
            let half = machine::memory().map_or(unknown, |memory| memory.get() / 2);
            // Whole mebibytes read better. Nobody has less than one.
            self.total_guest_memory = Size::mib((half >> 20).max(1));
        }
        self
    }
}

impl NodeSettings {
    /// Whether the control listener is reachable from beyond this machine.
    pub fn control_is_exposed(&self) -> bool {
        !self.control_listen.ip().to_canonical().is_loopback()
    }
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};

    use super::*;

    fn parse(flags: &[&str]) -> Result<Settings, String> {
        let command = Settings::augment_args(Command::new("serve"));
        let matches = command.try_get_matches_from(std::iter::once("serve").chain(flags.iter().copied()));
        matches.and_then(|matches| Settings::from_arg_matches(&matches)).map_err(|error| error.to_string())
    }

    #[test]
    fn counts_that_can_not_be_are_refused_by_the_name_of_their_flag() {
        for (flag, value) in [
            ("--max-connections", "0"),
            ("--max-connections", "18446744073709551615"),
            ("--max-control-connections", "0"),
            ("--max-deploys", "0"),
            ("--max-http2-streams", "0"),
            ("--feed-lines", "0"),
            ("--feed-lines", "9223372036854775807"),
            ("--guest-threads", "100000"),
            ("--otlp-sample", "101"),
            ("--otlp-sample", "NaN"),
        ] {
            let error = parse(&[flag, value]).unwrap_err();
            assert!(error.contains(flag) && error.contains("is not in"), "{error}");
        }
        assert_eq!(parse(&["--max-connections", "1"]).unwrap().ingress.max_connections, 1);
    }

    #[test]
    fn only_loopback_is_not_beyond_this_machine() {
        for (address, exposed) in [
            ("127.0.0.1:1", false),
            ("127.1.2.3:1", false),
            ("[::1]:1", false),
            ("[::ffff:127.0.0.1]:1", false),
            ("0.0.0.0:1", true),
            ("[fdaa::1]:1", true),
        ] {
            let settings = parse(&["--control-listen", address]).unwrap();
            assert_eq!(settings.node.control_is_exposed(), exposed, "{address}");
        }
    }
}

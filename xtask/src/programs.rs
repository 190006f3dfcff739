//! Programs that are shown or measured: each is started on a free loopback port and ended by its id when dropped.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// A running program.
pub(crate) struct Peer {
    child: Child,
    /// Address of its listener.
    pub(crate) address: String,
    /// Address of a second listener, where it has one.
    pub(crate) control: String,
    /// File with what it said on stderr, where that is kept.
    pub(crate) log: Option<PathBuf>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Waits until something accepts on the address.
fn wait_for(child: &mut Child, address: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(address).is_err() {
        if let Some(status) = child.try_wait()? {
            bail!("it ended at once: {status}");
        }
        if Instant::now() > deadline {
            bail!("it did not listen on {address} within a minute");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Starts a program that is told its address.
fn spawn(mut command: Command, port: u16) -> Result<Peer> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("{name} could not be started"))?;
    let address = format!("127.0.0.1:{port}");
    wait_for(&mut child, &address).with_context(|| name)?;
    Ok(Peer { child, address, control: String::new(), log: None })
}

/// `wasmtime serve` with the given reuse.
pub(crate) fn wasmtime(guest: &Path, reuse: u32, concurrent: u32, env: &[(&str, &str)]) -> Result<Peer> {
    let port = free_port()?;
    let mut command = Command::new("wasmtime");
    command.args(["serve", "-Scli", "--addr", &format!("127.0.0.1:{port}")]);
    command.args(["--max-instance-reuse-count", &reuse.to_string()]);
    command.args(["--max-instance-concurrent-reuse-count", &concurrent.to_string()]);
    for (name, value) in env {
        command.args(["--env", &format!("{name}={value}")]);
    }
    command.arg(guest);
    spawn(command, port)
}

/// workerd with a module worker that answers hello.
pub(crate) fn workerd(program: &Path, folder: &Path) -> Result<Peer> {
    let port = free_port()?;
    std::fs::write(
        folder.join("hello.js"),
        "export default { fetch() { return new Response('Hello from workerd\\n'); } };\n",
    )?;
    let config = format!(
        "using Workerd = import \"/workerd/workerd.capnp\";\n\
         const config :Workerd.Config = (services = [(name = \"main\", worker = .main)],\n\
         sockets = [(name = \"http\", address = \"127.0.0.1:{port}\", http = (), service = \"main\")]);\n\
         const main :Workerd.Worker = (modules = [(name = \"hello.js\", esModule = embed \"hello.js\")],\n\
         compatibilityDate = \"2025-01-01\");\n"
    );
    let path = folder.join("hello.capnp");
    std::fs::write(&path, config)?;
    let mut command = Command::new(program);
    command.arg("serve").arg(path);
    spawn(command, port)
}

/// Envoy with one worker that forwards everything to the upstreams. `route` are further fields of the route's action,
/// each after a comma, and `cluster` further lines of the cluster.
pub(crate) fn envoy(program: &Path, folder: &Path, upstreams: &[&str], route: &str, cluster: &str) -> Result<Peer> {
    let port = free_port()?;
    let mut endpoints = String::new();
    for upstream in upstreams {
        let (host, port) = upstream.rsplit_once(':').context("the upstream has a port")?;
        let address = format!("socket_address: {{ address: {host}, port_value: {port} }}");
        endpoints.push_str(&format!("        - endpoint: {{ address: {{ {address} }} }}\n"));
    }
    let config = format!(
        r#"
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{ match: {{ prefix: "/" }}, route: {{ cluster: upstream{route} }} }}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
  clusters:
  - name: upstream
    type: STATIC
{cluster}
    load_assignment:
      cluster_name: upstream
      endpoints:
      - lb_endpoints:
{endpoints}
"#
    );
    let path = folder.join("envoy.yaml");
    std::fs::write(&path, config)?;
    let mut command = Command::new(program);
    command.args(["--concurrency", "1", "--log-level", "error", "--use-dynamic-base-id", "-c"]).arg(path);
    spawn(command, port)
}

/// The key of LiteLLM's proxy: without a good one it does not start.
pub(crate) const LITELLM_KEY: &str = "sk-f4c1d09be27a4c5e8b36a1d97c02e85f44a1b7d3";

/// LiteLLM's proxy with one worker: one model, `bench`, at an upstream that speaks as OpenAI does, and its own retries.
pub(crate) fn litellm(program: &Path, folder: &Path, upstream: &str, retries: u32) -> Result<Peer> {
    let port = free_port()?;
    let config = format!(
        "model_list:\n- model_name: bench\n  litellm_params:\n    model: openai/bench\n    \
         api_base: http://{upstream}/v1\n    api_key: none\n\
         router_settings:\n  num_retries: {retries}\nlitellm_settings:\n  telemetry: false\n"
    );
    let path = folder.join("litellm.yaml");
    std::fs::write(&path, config)?;
    let mut command = Command::new(program);
    command.args(["--host", "127.0.0.1", "--port", &port.to_string(), "--num_workers", "1", "--config"]).arg(path);
    // Prices are not wanted, and nothing of this leaves the machine.
    command.env("LITELLM_LOCAL_MODEL_COST_MAP", "True").env("LITELLM_MASTER_KEY", LITELLM_KEY).current_dir(folder);
    spawn(command, port)
}

/// nginx with one worker that answers every request with a few bytes, on the core of the load: what is measured is
/// whoever stands in between.
pub(crate) fn nginx(program: &Path, folder: &Path) -> Result<Peer> {
    let port = free_port()?;
    let shown = folder.display();
    let config = format!(
        "daemon off; master_process off; pid {shown}/nginx.pid; error_log {shown}/nginx.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 100000000; default_type text/plain;\n\
         client_body_temp_path {shown}/client; proxy_temp_path {shown}/proxy; fastcgi_temp_path {shown}/fastcgi;\n\
         uwsgi_temp_path {shown}/uwsgi; scgi_temp_path {shown}/scgi;\n\
         server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 \"Hello\\n\"; }} }} }}\n"
    );
    let path = folder.join("nginx.conf");
    std::fs::write(&path, config)?;
    let mut command = Command::new("taskset");
    command.args(["-c", &last_core().to_string()]).arg(program).arg("-c").arg(path);
    spawn(command, port)
}

/// The core that load and upstreams are held on.
pub(crate) fn last_core() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get) - 1
}

/// Starts a `tidegate` command whose first line names its addresses.
pub(crate) fn tidegate(program: &Path, arguments: &[&str], env: &[(&str, &str)]) -> Result<Peer> {
    let mut command = Command::new(program);
    command.args(arguments).envs(env.iter().copied());
    let log = log_of(arguments.first().copied().unwrap_or("tidegate"))?;
    let stderr = std::fs::File::create(&log).with_context(|| format!("{} can't be written", log.display()))?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
    let mut child = command.spawn().with_context(|| format!("{} could not be started", program.display()))?;
    let stdout = child.stdout.take().context("stdout is piped")?;
    let mut lines = BufReader::new(stdout);
    let mut first = String::new();
    lines.read_line(&mut first)?;
    // What it prints later is not wanted, but a full pipe would stop it.
    std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
    let mut addresses = first.split("http://").skip(1).map(|rest| {
        rest.trim().trim_end_matches(|end: char| !end.is_ascii_digit()).split([',', ' ']).next().unwrap_or_default()
    });
    let address = addresses.next().unwrap_or_default().to_owned();
    let control = addresses.next().unwrap_or_default().to_owned();
    if address.is_empty() {
        let _ = child.kill();
        let shown = log.display();
        bail!("`tidegate {}` did not say where it listens: {first:?}; what it said is in {shown}", arguments.join(" "));
    }
    Ok(Peer { child, address, control, log: Some(log) })
}

/// Where the programs of this run write their stderr.
fn logs() -> PathBuf {
    std::env::temp_dir().join(format!("tidegate-xtask-{}", std::process::id()))
}

/// Removes what the programs of this run wrote; nobody looks at it where all went well.
pub(crate) fn forget_logs() {
    // That there is none is the usual case.
    let _ = std::fs::remove_dir_all(logs());
}

/// Where a program's stderr goes: a file of its own in a folder of this run.
fn log_of(name: &str) -> Result<PathBuf> {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    let folder = logs();
    std::fs::create_dir_all(&folder).with_context(|| format!("{} can't be made", folder.display()))?;
    let number = STARTED.fetch_add(1, Ordering::Relaxed);
    Ok(folder.join(format!("{name}-{number}.log")))
}

/// One HTTP request over a connection of its own; the status and the whole body.
pub(crate) fn exchange(address: &str, method: &str, path: &str) -> Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(600)))?;
    // HTTP/1.0 asks for a body that ends with the connection: nothing to decode.
    write!(stream, "{method} {path} HTTP/1.0\r\nhost: {address}\r\ncontent-length: 0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").context("no HTTP answer")?;
    let body = answer.split_off(end + 4);
    let head = String::from_utf8_lossy(&answer);
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no HTTP answer")?;
    Ok((status, body))
}

/// The time a request takes to the last byte, connection included, and the status.
pub(crate) fn request(address: &str, path: &str) -> Result<(Duration, u16)> {
    let started = Instant::now();
    let (status, _) = exchange(address, "GET", path)?;
    Ok((started.elapsed(), status))
}

/// A program by its variable, else on the path, else nothing.
pub(crate) fn find(variable: &str, name: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
}

//! The real program as a child process.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::Value;

use crate::client::{Answer, Client};

/// The admin token of every gate in tests.
pub const TOKEN: &str = "tg_0123456789abcdef0123456789abcdef-test";

/// The program under test, beside this test's own executable.
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("TIDEGATE_TEST_PROGRAM") {
        return path.into();
    }
    let exe = std::env::current_exe().unwrap();
    let path = exe.ancestors().nth(2).unwrap().join("tidegate");
    assert!(path.is_file(), "{} is not built; run: cargo build -p tidegate", path.display());
    path
}

/// A guest that `cargo xtask guests` built.
pub fn guest(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let path = root.join("guests/build").join(format!("{name}.wasm"));
    assert!(path.is_file(), "{} is not built; run: cargo xtask guests", path.display());
    path
}

/// How to start a gate.
pub struct GateBuilder {
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    data: Option<PathBuf>,
    stderr: Option<Stdio>,
}

impl GateBuilder {
    /// Adds flags, separated by blanks.
    pub fn flags(mut self, flags: &str) -> Self {
        self.arguments.extend(flags.split_whitespace().map(str::to_owned));
        self
    }

    /// Sets a variable of its environment.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Writes all that can be logged into this file.
    pub fn log_into(self, file: &Path) -> Self {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(file).unwrap();
        self.stderr(file).variable("TIDEGATE_LOG", "trace")
    }

    /// Uses a data directory that outlives the gate.
    pub fn data(mut self, data: &Path) -> Self {
        self.data = Some(data.to_owned());
        self
    }

    /// Where its log goes; nothing: where the test's does.
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.stderr = Some(stderr.into());
        self
    }

    /// Starts it and waits until it is ready.
    pub async fn start(self) -> Gate {
        let own = tempfile::tempdir().unwrap();
        let data = self.data.unwrap_or_else(|| own.path().to_owned());
        let mut command = Command::new(program());
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--control-listen", "127.0.0.1:0"])
            .args(["--metrics-listen", "127.0.0.1:0", "--data"])
            .arg(&data)
            .args(["--egress-allow", "127.0.0.0/8"])
            .args(&self.arguments)
            .env("TIDEGATE_ADMIN_TOKEN", TOKEN)
            .env("TIDEGATE_LOG", std::env::var("TIDEGATE_LOG").unwrap_or_else(|_| "warn".into()))
            .envs(self.variables)
            .stdin(Stdio::null())
            .stderr(self.stderr.unwrap_or_else(Stdio::inherit))
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        lines.read_line(&mut line).unwrap();
        let address = |rest: &str| rest.split([',', '/', '\n']).next().unwrap_or_default().to_owned();
        let mut addresses = line.split("http://").skip(1).map(address);
        let gate = Gate {
            data_address: addresses.next().unwrap_or_else(|| panic!("the first lines are {line:?}")),
            control_address: addresses.next().unwrap(),
            metrics_address: addresses.next().unwrap(),
            client: Client::default(),
            child,
            _own: own,
        };
        crate::eventually("readyz answers 200", async || gate.get("/readyz").await.status == 200).await;
        gate
    }
}

/// A running gate; killed when dropped.
pub struct Gate {
    /// Host and port of the data listener.
    pub data_address: String,
    /// Host and port of the control listener.
    pub control_address: String,
    /// Host and port of the metrics listener.
    pub metrics_address: String,
    /// A client with connections of its own.
    pub client: Client,
    child: Child,
    _own: tempfile::TempDir,
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Gate {
    /// `tidegate serve` on free ports, with calls to loopback allowed.
    pub fn serve() -> GateBuilder {
        GateBuilder { arguments: Vec::new(), variables: Vec::new(), data: None, stderr: None }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid().cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end and gives the exit code.
    pub async fn exit_code(mut self) -> Option<i32> {
        for _ in 0..2_000 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the process did not end within 20 s");
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> u64 {
        self.memory("VmRSS")
    }

    /// The most memory that was resident since [`Self::forget_peak`], bytes.
    pub fn peak_resident(&self) -> u64 {
        self.memory("VmHWM")
    }

    /// From now on the peak is counted anew.
    pub fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").unwrap();
    }

    fn memory(&self, kind: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(kind)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Its child processes, compilations mostly.
    pub fn children(&self) -> Vec<u32> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let of = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let all: Vec<_> = tasks.flatten().map(of).collect();
        all.iter().flat_map(|pids| pids.split_whitespace()).map(|pid| pid.parse().unwrap()).collect()
    }

    /// A value of the metrics listener, summed over its labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let url = format!("http://{}/metrics", self.metrics_address);
        let text = self.client.send(Request::get(url).body(Full::default()).unwrap()).await.text();
        let mut found = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name)).peekable();
        assert!(found.peek().is_some(), "no metric {name}: {text}");
        found.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// A URL on the data listener.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.data_address)
    }

    /// A request to the data listener with the admin token.
    pub fn request(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
        Request::builder()
            .method(method)
            .uri(self.url(path))
            .header("authorization", format!("Bearer {TOKEN}"))
            .body(Full::new(body.into()))
            .unwrap()
    }

    /// GET on the data listener with the admin token.
    pub async fn get(&self, path: &str) -> Answer {
        self.client.send(self.request(Method::GET, path, "")).await
    }

    /// POST on the data listener with the admin token.
    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.client.send(self.request(Method::POST, path, body)).await
    }

    /// A request to the control listener with the admin token.
    pub async fn control(&self, method: Method, path: &str, content_type: &str, body: impl Into<Bytes>) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.control_address))
            .header("authorization", format!("Bearer {TOKEN}"))
            .header("content-type", content_type)
            .body(Full::new(body.into()))
            .unwrap();
        self.client.send(request).await
    }

    /// GET on the control listener.
    pub async fn control_get(&self, path: &str) -> Answer {
        self.control(Method::GET, path, "application/json", "").await
    }

    /// Deploys a module's bytes under a name.
    pub async fn deploy_bytes(&self, name: &str, module: impl Into<Bytes>) -> Answer {
        self.control(Method::PUT, &format!("/v1/functions/{name}"), "application/wasm", module).await
    }

    /// Configures a function.
    pub async fn configure(&self, name: &str, config: Value) -> Answer {
        self.control(Method::PUT, &format!("/v1/functions/{name}/config"), "application/json", config.to_string()).await
    }

    /// Deploys a built guest under its own name with this configuration.
    pub async fn deploy(&self, name: &str, config: Value) {
        self.deploy_as(name, name, config).await;
    }

    /// Deploys a built guest under another name.
    pub async fn deploy_as(&self, file: &str, name: &str, config: Value) {
        let answer = self.deploy_bytes(name, std::fs::read(guest(file)).unwrap()).await;
        assert!(answer.status.is_success(), "{}: {}", answer.status, answer.text());
        let answer = self.configure(name, config).await;
        assert!(answer.status.is_success(), "{}: {}", answer.status, answer.text());
    }

    /// Sets or changes a secret.
    pub async fn secret(&self, name: &str, secret: Value) {
        let path = format!("/v1/secrets/{name}");
        let answer = self.control(Method::PUT, &path, "application/json", secret.to_string()).await;
        assert!(answer.status.is_success(), "{}: {}", answer.status, answer.text());
    }

    /// Makes or changes a destination.
    pub async fn destination(&self, name: &str, config: Value) {
        let path = format!("/v1/destinations/{name}");
        let answer = self.control(Method::PUT, &path, "application/json", config.to_string()).await;
        assert!(answer.status.is_success(), "{}: {}", answer.status, answer.text());
    }
}

//! `cargo xtask bench neighbours`: what spinning guests of one function do to the latency of another.
//!
//! The neighbour gets an even load of a share of its measured capacity. A latency counts from the moment at which its
//! request was due, so that a stalled connection hides nothing. Rounds with and without the spinning guests alternate.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::load::{self, median};
use crate::{
    guests,
    programs::{self as peers, Peer},
    shell::{Shell, apt_install, has},
};

/// How much and how long.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Seconds of each round
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Rounds of each kind
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Share of the neighbour's capacity that it is asked for, per cent
    #[arg(long, default_value_t = 30)]
    load: u32,
    /// Spinning guests for each core
    #[arg(long, default_value_t = 2)]
    hogs: usize,
    /// The program to measure; built for release if not given
    #[arg(long)]
    program: Option<PathBuf>,
}

const TOKEN: &str = "tg_bench-token-of-one-run";
/// Connections of the even load: at any rate measured so far each has milliseconds between two requests.
const CONNECTIONS: u32 = 64;

/// Measures and prints; the promise is a p99 within twice the quiet one and 10 ms.
pub(crate) fn run(options: &Options) -> Result<()> {
    let shell = Shell::at_root();
    shell.step("build");
    let built = shell.root().join("guests/build");
    let program = match &options.program {
        Some(program) => program.clone(),
        None => {
            guests::run(&guests::Args::default())?;
            shell.tidegate(true)?
        }
    };
    if !has("wrk") {
        apt_install(&["wrk"]).context("wrk measures the capacity (Debian: apt-get install wrk)")?;
    }
    let data = tempfile::tempdir()?;
    let path = data.path().to_str().context("a temporary path is UTF-8")?;
    let arguments =
        ["serve", "--listen", "127.0.0.1:0", "--control-listen", "127.0.0.1:0", "--log", "warn", "--data", path];
    let node = peers::tidegate(&program, &arguments, &[("TIDEGATE_ADMIN_TOKEN", TOKEN)])?;
    for guest in ["hello-rust", "misbehave"] {
        let config = data.path().join("config.json");
        std::fs::write(&config, r#"{"auth": "public", "limits": {"wall": "10m", "cpu": "60s"}}"#)?;
        let mut deploy = std::process::Command::new(&program);
        deploy.arg("deploy").arg(built.join(format!("{guest}.wasm"))).args(["--name", guest, "--config"]).arg(&config);
        deploy.env("TIDEGATE_URL", format!("http://{}", node.control)).env("TIDEGATE_TOKEN", TOKEN);
        let output = deploy.output()?;
        if !output.status.success() {
            bail!("deploy of {guest} failed: {}", String::from_utf8_lossy(&output.stderr));
        }
    }

    shell.step("measure");
    let url = format!("http://{}/f/hello-rust/", node.address);
    load::wrk(&url, 32, 1)?;
    let capacity = load::wrk(&url, 32, options.seconds)?.rate;
    let rate = capacity * f64::from(options.load) / 100.0;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let hogs = options.hogs * cores;
    println!("capacity {capacity:.0}/s; load {rate:.0}/s; {hogs} spinning guests on {cores} cores");
    let (mut quiet, mut loud) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        quiet.push(even_load(&node, rate, options.seconds)?);
        let spinning = (0..hogs).map(|_| spin(&node)).collect::<Result<Vec<_>>>()?;
        loud.push(even_load(&node, rate, options.seconds)?);
        // Hanging up ends them.
        drop(spinning);
    }
    let of = |rounds: &[Latency], what: fn(&Latency) -> f64| median(rounds.iter().map(what).collect());
    println!("\n| | p50 | p99 | worst |\n|---|---|---|---|");
    for (name, rounds) in [("alone", &quiet), ("with hogs", &loud)] {
        let (p50, p99) = (of(rounds, |latency| latency.p50), of(rounds, |latency| latency.p99));
        println!("| {name} | {p50:.2} ms | {p99:.2} ms | {:.2} ms |", of(rounds, |latency| latency.worst));
    }
    let (alone, beside) = (of(&quiet, |latency| latency.p99), of(&loud, |latency| latency.p99));
    let asked = 2.0 * alone + 10.0;
    println!("\np99 {beside:.2} ms beside {alone:.2} ms: {:.1} times; asked is at most {asked:.2} ms", beside / alone);
    Ok(())
}

/// Latencies of a round, in milliseconds.
struct Latency {
    p50: f64,
    p99: f64,
    worst: f64,
}

/// A guest that spins until this is dropped.
fn spin(node: &Peer) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(&node.address)?;
    write!(stream, "GET /f/misbehave/spin HTTP/1.1\r\nhost: {}\r\n\r\n", node.address)?;
    Ok(stream)
}

/// Requests at an even rate over many connections.
fn even_load(node: &Peer, rate: f64, seconds: u32) -> Result<Latency> {
    let apart = Duration::from_secs_f64(f64::from(CONNECTIONS) / rate);
    let begin = Instant::now() + Duration::from_millis(100);
    let end = begin + Duration::from_secs(u64::from(seconds));
    let threads: Vec<_> = (0..CONNECTIONS)
        .map(|number| {
            let address = node.address.clone();
            let first = begin + apart.mul_f64(f64::from(number) / f64::from(CONNECTIONS));
            std::thread::spawn(move || connection(&address, first, apart, end))
        })
        .collect();
    let mut times = Vec::new();
    for thread in threads {
        times.extend(thread.join().map_err(|_| anyhow::anyhow!("a thread of the load panicked"))??);
    }
    times.sort_unstable();
    let at = |share: f64| {
        let index = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
        times.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
    };
    Ok(Latency { p50: at(0.5), p99: at(0.99), worst: at(1.0) })
}

/// One connection's share: a request each time one is due.
fn connection(address: &str, first: Instant, apart: Duration, end: Instant) -> Result<Vec<Duration>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let request = format!("GET /f/hello-rust/ HTTP/1.1\r\nhost: {address}\r\n\r\n");
    let (mut due, mut times, mut buffer) = (first, Vec::new(), [0; 4096]);
    while due < end {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        while !is_whole(&answer) {
            match stream.read(&mut buffer)? {
                0 => bail!("the node closed a connection"),
                read => answer.extend_from_slice(buffer.get(..read).unwrap_or_default()),
            }
        }
        if !answer.starts_with(b"HTTP/1.1 200") {
            bail!("the neighbour said {}", String::from_utf8_lossy(&answer));
        }
        times.push(due.elapsed());
        due += apart;
    }
    Ok(times)
}

/// Whether this holds a head with a length and as many bytes after it.
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(answer.get(..end).unwrap_or_default()).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    answer.len() >= end + 4 + length.unwrap_or(0)
}

//! The compiler's own process: `tidegate compile-worker`.
//!
//! Cranelift can't be cancelled, and ten kilobytes of module can make it run for a minute or take gigabytes. So it runs
//! where the system enforces the bounds: processor time and address space by rlimits, priority by niceness. Everything
//! that reads a stranger's bytes with care for their meaning happens here too; the node only hashes them.

use std::{io::Write, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tidegate_core::units::Size;
use wasmtime::{Engine, component::Component};
use wasmtime_wasi_http::{p2::bindings::ProxyPre, p3::bindings::ServicePre};

use super::{
    error::Flaw,
    inspect::{self, Findings, Kind},
    signature,
};
use crate::{
    cluster::registry::World,
    guest::{
        engine::{self, Flavor, MEMORIES, TABLE_ELEMENTS, TABLES},
        linker,
        pool::PAGE,
        sockets,
    },
};

/// Arguments of `tidegate compile-worker`. The node is its only caller.
#[derive(Debug, Parser)]
#[command(name = "compile-worker", hide = true)]
pub struct Args {
    /// The module as it was uploaded
    #[arg(long)]
    pub module: PathBuf,
    /// Where the compiled form goes
    #[arg(long)]
    pub output: PathBuf,
    /// Processor time in seconds
    #[arg(long)]
    pub cpu: u64,
    /// Address space in bytes
    #[arg(long)]
    pub memory: u64,
    /// Memory that an instance may have, bytes
    #[arg(long)]
    pub guest_memory: u64,
    /// The setting behind --guest-memory
    #[arg(long)]
    pub guest_memory_setting: String,
}

/// What the worker reports on its standard output, as JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// The compiled form is at the path that was asked for.
    Compiled { world: World, reuse_safe: bool, concurrent: bool },
    /// The module can't be used.
    Flawed(Flaw),
    /// Something else went wrong.
    Failed(String),
}

/// Lowest priority: requests come first.
const NICE: i32 = 19;

/// Runs the worker: bounds itself, then reads, checks and compiles.
pub fn main(args: &Args) -> ExitCode {
    end_with_the_node();
    let report = match bound(args) {
        Ok(()) => work(args).unwrap_or_else(|report| report),
        Err(error) => Report::Failed(format!("can't set the bounds of a compilation: {error}")),
    };
    let text = serde_json::to_vec(&report).unwrap_or_default();
    let mut out = std::io::stdout().lock();
    match out.write_all(&text).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// A node that is killed can't end its compilations: its end of our standard input closes with it.
fn end_with_the_node() {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(1);
    });
}

fn bound(args: &Args) -> std::io::Result<()> {
    // The soft limit raises SIGXCPU; the hard one kills whoever would ignore it.
    setrlimit(Resource::Cpu, Rlimit { current: Some(args.cpu), maximum: Some(args.cpu + 2) })?;
    setrlimit(Resource::As, Rlimit { current: Some(args.memory), maximum: Some(args.memory) })?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    // A container may not let us; the compilation is then only less polite.
    let _ = rustix::process::nice(NICE);
    Ok(())
}

fn work(args: &Args) -> Result<Report, Report> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: std::io::Error| Report::Failed(format!("{what}: {error}"))
    };
    let bytes = std::fs::read(&args.module).map_err(failed("can't read the module"))?;
    let (bytes, wrapped) = as_component(bytes).map_err(Report::Flawed)?;
    let findings = inspect::component(&bytes).map_err(|flaw| match flaw {
        Flaw::NoHandler { exports } if wrapped && exports.is_empty() => Report::Flawed(Flaw::BareModule),
        flaw => Report::Flawed(flaw),
    })?;
    let (flavor, engine, code) = compile(&bytes, findings)?;
    drop(bytes);
    std::fs::write(&args.output, &code).map_err(failed("can't write the compiled module"))?;
    drop(code);
    check(&engine, flavor, args, findings)?;
    Ok(Report::Compiled {
        world: findings.world,
        reuse_safe: findings.reuse_safe,
        concurrent: flavor == Flavor::Concurrent,
    })
}

/// Compiles for the engine without concurrency where the component can do without.
fn compile(bytes: &[u8], findings: Findings) -> Result<(Flavor, Engine, Vec<u8>), Report> {
    let mut refused = None;
    for flavor in Flavor::ALL {
        if findings.concurrent && flavor == Flavor::Plain {
            continue;
        }
        let engine = engine::shared_config(flavor)
            .and_then(|config| Engine::new(&config))
            .map_err(|error| Report::Failed(format!("no compiler: {error:#}")))?;
        match engine.precompile_component(bytes) {
            Ok(code) => return Ok((flavor, engine, code)),
            Err(error) => refused = Some(Report::Flawed(invalid(&error))),
        }
    }
    Err(refused.unwrap_or_else(|| Report::Failed("no engine".into())))
}

fn invalid(error: &wasmtime::Error) -> Flaw {
    Flaw::Invalid { why: format!("{error:#}") }
}

/// The upload as a component; core modules that carry their component type are wrapped.
pub(super) fn as_component(bytes: Vec<u8>) -> Result<(Vec<u8>, bool), Flaw> {
    match inspect::kind(&bytes)? {
        Kind::Component => Ok((bytes, false)),
        Kind::Module { typed: false } => Err(Flaw::BareModule),
        Kind::Module { typed: true } => {
            let wrapped = wit_component::ComponentEncoder::default()
                .module(&bytes)
                .and_then(|encoder| encoder.validate(true).encode())
                .map_err(|error| Flaw::Invalid { why: format!("the module can't be made a component: {error:#}") })?;
            Ok((wrapped, true))
        }
    }
}

/// Checks what only the compiled form shows: types of imports, and what it needs to start.
fn check(engine: &Engine, flavor: Flavor, args: &Args, findings: Findings) -> Result<(), Report> {
    // SAFETY: this process wrote the file a moment ago, from the compiler's output.
    let component = unsafe { Component::deserialize_file(engine, &args.output) }
        .map_err(|error| Report::Failed(format!("the compiled module does not load: {error:#}")))?;
    let flawed = |error: wasmtime::Error| Report::Flawed(invalid(&error));
    let linker = linker::linker(engine, flavor)
        .and_then(|linker| sockets::linker(&linker, engine, &component))
        .map_err(|error| Report::Failed(format!("{error:#}")))?;
    let pre = linker.instantiate_pre(&component).map_err(flawed)?;
    match findings.world {
        World::Http02 => ProxyPre::new(pre).map(drop).map_err(flawed)?,
        World::Http03 => ServicePre::new(pre).map(drop).map_err(flawed)?,
    }
    let types = linker.substituted_component_type(&component).map_err(flawed)?;
    signature::check(engine, &types, findings.world).map_err(Report::Flawed)?;
    begins(findings.memory, args.guest_memory, &args.guest_memory_setting).map_err(Report::Flawed)?;
    needs(&component, args.guest_memory, &args.guest_memory_setting).map_err(Report::Flawed)
}

/// The memory that an instance begins with, in all, against what it may have.
///
/// # Errors
/// [`Flaw::NeedsMore`].
pub(super) fn begins(bytes: u64, memory: u64, setting: &str) -> Result<(), Flaw> {
    if bytes <= memory {
        return Ok(());
    }
    let (needs, limit) = (Size(bytes).to_string(), Size(memory).to_string());
    Err(Flaw::NeedsMore { what: "memory".into(), needs, limit, setting: setting.into() })
}

/// Bytes of memory that an instance begins with at most: all of its memories as large as the largest. `None` where the
/// engine can't tell.
pub(super) fn at_most(component: &Component) -> Option<u64> {
    let needs = component.resources_required()?;
    let largest = needs.max_initial_memory_size.unwrap_or(0).saturating_mul(PAGE);
    Some(largest.saturating_mul(needs.num_memories.into()))
}

/// What the component needs at its start, against what it may have.
///
/// # Errors
/// [`Flaw::NeedsMore`].
pub(super) fn needs(component: &Component, memory: u64, setting: &str) -> Result<(), Flaw> {
    let Some(needs) = component.resources_required() else { return Ok(()) };
    let more = |what: &str, needs: String, limit: String, setting: &str| {
        Err(Flaw::NeedsMore { what: what.into(), needs, limit, setting: setting.into() })
    };
    let fixed = "fixed in this release";
    // Wasmtime counts pages here.
    let initial = needs.max_initial_memory_size.map(|pages| pages.saturating_mul(PAGE));
    if let Some(size) = initial.filter(|size| *size > memory) {
        return more("memory", Size(size).to_string(), Size(memory).to_string(), setting);
    }
    if let Some(size) = needs.max_initial_table_size.filter(|size| *size > TABLE_ELEMENTS as u64) {
        return more("table elements", size.to_string(), TABLE_ELEMENTS.to_string(), fixed);
    }
    if needs.num_memories > MEMORIES {
        return more("memories", needs.num_memories.to_string(), MEMORIES.to_string(), fixed);
    }
    if needs.num_tables > TABLES {
        return more("tables", needs.num_tables.to_string(), TABLES.to_string(), fixed);
    }
    Ok(())
}

/// How long a compilation may take by the clock on the wall, as its niceness can keep it off a busy machine.
pub(super) fn wall(cpu: Duration) -> Duration {
    cpu.saturating_mul(10)
}

//! `cargo xtask bench`: side-by-side measurements, one command each.
//!
//! Machines are noisy, so both sides are measured in turns within one run and the ratio of medians is what counts.
//! These are commands, never tests: nothing here fails a build.

mod door;
mod gate;
mod invoke;
mod load;
mod neighbours;

use anyhow::Result;

/// Which measurement.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Bench {
    /// Invocations and forwarding beside `wasmtime serve`, workerd and Envoy
    Invoke(invoke::Options),
    /// A function's latency while guests of another one spin on every core
    Neighbours(neighbours::Options),
    /// An outbound call through the door beside the same client without it
    Door,
    /// What the gate promises about limits, outages, slow regions and fairness, beside clients and peers without it
    Gate(gate::Options),
}

/// Runs the measurement.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Invoke(options) => invoke::run(options),
        Bench::Neighbours(options) => neighbours::run(options),
        Bench::Door => door::run(),
        Bench::Gate(options) => gate::run(options),
    }
}

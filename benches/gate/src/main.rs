//! The world around the gate, for `cargo xtask bench gate`: upstreams with limits, outages and slow regions, and clients
//! that send to them, through whatever stands in between.
//!
//! One run is one side of one case. What it measured is an object of numbers on stdout; phases are told on stderr. Whoever
//! starts it starts the gate and its peers as well, and judges.

mod admission;
mod client;
mod fairness;
mod load;
mod measure;
mod outage;
mod quota;
mod slow_region;
mod unknown_limit;
mod upstream;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use serde_json::Value;

/// No side of a case takes longer, whatever hangs.
const LONGEST: Duration = Duration::from_secs(1_800);

#[derive(Parser)]
#[command(name = "gate-world", about = "One side of one case of `cargo xtask bench gate`")]
struct Cli {
    #[command(subcommand)]
    case: Case,
}

#[derive(Subcommand)]
enum Case {
    /// Many clients, and an upstream whose limit shows in bare 429s only
    UnknownLimit(unknown_limit::Options),
    /// Steady load while an upstream goes away and comes back
    Outage(outage::Options),
    /// Steady load on three regions, of which one becomes slow without errors
    SlowRegion(slow_region::Options),
    /// One caller with a long queue and one who calls now and then
    Fairness(fairness::Options),
    /// Admissions of the core while half of the cores are busy
    Admission(admission::Options),
}

fn main() -> ExitCode {
    match measure() {
        Ok(measured) => {
            println!("{measured}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<Value> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let measured = match &cli.case {
        // A thread of its own and no runtime: what is measured is one lock and one call.
        Case::Admission(options) => admission::run(options),
        case => runtime.block_on(async {
            let measured = async {
                match case {
                    Case::UnknownLimit(options) => Box::pin(unknown_limit::run(options)).await,
                    Case::Outage(options) => Box::pin(outage::run(options)).await,
                    Case::SlowRegion(options) => Box::pin(slow_region::run(options)).await,
                    Case::Fairness(options) => Box::pin(fairness::run(options)).await,
                    Case::Admission(options) => admission::run(options),
                }
            };
            tokio::time::timeout(LONGEST, measured).await.context("the case did not end in half an hour")?
        }),
    };
    // Calls that nobody waits for may be under way still.
    runtime.shutdown_background();
    measured
}

//! What the host offers to guests, interface by interface. No directory is open, and sockets are there in name only
//! (see [`super::sockets`]).

use wasmtime::{
    Engine,
    component::{HasData, Linker, Resource, ResourceTable},
};
use wasmtime_wasi::{
    WasiView,
    cli::{WasiCli, WasiCliView},
    clocks::{WasiClocks, WasiClocksView},
    filesystem::{WasiFilesystem, WasiFilesystemView},
    p2::bindings as p2,
    p3::bindings as p3,
    random::{WasiRandom, WasiRandomView},
};
use wasmtime_wasi_http::{
    WasiHttp, WasiHttpView,
    p2::{
        bindings::{
            self as http2,
            http::{
                outgoing_handler::Host as _,
                types::{self as http_p2, ErrorCode, RequestOptions},
            },
        },
        types::{HostFutureIncomingResponse, HostOutgoingRequest},
    },
    p3::bindings::http::types as http_p3,
};

use super::{bodies, client, engine::Flavor, state::GuestState};

/// Interfaces on offer, without their versions: whole tracks of 0.2 and 0.3 are compatible.
pub(super) const OFFERED: &[(&str, &[&str])] = &[
    ("wasi:io/error", &["0.2"]),
    ("wasi:io/poll", &["0.2"]),
    ("wasi:io/streams", &["0.2"]),
    ("wasi:clocks/types", &["0.3"]),
    ("wasi:clocks/wall-clock", &["0.2"]),
    ("wasi:clocks/system-clock", &["0.3"]),
    ("wasi:clocks/monotonic-clock", &["0.2", "0.3"]),
    ("wasi:random/random", &["0.2", "0.3"]),
    ("wasi:random/insecure", &["0.2", "0.3"]),
    ("wasi:random/insecure-seed", &["0.2", "0.3"]),
    ("wasi:cli/types", &["0.3"]),
    ("wasi:cli/environment", &["0.2", "0.3"]),
    ("wasi:cli/exit", &["0.2", "0.3"]),
    ("wasi:cli/stdin", &["0.2", "0.3"]),
    ("wasi:cli/stdout", &["0.2", "0.3"]),
    ("wasi:cli/stderr", &["0.2", "0.3"]),
    ("wasi:cli/terminal-input", &["0.2", "0.3"]),
    ("wasi:cli/terminal-output", &["0.2", "0.3"]),
    ("wasi:cli/terminal-stdin", &["0.2", "0.3"]),
    ("wasi:cli/terminal-stdout", &["0.2", "0.3"]),
    ("wasi:cli/terminal-stderr", &["0.2", "0.3"]),
    ("wasi:filesystem/types", &["0.2", "0.3"]),
    ("wasi:filesystem/preopens", &["0.2", "0.3"]),
    ("wasi:http/types", &["0.2", "0.3"]),
    ("wasi:http/outgoing-handler", &["0.2"]),
    ("wasi:http/client", &["0.3"]),
];

struct Io;

impl HasData for Io {
    type Data<'a> = &'a mut ResourceTable;
}

/// A linker with everything in [`OFFERED`]; without concurrency, with the tracks 0.2 of it.
///
/// # Errors
/// When an interface is defined twice, which is a mistake in this file.
pub(super) fn linker(engine: &Engine, flavor: Flavor) -> wasmtime::Result<Linker<GuestState>> {
    let mut linker = Linker::new(engine);
    offer_p2(&mut linker)?;
    if flavor == Flavor::Concurrent {
        offer_p3(&mut linker)?;
    }
    Ok(linker)
}

/// What a guest is told of an error: not the host's stack, which the error has with it where the host's environment asks
/// for that.
fn said(error: &p2::io::error::Error) -> String {
    error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn offer_p2(l: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    type S = GuestState;
    p2::io::error::add_to_linker::<S, Io>(l, |state| state.ctx().table)?;
    l.allow_shadowing(true);
    l.instance("wasi:io/error@0.2.12")?
        .func_wrap("[method]error.to-debug-string", |mut store, (error,): (Resource<p2::io::error::Error>,)| {
            Ok((said(store.data_mut().ctx().table.get(&error)?),))
        })?;
    l.allow_shadowing(false);
    p2::io::poll::add_to_linker::<S, Io>(l, |state| state.ctx().table)?;
    p2::io::streams::add_to_linker::<S, Io>(l, |state| state.ctx().table)?;
    p2::clocks::wall_clock::add_to_linker::<S, WasiClocks>(l, S::clocks)?;
    p2::clocks::monotonic_clock::add_to_linker::<S, WasiClocks>(l, S::clocks)?;
    p2::random::random::add_to_linker::<S, WasiRandom>(l, S::random)?;
    p2::random::insecure::add_to_linker::<S, WasiRandom>(l, S::random)?;
    p2::random::insecure_seed::add_to_linker::<S, WasiRandom>(l, S::random)?;
    p2::cli::environment::add_to_linker::<S, WasiCli>(l, S::cli)?;
    p2::cli::exit::add_to_linker::<S, WasiCli>(l, S::cli)?;
    p2::cli::stdin::add_to_linker::<S, WasiCli>(l, S::cli)?;
    p2::cli::stdout::add_to_linker::<S, WasiCli>(l, S::cli)?;
    p2::cli::stderr::add_to_linker::<S, WasiCli>(l, S::cli)?;
    p2::cli::terminal_input::add_to_linker::<S, WasiCli>(l, S::cli)?;
    p2::cli::terminal_output::add_to_linker::<S, WasiCli>(l, S::cli)?;
    p2::cli::terminal_stdin::add_to_linker::<S, WasiCli>(l, S::cli)?;
    p2::cli::terminal_stdout::add_to_linker::<S, WasiCli>(l, S::cli)?;
    p2::cli::terminal_stderr::add_to_linker::<S, WasiCli>(l, S::cli)?;
    p2::filesystem::types::add_to_linker::<S, WasiFilesystem>(l, S::filesystem)?;
    p2::filesystem::preopens::add_to_linker::<S, WasiFilesystem>(l, S::filesystem)?;
    let options = http2::LinkOptions::default();
    http_p2::add_to_linker::<S, WasiHttp>(l, &(&options).into(), S::http)?;
    l.instance("wasi:http/outgoing-handler@0.2.0")?.func_wrap(
        "handle",
        |mut store, (request, options): (Resource<HostOutgoingRequest>, Option<Resource<RequestOptions>>)| {
            let mut http = store.data_mut().http();
            // Wasmtime takes no empty path, which is `/`.
            let head = http.table.get_mut(&request)?;
            if head.authority.is_some() {
                head.path_with_query.get_or_insert_with(|| "/".to_owned());
            }
            let answer: Result<Resource<HostFutureIncomingResponse>, ErrorCode> = match http.handle(request, options) {
                Ok(answer) => Ok(answer),
                Err(error) => Err(error.downcast()?),
            };
            Ok((answer,))
        },
    )
}

fn offer_p3(l: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    type S = GuestState;
    p3::clocks::types::add_to_linker::<S, WasiClocks>(l, S::clocks)?;
    p3::clocks::system_clock::add_to_linker::<S, WasiClocks>(l, S::clocks)?;
    p3::clocks::monotonic_clock::add_to_linker::<S, WasiClocks>(l, S::clocks)?;
    p3::random::random::add_to_linker::<S, WasiRandom>(l, S::random)?;
    p3::random::insecure::add_to_linker::<S, WasiRandom>(l, S::random)?;
    p3::random::insecure_seed::add_to_linker::<S, WasiRandom>(l, S::random)?;
    p3::cli::environment::add_to_linker::<S, WasiCli>(l, S::cli)?;
    p3::cli::exit::add_to_linker::<S, WasiCli>(l, S::cli)?;
    p3::cli::stdin::add_to_linker::<S, WasiCli>(l, S::cli)?;
    p3::cli::stdout::add_to_linker::<S, WasiCli>(l, S::cli)?;
    p3::cli::stderr::add_to_linker::<S, WasiCli>(l, S::cli)?;
    p3::cli::terminal_input::add_to_linker::<S, WasiCli>(l, S::cli)?;
    p3::cli::terminal_output::add_to_linker::<S, WasiCli>(l, S::cli)?;
    p3::cli::terminal_stdin::add_to_linker::<S, WasiCli>(l, S::cli)?;
    p3::cli::terminal_stdout::add_to_linker::<S, WasiCli>(l, S::cli)?;
    p3::cli::terminal_stderr::add_to_linker::<S, WasiCli>(l, S::cli)?;
    p3::filesystem::types::add_to_linker::<S, WasiFilesystem>(l, S::filesystem)?;
    p3::filesystem::preopens::add_to_linker::<S, WasiFilesystem>(l, S::filesystem)?;
    http_p3::add_to_linker::<S, WasiHttp>(l, S::http)?;
    bodies::add_to_linker(l)?;
    client::add_to_linker(l)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_told_the_causes_of_an_error_and_nothing_else() {
        let error = wasmtime::Error::msg("the peer left").context("no answer");
        assert_eq!(said(&error), "no answer: the peer left");
    }
}

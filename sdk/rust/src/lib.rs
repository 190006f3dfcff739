//! Write Tidegate functions in Rust.
//!
//! ```no_run
//! use tidegate_sdk::{IntoResponse, Request, Result};
//!
//! #[tidegate_sdk::handler]
//! async fn hello(request: Request) -> Result<impl IntoResponse> {
//!     Ok(format!("hello from {}\n", request.uri().path()))
//! }
//! # fn main() {}
//! ```
//!
//! `cargo build --release --target wasm32-wasip2` with `crate-type = ["cdylib"]` gives the component to deploy. A core module
//! built for `wasm32-unknown-unknown` is deployed just as well: the component type travels in it. On that target `println!`
//! goes nowhere and `std::time` panics, so everything here (logs, clocks, randomness, environment) comes from WASI; use
//! [`log!`], [`time`], [`rand`] and [`env`] and a function runs alike on both.
//!
//! The handler's component is marked as safe for reuse: one instance may serve many requests, one after another. Statics
//! survive between them.

pub mod env;
pub mod log;
mod outbound;
mod panic;
mod policy;
mod response;
mod serve;

pub use outbound::fetch;
pub use policy::{InvalidPolicy, Mode, POLICY_HEADER, Policy, PolicyExt};
#[cfg(feature = "json")]
pub use response::Json;
pub use response::{IntoResponse, Response};
pub use tidegate_sdk_macros::handler;

pub use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
pub use wstd::http::Body;
pub use wstd::{rand, time};

/// A request, inbound or outbound, with a streaming body.
pub type Request = http::Request<Body>;

/// Any error; everything that implements `std::error::Error` turns into it with `?`.
pub type Error = anyhow::Error;

/// What a handler returns. An error reaches the log in full and the client as `500 Internal Server Error`.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the `#[handler]` attribute expands to. Not part of the API.
#[doc(hidden)]
pub mod __private {
    pub use crate::reuse_mark;
    pub use crate::serve::serve;
    pub use wasip2;
    pub use wasip2::exports::http::incoming_handler::{Guest, IncomingRequest, ResponseOutparam};
    pub use wasip2::http::proxy::export;
}

/// Puts the custom section `tidegate:reuse` into the module (see `sdk/wit/README.md`). It stands in the handler's own crate:
/// a static in a library that nothing refers to would be left out by the linker.
#[doc(hidden)]
#[macro_export]
macro_rules! reuse_mark {
    () => {
        #[cfg(target_family = "wasm")]
        #[unsafe(link_section = "tidegate:reuse")]
        #[used]
        static TIDEGATE_REUSE: [u8; 1] = *b"1";
    };
}

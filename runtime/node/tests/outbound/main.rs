//! The door from end to end, over real sockets: a scripted upstream on one side, the sender of a call on the other.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    missing_docs
)]

mod bodies;
mod cache;
mod connections;
mod copies;
mod credit;
mod deadlines;
mod endpoints;
mod guards;
mod hopeless;
mod in_vain;
mod limits;
mod liveness;
mod messages;
mod patience;
mod profiles;
mod refusals;
mod secrets;
mod sent_on;
mod shown;
mod support;
mod tls;
mod traces;
mod trails;
mod troubles;
mod unknown;
mod uploads;
mod usage;
mod waiting;

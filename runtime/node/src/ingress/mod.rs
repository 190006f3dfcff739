//! The data listener: functions, `/to`, health. Runs on the guests' runtime, so that a request meets its instance
//! without changing threads.

mod head;
pub mod listener;
pub mod live;
mod route;

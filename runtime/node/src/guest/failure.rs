//! From what wasmtime says to what a person is told.

use std::sync::Arc;

use wasmtime::{PoolConcurrencyLimitError, Trap, component::ResourceTableError};
use wasmtime_wasi::I32Exit;

use super::{
    InvokeError,
    deployment::Deployed,
    limits::Bound,
    running::Running,
    state::{CpuExhausted, GuestState, HOSTCALL_BYTES},
};
use crate::observe::{LogStream, Note};

/// Why an invocation ended without an answer: what was said about it, else that there is none.
pub(super) fn of(running: &Running) -> InvokeError {
    running.failure().unwrap_or(InvokeError::NoAnswer)
}

/// An instance could not be made.
pub(super) fn start(state: &GuestState, running: &Arc<Running>, error: wasmtime::Error) -> InvokeError {
    let known = known(state, &error);
    tell(state, Some(running), "the guest can't be started", &error);
    known.unwrap_or_else(|| InvokeError::Start(first_line(&error)))
}

/// The guest trapped, exited, or hit a bound.
pub(super) fn trap(state: &GuestState, running: &Arc<Running>, error: wasmtime::Error) -> InvokeError {
    let reason = reason(state, &error);
    if !matches!(reason, InvokeError::Exit(0)) {
        tell(state, Some(running), &reason.to_string(), &error);
    }
    running.trail.note(Note::Guest(reason.to_string()));
    reason
}

/// The guest returned and said nothing.
pub(super) fn no_answer(state: &GuestState, running: &Arc<Running>) -> InvokeError {
    let reason = state.memory.exhaustion().unwrap_or(InvokeError::NoAnswer);
    state.logs.host(Some(running), reason.to_string());
    running.trail.note(Note::Guest(reason.to_string()));
    reason
}

/// A bound that is kept from outside the guest has passed: its function's log, its trail and its client are told.
pub(super) fn overdue(deployed: &Deployed, running: &Running, reason: InvokeError) {
    note(deployed, running, reason.to_string());
    running.fail(reason);
}

/// Tells a function's log and the trail of an invocation.
pub(super) fn note(deployed: &Deployed, running: &Running, text: String) {
    deployed.log_owner.write(Some(running.trace_id()), LogStream::Host, text.clone());
    running.trail.note(Note::Guest(text));
}

/// The reason behind an error of wasmtime.
pub(super) fn reason(state: &GuestState, error: &wasmtime::Error) -> InvokeError {
    known(state, error).unwrap_or_else(|| InvokeError::Trap(first_line(error)))
}

fn known(state: &GuestState, error: &wasmtime::Error) -> Option<InvokeError> {
    if let Some(exhausted) = exhausted(error) {
        return Some(exhausted);
    }
    if let Some(CpuExhausted(bound)) = error.downcast_ref() {
        return Some(InvokeError::Cpu(*bound));
    }
    if let Some(I32Exit(code)) = error.downcast_ref() {
        // A guest out of memory often exits in its own way; the cause matters more than the way.
        let cause = state.memory.exhaustion().filter(|_| *code != 0);
        return Some(cause.unwrap_or(InvokeError::Exit(*code)));
    }
    // Only the host's own table says so by type, the others in words.
    let cause = error.root_cause().to_string();
    let full = matches!(error.downcast_ref(), Some(ResourceTableError::Full));
    if full || cause.contains("store handle limit exceeded") {
        let what = "requests, bodies, headers and streams at once";
        return Some(InvokeError::Host { kind: "guest-handles", what, bound: state.limits.handles });
    }
    if cause.contains("total size of fields exceeds") {
        let what = "bytes in one set of headers";
        return Some(InvokeError::Host { kind: "guest-fields", what, bound: state.limits.fields });
    }
    if cause.contains("fuel allocated for hostcalls") {
        let bound = Bound { value: HOSTCALL_BYTES as u64, setting: "fixed in this release" };
        return Some(InvokeError::Host { kind: "guest-copy", what: "bytes copied in one call", bound });
    }
    state.memory.exhaustion()
}

/// The engine's own pool is in use up to its last memory, table or stack.
fn exhausted(error: &wasmtime::Error) -> Option<InvokeError> {
    error.is::<PoolConcurrencyLimitError>().then(|| InvokeError::Exhausted(first_line(error)))
}

/// What a person reads in the function's log: the reason, then its causes and the guest's own stack. Not the host's, which
/// the error may hold as well.
pub(super) fn account(what: &str, error: &wasmtime::Error) -> String {
    error.chain().fold(what.to_owned(), |text, cause| format!("{text}\n{cause}"))
}

/// One line: the trap, or the innermost cause.
fn first_line(error: &wasmtime::Error) -> Arc<str> {
    if let Some(trap) = error.downcast_ref::<Trap>() {
        return trap.to_string().into();
    }
    error.root_cause().to_string().into()
}

/// The whole story, backtrace included, in the guest's log.
fn tell(state: &GuestState, running: Option<&Arc<Running>>, what: &str, error: &wasmtime::Error) {
    state.logs.host(running.map(Arc::as_ref), account(what, error));
}

#[cfg(test)]
mod tests {
    use wasmtime::{
        Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store,
        component::{Component, Linker},
    };

    use super::*;
    use crate::problem::Problem;

    #[test]
    fn an_engine_that_has_no_room_for_more_is_told_from_a_guest_that_can_not_start() {
        // The core allows more instances of it than the pool has memories.
        let mut pool = PoolingAllocationConfig::new();
        pool.total_memories(1).total_stacks(1).max_memory_size(1 << 20);
        let mut config = Config::new();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool)).memory_reservation(1 << 20);
        let engine = Engine::new(&config).unwrap();
        let text = "(component (core module $m (memory 1)) (core instance (instantiate $m)))";
        let component = Component::new(&engine, wat::parse_str(text).unwrap()).unwrap();
        let linker = Linker::new(&engine);
        let begin = || {
            let mut store = Store::new(&engine, ());
            linker.instantiate(&mut store, &component).map(|_| store)
        };
        let first = begin().unwrap();
        let error = begin().map(|_| ()).unwrap_err().context("on its way up");
        let known = exhausted(&error).expect("it is known by its type");
        assert!(known.to_string().contains("memory"), "{known}");
        let problem = Problem::from(known);
        assert_eq!((problem.status.as_u16(), problem.kind), (503, "instance-pool"));
        assert!(problem.retry_after.is_some());
        drop(first);
        assert!(begin().is_ok(), "the room comes back");
        assert!(exhausted(&wasmtime::Error::msg("maximum concurrent limit of 1 reached")).is_none());
    }
}

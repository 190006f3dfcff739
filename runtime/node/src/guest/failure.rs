//! From what wasmtime says to what a person is told.

use std::sync::Arc;

use wasmtime::{Trap, component::ResourceTableError};
use wasmtime_wasi::I32Exit;

use super::{InvokeError, running::Running, state::CpuExhausted, state::GuestState};
use crate::observe::Note;

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
    let reason =
        if state.memory.exhausted { InvokeError::Memory(running.limits.memory) } else { InvokeError::NoAnswer };
    state.logs.host(Some(running), reason.to_string());
    running.trail.note(Note::Guest(reason.to_string()));
    reason
}

/// The reason behind an error of wasmtime.
pub(super) fn reason(state: &GuestState, error: &wasmtime::Error) -> InvokeError {
    known(state, error).unwrap_or_else(|| InvokeError::Trap(first_line(error)))
}

fn known(state: &GuestState, error: &wasmtime::Error) -> Option<InvokeError> {
    if let Some(CpuExhausted(bound)) = error.downcast_ref() {
        return Some(InvokeError::Cpu(*bound));
    }
    if let Some(I32Exit(code)) = error.downcast_ref() {
        // A guest out of memory often exits in its own way; the cause matters more than the way.
        return Some(if state.memory.exhausted && *code != 0 {
            InvokeError::Memory(state.memory.bound())
        } else {
            InvokeError::Exit(*code)
        });
    }
    state.memory.exhausted.then(|| InvokeError::Memory(state.memory.bound()))
}

/// One line: the trap, or the innermost cause.
fn first_line(error: &wasmtime::Error) -> Arc<str> {
    if let Some(trap) = error.downcast_ref::<Trap>() {
        return trap.to_string().into();
    }
    if let Some(ResourceTableError::Full) = error.downcast_ref() {
        return "it holds more resources than it may (2,000): requests, bodies or headers are not disposed of".into();
    }
    error.root_cause().to_string().into()
}

/// The whole story, backtrace included, in the guest's log.
fn tell(state: &GuestState, running: Option<&Arc<Running>>, what: &str, error: &wasmtime::Error) {
    state.logs.host(running.map(Arc::as_ref), format!("{what}\n{error:?}"));
}

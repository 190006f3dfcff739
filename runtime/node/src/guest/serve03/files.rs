//! The invocations that calls of a shared instance's guest may belong to.

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::oneshot;
use wasmtime::component::GuestTaskId;

use super::shared::Head;
use crate::guest::running::Running;

/// An invocation under the task that the component model knows it by.
pub(super) struct Filed {
    /// Nothing when the task is gone and its id was used again.
    pub(super) task: Option<GuestTaskId>,
    pub(super) running: Arc<Running>,
    /// Not in the call's own future: that goes with the store's event loop, before anybody could say why it went.
    pub(super) head: Option<oneshot::Sender<Head>>,
}

impl Filed {
    fn is_over(&self) -> bool {
        self.running.is_answered() || self.running.ended()
    }
}

/// Those that are served, of which there are few, and those that were: every request looks through the former.
#[derive(Default)]
pub(super) struct Files {
    open: Vec<Filed>,
    /// In the order in which their answers were seen to be through.
    over: VecDeque<Filed>,
}

impl Files {
    /// Files an invocation whose guest begins.
    pub(super) fn push(&mut self, filed: Filed) {
        self.open.push(filed);
    }

    /// The task is gone for good, and its id used again: no call of the guest can belong to whoever had it.
    pub(super) fn forget_task(&mut self, task: GuestTaskId) {
        self.iter_mut().filter(|filed| filed.task == Some(task)).for_each(|filed| filed.task = None);
    }

    /// Who waits for the answer of the task.
    pub(super) fn take_head(&mut self, task: GuestTaskId) -> Option<oneshot::Sender<Head>> {
        self.iter_mut().find(|filed| filed.task == Some(task)).and_then(|filed| filed.head.take())
    }

    /// Forgets invocations whose answers are through, the oldest first, until no more than `keep` of them are filed.
    pub(super) fn settle(&mut self, keep: usize) -> impl Iterator<Item = Filed> {
        self.over.extend(self.open.extract_if(.., |filed| filed.is_over()));
        let surplus = self.over.len().saturating_sub(keep);
        self.over.drain(..surplus)
    }

    /// The only invocation whose answer is not through, where there is only one.
    pub(super) fn sole(&self) -> Option<&Arc<Running>> {
        let mut open = self.open.iter().filter(|filed| !filed.running.is_answered());
        open.next().filter(|_| open.next().is_none()).map(|filed| &filed.running)
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Filed> {
        self.over.iter().chain(&self.open)
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Filed> {
        // Those that are served first: they are asked for.
        self.open.iter_mut().chain(&mut self.over)
    }

    /// All of them, and leaves none.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Filed> {
        self.over.drain(..).chain(self.open.drain(..))
    }
}

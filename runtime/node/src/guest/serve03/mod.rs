//! Guests of `wasi:http` 0.3: an instance serves several requests at once.
//!
//! An instance is a task that drives one store. Requests come to it through a short queue; each is a call into the
//! guest, filed under the task id the component model gives it, so that the guest's own calls find their invocation
//! (see [`super::linker`]). A call can't be cancelled from outside in this wasmtime: when a client leaves, its outbound
//! calls are ended, and the instance with it where it serves nobody else. An invocation that outstays its bounds takes
//! no more company: its instance ends as soon as the others are done.
mod drive;
mod files;
mod shared;

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use wasmtime_wasi_http::{WasiBody, p3::bindings::ServicePre};

pub(super) use self::shared::Shelf03;
use self::shared::{Head, Job, Shared, Slot};
use super::{
    InvokeError,
    answer::{Answer, Work},
    deployment::{Alive, Deployed},
    failure,
    hogs::Migrating,
    hooks::to_guest,
    meter::{Meter, Metered},
    pool::{Grant, Permit},
    running::Running,
    state::GuestState,
    watch,
};
use crate::{body::Body, cluster::registry::Isolation, observe::Note};

/// Time that a guest has to end a request whose client left, before its instance takes no more.
const GRACE: Duration = Duration::from_secs(1);

/// Serves one request. Dropping the future or the answer's body ends the request's calls, and its instance where that
/// serves nobody else.
pub(super) fn invoke<'a>(
    deployed: &'a Arc<Deployed>,
    pre: &'a ServicePre<GuestState>,
    shelf: &'a Arc<Shelf03>,
    request: Request<Body>,
    running: Arc<Running>,
) -> impl Future<Output = Result<Response<Body>, InvokeError>> + Send + use<'a> {
    let method = request.method().clone();
    let request = request.map(|body| body.map_err(to_guest).boxed_unsync());
    // Before there is a future, which is moved with all that it will hold.
    let sent = match shared_slot(deployed, shelf) {
        Some(mut slot) => {
            slot.offered = true;
            let now = Instant::now();
            running.trail.note_at(now, Note::Instance { reused: true, waited: Duration::ZERO });
            Ok(Sent::into(slot, request, &running, now))
        }
        None => Err(Box::new(request)),
    };
    async move {
        let Sent { shared, work, mut head, now } = match sent {
            Ok(sent) => sent,
            Err(request) => {
                let slot = Box::pin(acquire(deployed, pre, shelf, &running)).await?;
                Sent::into(slot, *request, &running, Instant::now())
            }
        };
        let response = match watch::head(deployed, &running, now, &mut head).await {
            Ok(head) => head?,
            // It never came to a call: the instance ended first.
            Err(InvokeError::NoAnswer) if running.failure().is_none() => return Err(shared.lost()),
            Err(error) => return Err(error),
        };
        running.begin_stream();
        Ok(Answer::respond(response, &method, deployed, running, Some(Box::new(work))))
    }
}

/// A request on its way through an instance.
struct Sent {
    shared: Arc<Shared>,
    work: Watched,
    head: oneshot::Receiver<Head>,
    /// When it was sent.
    now: Instant,
}

impl Sent {
    fn into(slot: Slot, request: Request<WasiBody>, running: &Arc<Running>, now: Instant) -> Self {
        running.start(now);
        let shared = Arc::clone(&slot.shared);
        let (sender, head) = oneshot::channel();
        let work = Watched { running: Arc::clone(running), slot: Some(slot) };
        shared.send(Job { request, running: Arc::clone(running), head: sender });
        Self { shared, work, head, now }
    }
}

/// Waits for a place in an instance, or for one for a new instance.
async fn acquire(
    deployed: &Arc<Deployed>,
    pre: &ServicePre<GuestState>,
    shelf: &Arc<Shelf03>,
    running: &Arc<Running>,
) -> Result<Slot, InvokeError> {
    let found = |reused, waited| running.trail.note(Note::Instance { reused, waited });
    let began = Instant::now();
    let permit = match deployed.account.try_permit() {
        Some(permit) => permit,
        None => {
            let mut waiting = pin!(deployed.account.acquire::<Slot>(running.deadline));
            let granted = match futures::poll!(waiting.as_mut()) {
                Poll::Ready(granted) => granted?,
                // A place that became free since it was looked for was offered to nobody: this request was not in line yet.
                Poll::Pending => match shared_slot(deployed, shelf) {
                    Some(slot) => Grant::Instance(slot),
                    None => waiting.await?,
                },
            };
            match granted {
                Grant::Permit(permit) => permit,
                Grant::Instance(mut slot) => {
                    slot.offered = true;
                    found(true, began.elapsed());
                    return Ok(slot);
                }
            }
        }
    };
    found(false, began.elapsed());
    start(deployed, pre, shelf, permit, running).await
}

/// A place in an instance that is there, where those are shared.
fn shared_slot(deployed: &Deployed, shelf: &Shelf03) -> Option<Slot> {
    if deployed.isolation == Isolation::Function { shelf.try_slot() } else { None }
}

/// Makes an instance and the task that drives it, with one place taken.
async fn start(
    deployed: &Arc<Deployed>,
    pre: &ServicePre<GuestState>,
    shelf: &Arc<Shelf03>,
    mut permit: Permit,
    running: &Arc<Running>,
) -> Result<Slot, InvokeError> {
    let meter = Arc::new(Meter::new(Some(Arc::clone(&deployed.overseer))));
    let charge = permit.charge(&deployed.account);
    let store =
        GuestState::store(deployed, &meter, charge).map_err(|error| InvokeError::Start(format!("{error:#}").into()))?;
    let mut live = drive::Live { store, alive: Alive::new(deployed), permit };
    live.store.data_mut().logs.attribute(Some(running));
    let (sender, made) = oneshot::channel();
    let instantiate = {
        let (pre, meter) = (pre.clone(), Arc::clone(&meter));
        async move {
            let instantiate = async { pre.instantiate_async(&mut live.store).await };
            let made = Metered::new(instantiate, meter).await;
            let _ = sender.send((live, made));
        }
    };
    let hogs = &deployed.overseer.hogs;
    Migrating::new(Box::pin(instantiate), Arc::clone(&meter), Arc::clone(hogs)).await;
    let (live, service) = match made.await {
        Ok((live, Ok(service))) => (live, service),
        Ok((live, Err(error))) => return Err(failure::start(live.store.data(), running, error)),
        Err(_) => return Err(InvokeError::ShuttingDown),
    };
    let (shared, slot) = Shared::new(deployed, &meter, live.store.data().memory.used());
    if deployed.isolation == Isolation::Function {
        shelf.add(&shared);
    }
    let drive = Box::pin(drive::run(live, service, shared, Arc::downgrade(shelf)));
    tokio::spawn(Migrating::new(drive, meter, Arc::clone(hogs)));
    Ok(slot)
}

/// A request's work on a shared instance, as its client holds it. Dropped without a word, it is abandoned.
struct Watched {
    running: Arc<Running>,
    slot: Option<Slot>,
}

impl Work for Watched {
    fn answered(mut self: Box<Self>) {
        self.running.answered();
        self.slot = None;
    }

    fn abandoned(self: Box<Self>) {}
}

impl Drop for Watched {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        self.running.cancel();
        let shared = Arc::clone(&slot.shared);
        if shared.retire_at(1) {
            shared.kill();
        } else if self.running.stream_age().is_none() && !self.running.ended() {
            shared.abandoned.lock().push((Arc::clone(&self.running), Instant::now() + GRACE, slot));
        } else {
            self.running.end();
        }
    }
}

//! What a guest's store holds.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use wasmtime::{
    ResourceLimiter, Store, StoreContextMut, UpdateDeadline,
    component::{GuestTaskId, ResourceTable},
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::{
    InvokeError,
    deployment::Deployed,
    engine::{MEMORIES, TABLE_ELEMENTS, TABLES},
    hogs::{FunctionKey, Hogs},
    hooks::Hooks,
    limits::{Bound, Limits},
    logs::{InstanceLogs, LogPipe},
    meter::Meter,
    pool::Charge,
    running::Running,
};
use crate::observe::{LogStream, Note};

/// Bytes that one host call may copy out of a guest.
pub(super) const HOSTCALL_BYTES: usize = 8 << 20;
/// Random bytes of one call.
const RANDOM_BYTES: u64 = 64 << 10;
/// Bytes a guest may write into a body at once.
pub(super) const BODY_CHUNK: usize = 64 << 10;
/// A guest that computes for longer than this in one request needs a hog permit to go on. Starting a JavaScript engine
/// takes up to 2 ms, and more where the machine is crowded: that must not be taken for a long computation.
const HOG_AFTER: Duration = Duration::from_millis(5);
/// Requests between two counts of a guest's host resources.
const LOOK_EVERY: u32 = 8;
/// A poll younger than this goes on when the epoch moves: it has only just begun.
const SLICE: Duration = Duration::from_micros(800);

/// A guest was ended because it used up its time on a processor.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the guest computed for longer than {:?} (setting {})", .0.value, .0.setting)]
pub(super) struct CpuExhausted(pub(super) Bound<Duration>);

/// The data of a guest's store.
pub(super) struct GuestState {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
    pub(super) hooks: Hooks,
    pub(super) limits: Arc<Limits>,
    pub(super) memory: MemoryMeter,
    pub(super) logs: Arc<InstanceLogs>,
    /// Invocations on a shared (0.3) instance, by the task that the component model knows them by.
    pub(super) tasks: BTreeMap<GuestTaskId, Arc<Running>>,
    /// How often it was asked about leaks.
    asked: u32,
}

impl GuestState {
    /// A store for one instance of the deployment, which holds the charge of its memory.
    pub(super) fn store(deployed: &Arc<Deployed>, meter: &Arc<Meter>, memory: Charge) -> wasmtime::Result<Store<Self>> {
        let logs = InstanceLogs::new(Arc::clone(&deployed.log_owner), deployed.limits.log_bytes.value);
        let mut wasi = WasiCtx::builder();
        wasi.stdout(LogPipe::new(&logs, LogStream::Stdout))
            .stderr(LogPipe::new(&logs, LogStream::Stderr))
            .max_random_size(RANDOM_BYTES)
            .envs(&deployed.env);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(usize::try_from(deployed.limits.fields.value).unwrap_or(usize::MAX));
        let mut table = ResourceTable::new();
        let handles = deployed.limits.handles.value as usize;
        table.set_max_capacity(handles);
        let state = Self {
            wasi: wasi.build(),
            http,
            table,
            hooks: Hooks::new(Arc::clone(deployed)),
            limits: Arc::clone(&deployed.limits),
            memory: MemoryMeter {
                bound: deployed.limits.memory,
                core_instances: deployed.limits.core_instances.value as usize,
                charge: memory,
                refused: None,
            },
            logs,
            tasks: BTreeMap::new(),
            asked: 0,
        };
        let mut store = Store::try_new(&deployed.engine, state)?;
        store.limiter(|state| &mut state.memory);
        store.set_max_component_handles(handles);
        store.set_hostcall_fuel(HOSTCALL_BYTES);
        store.set_epoch_deadline(1);
        let (meter, hogs, function) = (Arc::clone(meter), Arc::clone(&deployed.overseer.hogs), deployed.function_key);
        let cpu = deployed.limits.cpu;
        store.epoch_deadline_callback(move |mut context| {
            let (used, slice) = meter.tick();
            charge(&mut context, meter.charge(slice), cpu)?;
            tick(&meter, &hogs, function, (used, slice), cpu)
        });
        Ok(store)
    }

    /// Entries in the table of host resources.
    pub(super) fn resources(&mut self) -> usize {
        self.table.iter_mut().count()
    }

    /// Whether guests of this size of table should be retired before they hit its bound. To be asked after every
    /// request; it looks now and then.
    pub(super) fn leaks_resources(&mut self) -> bool {
        self.asked = self.asked.wrapping_add(1);
        self.asked.is_multiple_of(LOOK_EVERY) && self.resources() > self.limits.handles.value as usize / 2
    }
}

/// The invocation that the guest works for just now. The call stack knows: its last entry is the task that the host
/// began, under which the invocation was filed.
pub(super) fn caller(store: &mut StoreContextMut<'_, GuestState>) -> wasmtime::Result<Option<Arc<Running>>> {
    if store.data().tasks.is_empty() {
        // A guest that exports 0.2 and imports 0.3 serves one request at a time: there nothing is filed.
        return Ok(store.data().hooks.current.clone());
    }
    let task = store.async_call_stack()?.last();
    Ok(task.and_then(|task| store.data().tasks.get(&task)).cloned())
}

/// On a shared instance each invocation has its own time, which the progress of others does not give back. Whoever runs
/// when the epoch moves has used the time since it moved before: over many epochs that is so.
fn charge(store: &mut StoreContextMut<'_, GuestState>, time: Duration, cpu: Bound<Duration>) -> wasmtime::Result<()> {
    if store.data().tasks.is_empty() {
        return Ok(());
    }
    let Some(running) = caller(store)?.filter(|running| running.compute(time) >= cpu.value) else { return Ok(()) };
    let reason = InvokeError::Cpu(cpu);
    store.data().logs.host(Some(&running), reason.to_string());
    running.trail.note(Note::Guest(reason.to_string()));
    running.fail(reason);
    Err(wasmtime::Error::new(CpuExhausted(cpu)))
}

/// The epoch moved while the guest ran.
fn tick(
    meter: &Arc<Meter>,
    hogs: &Arc<Hogs>,
    function: FunctionKey,
    (used, slice): (Duration, Duration),
    cpu: Bound<Duration>,
) -> wasmtime::Result<UpdateDeadline> {
    if used >= cpu.value {
        return Err(wasmtime::Error::new(CpuExhausted(cpu)));
    }
    if slice < SLICE {
        return Ok(UpdateDeadline::Continue(1));
    }
    if used < HOG_AFTER {
        return Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())));
    }
    meter.set_hog();
    Ok(UpdateDeadline::YieldCustom(1, Box::pin(hogs.turn(function, Arc::clone(meter)))))
}

impl WasiView for GuestState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for GuestState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.hooks, table: &mut self.table, ctx: &mut self.http }
    }
}

/// Counts the memories and tables of an instance and refuses what is beyond its bound or that of all guests together.
pub(super) struct MemoryMeter {
    bound: Bound<u64>,
    core_instances: usize,
    charge: Charge,
    /// The bound it ever refused at. Most guests die of it soon, and the reason must be named.
    refused: Option<Refused>,
}

#[derive(Clone, Copy, Debug)]
enum Refused {
    /// The instance's own.
    Own,
    /// That of all guests together.
    Total,
}

impl MemoryMeter {
    /// Whether it ever refused.
    pub(super) fn is_exhausted(&self) -> bool {
        self.refused.is_some()
    }

    /// Why it refused, if it ever did.
    pub(super) fn exhaustion(&self) -> Option<InvokeError> {
        self.refused.map(|refused| match refused {
            Refused::Own => InvokeError::Memory(self.bound),
            Refused::Total => InvokeError::TotalMemory(self.charge.bound()),
        })
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> u64 {
        self.charge.used()
    }

    /// Whether more than half of the bound is in use: time to begin anew between two requests.
    pub(super) fn is_half_full(&self) -> bool {
        self.used() > self.bound.value / 2
    }

    /// Takes what the growth of a memory or a table needs, whose sizes are in so many bytes each.
    fn grow(&mut self, current: usize, desired: usize, unit: u64) -> bool {
        let more = (desired.saturating_sub(current) as u64).saturating_mul(unit);
        let refused = if self.used().saturating_add(more) > self.bound.value {
            Refused::Own
        } else if self.charge.grow(more) {
            return true;
        } else {
            Refused::Total
        };
        // What it met first is what it dies of.
        self.refused.get_or_insert(refused);
        false
    }
}

impl ResourceLimiter for MemoryMeter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        // Growth beyond a maximum fails afterwards, and nothing would say how much is to be given back.
        Ok(maximum.is_none_or(|maximum| desired <= maximum) && self.grow(current, desired, 1))
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let possible = desired <= maximum.unwrap_or(TABLE_ELEMENTS).min(TABLE_ELEMENTS);
        Ok(possible && self.grow(current, desired, size_of::<usize>() as u64))
    }

    fn instances(&self) -> usize {
        self.core_instances
    }

    fn tables(&self) -> usize {
        TABLES as usize
    }

    fn memories(&self) -> usize {
        MEMORIES as usize
    }
}

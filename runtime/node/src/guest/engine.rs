//! The engines: one configuration for whoever compiles and whoever runs, and the clock that interrupts guests.
//!
//! There are two of them. Guests that use nothing of the component model's concurrency run on an engine without it, which
//! spares them its bookkeeping in every call between guest and host: a quarter of a small request. The other engine is
//! for `wasi:http` 0.3 and is made when its first guest comes: it sets as much address space aside as the first.
//!
//! An artifact only loads where the configuration that made it is the configuration that maps it, so both sides take
//! theirs from [`shared_config`]; what only a running node needs (the pool) is added on top and does not change code.

use std::{
    hash::{Hash, Hasher},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, component::Linker};

use super::{
    linker,
    pool::{MEMORIES_PER_PLACE, TABLES_PER_PLACE},
    state::GuestState,
};
use crate::settings::GuestSettings;

/// Table elements of one table. JavaScript engines and C# need five digits.
pub(super) const TABLE_ELEMENTS: usize = 100_000;
/// Memories of one component. One that is put together from others has those of all of them; it takes more places of the
/// pool for them.
pub(super) const MEMORIES: u32 = 32;
/// Tables of one component.
pub(super) const TABLES: u32 = 128;
/// Bytes of runtime data of one instance. Big JavaScript components need more than the 1 MiB default.
const INSTANCE_BYTES: usize = 8 << 20;
/// Instances beyond the permits that the pool has room for: drops run off the critical path, in batches.
const POOL_SLACK: u32 = 64;
/// Memory initialised from the module up to this size is a copy-on-write image, however sparse.
const DENSE_IMAGE: u64 = 64 << 20;

/// What code generation may assume about the processor. An artifact made under one does not load under another, and
/// none depends on which machine of a fleet happened to compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Baseline {
    /// AVX2, BMI, FMA: every x86-64 server of the last ten years.
    X86V3,
    /// SSE 4.2: what WebAssembly's SIMD wants at least.
    X86V2,
    /// Whatever the machine at hand has.
    Native,
}

fn baseline() -> Baseline {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        let v2 = std::arch::is_x86_feature_detected!("sse4.2") && std::arch::is_x86_feature_detected!("popcnt");
        let v3 = v2
            && std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("bmi1")
            && std::arch::is_x86_feature_detected!("bmi2")
            && std::arch::is_x86_feature_detected!("fma")
            && std::arch::is_x86_feature_detected!("lzcnt");
        return match (v3, v2) {
            (true, _) => Baseline::X86V3,
            (false, true) => Baseline::X86V2,
            (false, false) => Baseline::Native,
        };
    }
    #[allow(unreachable_code, reason = "other machines")]
    Baseline::Native
}

/// Whether an engine has the component model's concurrency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavor {
    /// Calls only: all that `wasi:http` 0.2 needs.
    Plain,
    /// Tasks, streams and futures besides.
    Concurrent,
}

impl Flavor {
    /// Both, the more usual first.
    pub(super) const ALL: [Self; 2] = [Self::Plain, Self::Concurrent];

    /// Its name in those of artifacts: what an artifact is for is seen without an engine.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Concurrent => "concurrent",
        }
    }
}

/// Everything that shapes generated code. Both the compile worker and the node begin here.
///
/// # Errors
/// When this build of wasmtime does not know the target.
pub(super) fn shared_config(flavor: Flavor) -> wasmtime::Result<Config> {
    let mut config = Config::new();
    const V2: &[&str] = &["has_sse3", "has_ssse3", "has_sse41", "has_sse42", "has_popcnt"];
    const V3: &[&str] = &["has_avx", "has_avx2", "has_bmi1", "has_bmi2", "has_fma", "has_lzcnt"];
    let flags: &[&[&str]] = match baseline() {
        Baseline::X86V3 => &[V2, V3],
        Baseline::X86V2 => &[V2],
        Baseline::Native => &[],
    };
    if !flags.is_empty() {
        config.target("x86_64-unknown-linux-gnu")?;
        for flag in flags.iter().flat_map(|flags| flags.iter()) {
            // SAFETY: these flags only say which instructions may be used, and the engine checks at its creation that
            // this machine has each of them.
            unsafe { config.cranelift_flag_enable(flag) };
        }
    }
    config.wasm_component_model(true);
    match flavor {
        Flavor::Plain => config.concurrency_support(false),
        Flavor::Concurrent => config.wasm_component_model_async(true),
    };
    config.epoch_interruption(true);
    config.memory_init_cow(true);
    config.memory_guaranteed_dense_image_size(DENSE_IMAGE);
    // 4 GiB of address space a memory keep bounds checks out of generated code.
    config.memory_reservation(4 << 30);
    config.memory_guard_size(32 << 20);
    // Only native debuggers read it; without it a big artifact maps faster.
    config.native_unwind_info(false);
    Ok(config)
}

/// How much of a freed slot stays resident, and how many such slots in each of the two pools, within `warm_memory`.
fn keep_resident(settings: &GuestSettings) -> (usize, u32) {
    let budget = settings.warm_memory.get() / Flavor::ALL.len() as u64;
    // 32 MiB keeps a whole JavaScript heap; 2 MiB is enough for Rust guests and bearable on a small machine.
    let keep = (budget / 16).clamp(2 << 20, 32 << 20);
    let slots = (budget / keep).clamp(1, u64::from(settings.max_instances));
    (keep as usize, slots as u32)
}

/// An engine that runs guests: pooled where the address space allows, else on demand.
///
/// # Errors
/// When neither allocator can be set up.
fn node_engine(settings: &GuestSettings, flavor: Flavor) -> wasmtime::Result<Engine> {
    let instances = settings.max_instances.saturating_add(POOL_SLACK);
    let (keep, slots) = keep_resident(settings);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        // Only counted: nothing is set aside for a core instance.
        .total_core_instances(instances.saturating_mul(settings.guest_core_instances))
        // A heap for garbage collection lies in a memory, too. Nothing outside the engine says which guests have one, but
        // none has two.
        .total_memories(instances.saturating_mul(MEMORIES_PER_PLACE + 1).max(MEMORIES + 1))
        .total_tables(instances.saturating_mul(TABLES_PER_PLACE).max(TABLES))
        .total_stacks(instances.saturating_mul(2))
        .total_gc_heaps(instances)
        .max_component_instance_size(INSTANCE_BYTES)
        .max_core_instance_size(INSTANCE_BYTES)
        .max_core_instances_per_component(settings.guest_core_instances)
        .max_memories_per_component(MEMORIES)
        .max_tables_per_component(TABLES)
        .max_tables_per_module(TABLES)
        .max_memories_per_module(MEMORIES)
        .table_elements(TABLE_ELEMENTS)
        .max_memory_size(settings.max_guest_memory.get().min(4 << 30) as usize)
        .linear_memory_keep_resident(keep)
        .table_keep_resident(256 << 10)
        .async_stack_keep_resident(64 << 10)
        .max_unused_warm_slots(slots)
        // A freed slot serves again at once, its memory still in the cache: a JavaScript heap is reset 1.6 times as fast
        // as after a few others were used in between.
        .decommit_batch_size(1)
        // Its mask overlooks dirty pages that were swapped out: the next instance could read them.
        .pagemap_scan(Enabled::No);
    let mut config = shared_config(flavor)?;
    config.async_stack_zeroing(true);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    match Engine::new(&config) {
        Ok(engine) => Ok(engine),
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                instances,
                "no address space for the instance pool (see `ulimit -v`, vm.overcommit_memory, setting max_instances): \
                 instances are allocated on demand, which is slower"
            );
            let mut config = shared_config(flavor)?;
            config.async_stack_zeroing(true);
            Engine::new(&config)
        }
    }
}

/// The node's engines, each with its linker, made when it is first needed.
pub(super) struct Engines {
    settings: GuestSettings,
    plain: OnceLock<Hosted>,
    concurrent: OnceLock<Hosted>,
    making: Mutex<()>,
}

/// An engine and what it offers.
#[derive(Clone)]
pub(super) struct Hosted {
    pub(super) engine: Engine,
    pub(super) linker: Arc<Linker<GuestState>>,
    /// Part of the names of its artifacts.
    pub(super) tag: Arc<str>,
}

impl Engines {
    /// Makes the engine that most guests need.
    pub(super) fn start(settings: &GuestSettings) -> wasmtime::Result<Arc<Self>> {
        let engines = Arc::new(Self {
            settings: settings.clone(),
            plain: OnceLock::new(),
            concurrent: OnceLock::new(),
            making: Mutex::new(()),
        });
        engines.get(Flavor::Plain)?;
        Ok(engines)
    }

    fn cell(&self, flavor: Flavor) -> &OnceLock<Hosted> {
        match flavor {
            Flavor::Plain => &self.plain,
            Flavor::Concurrent => &self.concurrent,
        }
    }

    /// The engine of this flavor.
    ///
    /// # Errors
    /// When it can't be set up.
    pub(super) fn get(&self, flavor: Flavor) -> wasmtime::Result<&Hosted> {
        let cell = self.cell(flavor);
        if let Some(hosted) = cell.get() {
            return Ok(hosted);
        }
        let _one = self.making.lock();
        if let Some(hosted) = cell.get() {
            return Ok(hosted);
        }
        let engine = node_engine(&self.settings, flavor)?;
        let linker = Arc::new(linker::linker(&engine, flavor)?);
        // A hash that changes with a new standard library costs a recompilation, nothing more.
        let mut hasher = std::hash::DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let tag = format!("{:016x}", hasher.finish()).into();
        Ok(cell.get_or_init(|| Hosted { engine, linker, tag }))
    }

    /// The engine of this flavor, if a guest needed it yet.
    pub(super) fn if_made(&self, flavor: Flavor) -> Option<&Hosted> {
        self.cell(flavor).get()
    }

    fn made(&self) -> impl Iterator<Item = &Hosted> {
        Flavor::ALL.into_iter().filter_map(|flavor| self.cell(flavor).get())
    }
}

/// The length of an epoch: what a guest may run before the host looks at it again.
pub(super) const TICK: Duration = Duration::from_millis(1);
/// The same while no guest was seen to compute for long. Each move takes a worker's processor away for a moment.
const CALM_TICK: Duration = Duration::from_millis(4);
/// Short ticks after a guest was last seen to.
const ALERT_TICKS: u32 = 100;
/// Ticks without a guest after which the thread sleeps until one runs.
const IDLE_TICKS: u32 = 250;

/// The thread that moves the epoch on while guests run. It is no task: a guest that spins must not be able to hold it.
pub(super) struct Ticker {
    used: AtomicBool,
    parked: AtomicBool,
    /// Whether a guest was seen to compute for long since the epoch moved last.
    computes: AtomicBool,
    thread: OnceLock<thread::Thread>,
}

impl Ticker {
    /// Starts the thread; it ends when the ticker is dropped.
    pub(super) fn start(engines: &Arc<Engines>) -> std::io::Result<Arc<Self>> {
        let ticker = Arc::new(Self {
            used: AtomicBool::new(true),
            parked: AtomicBool::new(false),
            computes: AtomicBool::new(false),
            thread: OnceLock::new(),
        });
        let (weak, engines) = (Arc::downgrade(&ticker), Arc::clone(engines));
        let handle = thread::Builder::new().name("tidegate-epoch".into()).spawn(move || Self::run(&weak, &engines))?;
        let _ = ticker.thread.set(handle.thread().clone());
        Ok(ticker)
    }

    fn run(weak: &Weak<Self>, engines: &Engines) {
        let (mut idle, mut alert) = (0, 0_u32);
        loop {
            thread::sleep(if alert > 0 { TICK } else { CALM_TICK });
            engines.made().for_each(|hosted| hosted.engine.increment_epoch());
            let Some(ticker) = weak.upgrade() else { return };
            alert = match ticker.computes.swap(false, Ordering::Relaxed) {
                true => ALERT_TICKS,
                false => alert.saturating_sub(1),
            };
            if ticker.used.swap(false, Ordering::SeqCst) {
                idle = 0;
                continue;
            }
            idle += 1;
            if idle > IDLE_TICKS {
                idle = 0;
                ticker.parked.store(true, Ordering::SeqCst);
                let busy = ticker.used.load(Ordering::SeqCst);
                drop(ticker);
                if !busy {
                    // A second's bound, so that a dropped ticker's thread goes away.
                    thread::park_timeout(Duration::from_secs(1));
                }
                let Some(ticker) = weak.upgrade() else { return };
                ticker.parked.store(false, Ordering::SeqCst);
            }
        }
    }

    /// Says that a guest computes for long: the epoch moves more often for a while.
    pub(super) fn alert(&self) {
        self.computes.store(true, Ordering::Relaxed);
    }

    /// Says that a guest is about to run.
    pub(super) fn touch(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::SeqCst);
            if self.parked.load(Ordering::SeqCst)
                && let Some(thread) = self.thread.get()
            {
                thread.unpark();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::{Instance, Module, Store};

    use super::*;
    use crate::guest::testing::settings;

    #[tokio::test]
    async fn every_instance_has_room_for_a_heap_beside_the_memories_of_its_place() {
        let engine = node_engine(&settings(&["--max-instances", "4"]), Flavor::Plain).unwrap();
        let memories = "(memory 1)".repeat(MEMORIES_PER_PLACE as usize);
        let collected = "(type $a (struct (field i32))) (func (export \"f\") (drop (struct.new $a (i32.const 1))))";
        let module = wat::parse_str(format!("(module {collected} {memories})")).unwrap();
        let module = Module::new(&engine, module).unwrap();
        let mut stores = Vec::new();
        for number in 0..4 + POOL_SLACK {
            let mut store = Store::new(&engine, ());
            store.set_epoch_deadline(1);
            let made = Instance::new_async(&mut store, &module, &[]).await;
            assert!(made.is_ok(), "instance {number}: {:#}", made.unwrap_err());
            stores.push(store);
        }
    }
}

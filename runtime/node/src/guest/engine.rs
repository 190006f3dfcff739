//! The engine: one configuration for whoever compiles and whoever runs, and the clock that interrupts guests.
//!
//! An artifact only loads where the configuration that made it is the configuration that maps it, so both sides take
//! theirs from [`shared_config`]; what only a running node needs (the pool) is added on top and does not change code.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::settings::GuestSettings;

/// Table elements of one table. JavaScript engines and C# need five digits.
pub(super) const TABLE_ELEMENTS: usize = 100_000;
/// Core instances, memories and tables of one component: the guest's module, adapters, and room for linked parts.
pub(super) const CORE_INSTANCES: u32 = 32;
/// Memories of one component.
pub(super) const MEMORIES: u32 = 4;
/// Tables of one component.
pub(super) const TABLES: u32 = 16;
/// Bytes of runtime data of one instance. Big JavaScript components need more than the 1 MiB default.
const INSTANCE_BYTES: usize = 8 << 20;
/// Instances beyond the permits that the pool has room for: drops run off the critical path, in batches.
const POOL_SLACK: u32 = 64;
/// Freed slots that are given back to the system in one go.
const DECOMMIT_BATCH: usize = 16;
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

/// Everything that shapes generated code. Both the compile worker and the node begin here.
///
/// # Errors
/// When this build of wasmtime does not know the target.
pub(super) fn shared_config() -> wasmtime::Result<Config> {
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
    config.wasm_component_model_async(true);
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

/// How much of a freed slot stays resident, and how many such slots, within `warm_memory`.
fn keep_resident(settings: &GuestSettings) -> (usize, u32) {
    let budget = settings.warm_memory.get();
    // 32 MiB keeps a whole JavaScript heap; 2 MiB is enough for Rust guests and bearable on a small machine.
    let keep = (budget / 32).clamp(2 << 20, 32 << 20);
    let slots = (budget / keep).clamp(1, u64::from(settings.max_instances));
    (keep as usize, slots as u32)
}

/// The engine that runs guests: pooled where the address space allows, else on demand.
///
/// # Errors
/// When neither allocator can be set up.
pub(super) fn node_engine(settings: &GuestSettings) -> wasmtime::Result<Engine> {
    let instances = settings.max_instances.saturating_add(POOL_SLACK);
    let (keep, slots) = keep_resident(settings);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(4))
        .total_memories(instances.saturating_mul(2))
        .total_tables(instances.saturating_mul(4))
        .total_stacks(instances.saturating_mul(2))
        .total_gc_heaps(instances)
        .max_component_instance_size(INSTANCE_BYTES)
        .max_core_instance_size(INSTANCE_BYTES)
        .max_core_instances_per_component(CORE_INSTANCES)
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
        .decommit_batch_size(DECOMMIT_BATCH)
        // Its mask overlooks dirty pages that were swapped out: the next instance could read them.
        .pagemap_scan(Enabled::No);
    let mut config = shared_config()?;
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
            let mut config = shared_config()?;
            config.async_stack_zeroing(true);
            Engine::new(&config)
        }
    }
}

/// The length of an epoch: what a guest may run before the host looks at it again.
pub(super) const TICK: Duration = Duration::from_millis(1);
/// Ticks without a guest after which the thread sleeps until one runs.
const IDLE_TICKS: u32 = 1_000;

/// The thread that moves the epoch on while guests run. It is no task: a guest that spins must not be able to hold it.
pub(super) struct Ticker {
    used: AtomicBool,
    parked: AtomicBool,
    thread: std::sync::OnceLock<thread::Thread>,
}

impl Ticker {
    /// Starts the thread; it ends when the ticker is dropped.
    pub(super) fn start(engine: &Engine) -> std::io::Result<Arc<Self>> {
        let ticker = Arc::new(Self {
            used: AtomicBool::new(true),
            parked: AtomicBool::new(false),
            thread: std::sync::OnceLock::new(),
        });
        let (weak, engine) = (Arc::downgrade(&ticker), engine.clone());
        let handle =
            thread::Builder::new().name("tidegate-epoch".into()).spawn(move || Self::run(&weak, &engine))?;
        let _ = ticker.thread.set(handle.thread().clone());
        Ok(ticker)
    }

    fn run(weak: &Weak<Self>, engine: &Engine) {
        let mut idle = 0;
        loop {
            thread::sleep(TICK);
            engine.increment_epoch();
            let Some(ticker) = weak.upgrade() else { return };
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

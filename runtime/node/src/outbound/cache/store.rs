//! Memory and files, by `foyer`.

use std::{
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use foyer::{
    BlockEngineConfig, DeviceBuilder, FsDeviceBuilder, HybridCache, HybridCacheBuilder, HybridCachePolicy,
    HybridCacheProperties, Location, LruConfig, RecoverMode,
};

use super::{Key, Slot};
use crate::{observe::CacheMetrics, settings::names};

/// Parts of the memory with a lock of their own.
const SHARDS: usize = 4;
/// Files begin with as many blocks, of a size between the two, bytes. An object larger than a block is in memory only.
const BLOCKS: u64 = 16;
const SMALLEST_BLOCK: u64 = 1 << 20;
pub(super) const SMALLEST: u64 = BLOCKS * SMALLEST_BLOCK;
const LARGEST_BLOCK: u64 = 16 << 20;
/// What waits to be written, bytes (no setting: beyond it, what comes is in memory only).
const UNWRITTEN: usize = 16 << 20;
/// What the files do not give within this time is not there (no setting: it is a disk that is in trouble).
const READ: Duration = Duration::from_millis(250);
/// How long the end of a node waits for what is not written yet.
const CLOSE: Duration = Duration::from_secs(2);

/// All that is stored.
pub(super) struct Store {
    cache: HybridCache<Key, Slot>,
    disk: bool,
    metrics: CacheMetrics,
    /// Whether somebody was told that the files fail.
    told: AtomicBool,
}

impl Store {
    /// Memory of so many bytes, and files in a directory where one is named. Where the files can't be used that is told,
    /// and there are none; nothing where there is not even memory.
    pub(super) async fn open(memory: u64, disk: u64, directory: Option<&Path>, metrics: CacheMetrics) -> Option<Self> {
        let told = AtomicBool::new(false);
        if let Some(directory) = directory {
            match hybrid(memory, disk, directory).await {
                Ok(cache) => return Some(Self { cache, disk: true, metrics, told }),
                Err(error) => {
                    metrics.errors.inc();
                    let setting = names::CACHE_DISK;
                    tracing::warn!(directory = %directory.display(), %error, setting, "stored answers are kept in memory only");
                }
            }
        }
        let built = builder(memory).storage().build().await;
        match built {
            Ok(cache) => Some(Self { cache, disk: false, metrics, told }),
            Err(error) => {
                tracing::error!(%error, "answers are not stored");
                None
            }
        }
    }

    /// Whether there are files.
    pub(super) fn has_disk(&self) -> bool {
        self.disk
    }

    /// What is in memory.
    pub(super) fn peek(&self, key: &Key) -> Option<Slot> {
        self.cache.memory().get(key).map(|entry| entry.value().clone())
    }

    /// What is in memory or in the files.
    pub(super) async fn get(&self, key: &Key) -> Option<Slot> {
        let found = self.peek(key);
        if found.is_some() || !self.disk {
            return found;
        }
        match tokio::time::timeout(READ, self.cache.get(key)).await {
            Ok(Ok(found)) => found.map(|entry| entry.value().clone()),
            Ok(Err(error)) => {
                self.failed(&error);
                None
            }
            Err(late) => {
                self.failed(&late);
                None
            }
        }
    }

    /// Puts something into memory, and on its way into the files.
    pub(super) fn insert(&self, key: &Key, slot: Slot) {
        self.cache.insert(*key, slot);
        self.measure();
    }

    /// Puts something into memory only.
    pub(super) fn remember(&self, key: &Key, slot: Slot) {
        let properties = HybridCacheProperties::default().with_location(Location::InMem);
        self.cache.insert_with_properties(*key, slot, properties);
        self.measure();
    }

    /// Whether something is there, or may be in the files.
    pub(super) fn may_have(&self, key: &Key) -> bool {
        self.cache.contains(key)
    }

    /// Forgets something.
    pub(super) fn remove(&self, key: &Key) {
        self.cache.remove(key);
        self.measure();
    }

    /// Waits for what is not written yet.
    pub(super) async fn close(&self) {
        if self.disk
            && let Ok(Err(error)) = tokio::time::timeout(CLOSE, self.cache.close()).await
        {
            self.failed(&error);
        }
    }

    fn measure(&self) {
        self.metrics.memory_bytes.set(self.cache.memory().usage() as u64);
    }

    fn failed(&self, error: &dyn std::fmt::Display) {
        self.metrics.errors.inc();
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "the files of stored answers fail: such answers are asked for again (told once; metric cache_errors)");
        }
    }
}

fn builder(memory: u64) -> foyer::HybridCacheBuilderPhaseMemory<Key, Slot, foyer::DefaultHasher> {
    HybridCacheBuilder::new()
        .with_name("answers")
        // What is stored is there after a crash, too.
        .with_policy(HybridCachePolicy::WriteOnInsertion)
        .with_flush_on_close(false)
        .memory(usize::try_from(memory).unwrap_or(usize::MAX))
        .with_shards(SHARDS)
        .with_eviction_config(LruConfig::default())
        .with_weighter(|_: &Key, slot: &Slot| slot.weight())
}

async fn hybrid(memory: u64, disk: u64, directory: &Path) -> foyer::Result<HybridCache<Key, Slot>> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(foyer::Error::io_error)?;
    let block = (disk / BLOCKS).clamp(SMALLEST_BLOCK, LARGEST_BLOCK);
    // What the removals take is on top.
    let device = FsDeviceBuilder::new(directory).with_capacity(usize::try_from(disk).unwrap_or(usize::MAX)).build()?;
    let engine = BlockEngineConfig::new(device)
        .with_block_size(usize::try_from(block).unwrap_or(1 << 20))
        .with_indexer_shards(SHARDS)
        .with_submit_queue_size_threshold(UNWRITTEN)
        // Otherwise what was forgotten would be there again after a restart.
        .with_tombstone_log(true);
    builder(memory).storage().with_engine_config(engine).with_recover_mode(RecoverMode::Quiet).build().await
}

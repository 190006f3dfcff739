//! The store without a compiler: what it looks at, what it keeps, what it makes of words.

use prometheus_client::metrics::counter::Counter;

use super::*;
use crate::guest::testing::settings;

fn store(dir: &Path) -> (Arc<ModuleStore>, Arc<Engines>) {
    store_with(dir, &["--max-instances", "4"])
}

fn store_with(dir: &Path, flags: &[&str]) -> (Arc<ModuleStore>, Arc<Engines>) {
    let settings = settings(flags);
    let engines = Engines::start(&settings).unwrap();
    (Arc::new(ModuleStore::open(&settings, dir, &engines, "/nowhere".into(), Counter::default()).unwrap()), engines)
}

#[tokio::test]
async fn the_engine_of_03_guests_is_made_for_an_artifact_of_its_own_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let (store, engines) = store(dir.path());
    let (plain, concurrent) = (Digest([1; 32]), Digest([2; 32]));
    let names = [format!("{plain}-plain-old.cwasm"), format!("{concurrent}-concurrent-old.cwasm")];
    let write = || names.iter().for_each(|name| std::fs::write(store.artifacts.join(name), "old").unwrap());
    write();
    assert!(store.load(plain).await.unwrap().is_none());
    store.collect(&[plain, concurrent].into());
    assert!(engines.if_made(Flavor::Concurrent).is_none(), "nothing needs it");
    assert!(!store.artifacts.join(&names[0]).exists(), "no engine takes it any more");
    assert!(store.artifacts.join(&names[1]).exists(), "which the other engine takes is not known yet");
    assert!(store.load(concurrent).await.unwrap().is_none());
    assert!(engines.if_made(Flavor::Concurrent).is_some());
    store.collect(&[concurrent].into());
    assert!(!store.artifacts.join(&names[1]).exists());
}

#[test]
fn what_was_verified_is_forgotten_with_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let (store, engines) = store(dir.path());
    let path = store.artifact_path(Digest([1; 32]), Flavor::Plain, engines.get(Flavor::Plain).unwrap());
    std::fs::write(&path, "artifact").unwrap();
    store.verified.lock().insert(path.clone());
    store.collect(&[Digest([1; 32])].into());
    assert!(path.exists() && store.verified.lock().contains(&path));
    store.collect(&HashSet::new());
    assert!(!path.exists() && store.verified.lock().is_empty());
}

#[test]
fn what_the_pool_has_no_room_for_is_told_apart_from_what_does_not_load() {
    let many = "The component transitively contains 2001 core module instances, which exceeds the configured maximum of \
        1000 in the pooling allocator";
    let Some(Flaw::NeedsMore { needs, limit, setting, .. }) = beyond_the_pool(many) else { panic!() };
    assert_eq!((needs.as_str(), limit.as_str(), setting.as_str()), ("2001", "1000", "guest_core_instances"));
    let big = "module instance size does not fit in pooling allocator requirements: 9 is too much";
    assert!(matches!(beyond_the_pool(big), Some(Flaw::Invalid { .. })));
    assert_eq!(beyond_the_pool("Module was compiled with incompatible settings"), None);
}

#[tokio::test]
async fn stored_bytes_that_are_not_the_module_s_are_never_compiled_and_an_upload_replaces_them() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _engines) = store(dir.path());
    let module = b"\0asm and so on";
    let upload = dir.path().join("upload");
    std::fs::write(&upload, module).unwrap();
    let (digest, _) = store.measure(&upload).unwrap();
    let path = store.module_path(digest);
    let open = async || {
        let tenant = TenantId::default_tenant();
        let bound = |value| Bound { value, setting: "guest_memory" };
        let places = Bound { value: 10, setting: "guest_instances" };
        store.open_module(&tenant, digest, bound(1 << 20), places).await.map(|_| ()).unwrap_err()
    };
    assert!(matches!(open().await, ModuleError::Missing(_)));
    for damaged in [&b"\0asm and so off"[..], b"\0asm", b"nothing", b""] {
        std::fs::write(&path, damaged).unwrap();
        assert!(matches!(open().await, ModuleError::Damaged(_)), "{damaged:?}");
        store.keep(&upload, digest).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), module);
    }
    // What is whole goes to the compiler, of which this test has none.
    assert!(matches!(open().await, ModuleError::System { .. }));
    // The bound of uploads is not asked about what was taken before it was lowered.
    let (smaller, _engines) = store_with(dir.path(), &["--max-instances", "4", "--max-module", "5B"]);
    smaller.keep(&upload, digest).unwrap();
    assert!(matches!(smaller.measure(&upload), Err(ModuleError::TooLarge { .. })));
    assert!(matches!(Kept::of(&path, digest), Ok(Kept::Whole)));
}

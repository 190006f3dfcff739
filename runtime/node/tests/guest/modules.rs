//! Uploads: what is taken, what is refused and how it is said, what survives.

use std::sync::Arc;

use http::Response;
use tidegate::{
    body,
    cluster::registry::{FunctionConfig, FunctionLimits, World},
    guest::{Flaw, ModuleError},
    problem::Problem,
};
use tidegate_core::units::Size;

use crate::support::{Host, guest, handler, tenant};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_wasm_is_said_to_be_none() {
    let host = Host::new(&[]);
    for bytes in [&b"hello"[..], b"", b"\x7fELF", b"\0as"] {
        let error = host.admit_bytes(bytes).await.unwrap_err();
        assert!(matches!(error, ModuleError::Flaw(Flaw::NotWasm)), "{error:?}");
    }
    let error = host.admit_bytes(b"\0asm\x0d\0\x01\0garbage").await.unwrap_err();
    assert!(matches!(error, ModuleError::Flaw(Flaw::Invalid { .. })), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_core_module_without_a_component_type_is_named_so() {
    let host = Host::new(&[]);
    let error = host.admit_bytes(&wat::parse_str("(module)").unwrap()).await.unwrap_err();
    assert!(matches!(error, ModuleError::Flaw(Flaw::BareModule)), "{error:?}");
    assert_eq!(Problem::from(error).status, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_without_a_handler_or_with_foreign_imports_is_told_which() {
    let host = Host::new(&[]);
    let error = host.admit_bytes(&wat::parse_str("(component)").unwrap()).await.unwrap_err();
    assert!(matches!(&error, ModuleError::Flaw(Flaw::NoHandler { exports }) if exports.is_empty()), "{error:?}");
    let foreign = r#"(component
        (import "wasi:sockets/tcp@0.2.3" (instance))
        (import "wasi:keyvalue/store@0.2.0" (instance))
        (import "acme:queue/push@1.0.0" (instance))
        (instance $handler)
        (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#;
    let error = host.admit_bytes(&wat::parse_str(foreign).unwrap()).await.unwrap_err();
    let ModuleError::Flaw(Flaw::Imports { imports }) = &error else { panic!("{error:?}") };
    assert_eq!(imports, &["wasi:keyvalue/store@0.2.0", "acme:queue/push@1.0.0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_large_and_too_hungry_modules_are_told_the_bound() {
    let host = Host::new(&["--max-module", "1MiB"]);
    let error = host.host.admit_module(&tenant(), &guest("hello-ts"), &FunctionLimits::default()).await.unwrap_err();
    let problem = Problem::from(error);
    assert_eq!((problem.status.as_u16(), problem.setting.as_deref()), (413, Some("max_module")));
    let limits = FunctionLimits { memory: Some(Size(64 << 10)), ..Default::default() };
    let error = host.host.admit_module(&tenant(), &guest("hello-rust"), &limits).await.unwrap_err();
    assert!(matches!(error, ModuleError::Flaw(Flaw::NeedsMore { .. })), "{error:?}");
    assert_eq!(Problem::from(error).setting.as_deref(), Some("limits.memory"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_knows_its_world_and_whether_it_may_be_reused() {
    let host = Host::new(&[]);
    let hello = host.admit("hello-rust").await;
    assert_eq!((hello.world, hello.reuse_safe), (World::Http02, true));
    let misbehave = host.admit("misbehave").await;
    assert_eq!((misbehave.world, misbehave.reuse_safe), (World::Http02, false));
    assert_eq!(host.admit("hello-rust-p3").await.world, World::Http03);
    assert_eq!(host.admit("hello-rust").await, hello, "and again, without compiling");
}

#[tokio::test(flavor = "multi_thread")]
async fn compile_bombs_are_ended_by_the_bounds_of_their_process() {
    let host = Host::new(&["--compile-cpu", "2s"]);
    let error = host.admit_bytes(&bomb_of_loops()).await.unwrap_err();
    assert!(matches!(&error, ModuleError::CompileLimit { setting: "compile_cpu", .. }), "{error:?}");
    let problem = Problem::from(error);
    assert_eq!((problem.kind, problem.value.as_deref()), ("compile-limit", Some("2s")));
    let host = Host::new(&["--compile-memory", "1GiB"]);
    let error = host.admit_bytes(&bomb_of_functions()).await.unwrap_err();
    assert!(matches!(&error, ModuleError::CompileLimit { setting: "compile_memory", .. }), "{error:?}");
    host.admit("hello-rust").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compilation_that_is_killed_or_stands_still_is_told_by_what_it_met() {
    use std::os::unix::fs::PermissionsExt;
    for (does, kind, setting, says) in [
        ("kill -9 $$", "compile-limit", "compile_memory", "killed by the system"),
        ("exec sleep 60", "compile-limit", "compile_cpu", "1s of time, ten times"),
    ] {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let worker = dir.path().join("worker");
        std::fs::write(&worker, format!("#!/bin/sh\n{does}\n")).unwrap();
        std::fs::set_permissions(&worker, std::fs::Permissions::from_mode(0o700)).unwrap();
        let host = Host::with_compiler(dir, &["--compile-cpu", "100ms"], worker);
        let error = host.admit_bytes(&component_around("")).await.unwrap_err();
        let problem = Problem::from(error);
        assert_eq!((problem.kind, problem.setting.as_deref()), (kind, Some(setting)), "{does}");
        assert!(problem.detail.contains(says), "{does}: {}", problem.detail);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_bytes_again_heal_a_module_that_is_gone() {
    let host = Host::new(&[]);
    let info = host.admit("hello-rust").await;
    let path = host.dir.path().join(format!("modules/{}.wasm", info.digest));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(host.admit("hello-rust").await, info);
    assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(guest("hello-rust")).unwrap());
}

/// hello-rust with so many instances of an empty module beside its own.
fn hello_with_parts(parts: usize) -> Vec<u8> {
    let leb = |mut number: usize| {
        let mut bytes = Vec::new();
        while number > 0x7f {
            bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        bytes.push(number as u8);
        bytes
    };
    let mut bytes = std::fs::read(guest("hello-rust")).unwrap();
    let (mut depth, mut modules) = (0, 0);
    for payload in wasmparser::Parser::new(0).parse_all(&bytes) {
        match payload.unwrap() {
            wasmparser::Payload::ModuleSection { .. } => {
                modules += usize::from(depth == 0);
                depth += 1;
            }
            wasmparser::Payload::ComponentSection { .. } => depth += 1,
            wasmparser::Payload::End(_) => depth -= 1,
            _ => {}
        }
    }
    bytes.extend(b"\x01\x08\0asm\x01\0\0\0");
    let instance = [vec![0], leb(modules), vec![0]].concat();
    let instances = [leb(parts), instance.repeat(parts)].concat();
    bytes.extend([vec![2], leb(instances.len()), instances].concat());
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_of_many_parts_is_taken_up_to_the_bound_and_beyond_it_told_which() {
    let host = Host::new(&[]);
    let info = host.admit_bytes(&hello_with_parts(500)).await.unwrap();
    let hello = host.open("hello", info, FunctionConfig::default()).await.unwrap();
    assert_eq!(host.text(&hello, "/").await, "Hello from Rust\n");
    let host = Host::new(&["--guest-core-instances", "100"]);
    for _ in 0..2 {
        let problem = Problem::from(host.admit_bytes(&hello_with_parts(100)).await.unwrap_err());
        assert_eq!((problem.kind, problem.setting.as_deref()), ("needs-more", Some("guest_core_instances")));
        assert_eq!((problem.limit.as_deref(), problem.value.as_deref()), (Some("core instances"), Some("100")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_never_answer_is_refused_when_it_comes() {
    let host = Host::new(&["--guest-memory", "64MiB"]);
    for interface in ["wasi:http/incoming-handler@0.2.0", "wasi:http/handler@0.3.0"] {
        for (signature, types) in
            [("", ""), ("(param i32)", "(param \"a\" u32)"), ("(param i32)", "(param \"a\" (own $r))")]
        {
            let text = format!(
                r#"(component (type $r (resource (rep i32))) (core module $m (func (export "h") {signature}))
                    (core instance $i (instantiate $m)) (func $h {types} (canon lift (core func $i "h")))
                    (component $c (import "r" (type $r (sub resource))) (import "h" (func $h {types}))
                        (export "r" (type $r)) (export "handle" (func $h)))
                    (instance $handler (instantiate $c (with "r" (type $r)) (with "h" (func $h))))
                    (export "{interface}" (instance $handler)))"#
            );
            let error = host.admit_bytes(&wat::parse_str(text).unwrap()).await.unwrap_err();
            assert!(matches!(error, ModuleError::Flaw(Flaw::Invalid { .. })), "{interface} {types}: {error:?}");
        }
    }
    // Each of them would be small enough.
    let memories = handler("(memory 600) (memory 600) (func (export \"h\") (param i32 i32))");
    let refused = |error: ModuleError| {
        let problem = Problem::from(error);
        assert_eq!((problem.kind, problem.limit.as_deref()), ("needs-more", Some("memory")));
    };
    refused(host.admit_bytes(&memories).await.unwrap_err());
    // Nor does it help that somebody who may have more came with it before.
    let file = host.dir.path().join("memories.wasm");
    std::fs::write(&file, &memories).unwrap();
    let more = FunctionLimits { memory: Some(Size::mib(128)), ..Default::default() };
    let info = host.host.admit_module(&tenant(), &file, &more).await.unwrap();
    refused(host.admit_bytes(&memories).await.unwrap_err());
    refused(host.open("memories", info, FunctionConfig::default()).await.map(drop).unwrap_err());
    host.open("memories", info, FunctionConfig { limits: more, ..Default::default() }).await.unwrap();
}

/// A handler in a component, around a core module's text.
fn component_around(module: &str) -> Vec<u8> {
    let text = format!(
        r#"(component (core module {module}) (instance $handler)
            (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#
    );
    wat::parse_str(text).unwrap()
}

/// Few bytes, long minutes: every loop has to carry every local.
fn bomb_of_loops() -> Vec<u8> {
    let (loops, locals) = (500, 500);
    let mut body = format!("(func (local {}) {}", "i64 ".repeat(locals), "(loop ".repeat(loops));
    for local in 0..locals {
        let next = (local + 1) % locals;
        body.push_str(&format!("(local.set {local} (i64.add (local.get {local}) (local.get {next}))) "));
    }
    body.push_str(&"(br_if 0 (i64.eqz (local.get 0))))".repeat(loops));
    body.push(')');
    component_around(&body)
}

/// Many functions, each nothing: the bookkeeping is what costs.
fn bomb_of_functions() -> Vec<u8> {
    component_around(&"(func)".repeat(500_000))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_maps_what_was_compiled_and_a_forged_artifact_is_compiled_anew() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let upstream = |_| Box::pin(async { Ok(Response::new(body::empty())) }) as _;
    let info = Host::in_dir(Arc::clone(&dir), &[], upstream).admit("hello-rust").await;
    let artifacts = || {
        let mut names: Vec<_> =
            std::fs::read_dir(dir.path().join("artifacts")).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names
    };
    let [artifact] = &artifacts()[..] else { panic!("{:?}", artifacts()) };
    let made = std::fs::metadata(artifact).unwrap();
    std::fs::write(dir.path().join("artifacts/.partial-left"), b"half").unwrap();

    let again = Host::in_dir(Arc::clone(&dir), &[], upstream);
    let hello = again.open("hello", info, FunctionConfig::default()).await.unwrap();
    again.text(&hello, "/").await;
    let kept = std::fs::metadata(artifact).unwrap();
    assert_eq!(made.modified().unwrap(), kept.modified().unwrap(), "not compiled again");
    assert_eq!(artifacts().len(), 1, "what a crash left is gone");

    let mut bytes = std::fs::read(artifact).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::remove_file(artifact).unwrap();
    std::fs::write(artifact, bytes).unwrap();
    let third = Host::in_dir(Arc::clone(&dir), &[], upstream);
    let hello = third.open("hello", info, FunctionConfig::default()).await.unwrap();
    assert_eq!(third.text(&hello, "/").await, "Hello from Rust\n");
    assert_ne!(std::fs::metadata(artifact).unwrap().modified().unwrap(), kept.modified().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn modules_that_no_version_names_are_collected() {
    let host = Host::new(&[]);
    let (hello, other) = (host.admit("hello-rust").await, host.admit("misbehave").await);
    host.host.collect_modules(&[hello.digest].into());
    let names = std::fs::read_dir(host.dir.path().join("modules")).unwrap().count();
    assert_eq!(names, 1);
    assert!(host.open("hello", hello, FunctionConfig::default()).await.is_ok());
    let error = host.open("other", other, FunctionConfig::default()).await.map(drop).unwrap_err();
    assert!(matches!(error, ModuleError::Missing(_)), "{error:?}");
}

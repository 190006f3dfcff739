//! What a component says about itself: its imports, its handler, its marks.

use wasmparser::{Encoding, Parser, Payload};

use super::error::Flaw;
use crate::{cluster::registry::World, guest::linker::OFFERED};

/// Presence of this custom section, at any depth, says that instances of the module may be reused.
const REUSE_SECTION: &str = "tidegate:reuse";
/// `wit-bindgen` puts component types into core modules under names that begin so.
const COMPONENT_TYPE_SECTION: &str = "component-type";

/// What inspection finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Findings {
    pub(super) world: World,
    pub(super) reuse_safe: bool,
    /// Whether it imports interfaces of 0.3, which need the component model's concurrency.
    pub(super) concurrent: bool,
}

/// What an upload is.
pub(super) enum Kind {
    Component,
    /// A core module; whether it carries a component type.
    Module {
        typed: bool,
    },
}

/// Tells components from core modules.
///
/// # Errors
/// [`Flaw::NotWasm`], or [`Flaw::Invalid`] for what can't be read.
pub(super) fn kind(bytes: &[u8]) -> Result<Kind, Flaw> {
    if !bytes.starts_with(b"\0asm") {
        return Err(Flaw::NotWasm);
    }
    let mut payloads = Parser::new(0).parse_all(bytes);
    match payloads.next().transpose().map_err(invalid)? {
        Some(Payload::Version { encoding: Encoding::Component, .. }) => Ok(Kind::Component),
        Some(Payload::Version { encoding: Encoding::Module, .. }) => {
            for payload in payloads {
                if let Payload::CustomSection(section) = payload.map_err(invalid)?
                    && section.name().starts_with(COMPONENT_TYPE_SECTION)
                {
                    return Ok(Kind::Module { typed: true });
                }
            }
            Ok(Kind::Module { typed: false })
        }
        _ => Err(Flaw::NotWasm),
    }
}

/// Checks the imports and exports of a component.
///
/// # Errors
/// [`Flaw::NoHandler`] or [`Flaw::Imports`].
pub(super) fn component(bytes: &[u8]) -> Result<Findings, Flaw> {
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    let mut reuse_safe = false;
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(invalid)? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    imports.push(import.map_err(invalid)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    exports.push(export.map_err(invalid)?.name.name.to_owned());
                }
            }
            Payload::CustomSection(section) if section.name() == REUSE_SECTION => reuse_safe = true,
            _ => {}
        }
    }
    let concurrent = imports.iter().any(|name| name.contains("@0.3."));
    let unknown: Vec<_> = imports.into_iter().filter(|name| !is_offered(name)).collect();
    let exported = |interface, track| exports.iter().any(|name| matches(name, interface, track));
    let world = if exported("wasi:http/handler", "0.3") {
        World::Http03
    } else if exported("wasi:http/incoming-handler", "0.2") {
        World::Http02
    } else {
        return Err(Flaw::NoHandler { exports });
    };
    if !unknown.is_empty() {
        return Err(Flaw::Imports { imports: unknown });
    }
    Ok(Findings { world, reuse_safe, concurrent: concurrent || world == World::Http03 })
}

fn invalid(error: wasmparser::BinaryReaderError) -> Flaw {
    Flaw::Invalid { why: format!("the module is not valid WebAssembly: {error}") }
}

fn is_offered(name: &str) -> bool {
    OFFERED.iter().any(|(interface, tracks)| tracks.iter().any(|track| matches(name, interface, track)))
}

/// Whether `name` is `interface@TRACK.x`, released: a track of 0.x versions is compatible within itself.
fn matches(name: &str, interface: &str, track: &str) -> bool {
    name.strip_prefix(interface)
        .and_then(|rest| rest.strip_prefix('@'))
        .and_then(|version| version.strip_prefix(track))
        .and_then(|rest| rest.strip_prefix('.'))
        .is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_belongs_to_its_track_only_when_it_is_a_release_of_it() {
        assert!(matches("wasi:http/types@0.2.10", "wasi:http/types", "0.2"));
        for name in
            ["wasi:http/types@0.2", "wasi:http/types@0.20.1", "wasi:http/types@0.3.0-rc-1", "wasi:http/types2@0.2.0"]
        {
            assert!(!matches(name, "wasi:http/types", "0.2"), "{name}");
            assert!(!matches(name, "wasi:http/types", "0.3"), "{name}");
        }
    }
}

//! What a component says about itself: its imports, its handler, its marks.

use wasmparser::{Encoding, Parser, Payload};

use super::{begin::Begin, error::Flaw};
use crate::{
    cluster::registry::World,
    guest::{linker::OFFERED, sockets},
};

/// This custom section, in a component or in a core module within it, says that its instances may be reused.
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
    /// Bytes of memory that an instance begins with, in all.
    pub(super) memory: u64,
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
    let (mut marks, mut begin) = (Marks::default(), Begin::default());
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(invalid)?;
        begin.read(&payload).map_err(invalid)?;
        match payload {
            Payload::ModuleSection { .. } => marks.enter_module(),
            Payload::ComponentSection { .. } => marks.enter_component(),
            Payload::End(_) => marks.leave(),
            Payload::ComponentImportSection(section) if marks.at_top() => {
                for import in section {
                    imports.push(import.map_err(invalid)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if marks.at_top() => {
                for export in section {
                    exports.push(export.map_err(invalid)?.name.name.to_owned());
                }
            }
            Payload::CustomSection(section) if section.name() == REUSE_SECTION => marks.found(section.data()),
            _ => {}
        }
    }
    let reuse_safe = marks.reuse_safe();
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
    Ok(Findings { world, reuse_safe, concurrent: concurrent || world == World::Http03, memory: begin.memory() })
}

/// Where the reuse mark was found. Compilers put it into core modules, and components are put together from others: a
/// mark speaks for the component whose code it stands in, and the whole is safe when all of its parts that have code
/// are, or when it says so at the top.
#[derive(Default)]
struct Marks {
    /// Components and modules around the place that is read, without the top.
    around: Vec<Part>,
    top: Part,
    /// A nested component with code and without a mark was seen.
    unmarked: bool,
    /// One with code and with a mark was.
    marked: bool,
    /// The mark stands in the top component itself.
    declared: bool,
}

#[derive(Clone, Copy, Default)]
struct Part {
    is_module: bool,
    has_code: bool,
    marked: bool,
}

impl Marks {
    fn at_top(&self) -> bool {
        self.around.is_empty()
    }

    fn enter_module(&mut self) {
        self.component().has_code = true;
        self.around.push(Part { is_module: true, ..Part::default() });
    }

    fn enter_component(&mut self) {
        self.around.push(Part::default());
    }

    fn leave(&mut self) {
        let part = self.around.pop().unwrap_or(self.top);
        if !part.is_module && part.has_code {
            self.marked |= part.marked;
            self.unmarked |= !part.marked;
        }
    }

    /// Versions of the promise are ASCII digits; linkers put the sections of several objects one behind the other.
    fn found(&mut self, content: &[u8]) {
        if content.is_empty() || content.iter().any(|version| *version != b'1') {
            return;
        }
        self.declared |= self.at_top();
        self.component().marked = true;
    }

    /// The innermost component around the place that is read.
    fn component(&mut self) -> &mut Part {
        self.around.iter_mut().rev().find(|part| !part.is_module).unwrap_or(&mut self.top)
    }

    fn reuse_safe(&self) -> bool {
        self.declared || (self.marked && !self.unmarked)
    }
}

fn invalid(error: wasmparser::BinaryReaderError) -> Flaw {
    Flaw::Invalid { why: format!("the module is not valid WebAssembly: {error}") }
}

fn is_offered(name: &str) -> bool {
    if sockets::is_socket(name) {
        return ["0.2", "0.3"].iter().any(|track| is_of_track(name, track));
    }
    OFFERED.iter().any(|(interface, tracks)| tracks.iter().any(|track| matches(name, interface, track)))
}

/// Whether `name` is `interface@TRACK.x`, released: a track of 0.x versions is compatible within itself.
fn matches(name: &str, interface: &str, track: &str) -> bool {
    name.strip_prefix(interface).is_some_and(|rest| rest.starts_with('@') && is_of_track(rest, track))
}

fn is_of_track(name: &str, track: &str) -> bool {
    name.split_once('@')
        .and_then(|(_, version)| version.strip_prefix(track)?.strip_prefix('.'))
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

    fn safe(text: &str) -> bool {
        let head = r#"(component (instance $handler) (export "wasi:http/incoming-handler@0.2.0" (instance $handler))"#;
        component(&wat::parse_str(format!("{head} {text})")).unwrap()).unwrap().reuse_safe
    }

    const MARKED: &str = r#"(core module (@custom "tidegate:reuse" "1"))"#;

    #[test]
    fn a_mark_speaks_for_the_code_of_its_component_at_any_depth() {
        assert!(!safe("(core module)"));
        assert!(safe(MARKED));
        assert!(safe(&format!("(core module) {MARKED} (core module)")), "adapters beside it belong to it");
        assert!(safe(&format!("(component {MARKED})")));
        assert!(safe(&format!("(component (component {MARKED})) (component)")), "parts without code say nothing");
    }

    #[test]
    fn of_several_components_all_must_be_marked_or_the_whole() {
        assert!(!safe(&format!("(component {MARKED}) (component (core module))")));
        assert!(!safe(&format!("{MARKED} (component (core module))")));
        assert!(safe(&format!("(component {MARKED}) (component {MARKED} (core module))")));
        assert!(safe(r#"(@custom "tidegate:reuse" "1") (component (core module)) (core module)"#));
    }

    #[test]
    fn only_promises_that_are_known_count() {
        assert!(safe(r#"(core module (@custom "tidegate:reuse" "11"))"#), "of two objects, linked");
        for content in ["", "2", "12"] {
            assert!(!safe(&format!(r#"(core module (@custom "tidegate:reuse" "{content}"))"#)), "{content}");
        }
    }

    #[test]
    fn sockets_are_taken_in_released_versions_only() {
        for (name, offered) in [
            ("wasi:sockets/tcp@0.2.3", true),
            ("wasi:sockets/types@0.3.0", true),
            ("wasi:sockets/tcp@0.4.0", false),
            ("wasi:sockets/tcp@0.3.0-rc-1", false),
            ("wasi:sockets/tcp", false),
            ("wasi:socketsx/tcp@0.2.3", false),
        ] {
            assert_eq!(is_offered(name), offered, "{name}");
        }
    }
}

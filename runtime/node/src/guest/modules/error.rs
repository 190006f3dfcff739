//! What can be wrong with an upload, and how a deployer is told.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use serde::{Deserialize, Serialize};
use tidegate_core::units::{Size, Span};

use super::compile_worker;
use crate::{ids::Digest, observe::cut, problem::Problem, settings::names};

/// What the compile worker found wrong with a module. Crosses from its process to the node's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "wrong", rename_all = "snake_case")]
pub enum Flaw {
    /// Not WebAssembly.
    #[error("the upload is not WebAssembly: it does not begin with `\\0asm`")]
    NotWasm,
    /// WebAssembly that does not validate, or can't be made a component.
    #[error("{why}")]
    Invalid {
        /// What the validator says.
        why: String,
    },
    /// A core module without a component type.
    #[error(
        "the upload is a core module that carries no component type: build it for wasm32-wasip2, or with bindings of \
         wit-bindgen, which embed one"
    )]
    BareModule,
    /// No handler is exported.
    #[error(
        "the component exports no handler: it must export wasi:http/incoming-handler@0.2 or wasi:http/handler@0.3, and \
         exports {}",
        listed(exports)
    )]
    NoHandler {
        /// What it does export.
        exports: Vec<String>,
    },
    /// Imports that the host does not offer.
    #[error("the component imports what this host does not offer: {}", listed(imports))]
    Imports {
        /// Each of them.
        imports: Vec<String>,
    },
    /// It needs more at its start than it may have.
    #[error("the component needs {needs} of {what} to start, and may have {limit} (setting {setting})")]
    NeedsMore {
        /// Of what.
        what: String,
        /// How much.
        needs: String,
        /// What it may have.
        limit: String,
        /// The setting.
        setting: String,
    },
}

/// Names that are told one by one.
const NAMES: usize = 20;
/// Bytes of one, at most.
const NAME: usize = 200;
/// Bytes of all that is told.
const TEXT: usize = 8 << 10;

fn listed(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { told(names).join(", ") }
}

/// The first names, and how many there are besides: a module may have as many, and as long ones, as it likes.
fn told(names: &[String]) -> Vec<String> {
    let more = names.len().saturating_sub(NAMES);
    let more = (more > 0).then(|| format!("and {more} more"));
    let short = |name: &String| {
        let mut name = name.clone();
        cut(&mut name, NAME);
        name
    };
    names.iter().take(NAMES).map(short).chain(more).collect()
}

/// Why a module can't be deployed or opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ModuleError {
    /// Larger than the node takes.
    #[error("the module has {size} bytes, and at most {limit} are taken (setting {})", names::MAX_MODULE)]
    TooLarge {
        /// Its size.
        size: u64,
        /// The bound.
        limit: Size,
    },
    /// Something is wrong with it.
    #[error(transparent)]
    Flaw(#[from] Flaw),
    /// Its compilation took more than it may.
    #[error("compiling the module took more than {value} of {limit}{note} (setting {setting})")]
    CompileLimit {
        /// `cpu`, `time` or `memory`.
        limit: &'static str,
        /// The bound.
        value: String,
        /// How it comes from its setting.
        note: &'static str,
        /// Its setting.
        setting: &'static str,
    },
    /// Its compilation was killed, and by none of its bounds.
    #[error(
        "the compilation was killed by the system, as it does when the machine or its container runs out of memory: give \
         it more, or let a compilation have less than {} (setting {})",
        .0, names::COMPILE_MEMORY
    )]
    CompileKilled(Size),
    /// The compiler failed otherwise.
    #[error("the module can't be compiled: {0}")]
    Compile(Arc<str>),
    /// The bytes of the module are not on this node.
    #[error("the module {0} is not on this node")]
    Missing(Digest),
    /// What this node has of it are other bytes.
    #[error("the module {0} is damaged on this node: deploy it again")]
    Damaged(Digest),
    /// The disk or the system failed.
    #[error("{what}: {why}")]
    System {
        /// What was being done.
        what: Arc<str>,
        /// What the system said.
        why: Arc<str>,
    },
}

impl ModuleError {
    pub(super) fn cpu(limit: Duration) -> Self {
        Self::CompileLimit { limit: "cpu", value: Span(limit).to_string(), note: "", setting: names::COMPILE_CPU }
    }

    /// Of the clock on the wall, which goes on while the machine computes other things.
    pub(super) fn wall(cpu: Duration) -> Self {
        let (value, note) = (Span(compile_worker::wall(cpu)).to_string(), ", ten times its processor time");
        Self::CompileLimit { limit: "time", value, note, setting: names::COMPILE_CPU }
    }

    pub(super) fn memory(limit: Size) -> Self {
        Self::CompileLimit { limit: "memory", value: limit.to_string(), note: "", setting: names::COMPILE_MEMORY }
    }

    pub(super) fn system(what: impl Into<Arc<str>>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |error| Self::System { what, why: error.to_string().into() }
    }
}

impl From<ModuleError> for Problem {
    fn from(error: ModuleError) -> Self {
        let mut text = error.to_string();
        cut(&mut text, TEXT);
        let bad = |kind, title| Self::new(StatusCode::UNPROCESSABLE_ENTITY, kind, title, text.clone());
        match &error {
            ModuleError::TooLarge { limit, .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "module-too-large", "The module is too large", text.clone())
                    .bound("module", limit, names::MAX_MODULE)
            }
            ModuleError::Flaw(Flaw::NotWasm) => bad("not-wasm", "The upload is not WebAssembly"),
            ModuleError::Flaw(Flaw::Invalid { .. }) => bad("invalid-module", "The module is not valid"),
            ModuleError::Flaw(Flaw::BareModule) => bad("no-component-type", "The module is no component"),
            ModuleError::Flaw(Flaw::NoHandler { exports }) => {
                bad("no-handler", "The component exports no handler").member("exports", told(exports))
            }
            ModuleError::Flaw(Flaw::Imports { imports }) => {
                bad("import-not-offered", "The component imports what is not offered").member("imports", told(imports))
            }
            ModuleError::Flaw(Flaw::NeedsMore { what, limit, setting, .. }) => {
                bad("needs-more", "The component needs more than it may have").bound(what, limit, setting)
            }
            ModuleError::CompileKilled(limit) => bad("compile-limit", "The module takes too much to compile").bound(
                "compile-memory",
                limit,
                names::COMPILE_MEMORY,
            ),
            ModuleError::CompileLimit { limit, value, setting, .. } => bad(
                "compile-limit",
                "The module takes too much to compile",
            )
            .bound(format!("compile-{limit}"), value, *setting),
            ModuleError::Compile(_) => bad("compile-failed", "The module can't be compiled"),
            ModuleError::Missing(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "module-missing", "The module is not here", text.clone())
            }
            ModuleError::Damaged(_) => {
                let title = "The module's bytes are damaged";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "module-damaged", title, text.clone())
            }
            ModuleError::System { .. } => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "module-store", "The module store failed", text.clone())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flaw_is_told_in_few_words_however_much_there_is_of_it() {
        let names: Vec<_> = (0..20_000).map(|number| format!("{number}{}", "x".repeat(5_000))).collect();
        for flaw in [
            Flaw::Imports { imports: names.clone() },
            Flaw::NoHandler { exports: names },
            Flaw::Invalid { why: "x".repeat(1 << 20) },
        ] {
            let detail = Problem::from(ModuleError::from(flaw)).detail.clone();
            assert!(detail.len() <= TEXT, "{} bytes", detail.len());
        }
        assert_eq!(told(&vec!["a".to_owned(); 25]).last().unwrap(), "and 5 more");
        assert_eq!(listed(&["a".to_owned(), "b".to_owned()]), "a, b");
    }
}

//! Whether a handler takes and gives what the host calls it with. Wasmtime asks when an instance is called first.

use wasmtime::{
    Engine,
    component::{
        ResourceType, Type,
        types::{Component, ComponentItem},
    },
};
use wasmtime_wasi_http::{
    p2::types::{HostIncomingRequest, HostResponseOutparam},
    p3::{Request, Response},
};

use super::error::Flaw;
use crate::cluster::registry::World;

/// Checks the handler's type, in which the host's resources stand for those that the component imports.
///
/// # Errors
/// [`Flaw::Invalid`].
pub(super) fn check(engine: &Engine, types: &Component, world: World) -> Result<(), Flaw> {
    let (interface, wanted) = match world {
        World::Http02 => {
            ("wasi:http/incoming-handler@0.2.", "func(request: incoming-request, response-out: response-outparam)")
        }
        World::Http03 => ("wasi:http/handler@0.3.", "async func(request: request) -> result<response, error-code>"),
    };
    let is_handler = types
        .exports(engine)
        .filter(|(name, _)| name.starts_with(interface))
        .filter_map(|(_, export)| match export.ty {
            ComponentItem::ComponentInstance(instance) => Some(instance),
            _ => None,
        })
        .all(|instance| match instance.get_export(engine, "handle").map(|export| export.ty) {
            Some(ComponentItem::ComponentFunc(handle)) => {
                let (params, results): (Vec<_>, Vec<_>) =
                    (handle.params().map(|(_, ty)| ty).collect(), handle.results().collect());
                match world {
                    World::Http02 => {
                        results.is_empty()
                            && owns::<HostIncomingRequest>(params.first())
                            && owns::<HostResponseOutparam>(params.get(1))
                            && params.len() == 2
                    }
                    World::Http03 => {
                        handle.async_()
                            && owns::<Request>(params.first())
                            && params.len() == 1
                            && gives_a_response(&results)
                    }
                }
            }
            _ => false,
        });
    if is_handler {
        return Ok(());
    }
    Err(Flaw::Invalid { why: format!("the component's handler is no `handle: {wanted}` of wasi:http") })
}

fn owns<T: 'static>(ty: Option<&Type>) -> bool {
    matches!(ty, Some(Type::Own(resource)) if *resource == ResourceType::host::<T>())
}

fn gives_a_response(results: &[Type]) -> bool {
    let [Type::Result(result)] = results else { return false };
    // Of the codes the last one, for whatever has no code of its own, is as good as all.
    let is_code = |ty| matches!(ty, Type::Variant(code) if code.cases().any(|case| case.name == "internal-error"));
    owns::<Response>(result.ok().as_ref()) && result.err().is_some_and(is_code)
}

//! Sockets that refuse. Guests have none, but the runtimes of some languages (Python, Go, .NET) import `wasi:sockets`
//! whether they use it or not.
//!
//! For such a guest each imported function is defined by its type alone: one that can fail answers `access-denied`, one
//! that gives a resource gives one that nothing can be done with. No code that could open a socket is linked.

use wasmtime::{
    AsContextMut, Engine, StoreContextMut,
    component::{
        Component, Linker, Resource, ResourceAny, ResourceType, Val,
        types::{ComponentItem, Type},
    },
};

/// What stands in for a socket; there never is one.
struct Never;

/// Whether an import is one of the interfaces that are offered in name only.
pub(super) fn is_socket(import: &str) -> bool {
    import.starts_with("wasi:sockets/")
}

/// The linker for a component: with every `wasi:sockets` import of it, where it has any.
///
/// # Errors
/// When a name is defined twice.
pub(super) fn linker<T: Send + 'static>(
    base: &Linker<T>,
    engine: &Engine,
    component: &Component,
) -> wasmtime::Result<Linker<T>> {
    let mut linker = base.clone();
    // A resource that an earlier interface introduced (a pollable, a network) is not introduced again.
    let mut known = Vec::new();
    for (import, item) in component.component_type().imports(engine) {
        let ComponentItem::ComponentInstance(interface) = item.ty else { continue };
        if !is_socket(import) {
            known.extend(interface.exports(engine).filter_map(|(_, item)| match item.ty {
                ComponentItem::Resource(kind) => Some(kind),
                _ => None,
            }));
            continue;
        }
        let mut instance = linker.instance(import)?;
        for (name, item) in interface.exports(engine) {
            match item.ty {
                ComponentItem::Resource(kind) if !known.contains(&kind) => {
                    known.push(kind);
                    instance.resource(name, ResourceType::host::<Never>(), |_, _| Ok(()))?;
                }
                ComponentItem::ComponentFunc(function) if function.async_() => {
                    instance.func_new_concurrent(name, |accessor, function, parameters, results| {
                        Box::pin(async move {
                            accessor.with(|mut access| {
                                answer(access.as_context_mut(), parameters, function.results(), results)
                            })
                        })
                    })?;
                }
                ComponentItem::ComponentFunc(_) => {
                    instance.func_new(name, |store, function, parameters, results| {
                        answer(store, parameters, function.results(), results)
                    })?;
                }
                _ => {}
            }
        }
    }
    Ok(linker)
}

fn answer<T: 'static>(
    mut store: StoreContextMut<'_, T>,
    parameters: &[Val],
    types: impl Iterator<Item = Type>,
    results: &mut [Val],
) -> wasmtime::Result<()> {
    for parameter in parameters {
        // What was lent must be given back, which this does.
        if let Val::Resource(resource) = parameter {
            Resource::<Never>::try_from_resource_any(*resource, &mut store)?;
        }
    }
    for (kind, result) in types.zip(results) {
        *result = match &kind {
            Type::Result(kind) => match kind.err().as_ref().and_then(denied) {
                Some(denied) => Val::Result(Err(Some(Box::new(denied)))),
                None => wasmtime::bail!("guests have no sockets: send through wasi:http"),
            },
            Type::Own(kind) if *kind == ResourceType::host::<Never>() => {
                Val::Resource(ResourceAny::try_from_resource(Resource::<Never>::new_own(0), &mut store)?)
            }
            _ => wasmtime::bail!("guests have no sockets: send through wasi:http"),
        };
    }
    Ok(())
}

/// The error that says no, of this type.
fn denied(kind: &Type) -> Option<Val> {
    const DENIED: &str = "access-denied";
    match kind {
        Type::Enum(kind) if kind.names().any(|name| name == DENIED) => Some(Val::Enum(DENIED.to_owned())),
        Type::Variant(kind) if kind.cases().any(|case| case.name == DENIED && case.ty.is_none()) => {
            Some(Val::Variant(DENIED.to_owned(), None))
        }
        _ => None,
    }
}

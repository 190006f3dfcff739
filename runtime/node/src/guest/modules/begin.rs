//! What memory an instance of a component begins with: that of all modules that it is made of.
//!
//! The engine says no more than how many memories there are and how large the largest is. So instantiations are counted
//! here, as the component's text has them. A module that comes from elsewhere (an import) counts as nothing: what is said
//! is never too much.

use wasmparser::{
    BinaryReaderError, ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind,
    ComponentTypeRef, Instance, Payload,
};

use crate::guest::pool::PAGE;

/// The module or component that is being read, and those around it.
#[derive(Default)]
pub(super) struct Begin {
    around: Vec<Part>,
    top: Part,
}

/// A module, or a component with what was defined in it so far.
#[derive(Default)]
struct Part {
    is_module: bool,
    /// What an instance of it begins with, bytes.
    memory: u64,
    modules: Vec<u64>,
    components: Vec<u64>,
}

impl Part {
    fn adds(&mut self, memory: u64) {
        self.memory = self.memory.saturating_add(memory);
    }
}

impl Begin {
    /// What an instance of it all begins with, bytes.
    pub(super) fn memory(&self) -> u64 {
        self.top.memory
    }

    fn part(&mut self) -> &mut Part {
        self.around.last_mut().unwrap_or(&mut self.top)
    }

    /// So many components around the one that is read.
    fn outer(&self, count: u32) -> Option<&Part> {
        match self.around.len().checked_sub(count as usize)? {
            0 => Some(&self.top),
            nth => self.around.get(nth - 1),
        }
    }

    pub(super) fn read(&mut self, payload: &Payload<'_>) -> Result<(), BinaryReaderError> {
        match payload {
            Payload::ModuleSection { .. } => self.around.push(Part { is_module: true, ..Part::default() }),
            Payload::ComponentSection { .. } => self.around.push(Part::default()),
            Payload::End(_) => {
                if let Some(part) = self.around.pop() {
                    let outer = self.part();
                    let kind = if part.is_module { &mut outer.modules } else { &mut outer.components };
                    kind.push(part.memory);
                }
            }
            Payload::MemorySection(section) => {
                for memory in section.clone() {
                    let memory = memory?;
                    let page = memory.page_size_log2.map_or(PAGE, |log| 1_u64.checked_shl(log).unwrap_or(u64::MAX));
                    self.part().adds(memory.initial.saturating_mul(page));
                }
            }
            Payload::InstanceSection(section) => {
                for instance in section.clone() {
                    if let Instance::Instantiate { module_index, .. } = instance? {
                        let part = self.part();
                        let memory = part.modules.get(module_index as usize).copied();
                        part.adds(memory.unwrap_or_default());
                    }
                }
            }
            Payload::ComponentInstanceSection(section) => {
                for instance in section.clone() {
                    if let ComponentInstance::Instantiate { component_index, .. } = instance? {
                        let part = self.part();
                        let memory = part.components.get(component_index as usize).copied();
                        part.adds(memory.unwrap_or_default());
                    }
                }
            }
            Payload::ComponentImportSection(section) => {
                for import in section.clone() {
                    match import?.ty {
                        ComponentTypeRef::Module(_) => self.part().modules.push(0),
                        ComponentTypeRef::Component(_) => self.part().components.push(0),
                        _ => {}
                    }
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section.clone() {
                    let (kind, index) = export.map(|export| (export.kind, export.index as usize))?;
                    let part = self.part();
                    let kind = match kind {
                        ComponentExternalKind::Module => &mut part.modules,
                        ComponentExternalKind::Component => &mut part.components,
                        _ => continue,
                    };
                    kind.push(kind.get(index).copied().unwrap_or_default());
                }
            }
            Payload::ComponentAliasSection(section) => {
                for alias in section.clone() {
                    self.alias(&alias?);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn alias(&mut self, alias: &ComponentAlias<'_>) {
        match alias {
            ComponentAlias::InstanceExport { kind: ComponentExternalKind::Module, .. } => self.part().modules.push(0),
            ComponentAlias::InstanceExport { kind: ComponentExternalKind::Component, .. } => {
                self.part().components.push(0);
            }
            ComponentAlias::Outer { kind: ComponentOuterAliasKind::CoreModule, count, index } => {
                let memory = self.outer(*count).and_then(|outer| outer.modules.get(*index as usize)).copied();
                self.part().modules.push(memory.unwrap_or_default());
            }
            ComponentAlias::Outer { kind: ComponentOuterAliasKind::Component, count, index } => {
                let memory = self.outer(*count).and_then(|outer| outer.components.get(*index as usize)).copied();
                self.part().components.push(memory.unwrap_or_default());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use wasmparser::Parser;

    use super::*;

    fn memory(text: &str) -> u64 {
        let bytes = wat::parse_str(text).unwrap();
        let mut begin = Begin::default();
        Parser::new(0).parse_all(&bytes).for_each(|payload| begin.read(&payload.unwrap()).unwrap());
        begin.memory() / PAGE
    }

    #[test]
    fn the_table_of_components() {
        let module = "(core module $m (memory 2) (memory 3))";
        let nested = format!("(component $c {module} (core instance (instantiate $m)))");
        for (name, inside, pages) in [
            ("a module that nobody makes an instance of", module.to_owned(), 0),
            ("one instance", format!("{module} (core instance (instantiate $m))"), 5),
            ("two of one module", format!("{module} {}", "(core instance (instantiate $m))".repeat(2)), 10),
            ("a component that nobody makes an instance of", nested.clone(), 0),
            ("two of one component", format!("{nested} {}", "(instance (instantiate $c))".repeat(2)), 10),
            (
                "a module from around it",
                format!(
                    "{module} (component $c (alias outer 1 $m (core module $o)) (core instance (instantiate $o)))
                    (instance (instantiate $c))"
                ),
                5,
            ),
            ("one that is imported", "(import \"m\" (core module $m)) (core instance (instantiate $m))".to_owned(), 0),
        ] {
            assert_eq!(memory(&format!("(component {inside})")), pages, "{name}");
        }
        let mut bomb = "(component $c0 (core module $m (memory 100)) (core instance (instantiate $m)))".to_owned();
        for depth in 1..80 {
            let two = format!("(instance (instantiate $c{})) ", depth - 1).repeat(2);
            bomb = format!("(component $c{depth} {bomb} {two})");
        }
        assert!(memory(&format!("(component {bomb} (instance (instantiate $c79)))")) > 1 << 40, "and no overflow");
    }
}

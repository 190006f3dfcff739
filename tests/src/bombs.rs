//! Components that no compiler would make: small and cheap to check, and ruinous to compile or to start. All are valid
//! functions: they export `wasi:http/incoming-handler`, so only a limit on the work itself can stop them.

use wasm_encoder::{
    BlockType, CodeSection, ConstExpr, ExportKind, ExportSection, Function, FunctionSection, GlobalSection, GlobalType,
    Instruction, MemorySection, MemoryType, Module, StartSection, TypeSection, ValType,
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The part of wasi:http that a handler's signature needs.
const WORLD: &str = "
package test:bomb;
world bomb { export wasi:http/incoming-handler@0.2.0; }
package wasi:http@0.2.0 {
  interface types { resource incoming-request; resource response-outparam; }
  interface incoming-handler {
    use types.{incoming-request, response-outparam};
    handle: func(request: incoming-request, response-out: response-outparam);
  }
}
";

const NESTING: u32 = 500;
const LOCALS: u32 = 500;
const FUNCTIONS: u32 = 500_000;

/// About 10 KB: 500 loops inside one another, 500 locals that all change in the innermost and so are alive through every one.
/// A compiler gives each loop a parameter for each variable, 250,000 of them, and then allocates registers for that.
/// Wasmtime 48 works on it for more than 35 s, in 400 MB.
pub fn nested_loops() -> Vec<u8> {
    let mut body = Function::new([(LOCALS, ValType::I64)]);
    // The two parameters, the resource handles, come before the locals.
    let local = |index: u32| 2 + index;
    for _ in 0..NESTING {
        body.instruction(&Instruction::Loop(BlockType::Empty));
    }
    for index in 0..LOCALS {
        body.instruction(&Instruction::LocalGet(local(index)));
        body.instruction(&Instruction::I64Const(1));
        body.instruction(&Instruction::I64Add);
        body.instruction(&Instruction::LocalSet(local(index)));
    }
    for depth in (0..NESTING).rev() {
        body.instruction(&Instruction::LocalGet(local(depth % LOCALS)));
        body.instruction(&Instruction::I64Eqz);
        body.instruction(&Instruction::BrIf(0));
        body.instruction(&Instruction::End);
    }
    body.instruction(&Instruction::End);
    component(&[body])
}

/// About 2 MB: 500,000 functions that do nothing. Each costs a compiler some kilobytes of its own book-keeping: Wasmtime 48 takes
/// 2.6 GB.
pub fn many_functions() -> Vec<u8> {
    let mut empty = Function::new([]);
    empty.instruction(&Instruction::End);
    component(&vec![empty; FUNCTIONS as usize])
}

/// A component whose start function counts up to `turns` (for ever without) before its handler returns without an answer.
pub fn slow_start(turns: Option<i64>) -> Vec<u8> {
    let mut handler = Function::new([]);
    handler.instruction(&Instruction::End);
    let mut start = Function::new([(1, ValType::I64)]);
    start.instruction(&Instruction::Loop(BlockType::Empty));
    start
        .instruction(&Instruction::LocalGet(0))
        .instruction(&Instruction::I64Const(1))
        .instruction(&Instruction::I64Add);
    start.instruction(&Instruction::LocalTee(0)).instruction(&Instruction::I64Const(turns.unwrap_or(i64::MAX)));
    start.instruction(&Instruction::I64LtU).instruction(&Instruction::BrIf(0)).instruction(&Instruction::End);
    start.instruction(&Instruction::End);
    starting(&[handler], Some(&start))
}

/// A component whose handler is the first of `bodies`; all have the handler's type.
fn component(bodies: &[Function]) -> Vec<u8> {
    starting(bodies, None)
}

/// The same with a start function.
fn starting(bodies: &[Function], start: Option<&Function>) -> Vec<u8> {
    let mut types = TypeSection::new();
    types.ty().function([ValType::I32, ValType::I32], []);
    types.ty().function([ValType::I32; 4], [ValType::I32]);
    types.ty().function([], []);

    let mut functions = FunctionSection::new();
    let mut code = CodeSection::new();
    for body in bodies {
        functions.function(0);
        code.function(body);
    }
    // The canonical ABI wants an allocator; nobody calls this one.
    let realloc = u32::try_from(bodies.len()).unwrap();
    functions.function(1);
    let mut none = Function::new([]);
    none.instruction(&Instruction::Unreachable);
    none.instruction(&Instruction::End);
    code.function(&none);
    if let Some(start) = start {
        functions.function(2);
        code.function(start);
    }

    let mut memories = MemorySection::new();
    memories.memory(MemoryType { minimum: 1, maximum: None, memory64: false, shared: false, page_size_log2: None });
    let mut globals = GlobalSection::new();
    globals.global(GlobalType { val_type: ValType::I32, mutable: true, shared: false }, &ConstExpr::i32_const(0));

    let mut exports = ExportSection::new();
    exports.export("wasi:http/incoming-handler@0.2.0#handle", ExportKind::Func, 0);
    exports.export("cabi_realloc", ExportKind::Func, realloc);
    exports.export("memory", ExportKind::Memory, 0);

    let mut module = Module::new();
    module.section(&types).section(&functions).section(&memories).section(&globals).section(&exports);
    if start.is_some() {
        module.section(&StartSection { function_index: realloc + 1 });
    }
    module.section(&code);
    let mut module = module.finish();

    let mut resolve = Resolve::default();
    let package = resolve.push_str("bomb.wit", WORLD).unwrap();
    let world = resolve.select_world(&[package], Some("bomb")).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).unwrap();
    ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
}

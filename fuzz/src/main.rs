//! With the feature `libfuzzer` the fuzzer of one target, which `TIDEGATE_FUZZ` names: see `cargo xtask fuzz`. Without it
//! a program that puts files to a target, to look at what a fuzzer found: `cargo run -p tidegate-fuzz -- actor FILE`.
#![cfg_attr(feature = "libfuzzer", no_main)]
#![allow(clippy::expect_used, clippy::panic, reason = "what fails here has to end the program")]

#[cfg(feature = "libfuzzer")]
mod fuzzer {
    use std::sync::LazyLock;

    static RUN: LazyLock<fn(&[u8])> = LazyLock::new(|| {
        let name = std::env::var("TIDEGATE_FUZZ").expect("TIDEGATE_FUZZ names a target");
        tidegate_fuzz::target(&name).unwrap_or_else(|| panic!("{name} is no target"))
    });

    libfuzzer_sys::fuzz_target!(|data: &[u8]| RUN(data));
}

#[cfg(not(feature = "libfuzzer"))]
fn main() {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().expect("the name of a target");
    let run = tidegate_fuzz::target(&name).unwrap_or_else(|| panic!("{name} is no target"));
    for file in arguments {
        run(&std::fs::read(&file).expect("a file that can be read"));
        println!("{file}: holds");
    }
}

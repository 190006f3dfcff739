//! Every input that is kept, put to its target: seeds, and what a fuzzer once found.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::{fs, path::Path};

fn keeps(name: &str) {
    let run = tidegate_fuzz::target(name).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    for file in files {
        let input = fs::read(&file).unwrap();
        // Begun and broken off, too.
        for end in [input.len(), input.len() / 2, input.len() / 3, 0] {
            let kept = &input[..end];
            if std::panic::catch_unwind(|| run(kept)).is_err() {
                panic!("{} fails, of its bytes the first {end}", file.display());
            }
        }
    }
}

#[test]
fn every_target_is_tried() {
    let folders = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")).unwrap();
    assert_eq!(folders.count(), tidegate_fuzz::TARGETS.len());
}

macro_rules! tests {
    ($($target:ident)*) => {$(
        #[test]
        fn $target() {
            keeps(stringify!($target));
        }
    )*};
}

tests!(signals usage policy limits cache actor);

//! The `tidegate` program; everything is in the library.

fn main() {}

//! The `tidegate` program.

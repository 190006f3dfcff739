//! `tidegate run`: any program with its base URLs led through a gate.

mod child;
mod environment;
mod summary;

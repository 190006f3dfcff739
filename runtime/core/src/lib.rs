//! The rules of the gate.

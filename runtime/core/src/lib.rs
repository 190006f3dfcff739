//! The rules of the gate.

pub mod text;

/// How calls are made (placeholder of the first day, replaced by the real layering).
pub mod policy {
    /// One layer of a policy.
    #[derive(Clone, Debug, Default)]
    pub struct Policy {}
}

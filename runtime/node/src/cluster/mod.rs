//! What nodes agree on. One node alone is a cluster of one; today that is all there is.

pub mod registry;

//! Where secrets leave: the one place in which a value meets a request.
//!
//! [`fill`] looks at a request as it is about to leave. In one of a function it finds the handles that its version was
//! issued, in one of a program it puts the destination's secret in the place of the caller's key, or at an endpoint with a
//! secret of its own that one; either way only
//! towards destinations that the secret is bound to, and what may not be filled in does not leave at all. The request
//! itself stays as its sender made it: values are laid over it for each attempt, and looked up again where secrets
//! changed since.

mod fill;
mod filled;
mod table;
mod template;
mod withheld;

pub(crate) use fill::{AsMade, fill};
pub(crate) use filled::Filled;
pub(crate) use table::SecretTable;
pub(crate) use template::Template;

//! The control listener: `/v1`, tokens.

//! The audit trail: who changed what, when. Written with the change it is about, in one transaction.

use serde::{Deserialize, Serialize};

use super::now_ms;
use crate::ids::TenantId;

/// One thing that somebody did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Its number, in order.
    #[serde(default)]
    pub number: u64,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// In whose name.
    pub tenant: TenantId,
    /// Id of the token.
    pub by: String,
    /// What the token is for, as its maker said it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// What was done: `deploy`, `pause`, ...
    pub action: String,
    /// To what: `destinations/openai`.
    pub target: String,
    /// What more there is to say, never a secret.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl AuditRecord {
    /// Something that is done now.
    pub fn new(tenant: TenantId, (by, label): (&str, &str), action: &str, target: String, detail: String) -> Self {
        let (by, label, action) = (by.to_owned(), label.to_owned(), action.to_owned());
        Self { number: 0, at_ms: now_ms(), tenant, by, label, action, target, detail }
    }
}

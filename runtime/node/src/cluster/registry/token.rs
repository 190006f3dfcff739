//! Tokens: 256 random bits behind `tg_`, shown once, kept as a hash.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

use super::state::{Scope, TokenRecord};
use crate::ids::{Digest, TenantId};

/// What every token we make begins with, so that people and scanners for leaked secrets know one when they see it.
pub const TOKEN_PREFIX: &str = "tg_";

/// Id of the token that `TIDEGATE_ADMIN_TOKEN` or the first start sets.
pub const FIRST_TOKEN: &str = "admin";

/// A new token. Only its hash is kept, so this is the one time it is seen.
pub fn mint() -> String {
    let bits: [u8; 32] = rand::random();
    format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(bits))
}

/// What is kept of a token.
pub fn hash(token: &str) -> Digest {
    Digest(Sha256::digest(token.as_bytes()).into())
}

/// The record of a token, with a new id unless one is given.
pub fn record(id: Option<&str>, tenant: TenantId, label: String, scopes: Vec<Scope>, token: &str) -> TokenRecord {
    let id = id.map_or_else(|| format!("{:012x}", rand::random::<u64>() >> 16), str::to_owned);
    TokenRecord { id, tenant, label, hash: hash(token), scopes, created_ms: super::now_ms(), weight: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_holds_256_bits_behind_its_prefix_and_is_never_the_same() {
        let (one, other) = (mint(), mint());
        assert_ne!(one, other);
        let bits = URL_SAFE_NO_PAD.decode(one.strip_prefix(TOKEN_PREFIX).unwrap()).unwrap();
        assert_eq!(bits.len(), 32);
    }

    #[test]
    fn a_record_does_not_hold_the_token() {
        let token = mint();
        let record = record(None, "t".into(), "ci".into(), vec![Scope::Deploy], &token);
        assert!(!serde_json::to_string(&record).unwrap().contains(token.trim_start_matches(TOKEN_PREFIX)));
        assert_eq!(record.hash, hash(&token));
    }
}

//! The address guard: which addresses a call may be dialled to.
//!
//! Addresses are judged, not names, and the address that was judged is the one that is dialled, so that a name which
//! changes its mind between two look-ups (rebinding) gains nothing. Redirects are never followed here: whoever follows
//! one comes through the door again.

mod address;
mod hosts;

use std::net::IpAddr;

use http::StatusCode;
use ipnet::IpNet;

pub use address::Kind;
pub use hosts::{HostPattern, HostPatterns, PatternError};

use crate::{problem::Problem, settings::names};

/// Which addresses may be reached although they are not public.
#[derive(Clone, Debug, Default)]
pub struct AddressGuard {
    allow: Vec<IpNet>,
}

/// An address or name that may not be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressDenied {
    /// The address is not public.
    #[error("{host} leads to {kind}")]
    Address {
        /// The name that was asked for.
        host: String,
        /// The address it has.
        address: IpAddr,
        /// What kind of address that is.
        kind: Kind,
    },
    /// The name is one of a private network, and such networks are not allowed.
    #[error("{host} is a name of a private network")]
    Name {
        /// The name.
        host: String,
    },
}

impl AddressGuard {
    /// A guard that lets public addresses pass, and these networks.
    pub fn new(allow: Vec<IpNet>) -> Self {
        Self { allow }
    }

    /// Judges a name before it is looked up: names of private networks are not even asked for unless some network is
    /// allowed at all.
    ///
    /// # Errors
    /// [`AddressDenied::Name`].
    pub fn check_name(&self, host: &str) -> Result<(), AddressDenied> {
        // Allowed loopback lets `localhost` be looked up, and says nothing about the names of other networks.
        let beyond_loopback = |net: &IpNet| !net.network().is_loopback();
        let may_be_at_an_allowed_address = match is_loopback_name(host) {
            true => !self.allow.is_empty(),
            false => self.allow.iter().any(beyond_loopback),
        };
        if is_private_name(host) && !may_be_at_an_allowed_address {
            return Err(AddressDenied::Name { host: host.to_owned() });
        }
        Ok(())
    }

    /// Judges an address that `host` was found to have.
    ///
    /// # Errors
    /// [`AddressDenied::Address`] when it is neither public nor allowed; a private name must be at an allowed address.
    pub fn check(&self, host: &str, address: IpAddr) -> Result<(), AddressDenied> {
        let canonical = address.to_canonical();
        if self.allow.iter().any(|net| net.contains(&canonical) || net.contains(&address)) {
            return Ok(());
        }
        match address::kind(address) {
            Kind::Public if is_private_name(host) => Err(AddressDenied::Name { host: host.to_owned() }),
            Kind::Public => Ok(()),
            kind => Err(AddressDenied::Address { host: host.to_owned(), address, kind }),
        }
    }
}

fn is_loopback_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host.rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case("localhost"))
}

/// `localhost` and names that only private networks resolve: `.internal` and `.flycast` (Fly.io), `.local` (mDNS).
fn is_private_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next().unwrap_or(host);
    ["localhost", "internal", "flycast", "local", "localdomain"].iter().any(|name| last.eq_ignore_ascii_case(name))
}

impl From<AddressDenied> for Problem {
    fn from(denied: AddressDenied) -> Self {
        let network = match &denied {
            // Nothing but what the caller wrote.
            AddressDenied::Address { host, address, .. } if host.parse() == Ok(*address) => {
                address::network_to_allow(*address)
            }
            AddressDenied::Address { .. } | AddressDenied::Name { .. } => "CIDR".to_owned(),
        };
        let detail = format!(
            "{denied}: calls to it are not allowed on this node. Whoever runs the node can allow the network with \
             --egress-allow {network} (TIDEGATE_EGRESS_ALLOW={network})."
        );
        Problem::new(StatusCode::FORBIDDEN, "address-denied", "Destination address denied", detail)
            .bound("addresses that may be reached", "public ones", names::EGRESS_ALLOW)
            .proxy_error("destination_ip_prohibited")
            .final_answer()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(allow: &[&str]) -> AddressGuard {
        AddressGuard::new(allow.iter().map(|net| net.parse().unwrap()).collect())
    }

    #[test]
    fn an_allowed_network_is_reached_in_each_of_its_spellings() {
        let guard = guard(&["127.0.0.0/8", "::1/128"]);
        for address in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(guard.check("localhost", address.parse().unwrap()), Ok(()), "{address}");
        }
        for address in ["10.0.0.1", "::2", "169.254.169.254", "fdaa::1", "::ffff:10.0.0.1"] {
            assert!(guard.check("example.com", address.parse().unwrap()).is_err(), "{address}");
        }
    }

    #[test]
    fn private_names_are_denied_before_they_are_asked_for() {
        for name in ["localhost", "LOCALHOST", "localhost.", "a.localhost", "top1.nearest.of.app.internal", "x.flycast"]
        {
            assert!(guard(&[]).check_name(name).is_err(), "{name}");
        }
        for name in ["internal.example.com", "localhost.example.com", "flycast.io", "api.openai.com"] {
            assert_eq!(guard(&[]).check_name(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn a_private_name_at_a_public_address_is_denied_even_where_some_network_is_allowed() {
        let loopback = guard(&["127.0.0.0/8"]);
        assert_eq!(loopback.check_name("localhost"), Ok(()));
        assert!(loopback.check_name("a.internal").is_err(), "loopback is not where it could be");
        let guard = guard(&["10.0.0.0/8"]);
        assert_eq!(guard.check_name("a.internal"), Ok(()), "it may be at an allowed address");
        assert!(guard.check("a.internal", "93.184.216.34".parse().unwrap()).is_err());
    }

    #[test]
    fn a_denial_says_what_kind_of_address_it_is_and_names_only_one_that_the_caller_wrote() {
        let denied = |host: &str| Problem::from(guard(&[]).check(host, "10.1.2.3".parse().unwrap()).unwrap_err());
        let problem = denied("db.example.com");
        assert_eq!(problem.kind, "address-denied");
        for text in
            ["db.example.com", "an address of a private network", "--egress-allow CIDR", "TIDEGATE_EGRESS_ALLOW"]
        {
            assert!(problem.detail.contains(text), "{text}: {}", problem.detail);
        }
        assert!(!problem.detail.contains("10.1"), "{}", problem.detail);
        let problem = denied("10.1.2.3");
        assert!(problem.detail.contains("--egress-allow 10.1.2.3/32"), "{}", problem.detail);
    }
}

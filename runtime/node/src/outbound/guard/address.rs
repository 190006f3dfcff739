//! What kind of address an address is.
//!
//! Source of the ranges: the IANA special-purpose registries for IPv4 and IPv6. Everything in IPv6 outside 2000::/3 is
//! no global unicast and refused without a name of its own.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Kind of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Anyone's on the internet.
    Public,
    /// This machine.
    Loopback,
    /// A private network, carrier-grade NAT and IPv6 unique local addresses (Fly's 6PN) included.
    Private,
    /// The local link, cloud metadata services included, also where they have an address of their own (Azure).
    LinkLocal,
    /// No single machine.
    Multicast,
    /// No address, or "this network".
    Unspecified,
    /// Documentation, benchmarks, and ranges kept for protocols or the future.
    Reserved,
    /// An IPv4 address inside an IPv6 one in a form that no real upstream has.
    Embedded,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "a public address",
            Self::Loopback => "this machine itself",
            Self::Private => "an address of a private network",
            Self::LinkLocal => "a link-local address",
            Self::Multicast => "a multicast address",
            Self::Unspecified => "no address of a machine",
            Self::Reserved => "a reserved address",
            Self::Embedded => "an IPv4 address inside an IPv6 address",
        })
    }
}

/// The kind of an address. An IPv4 address inside an IPv6 one (mapped, NAT64) is judged as what is inside.
pub(super) fn kind(address: IpAddr) -> Kind {
    match address {
        IpAddr::V4(address) => kind_v4(address),
        IpAddr::V6(address) => kind_v6(address),
    }
}

fn kind_v4(address: Ipv4Addr) -> Kind {
    let [a, b, c, d] = address.octets();
    match (a, b, c) {
        // Azure's platform, metadata and DHCP answer here, from inside each of its machines only.
        (168, 63, 129) if d == 16 => Kind::LinkLocal,
        (0, ..) => Kind::Unspecified,
        (127, ..) => Kind::Loopback,
        (10, ..) | (172, 16..=31, _) | (192, 168, _) | (100, 64..=127, _) => Kind::Private,
        (169, 254, _) => Kind::LinkLocal,
        (224..=239, ..) => Kind::Multicast,
        // Protocol assignments, documentation, the former 6to4 relays, benchmarks, the future, broadcast.
        (192, 0, 0 | 2) | (192, 88, 99) | (198, 18..=19, _) | (198, 51, 100) | (203, 0, 113) | (240..=255, ..) => {
            Kind::Reserved
        }
        _ => Kind::Public,
    }
}

fn kind_v6(address: Ipv6Addr) -> Kind {
    let segments = address.segments();
    let inner = || {
        let [.., a, b, c, d] = address.octets();
        kind_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 0] => Kind::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => Kind::Loopback,
        // ::ffff:a.b.c.d is how a dual-stack socket spells IPv4; 64:ff9b::a.b.c.d is how a NAT64 network reaches it.
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => inner(),
        // IPv4-compatible, IPv4-translated, a site's own NAT64, 6to4, Teredo.
        [0, 0, 0, 0, 0, 0, ..]
        | [0, 0, 0, 0, 0xffff, 0, ..]
        | [0x64, 0xff9b, 1, ..]
        | [0x2002, ..]
        | [0x2001, 0, ..] => Kind::Embedded,
        [0xfc00..=0xfdff, ..] => Kind::Private,
        [0xfe80..=0xfebf, ..] => Kind::LinkLocal,
        // Site-local, deprecated but routed here and there.
        [0xfec0..=0xfeff, ..] => Kind::Private,
        [0xff00..=0xffff, ..] => Kind::Multicast,
        // Protocol assignments, documentation.
        [0x2001, 1..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Kind::Reserved,
        [0x2000..=0x3fff, ..] => Kind::Public,
        _ => Kind::Reserved,
    }
}

/// The smallest network that would let the address pass, as `--egress-allow` takes it; all of loopback where it is.
pub(super) fn network_to_allow(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) if v4.is_loopback() => "127.0.0.0/8".into(),
        IpAddr::V4(v4) => format!("{v4}/32"),
        IpAddr::V6(v6) => format!("{v6}/128"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_special_range_is_known_at_both_its_ends() {
        for (text, expected) in [
            ("0.0.0.0", Kind::Unspecified),
            ("0.255.255.255", Kind::Unspecified),
            ("1.0.0.0", Kind::Public),
            ("8.8.8.8", Kind::Public),
            ("9.255.255.255", Kind::Public),
            ("10.0.0.0", Kind::Private),
            ("10.255.255.255", Kind::Private),
            ("11.0.0.0", Kind::Public),
            ("100.63.255.255", Kind::Public),
            ("100.64.0.0", Kind::Private),
            ("100.127.255.255", Kind::Private),
            ("100.128.0.0", Kind::Public),
            ("127.0.0.1", Kind::Loopback),
            ("127.255.255.255", Kind::Loopback),
            ("168.63.129.15", Kind::Public),
            ("168.63.129.16", Kind::LinkLocal),
            ("168.63.129.17", Kind::Public),
            ("::ffff:168.63.129.16", Kind::LinkLocal),
            ("169.254.0.0", Kind::LinkLocal),
            ("169.254.169.254", Kind::LinkLocal),
            ("172.15.255.255", Kind::Public),
            ("172.16.0.0", Kind::Private),
            ("172.31.255.255", Kind::Private),
            ("172.32.0.0", Kind::Public),
            ("192.0.0.1", Kind::Reserved),
            ("192.0.2.1", Kind::Reserved),
            ("192.88.99.1", Kind::Reserved),
            ("192.168.0.0", Kind::Private),
            ("192.169.0.0", Kind::Public),
            ("198.18.0.0", Kind::Reserved),
            ("198.19.255.255", Kind::Reserved),
            ("198.20.0.0", Kind::Public),
            ("198.51.100.7", Kind::Reserved),
            ("203.0.113.7", Kind::Reserved),
            ("223.255.255.255", Kind::Public),
            ("224.0.0.1", Kind::Multicast),
            ("240.0.0.1", Kind::Reserved),
            ("255.255.255.255", Kind::Reserved),
            ("::", Kind::Unspecified),
            ("::1", Kind::Loopback),
            ("::2", Kind::Embedded),
            ("::127.0.0.1", Kind::Embedded),
            ("::8.8.8.8", Kind::Embedded),
            ("::ffff:127.0.0.1", Kind::Loopback),
            ("::ffff:169.254.169.254", Kind::LinkLocal),
            ("::ffff:8.8.8.8", Kind::Public),
            ("::ffff:0:127.0.0.1", Kind::Embedded),
            ("64:ff9b::127.0.0.1", Kind::Loopback),
            ("64:ff9b::10.0.0.1", Kind::Private),
            ("64:ff9b::8.8.8.8", Kind::Public),
            ("64:ff9b:1::10.0.0.1", Kind::Embedded),
            ("100::1", Kind::Reserved),
            ("2001::1", Kind::Embedded),
            ("2001:20::1", Kind::Reserved),
            ("2001:200::1", Kind::Public),
            ("2001:db8::1", Kind::Reserved),
            ("2002:7f00:1::", Kind::Embedded),
            ("2606:4700::1111", Kind::Public),
            ("2a00:1450::1", Kind::Public),
            ("3fff::1", Kind::Reserved),
            ("4000::1", Kind::Reserved),
            ("5f00::1", Kind::Reserved),
            ("fbff::1", Kind::Reserved),
            ("fc00::1", Kind::Private),
            ("fdaa:0:1::3", Kind::Private),
            ("fe00::1", Kind::Reserved),
            ("fe80::1", Kind::LinkLocal),
            ("febf::1", Kind::LinkLocal),
            ("fec0::1", Kind::Private),
            ("ff02::1", Kind::Multicast),
        ] {
            assert_eq!(kind(text.parse().unwrap()), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_wrapping_makes_an_ipv4_address_more_public(bits: u32) {
            let v4 = Ipv4Addr::from_bits(bits);
            let [a, b, c, d] = v4.octets();
            let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            for v6 in [
                v4.to_ipv6_mapped(),
                Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
                Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, !high, !low),
            ] {
                let public = kind(IpAddr::V6(v6)) == Kind::Public;
                prop_assert!(!public || kind(IpAddr::V4(v4)) == Kind::Public, "{} as {}", v4, v6);
            }
        }

        #[test]
        fn what_is_public_is_so_for_the_standard_library_too(v4: u32, v6: u128) {
            let v4 = Ipv4Addr::from_bits(v4);
            if kind_v4(v4) == Kind::Public {
                prop_assert!(!(v4.is_loopback() || v4.is_private() || v4.is_link_local() || v4.is_multicast()
                    || v4.is_unspecified() || v4.is_broadcast() || v4.is_documentation()));
            }
            let v6 = Ipv6Addr::from_bits(v6);
            if kind_v6(v6) == Kind::Public {
                prop_assert!(!(v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local()
                    || v6.is_multicast() || v6.is_unspecified()));
            }
        }
    }
}

//! How the values of settings are written, where clap has no type for it.

use std::{
    convert::Infallible,
    fmt,
    net::{SocketAddr, ToSocketAddrs},
    ops::RangeInclusive,
    str::FromStr,
};

use clap::{Command, builder::RangedU64ValueParser};
use zeroize::Zeroizing;

/// The text of a key. It prints as nothing.
#[derive(Clone)]
pub struct KeyText(Zeroizing<String>);

impl KeyText {
    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyText {
    // What is wrong with a key is told by who reads it: clap would show the key.
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(Zeroizing::new(text.to_owned())))
    }
}

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyText")
    }
}

/// An address to listen on: an IP address or a name, and a port. Of the addresses of a name the first one counts.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let form = "write an address or a name with a port, such as 127.0.0.1:8080, [::1]:8080 or localhost:8080";
    if text.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
        return Err(form.to_owned());
    }
    let mut found = text.to_socket_addrs().map_err(|error| format!("the name has no address: {error}; {form}"))?;
    found.next().ok_or_else(|| format!("the name has no address; {form}"))
}

/// A count that is no less than what makes sense, and no more than what can be had.
pub(super) fn count(range: RangeInclusive<u64>) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(range)
}

/// The command without the variables that are set to nothing: whoever clears a variable that way wants the default.
pub fn without_empty_variables(mut command: Command) -> Command {
    let is_empty = |name: &std::ffi::OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    let empty: Vec<_> = command.get_arguments().filter(|arg| arg.get_env().is_some_and(is_empty)).collect();
    let empty: Vec<_> = empty.into_iter().map(|arg| arg.get_id().clone()).collect();
    for id in empty {
        command = command.mut_arg(id, |arg| arg.env(None::<&'static str>));
    }
    let names: Vec<_> = command.get_subcommands().map(|subcommand| subcommand.get_name().to_owned()).collect();
    for name in names {
        command = command.mut_subcommand(name, without_empty_variables);
    }
    command
}

/// A share in percent.
pub(super) fn percent(text: &str) -> Result<f64, String> {
    let parsed = text.trim_end_matches('%').parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
    parsed.ok_or_else(|| format!("`{text}` is not in 0..=100"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_a_name_and_what_is_neither_is_told_how_to_write_one() {
        assert_eq!(address("127.0.0.1:0"), Ok(([127, 0, 0, 1], 0).into()));
        assert_eq!(address("[::1]:80").map(|address| address.port()), Ok(80));
        let named = address("localhost:8080").unwrap();
        assert!(named.ip().is_loopback() && named.port() == 8080, "{named}");
        for wrong in ["", "8080", ":8080", "localhost", "localhost:http", "127.0.0.1:99999", "no.such.name.invalid:1"] {
            let why = address(wrong).unwrap_err();
            assert!(why.contains("such as 127.0.0.1:8080"), "{wrong}: {why}");
        }
    }
}

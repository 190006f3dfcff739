//! The value of a secret, while it is in memory.

use std::fmt;

use zeroize::Zeroizing;

/// Longest value, bytes (no setting: servers take no longer header).
const LONGEST: usize = 8 << 10;

/// A value that can stand in a header. It prints as nothing and is wiped when it goes.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Zeroizing<String>);

impl SecretValue {
    /// Shortest value that is looked for in answers, bytes: of shorter ones an answer would be full by chance.
    pub const MASKED_FROM: usize = 8;

    /// Takes a value in.
    ///
    /// # Errors
    /// What is wrong with it, without the value.
    pub fn new(text: String) -> Result<Self, String> {
        let text = Zeroizing::new(text);
        let why = match text.as_bytes() {
            [] => "must not be empty",
            [b' ', ..] | [.., b' '] => "must not begin or end with a blank: no header keeps it",
            bytes if bytes.len() > LONGEST => return Err(format!("is longer than {LONGEST} bytes")),
            bytes if !bytes.iter().all(|byte| (b' '..=b'~').contains(byte)) => {
                "must be one line of printable ASCII: anything else can't stand in a header"
            }
            _ => return Ok(Self(text)),
        };
        Err(why.to_owned())
    }

    /// Takes one from a person: long enough to be masked wherever an upstream repeats it.
    ///
    /// # Errors
    /// What is wrong with it, without the value.
    pub fn set(text: String) -> Result<Self, String> {
        let value = Self::new(text)?;
        if value.0.len() < Self::MASKED_FROM {
            let shortest = Self::MASKED_FROM;
            return Err(format!(
                "is shorter than {shortest} bytes: it could not be masked where an upstream repeats it"
            ));
        }
        Ok(value)
    }

    /// The value. Whoever asks sees to it that it is shown to nobody but the upstream.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_can_stand_in_a_header_and_is_printed_by_nothing() {
        for fine in ["sk-1", "Token a b", "~!\"#", &"x".repeat(LONGEST)] {
            let value = SecretValue::new(fine.to_owned()).unwrap();
            assert_eq!((value.reveal(), format!("{value:?}").as_str()), (fine, "SecretValue"));
        }
        for wrong in ["", " sk-1", "sk-1 ", "sk-1\n", "sk\r\nx-evil: 1", "sk\0", "schlüssel", &"x".repeat(LONGEST + 1)]
        {
            let why = SecretValue::new(wrong.to_owned()).unwrap_err();
            assert!(wrong.trim().is_empty() || !why.contains(wrong.trim()), "{why}");
        }
        assert!(SecretValue::set("sk-1234".into()).unwrap_err().contains("shorter than 8 bytes"));
        assert!(SecretValue::set("sk-12345".into()).is_ok());
    }
}

//! A `Set-Cookie` (RFC 6265, section 5.2), as far as it says where it is for.

/// One, taken apart. Whatever bytes it has stay.
pub(crate) struct Cookie<'a> {
    /// All but what is said of path and domain.
    rest: Vec<u8>,
    /// The path that it states, the last one counts; nothing: the folder of what was asked for (section 5.1.4).
    pub(crate) path: Option<&'a [u8]>,
    /// The domain that it states.
    pub(crate) domain: Option<&'a [u8]>,
}

impl<'a> Cookie<'a> {
    pub(crate) fn read(line: &'a [u8]) -> Self {
        let mut parts = line.split(|byte| *byte == b';');
        let mut cookie = Self { rest: parts.next().unwrap_or_default().to_vec(), path: None, domain: None };
        for part in parts {
            let mut halves = part.splitn(2, |byte| *byte == b'=').map(<[u8]>::trim_ascii);
            let (name, value) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
            if name.eq_ignore_ascii_case(b"path") {
                cookie.path = Some(value).filter(|value| value.starts_with(b"/"));
            } else if name.eq_ignore_ascii_case(b"domain") {
                cookie.domain = Some(value).filter(|value| !value.is_empty());
            } else {
                cookie.rest.push(b';');
                cookie.rest.extend_from_slice(part);
            }
        }
        cookie
    }

    /// It again, for this path.
    pub(crate) fn write(mut self, path: Option<&[u8]>) -> Vec<u8> {
        for (name, value) in [(&b"; Domain="[..], self.domain), (b"; Path=", path)] {
            if let Some(value) = value {
                self.rest.extend_from_slice(name);
                self.rest.extend_from_slice(value);
            }
        }
        self.rest
    }
}

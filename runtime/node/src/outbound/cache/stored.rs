//! What is stored, in memory and in files.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use foyer::{Code, Error, ErrorKind, Result};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use tidegate_core::cache::Answer;

use super::{StoredBody, key};

/// Form of what stands in files; another one is not read.
const FORM: u8 = 1;
/// What an entry takes beside its bytes, about.
const OVERHEAD: usize = 256;

/// What is found by a key.
#[derive(Clone, Debug)]
pub(super) enum Slot {
    Mark(Arc<Mark>),
    Answer(Arc<Stored>),
}

/// The mark of a resource.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mark {
    /// A random number that its answers are found by.
    pub(super) generation: u64,
    /// Headers that they vary by, all together, in order.
    pub(super) vary: Vec<HeaderName>,
    /// Until then equal requests go by themselves, milliseconds since 1970.
    pub(super) pass_until: u64,
}

impl Mark {
    /// One that no answer was found by.
    pub(super) fn new() -> Self {
        Self { generation: rand::random(), vary: Vec::new(), pass_until: 0 }
    }

    /// Whether equal requests go by themselves.
    pub(super) fn passes(&self, now: SystemTime) -> bool {
        millis(now) < self.pass_until
    }

    /// Its answers vary by these, too. Answers that were found without them are not found any more; where it gets too much
    /// at last, it begins anew with these.
    pub(super) fn add(&mut self, vary: Vec<HeaderName>) {
        let mut all = self.vary.clone();
        all.extend(vary.iter().cloned());
        key::order(&mut all);
        self.vary = if all.len() <= 2 * key::VARY { all } else { vary };
    }
}

/// A stored answer.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) status: StatusCode,
    /// Without those of one connection, and without `Age`.
    pub(crate) headers: HeaderMap,
    pub(crate) body: StoredBody,
    /// When it came.
    pub(crate) came: SystemTime,
    /// How it may be used.
    pub(crate) answer: Answer,
}

impl Stored {
    /// How old it is.
    pub(crate) fn age(&self, now: SystemTime) -> Duration {
        // A clock that was put back makes nothing younger than it was.
        self.answer.initial_age.saturating_add(now.duration_since(self.came).unwrap_or_default())
    }
}

/// Milliseconds since 1970.
pub(super) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Slot {
    /// What it takes of the memory.
    pub(super) fn weight(&self) -> usize {
        OVERHEAD
            + match self {
                Self::Mark(mark) => mark.vary.len() * size_of::<HeaderName>(),
                Self::Answer(stored) => {
                    let lines = stored.headers.iter();
                    let lines: usize = lines.map(|(name, value)| name.as_str().len() + value.len() + 64).sum();
                    stored.body.len() + lines
                }
            }
    }
}

/// A slot as it stands in a file.
#[derive(Serialize, Deserialize)]
enum Written<'a> {
    Mark {
        generation: u64,
        #[serde(borrow)]
        vary: Vec<&'a str>,
    },
    Answer {
        status: u16,
        #[serde(borrow)]
        headers: Vec<(&'a str, &'a [u8])>,
        came: u64,
        answer: Answer,
        body: &'a [u8],
    },
}

fn wrong(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Parse, format!("a stored answer can't be read: {why}"))
}

impl Code for Slot {
    fn encode(&self, writer: &mut impl std::io::Write) -> Result<()> {
        let written = match self {
            Self::Mark(mark) => {
                Written::Mark { generation: mark.generation, vary: mark.vary.iter().map(HeaderName::as_str).collect() }
            }
            Self::Answer(stored) => Written::Answer {
                status: stored.status.as_u16(),
                headers: stored.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect(),
                came: millis(stored.came),
                answer: stored.answer,
                body: stored.body.bytes(),
            },
        };
        let bytes = postcard::to_allocvec(&written).map_err(wrong)?;
        writer.write_all(&[FORM]).and_then(|()| writer.write_all(&bytes)).map_err(Error::io_error)
    }

    fn decode(reader: &mut impl std::io::Read) -> Result<Self> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map_err(Error::io_error)?;
        let Some((&FORM, bytes)) = bytes.split_first() else { return Err(wrong("it is of another release")) };
        Ok(match postcard::from_bytes(bytes).map_err(wrong)? {
            Written::Mark { generation, vary } => {
                let vary = vary.into_iter().map(str::parse).collect::<std::result::Result<_, _>>().map_err(wrong)?;
                Self::Mark(Arc::new(Mark { generation, vary, pass_until: 0 }))
            }
            Written::Answer { status, headers, came, answer, body } => {
                let mut map = HeaderMap::new();
                for (name, value) in headers {
                    let value = HeaderValue::from_bytes(value).map_err(wrong)?;
                    map.append(HeaderName::try_from(name).map_err(wrong)?, value);
                }
                Self::Answer(Arc::new(Stored {
                    status: StatusCode::from_u16(status).map_err(wrong)?,
                    headers: map,
                    body: StoredBody::new(Bytes::copy_from_slice(body)),
                    came: SystemTime::UNIX_EPOCH + Duration::from_millis(came.min(u64::from(u32::MAX) * 1000)),
                    answer,
                }))
            }
        })
    }

    fn estimated_size(&self) -> usize {
        self.weight()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Slot> {
        Slot::decode(&mut { bytes })
    }

    fn written(slot: &Slot) -> Vec<u8> {
        let mut bytes = Vec::new();
        slot.encode(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_is_written_reads_the_same() {
        let mut headers = HeaderMap::new();
        for line in ["<a>", "<b>"] {
            headers.append("link", HeaderValue::from_static(line));
        }
        headers.append("x", HeaderValue::from_bytes(b"\xff").unwrap());
        let stored = Stored {
            status: StatusCode::NOT_FOUND,
            headers,
            body: StoredBody::new("body".into()),
            came: SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_000_123),
            answer: Answer { lifetime: Duration::from_secs(5), ..Answer::default() },
        };
        let Slot::Answer(again) = read(&written(&Slot::Answer(Arc::new(stored)))).unwrap() else { panic!() };
        assert_eq!((again.status, again.headers.get_all("link").iter().count()), (StatusCode::NOT_FOUND, 2));
        assert_eq!(written(&Slot::Answer(Arc::clone(&again))), written(&Slot::Answer(again)));
        let mark = Mark { generation: 7, vary: vec![http::header::ACCEPT], pass_until: 0 };
        let Slot::Mark(again) = read(&written(&Slot::Mark(Arc::new(mark.clone())))).unwrap() else { panic!() };
        assert_eq!(*again, mark);
    }

    #[test]
    fn another_form_is_not_read() {
        let mut bytes = written(&Slot::Mark(Arc::new(Mark { generation: 7, vary: vec![], pass_until: 0 })));
        assert!(read(&bytes).is_ok());
        bytes[0] = FORM + 1;
        assert!(read(&bytes).is_err());
        assert!(read(&[]).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(first) = bytes.first_mut() {
                *first = FORM;
            }
            let _ = read(&bytes);
        }
    }
}

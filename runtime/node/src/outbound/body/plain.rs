//! The plain bytes of a small compressed body, for a look inside. What is passed on stays as it came.

use std::io::Read;

use brotli_decompressor::Decompressor;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::{HeaderMap, header};

/// The buffer of a brotli reader, bytes.
const BUFFER: usize = 4 << 10;

/// Why a body stays unread.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum Unread {
    /// More bytes than one looks at.
    #[error("larger than is looked at once it is unpacked")]
    TooLarge,
    /// It is packed in a way that is not unpacked here, or in several.
    #[error("packed as `{0}`, which is not unpacked here")]
    Coding(String),
    /// It can't be unpacked.
    #[error("packed as `{0}`, and can't be unpacked")]
    Broken(String),
}

/// Unpacks a body as its `content-encoding` says, up to `bound` bytes.
///
/// # Errors
/// Why that is not done.
pub(crate) fn plain(headers: &HeaderMap, body: Vec<u8>, bound: u64) -> Result<Vec<u8>, Unread> {
    let codings: Vec<_> = headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .flat_map(|value| value.to_str().unwrap_or("?").split(','))
        .map(|coding| coding.trim().to_ascii_lowercase())
        .filter(|coding| !coding.is_empty() && coding != "identity")
        .collect();
    let packed = body.as_slice();
    match codings.join(", ").as_str() {
        "" => Ok(body),
        coding @ ("gzip" | "x-gzip") => read(MultiGzDecoder::new(packed), bound, coding),
        // RFC 9110 means zlib's format by it, and says itself that some send the bare one.
        coding @ "deflate" => match is_zlib(packed) {
            true => read(ZlibDecoder::new(packed), bound, coding),
            false => read(DeflateDecoder::new(packed), bound, coding),
        },
        coding @ "br" => read(Decompressor::new(packed, BUFFER), bound, coding),
        other => Err(Unread::Coding(other.chars().take(32).collect())),
    }
}

/// Whether it begins as zlib's format does (RFC 1950 section 2.2).
fn is_zlib(packed: &[u8]) -> bool {
    matches!(packed, [method, flags, ..]
        if method & 0x0f == 8 && u16::from_be_bytes([*method, *flags]).is_multiple_of(31))
}

fn read(unpacked: impl Read, bound: u64, coding: &str) -> Result<Vec<u8>, Unread> {
    let mut bytes = Vec::new();
    match unpacked.take(bound.saturating_add(1)).read_to_end(&mut bytes) {
        Ok(read) if read as u64 > bound => Err(Unread::TooLarge),
        Ok(_) => Ok(bytes),
        Err(_) => Err(Unread::Broken(coding.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{
        Compression,
        write::{DeflateEncoder, GzEncoder, ZlibEncoder},
    };
    use proptest::prelude::*;

    use super::*;

    const TEXT: &[u8] = br#"{"error": {"code": "insufficient_quota"}}"#;
    /// The text, and ten million spaces, by another program.
    const BROTLI: &[u8] = &[
        0x1b, 0x28, 0x00, 0x40, 0x8c, 0x93, 0xa5, 0x1e, 0x21, 0xdc, 0x62, 0x84, 0x4a, 0x6f, 0x91, 0xbd, 0xb0, 0xaf,
        0xd9, 0xa7, 0x03, 0x02, 0x1b, 0x70, 0xc0, 0x9c, 0xa6, 0x83, 0x8d, 0x93, 0x9d, 0x0c, 0x4b, 0xa8, 0x30, 0x9f,
        0x44, 0xcd, 0xa5, 0xe1, 0xdc, 0xbb, 0x73, 0x7a, 0x00,
    ];
    const BROTLI_BOMB: &[u8] = &[
        0xcb, 0xff, 0xff, 0x3f, 0xf8, 0x25, 0x40, 0xe2, 0xb1, 0x40, 0x20, 0xf7, 0xfe, 0x2f, 0xff, 0x2c, 0x31, 0xf0,
        0x4b, 0x00, 0xc4, 0x61, 0x11, 0x80, 0x8e, 0x23, 0x06,
    ];

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut packed = ZlibEncoder::new(Vec::new(), Compression::default());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    fn deflate(bytes: &[u8]) -> Vec<u8> {
        let mut packed = DeflateEncoder::new(Vec::new(), Compression::default());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    fn unpack(coding: &str, packed: &[u8], bound: u64) -> Result<Vec<u8>, Unread> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, coding.parse().unwrap());
        plain(&headers, packed.to_vec(), bound)
    }

    #[test]
    fn what_clients_ask_for_is_unpacked() {
        for (coding, packed) in [
            ("gzip", gzip(TEXT)),
            ("X-GZIP", gzip(TEXT)),
            ("deflate", zlib(TEXT)),
            ("deflate", deflate(TEXT)),
            ("br", BROTLI.to_vec()),
            ("identity", TEXT.to_vec()),
            ("identity, gzip", gzip(TEXT)),
            ("", TEXT.to_vec()),
        ] {
            assert_eq!(unpack(coding, &packed, TEXT.len() as u64).as_deref(), Ok(TEXT), "{coding}");
        }
        assert_eq!(plain(&HeaderMap::new(), TEXT.to_vec(), 10).as_deref(), Ok(TEXT));
    }

    #[test]
    fn what_grows_beyond_the_bound_or_is_no_such_thing_stays_unread() {
        let spaces = vec![b' '; 10_000_000];
        for (coding, packed) in [
            ("gzip", gzip(&spaces)),
            ("deflate", zlib(&spaces)),
            ("deflate", deflate(&spaces)),
            ("br", BROTLI_BOMB.to_vec()),
        ] {
            assert_eq!(unpack(coding, &packed, 16 << 10), Err(Unread::TooLarge), "{coding}");
        }
        for coding in ["gzip", "deflate", "br"] {
            assert_eq!(unpack(coding, b"\x01no such thing", 16 << 10), Err(Unread::Broken(coding.into())), "{coding}");
        }
        assert_eq!(unpack("gzip", &gzip(TEXT)[..20], 100), Err(Unread::Broken("gzip".into())));
        assert_eq!(unpack("zstd", b"", 100), Err(Unread::Coding("zstd".into())));
        assert_eq!(unpack("gzip, br", b"", 100), Err(Unread::Coding("gzip, br".into())));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, coding in "gzip|deflate|br") {
            let _ = unpack(&coding, &bytes, 1 << 10);
        }
    }
}

//! Entity tags: the registry's revision of a record's last change.

use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::problems::bad_request;
use crate::problem::Problem;

/// The tag of a revision.
pub(super) fn tag(revision: u64) -> (header::HeaderName, HeaderValue) {
    // Digits in quotes are always a header value.
    let value = HeaderValue::from_str(&format!("\"{revision}\"")).unwrap_or(HeaderValue::from_static("\"0\""));
    (header::ETAG, value)
}

/// What the caller insists on: the revision in `If-Match`, or that there is none yet (`If-None-Match: *` is 0).
pub(super) fn expected(headers: &HeaderMap, is: Option<u64>) -> Result<Option<u64>, Problem> {
    if let Some(value) = headers.get(header::IF_MATCH) {
        let text = value.to_str().unwrap_or_default().trim();
        return match text {
            // Any state will do, as long as there is one: what is there now.
            "*" => match is {
                Some(_) => Ok(is),
                None => {
                    let detail = "If-Match: * asks for something that is there already, and there is nothing yet";
                    let title = "There is no such thing";
                    Err(Problem::new(StatusCode::PRECONDITION_FAILED, "changed-meanwhile", title, detail)
                        .member("revision", 0))
                }
            },
            text => {
                let number = text.trim_start_matches("W/").trim_matches('"').parse::<u64>();
                number.map(Some).map_err(|_| bad_request("If-Match holds one entity tag, as an ETag gave it"))
            }
        };
    }
    match headers.get(header::IF_NONE_MATCH).map(HeaderValue::as_bytes) {
        None => Ok(None),
        Some(b"*") => Ok(Some(0)),
        Some(_) => Err(bad_request("If-None-Match is understood as `*` only: there must be none yet")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_become_the_revision_that_is_insisted_on() {
        let of = |name: header::HeaderName, value: &'static str| {
            expected(&HeaderMap::from_iter([(name, HeaderValue::from_static(value))]), Some(5))
        };
        assert_eq!(of(header::IF_MATCH, "\"7\"").unwrap(), Some(7));
        assert_eq!(of(header::IF_MATCH, "*").unwrap(), Some(5));
        let absent = HeaderMap::from_iter([(header::IF_MATCH, HeaderValue::from_static("*"))]);
        assert_eq!(expected(&absent, None).unwrap_err().status, StatusCode::PRECONDITION_FAILED);
        assert_eq!(of(header::IF_NONE_MATCH, "*").unwrap(), Some(0));
        assert_eq!(expected(&HeaderMap::new(), Some(5)).unwrap(), None);
        assert!(of(header::IF_MATCH, "\"x\"").is_err());
        assert!(of(header::IF_NONE_MATCH, "\"7\"").is_err());
    }
}

//! Where the collector is, and what it wants to be told: our settings, else the standard variables.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};

/// A collector.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
}

/// Why a collector can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// It is no URL.
    #[error("`{0}` is no URL of a collector, such as http://127.0.0.1:4318")]
    Url(String),
    /// Its headers can't be read. What they say is not repeated: keys stand there.
    #[error("headers are written NAME=VALUE,NAME=VALUE with values percent-encoded; part {0} is not")]
    Header(usize),
}

/// The path of traces below a collector's address.
const TRACES: &str = "/v1/traces";

impl Endpoint {
    /// A collector at this address, told these headers.
    ///
    /// # Errors
    /// [`EndpointError`].
    pub fn new(url: &str, headers: &str) -> Result<Self, EndpointError> {
        let wrong = || EndpointError::Url(url.to_owned());
        let base = url.trim_end_matches('/');
        let whole = if base.ends_with(TRACES) { base.to_owned() } else { format!("{base}{TRACES}") };
        let uri: Uri = whole.parse().map_err(|_| wrong())?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
            return Err(wrong());
        }
        let mut map = HeaderMap::new();
        for (index, pair) in headers.split(',').enumerate().filter(|(_, pair)| !pair.trim().is_empty()) {
            let wrong = || EndpointError::Header(index + 1);
            let (name, value) = pair.split_once('=').ok_or_else(wrong)?;
            let value = percent_encoding::percent_decode_str(value.trim()).decode_utf8().map_err(|_| wrong())?;
            let name = HeaderName::try_from(name.trim()).map_err(|_| wrong())?;
            let mut value = HeaderValue::try_from(&*value).map_err(|_| wrong())?;
            value.set_sensitive(true);
            map.insert(name, value);
        }
        Ok(Self { uri, headers: map })
    }

    /// The collector that the settings name, else that of the variables which all exporters read. None: no export.
    ///
    /// # Errors
    /// [`EndpointError`].
    pub fn find(
        endpoint: Option<&str>,
        headers: Option<&str>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, EndpointError> {
        let variable = |name: &str| variable(name).filter(|text| !text.trim().is_empty());
        let of_traces = variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        let url = endpoint.map(str::to_owned).or(of_traces).or_else(|| variable("OTEL_EXPORTER_OTLP_ENDPOINT"));
        let Some(url) = url else { return Ok(None) };
        let headers = headers
            .map(str::to_owned)
            .or_else(|| variable("OTEL_EXPORTER_OTLP_TRACES_HEADERS"))
            .or_else(|| variable("OTEL_EXPORTER_OTLP_HEADERS"));
        Self::new(&url, headers.as_deref().unwrap_or_default()).map(Some)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A user name and a key may stand in front of the host, and a key in the query.
        let (scheme, host) = (self.uri.scheme_str().unwrap_or_default(), self.uri.host().unwrap_or_default());
        write!(f, "{scheme}://{host}")?;
        match self.uri.port_u16() {
            Some(port) => write!(f, ":{port}{}", self.uri.path()),
            None => f.write_str(self.uri.path()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_traces_is_added_where_it_is_not_said() {
        for (url, shown) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("https://otlp.example/", "https://otlp.example/v1/traces"),
            ("https://otlp.example/tenant/v1/traces", "https://otlp.example/tenant/v1/traces"),
            ("https://name:secret@otlp.example", "https://otlp.example/v1/traces"),
        ] {
            assert_eq!(Endpoint::new(url, "").unwrap().to_string(), shown);
        }
        for wrong in ["", "collector:4317", "ftp://a", "http://"] {
            assert_eq!(Endpoint::new(wrong, "").unwrap_err(), EndpointError::Url(wrong.into()));
        }
    }

    #[test]
    fn headers_are_read_as_the_standard_writes_them_and_never_repeated_in_errors() {
        let endpoint = Endpoint::new("http://a", "x-key=a%20b, x-other = c%3Dd,").unwrap();
        assert_eq!(
            (&endpoint.headers["x-key"], &endpoint.headers["x-other"]),
            (&"a b".parse().unwrap(), &"c=d".parse().unwrap())
        );
        let error = Endpoint::new("http://a", "x-key=a,SECRET").unwrap_err();
        assert_eq!(error, EndpointError::Header(2));
        assert!(!format!("{endpoint:?}").contains("a b"));
    }

    #[test]
    fn our_settings_come_before_the_standard_variables() {
        let variables = |name: &str| match name {
            "OTEL_EXPORTER_OTLP_ENDPOINT" => Some("http://standard:4318".to_owned()),
            "OTEL_EXPORTER_OTLP_HEADERS" => Some("x-key=standard".to_owned()),
            _ => None,
        };
        let found = |endpoint, headers| Endpoint::find(endpoint, headers, variables).unwrap().unwrap();
        assert_eq!(found(None, None).uri.host(), Some("standard"));
        assert_eq!(found(None, None).headers["x-key"], "standard");
        assert_eq!(found(Some("http://own"), Some("x-key=own")).headers["x-key"], "own");
        assert_eq!(found(Some("http://own"), None).uri.host(), Some("own"));
        assert!(Endpoint::find(None, None, |_| None).unwrap().is_none());
    }
}

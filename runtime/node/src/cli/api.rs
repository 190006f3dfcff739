//! The control API, as commands use it.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use hyper::body::Incoming;
use serde_json::Value;
use url::{Host, Url};

use super::{
    failure::{Exit, Failure},
    http as client,
    output::{Out, note},
    profiles::{self, Profiles},
    target::{self, ClientArgs, LOCAL_CONTROL, LOCAL_GATE, Target},
};
use crate::body::{self, Body};

/// A server's control API.
pub(super) struct Api {
    target: Target,
    /// Where results go.
    pub(super) out: Out,
}

impl Api {
    /// Finds the server that the arguments mean. Nothing is sent yet.
    pub(super) fn new(args: &ClientArgs, out: Out) -> Result<Self, Failure> {
        // Without a home there are no profiles, and with both flags given nobody misses them.
        let profiles = match profiles::path() {
            Ok(path) => Profiles::load(&path)?,
            Err(_) => Profiles::default(),
        };
        let target = target::resolve(args, &profiles, &std::env::current_dir()?)?;
        if args.verbose {
            note(&target.from);
        }
        Ok(Self { target, out })
    }

    /// The API of a known server.
    pub(super) fn of(target: Target, out: Out) -> Self {
        Self { target, out }
    }

    /// The data listener, where the profile names it.
    pub(super) fn configured_gate(&self) -> Option<Url> {
        self.target.gate.clone()
    }

    /// Makes the `urls` of a function usable from here: a node that listens on every address says no more than that, but
    /// it can be reached where its control listener was.
    pub(super) fn reachable(&self, mut function: Value) -> Value {
        for url in function.get_mut("urls").and_then(Value::as_array_mut).into_iter().flatten() {
            let seen = url.as_str().and_then(|url| seen_from(&self.target.url, url));
            if let Some(seen) = seen {
                *url = Value::String(seen);
            }
        }
        function
    }

    /// The data listener that usually goes with a local control listener at the usual place.
    pub(super) fn usual_gate(&self) -> Option<Url> {
        let is_usual = self.target.url.as_str().trim_end_matches('/') == LOCAL_CONTROL;
        is_usual.then(|| LOCAL_GATE.parse().ok()).flatten()
    }

    /// The token, for requests to the data listener.
    pub(super) fn token(&self) -> Option<&str> {
        self.target.token.as_deref()
    }

    /// Sends a request and returns the answer if it is a success; `doing` begins the sentence of a failure.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Body,
        doing: &str,
    ) -> Result<Response<Incoming>, Failure> {
        let base = self.target.url.as_str().trim_end_matches('/');
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = format!("{base}{path}")
            .parse()
            .map_err(|error| Failure::new(Exit::Usage, format!("{doing}: `{base}{path}` is no URL: {error}")))?;
        *request.headers_mut() = headers;
        request.headers_mut().entry(header::ACCEPT).or_insert(HeaderValue::from_static("application/json"));
        if let Some(token) = self.token() {
            request.headers_mut().insert(header::AUTHORIZATION, header_value(&format!("Bearer {token}"))?);
        }
        let answer = client::send(request).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let body = client::read(answer.into_body()).await.unwrap_or_default();
        Err(Failure::from_answer(status, &body, doing))
    }

    /// Sends a request with an optional JSON body and reads the JSON answer; none is null.
    pub(super) async fn json(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        doing: &str,
    ) -> Result<Value, Failure> {
        let mut headers = HeaderMap::new();
        let body = match body {
            Some(value) => {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                body::full(value.to_string())
            }
            None => body::empty(),
        };
        let answer = self.send(method, path, headers, body, doing).await?;
        parse(&client::read(answer.into_body()).await?, doing)
    }

    /// `GET` of a JSON resource.
    pub(super) async fn get(&self, path: &str, doing: &str) -> Result<Value, Failure> {
        self.json(Method::GET, path, None, doing).await
    }
}

/// The URL with the control listener's host, where it names an unspecified address.
fn seen_from(control: &Url, url: &str) -> Option<String> {
    let mut url = Url::parse(url).ok()?;
    let is_unspecified = match url.host()? {
        Host::Ipv4(ip) => ip.is_unspecified(),
        Host::Ipv6(ip) => ip.is_unspecified(),
        Host::Domain(_) => false,
    };
    if !is_unspecified {
        return None;
    }
    url.set_host(control.host_str()).ok()?;
    Some(url.into())
}

/// Reads an answer as JSON.
pub(super) fn parse(bytes: &Bytes, doing: &str) -> Result<Value, Failure> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(bytes).map_err(|error| {
        Failure::new(Exit::Failed, format!("{doing}: the answer is no JSON: {error}"))
            .next("is this really a control listener? --url names it")
    })
}

/// A token, or text with one, as a header's value.
pub(super) fn header_value(text: &str) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| Failure::new(Exit::Usage, "the token holds characters that no token has"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A path segment with everything escaped that could change the path.
pub(super) fn segment(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
        .to_string()
        .replace("%2D", "-")
        .replace("%5F", "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unspecified_address_is_replaced_by_where_the_node_was_reached() {
        for (control, url, seen) in [
            ("http://10.0.0.7:8081", "http://0.0.0.0:8080/f/a/", Some("http://10.0.0.7:8080/f/a/")),
            ("http://node.example:8081", "http://[::]:8080/", Some("http://node.example:8080/")),
            ("http://[::1]:8081", "http://0.0.0.0:8080/", Some("http://[::1]:8080/")),
            ("http://10.0.0.7:8081", "http://127.0.0.1:8080/f/a/", None),
            ("http://10.0.0.7:8081", "http://a.example/", None),
        ] {
            assert_eq!(seen_from(&control.parse().unwrap(), url).as_deref(), seen, "{url}");
        }
    }
}

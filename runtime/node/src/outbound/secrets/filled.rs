//! What is laid over a request as it leaves, by where it goes.

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use tidegate_core::endpoint::{Mask, Ways};
use zeroize::Zeroizing;

use super::{
    fill::{AsMade, with_query},
    table::SecretTable,
    withheld::Withheld,
};
use crate::{
    cluster::registry::CREDENTIALS,
    ids::SecretName,
    outbound::destinations::{Api, Endpoint},
    problem::Problem,
    secrets::SecretValue,
};

/// What stands for a query that only an endpoint is given, where answers are told apart. Never sent.
const OWN_QUERY: HeaderName = HeaderName::from_static("tidegate-own-query");

/// What is laid over the attempts of a request: it holds values, and prints as nothing.
pub(crate) struct Filled {
    generation: u64,
    /// Wherever nothing else is said.
    usual: Laid,
    /// At endpoints with a secret of their own: that in the place of the usual, or why nothing may go there.
    own: Vec<(u64, Result<Laid, Withheld>)>,
    written: Written,
}

/// Values in their places.
#[derive(Default)]
pub(crate) struct Laid {
    /// Headers with all the values that they have from now on.
    headers: Vec<(HeaderName, Vec<HeaderValue>)>,
    uri: Option<Uri>,
    /// Which secret was put where, for the trail.
    told: Vec<String>,
}

/// Values, as they were written, and what stands for each in an answer that repeats it.
#[derive(Default)]
pub(super) struct Written(Vec<(Zeroizing<Vec<u8>>, String)>);

impl Written {
    pub(super) fn wrote(&mut self, secret: &SecretName, written: &[u8]) {
        let known = self.0.iter().any(|(known, _)| known.as_slice() == written);
        if written.len() >= SecretValue::MASKED_FROM && !known {
            self.0.push((Zeroizing::new(written.to_vec()), format!("[secret {secret}]")));
        }
    }
}

impl Laid {
    /// No key that whoever sends brought along.
    pub(super) fn without_credentials(api: &Api, made: AsMade<'_>) -> Self {
        let AsMade { headers, uri, .. } = made;
        let mut laid = Self::default();
        let own = CREDENTIALS.iter().chain(api.key_headers()).filter(|name| headers.contains_key(*name));
        own.for_each(|name| laid.set(name.clone(), Vec::new()));
        if let Some(query) = uri.query() {
            let others = api.without_keys(query, None);
            laid.uri = (others != query).then(|| with_query(uri, &others)).flatten();
        }
        laid
    }

    pub(super) fn set(&mut self, name: HeaderName, values: Vec<HeaderValue>) {
        self.headers.retain(|(other, _)| *other != name);
        self.headers.push((name, values));
    }

    pub(super) fn lead(&mut self, uri: Uri) {
        self.uri = Some(uri);
    }

    pub(super) fn tell(&mut self, secret: &SecretName, place: &str) {
        let told = format!("secret {secret} put into {place}");
        if !self.told.contains(&told) {
            self.told.push(told);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.headers.is_empty() && self.uri.is_none()
    }

    /// Lays the values over the headers.
    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        for (name, values) in &self.headers {
            headers.remove(name);
            for value in values {
                headers.append(name, value.clone());
            }
        }
    }

    /// The URI with the values, where it has any.
    pub(crate) fn uri(&self) -> Option<&Uri> {
        self.uri.as_ref()
    }

    /// Which secret was put where, for the trail.
    pub(crate) fn told(&self) -> &[String] {
        &self.told
    }
}

impl Filled {
    pub(super) fn new(table: &SecretTable, usual: Laid, written: Written) -> Self {
        Self { generation: table.generation, usual, own: Vec::new(), written }
    }

    /// With what endpoints are given in the place of the usual.
    pub(super) fn with(self, own: Vec<(u64, Result<Laid, Withheld>)>) -> Self {
        Self { own, ..self }
    }

    /// Whether no secret changed since.
    pub(crate) fn is_of(&self, table: &SecretTable) -> bool {
        self.generation == table.generation
    }

    /// What the destination limits by and what its answers are told apart by, whichever endpoint they come from.
    pub(crate) fn usual(&self) -> &Laid {
        &self.usual
    }

    /// What is laid over a request to this endpoint. Nothing may go where it is an error.
    pub(crate) fn of_endpoint(&self, id: u64) -> Result<&Laid, Box<Problem>> {
        match self.own.iter().find(|(endpoint, _)| *endpoint == id) {
            None => Ok(&self.usual),
            Some((_, own)) => own.as_ref().map_err(|withheld| Box::new(withheld.clone().into())),
        }
    }

    /// Whether endpoints are given different secrets.
    pub(crate) fn differs(&self) -> bool {
        !self.own.is_empty()
    }

    /// Those of the ways that no withheld secret closes.
    ///
    /// # Errors
    /// Why the first of them is closed, where all are.
    pub(crate) fn open(&self, ways: Ways, endpoints: &[Endpoint]) -> Result<Ways, Box<Problem>> {
        if self.own.iter().all(|(_, own)| own.is_ok()) {
            return Ok(ways);
        }
        let (mut open, mut first) = (Mask::NONE, None);
        for (index, endpoint) in (0u8..).zip(endpoints).filter(|(index, _)| ways.allowed.has(*index)) {
            match self.of_endpoint(endpoint.id) {
                Ok(_) => open = open.with(index),
                Err(problem) => first = first.or(Some(problem)),
            }
        }
        match first.filter(|_| open == Mask::NONE) {
            Some(problem) => Err(problem),
            None => Ok(Ways { allowed: open, ..ways }),
        }
    }

    /// What those endpoints are called that a withheld secret closes, each with the reason.
    pub(crate) fn closed<'a>(&'a self, endpoints: &'a [Endpoint]) -> impl Iterator<Item = String> + 'a {
        let closed = self.own.iter().filter_map(|(id, own)| Some((id, own.as_ref().err()?)));
        closed.filter_map(|(id, withheld)| {
            let endpoint = endpoints.iter().find(|endpoint| endpoint.id == *id)?;
            Some(format!("endpoint {} is left out: {}", endpoint.name, withheld.detail()))
        })
    }

    /// Adds to the headers of a request whatever else its answer may be an answer to: keys that some endpoints are given.
    pub(crate) fn tell_apart(&self, headers: &mut HeaderMap) {
        for laid in self.own.iter().filter_map(|(_, own)| own.as_ref().ok()) {
            for (name, values) in &laid.headers {
                for value in values {
                    headers.append(name, value.clone());
                }
            }
            if let Some(value) = laid.uri().and_then(|uri| sensitive(uri.query()?.as_bytes())) {
                headers.append(OWN_QUERY, value);
            }
        }
    }

    /// Takes the values out of an answer's headers: an upstream that repeats what it was sent must not teach its sender.
    pub(crate) fn mask(&self, headers: &mut HeaderMap) {
        // A name has no room for what stands there instead.
        let holds = |name: &HeaderName| {
            self.written.0.iter().any(|(written, _)| position_in_any_case(name.as_str().as_bytes(), written).is_some())
        };
        let named: Vec<HeaderName> = headers.keys().filter(|name| holds(name)).cloned().collect();
        for name in named {
            headers.remove(name);
        }
        for value in headers.values_mut() {
            for (written, stands) in &self.written.0 {
                if let Some(masked) = replaced(value.as_bytes(), written, stands.as_bytes()) {
                    *value = HeaderValue::from_bytes(&masked).unwrap_or_else(|_| HeaderValue::from_static(""));
                }
            }
        }
    }
}

/// A header's value that no table of HTTP/2 keeps and no `Debug` shows.
pub(super) fn sensitive(bytes: &[u8]) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_bytes(bytes).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Where a text holds another, be it in other letters: who repeats a key in capitals shows it.
fn position_in_any_case(text: &[u8], wanted: &[u8]) -> Option<usize> {
    let mut windows = text.windows(wanted.len().max(1));
    windows.position(|window| window.eq_ignore_ascii_case(wanted))
}

/// A text with `new` wherever it holds `old` in any case; nothing where it does not.
fn replaced(text: &[u8], old: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    let (mut rest, mut whole) = (text, Vec::new());
    while let Some(at) = position_in_any_case(rest, old) {
        let (before, after) = rest.split_at(at);
        whole.extend_from_slice(before);
        whole.extend_from_slice(new);
        rest = after.get(old.len()..).unwrap_or_default();
    }
    if rest.len() == text.len() {
        return None;
    }
    whole.extend_from_slice(rest);
    Some(whole)
}

//! Handles become values, for one request.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header, uri::PathAndQuery};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

use super::{
    Template,
    filled::{Filled, Laid, Written, sensitive},
    table::{Permitted, SecretTable},
    withheld::{Stands, Withheld},
};
use crate::{
    cluster::registry::Place,
    ids::{FunctionName, SecretName},
    outbound::{
        Origin, Sender, SenderKind,
        destinations::{Destination, Endpoint, Injection},
    },
    problem::Problem,
    secrets::Handles,
};

/// What stands as it is in a query.
const IN_QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The head of a request as its sender made it.
#[derive(Clone, Copy)]
pub(crate) struct AsMade<'a> {
    pub(crate) method: &'a Method,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) uri: &'a Uri,
}

/// What a request of this sender to this destination must be filled with; nothing where no secret is in it.
pub(crate) fn fill(
    table: &SecretTable,
    sender: &Sender,
    destination: &Destination,
    origin: &Origin,
    made: AsMade<'_>,
) -> Result<Option<Arc<Filled>>, Box<Problem>> {
    let method = made.method;
    let filling = Filling { table, destination, origin, method, laid: Laid::default(), written: Written::default() };
    let filled = match &sender.kind {
        SenderKind::Function { name, handles, .. } if !handles.is_empty() => {
            filling.of_function(Issued { function: name, handles }, made)
        }
        SenderKind::Program { .. } => filling.of_program(made),
        SenderKind::Function { .. } => return Ok(None),
    };
    filled.map_err(|withheld| Box::new(withheld.into()))
}

/// A header's line. It is made of what were headers' values and of values that can stand in one.
fn line(text: &[u8]) -> HeaderValue {
    sensitive(text).unwrap_or_else(|| HeaderValue::from_static(""))
}

struct Filling<'a> {
    table: &'a SecretTable,
    destination: &'a Destination,
    origin: &'a Origin,
    method: &'a Method,
    laid: Laid,
    written: Written,
}

/// The function that sends, and the handles its version was issued.
#[derive(Clone, Copy)]
struct Issued<'a> {
    function: &'a FunctionName,
    handles: &'a Handles,
}

impl<'a> Filling<'a> {
    fn of_function(mut self, issued: Issued<'_>, made: AsMade<'_>) -> Result<Option<Arc<Filled>>, Withheld> {
        let (AsMade { method, headers, uri }, handles) = (made, issued.handles);
        let authority = uri.authority().map_or(&[][..], |authority| authority.as_str().as_bytes());
        let names = headers.keys().map(|name| (name.as_str().as_bytes(), "the name of a header"));
        let apart = [
            (method.as_str().as_bytes(), "the method"),
            (authority, "the host"),
            (uri.path().as_bytes(), "the path of the URL"),
        ];
        for (text, place) in apart.into_iter().chain(names) {
            if let Some((_, secret)) = handles.find(text) {
                let permitted = self.permitted(Some(issued), secret)?;
                return Err(stands(&permitted, Stands::Apart(place)));
            }
        }
        for name in headers.keys() {
            let mut values = Vec::new();
            let mut changed = false;
            for value in headers.get_all(name) {
                let filled = match basic(name, value).filter(|decoded| handles.find(decoded).is_some()) {
                    Some(decoded) => Some(self.basic(issued, &decoded)?),
                    None => self.text(issued, value.as_bytes(), &Place::Header(name.clone()))?,
                };
                changed |= filled.is_some();
                values.push(filled.map_or_else(|| value.clone(), |filled| line(&filled)));
            }
            if changed {
                self.laid.set(name.clone(), values);
            }
        }
        if let Some(query) = uri.query().filter(|query| handles.find(query.as_bytes()).is_some()) {
            self.query(issued, query, uri)?;
        }
        if self.laid.is_empty() {
            return Ok(None);
        }
        Ok(Some(Arc::new(Filled::new(self.table, self.laid, self.written))))
    }

    /// A text with values for handles; nothing where it holds none.
    fn text(&mut self, issued: Issued<'_>, text: &[u8], place: &Place) -> Result<Option<Zeroizing<Vec<u8>>>, Withheld> {
        let mut rest = text;
        let mut filled = None;
        while let Some((at, secret)) = issued.handles.find(rest) {
            let permitted = self.at(issued, secret, place)?;
            let (before, after) = rest.split_at(at.start);
            let filled = filled.get_or_insert_with(|| Zeroizing::new(Vec::with_capacity(text.len())));
            filled.extend_from_slice(before);
            filled.extend_from_slice(permitted.value.reveal().as_bytes());
            self.written.wrote(secret, permitted.value.reveal().as_bytes());
            self.laid.tell(secret, name_of(place));
            rest = after.get(at.len()..).unwrap_or_default();
        }
        if let Some(filled) = &mut filled {
            filled.extend_from_slice(rest);
        }
        Ok(filled)
    }

    /// `user:password` of which one is a handle, encoded again.
    fn basic(&mut self, issued: Issued<'_>, decoded: &[u8]) -> Result<Zeroizing<Vec<u8>>, Withheld> {
        let place = Place::Header(header::AUTHORIZATION);
        let mut whole = Zeroizing::new(Vec::with_capacity(decoded.len()));
        let mut last = None;
        for (index, part) in decoded.splitn(2, |byte| *byte == b':').enumerate() {
            if index > 0 {
                whole.push(b':');
            }
            let Some((at, secret)) = issued.handles.find(part) else {
                whole.extend_from_slice(part);
                continue;
            };
            let permitted = self.at(issued, secret, &place)?;
            if at != (0..part.len()) {
                return Err(stands(&permitted, Stands::Basic));
            }
            whole.extend_from_slice(permitted.value.reveal().as_bytes());
            self.written.wrote(secret, permitted.value.reveal().as_bytes());
            self.laid.tell(secret, name_of(&place));
            last = Some(secret);
        }
        let encoded = Zeroizing::new(STANDARD.encode(&*whole));
        if let Some(secret) = last {
            self.written.wrote(secret, encoded.as_bytes());
        }
        Ok(Zeroizing::new([b"Basic ", encoded.as_bytes()].concat()))
    }

    fn query(&mut self, issued: Issued<'_>, query: &str, uri: &Uri) -> Result<(), Withheld> {
        let mut whole = Zeroizing::new(String::with_capacity(query.len()));
        let mut last = None;
        for pair in query.split('&') {
            if !whole.is_empty() {
                whole.push('&');
            }
            let Some((_, secret)) = issued.handles.find(pair.as_bytes()) else {
                whole.push_str(pair);
                continue;
            };
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let is_whole = issued.handles.find(value.as_bytes()).is_some_and(|(at, _)| at == (0..value.len()));
            if !is_whole || issued.handles.find(name.as_bytes()).is_some() {
                let permitted = self.permitted(Some(issued), secret)?;
                return Err(stands(&permitted, Stands::Query));
            }
            let place = Place::Query(name.to_owned());
            let permitted = self.at(issued, secret, &place)?;
            let encoded = Zeroizing::new(utf8_percent_encode(permitted.value.reveal(), IN_QUERY).to_string());
            for part in [name, "=", &encoded] {
                whole.push_str(part);
            }
            self.written.wrote(secret, permitted.value.reveal().as_bytes());
            self.written.wrote(secret, encoded.as_bytes());
            self.laid.tell(secret, &format!("the query as {name}"));
            last = Some(secret);
        }
        if let Some(secret) = last {
            self.laid.lead(with_query(uri, &whole).ok_or_else(|| too_long(secret))?);
        }
        Ok(())
    }

    /// Endpoints with a secret of their own are given that one, and no other is. What keeps one of them from its secret
    /// closes that endpoint alone.
    fn of_program(mut self, made: AsMade<'_>) -> Result<Option<Arc<Filled>>, Withheld> {
        let destination = self.destination;
        let endpoints = || destination.endpoints.iter();
        let differs = endpoints().any(|endpoint| endpoint.injection.is_some());
        let usual = match &destination.injection {
            _ if differs && endpoints().all(|endpoint| endpoint.injection.is_some()) => {
                Ok(Laid::without_credentials(&destination.api, made))
            }
            Some(injection) => self.injected(injection, made),
            None if differs => Ok(Laid::default()),
            None => return Ok(None),
        };
        if !differs {
            return Ok(Some(Arc::new(Filled::new(self.table, usual?, self.written))));
        }
        let closed = |endpoint: &Endpoint| Some((endpoint.id, Err(usual.as_ref().err()?.clone())));
        let own = endpoints().filter_map(|endpoint| match &endpoint.injection {
            Some(injection) => Some((endpoint.id, self.injected(injection, made))),
            None => closed(endpoint),
        });
        let own = own.collect();
        let usual = usual.unwrap_or_else(|_| Laid::without_credentials(&destination.api, made));
        Ok(Some(Arc::new(Filled::new(self.table, usual, self.written).with(own))))
    }

    /// A request with a secret in it, and none of its sender's own keys: two would be one too many.
    fn injected(&mut self, injection: &Injection, made: AsMade<'_>) -> Result<Laid, Withheld> {
        let (AsMade { uri, .. }, Injection { secret, template }) = (made, injection);
        let permitted = self.permitted(None, secret)?;
        if !template.keeps_to(&permitted.record.binding.places) {
            return Err(stands(&permitted, Stands::Injected(template.place())));
        }
        let value = permitted.value;
        let api = &self.destination.api;
        let mut laid = Laid::without_credentials(api, made);
        self.written.wrote(secret, value.reveal().as_bytes());
        match template {
            Template::Header { name, before, after } => {
                let text = Zeroizing::new([before, value.reveal(), after].concat());
                laid.set(name.clone(), vec![line(text.as_bytes())]);
                laid.tell(secret, name.as_str());
            }
            Template::Query { name } => {
                let encoded = Zeroizing::new(utf8_percent_encode(value.reveal(), IN_QUERY).to_string());
                let mut whole = Zeroizing::new(api.without_keys(uri.query().unwrap_or_default(), Some(name)));
                if !whole.is_empty() {
                    whole.push('&');
                }
                for part in [name, "=", &encoded] {
                    whole.push_str(part);
                }
                self.written.wrote(secret, encoded.as_bytes());
                laid.tell(secret, &format!("the query as {name}"));
                laid.lead(with_query(uri, &whole).ok_or_else(|| too_long(secret))?);
            }
        }
        Ok(laid)
    }

    fn permitted(&self, issued: Option<Issued<'_>>, secret: &SecretName) -> Result<Permitted<'a>, Withheld> {
        let function = issued.map(|issued| issued.function);
        let permitted = self.table.permitted(secret, function, self.destination, self.origin)?;
        // The answer to TRACE is the request.
        if *self.method == Method::TRACE { Err(stands(&permitted, Stands::Trace)) } else { Ok(permitted) }
    }

    /// The secret, where it may stand in this place.
    fn at(&self, issued: Issued<'_>, secret: &SecretName, place: &Place) -> Result<Permitted<'a>, Withheld> {
        let permitted = self.permitted(Some(issued), secret)?;
        match permitted.record.binding.places.contains(place) {
            true => Ok(permitted),
            false => Err(stands(&permitted, Stands::At(place.clone()))),
        }
    }
}

fn stands(permitted: &Permitted<'_>, stands: Stands) -> Withheld {
    let record = permitted.record;
    Withheld::Place { secret: record.name.clone(), stands, places: record.binding.places.clone() }
}

fn too_long(secret: &SecretName) -> Withheld {
    Withheld::Place { secret: secret.clone(), stands: Stands::TooLong, places: Vec::new() }
}

fn name_of(place: &Place) -> &str {
    match place {
        Place::Header(name) => name.as_str(),
        Place::Query(name) => name,
    }
}

/// What `Authorization: Basic` holds.
fn basic(name: &HeaderName, value: &HeaderValue) -> Option<Vec<u8>> {
    let (scheme, encoded) = value.to_str().ok().filter(|_| name == header::AUTHORIZATION)?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    STANDARD.decode(encoded.trim_ascii()).ok()
}

pub(super) fn with_query(uri: &Uri, query: &str) -> Option<Uri> {
    let mut parts = uri.clone().into_parts();
    let mark = if query.is_empty() { "" } else { "?" };
    let path = Zeroizing::new(format!("{}{mark}{query}", uri.path()));
    parts.path_and_query = Some(PathAndQuery::try_from(path.as_str()).ok()?);
    Uri::from_parts(parts).ok()
}

//! Handles become values, for one request.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header, uri::PathAndQuery};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

use super::{
    Template,
    table::{Permitted, SecretTable},
    withheld::{Stands, Withheld},
};
use crate::{
    cluster::registry::{CREDENTIALS, Place},
    ids::{FunctionName, SecretName},
    outbound::{
        Origin, Sender, SenderKind,
        destinations::{Destination, Injection},
    },
    problem::Problem,
    secrets::{Handles, position},
};

/// What stands as it is in a query.
const IN_QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Shortest value that is looked for in answers, bytes: of shorter ones an answer would be full by chance.
const MASKED_FROM: usize = 8;

/// What is laid over a request: it holds values, and prints as nothing.
pub(crate) struct Filled {
    generation: u64,
    /// Headers with all the values that they have from now on.
    headers: Vec<(HeaderName, Vec<HeaderValue>)>,
    uri: Option<Uri>,
    /// Values, as they were written, and what stands for each in an answer that repeats it.
    written: Vec<(Zeroizing<Vec<u8>>, String)>,
    /// Which secret was put where, for the trail.
    pub(crate) told: Vec<String>,
}

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
) -> Result<Option<Box<Filled>>, Box<Problem>> {
    let method = made.method;
    let filling = || Filling { table, destination, origin, method, filled: Filled::new(table.generation) };
    let filled = match (&sender.kind, &destination.injection) {
        (SenderKind::Function { name, handles, .. }, _) if !handles.is_empty() => {
            filling().of_function(Issued { function: name, handles }, made)
        }
        (SenderKind::Program { .. }, Some(Injection { secret, template })) => {
            filling().of_program(secret, template, made).map(Some)
        }
        _ => return Ok(None),
    };
    filled.map_err(|withheld| Box::new(withheld.into()))
}

impl Filled {
    fn new(generation: u64) -> Self {
        Self { generation, headers: Vec::new(), uri: None, written: Vec::new(), told: Vec::new() }
    }

    /// Whether no secret changed since.
    pub(crate) fn is_of(&self, table: &SecretTable) -> bool {
        self.generation == table.generation
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

    /// Takes the values out of an answer's headers: an upstream that repeats what it was sent must not teach its sender.
    pub(crate) fn mask(&self, headers: &mut HeaderMap) {
        for value in headers.values_mut() {
            for (written, stands) in &self.written {
                if let Some(masked) = replaced(value.as_bytes(), written, stands.as_bytes()) {
                    *value = HeaderValue::from_bytes(&masked).unwrap_or_else(|_| HeaderValue::from_static(""));
                }
            }
        }
    }

    fn set(&mut self, name: HeaderName, values: Vec<HeaderValue>) {
        self.headers.push((name, values));
    }

    fn wrote(&mut self, secret: &SecretName, written: &[u8]) {
        let known = self.written.iter().any(|(known, _)| known.as_slice() == written);
        if written.len() >= MASKED_FROM && !known {
            self.written.push((Zeroizing::new(written.to_vec()), format!("[secret {secret}]")));
        }
    }

    fn tell(&mut self, secret: &SecretName, place: &str) {
        let told = format!("secret {secret} put into {place}");
        if !self.told.contains(&told) {
            self.told.push(told);
        }
    }
}

/// A text with `new` wherever it holds `old`; nothing where it does not.
fn replaced(text: &[u8], old: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    let (mut rest, mut whole) = (text, Vec::new());
    while let Some(at) = position(rest, old) {
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

/// A header's value that no table of HTTP/2 keeps and no `Debug` shows.
fn sensitive(bytes: &[u8]) -> HeaderValue {
    // Made of what were headers' values and of values that can stand in one.
    let mut value = HeaderValue::from_bytes(bytes).unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

struct Filling<'a> {
    table: &'a SecretTable,
    destination: &'a Destination,
    origin: &'a Origin,
    method: &'a Method,
    filled: Filled,
}

/// The function that sends, and the handles its version was issued.
#[derive(Clone, Copy)]
struct Issued<'a> {
    function: &'a FunctionName,
    handles: &'a Handles,
}

impl<'a> Filling<'a> {
    fn of_function(mut self, issued: Issued<'_>, made: AsMade<'_>) -> Result<Option<Box<Filled>>, Withheld> {
        let (AsMade { headers, uri, .. }, handles) = (made, issued.handles);
        for name in headers.keys() {
            let mut values = Vec::new();
            let mut changed = false;
            for value in headers.get_all(name) {
                let filled = match basic(name, value).filter(|decoded| handles.find(decoded).is_some()) {
                    Some(decoded) => Some(self.basic(issued, &decoded)?),
                    None => self.text(issued, value.as_bytes(), &Place::Header(name.clone()))?,
                };
                changed |= filled.is_some();
                values.push(filled.map_or_else(|| value.clone(), |filled| sensitive(&filled)));
            }
            if changed {
                self.filled.set(name.clone(), values);
            }
        }
        if let Some((_, secret)) = handles.find(uri.path().as_bytes()) {
            let permitted = self.permitted(Some(issued), secret)?;
            return Err(stands(&permitted, Stands::Path));
        }
        if let Some(query) = uri.query().filter(|query| handles.find(query.as_bytes()).is_some()) {
            self.query(issued, query, uri)?;
        }
        if self.filled.headers.is_empty() && self.filled.uri.is_none() {
            return Ok(None);
        }
        Ok(Some(Box::new(self.filled)))
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
            self.filled.wrote(secret, permitted.value.reveal().as_bytes());
            self.filled.tell(secret, name_of(place));
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
            self.filled.wrote(secret, permitted.value.reveal().as_bytes());
            self.filled.tell(secret, name_of(&place));
            last = Some(secret);
        }
        let encoded = Zeroizing::new(STANDARD.encode(&*whole));
        if let Some(secret) = last {
            self.filled.wrote(secret, encoded.as_bytes());
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
            self.filled.wrote(secret, permitted.value.reveal().as_bytes());
            self.filled.wrote(secret, encoded.as_bytes());
            self.filled.tell(secret, &format!("the query as {name}"));
            last = Some(secret);
        }
        if let Some(secret) = last {
            self.filled.uri = Some(with_query(uri, &whole).ok_or_else(|| too_long(secret))?);
        }
        Ok(())
    }

    fn of_program(
        mut self,
        secret: &SecretName,
        template: &Template,
        made: AsMade<'_>,
    ) -> Result<Box<Filled>, Withheld> {
        let AsMade { headers, uri, .. } = made;
        let Permitted { value, .. } = self.permitted(None, secret)?;
        // Whatever key the caller brought is not the one that counts here, and two would be one too many.
        for name in CREDENTIALS.iter().filter(|name| headers.contains_key(*name)) {
            self.filled.set(name.clone(), Vec::new());
        }
        self.filled.wrote(secret, value.reveal().as_bytes());
        match template {
            Template::Header { name, before, after } => {
                let line = Zeroizing::new([before, value.reveal(), after].concat());
                self.filled.headers.retain(|(other, _)| other != name);
                self.filled.set(name.clone(), vec![sensitive(line.as_bytes())]);
                self.filled.tell(secret, name.as_str());
            }
            Template::Query { name } => {
                let encoded = Zeroizing::new(utf8_percent_encode(value.reveal(), IN_QUERY).to_string());
                let is_own = |pair: &&str| pair.split('=').next() != Some(name);
                let others = uri.query().into_iter().flat_map(|query| query.split('&')).filter(is_own);
                let mut whole = Zeroizing::new(String::new());
                for pair in others {
                    whole.push_str(pair);
                    whole.push('&');
                }
                for part in [name, "=", &encoded] {
                    whole.push_str(part);
                }
                self.filled.wrote(secret, encoded.as_bytes());
                self.filled.tell(secret, &format!("the query as {name}"));
                self.filled.uri = Some(with_query(uri, &whole).ok_or_else(|| too_long(secret))?);
            }
        }
        Ok(Box::new(self.filled))
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

fn with_query(uri: &Uri, query: &str) -> Option<Uri> {
    let mut parts = uri.clone().into_parts();
    let path = Zeroizing::new(format!("{}?{query}", uri.path()));
    parts.path_and_query = Some(PathAndQuery::try_from(path.as_str()).ok()?);
    Uri::from_parts(parts).ok()
}

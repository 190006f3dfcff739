//! Why a secret stays, and with it the request that would have carried it.

use http::StatusCode;

use crate::{
    cluster::registry::Place,
    ids::{DestinationName, FunctionName, SecretName},
    problem::Problem,
    secrets::Unopened,
    settings::names,
};

/// Why. None of it says anything of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Withheld {
    /// There is none of that name.
    Gone { secret: SecretName, function: Option<FunctionName>, destination: Option<DestinationName> },
    /// It serves other functions.
    OtherFunction { secret: SecretName, function: FunctionName },
    /// It goes to other destinations.
    OtherDestination {
        secret: SecretName,
        bound: Vec<DestinationName>,
        destination: Option<DestinationName>,
        origin: String,
    },
    /// The destination stands for something else than when the secret was bound to it.
    Moved { secret: SecretName, destination: DestinationName, was: String, is: String },
    /// It may stand elsewhere in a request.
    Place { secret: SecretName, stands: Stands, places: Vec<Place> },
    /// Its value can't be opened.
    Sealed { secret: SecretName, why: Unopened },
}

/// Where a handle was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stands {
    /// In a place that could be one of the secret's.
    At(Place),
    /// A destination would put it there.
    Injected(Place),
    /// In a part of the head where none is replaced.
    Apart(&'static str),
    /// In the query, but not as the whole value of a parameter.
    Query,
    /// In the credentials of `Authorization: Basic`, but neither as all of the user name nor as all of the password.
    Basic,
    /// In a TRACE, whose answer is what was sent.
    Trace,
    /// Where the value makes it longer than a URL may be.
    TooLong,
}

fn list<T: ToString>(items: &[T]) -> String {
    match items {
        [] => "nowhere yet".to_owned(),
        items => items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

impl Withheld {
    fn secret(&self) -> &SecretName {
        match self {
            Self::Gone { secret, .. }
            | Self::OtherFunction { secret, .. }
            | Self::OtherDestination { secret, .. }
            | Self::Moved { secret, .. }
            | Self::Place { secret, .. }
            | Self::Sealed { secret, .. } => secret,
        }
    }

    /// It as a sentence.
    pub(super) fn detail(&self) -> String {
        match self {
            Self::Gone { secret, function, destination } => {
                let function = function.as_ref().map(|name| format!(" --function {name}")).unwrap_or_default();
                let destination = destination.as_ref().map_or("NAME", DestinationName::as_str);
                format!(
                    "there is no secret `{secret}` (any more): `tidegate secrets set {secret}{function} --destination \
                     {destination}` sets it"
                )
            }
            Self::OtherFunction { secret, function } => format!(
                "the secret `{secret}` does not serve the function `{function}`: `tidegate secrets bind {secret} \
                 --function {function}` lets it"
            ),
            Self::OtherDestination { secret, bound, destination: Some(name), .. } => format!(
                "the secret `{secret}` does not go to the destination `{name}`, but to: {}. `tidegate secrets bind \
                 {secret} --destination {name}` lets it",
                list(bound)
            ),
            Self::OtherDestination { secret, bound, destination: None, origin } => format!(
                "the secret `{secret}` does not go to {origin}, but to: {}. If it should, make that a destination \
                 (`tidegate destinations put NAME --match {origin}`) and bind it (`tidegate secrets bind {secret} \
                 --destination NAME`)",
                list(bound)
            ),
            Self::Moved { secret, destination, was, is } => format!(
                "the destination `{destination}` stood for {was} when the secret `{secret}` was bound to it, and stands \
                 for {is} now: `tidegate secrets bind {secret} --destination {destination}` binds it anew"
            ),
            Self::Place { secret, stands, places } => {
                let places = list(places);
                match stands {
                    Stands::At(place) => format!(
                        "the handle of the secret `{secret}` stands in {place}; it may stand in: {places}. `tidegate \
                         secrets bind {secret} --in {place}` adds that, where the upstream never repeats it in an answer"
                    ),
                    Stands::Injected(place) => format!(
                        "the destination puts the secret `{secret}` into {place}; it may stand in: {places}. `tidegate \
                         secrets bind {secret} --in {place}` adds that, where the upstream never repeats it in an answer"
                    ),
                    Stands::Apart(part) => format!(
                        "the handle of the secret `{secret}` stands in {part}, where none is replaced; it may stand in: \
                         {places}"
                    ),
                    Stands::Query => format!(
                        "the handle of the secret `{secret}` stands in the query, but is not the whole value of a \
                         parameter; it may stand in: {places}"
                    ),
                    Stands::Basic => format!(
                        "the handle of the secret `{secret}` is only a part of the user name or of the password of \
                         `Authorization: Basic`; it must be all of one"
                    ),
                    Stands::Trace => {
                        format!(
                            "the request with the secret `{secret}` is a TRACE, to which upstreams answer with what they were sent"
                        )
                    }
                    Stands::TooLong => format!("with the secret `{secret}` the query is longer than a URL may be"),
                }
            }
            Self::Sealed { secret, why } => format!("the secret `{secret}` can't be opened: {why}"),
        }
    }
}

impl From<Withheld> for Problem {
    fn from(withheld: Withheld) -> Self {
        let (status, kind, title) = match &withheld {
            Withheld::Place { .. } => (StatusCode::FORBIDDEN, "secret-place", "A secret may not stand there"),
            Withheld::Sealed { .. } => (StatusCode::SERVICE_UNAVAILABLE, "secret-sealed", "A secret can't be opened"),
            _ => (StatusCode::FORBIDDEN, "secret-unbound", "A secret does not go there"),
        };
        let detail = format!("{}; nothing was sent", withheld.detail());
        let mut problem = Self::new(status, kind, title, detail)
            .proxy_error("http_request_denied")
            .member("secret", withheld.secret().as_str())
            .final_answer();
        if let Withheld::Sealed { .. } = withheld {
            problem.setting = Some(names::SECRET_KEY.to_owned());
        }
        problem
    }
}

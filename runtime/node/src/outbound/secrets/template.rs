//! Where a destination's secret is put: a header's line or a parameter, with `{}` for the value.

use std::str::FromStr;

use http::HeaderName;

use crate::cluster::registry::Place;

/// The place, and what stands around the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Template {
    /// `authorization: Bearer {}`
    Header {
        /// The header.
        name: HeaderName,
        /// Before the value.
        before: Box<str>,
        /// Behind it.
        after: Box<str>,
    },
    /// `?key={}`
    Query {
        /// The parameter.
        name: Box<str>,
    },
}

impl Template {
    /// Where it puts the value.
    pub(crate) fn place(&self) -> Place {
        match self {
            Self::Header { name, .. } => Place::Header(name.clone()),
            Self::Query { name } => Place::Query(name.to_string()),
        }
    }

    fn is_at(&self, place: &Place) -> bool {
        match (self, place) {
            (Self::Header { name, .. }, Place::Header(other)) => name == other,
            (Self::Query { name }, Place::Query(other)) => **name == **other,
            _ => false,
        }
    }

    /// Whether it puts the value into one of these places.
    pub(crate) fn keeps_to(&self, places: &[Place]) -> bool {
        places.iter().any(|place| self.is_at(place))
    }
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "write a header with {} for the value, such as \"authorization: Bearer {}\" or \"x-api-key: {}\", or a \
                    parameter, such as \"?key={}\"";
        let wrong = || format!("`{text}` says not where: {form}");
        if let Some(parameter) = text.strip_prefix('?') {
            let name = parameter.strip_suffix("={}").ok_or_else(wrong)?;
            return match format!("query:{name}").parse::<Place>() {
                Ok(Place::Query(name)) => Ok(Self::Query { name: name.into() }),
                _ => Err(wrong()),
            };
        }
        let (name, line) = text.split_once(':').ok_or_else(wrong)?;
        let (before, after) = line.trim_ascii().split_once("{}").ok_or_else(wrong)?;
        if after.contains("{}") || !line.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err(wrong());
        }
        match format!("header:{}", name.trim_ascii()).parse::<Place>()? {
            Place::Header(name) => Ok(Self::Header { name, before: before.into(), after: after.into() }),
            Place::Query(_) => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_a_header_or_a_parameter_with_one_place_for_the_value() {
        let header = |name: &'static str, before: &str, after: &str| Template::Header {
            name: HeaderName::from_static(name),
            before: before.into(),
            after: after.into(),
        };
        for (text, template) in [
            ("authorization: Bearer {}", header("authorization", "Bearer ", "")),
            ("X-API-Key:{}", header("x-api-key", "", "")),
            ("authorization: Token token={}, v=1", header("authorization", "Token token=", ", v=1")),
            ("?key={}", Template::Query { name: "key".into() }),
        ] {
            assert_eq!(text.parse(), Ok(template), "{text}");
        }
        for text in [
            "",
            "{}",
            "Bearer {}",
            "authorization: Bearer",
            "x: {} {}",
            "a b: {}",
            "host: {}",
            "x: \n{}",
            "?{}",
            "?a&b={}",
        ] {
            assert!(text.parse::<Template>().is_err(), "{text}");
        }
    }
}

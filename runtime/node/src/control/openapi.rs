//! `/openapi.json`: the API written down, kept beside the routes and held against them by a test.

use axum::response::IntoResponse;
use http::header;

const DOCUMENT: &str = include_str!("openapi.json");

pub(super) async fn document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::control::routes;

    fn parsed() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    /// Every `$ref` and every operation of the document.
    fn walk<'a>(value: &'a Value, visit: &mut impl FnMut(&'a str, &'a Value)) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, inner)| {
                visit(key, inner);
                walk(inner, visit);
            }),
            Value::Array(items) => items.iter().for_each(|inner| walk(inner, visit)),
            _ => {}
        }
    }

    #[test]
    fn the_document_and_the_routes_are_the_same() {
        let document = parsed();
        let methods = ["get", "put", "post", "delete", "patch", "head", "options"];
        let mut written = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            let operations = item.as_object().unwrap().keys().filter(|key| methods.contains(&key.as_str()));
            written.extend(operations.map(|method| format!("{} {path}", method.to_uppercase())));
        }
        let listed = routes::table().listed;
        let routed: BTreeSet<_> = listed.iter().map(|(path, method)| format!("{method} {path}")).collect();
        assert_eq!(written, routed);
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_operation_is_whole() {
        let document = parsed();
        assert_eq!(document["openapi"], "3.1.0");
        let mut ids = BTreeSet::new();
        walk(&document, &mut |key, value| match (key, value) {
            ("$ref", Value::String(target)) => {
                let pointer = target.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{target}");
            }
            ("operationId", Value::String(id)) => assert!(ids.insert(id.as_str()), "{id} twice"),
            ("responses", Value::Object(map)) => {
                assert!(map.values().all(|answer| answer.get("description").is_some() || answer.get("$ref").is_some()));
            }
            _ => {}
        });
        for (path, item) in document["paths"].as_object().unwrap() {
            let shared = item.get("parameters").and_then(Value::as_array).cloned().unwrap_or_default();
            for name in path.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
                let is = |parameter: &Value| {
                    let target = parameter.get("$ref").and_then(Value::as_str);
                    let found = target.and_then(|target| document.pointer(target.trim_start_matches('#')));
                    found.unwrap_or(parameter)["name"] == name
                };
                assert!(shared.iter().any(is), "{path} declares {name}");
            }
        }
    }
}

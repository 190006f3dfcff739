//! `/metrics`, on a listener of its own.

use std::sync::Arc;

use http::{HeaderValue, Request, Response, StatusCode, header};

use crate::{
    body::{self, Body},
    ingress::{
        Lingering,
        listener::{Handler, Peer},
    },
    observe::Observe,
    outbound::Door,
    problem::Problem,
};

/// Answers scrapes.
#[derive(Clone)]
pub(super) struct Scrapes(pub(super) Arc<Observe>, pub(super) Door);

impl Handler for Scrapes {
    type Body = Body;

    async fn handle(self: Arc<Self>, _: Peer, request: Request<Lingering>) -> Response<Body> {
        if request.uri().path() != "/metrics" {
            let detail = "this listener serves /metrics";
            return Problem::new(StatusCode::NOT_FOUND, "no-such-path", "There is nothing here", detail)
                .into_response();
        }
        let Self(observe, door) = &*self;
        let text = observe.metrics.render_with(|registry| registry.register_collector(Box::new(door.gauges())));
        let mut answer = Response::new(body::full(text));
        let open_metrics = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
        answer.headers_mut().insert(header::CONTENT_TYPE, open_metrics);
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::{Args as _, FromArgMatches as _};
    use yaml_rust2::YamlLoader;

    use super::*;
    use crate::{outbound::DestinationGauges, settings::ObserveSettings};

    /// The names of all series that a node has, as queries write them.
    fn exported() -> BTreeSet<String> {
        let command = ObserveSettings::augment_args(clap::Command::new("test"));
        let settings = ObserveSettings::from_arg_matches(&command.get_matches_from(["test"])).unwrap();
        let gauges = Box::new(DestinationGauges::default());
        let text = Observe::new(&settings).metrics.render_with(|registry| registry.register_collector(gauges));
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let names = types.flat_map(|line| {
            let (name, kind) = line.split_once(' ').unwrap();
            let endings: &[_] = match kind {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            endings.iter().map(move |ending| format!("{name}{ending}"))
        });
        names.collect()
    }

    /// The names of series in the queries of a text.
    fn used(text: &str) -> BTreeSet<String> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let words = text.split(|c: char| !is_part(c)).filter(|word| word.starts_with("tidegate_"));
        words.map(str::to_owned).collect()
    }

    #[test]
    fn the_board_and_the_alerts_read_and_use_only_series_that_there_are() {
        let exported = exported();
        let board = include_str!("../../../../ops/grafana/tidegate.json");
        let alerts = include_str!("../../../../ops/prometheus/alerts.yml");
        for (name, text) in [("board", board), ("alerts", alerts)] {
            let used = used(text);
            assert!(used.len() > 5, "{name}: {used:?}");
            let unknown: Vec<_> = used.difference(&exported).collect();
            assert!(unknown.is_empty(), "the {name} uses {unknown:?}, there are {exported:#?}");
        }
        let board: serde_json::Value = serde_json::from_str(board).unwrap();
        let panels = board["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row");
        for panel in panels {
            let queries = panel["targets"].as_array().unwrap();
            assert!(queries.iter().all(|query| !used(query["expr"].as_str().unwrap()).is_empty()), "{panel}");
        }
        let alerts = &YamlLoader::load_from_str(alerts).unwrap()[0];
        let rules = alerts["groups"][0]["rules"].as_vec().unwrap();
        assert!(rules.len() > 5);
        for rule in rules {
            let text = |key: &str| rule[key].as_str().unwrap_or_default().to_owned();
            assert!(text("alert").starts_with("Tidegate") && !used(&text("expr")).is_empty(), "{rule:?}");
            assert!(rule["annotations"]["summary"].as_str().is_some() && rule["labels"]["severity"].as_str().is_some());
        }
    }
}

//! The live state of configured destinations as gauges, worked out when somebody scrapes.

use std::{collections::BTreeMap, fmt, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue},
    metrics::MetricType,
};

use tidegate_core::shard::Brake;

use super::Door;
use crate::outbound::shards;

/// Partitions that are looked at for one scrape; a destination that is split into more shows the state of some.
const LOOKED_AT: usize = 10_000;

/// The gauges of all destinations, by their names; tenants that give the same name count together.
#[derive(Debug, Default)]
pub struct DestinationGauges(BTreeMap<String, Gauges>);

#[derive(Debug, Default)]
struct Gauges {
    paused: Option<Duration>,
    in_flight: u64,
    learned_rate: f64,
    learned_slots: u64,
    lately: u64,
    retries_lately: u64,
    retries_left: Option<u32>,
}

impl Door {
    /// The live state of the configured destinations.
    pub fn gauges(&self) -> DestinationGauges {
        let (mut all, now) = (DestinationGauges::default(), shards::now());
        for (name, key) in self.0.known.configured(LOOKED_AT) {
            let Some(state) = self.0.shards.snapshot(key) else { continue };
            let gauges = all.0.entry(name.to_string()).or_default();
            let held = match state.brake {
                Brake::Paused { until } => until.finite().map_or(Some(Duration::MAX), |until| Some(until.since(now))),
                Brake::Off | Brake::Draining { .. } => None,
            };
            gauges.paused = gauges.paused.max(state.paused.map(|(left, _)| left)).max(held);
            gauges.in_flight += u64::from(state.in_flight);
            gauges.learned_rate += state.learned_rate.unwrap_or_default();
            gauges.learned_slots += u64::from(state.learned_slots.unwrap_or_default());
            gauges.lately += u64::from(state.lately.0);
            gauges.retries_lately += u64::from(state.lately.1);
            gauges.retries_left =
                Some(gauges.retries_left.map_or(state.retries_left, |least| least.min(state.retries_left)));
        }
        all
    }
}

impl DestinationGauges {
    fn gauge<V: EncodeGaugeValue>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help): (&str, &str),
        of: impl Fn(&Gauges) -> V,
    ) -> fmt::Result {
        let mut series = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (destination, gauges) in &self.0 {
            series.encode_family(&[("destination", destination.as_str())])?.encode_gauge(&of(gauges))?;
        }
        Ok(())
    }
}

impl Collector for DestinationGauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        self.gauge(encoder, ("destination_paused", "Whether a partition of it is paused: 1, else 0"), |gauges| {
            i64::from(gauges.paused.is_some())
        })?;
        let help = "What is left of its longest pause; +Inf where an operator says no end";
        self.gauge(encoder, ("destination_paused_seconds", help), |gauges| match gauges.paused {
            Some(Duration::MAX) => f64::INFINITY,
            left => left.unwrap_or_default().as_secs_f64(),
        })?;
        let help = "Attempts from their admission to the end of their answers";
        self.gauge(encoder, ("destination_in_flight", help), |gauges| gauges.in_flight)?;
        let help = "Requests per second learned from refusals, of all its partitions; 0 where nothing was";
        self.gauge(encoder, ("destination_learned_rate", help), |gauges| gauges.learned_rate)?;
        let help = "Requests at once that it was found to take, of all its partitions; 0 where nothing was";
        self.gauge(encoder, ("destination_learned_slots", help), |gauges| gauges.learned_slots)?;
        let help = "First attempts of the last ten seconds";
        self.gauge(encoder, ("destination_lately", help), |gauges| gauges.lately)?;
        let help = "Retries of the last ten seconds: what is spent of the budget";
        self.gauge(encoder, ("destination_retries_lately", help), |gauges| gauges.retries_lately)?;
        let help = "Retries that its budget has";
        self.gauge(encoder, ("destination_retries_left", help), |gauges| {
            u64::from(gauges.retries_left.unwrap_or_default())
        })
    }
}

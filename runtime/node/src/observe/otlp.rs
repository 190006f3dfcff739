//! Trails as traces for a collector: OTLP over HTTP in its JSON form.
//!
//! A trail that ends leaves its bytes in a queue with a bound; what does not fit is counted and gone. A task reads them,
//! makes spans and sends them in batches. No request waits for any of it, and without a collector nothing is kept.

mod encode;
mod endpoint;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use parking_lot::Mutex;
use prometheus_client::{metrics::counter::Counter, registry::Registry};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

pub use endpoint::{Endpoint, EndpointError};

use super::trail::read_exported;
use crate::{body, client, ids::TraceContext};

/// Trails of one request to the collector.
const BATCH: usize = 512;
/// How long trails are gathered.
const GATHERED: Duration = Duration::from_secs(1);
/// Time for one request to the collector.
const ANSWERED: Duration = Duration::from_secs(10);
/// Waits before a batch that the collector could not take is sent again; after the last it is dropped.
const AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];
/// The same for what is left when the node ends.
const LAST: Duration = Duration::from_secs(1);
/// Largest answer of a collector that is looked at.
const ANSWER: usize = 64 << 10;

/// Trails on their way to the collector.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    news: Notify,
    /// Bytes that may wait.
    bound: u64,
}

#[derive(Default)]
struct Waiting {
    trails: Vec<Exported>,
    bytes: u64,
}

/// A trail as its store has it, and where in its trace it belongs.
struct Exported {
    trace: TraceContext,
    bytes: Vec<u8>,
}

impl Queue {
    pub(super) fn new(bound: u64) -> Self {
        Self { waiting: Mutex::default(), news: Notify::new(), bound }
    }

    /// Leaves a trail for the collector; whether there was room.
    pub(super) fn offer(&self, trace: TraceContext, bytes: &[u8]) -> bool {
        let cost = (bytes.len() + size_of::<Exported>()) as u64;
        let first = {
            let mut waiting = self.waiting.lock();
            if waiting.bytes + cost > self.bound {
                return false;
            }
            waiting.bytes += cost;
            waiting.trails.push(Exported { trace, bytes: bytes.to_vec() });
            waiting.trails.len() == 1
        };
        if first {
            self.news.notify_one();
        }
        true
    }

    fn take(&self) -> Vec<Exported> {
        let mut waiting = self.waiting.lock();
        waiting.bytes = 0;
        std::mem::take(&mut waiting.trails)
    }
}

/// Sends what is in the queue to a collector.
pub struct Exporter {
    queue: Arc<Queue>,
    counts: Arc<ExportCounts>,
    endpoint: Endpoint,
    /// What the node says about itself.
    resource: Vec<(&'static str, String)>,
    /// [`GATHERED`] and [`AGAIN`], but in tests.
    pace: (Duration, [Duration; 2]),
}

/// Trails that were exported or not.
#[derive(Debug, Default)]
pub(super) struct ExportCounts {
    sent: Counter,
    dropped: Counter,
}

impl ExportCounts {
    /// With their series.
    pub(super) fn register(registry: &mut Registry) -> Arc<Self> {
        let counts = Self::default();
        registry.register("traces_exported", "Trails that the collector of traces took", counts.sent.clone());
        let help = "Trails of sampled traces that did not reach the collector: the queue was full, or it took none";
        registry.register("traces_dropped", help, counts.dropped.clone());
        Arc::new(counts)
    }

    pub(super) fn dropped(&self, count: u64) {
        self.dropped.inc_by(count);
    }
}

/// What a collector made of a batch.
enum Sent {
    Taken,
    /// Another time.
    Later(String),
    /// Never.
    Refused(String),
}

impl Exporter {
    pub(super) fn new(
        queue: Arc<Queue>,
        counts: Arc<ExportCounts>,
        endpoint: Endpoint,
        resource: Vec<(&'static str, String)>,
    ) -> Self {
        Self { queue, counts, endpoint, resource, pace: (GATHERED, AGAIN) }
    }

    /// Sends until it is told to stop, and then what is left once more.
    pub async fn run(self, stop: CancellationToken) {
        let mut told = false;
        loop {
            let gathering = async {
                self.queue.news.notified().await;
                tokio::time::sleep(self.pace.0).await;
            };
            let stopped = stop.run_until_cancelled(gathering).await.is_none();
            for batch in self.queue.take().chunks(BATCH) {
                let sent = match stopped {
                    // Nobody waits for a collector that is away.
                    true => {
                        let last = tokio::time::timeout(LAST, self.send(self.payload(batch))).await;
                        last.unwrap_or_else(|_| Sent::Later(format!("no answer within {LAST:?}")))
                    }
                    false => self.send_again(batch, &stop).await,
                };
                let count = batch.len() as u64;
                match sent {
                    Sent::Taken => {
                        self.counts.sent.inc_by(count);
                        told = false;
                    }
                    Sent::Later(why) | Sent::Refused(why) => {
                        self.counts.dropped(count);
                        if !std::mem::replace(&mut told, true) {
                            tracing::warn!(endpoint = %self.endpoint, why, "the collector takes no traces; they are dropped until it does");
                        }
                    }
                }
            }
            if stopped {
                return;
            }
        }
    }

    async fn send_again(&self, batch: &[Exported], stop: &CancellationToken) -> Sent {
        let payload = self.payload(batch);
        let mut waits = self.pace.1.iter();
        loop {
            match self.send(payload.clone()).await {
                Sent::Later(why) => {
                    let Some(wait) = waits.next() else { return Sent::Later(why) };
                    if stop.run_until_cancelled(tokio::time::sleep(*wait)).await.is_none() {
                        return Sent::Later(why);
                    }
                }
                other => return other,
            }
        }
    }

    fn payload(&self, batch: &[Exported]) -> Bytes {
        let trails = batch.iter().filter_map(|trail| Some((trail.trace, read_exported(&trail.bytes)?)));
        Bytes::from(encode::request(&self.resource, trails).to_string())
    }

    async fn send(&self, payload: Bytes) -> Sent {
        let mut request = Request::new(body::full(payload));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.uri.clone();
        let mut headers = self.endpoint.headers.clone();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        *request.headers_mut() = headers;
        let until = Instant::now() + ANSWERED;
        let answer = match tokio::time::timeout_at(until, client::send(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Sent::Later(error.to_string()),
            Err(_) => return Sent::Later(format!("no answer within {ANSWERED:?}")),
        };
        let status = answer.status();
        let _ = tokio::time::timeout_at(until, client::read(answer.into_body(), ANSWER)).await;
        match status {
            _ if status.is_success() => Sent::Taken,
            // As the protocol has it.
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Sent::Later(format!("it answered {status}")),
            _ => Sent::Refused(format!("it answered {status}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use clap::{Args as _, FromArgMatches as _};
    use http::Response;
    use http_body_util::{BodyExt as _, Full};
    use hyper::{body::Incoming, service::service_fn};
    use hyper_util::rt::TokioIo;
    use serde_json::Value;
    use tokio::{net::TcpListener, sync::mpsc};

    use super::*;
    use crate::{
        ids::TraceId,
        observe::{Came, CopyKind, Ending, Note, Observe, Stop, Subject, Trail},
        settings::ObserveSettings,
    };

    /// What a collector got: headers and body.
    type Got = (http::HeaderMap, Value);

    /// A collector whose first answers have these statuses, and all others 200.
    async fn collector(first: &'static [u16]) -> (Endpoint, mpsc::Receiver<Got>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, receiver) = mpsc::channel(16);
        let count = Arc::new(AtomicUsize::new(0));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (sender, count) = (sender.clone(), Arc::clone(&count));
                let service = service_fn(move |request: Request<Incoming>| {
                    let sender = sender.clone();
                    let status = first.get(count.fetch_add(1, Ordering::SeqCst)).copied().unwrap_or(200);
                    async move {
                        assert_eq!(request.uri().path(), "/v1/traces");
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.unwrap().to_bytes();
                        sender.send((head.headers, serde_json::from_slice(&body).unwrap())).await.unwrap();
                        let answer = Response::builder().status(status).body(Full::new(Bytes::from_static(b"{}")));
                        Ok::<_, std::convert::Infallible>(answer.unwrap())
                    }
                });
                tokio::spawn(async move {
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        (Endpoint::new(&url, "x-key=secret").unwrap(), receiver)
    }

    fn exporting(endpoint: Endpoint, flags: &[&str]) -> (Arc<Observe>, CancellationToken) {
        let command = ObserveSettings::augment_args(clap::Command::new("test"));
        let matches = command.get_matches_from(["test"].iter().chain(flags));
        let settings = ObserveSettings::from_arg_matches(&matches).unwrap();
        let (observe, mut exporter) = Observe::exporting(&settings, endpoint, "iad");
        exporter.pace = (Duration::from_millis(1), [Duration::from_millis(1); 2]);
        let stop = CancellationToken::new();
        tokio::spawn(exporter.run(stop.clone()));
        (observe, stop)
    }

    fn finish(observe: &Observe, trace: TraceContext) {
        let trail = Trail::begin_at(std::time::Instant::now(), trace);
        let call = trail.next_call();
        let what = "GET https://api.test/v1".into();
        trail.note(Note::Call { call, what, destination: "openai".into(), configured: true });
        trail.note(Note::Queued { call, why: "for 10/s".into() });
        trail.note(Note::Admitted { call, waited: Duration::from_millis(2), why: None });
        trail.note(Note::Answered { call, attempt: 1, status: 500, first_byte: Duration::from_millis(1) });
        trail.note(Note::Decided { call, what: "tried again".into() });
        trail.note(Note::Copy { call, attempt: 3, of: 2, kind: CopyKind::Hedge, to: Some("two".into()) });
        trail.note(Note::Answered { call, attempt: 2, status: 200, first_byte: Duration::from_millis(1) });
        trail.note(Note::Stopped { call, attempt: 3, lasted: Duration::from_micros(1), why: Stop::Lost });
        trail.note(Note::Over {
            call,
            came: Came::Answer(200),
            took: Duration::from_millis(3),
            waited: Duration::from_millis(2),
            attempts: 2,
        });
        let subject = Subject { tenant: "t", invocation: Some(("agent", 3)) };
        observe.trails.finish(&trail, subject, Ending::Status(200));
    }

    #[tokio::test]
    async fn a_sampled_trail_reaches_the_collector_as_spans_of_the_whole_its_call_and_its_attempts() {
        let (endpoint, mut got) = collector(&[]).await;
        let (observe, _stop) = exporting(endpoint, &[]);
        let trace = TraceContext { parent: Some(7), sampled: true, ..TraceContext::of(TraceId(0xabc)) };
        finish(&observe, TraceContext::of(TraceId(0xdef)));
        finish(&observe, trace);
        let (headers, body) = got.recv().await.unwrap();
        assert!(headers["content-type"] == "application/json" && headers["x-key"] == "secret");
        let resource = &body["resourceSpans"][0];
        assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "tidegate");
        let spans = resource["scopeSpans"][0]["spans"].as_array().unwrap();
        let hex = |span: u64| format!("{span:016x}");
        let call = trace.below(1, 0);
        let wanted = [
            ("invoke agent", trace.span, 7),
            ("call openai", call, trace.span),
            ("attempt 1", trace.below(1, 1), call),
            ("attempt 2", trace.below(1, 2), call),
            ("attempt 3", trace.below(1, 3), call),
        ];
        assert_eq!(spans.len(), wanted.len(), "what is not sampled stays here: {spans:#?}");
        for (span, (name, id, parent)) in spans.iter().zip(wanted) {
            assert_eq!((&span["name"], &span["traceId"]), (&name.into(), &trace.trace.to_string().into()));
            assert_eq!((&span["spanId"], &span["parentSpanId"]), (&hex(id).into(), &hex(parent).into()));
            let time = |key: &str| span[key].as_str().unwrap().parse::<u64>().unwrap();
            assert!(time("startTimeUnixNano") <= time("endTimeUnixNano"), "{span}");
        }
        let events: Vec<_> = spans[1]["events"].as_array().unwrap().iter().map(|event| &event["name"]).collect();
        assert_eq!(events, ["waited", "tried again"]);
        assert_eq!((&spans[2]["status"]["code"], spans[3]["status"].get("code")), (&2.into(), None));
        // The copy that lost is no error, says what became of it, and leads to the one that it doubled.
        let copy = &spans[4];
        let said = |key: &str| {
            let all = copy["attributes"].as_array().unwrap();
            all.iter().find(|said| said["key"] == key).map(|said| said["value"]["stringValue"].clone())
        };
        assert_eq!(copy["status"].get("code"), None);
        let is = ["tidegate.copy", "tidegate.outcome", "tidegate.endpoint"].map(|key| said(key).unwrap());
        assert_eq!(is, ["hedge", "lost", "two"]);
        assert_eq!(
            copy["links"],
            serde_json::json!([{"traceId": trace.trace.to_string(), "spanId": hex(trace.below(1, 2))}])
        );
        assert_eq!(spans[3].get("links"), None);
    }

    #[tokio::test]
    async fn a_collector_that_is_busy_is_asked_again_and_what_it_refuses_is_counted() {
        let sampled = |id| TraceContext { sampled: true, ..TraceContext::of(TraceId(id)) };
        let counted = |observe: &Observe, line: &str| observe.metrics.render().lines().any(|known| known == line);
        let (endpoint, mut got) = collector(&[503, 429, 200, 400]).await;
        let (observe, _stop) = exporting(endpoint, &[]);
        finish(&observe, sampled(1));
        for _ in 0..3 {
            got.recv().await.unwrap();
        }
        while !counted(&observe, "tidegate_traces_exported_total 1") {
            tokio::task::yield_now().await;
        }
        finish(&observe, sampled(2));
        got.recv().await.unwrap();
        while !counted(&observe, "tidegate_traces_dropped_total 1") {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn without_room_trails_are_dropped_and_counted_and_nothing_waits() {
        // Nobody listens there.
        let endpoint = Endpoint::new("http://127.0.0.1:9", "").unwrap();
        let (observe, stop) = exporting(endpoint, &["--otlp-queue-bytes=1B"]);
        finish(&observe, TraceContext { sampled: true, ..TraceContext::of(TraceId(1)) });
        assert!(observe.metrics.render().contains("tidegate_traces_dropped_total 1"));
        stop.cancel();
    }

    #[tokio::test]
    async fn a_share_of_the_traces_that_begin_here_is_sampled() {
        let endpoint = Endpoint::new("http://127.0.0.1:9", "").unwrap();
        for (share, least, most) in [("0", 0, 0), ("25", 150, 350), ("100%", 1_000, 1_000)] {
            let (observe, stop) = exporting(endpoint.clone(), &[&format!("--otlp-sample={share}")]);
            let sampled = (0..1_000).filter(|_| observe.samples(TraceId::random())).count();
            assert!((least..=most).contains(&sampled), "{share}: {sampled}");
            stop.cancel();
        }
    }

    #[test]
    fn what_does_not_fit_into_the_queue_is_refused_at_once() {
        let queue = Queue::new(4_096);
        let taken = (0..100).filter(|_| queue.offer(TraceContext::of(TraceId(1)), &[0; 500])).count();
        assert!((4..9).contains(&taken), "{taken}");
        assert_eq!(queue.take().len(), taken);
        assert!(queue.offer(TraceContext::of(TraceId(1)), &[0; 500]), "there is room again");
    }
}

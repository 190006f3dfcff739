use std::sync::atomic::{AtomicBool, Ordering};

use prometheus_client::metrics::gauge::Gauge;

use super::*;

#[derive(Debug)]
enum What {
    Whole(StoredBody),
    Unkept(Unkept),
}

/// Tells what becomes of a body, and says whether it is awaited.
struct Told(tokio::sync::mpsc::Sender<What>, Arc<AtomicBool>);

impl Kept for Told {
    fn whole(self, body: StoredBody) {
        self.0.try_send(What::Whole(body)).unwrap();
    }

    fn unkept(self, why: Unkept) {
        self.0.try_send(What::Unkept(why)).unwrap();
    }

    fn is_awaited(&self) -> bool {
        self.1.load(Ordering::Relaxed)
    }
}

struct Fixture {
    chunks: tokio::sync::mpsc::Sender<Result<Frame<Bytes>, BodyError>>,
    body: Body,
    told: tokio::sync::mpsc::Receiver<What>,
    memory: Arc<Memory>,
    awaited: Arc<AtomicBool>,
}

impl Fixture {
    async fn send(&self, texts: &[&'static str]) {
        for text in texts {
            self.chunks.send(data(text)).await.unwrap();
        }
    }
}

async fn whole(told: &mut tokio::sync::mpsc::Receiver<What>) -> StoredBody {
    match told.recv().await {
        Some(What::Whole(body)) => body,
        other => panic!("{other:?}"),
    }
}

async fn unkept(told: &mut tokio::sync::mpsc::Receiver<What>) -> Unkept {
    match told.recv().await {
        Some(What::Unkept(why)) => why,
        other => panic!("{other:?}"),
    }
}

struct Channel(tokio::sync::mpsc::Receiver<Result<Frame<Bytes>, BodyError>>);

impl http_body::Body for Channel {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.0.poll_recv(cx)
    }
}

fn memory(bound: u64) -> Arc<Memory> {
    Memory::new(bound, Gauge::default())
}

fn fixture(object: u64, bound: u64) -> Fixture {
    within(object, &memory(bound))
}

fn within(object: u64, memory: &Arc<Memory>) -> Fixture {
    let (chunks, body) = tokio::sync::mpsc::channel(1);
    let (tell, told) = tokio::sync::mpsc::channel(1);
    let awaited = Arc::new(AtomicBool::new(false));
    let (body, unkept) = tee(Channel(body).boxed_unsync(), memory, object, Told(tell, Arc::clone(&awaited)));
    assert_eq!(unkept, None, "nothing is known yet");
    Fixture { chunks, body, told, memory: Arc::clone(memory), awaited }
}

fn data(text: &'static str) -> Result<Frame<Bytes>, BodyError> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

async fn read(body: Body) -> Bytes {
    body.collect().await.unwrap().to_bytes()
}

/// A chunk that is not copied.
const LARGE: &str = match std::str::from_utf8(&[b'x'; 8 << 10]) {
    Ok(text) => text,
    Err(_) => "",
};

#[tokio::test]
async fn a_body_goes_to_its_client_and_is_kept_whole_with_its_trailers_left_out() {
    let mut fixture = fixture(100, 1 << 20);
    fixture.send(&["ab", "", "c"]).await;
    let trailers = [(http::header::ETAG, "x".parse().unwrap())].into_iter().collect::<HeaderMap>();
    fixture.chunks.send(Ok(Frame::trailers(trailers.clone()))).await.unwrap();
    assert_eq!(whole(&mut fixture.told).await.bytes(), b"abc");
    let collected = fixture.body.collect().await.unwrap();
    assert_eq!(collected.trailers(), Some(&trailers));
    assert_eq!(collected.to_bytes(), "abc");
    assert_eq!(fixture.memory.used(), 0);
}

#[tokio::test]
async fn a_client_that_reads_nothing_holds_nobody_up_and_no_more_than_may_be_kept() {
    let mut fixture = fixture(4, 1 << 20);
    fixture.send(&["ab", "cd", "ef"]).await;
    assert_eq!(unkept(&mut fixture.told).await, Unkept::TooLarge);
    // The channel holds one, and nobody takes it but the client.
    fixture.chunks.try_send(data("gh")).unwrap();
    assert!(fixture.chunks.try_send(data("ij")).is_err());
    assert_eq!(fixture.memory.used(), 2 * (2 + CHUNK), "what was kept and is not read yet");
    drop(fixture.chunks);
    assert_eq!(read(fixture.body).await, "abcdefgh");
    assert_eq!(fixture.memory.used(), 0);
}

#[tokio::test]
async fn what_was_read_for_slow_clients_stays_in_the_account_until_they_have_it() {
    let memory = memory(3 * LARGE.len() as u64);
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut fixture = within(1 << 20, &memory);
        fixture.send(&[LARGE]).await;
        drop(fixture.chunks);
        let body = whole(&mut fixture.told).await;
        assert_eq!(body.bytes(), LARGE.as_bytes());
        // It is stored no longer, and read yet.
        drop(body);
        slow.push(fixture.body);
    }
    assert_eq!(memory.used(), 2 * LARGE.len() as u64);
    let mut late = within(1 << 20, &memory);
    late.send(&[LARGE]).await;
    assert_eq!(unkept(&mut late.told).await, Unkept::NoMemory);
    drop(late.chunks);
    assert_eq!(read(late.body).await.len(), LARGE.len(), "all of it is passed on");
    drop(slow.pop());
    let mut again = within(1 << 20, &memory);
    again.send(&[LARGE]).await;
    drop(again.chunks);
    assert_eq!(whole(&mut again.told).await.len(), LARGE.len(), "there is room again");
}

#[tokio::test]
async fn all_who_read_a_stored_body_take_its_memory_once_and_the_rest_is_no_copy() {
    let mut fixture = fixture(1 << 20, 1 << 20);
    fixture.send(&[LARGE, "ab"]).await;
    let first = fixture.body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first.as_ptr(), LARGE.as_ptr(), "large chunks are not copied");
    fixture.chunks.send(data(LARGE)).await.unwrap();
    drop(fixture.chunks);
    let stored = whole(&mut fixture.told).await;
    let followers: Vec<_> = (0..50).map(|_| stored.read()).collect();
    assert_eq!(fixture.memory.used(), stored.len() as u64);
    let rest = fixture.body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(rest.as_ptr(), stored.bytes()[LARGE.len()..].as_ptr());
    assert_eq!(rest.len(), LARGE.len() + 2);
    drop((stored, followers, first, fixture.body));
    assert_eq!(fixture.memory.used(), LARGE.len() as u64 * 2 + 2);
    drop(rest);
    assert_eq!(fixture.memory.used(), 0);
}

#[tokio::test]
async fn a_body_whose_length_is_stated_is_told_at_once_whether_it_is_kept() {
    let memory = memory(10);
    let told = || tokio::sync::mpsc::channel(1);
    let of = |text: &'static str, object, tell| {
        tee(body::full(text), &memory, object, Told(tell, Arc::new(AtomicBool::new(true))))
    };
    for (text, object, is) in [("12345678901", 100, Unkept::NoMemory), ("12345", 4, Unkept::TooLarge)] {
        let (tell, mut what) = told();
        let (body, unkept) = of(text, object, tell);
        assert_eq!(unkept, Some(is));
        assert!(matches!(what.recv().await, Some(What::Unkept(why)) if why == is));
        assert_eq!(read(body).await, text);
        assert_eq!(memory.used(), 0);
    }
}

#[tokio::test]
async fn without_memory_nothing_is_kept_and_all_is_passed_on() {
    let mut fixture = fixture(100, 10);
    fixture.send(&["ab"]).await;
    assert_eq!(unkept(&mut fixture.told).await, Unkept::NoMemory);
    drop(fixture.chunks);
    assert_eq!(read(fixture.body).await, "ab");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_kept_and_its_client_is_told() {
    let mut fixture = fixture(100, 1 << 20);
    fixture.send(&["ab"]).await;
    fixture.chunks.send(Err(BodyError::Cancelled)).await.unwrap();
    assert!(fixture.told.recv().await.is_none());
    assert_eq!(fixture.body.frame().await.unwrap().unwrap().into_data().unwrap(), "ab");
    assert!(fixture.body.frame().await.unwrap().is_err());
    assert!(fixture.body.frame().await.is_none());
    assert_eq!(fixture.memory.used(), 0);
}

#[tokio::test]
async fn a_client_that_goes_away_ends_it_unless_somebody_waits() {
    let mut gone = fixture(100, 1 << 20);
    gone.send(&["ab"]).await;
    drop(gone.body);
    assert!(gone.told.recv().await.is_none());
    gone.chunks.closed().await;
    assert_eq!(gone.memory.used(), 0);

    let mut awaited = fixture(100, 1 << 20);
    awaited.awaited.store(true, Ordering::Relaxed);
    awaited.send(&["ab"]).await;
    drop(awaited.body);
    awaited.chunks.send(data("cd")).await.unwrap();
    drop(awaited.chunks);
    assert_eq!(whole(&mut awaited.told).await.bytes(), b"abcd");
}

/// A body that says how long it is.
struct Stated(Channel, u64);

impl http_body::Body for Stated {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.1)
    }
}

#[tokio::test]
async fn the_end_of_a_stated_length_reaches_the_client_when_the_answer_is_stored_and_not_before() {
    for is_whole in [true, false] {
        let (chunks, body) = tokio::sync::mpsc::channel(1);
        let (tell, mut told) = tokio::sync::mpsc::channel(1);
        let kept = Told(tell, Arc::default());
        let (mut body, unkept) = tee(Stated(Channel(body), 4).boxed_unsync(), &memory(1 << 20), 100, kept);
        assert_eq!(unkept, None);
        chunks.send(data("ab")).await.unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "ab");
        chunks.send(data("cd")).await.unwrap();
        // It is taken out of the channel before this one gets into it.
        chunks.send(data("")).await.unwrap();
        let mut next = Box::pin(body.frame());
        assert!(futures::FutureExt::now_or_never(&mut next).is_none());
        assert!(told.try_recv().is_err());
        if is_whole {
            drop(chunks);
        } else {
            chunks.send(Err(BodyError::Cancelled)).await.unwrap();
        }
        assert_eq!(next.await.unwrap().unwrap().into_data().unwrap(), "cd");
        match told.recv().await {
            Some(What::Whole(body)) if is_whole => assert_eq!(body.bytes(), b"abcd"),
            None if !is_whole => assert!(body.frame().await.unwrap().is_err()),
            other => panic!("{other:?}"),
        }
    }
}

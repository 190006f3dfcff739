//! What is kept of a body, and who reads it.

use http_body_util::{BodyExt, StreamBody};

use super::*;
use crate::{body, outbound::body::OutBody};

fn chunks(sizes: &[usize]) -> Body {
    let frames: Vec<_> = sizes.iter().map(|size| Ok(Frame::data(Bytes::from(vec![1; *size])))).collect();
    StreamBody::new(futures::stream::iter(frames)).boxed_unsync()
}

async fn taken(body: Body, keep: u64, memory: &Arc<ReplayMemory>) -> (KeptBody, Option<Pump>) {
    KeptBody::take(body, None, Start { keep, memory, read_on: ReadOn::default() }).await.unwrap()
}

async fn read(body: OutBody) -> usize {
    body.collect().await.unwrap().to_bytes().len()
}

#[tokio::test]
async fn kept_bodies_share_one_memory_and_give_it_back() {
    let memory = ReplayMemory::new(100);
    let (first, pump) = taken(chunks(&[30, 30]), 64, &memory).await;
    assert!(pump.is_none());
    assert_eq!(memory.used(), 60);
    let (second, pump) = taken(chunks(&[30, 30]), 64, &memory).await;
    assert!(!matches!(second, KeptBody::Whole { .. }), "no memory is left to keep it");
    assert_eq!(memory.used(), 90, "what came before stays until it is read");
    assert_eq!(read(second.attempt().unwrap()).await, 60);
    assert!(!second.is_replayable());
    assert_eq!(memory.used(), 60);
    assert_eq!(read(first.attempt().unwrap()).await, 60);
    assert_eq!(read(first.attempt().unwrap()).await, 60);
    drop((first, second, pump));
    assert_eq!(memory.used(), 0);
}

#[tokio::test]
async fn small_bodies_need_no_task_and_no_copy() {
    let memory = ReplayMemory::new(100);
    let (kept, pump) = taken(body::full("hello"), 64, &memory).await;
    assert!(pump.is_none() && matches!(&kept, KeptBody::Whole { data, .. } if data == "hello"));
    let (kept, pump) = taken(body::empty(), 64, &memory).await;
    assert!(pump.is_none() && matches!(kept, KeptBody::Empty));
}

#[tokio::test]
async fn an_older_reader_does_not_disturb_a_newer_one() {
    let memory = ReplayMemory::new(1000);
    let (mut sender, receiver) = futures::channel::mpsc::channel(1);
    let body: Body = StreamBody::new(receiver).boxed_unsync();
    let (kept, pump) = taken(body, 64, &memory).await;
    sender.try_send(Ok(Frame::data(Bytes::from_static(b"abc")))).unwrap();
    drop(sender);
    let mut pump = pump.unwrap();
    let older = kept.attempt().unwrap();
    let newer = kept.attempt().unwrap();
    std::future::poll_fn(|cx| Pin::new(&mut pump).poll_fill(cx)).await;
    assert!(older.collect().await.is_err());
    assert_eq!(read(newer).await, 3);
}

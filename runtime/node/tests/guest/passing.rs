//! Bodies of which a guest reads the start and passes the rest on.

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tidegate::body::{Body, BodyError};

use crate::support::{Host, collect};

/// No part of it looks like another.
fn numbers() -> Vec<u8> {
    (0..250_000_u32).flat_map(u32::to_be_bytes).collect()
}

/// The numbers in frames, the first of so many bytes.
fn in_frames(first: usize) -> Body {
    let numbers = Bytes::from(numbers());
    let (head, rest) = (numbers.slice(..first), numbers.slice(first..));
    let frames: Vec<_> = std::iter::once(head).chain(rest.chunks(70_000).map(Bytes::copy_from_slice)).collect();
    StreamBody::new(futures::stream::iter(frames.into_iter().map(|frame| Ok::<_, BodyError>(Frame::data(frame)))))
        .boxed_unsync()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_passed_on_has_no_hole_behind_what_was_read_of_it() {
    const FIRST: usize = 8_182;
    let host = Host::with_upstream(&[], |call| {
        Box::pin(async {
            let sent = call.request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            // A call without a body gets the numbers, one with a body gets it back.
            let body = if sent.is_empty() { in_frames(FIRST) } else { tidegate::body::full(sent) };
            Ok(Response::new(body))
        })
    });
    let guest = host.deploy("misbehave-p3").await;
    let numbers = numbers();
    for path in ["/partial", "/partial-call", "/partial-out"] {
        for read in [0, 1, 10, FIRST - 1, FIRST, FIRST + 1, 1_000_000] {
            let request = Request::post(format!("http://example.test{path}?k={read}")).body(in_frames(FIRST)).unwrap();
            let answer = host.send(&guest, request).await.unwrap();
            let rest = collect(answer.into_body()).await.unwrap();
            let expected = &numbers[read.min(FIRST)..];
            assert_eq!(rest.len(), expected.len(), "{path}, {read} read");
            assert!(rest == expected, "{path}, {read} read");
        }
    }
}

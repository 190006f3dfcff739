//! A body that passes: how it is framed (an odd byte: events), how it is cut into pieces, how long a value may be, then
//! the body itself.

use std::time::Duration;

use tidegate_core::{
    Outcome,
    signal::Finals,
    usage::{Framing, Scanner, Usage},
};

use crate::{bytes::Choices, memory};

const FINALS: Finals = Finals::known(&["insufficient_quota"]);
const MAX_PAUSE: Duration = Duration::from_secs(600);
/// What a parsed value takes for each byte of its text at most, and what there is besides.
const TIMES: usize = 160;
const BESIDES: usize = 16 << 10;

pub(crate) fn run(bytes: &[u8]) {
    let (head, body) = bytes.split_at(bytes.len().min(3));
    let mut head = Choices::of(head);
    let framing = if head.byte() % 2 == 1 { Framing::Events } else { Framing::Json };
    let (cut, bound) = (usize::from(head.byte()), 8 * usize::from(head.byte()));
    let sizes = [1 + cut % 7, 1 + cut / 7, 1 + cut % 31];

    let whole = scan(framing, bound, [body]);
    let mut rest = body;
    let pieces = (0..).map_while(|turn: usize| {
        let (piece, after) = rest.split_at(rest.len().min(sizes[turn % sizes.len()]));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    });
    assert_eq!(scan(framing, bound, pieces), whole, "its pieces make a difference");
    assert_eq!(scan(framing, bound, body.chunks(1)), whole, "its pieces make a difference");

    let mut last = 0;
    let mut scanner = Scanner::new(framing, bound, FINALS, MAX_PAUSE);
    for piece in body.chunks(sizes[0]) {
        scanner.feed(piece);
        let tokens = scanner.usage().map_or(0, |usage| usage.tokens());
        assert!(tokens >= last, "{last} tokens became {tokens}");
        last = tokens;
    }

    // However long it goes on.
    let most = memory::most(|| _ = scan(framing, bound, std::iter::repeat_n(body, 20)));
    assert!(most <= TIMES * bound + BESIDES, "{most} bytes for values of {bound}");
}

fn scan<'a>(
    framing: Framing,
    bound: usize,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Option<Usage>, Option<Outcome>, bool) {
    let mut scanner = Scanner::new(framing, bound, FINALS, MAX_PAUSE);
    pieces.into_iter().for_each(|piece| scanner.feed(piece));
    scanner.end();
    let trouble = scanner.take_trouble();
    assert_eq!(scanner.take_trouble(), None, "told twice");
    if let Some(Outcome::Answer { status, signal }) = &trouble {
        assert!((400..600).contains(status), "{status}");
        assert!(signal.wait.is_none_or(|(wait, _)| !wait.is_zero() && wait <= MAX_PAUSE), "{signal:?}");
    }
    (scanner.usage(), trouble, scanner.is_cut())
}

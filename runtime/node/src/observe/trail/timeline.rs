//! Notes as spans of time: what lasted from when to when, call by call. What a timeline draws, a verdict adds up and a
//! trace exports.

use std::{collections::BTreeMap, time::Duration};

use crate::observe::note::{Came, CopyKind, Note, Stop};

/// What a note says, as a span that ends where the note was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Since the beginning of the trail.
    pub from: Duration,
    /// The same; equal to `from` where nothing lasted.
    pub to: Duration,
    /// What it was.
    pub kind: StepKind,
}

/// What a step is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// A place in the pool was waited for.
    Instance,
    /// Something the guest did or met.
    Guest,
    /// A call entered the door.
    Call,
    /// It was told to wait.
    Queued,
    /// It waited until here.
    Waited,
    /// An attempt, with its number, and its status where it was answered.
    Attempt(u32, Option<u16>),
    /// A decision.
    Decision,
    /// The call from its beginning to its end.
    Over(Came),
    /// The answer broke off.
    Broke,
}

impl StepKind {
    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Instance => "instance",
            Self::Guest => "guest",
            Self::Call => "call",
            Self::Queued => "queued",
            Self::Waited => "waited",
            Self::Attempt(..) => "attempt",
            Self::Decision => "decision",
            Self::Over(_) => "over",
            Self::Broke => "broke",
        }
    }
}

/// A call as a span.
#[derive(Clone, Debug, Default)]
pub struct CallSpan {
    /// Method and URL without query.
    pub what: String,
    /// Label of its destination.
    pub destination: String,
    /// Since the beginning of the trail.
    pub from: Duration,
    /// The same; where it did not end, its last note.
    pub to: Duration,
    /// What it came to, where that is known.
    pub came: Option<Came>,
    /// From when to when it waited, and why.
    pub waits: Vec<(Duration, Duration, String)>,
    /// Its attempts.
    pub attempts: Vec<AttemptSpan>,
    /// The last decision about it.
    pub decided: Option<String>,
    copies: Vec<(u32, CopyKind, u32, Option<String>)>,
    asked: Option<(Duration, String)>,
    left: Duration,
}

/// An attempt as a span.
#[derive(Clone, Debug)]
pub struct AttemptSpan {
    /// From 1.
    pub number: u32,
    /// Since the beginning of the trail.
    pub from: Duration,
    /// The same.
    pub to: Duration,
    /// What it came to.
    pub came: AttemptCame,
    /// What it is for and which attempt it doubles (0 where that had not left), where it is a copy.
    pub copy: Option<(CopyKind, u32)>,
    /// The endpoint that it went to, where it is a copy to another.
    pub endpoint: Option<String>,
}

/// What an attempt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptCame {
    /// An answer with this status.
    Answer(u16),
    /// It failed.
    Failed(String),
    /// It was ended, by no fault of its upstream.
    Stopped(Stop),
}

impl CallSpan {
    fn attempted(&mut self, number: u32, (from, to): (Duration, Duration), came: AttemptCame) {
        let known = self.copies.iter().find(|(attempt, ..)| *attempt == number);
        let (copy, endpoint) = match known {
            Some((_, kind, of, endpoint)) => (Some((*kind, *of)), endpoint.clone()),
            None => (None, None),
        };
        self.attempts.push(AttemptSpan { number, from, to, came, copy, endpoint });
    }
}

/// A trail as spans.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    /// One a note, in the same order.
    pub steps: Vec<Step>,
    /// Calls by their numbers.
    pub calls: BTreeMap<u32, CallSpan>,
    /// Time spent waiting for an instance.
    pub instance: Option<(Duration, Duration)>,
}

impl Timeline {
    /// Reads notes.
    pub fn of(notes: &[(Duration, Note)]) -> Self {
        let mut timeline = Self::default();
        for (at, note) in notes {
            let step = timeline.step(*at, note);
            timeline.steps.push(step);
        }
        timeline
    }

    fn step(&mut self, at: Duration, note: &Note) -> Step {
        let ended = |from: Duration, kind| Step { from, to: at, kind };
        let Some(number) = note.call() else {
            return match note {
                Note::Instance { waited, .. } => {
                    let from = at.saturating_sub(*waited);
                    self.instance = Some((from, at));
                    ended(from, StepKind::Instance)
                }
                Note::Broke(_) => ended(at, StepKind::Broke),
                _ => ended(at, StepKind::Guest),
            };
        };
        let call = self.calls.entry(number).or_insert_with(|| CallSpan { from: at, ..CallSpan::default() });
        call.to = at;
        match note {
            Note::Call { what, destination, .. } => {
                (call.what, call.destination) = (what.clone(), destination.to_string());
                ended(at, StepKind::Call)
            }
            Note::Queued { why, .. } => {
                call.asked = Some((at, why.clone()));
                ended(at, StepKind::Queued)
            }
            Note::Admitted { waited, why, .. } => {
                let from = at.saturating_sub(*waited);
                let asked = call.asked.take().map(|(_, why)| why);
                if let Some(asked) = asked {
                    let why = match why {
                        Some(end) => format!("{asked}, at the end {end}"),
                        None => asked,
                    };
                    call.waits.push((from, at, why));
                }
                call.left = at;
                ended(from, StepKind::Waited)
            }
            Note::Answered { attempt, status, first_byte, .. } => {
                let from = at.saturating_sub(*first_byte);
                call.attempted(*attempt, (from, at), AttemptCame::Answer(*status));
                ended(from, StepKind::Attempt(*attempt, Some(*status)))
            }
            Note::Failed { attempt, why, .. } => {
                let from = call.left;
                call.attempted(*attempt, (from, at), AttemptCame::Failed(why.clone()));
                ended(from, StepKind::Attempt(*attempt, None))
            }
            Note::Copy { attempt, of, kind, to, .. } => {
                call.copies.push((*attempt, *kind, *of, to.clone()));
                ended(at, StepKind::Decision)
            }
            Note::Stopped { attempt, lasted, why, .. } => {
                let from = at.saturating_sub(*lasted);
                call.attempted(*attempt, (from, at), AttemptCame::Stopped(*why));
                ended(from, StepKind::Attempt(*attempt, None))
            }
            Note::Over { came, took, .. } => {
                if let Some((from, why)) = call.asked.take() {
                    call.waits.push((from, at, why));
                }
                call.came = Some(*came);
                call.from = call.from.min(at.saturating_sub(*took));
                ended(call.from, StepKind::Over(*came))
            }
            Note::Decided { what, .. } => {
                call.decided = Some(what.clone());
                ended(at, StepKind::Decision)
            }
            Note::Under { .. } => ended(at, StepKind::Decision),
            Note::Instance { .. } | Note::Guest(_) | Note::Broke(_) => ended(at, StepKind::Guest),
        }
    }
}

/// The time that is in at least one of the spans.
pub(super) fn union(spans: impl Iterator<Item = (Duration, Duration)>) -> Duration {
    let mut spans: Vec<_> = spans.collect();
    spans.sort_unstable();
    let (mut sum, mut counted) = (Duration::ZERO, Duration::ZERO);
    for (from, to) in spans {
        sum += to.saturating_sub(from.max(counted));
        counted = counted.max(to);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn notes_become_spans_that_end_where_they_were_written() {
        let call = 1;
        let notes = [
            (millis(1), Note::Instance { reused: false, waited: millis(1) }),
            (millis(5), Note::Call { call, what: "GET https://a/".into(), destination: "a".into(), configured: true }),
            (millis(5), Note::Queued { call, why: "for 10/s".into() }),
            (millis(25), Note::Admitted { call, waited: millis(20), why: None }),
            (millis(40), Note::Answered { call, attempt: 1, status: 429, first_byte: millis(10) }),
            (millis(40), Note::Decided { call, what: "put back".into() }),
            (millis(40), Note::Queued { call, why: "paused".into() }),
            (millis(70), Note::Admitted { call, waited: millis(30), why: Some("for its turn".into()) }),
            (millis(90), Note::Failed { call, attempt: 2, why: "it broke".into() }),
            (millis(90), Note::Queued { call, why: "for 10/s".into() }),
            (millis(99), Note::Over { call, came: Came::GivenUp, took: millis(94), waited: millis(50), attempts: 2 }),
        ];
        let timeline = Timeline::of(&notes);
        let spans: Vec<_> = timeline.steps.iter().map(|step| (step.from.as_millis(), step.to.as_millis())).collect();
        let wanted =
            [(0, 1), (5, 5), (5, 5), (5, 25), (30, 40), (40, 40), (40, 40), (40, 70), (70, 90), (90, 90), (5, 99)];
        assert_eq!(spans, wanted);
        let call = &timeline.calls[&1];
        let waits: Vec<_> =
            call.waits.iter().map(|(from, to, why)| (from.as_millis(), to.as_millis(), &**why)).collect();
        assert_eq!(waits, [(5, 25, "for 10/s"), (40, 70, "paused, at the end for its turn"), (90, 99, "for 10/s")]);
        assert_eq!(
            call.attempts.iter().map(|attempt| attempt.came.clone()).collect::<Vec<_>>(),
            [AttemptCame::Answer(429), AttemptCame::Failed("it broke".into())]
        );
        assert_eq!((call.from, call.to, call.came), (millis(5), millis(99), Some(Came::GivenUp)));
    }

    #[test]
    fn spans_beside_one_another_count_once() {
        for (spans, sum) in
            [(vec![], 0), (vec![(0, 5)], 5), (vec![(0, 5), (3, 8)], 8), (vec![(6, 8), (0, 5), (1, 2)], 7)]
        {
            let spans = spans.into_iter().map(|(from, to)| (millis(from), millis(to)));
            assert_eq!(union(spans), millis(sum));
        }
    }
}

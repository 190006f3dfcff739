//! Guests that together take more memory than the node gives to all of them harm themselves: others go on, and what they
//! held comes back.

use std::time::Duration;

use futures::future::join_all;
use http::Request;
use serde_json::json;
use tidegate_tests::{Answer, Client, Gate, assert_names_its_bound, besieged, contained, eventually};

const MIB: f64 = (1 << 20) as f64;

async fn attempt(gate: &Gate, path: &str) -> Result<Answer, String> {
    let request = Request::get(gate.url(&format!("/f/{path}"))).body(Default::default()).unwrap();
    Client::default().try_send(request).await
}

/// A gate under siege whose neighbour gets a new instance for each request.
async fn gate(guest: &str, flags: &str) -> Gate {
    let gate = besieged(guest, flags).await;
    let answer = gate.configure("neighbour", json!({"auth": "public", "isolation": "request"})).await;
    assert!(answer.status.is_success(), "{}", answer.text());
    gate
}

/// The most that all guests hold until the attack is over, bytes.
async fn most_held<T>(gate: &Gate, attack: impl Future<Output = T>) -> (T, f64) {
    let mut most = 0_f64;
    let watch = async {
        loop {
            most = most.max(gate.metric("tidegate_guest_memory_bytes").await);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let outcome = tokio::select! {
        outcome = attack => outcome,
        () = watch => unreachable!(),
    };
    (outcome, most)
}

#[tokio::test]
async fn instances_that_hold_what_they_can_get_leave_room_for_others_and_it_comes_back() {
    let gate = gate("misbehave", "--total-guest-memory 128MiB --guest-wall 10s").await;
    assert_eq!(gate.metric("tidegate_guest_memory_bound_bytes").await, 128.0 * MIB);
    for round in 0..3 {
        let attack = join_all((0..16).map(|_| attempt(&gate, "misbehave/hold?mib=16&ms=700")));
        let (answers, most) = most_held(&gate, contained(&gate, "hold", attack)).await;
        let (held, refused): (Vec<_>, Vec<_>) =
            answers.into_iter().map(Result::unwrap).partition(|answer| answer.status == 200);
        assert!((1..=3).contains(&held.len()), "{} of 16 held 16 MiB of the 64 MiB that are one's", held.len());
        for answer in refused {
            assert_eq!(answer.status, 503);
            assert!(!answer.header("retry-after").is_empty());
            assert_names_its_bound(&answer, "total-guest-memory", "total_guest_memory");
            assert_eq!(answer.json()["value"], "128MiB");
        }
        // Half for the attackers; the neighbour has an instance or a few.
        assert!(most > 16.0 * MIB && most < 72.0 * MIB, "{round}: {} MiB held", most / MIB);
        eventually("all memory came back", async || gate.metric("tidegate_guest_memory_bytes").await == 0.0).await;
    }
}

#[tokio::test]
async fn guests_that_allocate_without_end_on_shared_instances_meet_the_same_bound() {
    let gate = gate("misbehave-p3", "--total-guest-memory 64MiB --guest-cpu 10s --guest-wall 20s").await;
    let attack = join_all((0..8).map(|_| attempt(&gate, "misbehave-p3/alloc")));
    let (answers, most) = most_held(&gate, contained(&gate, "alloc", attack)).await;
    for answer in answers {
        let answer = answer.unwrap();
        match answer.problem().as_str() {
            // It was alone, and may have half of all.
            "guest-memory" => assert_names_its_bound(&answer, "guest-memory", "total_guest_memory"),
            // Requests that share an instance share its end.
            "instance-lost" => {}
            _ => assert_names_its_bound(&answer, "total-guest-memory", "total_guest_memory"),
        }
    }
    assert!(most < 40.0 * MIB, "{} MiB held", most / MIB);
    eventually("all memory came back", async || gate.metric("tidegate_guest_memory_bytes").await == 0.0).await;
    assert_eq!(attempt(&gate, "misbehave-p3/").await.unwrap().status, 200);
}

#[tokio::test]
async fn an_instance_waits_for_memory_to_a_deadline_and_then_is_told_the_bound() {
    let gate = gate("misbehave", "--total-guest-memory 10MiB --instance-wait 500ms").await;
    let slow = contained(&gate, "sleep", join_all((0..12).map(|_| attempt(&gate, "misbehave/sleep?ms=1500")))).await;
    let (served, refused): (Vec<_>, Vec<_>) =
        slow.into_iter().map(Result::unwrap).partition(|answer| answer.status == 200);
    // Each begins with a little more than 1 MiB, and 5 MiB are one's.
    assert!((3..=4).contains(&served.len()), "{} served", served.len());
    for answer in refused {
        assert_eq!(answer.status, 503);
        assert!(!answer.header("retry-after").is_empty());
        assert_names_its_bound(&answer, "total-guest-memory", "total_guest_memory");
        assert!(answer.text().contains("instance_wait"), "{}", answer.text());
    }
    // Who comes in time is served when memory comes back.
    let patient = join_all((0..8).map(|_| attempt(&gate, "misbehave/sleep?ms=100"))).await;
    for answer in patient {
        assert_eq!(answer.unwrap().status, 200);
    }
}

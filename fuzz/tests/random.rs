//! Inputs by chance, as many as a test has time for: a fuzzer tries more, and looks where it gets.

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(1_000), ..ProptestConfig::default() })]
    /// Also brakes, changes of settings, what operators do, and answers that turn out otherwise.
    #[test]
    fn every_order_of_events_at_a_shard_keeps_the_promises(bytes in prop::collection::vec(any::<u8>(), 1..3_000)) {
        if let Some(run) = tidegate_fuzz::target("actor") {
            run(&bytes);
        }
    }
}

//! The node's own log, where it can't be written.

use std::process::Stdio;

use tidegate_tests::Gate;
use tokio::net::TcpStream;

/// Where a log can't be written: a full disk, and a pipe of which nobody reads.
fn logs_that_fail() -> [Stdio; 2] {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    [full.into(), writer.into()]
}

#[tokio::test]
async fn a_log_that_can_not_be_written_costs_log_lines_and_nothing_else() {
    for log in logs_that_fail() {
        let gate = Gate::serve().flags("--max-connections 3 --drain-timeout 5s").stderr(log).start().await;
        // Those that use up the connections make the node tell it.
        let mut crowd = Vec::new();
        for _ in 0..6 {
            crowd.push(TcpStream::connect(&gate.data_address).await.unwrap());
        }
        drop(crowd);
        assert_eq!(gate.get("/healthz").await.status, 200);
        gate.signal(rustix::process::Signal::TERM);
        assert_eq!(gate.exit_code().await, Some(0));
    }
}

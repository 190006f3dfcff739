//! A node in this process, for one person on this machine: `tidegate dev`, `tidegate run`.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    api::Api,
    failure::{Exit, Failure},
    output::{Out, note},
    running::Running,
    target::{LOCAL_CONTROL, LOCAL_GATE, Target, server_url},
};
use crate::{
    node::{Node, NodeOptions, RootFunction, RunningNode, StartError, log_to_stderr},
    observe::{FeedReader, LogEnd},
    settings::{NodeSettings, Settings},
};

/// A node that takes requests without a token.
pub(super) struct LocalNode {
    node: RunningNode,
    running: Running,
    // Other commands find the node as long as this is held.
    _announced: Option<File>,
    _log: LogEnd,
}

impl LocalNode {
    /// Starts it, with a function at `/` if there is one.
    pub(super) async fn start(mut settings: Settings, root: Option<RootFunction>) -> Result<Self, Failure> {
        allow_loopback(&mut settings.outbound.egress_allow);
        let data = settings.node.data.clone();
        let log = log_to_stderr(&settings.node).map_err(failed)?;
        let options = NodeOptions { open: true, root, ..NodeOptions::default() };
        let node = Node::start(settings, options).await.map_err(failed)?;
        let running = Running {
            control: format!("http://{}", node.control_addr),
            gate: format!("http://{}", node.data_addr),
            token: node.admin_token.clone(),
        };
        // Without the file only the convenience is lost.
        let announced = running.announce(&data).ok();
        Ok(Self { node, running, _announced: announced, _log: log })
    }

    /// Its data listener.
    pub(super) fn gate(&self) -> &str {
        &self.running.gate
    }

    /// Its control listener.
    pub(super) fn control(&self) -> &str {
        &self.running.control
    }

    /// What happens from now on.
    pub(super) fn feed(&self) -> FeedReader {
        self.node.observe.feed.read()
    }

    /// Its control API.
    pub(super) fn api(&self, out: Out) -> Result<Api, Failure> {
        let url = server_url(&self.running.control).map_err(|why| Failure::new(Exit::Failed, why))?;
        let target = Target { url, token: self.running.token.clone(), gate: None, from: String::new() };
        Ok(Api::of(target, out))
    }

    /// Lets open requests finish for a moment, then ends it.
    pub(super) async fn stop(self) {
        self.node.shutdown().await;
    }
}

/// Lets calls reach this machine besides what is allowed already.
fn allow_loopback(allowed: &mut Vec<IpNet>) {
    let loopback: [IpNet; 2] = [
        Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into(),
        Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128).into(),
    ];
    for network in loopback {
        if !allowed.contains(&network) {
            allowed.push(network);
        }
    }
}

fn failed(error: StartError) -> Failure {
    let exit = match error {
        StartError::Setting { .. } | StartError::Root { .. } => Exit::Usage,
        _ => Exit::Failed,
    };
    Failure::new(exit, error.to_string())
}

/// Takes a free port where a usual one, not asked for by name, is in use.
pub(super) fn give_way(settings: &mut NodeSettings) -> Result<(), Failure> {
    for (address, usual, what) in [
        (&mut settings.listen, LOCAL_GATE, "functions and the gate"),
        (&mut settings.control_listen, LOCAL_CONTROL, "the control API"),
    ] {
        if usual.strip_prefix("http://") == Some(address.to_string().as_str()) && is_taken(*address)? {
            note(format_args!("{address} is in use; {what} are at another port"));
            address.set_port(0);
        }
    }
    Ok(())
}

fn is_taken(address: SocketAddr) -> io::Result<bool> {
    match std::net::TcpListener::bind(address) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(true),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_that_are_allowed_come_on_top_of_loopback() {
        for given in [&[][..], &["10.0.0.0/8"], &["127.0.0.0/8", "::1/128"]] {
            let mut allowed: Vec<IpNet> = given.iter().map(|network| network.parse().unwrap()).collect();
            let before = allowed.clone();
            allow_loopback(&mut allowed);
            assert!(before.iter().all(|network| allowed.contains(network)));
            assert_eq!(allowed.iter().filter(|network| network.addr().is_loopback()).count(), 2, "{given:?}");
        }
    }
}

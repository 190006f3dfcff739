//! Where each request goes: functions by name, by host and by path.

use std::{collections::HashMap, sync::Arc};

use super::LiveFunction;
use crate::{
    cluster::registry::{RouteHost, RoutePattern},
    ids::FunctionName,
    ingress::route::name_below,
};

type Routed<D> = Vec<(RoutePattern, Arc<LiveFunction<D>>)>;

/// Where each request goes.
pub struct Table<D> {
    pub(super) revision: u64,
    by_name: HashMap<FunctionName, Arc<LiveFunction<D>>>,
    hosts: HashMap<Box<str>, Routed<D>>,
    // Longest host first.
    below: Routed<D>,
    any_host: Routed<D>,
}

impl<D> Table<D> {
    pub(super) fn empty(revision: u64) -> Self {
        Self { revision, by_name: HashMap::new(), hosts: HashMap::new(), below: Vec::new(), any_host: Vec::new() }
    }

    /// Adds a function under its name and the routes of the version that serves.
    pub(super) fn add(&mut self, live: Arc<LiveFunction<D>>) {
        let routes = live.version(None).map(|version| version.identity().record.config.routes.clone());
        for route in routes.unwrap_or_default() {
            // A route that a later release wrote and we can't read is not served; it stays in storage.
            let Ok(pattern) = RoutePattern::parse(&route) else { continue };
            let list = match &pattern.host {
                RouteHost::Any => &mut self.any_host,
                RouteHost::Below(_) => &mut self.below,
                RouteHost::Exact(host) => self.hosts.entry(host.clone()).or_default(),
            };
            list.push((pattern, Arc::clone(&live)));
        }
        self.by_name.insert(live.name().clone(), live);
    }

    /// Brings the routes into the order in which they are looked through.
    pub(super) fn sort(&mut self) {
        let host = |pattern: &RoutePattern| match &pattern.host {
            RouteHost::Below(below) => below.len(),
            _ => 0,
        };
        // A path itself before all paths that begin with it.
        let rank = |pattern: &RoutePattern| std::cmp::Reverse((host(pattern), pattern.path.len(), !pattern.open));
        for list in self.hosts.values_mut().chain([&mut self.below, &mut self.any_host]) {
            list.sort_by_key(|(pattern, _)| rank(pattern));
        }
    }

    /// The function of this name.
    pub fn by_name(&self, name: &str) -> Option<&Arc<LiveFunction<D>>> {
        // FunctionName borrows as str, so nothing is allocated.
        self.by_name.get(name)
    }

    /// All of them.
    pub fn functions(&self) -> impl Iterator<Item = &Arc<LiveFunction<D>>> {
        self.by_name.values()
    }

    /// The function that a host names below the domain, where it does.
    pub fn by_domain<'a>(&self, host: &'a str, domain: &str) -> Option<Result<&Arc<LiveFunction<D>>, &'a str>> {
        let name = name_below(host, domain)?;
        let found = self.by_name(name).or_else(|| self.by_name(&name.to_ascii_lowercase()));
        Some(found.ok_or(name))
    }

    /// Whether any route says something about hosts.
    pub fn has_hosts(&self) -> bool {
        !self.hosts.is_empty() || !self.below.is_empty()
    }

    /// The function with the longest route for exactly this host, if there is one.
    pub fn by_host(&self, host: &str, path: &str) -> Option<&Arc<LiveFunction<D>>> {
        if self.hosts.is_empty() {
            return None;
        }
        if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return self.by_host(&host.to_ascii_lowercase(), path);
        }
        self.hosts.get(host).and_then(|routes| first(routes, path))
    }

    /// The function with the longest route for hosts below the nearest `*.` that this one is below, if there is one.
    pub fn by_wildcard(&self, host: &str, path: &str) -> Option<&Arc<LiveFunction<D>>> {
        if self.below.is_empty() {
            return None;
        }
        if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return self.by_wildcard(&host.to_ascii_lowercase(), path);
        }
        let fits = |pattern: &RoutePattern| match &pattern.host {
            RouteHost::Below(below) => {
                host.strip_suffix(&**below).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
            _ => false,
        };
        self.below.iter().find(|(pattern, _)| fits(pattern) && pattern.takes(path)).map(|(_, function)| function)
    }

    /// The function with the longest route for any host.
    pub fn by_path(&self, path: &str) -> Option<&Arc<LiveFunction<D>>> {
        first(&self.any_host, path)
    }
}

fn first<'a, D>(routes: &'a Routed<D>, path: &str) -> Option<&'a Arc<LiveFunction<D>>> {
    routes.iter().find(|(pattern, _)| pattern.takes(path)).map(|(_, function)| function)
}

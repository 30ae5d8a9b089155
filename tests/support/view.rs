//! Owns: what a node of a [`Cluster`] says of the cluster, and waiting until it says something.
//! Never: whether that is right.

use std::ops::Range;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::cluster::Cluster;
use super::http::Client;

/// A node's `/cluster`.
pub struct View<'a> {
    cluster: &'a Cluster,
    page: Value,
}

/// One shard of it.
pub struct ShardView<'a> {
    cluster: &'a Cluster,
    shard: &'a Value,
}

impl View<'_> {
    pub fn shard(&self, shard: usize) -> ShardView<'_> {
        ShardView { cluster: self.cluster, shard: &self.page["shards"][shard] }
    }
}

impl ShardView<'_> {
    pub fn number(&self, name: &str) -> u64 {
        self.shard[name].as_u64().unwrap()
    }

    fn copy(&self, node: usize) -> &Value {
        let address = self.cluster.addresses[node].to_string();
        self.shard["nodes"].as_array().unwrap().iter().find(|row| row["address"] == address.as_str()).unwrap()
    }

    pub fn role_of(&self, node: usize) -> &str {
        self.copy(node)["role"].as_str().unwrap()
    }

    pub fn is_in_sync(&self, node: usize) -> bool {
        self.copy(node)["in_sync"] == true
    }

    /// The copy that says that it leads.
    pub fn leader(&self, copies: Range<usize>) -> Option<usize> {
        let mut leaders = copies.filter(|node| self.role_of(*node) == "primary" && self.copy(*node)["up"] == true);
        leaders.next()
    }

    /// All copies run and are in sync, under one of them.
    pub fn is_whole(&self, copies: Range<usize>) -> bool {
        let is_sound = |node| self.copy(node)["in_sync"] == true && self.copy(node)["up"] == true;
        self.leader(copies.clone()).is_some() && copies.into_iter().all(is_sound)
    }
}

impl Cluster {
    /// What a node says; it must run.
    pub fn view(&self, node: usize) -> View<'_> {
        self.try_view(node).unwrap_or_else(|| panic!("node {node} does not answer"))
    }

    fn try_view(&self, node: usize) -> Option<View<'_>> {
        let answer = Client::try_connect(self.addresses[node])?.try_call("GET /cluster")?;
        let page = serde_json::from_slice(&answer.body).unwrap();
        Some(View { cluster: self, page })
    }

    /// Asks copies of a shard that are not frozen until one that leads says this of itself.
    fn wait_for_view<T>(&self, shard: usize, found: impl Fn(ShardView<'_>, usize) -> Option<T>) -> T {
        loop {
            for node in self.copies(shard).filter(|node| !self.is_frozen(*node)) {
                let Some(view) = self.try_view(node) else { continue };
                if view.shard(shard).role_of(node) == "primary"
                    && let Some(found) = found(view.shard(shard), node)
                {
                    return found;
                }
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for a primary of the shard that is as it should be.
    pub fn wait_for_leader(&self, shard: usize, is_right: impl Fn(usize) -> bool) -> usize {
        self.wait_for_view(shard, |_, leader| is_right(leader).then_some(leader))
    }

    /// Whether a node that runs says at this moment that it leads the shard.
    pub fn leads_now(&self, shard: usize, node: usize) -> bool {
        self.try_view(node).is_some_and(|view| view.shard(shard).role_of(node) == "primary")
    }

    /// Who leads a shard, once somebody does.
    pub fn leader(&self, shard: usize) -> usize {
        self.wait_for_leader(shard, |_| true)
    }

    /// The epoch of the shard's primary.
    pub fn epoch(&self, shard: usize) -> u64 {
        self.wait_for_view(shard, |view, _| Some(view.number("epoch")))
    }

    /// The version of the shard's configuration, as its primary has it.
    pub fn version(&self, shard: usize) -> u64 {
        self.wait_for_view(shard, |view, _| Some(view.number("version")))
    }

    /// Waits until all copies of a shard are up and in sync, as its primary and every other node sees it.
    pub fn wait_until_whole(&self, shard: usize) {
        self.wait_for_view(shard, |view, _| view.is_whole(self.copies(shard)).then_some(()));
        for node in 0..self.nodes() {
            while !self.try_view(node).is_some_and(|view| view.shard(shard).is_whole(self.copies(shard))) {
                thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

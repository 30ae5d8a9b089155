//! Owns: the pages that a node makes of itself: /where, /cluster, /livez, /readyz, /metrics, /.
//! Never: changes anything.

use std::fmt::Write as _;

use serde::Serialize;

use super::api::Call;
use super::metrics::{self, Gauge};
use super::render;
use super::turn::Server;
use crate::config::Role;
use crate::http::Head;
use crate::http::response::ContentType;
use crate::id::{NodeId, ShardId};
use crate::router;
use crate::wire::{CopyState, Status};

/// A page that this node makes of itself.
pub(super) struct Page {
    pub status: u16,
    pub kind: ContentType,
    pub body: String,
}

pub(super) fn page(server: &mut Server, call: &Call<'_>, head: &Head<'_>) -> Page {
    match call {
        Call::Where { key } => json(&where_is(server, key)),
        Call::Cluster => json(&cluster(server)),
        Call::Livez => text(200, "ok\n".to_owned()),
        Call::Readyz { verbose } => readyz(server, *verbose),
        Call::Metrics => Page { status: 200, kind: ContentType::Prometheus, body: metrics_text(server) },
        Call::Guide => text(200, render::guide_text(head)),
        Call::Data(_) | Call::Peer | Call::Handover { .. } | Call::Takeover { .. } => unreachable!("not a page"),
    }
}

fn text(status: u16, body: String) -> Page {
    Page { status, kind: ContentType::Text, body }
}

fn json(value: &impl Serialize) -> Page {
    let mut body = serde_json::to_string(value).expect("plain data has a JSON form");
    body.push('\n');
    Page { status: 200, kind: ContentType::Json, body }
}

#[derive(Serialize)]
struct WhereView {
    hash: String,
    shard: u32,
    name: String,
    primary: String,
    in_sync: Vec<String>,
}

fn where_is(server: &Server, key: &[u8]) -> WhereView {
    let shard = server.core.router().shard_of(key);
    let primary = address(server, server.core.directory().primary(shard));
    WhereView {
        hash: format!("{:016x}", router::hash(key)),
        shard: shard.0,
        name: server.cluster.shard(shard).name.clone(),
        in_sync: in_sync(server, shard).1,
        primary,
    }
}

#[derive(Serialize)]
struct ClusterView {
    shards: Vec<ShardView>,
    witnesses: Vec<NodeView>,
    fingerprint: String,
}

#[derive(Serialize)]
struct ShardView {
    idx: u32,
    name: String,
    epoch: u64,
    version: u64,
    primary: String,
    in_sync: Vec<String>,
    nodes: Vec<NodeView>,
}

#[derive(Serialize)]
struct NodeView {
    address: String,
    role: &'static str,
    state: &'static str,
    in_sync: bool,
    lag_records: u64,
    lsn: u64,
    committed: u64,
    up: bool,
}

/// Every shard, as this node sees it.
fn cluster(server: &Server) -> ClusterView {
    let shards = (0u32..).map(ShardId).zip(server.cluster.shards());
    let shards = shards.map(|(id, shard)| {
        let directory = server.core.directory();
        let primary = directory.primary(id);
        let (version, in_sync) = in_sync(server, id);
        let end = status_of(server, primary).0.end;
        let nodes = shard.nodes.iter().map(|node| NodeView {
            in_sync: in_sync.contains(&address(server, *node)),
            lag_records: end.0.saturating_sub(status_of(server, *node).0.end.0),
            ..node_view(server, *node, Some(primary))
        });
        ShardView {
            idx: id.0,
            name: shard.name.clone(),
            epoch: directory.epoch(id).0,
            version,
            primary: address(server, primary),
            nodes: nodes.collect(),
            in_sync,
        }
    });
    let witnesses = server.cluster.witnesses().map(|node| node_view(server, node, None)).collect();
    ClusterView { shards: shards.collect(), witnesses, fingerprint: format!("{:016x}", server.identity.fingerprint) }
}

/// The version of a shard's newest configuration that this node has heard of, and its in-sync copies: the primary is
/// believed before the others.
fn in_sync(server: &Server, shard: ShardId) -> (u64, Vec<String>) {
    let nodes = &server.cluster.shard(shard).nodes;
    let heard = nodes.iter().map(|node| status_of(server, *node).0);
    let newest = heard.max_by_key(|status| (status.version, status.is_primary)).unwrap_or_default();
    let listed = nodes.iter().enumerate().filter(|(at, _)| newest.in_sync >> at.min(&63) & 1 == 1);
    (newest.version, listed.map(|(_, node)| address(server, *node)).collect())
}

/// What a node last said of itself, and whether it is up.
fn status_of(server: &Server, node: NodeId) -> (Status, bool) {
    if node == server.me {
        return (server.core.status(), true);
    }
    let heard = server.core.directory().heard(node, server.now.ms());
    heard.map_or((Status::default(), false), |(heard, up)| (heard.status, up))
}

/// `primary`: who leads the node's shard, if it has one.
fn node_view(server: &Server, node: NodeId, primary: Option<NodeId>) -> NodeView {
    let (status, up) = status_of(server, node);
    NodeView {
        address: address(server, node),
        role: match primary {
            None => Role::Witness,
            Some(primary) if primary == node => Role::Primary,
            Some(_) => Role::Replica,
        }
        .as_str(),
        state: if up { status.state.as_str() } else { CopyState::Unknown.as_str() },
        in_sync: false,
        lag_records: 0,
        lsn: status.end.0,
        committed: status.committed.0,
        up,
    }
}

fn address(server: &Server, node: NodeId) -> String {
    server.cluster.node(node).address.to_string()
}

/// Whether this copy can serve its role, check by check.
fn readyz(server: &Server, verbose: bool) -> Page {
    let damage = server.core.store().health();
    let checks =
        [
            ("running", (server.draining_until_ms.is_some()).then(|| "this node is stopping".to_owned())),
            (
                "copy",
                match server.core.state() {
                    CopyState::Serving | CopyState::InSync | CopyState::Witness => None,
                    CopyState::Damaged => Some(damage.map_or("this copy is damaged".to_owned(), |damage| {
                        format!("{damage}; {}", server.core.remedy())
                    })),
                    state => Some(server.core.why_not(state)),
                },
            ),
            ("voter", server.core.why_no_vote()),
            ("disk", server.core.disk_is_slow().then(|| "the disk has not answered for deadlines.disk_ms".to_owned())),
        ];
    let ready = checks.iter().all(|(_, why)| why.is_none());
    let mut body = String::new();
    if verbose {
        for (name, why) in &checks {
            let _ = match why {
                None => writeln!(body, "[+] {name} ok"),
                Some(why) => writeln!(body, "[-] {name}: {why}"),
            };
        }
        for (node, why) in &server.identity.refusals {
            let _ = writeln!(body, "[!] no link with {}: {why}", server.name_of(*node));
        }
    }
    let summary = checks.into_iter().find_map(|(_, why)| why).unwrap_or_else(|| "ready".to_owned());
    let _ = writeln!(body, "{summary}");
    text(if ready { 200 } else { 503 }, body)
}

fn metrics_text(server: &mut Server) -> String {
    let stats = server.core.store().stats();
    let counters = server.core.counters().clone();
    let status = server.core.status();
    let (mut clients, mut links) = (0u64, 0u64);
    for conn in server.reactor.iter_mut() {
        match conn.state {
            super::conn::Role::Client(_) => clients += 1,
            super::conn::Role::Link(_) => links += 1,
        }
    }
    let (shard, role) = match server.cluster.node(server.me).shard {
        None => (String::new(), Role::Witness),
        Some(shard) => (shard.0.to_string(), if status.is_primary { Role::Primary } else { Role::Replica }),
    };
    let labels = format!("shard=\"{shard}\",role=\"{}\"", role.as_str());
    let labelled = |gauge: Gauge, labels: &str| Gauge { labels: labels.to_owned(), ..gauge };
    let conns = |kind: &str, n: u64| {
        labelled(Gauge::new("dkv_connections", "Open connections.", n as f64), &format!("kind=\"{kind}\""))
    };
    let log_bytes = |state: &str, n: u64| {
        let help = "Bytes of records in the log: of keys' present values, and superseded or deleted.";
        labelled(Gauge::new("dkv_log_bytes", help, n as f64), &format!("state=\"{state}\""))
    };
    let forwards = |result: &str, n: u64| {
        let help = "Requests forwarded to another node, by what came of them.";
        labelled(Gauge::counter("dkv_forwards_total", help, n), &format!("result=\"{result}\""))
    };
    let behind_s = if shard.is_empty() { 0.0 } else { server.core.copy().behind_ms() as f64 / 1_000.0 };
    let to_go = server.core.full_sync().map_or(0, |(at, goal)| goal.0.saturating_sub(at.0));
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    let calls = server.reactor.calls();
    let socket_calls = [("read", calls.reads), ("write", calls.writes)].map(|(call, n)| {
        let help = "System calls on sockets.";
        labelled(Gauge::counter("dkv_socket_calls_total", help, n), &format!("call=\"{call}\""))
    });
    let mut gauges = vec![
        labelled(Gauge::new("dkv_build_info", "The program's version.", 1.0), &version),
        labelled(Gauge::new("dkv_node_info", "This node's shard and role.", 1.0), &labels),
        Gauge::new("dkv_ready", "Whether this copy can serve its role.", f64::from(u8::from(status.ready))),
        Gauge::new("dkv_epoch", "The copy's epoch.", status.epoch.0 as f64),
        Gauge::new("dkv_in_sync", "Copies of the shard that are in sync.", f64::from(status.in_sync.count_ones())),
        Gauge::new(
            "dkv_lag_records",
            "Records that this copy lacks of its primary's.",
            server.core.lag_records() as f64,
        ),
        Gauge::new("dkv_lag_seconds", "For how long this copy may lack some.", behind_s),
        Gauge::new("dkv_full_sync_records", "Of a full sync under way: records to go.", to_go as f64),
        Gauge::counter("dkv_full_syncs_total", "Times that this copy began to get all data anew.", counters.full_syncs),
        Gauge::new(
            "dkv_without_primary_seconds_total",
            "How long this node has seen no primary of its shard that serves.",
            counters.without_primary_ns as f64 / 1e9,
        ),
        Gauge::counter(
            "dkv_confirmed_reads_total",
            "Reads for which the other copies were asked.",
            counters.confirmed_reads,
        ),
        Gauge::new("dkv_log_end_lsn", "The last record in the log.", status.end.0 as f64),
        Gauge::new("dkv_committed_lsn", "The last committed record.", status.committed.0 as f64),
        conns("client", clients),
        conns("link", links),
        Gauge::new("dkv_keys", "Keys with a value.", server.core.store().keys() as f64),
        log_bytes("live", stats.live_bytes),
        log_bytes("dead", stats.dead_bytes),
        Gauge::new("dkv_log_disk_bytes", "Bytes that the log takes on the disk.", stats.log_bytes as f64),
        Gauge::new("dkv_log_segments", "Files of the log.", stats.segments as f64),
        Gauge::counter("dkv_compactions_total", "Compactions.", stats.compactions),
        Gauge::counter("dkv_compacted_bytes_total", "Bytes that compactions wrote.", stats.compacted_bytes),
        Gauge::new("dkv_index_bytes", "Memory of the index.", stats.index_bytes as f64),
        Gauge::new(
            "dkv_disk_full",
            "Whether the last reservation found the disk full.",
            u8::from(stats.disk_full).into(),
        ),
        forwards("answered", counters.forwards_answered),
        forwards("lost", counters.forwards_lost),
        forwards("misled", counters.forwards_misled),
        Gauge::counter("dkv_forwards_sent_total", "Requests forwarded to another node.", counters.forwards),
        Gauge::counter("dkv_forwarded_here_total", "Requests of other nodes taken.", counters.forwarded_here),
        Gauge::counter(
            "dkv_waits_for_primary_total",
            "Requests that had to wait for a primary.",
            counters.waited_for_primary,
        ),
        Gauge::counter("dkv_cold_reads_total", "Reads that went to the disk.", counters.cold_reads),
        Gauge::new(
            "dkv_inflight_bytes",
            "Bytes in buffers and kept requests, and of bodies let in (limits.max_inflight_bytes).",
            server.inflight_bytes() as f64,
        ),
    ];
    for (reason, n) in &counters.changes {
        let help = "Changes of the shard's configuration that this copy learned of, by reason.";
        let labels = format!("reason=\"{reason}\"");
        gauges.push(labelled(Gauge::counter("dkv_configuration_changes_total", help, *n), &labels));
    }
    if let Some(leading) = server.core.copy().leading() {
        for follower in leading.followers.all() {
            let help = "Records that another copy has not made durable yet, as its primary sees it.";
            let lag = status.end.0.saturating_sub(follower.acked.0);
            let labels = format!("node=\"{}\"", address(server, follower.node));
            gauges.push(labelled(Gauge::new("dkv_follower_lag_records", help, lag as f64), &labels));
        }
    }
    gauges.extend(socket_calls);
    gauges.extend(super::process::gauges(server.started_wall_ms));
    metrics::text(&server.metrics, &gauges)
}

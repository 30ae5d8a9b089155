//! Owns: the table as canonical text, its fingerprint, and how two tables' difference is told.
//! Never: the file's spelling, settings.

use std::fmt::Write;
use std::hash::Hasher;

use super::Cluster;

/// How much of a foreign line is shown: it comes from the network.
const SHOWN_CHARS: usize = 200;

/// What the witnesses' line begins with. A shard's begins with its index.
const WITNESSES: &str = "witnesses";

/// One line a shard, fields separated by tabs, which no name contains: idx, name, primary, replicas. Then, if there are
/// any, a line of the witnesses.
pub(super) fn canonical(cluster: &Cluster) -> String {
    let mut text = String::new();
    for (idx, shard) in cluster.shards().iter().enumerate() {
        let _ = write!(text, "{idx}\t{}", shard.name);
        for node in &shard.nodes {
            let _ = write!(text, "\t{}", cluster.node(*node).address);
        }
        text.push('\n');
    }
    if cluster.witnesses().next().is_some() {
        text.push_str(WITNESSES);
        for witness in cluster.witnesses() {
            let _ = write!(text, "\t{}", cluster.node(witness).address);
        }
        text.push('\n');
    }
    text
}

pub(super) fn fingerprint(canonical: &str) -> u64 {
    let mut hasher = fnv::FnvHasher::default();
    hasher.write(canonical.as_bytes());
    hasher.finish()
}

/// Says in a sentence where two canonical tables differ: the first place that does, and how many more do. `theirs` may
/// be any text: it is cut and escaped.
#[must_use]
pub fn difference(mine: &str, theirs: &str) -> String {
    let is_shard = |line: &&str| !line.starts_with(WITNESSES);
    let (mut ours, mut others) = (mine.lines().filter(is_shard), theirs.lines().filter(is_shard));
    let mut told = None;
    let mut different = 0;
    for idx in 0.. {
        let pair = (ours.next(), others.next());
        if pair == (None, None) {
            break;
        }
        if pair.0 != pair.1 {
            different += 1;
            told.get_or_insert_with(|| format!("shard {idx}: here {}, there {}", shard(pair.0), shard(pair.1)));
        }
    }
    let witnesses = |text: &str| text.lines().find(|line| !is_shard(line)).map(str::to_owned);
    let pair = (witnesses(mine), witnesses(theirs));
    if pair.0 != pair.1 {
        different += 1;
        told.get_or_insert_with(|| format!("witnesses: here {}, there {}", list(pair.0), list(pair.1)));
    }
    let Some(told) = told else { return "the tables are equal".to_owned() };
    match different - 1 {
        0 => told,
        1 => told + "; 1 more line differs",
        n => format!("{told}; {n} more lines differ"),
    }
}

/// A shard's line for people: `(Moscow at 127.0.0.1:8080, replicas 127.0.0.1:8081)`.
fn shard(line: Option<&str>) -> String {
    let Some(line) = line else { return "absent".to_owned() };
    let (fields, dots) = fields(line);
    let mut fields = fields.into_iter();
    let name = fields.next().unwrap_or_default();
    let primary = fields.next().unwrap_or_default();
    let replicas = fields.collect::<Vec<_>>().join(", ");
    let replicas = if replicas.is_empty() { "no replicas".to_owned() } else { format!("replicas {replicas}") };
    format!("({name} at {primary}, {replicas}{dots})")
}

/// The witnesses' line for people: `(127.0.0.1:8090, 127.0.0.1:8091)`.
fn list(line: Option<String>) -> String {
    let Some(line) = line else { return "none".to_owned() };
    let (fields, dots) = fields(&line);
    format!("({}{dots})", fields.join(", "))
}

/// A line's fields without the first, made harmless, and a mark where not all of it is there.
fn fields(line: &str) -> (Vec<String>, &'static str) {
    let cut: String = line.chars().take(SHOWN_CHARS).collect();
    let fields = cut.split('\t').map(|f| f.escape_debug().to_string()).skip(1).collect();
    (fields, if cut.len() < line.len() { "…" } else { "" })
}

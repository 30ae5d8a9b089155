//! Owns: the table as canonical text, its fingerprint, and how two tables' difference is told.
//! Never: the file's spelling, settings.

use std::fmt::Write;
use std::hash::Hasher;

use super::Cluster;

/// How much of a foreign line is shown: it comes from the network.
const SHOWN_CHARS: usize = 200;

/// One line a shard, fields separated by tabs, which no name contains: idx, name, primary, replicas.
pub(super) fn canonical(cluster: &Cluster) -> String {
    let mut text = String::new();
    for (idx, shard) in cluster.shards().iter().enumerate() {
        let _ = write!(text, "{idx}\t{}", shard.name);
        for node in &shard.nodes {
            let _ = write!(text, "\t{}", cluster.node(*node).address);
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

/// Says in a sentence where two canonical tables differ: the first shard that does, and how many more do. `theirs`
/// may be any text: it is cut and escaped.
#[must_use]
pub fn difference(mine: &str, theirs: &str) -> String {
    let (mut ours, mut others) = (mine.lines(), theirs.lines());
    let mut first = None;
    let mut different = 0;
    for idx in 0.. {
        let pair = (ours.next(), others.next());
        if pair == (None, None) {
            break;
        }
        if pair.0 != pair.1 {
            different += 1;
            first.get_or_insert((idx, pair));
        }
    }
    let Some((idx, (our, other))) = first else { return "the tables are equal".to_owned() };
    let more = match different - 1 {
        0 => String::new(),
        n => format!("; {n} more shard{} differ{}", if n == 1 { "" } else { "s" }, if n == 1 { "s" } else { "" }),
    };
    format!("shard {idx}: here {}, there {}{more}", describe(our), describe(other))
}

/// A line of a table for people: `Moscow at 127.0.0.1:8080, replicas 127.0.0.1:8081`.
fn describe(line: Option<&str>) -> String {
    let Some(line) = line else { return "absent".to_owned() };
    let cut: String = line.chars().take(SHOWN_CHARS).collect();
    let mut fields = cut.split('\t').map(|f| f.escape_debug().to_string()).skip(1);
    let name = fields.next().unwrap_or_default();
    let primary = fields.next().unwrap_or_default();
    let replicas = fields.collect::<Vec<_>>().join(", ");
    let replicas = if replicas.is_empty() { "no replicas".to_owned() } else { format!("replicas {replicas}") };
    let dots = if cut.len() < line.len() { "…" } else { "" };
    format!("({name} at {primary}, {replicas}{dots})")
}

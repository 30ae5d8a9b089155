//! Owns: the target `table`: any text as `sharding.toml`. It gives a cluster whose parts fit each other, or mistakes with
//! places that are in the text.
//! Never: what settings mean.

use super::harness::{Target, Trail};
use dkv::config::{Cluster, ConfigError, parse};
use dkv::node::registers::{Table, choose_voters, voter_warnings};

pub const TARGET: Target = Target {
    name: "table",
    seeds,
    words: &[
        b"[[shard]]\n",
        b"[[witness]]\n",
        b"[shard]\n",
        b"name = \"x\"\n",
        b"idx = 0\n",
        b"idx = 1\n",
        b"address = \"127.0.0.1:8081\"\n",
        b"address = \"[::1]:1\"\n",
        b"replicas = [\"127.0.0.1:8082\"]\n",
        b"[limits]\n",
        b"[deadlines]\n",
        b"[replication]\n",
        b"[store]\n",
        b"[http]\n",
        b"max_value_bytes = ",
        b"failover_ms = ",
        b"reads = \"confirm\"\n",
        b"segment_bytes = ",
        b"allowed_hosts = [\"a\"]\n",
        b"\"",
        b"'''",
        b"\"\"\"",
        b"[[",
        b"]]",
        b"{",
        b"}",
        b"[",
        b"=",
        b".",
        b"\\u00e4",
        b"\\ud800",
        b"\r\n",
        b"\r",
        b"\t",
        b"#",
        b"1979-05-27T07:32:00Z",
        b"0x7fffffffffffffff",
        b"-9223372036854775808",
        b"inf",
        b"1e400",
        b"\xef\xbb\xbf",
        "ä\u{301}🦀\u{2028}".as_bytes(),
    ],
    longest: 3000,
    executions: 4000,
    run,
};

fn seeds() -> Vec<Vec<u8>> {
    let all = "[limits]\nmax_key_bytes = 100\nmax_value_bytes = 65536\nmax_head_bytes = 65536\nmax_connections = 7\n\
        max_inflight_bytes = 1073741824\nmax_pipeline = 4\n[deadlines]\nhead_ms = 1000\nidle_ms = 5\nwait_ms = 100\n\
        [replication]\nfailover_ms = 300\nreads = \"lease\"\n[store]\ndirectory = \"d\"\nsegment_bytes = 1048576\n\
        compact_dead_percent = 30\n[http]\nallowed_hosts = [\"example.org\"]\nallowed_origins = [\"https://a.b\"]\n";
    let witnesses = "[[shard]]\nname = 'ä'\nidx = 0\naddress = '10.0.0.1:1'\nreplicas = ['[::ffff:10.0.0.2]:1']\n\
        [[witness]]\naddress = '10.0.0.3:1'\n";
    let inline = "shard = [{ name = \"a\", idx = 0, address = \"10.0.0.1:1\" }]\r\nlimits.max_pipeline = 3\r\n";
    [include_str!("../../sharding.toml"), all, witnesses, inline, ""].map(|text| text.as_bytes().to_vec()).to_vec()
}

fn run(input: &[u8], trail: &mut Trail) {
    let text = String::from_utf8_lossy(input);
    match parse(&text, "f") {
        Ok(loaded) => {
            trail.step((loaded.cluster.shards().len(), loaded.cluster.nodes().len(), loaded.warnings.len()));
            check_cluster(&loaded.cluster);
            assert!(loaded.warnings.iter().all(|warning| !warning.is_empty()));
            assert!(!loaded.origins.is_empty());
        }
        Err(errors) => {
            assert!(!errors.is_empty(), "a refusal has a reason");
            let places: Vec<(usize, usize)> = errors.iter().map(|e| (e.line, e.column)).collect();
            assert!(places.is_sorted(), "in the order of the text: {places:?}");
            for error in &errors {
                check_error(error, &text);
                trail.step(shape(&error.message));
            }
        }
    }
}

/// What a message says before and behind all that it quotes; numbers do not count.
fn shape(message: &str) -> (String, String) {
    let is_quote = |c: char| matches!(c, '"' | '`' | '\'' | '[');
    let words = |text: Option<&str>| text.unwrap_or_default().replace(|c: char| !c.is_ascii_alphabetic(), "");
    (words(message.split(is_quote).next()), words(message.rsplit(is_quote).next()))
}

fn check_error(error: &ConfigError, text: &str) {
    let line = text.split('\n').nth(error.line - 1).map(|line| line.trim_end_matches('\r'));
    assert_eq!(Some(error.source.as_str()), line, "{error:?}");
    // A caret may stand behind the last character: there something is missing; or under the line's end itself.
    let chars = text.split('\n').nth(error.line - 1).unwrap_or_default().chars().count();
    assert!((1..=chars + 1).contains(&error.column), "{error:?}");
    assert!(error.width >= 1 && error.column - 1 + error.width <= chars + 1, "{error:?}");
    assert!(!error.message.is_empty() && !error.advice.is_empty(), "{error:?}");
    assert!(!error.message.contains(['\n', '\r']) && !error.advice.contains(['\n', '\r']), "{error:?}");
    assert!(error.to_string().lines().count() >= 4, "{error}");
}

fn check_cluster(cluster: &Cluster) {
    assert!(!cluster.shards().is_empty());
    for id in cluster.node_ids() {
        let node = cluster.node(id);
        assert_eq!(cluster.node_at(node.address), Some(id));
        assert_ne!(node.address.port(), 0);
        if let Some(shard) = node.shard {
            assert!(cluster.shard(shard).nodes.contains(&id));
        }
    }
    let copies: usize = cluster.shards().iter().map(|shard| shard.nodes.len()).sum();
    assert_eq!(copies + cluster.witnesses().count(), cluster.nodes().len());
    let lines = cluster.canonical().lines().count();
    assert_eq!(lines, cluster.shards().len() + usize::from(cluster.witnesses().count() > 0), "{}", cluster.canonical());
    let table = Table::of(cluster);
    let voters = choose_voters(&table);
    assert!(voters.len() % 2 == 1 && voters.iter().all(|node| (node.0 as usize) < cluster.nodes().len()));
    assert!(voter_warnings(&table, &voters).iter().all(|warning| !warning.is_empty()));
}

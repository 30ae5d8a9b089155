//! The configuration as a whole: what is taken, and how every mistake is told.

use super::*;

const SAMPLE: &str = include_str!("../../sharding.toml");

fn errors(text: &str) -> Vec<String> {
    let errors = parse(text, "f.toml").expect_err("this should be refused");
    errors.iter().map(|e| format!("{}:{} {} | {}", e.line, e.column, e.message, e.advice)).collect()
}

fn shard(name: &str, idx: u32, port: u16) -> String {
    format!("[[shard]]\nname = \"{name}\"\nidx = {idx}\naddress = \"127.0.0.1:{port}\"\n")
}

#[test]
fn the_sample_is_a_cluster_of_four_shards_and_eight_nodes() {
    let loaded = parse(SAMPLE, "sharding.toml").unwrap();
    let cluster = loaded.cluster;
    let names: Vec<&str> = cluster.shards().iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["Moscow", "Minsk", "Kiev", "Tashkent"]);
    for (i, id) in cluster.node_ids().enumerate() {
        let node = cluster.node(id);
        assert_eq!(node.address, SocketAddr::from(([127, 0, 0, 1], 8080 + i as u16)));
        assert_eq!(node.shard, Some(ShardId(i as u32 / 2)));
        assert_eq!(node.role, if i % 2 == 0 { Role::Primary } else { Role::Replica });
        assert_eq!(cluster.node_at(node.address), Some(id));
    }
    assert_eq!(cluster.primary(ShardId(2)), NodeId(4));
    assert_eq!(cluster.node_at("127.0.0.1:9".parse().unwrap()), None);
    assert_eq!(loaded.warnings, Vec::<String>::new());
    assert_eq!(*cluster.settings(), Settings::default());
    assert!(loaded.origins.iter().all(|o| o.line.is_none()));
}

#[test]
fn shards_are_ordered_by_idx_whatever_the_order_of_the_file() {
    let text = shard("b", 1, 2) + &shard("a", 0, 1);
    let cluster = parse(&text, "f").unwrap().cluster;
    assert_eq!(cluster.canonical(), "0\ta\t127.0.0.1:1\n1\tb\t127.0.0.1:2\n");
    assert_eq!(cluster.node_at("[::ffff:127.0.0.1]:2".parse().unwrap()), Some(NodeId(1)));
}

#[test]
fn every_mistake_is_told_at_once_with_its_place() {
    let text = "\
[[shard]]
name = \"a\"
idx = 0
address = \"localhost:8080\"
replicas = [\"127.0.0.1:1\", \"127.0.0.1:0\", 7]

[[shard]]
name = \"a\"
idx = 0
adress = \"127.0.0.1:2\"
replicas = [\"127.0.0.1:1\"]

[[shard]]
name = \"\"
idx = 9
address = \"0.0.0.0:3\"

[limits]
max_key_bytes = 0
max_valu_bytes = 5
max_pipeline = \"many\"

[deadline]
";
    let told = errors(text);
    let expected = [
        ("4:11", "host name"),
        ("5:28", "port 0"),
        ("5:43", "this is a whole number"),
        ("8:8", "a second shard is named \"a\": line 2 has the name already"),
        ("9:7", "a second shard has idx 0: line 3 has it already | idx 1, 2 are missing: indexes run 0..2"),
        ("10:1", "did you mean address?"),
        ("11:13", "127.0.0.1:1: line 5 has it already"),
        ("14:8", "name: it is empty"),
        ("15:7", "idx 9 is too large for 3 shards"),
        ("16:11", "--listen 0.0.0.0:3"),
        ("19:17", "limits.max_key_bytes: 0 is out of range | it takes a whole number from 1 to 16384"),
        ("20:1", "did you mean max_value_bytes?"),
        ("21:16", "limits.max_pipeline: this is a text"),
        ("23:2", "did you mean [deadlines]?"),
    ];
    for ((place, says), told) in expected.iter().zip(&told) {
        assert!(told.starts_with(&format!("{place} ")) && told.contains(says), "{told} should be {place} {says}");
    }
    assert_eq!(told.len(), expected.len(), "{told:#?}");
}

#[test]
fn mistyped_and_misplaced_tables_are_recognised() {
    let sample = SAMPLE.replace("[[shard]]", "[[shards]]");
    for (text, says) in [
        (sample.as_str(), "[[shards]] is not known | did you mean [[shard]]?"),
        ("[shard]\nname = \"a\"\nidx = 0\naddress = \"127.0.0.1:1\"", "with two brackets"),
        ("shard = 5", "shard is a whole number"),
        ("shard = [5]", "a shard is a table"),
        ("shard = []", "no shard at all"),
        ("name = \"a\"\nshard = []", "\"name\" stands outside of a shard"),
        ("", "1:1 no shard at all"),
        ("[limits]\n", "no shard at all"),
    ] {
        assert!(errors(text).iter().any(|e| e.contains(says)), "{text:?}: {:?}", errors(text));
    }
    assert_eq!(errors(&sample).len(), 1);
    let told = errors(&sample.replace("127.0.0.1:8083", "localhost:8083"));
    assert!(told.len() == 2 && told[1].contains("host name"), "what the mistyped tables hold is checked: {told:?}");
}

fn witness(port: u16) -> String {
    format!("[[witness]]\naddress = \"127.0.0.1:{port}\"\n")
}

#[test]
fn witnesses_are_nodes_behind_all_others_and_part_of_the_table() {
    let text = witness(9) + &shard("b", 1, 2) + &witness(8) + &shard("a", 0, 1);
    let cluster = parse(&text, "f").unwrap().cluster;
    assert_eq!(cluster.witnesses().collect::<Vec<_>>(), [NodeId(2), NodeId(3)]);
    for (id, port) in [(NodeId(2), 9), (NodeId(3), 8)] {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(*cluster.node(id), Node { address, shard: None, role: Role::Witness });
        assert_eq!(cluster.node_at(address), Some(id));
    }
    let shards = "0\ta\t127.0.0.1:1\n1\tb\t127.0.0.1:2\n";
    assert_eq!(cluster.canonical(), format!("{shards}witnesses\t127.0.0.1:9\t127.0.0.1:8\n"));
    assert_eq!(cluster.nodes().len(), 4);
    let without = parse(&(shard("b", 1, 2) + &shard("a", 0, 1)), "f").unwrap().cluster;
    assert_eq!((without.canonical().as_str(), without.witnesses().count()), (shards, 0));
}

#[test]
fn mistakes_of_witnesses_are_told_with_their_place() {
    let shard = shard("a", 0, 1);
    for (text, says) in [
        ("[[witness]]\n", "5:1 this witness has no address | write address ="),
        ("[[witness]]\nadress = \"127.0.0.1:2\"\n", "6:1 a witness has no \"adress\" | did you mean address?"),
        ("[[witness]]\naddress = \"kv-3:2\"\n", "6:11 address: \"kv-3:2\": \"kv-3\" is a host name"),
        ("[[witness]]\naddress = 2\n", "6:11 address: this is a whole number"),
        ("[witness]\naddress = \"127.0.0.1:2\"\n", "[witness] is one table, not a list | write [[witness]], with two"),
        ("[[witnes]]\naddress = \"127.0.0.1:0\"\n", "5:3 [[witnes]] is not known | did you mean [[witness]]?"),
        ("[[witness]]\naddress = \"127.0.0.1:1\"\n", "6:11 a second node has the address 127.0.0.1:1: line 4 has it"),
        (
            "[[witness]]\naddress = \"127.0.0.1:2\"\n[[witness]]\naddress = \"127.0.0.1:2\"\n",
            "8:11 a second node has the address 127.0.0.1:2: line 6 has it",
        ),
        (
            "[[witness]]\naddress = \"127.0.0.1:2\"\nname = \"w\"\n",
            "7:1 a witness has no \"name\" | a witness holds no shard: it has an address alone",
        ),
    ] {
        let told = errors(&(shard.clone() + text));
        assert!(told[0].contains(says), "{told:?} should say {says}");
        assert_eq!(told.len(), if text.contains("witnes]") { 2 } else { 1 }, "{told:?}");
    }
    for (text, says) in [("witness = 5\n", "witness is a whole number"), ("witness = [5]\n", "a witness is a table")] {
        let told = errors(&(text.to_owned() + &shard));
        assert!(told.len() == 1 && told[0].contains(says), "{told:?}");
    }
}

#[test]
fn missing_keys_are_told_at_the_shards_head() {
    let told = errors("\n[[shard]]\n");
    assert_eq!(told.len(), 3);
    for (told, key) in told.iter().zip(["name", "idx", "address"]) {
        assert!(told.starts_with("2:1 ") && told.contains(&format!("this shard has no {key}")), "{told}");
    }
}

#[test]
fn a_gap_names_the_missing_index() {
    let told = errors(&(shard("a", 0, 1) + &shard("b", 1, 2) + &shard("c", 3, 3)));
    assert_eq!(told, ["11:7 idx 3 is too large for 3 shards | idx 2 is missing: indexes run 0..2"]);
    let told = errors(&shard("a", 1, 1));
    assert_eq!(told, ["3:7 idx 1 is too large for 1 shard | idx 0 is missing: indexes run 0..0"]);
}

#[test]
fn broken_lines_are_told_and_nothing_is_made_of_them() {
    let text =
        "[[shard]]\nname = \"a\"\nidx = 0\naddress = 127.0.0.1:80\n[limits]\nmax_key_bytes = 0\nmax_key_bytes = 1\n";
    let told = errors(text);
    assert_eq!(told.len(), 3, "{told:#?}");
    assert!(told[0].starts_with("4:") && told[0].contains("double quotes"), "{told:#?}");
    assert!(told[1].starts_with("6:17 limits.max_key_bytes: 0"), "{told:#?}");
    assert!(told[2].starts_with("7:1 duplicate key"), "{told:#?}");
    // The unclosed text may have swallowed what would be missing.
    assert_eq!(errors("[[shard]]\nname = \"a\nidx = 0\n").len(), 1);
}

#[test]
fn an_error_shows_the_source_line_and_points_at_it() {
    let error = parse("[[shard]]\nname = \"ä\"\n\tidx = 07.5 \r\n", "f.toml").unwrap_err();
    let text = error[0].to_string();
    assert!(text.starts_with("f.toml:3:8: "), "{text}");
    assert!(text.contains("\n    3 | \tidx = 07.5 \n      | \t      ^"), "{text}");
    let error = parse("[[shard]]\nname = \"x\"\nidx = true\naddress = \"127.0.0.1:1\"", "f.toml").unwrap_err();
    assert_eq!(
        error[0].to_string(),
        "f.toml:3:7: idx: this is true or false\n    3 | idx = true\n      |       ^^^^\n      \
         = it takes a whole number: 0, 1, 2, …"
    );
}

#[test]
fn settings_of_the_file_are_taken_and_their_lines_known() {
    let text = shard("a", 0, 1)
        + "[limits]\nmax_key_bytes = 16_384\n[store]\ndirectory = \"/x y\"\nsegment_bytes = 0x100000\n\
           [http]\nallowed_hosts = [\"KV.example.org\"]\nallowed_origins = [\"https://example.org:8443\"]\n\
           [deadlines]\nwait_ms = 0\n[replication]\nreads = \"confirm\"\n";
    let loaded = parse(&text, "f").unwrap();
    let settings = loaded.cluster.settings();
    assert_eq!(settings.limits.max_key_bytes, 16_384);
    assert_eq!(settings.store.directory, "/x y");
    assert_eq!(settings.store.segment_bytes, 1 << 20);
    assert_eq!(settings.http.allowed_hosts, ["kv.example.org"]);
    assert_eq!(settings.http.allowed_origins, ["https://example.org:8443"]);
    assert_eq!(settings.deadlines.wait_ms, 0);
    assert_eq!(settings.replication, Replication { failover_ms: 600, reads: Reads::Confirm });
    let of = |name: &str| loaded.origins.iter().find(|o| o.setting == name).unwrap();
    assert_eq!((of("store.directory").line, of("store.directory").value.to_string()), (Some(8), "\"/x y\"".to_owned()));
    assert_eq!((of("limits.max_head_bytes").line, of("limits.max_head_bytes").value.as_u64()), (None, Some(32768)));
}

#[test]
fn settings_out_of_range_or_of_another_type_are_refused() {
    for (setting, says) in [
        ("[limits]\nmax_value_bytes = 67_108_865", "67108865 is out of range"),
        ("[limits]\nmax_value_bytes = -1", "-1 does not fit"),
        ("[limits]\nmax_value_bytes = 99999999999999999999999", "does not fit"),
        ("[limits]\nmax_value_bytes = 1.5", "this is a number with a fraction"),
        ("[limits]\nmax_inflight_bytes = 1_000_000", "has no room for two of the largest requests"),
        (
            "[limits]\nmax_value_bytes = 1\nmax_head_bytes = 1024\nmax_inflight_bytes = 65536\nmax_key_bytes = 0",
            "0 is out",
        ),
        ("[store]\nsegment_bytes = 65536", "65536 is out of range"),
        ("[store]\nsegment_bytes = 1_000_000", "not a multiple of 4096 | the next is 1003520"),
        ("[store]\ndirectory = \"\"", "names no directory"),
        ("[store]\ncompact_dead_percent = 46", "46 is out of range"),
        ("[replication]\nfailover_ms = 199", "199 is out of range | it takes a whole number from 200 to 60000"),
        ("[replication]\nreads = \"leases\"", "\"leases\" is not known | it takes \"lease\" or \"confirm\""),
        ("[replication]\nreads = true", "this is true or false"),
        ("[http]\nallowed_hosts = [\"a:80\"]", "not a host name"),
        ("[http]\nallowed_hosts = \"a\"", "this is a text"),
        ("[http]\nallowed_hosts = [1]", "invalid type"),
        ("[http]\nallowed_origins = [\"example.org\"]", "not an origin"),
        ("[http]\nallowed_origins = [\"https://example.org/\"]", "not an origin"),
        ("limits = 5", "a second"),
    ] {
        let text = if setting.starts_with('[') {
            shard("a", 0, 1) + setting
        } else {
            let told = errors(&(setting.to_owned() + "\n" + &shard("a", 0, 1)));
            assert!(told[0].contains("limits is a whole number, not a table"), "{told:?}");
            continue;
        };
        let told = errors(&text);
        assert!(told.len() == 1 && told[0].contains(says), "{setting}: {told:?}");
    }
}

#[test]
fn the_longest_records_must_get_through_to_replicas() {
    let setting = "[store]\nsegment_bytes = 8388608\n";
    assert!(parse(&(shard("a", 0, 1) + setting), "f").is_ok(), "there is no replica");
    let pair = shard("a", 0, 1) + "replicas = [\"127.0.0.1:2\"]\n";
    let told = errors(&(pair.clone() + setting));
    assert!(told.len() == 1 && told[0].contains("raise store.segment_bytes to 8454144 or more"), "{told:?}");
    assert!(parse(&(pair + "[store]\nsegment_bytes = 8454144\n"), "f").is_ok());
}

#[test]
fn every_default_is_one_that_a_file_could_say() {
    let loaded = parse(SAMPLE, "f").unwrap();
    let mut text = SAMPLE.to_owned();
    for origin in &loaded.origins {
        let (table, name) = origin.setting.split_once('.').unwrap();
        if !text.contains(&format!("[{table}]")) {
            text += &format!("[{table}]\n");
        }
        text += &format!("{name} = {}\n", origin.value);
    }
    let again = parse(&text, "f").unwrap_or_else(|e| panic!("{e:?}"));
    assert_eq!(again.cluster.settings(), loaded.cluster.settings());
    assert!(again.origins.iter().all(|o| o.line.is_some()));
}

#[test]
fn warnings_tell_what_is_true_and_nothing_else() {
    let of = |shards: &[&[&str]]| {
        let mut text = String::new();
        for (idx, addresses) in shards.iter().enumerate() {
            let replicas = &addresses[1..];
            text += &format!(
                "[[shard]]\nname=\"s{idx}\"\nidx={idx}\naddress=\"{}\"\nreplicas={replicas:?}\n",
                addresses[0]
            );
        }
        parse(&text, "f").unwrap().warnings
    };
    assert_eq!(of(&[&["127.0.0.1:1", "127.0.0.2:1"]]), [""; 0]);
    assert_eq!(of(&[&["10.0.0.1:1", "10.0.0.2:1"], &["10.0.0.2:2", "10.0.0.1:2"]]), [""; 0]);
    assert_eq!(of(&[&["127.0.0.1:1"]]), ["shard \"s0\" has no replica: its data has one copy"]);
    assert_eq!(
        of(&[&["10.0.0.1:1", "10.0.0.2:1"], &["10.0.0.2:2", "10.0.0.2:3"]]),
        ["all 2 copies of shard \"s1\" are on 10.0.0.2: they are lost together"]
    );
    assert_eq!(of(&[&["10.0.0.1:1", "10.0.0.1:2"]]), ["every node is on 10.0.0.1: the cluster is lost with that host"]);
    assert_eq!(
        of(&[&["10.0.0.1:1", "127.0.0.1:2"]]),
        ["loopback addresses beside others: a node on another host cannot dial them"]
    );
    let short = SAMPLE.to_owned() + "[deadlines]\nwait_ms = 900\n[replication]\nfailover_ms = 900\n";
    assert_eq!(
        parse(&short, "f").unwrap().warnings,
        ["deadlines.wait_ms = 900 is not longer than replication.failover_ms = 900: while a replica takes over, \
          requests are answered 503"]
    );
}

#[test]
fn the_fingerprint_is_of_the_table_alone() {
    let of = |text: &str| parse(text, "f").unwrap().cluster.fingerprint();
    let sample = of(SAMPLE);
    assert_eq!(sample, 0xf8c1_752e_04ba_26e0);
    assert_eq!(sample, of(&(SAMPLE.to_owned() + "[limits]\nmax_pipeline = 3\n")));
    for (from, to) in [("Kiev", "Kyiv"), ("8087", "9087"), ("replicas = [\"127.0.0.1:8081\"]", "")] {
        assert_ne!(sample, of(&SAMPLE.replace(from, to)), "{from} → {to}");
    }
}

#[test]
fn a_difference_is_told_in_a_sentence() {
    let mine = parse(SAMPLE, "f").unwrap().cluster.canonical();
    assert_eq!(difference(&mine, &mine), "the tables are equal");
    let theirs = mine.replace("8083", "9083").replace("8084", "9084");
    assert_eq!(
        difference(&mine, &theirs),
        "shard 1: here (Minsk at 127.0.0.1:8082, replicas 127.0.0.1:8083), \
         there (Minsk at 127.0.0.1:8082, replicas 127.0.0.1:9083); 1 more line differs"
    );
    let shorter = mine.lines().next().unwrap().to_owned() + "\n";
    assert!(difference(&mine, &shorter).ends_with("there absent; 2 more lines differ"));
    let witnesses = format!("{mine}witnesses\t127.0.0.1:9\t127.0.0.1:10\n");
    assert_eq!(difference(&mine, &witnesses), "witnesses: here none, there (127.0.0.1:9, 127.0.0.1:10)");
    assert!(difference(&witnesses, &theirs).ends_with("; 2 more lines differ"));
    let hostile = format!("0\t\u{1b}[31m{}", "x".repeat(10_000));
    let told = difference(&mine, &hostile);
    assert!(told.len() < 1000 && !told.contains('\u{1b}'), "{told}");
}

#[test]
fn a_file_that_cannot_be_read_is_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.toml");
    assert!(load(&path).unwrap_err().to_string().contains("No such file"));
    std::fs::write(&path, b"[[shard]]\nname = \"\xff\"").unwrap();
    assert!(load(&path).unwrap_err().to_string().ends_with("not UTF-8 text: byte 18 cannot be decoded"));
    std::fs::write(&path, "").unwrap();
    assert!(load(&path).unwrap_err().to_string().contains("x.toml does not describe a cluster: 1 error\n"));
}

/// Lines of which files are made that are nearly right.
const LINES: [&str; 16] = [
    "[[shard]]",
    "[[shards]]",
    "[shard]",
    "[limits]",
    "[store]",
    "name = \"a\"",
    "name = \"b\"",
    "name = 7",
    "idx = 0",
    "idx = 1",
    "address = \"127.0.0.1:1\"",
    "address = 127.0.0.1:1",
    "replicas = [\"127.0.0.1:2\", \"[::1]:3\"]",
    "replicas = [",
    "max_key_bytes = 9",
    "= ä\t\"",
];

proptest::proptest! {
    #[test]
    fn any_text_gives_a_cluster_or_errors_that_can_be_shown(text in "\\PC{0,60}") {
        check_any(&text);
    }

    #[test]
    fn any_lines_give_a_cluster_or_errors_that_can_be_shown(
        lines in proptest::collection::vec(proptest::sample::select(&LINES[..]), 0..14)
    ) {
        check_any(&lines.join("\n"));
    }
}

fn check_any(text: &str) {
    match parse(text, "f") {
        Ok(loaded) => assert!(!loaded.cluster.nodes().is_empty()),
        Err(errors) => {
            assert!(!errors.is_empty());
            let _ = LoadError::Invalid(errors).to_string();
        }
    }
}

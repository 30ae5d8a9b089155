//! The command line as users meet it: the real binary, its output and its exit codes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by its place")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;

/// A privileged port of the loopback network's last address: nothing listens there.
const DEAD: &str = "127.255.255.254:1";

fn dkv(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dkv")).args(args).current_dir(dir).stdin(Stdio::null()).output().unwrap()
}

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn err(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// A command that succeeds and says nothing on standard error.
fn good(dir: &Path, args: &[&str]) -> String {
    let output = dkv(dir, args);
    assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
    out(&output).to_owned()
}

/// A command that fails with exit code 1, nothing on standard output, and a message.
fn bad(dir: &Path, args: &[&str]) -> String {
    let output = dkv(dir, args);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
    assert_eq!(out(&output), "", "{args:?}");
    err(&output).to_owned()
}

fn dir_with(text: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("sharding.toml"), text).unwrap();
    dir
}

#[test]
fn the_sample_is_checked_calmly() {
    let text = good(&sample(), &["check"]);
    assert!(text.starts_with("sharding.toml: 4 shards, 8 nodes, fingerprint f8c1752e04ba26e0\n\n[limits]\n"), "{text}");
    assert!(!text.contains("warning"), "{text}");
    assert!(text.lines().any(|l| l.starts_with("max_key_bytes = 4096 ") && l.ends_with("# default")), "{text}");
}

#[test]
fn check_says_where_each_setting_came_from() {
    let dir = dir_with("[[shard]]\nname = \"a\"\nidx = 0\naddress = \"127.0.0.1:1\"\n[limits]\nmax_pipeline = 5\n");
    let text = good(dir.path(), &["check"]);
    assert!(text.contains("\nwarning: shard \"a\" has no replica: its data has one copy\n"), "{text}");
    assert!(text.lines().any(|l| l.starts_with("max_pipeline = 5 ") && l.ends_with("# sharding.toml:6")), "{text}");

    let json: serde_json::Value = serde_json::from_str(&good(dir.path(), &["check", "-o", "json"])).unwrap();
    assert_eq!(json["ok"], true);
    assert_eq!(json["warnings"].as_array().unwrap().len(), 1);
    let settings = json["settings"].as_array().unwrap();
    let pipeline = settings.iter().find(|s| s["setting"] == "limits.max_pipeline").unwrap();
    assert_eq!((pipeline["value"].as_u64(), pipeline["line"].as_u64()), (Some(5), Some(6)));
    assert!(settings.iter().filter(|s| s["line"].is_null()).count() > 10);
}

#[test]
fn the_settings_that_check_prints_can_be_put_into_a_file() {
    let table = "[[shard]]\nname = \"a\"\nidx = 0\naddress = \"127.0.0.1:1\"\n";
    let dir = dir_with(table);
    let text = good(dir.path(), &["check"]);
    let settings = text.split_once("\n\n").unwrap().1;
    let again = dir_with(&format!("{table}{settings}"));
    let text = good(again.path(), &["check"]);
    assert!(!text.contains("# default") && text.contains("# sharding.toml:6"), "{text}");
}

#[test]
fn check_shows_all_errors_and_exits_1() {
    let dir = dir_with("[[shard]]\nname = \"a\"\nidx = 1\naddress = \"localhost:1\"\n[limit]\n");
    let text = bad(dir.path(), &["check"]);
    assert!(
        text.starts_with("dkv: sharding.toml does not describe a cluster: 3 errors\nsharding.toml:3:7: "),
        "{text}"
    );
    for line in ["    4 | address = \"localhost:1\"", "      |           ^^^^^^^^^^^^^", "did you mean [limits]?"] {
        assert!(text.contains(line), "{text}");
    }
    let output = dkv(dir.path(), &["check", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((json["ok"].as_bool(), json["errors"].as_array().unwrap().len()), (Some(false), 3));
    assert_eq!((json["errors"][0]["line"].as_u64(), json["errors"][0]["column"].as_u64()), (Some(3), Some(7)));
}

#[test]
fn every_command_that_reads_the_file_refuses_a_wrong_or_missing_one() {
    let dir = dir_with("");
    for args in [&["check"][..], &["nodes"], &["status"], &["where", "k"], &["serve", "--address", "127.0.0.1:1"]] {
        assert!(bad(dir.path(), args).contains("no shard at all"), "{args:?}");
        let missing = [args, &["--config", "none.toml"]].concat();
        assert_eq!(bad(dir.path(), &missing), "dkv: none.toml: No such file or directory (os error 2)\n");
    }
}

#[test]
fn nodes_are_listed_a_line_each() {
    let text = good(&sample(), &["nodes"]);
    assert_eq!(text.lines().count(), 8);
    assert_eq!(text.lines().nth(3), Some("1  Minsk     replica  127.0.0.1:8083"));
    assert_eq!(good(&sample(), &["nodes", "--local"]), text);
    let json: serde_json::Value = serde_json::from_str(&good(&sample(), &["nodes", "-o", "json"])).unwrap();
    assert_eq!(json[3]["shard"], "Minsk");
    assert_eq!(json[3]["address"], "127.0.0.1:8083");
    assert_eq!(json[3]["role"], "replica");
}

#[test]
fn a_witness_is_a_node_without_a_shard() {
    let table = "[[shard]]\nname = \"a\"\nidx = 0\naddress = \"127.0.0.1:1\"\nreplicas = [\"127.0.0.1:2\"]\n";
    let dir = dir_with(&format!("{table}[[witness]]\naddress = \"127.0.0.1:3\"\n"));
    let text = good(dir.path(), &["nodes", "-o", "tsv"]);
    assert_eq!(text.lines().nth(2), Some("-\t-\twitness\t127.0.0.1:3\tdata/127.0.0.1_3"));
    let json: serde_json::Value = serde_json::from_str(&good(dir.path(), &["nodes", "-o", "json"])).unwrap();
    assert_eq!(json[2]["role"], "witness");
    assert!(json[2]["shard"].is_null() && json[2]["idx"].is_null());
    let text = good(dir.path(), &["check"]);
    assert!(text.starts_with("sharding.toml: 1 shard, 3 nodes, one of them a witness, fingerprint "), "{text}");
}

#[test]
fn local_nodes_are_those_of_this_host() {
    // 240.0.0.0/4 is reserved for future use: no host has it.
    let dir = dir_with(
        "[store]\ndirectory = \"d\"\n[[shard]]\nname = \"New York\"\nidx = 0\naddress = \"240.0.0.1:8080\"\n\
         replicas = [\"127.0.0.1:8081\"]\n",
    );
    assert_eq!(good(dir.path(), &["nodes", "-o", "tsv"]).lines().count(), 2);
    let local = good(dir.path(), &["nodes", "--local", "-o", "tsv"]);
    assert_eq!(local, "0\tNew York\treplica\t127.0.0.1:8081\td/127.0.0.1_8081\n");
}

#[test]
fn where_computes_the_shard_from_the_file() {
    let text = good(&sample(), &["where", "foobar"]);
    assert_eq!(
        text,
        "hash      85944171f73967e8\nshard     0 Moscow\nprimary   127.0.0.1:8080\nreplicas  127.0.0.1:8081\n"
    );
    let json: serde_json::Value = serde_json::from_str(&good(&sample(), &["where", "b", "-o", "json"])).unwrap();
    assert_eq!(json["hash"], "af63df4c8601f1a5");
    assert_eq!(json["shard"]["idx"], 1);
    assert_eq!(json["replicas"][0], "127.0.0.1:8083");
    assert!(bad(&sample(), &["where", ""]).contains("the key is empty"));
}

#[test]
fn where_takes_keys_of_any_bytes_from_standard_input() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_dkv"))
        .args(["where", "-"])
        .current_dir(sample())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"a\n\nfoobar\n\xff\t\nlast").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let lines: Vec<&[u8]> = output.stdout.split(|b| *b == b'\n').collect();
    assert_eq!(lines.len(), 5);
    assert_eq!(lines[0], b"0\tMoscow\ta");
    assert_eq!(lines[1], b"0\tMoscow\tfoobar");
    assert!(lines[2].ends_with(b"\t\xff\t") && lines[3].ends_with(b"\tlast"));
}

/// A server that gives each connection one of `answers` and hands back what it was asked.
fn fake_node(answers: Vec<Vec<u8>>) -> (SocketAddr, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                request.push(byte[0]);
            }
            stream.write_all(&answer).unwrap();
            asked.push(String::from_utf8(request).unwrap());
        }
        asked
    });
    (address, thread)
}

fn http(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

const VIEW: &str = r#"{"shards":[
    {"idx":0,"name":"North","epoch":1,"primary":"10.0.0.1:1","in_sync":["10.0.0.1:1"],"nodes":[
        {"address":"10.0.0.1:1","role":"primary","lsn":7,"committed":6,"up":true},
        {"address":"10.0.0.2:1","role":"replica","lsn":null,"committed":null,"up":false}]},
    {"idx":1,"name":"South","epoch":2,"primary":null,"in_sync":[],"nodes":[]}],
    "fingerprint":"00000000000000ff"}"#;

#[test]
fn status_shows_the_first_answer() {
    let (address, node) = fake_node(vec![http("200 OK", VIEW), http("200 OK", VIEW), http("200 OK", VIEW)]);
    let address = address.to_string();
    let text = good(&sample(), &["status", "--address", DEAD, "--address", &address]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "shard  name   epoch  in sync  address     role     state  lsn  committed  lag");
    assert_eq!(lines[1], "0      North  1      1 of 2   10.0.0.1:1  primary  up     7    6          -");
    assert_eq!(lines[2], "                              10.0.0.2:1  replica  down   -    -          -");
    assert!(text.contains("\nshard 0 North: 10.0.0.2:1 is down\nshard 0 North: 1 of 2 copies in sync: "), "{text}");
    assert!(
        text.contains("\nshard 1 South: no primary is known: ") && text.ends_with(&format!("as {address} sees it\n")),
        "{text}"
    );
    let json: serde_json::Value =
        serde_json::from_str(&good(&sample(), &["status", "--address", &address, "-o", "json"])).unwrap();
    assert_eq!(json, serde_json::from_str::<serde_json::Value>(VIEW).unwrap());
    let tsv = good(&sample(), &["status", "--address", &address, "-o", "tsv"]);
    assert_eq!(
        tsv,
        "0\tNorth\t10.0.0.1:1\tprimary\tup\tyes\tyes\t7\t6\t-\n0\tNorth\t10.0.0.2:1\treplica\tdown\tno\tno\t-\t-\t-\n"
    );
    let asked = node.join().unwrap();
    assert!(asked[0].starts_with("GET /cluster HTTP/1.1\r\nHost: "), "{asked:?}");
    assert!(asked[0].contains("\r\nAccept: application/json\r\n"), "{asked:?}");
}

#[test]
fn status_fails_in_a_sentence_where_no_node_answers() {
    let text = bad(&sample(), &["status", "--address", DEAD]);
    assert!(text.starts_with(&format!("dkv: the node does not answer: {DEAD}: Connection refused")), "{text}");
    for (answer, says) in [
        (http("404 Not Found", "who?"), "it answers 404 to GET /cluster"),
        (http("200 OK", "[]"), "is not a dkv node's"),
        (b"SSH-2.0\r\n".to_vec(), "the answer is not a dkv node's"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".to_vec(), "closed before the answer was complete"),
    ] {
        let (address, node) = fake_node(vec![answer]);
        let text = bad(&sample(), &["status", "--address", &address.to_string()]);
        assert!(text.contains(says) && text.lines().count() == 1, "{text}");
        node.join().unwrap();
    }
}

#[test]
fn where_asks_a_node_by_its_address() {
    let view = http("200 OK", VIEW);
    let error = http("503 Service Unavailable", "no primary\n");
    let (address, node) = fake_node(vec![http("200 OK", "shard 1\n"), error, view]);
    let address = address.to_string();
    assert_eq!(good(&sample(), &["where", "a b&c", "--address", &address]), "shard 1\n");
    assert_eq!(
        bad(&sample(), &["where", "k", "--address", &address]),
        format!("dkv: {address} answers 503: no primary\n")
    );
    assert_eq!(good(&sample(), &["where", "-", "--address", &address]), "", "no keys, no lines");
    let asked = node.join().unwrap();
    assert!(asked[0].starts_with("GET /where?key=a%20b%26c HTTP/1.1\r\n"), "{asked:?}");
}

/// A configuration whose shard 0 has these copies.
fn dir_of(copies: &[&str]) -> tempfile::TempDir {
    dir_with(&format!("[[shard]]\nname = \"a\"\nidx = 0\naddress = \"{}\"\nreplicas = {:?}\n", copies[0], &copies[1..]))
}

#[test]
fn handover_asks_the_copy_first_and_tells_the_outcome() {
    let answers = vec![
        http("200 OK", "127.0.0.1:1 leads shard 0 in epoch 5\n"),
        http("409 Conflict", "it is not in sync\n"),
        http("504 Gateway Timeout", "no word from the primary\n"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1".to_vec(),
    ];
    let (address, node) = fake_node(answers);
    let address = address.to_string();
    let dir = dir_of(&[DEAD, &address]);
    let command = ["handover", "--shard", "0", "--to", &address];
    assert_eq!(good(dir.path(), &command), "127.0.0.1:1 leads shard 0 in epoch 5\n");
    assert_eq!(bad(dir.path(), &command), format!("dkv: {address} answers 409: it is not in sync\n"));
    for reason in ["no word from the primary", "the connection was closed before the answer was complete"] {
        let output = dkv(dir.path(), &command);
        assert_eq!((output.status.code(), out(&output)), (Some(3), ""));
        let says = format!("dkv: whether it was done is not known: {address}: {reason}; dkv status shows who leads\n");
        assert_eq!(err(&output), says);
    }
    let asked = node.join().unwrap();
    let target = address.replace(':', "%3A");
    assert!(asked[0].starts_with(&format!("POST /handover?shard=0&to={target} HTTP/1.1\r\n")), "{asked:?}");
    assert!(asked[0].contains("\r\nContent-Length: 0\r\n"), "{asked:?}");
}

#[test]
fn handover_goes_to_any_node_that_can_be_reached() {
    let (address, node) = fake_node(vec![http("200 OK", "done\n")]);
    let dir = dir_of(&[&address.to_string(), DEAD]);
    assert_eq!(good(dir.path(), &["handover", "--shard", "0", "--to", DEAD]), "done\n");
    node.join().unwrap();
    let dir = dir_of(&["127.255.255.254:2", DEAD]);
    let text = bad(dir.path(), &["handover", "--shard", "0", "--to", DEAD]);
    assert!(
        text.starts_with(&format!("dkv: none of 2 nodes answers; the first, {DEAD}: Connection refused")),
        "{text}"
    );
}

#[test]
fn takeover_asks_the_copy_itself_and_only_with_a_yes() {
    let (address, node) = fake_node(vec![http("200 OK", "it leads\n"), http("409 Conflict", "it has no data\n")]);
    let address = address.to_string();
    let dir = dir_of(&[DEAD, &address]);
    let command = ["takeover", "--shard", "0", "--to", &address];
    assert_eq!(dkv(dir.path(), &command).status.code(), Some(2), "the price is not accepted");
    let command = [&command[..], &["--accept-data-loss"]].concat();
    let text = bad(dir.path(), &command);
    assert!(text.starts_with("dkv: nothing was changed: there is no terminal") && text.contains("--yes"), "{text}");
    let command = [&command[..], &["--yes"]].concat();
    assert_eq!(good(dir.path(), &command), "it leads\n");
    assert_eq!(bad(dir.path(), &command), format!("dkv: {address} answers 409: it has no data\n"));
    let text = bad(dir.path(), &["takeover", "--shard", "0", "--to", DEAD, "--accept-data-loss", "--yes"]);
    assert!(text.starts_with(&format!("dkv: {DEAD}: Connection refused")), "no other node is asked: {text}");
    let asked = node.join().unwrap();
    assert!(asked[0].starts_with("POST /takeover?shard=0&accept_data_loss=true HTTP/1.1\r\n"), "{asked:?}");
}

#[test]
fn the_lead_of_a_shard_goes_to_one_of_its_copies_only() {
    for (shard, to, says) in [
        ("4", "127.0.0.1:8080", "there is no shard 4: --shard takes 0 to 3"),
        (
            "1",
            "127.0.0.1:8080",
            "127.0.0.1:8080 holds no copy of shard 1 Minsk: --to takes one of 127.0.0.1:8082, 127.0.0.1:8083",
        ),
    ] {
        let which = ["--shard", shard, "--to", to];
        assert_eq!(bad(&sample(), &[&["handover"], &which[..]].concat()), format!("dkv: {says}\n"));
        let takeover = [&["takeover", "--accept-data-loss", "--yes"], &which[..]].concat();
        assert_eq!(bad(&sample(), &takeover), format!("dkv: {says}\n"));
    }
}

#[test]
fn serve_refuses_an_address_that_is_not_in_the_table() {
    let text = bad(&sample(), &["serve", "--address", "127.0.0.1:9"]);
    assert!(text.starts_with("dkv: 127.0.0.1:9 is no node of sharding.toml: --address takes one of 127.0.0.1:8080, "));
}

#[test]
fn wrong_usage_is_exit_code_2_and_help_is_everywhere() {
    for args in [&["serve"][..], &["serve", "--address", "localhost:1"], &["nosuch"], &["where"], &["check", "-o", "x"]]
    {
        assert_eq!(dkv(&sample(), args).status.code(), Some(2), "{args:?}");
    }
    for args in [&["--help"][..], &["serve", "--help"], &["check", "--help"], &["nodes", "-h"], &["where", "--help"]] {
        assert!(good(&sample(), args).contains("Examples:"), "{args:?}");
    }
}

#[test]
fn reform_refuses_what_is_no_directory_survey_or_plan() {
    let dir = dir_with("[[shard]]\nname = \"a\"\nidx = 0\naddress = \"127.0.0.1:1\"\n");
    assert_eq!(bad(dir.path(), &["reform", "survey", "none"]).matches("there is no data directory").count(), 1);
    assert!(bad(dir.path(), &["reform", "survey", "."]).contains("not a data directory"));
    std::fs::write(dir.path().join("letter"), "{}").unwrap();
    let told = bad(dir.path(), &["reform", "plan", "letter"]);
    assert!(told.starts_with("dkv: letter: it is not what `dkv reform survey` prints"), "{told}");
    let told = bad(dir.path(), &["reform", "apply", "letter"]);
    assert!(told.starts_with("dkv: letter: it is not what `dkv reform plan` prints"), "{told}");
    std::fs::write(dir.path().join("empty"), "{\"kind\":\"dkv survey\",\"format\":1,\"directories\":[]}").unwrap();
    assert!(bad(dir.path(), &["reform", "plan", "empty"]).contains("Surveyed: nothing"));
    for words in [&["survey"][..], &["plan", "empty", "--lead", "0"], &["apply", "letter", "127.0.0.1:1"]] {
        let output = dkv(dir.path(), &[&["reform"], words].concat());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
}

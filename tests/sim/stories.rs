//! Owns: stories: what happens to a small cluster, told as text, with what is seen of it (the way of etcd's datadriven
//! tests). A story is a file in `stories/`: commands, a line `----`, and what they print, up to an empty line.
//! `DKV_SIM_BLESS=1 cargo test --test sim stories` writes what they print now.
//!
//! ```text
//! cluster replicas=1 witnesses=1   begins; nodes are called A, B, ... in the table's order; prints as `cluster`
//! put|update|get|delete|stale N KEY [VALUE] [if=LSN|if=absent|if=exists]
//!                                  a call on node N, and its answer
//! send N put KEY VALUE             a call whose answer is not waited for;   answers   those that have come
//! wait MS                          time passes;                             whole     until all is well again
//! fill N COUNT                     so many calls on node N one after the other, each a new key of 1000 bytes; prints the last
//! kill|power|start|stop|wipe|keep|old N
//!                                  the process, the machine, the directory (`old`: as it was at `keep`)
//! hang|works|slow|fast|full|room|broken|rot|rotvoter N
//!                                  the disk (`slow`: a sync takes 2 s); a bit in the log, or in the voter's memory
//! throttle N M BYTES_PER_MS        a slow link
//! pause N MS                       SIGSTOP, and SIGCONT after so long
//! cut N M | cut N>M | isolate N | split NM.. | heal
//! flood N COUNT                    as `fill`, but all at once, with 16000 bytes each, and nobody waits
//! handover N M                     N is asked to hand over to M
//! takeover N                       N is forced to lead
//! cluster                          configuration, and what each node says: state, last record, last committed
//! ```
//! Never: what is right: that is for the reader to judge.

use super::clock::{MS, Nanos, SECOND};
use super::faults::Mix;
use super::node::{Asked, name, told};
use super::trace::Trace;
use super::workload::{Answer, Call, Habits, value};
use super::world::{Shape, World};
use crate::support::linear::Got;
use dkv::id::{Lsn, NodeId, ShardId};
use dkv::op::{Condition, Failure, Verb};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Nobody waits longer for an answer.
const PATIENCE_NS: Nanos = 15 * SECOND;

#[derive(Default)]
struct Teller {
    world: Option<World>,
    /// Values by their numbers.
    values: Vec<String>,
    sent: Vec<(Sent, String)>,
}

/// A call: its number, and the process that it was made to.
#[derive(Debug, Clone, Copy)]
struct Sent {
    number: u64,
    node: usize,
    process: Option<u64>,
}

impl Teller {
    fn world(&mut self) -> &mut World {
        self.world.as_mut().expect("a story begins with `cluster`")
    }

    fn tell(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["cluster"] => self.cluster(),
            ["cluster", ..] => self.begin(&words[1..]),
            ["put" | "update" | "get" | "delete" | "stale", ..] => {
                let sent = self.call(&words);
                self.answer(sent)
            }
            ["send", node, verb, ..] => {
                let mut call = vec![verb, node];
                call.extend(&words[3..]);
                let sent = self.call(&call);
                self.sent.push((sent, format!("{verb} {}", words[3..].join(" "))));
                String::new()
            }
            ["fill", node, count] => self.fill(node, count.parse().unwrap()),
            ["flood", node, count] => self.flood(place(node), count.parse().unwrap()),
            ["answers"] => self.answers(),
            ["wait", ms] => self.pass(ms.parse::<Nanos>().unwrap() * MS),
            ["whole"] => self.whole(),
            ["pause", node, ms] => {
                let spell = ms.parse::<Nanos>().unwrap() * MS;
                self.world().pause(place(node), spell);
                String::new()
            }
            ["cut", pair] => {
                let (from, to) = pair.split_once('>').unwrap();
                self.world().network.cut(node(from), node(to));
                String::new()
            }
            ["cut", one, other] => {
                self.world().network.cut(node(one), node(other));
                self.world().network.cut(node(other), node(one));
                String::new()
            }
            ["isolate" | "split", side] => {
                let inside = |node: &NodeId| side.contains(name(*node));
                let world = self.world();
                let (these, those): (Vec<_>, Vec<_>) = world.cluster.node_ids().partition(inside);
                for (this, that) in these.iter().flat_map(|this| those.iter().map(move |that| (*this, *that))) {
                    world.network.cut(this, that);
                    world.network.cut(that, this);
                }
                String::new()
            }
            ["throttle", from, to, speed] => {
                self.world().network.set_speed(node(from), node(to), Some(speed.parse().unwrap()));
                String::new()
            }
            ["heal"] => {
                self.world().heal_network();
                String::new()
            }
            ["handover", from, to] => {
                let to = node(to);
                self.world().ask(place(from), Asked::HandOver(to));
                String::new()
            }
            ["takeover", node] => {
                self.world().ask(place(node), Asked::TakeOver);
                String::new()
            }
            [what, node] => {
                self.world().befall(what, place(node));
                String::new()
            }
            _ => panic!("no such command: {line}"),
        }
    }

    fn begin(&mut self, words: &[&str]) -> String {
        let number = |name: &str, other: u64| {
            let word = words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            word.map_or(other, |word| word.parse::<u64>().unwrap())
        };
        let mut port = 1000;
        let mut address = || {
            port += 1;
            format!("'10.0.0.{}:{port}'", port - 1000)
        };
        let mut table = String::new();
        for idx in 0..number("shards", 1) {
            let primary = address();
            let replicas: Vec<String> = (0..number("replicas", 1)).map(|_| address()).collect();
            let replicas = replicas.join(", ");
            writeln!(table, "[[shard]]\nname = 's{idx}'\nidx = {idx}\naddress = {primary}\nreplicas = [{replicas}]")
                .unwrap();
        }
        for _ in 0..number("witnesses", 0) {
            writeln!(table, "[[witness]]\naddress = {}", address()).unwrap();
        }
        let habits = Habits::none();
        let shape = Shape { table, habits, mix: Mix::none(), faulty_ns: 0 };
        let prints = std::env::var("DKV_SIM_TRACE").is_ok();
        self.world = Some(World::new(7, &shape, Trace::new(prints)));
        self.world().good_network();
        self.pass(2 * SECOND);
        self.cluster()
    }

    fn pass(&mut self, time: Nanos) -> String {
        let world = self.world();
        let end = world.now + time;
        world.run_until(end).unwrap();
        String::new()
    }

    /// Makes a call: verb, node, key, value and condition. Returns its number.
    fn call(&mut self, words: &[&str]) -> Sent {
        let (verb, stale) = match words[0] {
            "put" => (Verb::Set, false),
            "update" => (Verb::Update, false),
            "delete" => (Verb::Delete, false),
            verb => (Verb::Get, verb == "stale"),
        };
        let condition =
            words.iter().find_map(|word| word.strip_prefix("if=")).map_or(Condition::None, |word| match word {
                "absent" => Condition::Absent,
                "exists" => Condition::Exists,
                lsn => Condition::Is(Lsn(lsn.parse().unwrap())),
            });
        let mut bytes = Vec::new();
        if let Some(text) = words.get(3).filter(|word| !word.starts_with("if=")) {
            self.values.push((*text).to_owned());
            bytes = value(self.values.len() as u64, 0);
        }
        let call = Call { verb, key: words[2].as_bytes().to_vec(), value: bytes, condition, stale };
        let node = place(words[1]);
        let process = self.world().process_of(node);
        Sent { number: self.world().call(node, call), node, process }
    }

    fn fill(&mut self, node: &str, count: u64) -> String {
        let mut last = String::new();
        for _ in 0..count {
            self.values.push("filling".to_owned());
            let number = self.values.len() as u64;
            let key = format!("fill{number}").into_bytes();
            let call =
                Call { verb: Verb::Set, key, value: value(number, 1000), condition: Condition::None, stale: false };
            let process = self.world().process_of(place(node));
            let sent = Sent { number: self.world().call(place(node), call), node: place(node), process };
            last = self.answer(sent);
        }
        last
    }

    fn flood(&mut self, at: usize, count: u64) -> String {
        for _ in 0..count {
            self.values.push("flooding".to_owned());
            let number = self.values.len() as u64;
            let (verb, key) = (Verb::Set, format!("flood{number}").into_bytes());
            self.world()
                .call(at, Call { verb, key, value: value(number, 16_000), condition: Condition::None, stale: false });
        }
        String::new()
    }

    fn answer(&mut self, sent: Sent) -> String {
        let end = self.world().now + PATIENCE_NS;
        while self.world().now < end {
            if let Some(text) = self.answer_now(sent) {
                return text;
            }
            self.pass(MS);
        }
        "no answer\n".to_owned()
    }

    /// The answer, if there is one by now or none will come.
    fn answer_now(&mut self, sent: Sent) -> Option<String> {
        match self.world().answer_to(sent.number) {
            Some(answer) => Some(self.words(answer)),
            None if sent.process.is_none() => Some("nobody listens\n".to_owned()),
            None if self.world().process_of(sent.node) != sent.process => Some("the connection broke\n".to_owned()),
            None => None,
        }
    }

    fn answers(&mut self) -> String {
        let mut text = String::new();
        for (sent, call) in std::mem::take(&mut self.sent) {
            match self.answer_now(sent) {
                Some(answer) => write!(text, "{call}: {answer}").unwrap(),
                None => {
                    writeln!(text, "{call}: none yet").unwrap();
                    self.sent.push((sent, call));
                }
            }
        }
        text
    }

    fn words(&self, answer: Answer) -> String {
        let got = match answer {
            Answer::Failed(Failure::Unknown) => return "unknown\n".to_owned(),
            Answer::Failed(failure) => return format!("not done: {failure:?}\n"),
            Answer::Known(got) | Answer::Stale(got, _) => got,
        };
        match got {
            Got::Found { lsn, value } => format!("{} at {lsn}\n", self.values[value as usize - 1]),
            Got::Created(lsn) => format!("created at {lsn}\n"),
            Got::Replaced(lsn) => format!("replaced at {lsn}\n"),
            other => format!("{other:?}\n"),
        }
    }

    fn whole(&mut self) -> String {
        let end = self.world().now + 60 * SECOND;
        loop {
            match self.world().unfinished() {
                None => return self.cluster(),
                Some(what) if self.world().now >= end => return format!("{what}\n{}", self.cluster()),
                Some(_) => self.pass(10 * MS),
            };
        }
    }

    fn cluster(&mut self) -> String {
        let world = self.world();
        let mut text = String::new();
        for shard in (0..world.cluster.shards().len() as u32).map(ShardId) {
            let newest = world.checks.newest(shard).map_or("nothing is known".to_owned(), told);
            writeln!(text, "{newest}").unwrap();
        }
        for node in &world.nodes {
            let line = match node.view(world.now) {
                None => "down".to_owned(),
                Some(view) if node.shard.is_none() => view.state.as_str().to_owned(),
                Some(view) => {
                    let known = view.configuration.as_ref().map_or(0, |c| c.version);
                    format!("{}, {} of {}, knows v{known}", view.state.as_str(), view.committed.0, view.end.0)
                }
            };
            writeln!(text, "  {} {line}", node.name()).unwrap();
        }
        text
    }
}

fn place(name: &str) -> usize {
    assert!(name.len() == 1, "{name} is no node");
    usize::from(name.as_bytes()[0] - b'A')
}

fn node(name: &str) -> NodeId {
    NodeId(place(name) as u32)
}

/// Tells a story. Returns it with what is printed now.
fn retold(text: &str) -> String {
    let mut teller = Teller::default();
    let mut out = String::new();
    let mut printed = None::<String>;
    for line in text.lines() {
        match &mut printed {
            // What was printed once is skipped, up to the empty line.
            Some(_) if !line.is_empty() => continue,
            Some(now) => {
                out.push_str(&std::mem::take(now));
                printed = None;
                out.push('\n');
            }
            None if line == "----" => {
                out.push_str("----\n");
                let commands = out.rsplit("\n\n").next().unwrap_or_default().to_owned();
                let commands = commands.lines().filter(|line| !line.starts_with('#') && *line != "----");
                printed = Some(commands.map(|command| teller.tell(command)).collect());
            }
            None => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out.push_str(&printed.unwrap_or_default());
    out
}

#[test]
fn stories() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sim/stories");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 12, "a story is missing: {files:?}");
    let only = std::env::var("DKV_SIM_STORY").ok();
    for path in files.iter().filter(|path| only.as_ref().is_none_or(|only| path.to_string_lossy().contains(only))) {
        let text = fs::read_to_string(path).unwrap();
        let now = retold(&text);
        if now != text && std::env::var("DKV_SIM_BLESS").is_ok() {
            fs::write(path, &now).unwrap();
        } else {
            assert!(now == text, "{} goes another way now:\n{now}", path.display());
        }
    }
}

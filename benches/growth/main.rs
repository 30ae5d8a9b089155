//! How a node grows: memory a key, starts, the longest turn of its loop, data larger than memory, overwriting for ever.
//! `cargo bench --bench growth -- --help` has the rest.
#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on says so by its place")]

mod cold;
mod interrupt;
mod keys;
mod load;
#[path = "../common/machine.rs"]
mod machine;
mod memory;
mod node;
mod overwrite;
mod report;
mod start;
#[path = "../../tests/support/mod.rs"]
mod support;
mod turn;

use std::path::PathBuf;
use std::process::ExitCode;

use report::Report;

const HELP: &str = "\
cargo bench --bench growth -- [--only PART,PART...] [--keys N] [--rounds N] [--out DIR]

  --only PARTS  memory, start, turn, cold, overwrite (default: all)
  --keys N      the most keys in memory and turn (20000000); start has half of them, cold and overwrite a twentieth
  --rounds N    of start and cold (5)
  --out DIR     table.txt and rounds.csv

The nodes' directories lie in the directory for temporary files (TMPDIR): put that on a real disk with 15 GB to spare.
taskset and setpriv (util-linux) are needed; redis-server and redis-cli are compared with where they are installed.";

/// What is to be measured.
pub struct Options {
    parts: Vec<String>,
    /// The most keys of a part.
    pub keys: u64,
    /// How often what varies is measured.
    pub rounds: usize,
    out: Option<PathBuf>,
}

type Part = fn(&Options, &mut Report);
const PARTS: [(&str, Part); 5] = [
    ("memory", memory::run),
    ("start", start::run),
    ("turn", turn::run),
    ("cold", cold::run),
    ("overwrite", overwrite::run),
];

/// `None`: help was asked for, or nothing is to be measured.
fn options() -> Option<Options> {
    // `cargo test` runs this without --bench: it is only to be built then.
    let parts = PARTS.map(|(name, _)| name.to_owned()).into();
    let mut options = Options { parts, keys: 20_000_000, rounds: 5, out: None };
    let mut is_bench = false;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--bench" => is_bench = true,
            "--only" => options.parts = words.next()?.split(',').map(str::to_owned).collect(),
            "--keys" => options.keys = words.next()?.parse().ok()?,
            "--rounds" => options.rounds = words.next()?.parse().ok()?,
            "--out" => options.out = Some(words.next()?.into()),
            _ => return None,
        }
    }
    let is_known = |part: &String| PARTS.iter().any(|(name, _)| name == part);
    (is_bench && options.parts.iter().all(is_known) && options.keys >= 100_000 && options.rounds > 0).then_some(options)
}

fn main() -> ExitCode {
    let Some(options) = options() else {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    };
    interrupt::clean_up_when_interrupted();
    machine::make_room();
    let root = tempfile::Builder::new().prefix("dkv-growth-").tempdir().unwrap();
    interrupt::goes_in_the_end(root.path());
    tempfile::env::override_temp_dir(root.path()).unwrap();

    let mut report = Report::new(&head());
    for (name, run) in PARTS {
        if options.parts.iter().any(|part| part == name) {
            run(&options, &mut report);
            // What is there stays, should a later part fail.
            if let Some(out) = &options.out {
                report.write(out);
            }
        }
    }
    report.conclude();
    if let Some(out) = &options.out {
        report.write(out);
    }
    ExitCode::SUCCESS
}

fn head() -> String {
    let words = machine::without_places(std::env::args().skip(1).filter(|word| word != "--bench"));
    let dkv = machine::version(node::PROGRAM).unwrap_or_default();
    let redis = machine::version("redis-server").unwrap_or_else(|| "no redis-server".to_owned());
    format!(
        "{}\n{dkv}; {redis}\ncargo bench --bench growth -- {words}\nnode: {} dkv serve ...; load: on the other processors\n",
        machine::describe(),
        machine::pinned(machine::NODES_CORE).join(" ")
    )
}

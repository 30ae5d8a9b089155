//! Owns: running a target on inputs: those of its corpus, then changed ones without end; keeping those that showed
//! something new; telling a failure such that it can be had again.
//!
//! An input is *new* if the target's trail on it (what it said step by step: statuses, kinds, reasons) has a step, or two
//! in a row, that were not seen before; then it is kept, and changed further. That leads inwards as coverage does, on a
//! stable compiler.
//! Never: what an input means.

use super::edits::{Edit, Material, edits};
use fnv::FnvHasher;
use proptest::prelude::any;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant, SystemTime};

/// Something that takes any bytes.
pub struct Target {
    /// Of its test, and of its folder in `corpus/`.
    pub name: &'static str,
    /// Inputs to begin with, besides those of the corpus.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// What is written into inputs now and then.
    pub words: &'static [&'static [u8]],
    /// The longest input in bytes.
    pub longest: usize,
    /// How many inputs a plain `cargo test` tries.
    pub executions: u64,
    /// Panics where something is wrong.
    pub run: fn(&[u8], &mut Trail),
}

/// What a target did, step by step.
#[derive(Default)]
pub struct Trail {
    last: u64,
    /// Each step, and each with the one before it.
    marks: Vec<u64>,
}

impl Trail {
    pub fn step(&mut self, what: impl Hash) {
        let mut hasher = FnvHasher::default();
        what.hash(&mut hasher);
        let step = hasher.finish();
        self.marks.extend([step, step.rotate_left(1) ^ self.last]);
        self.last = step;
    }
}

/// A number that depends on nothing but the bytes.
pub fn number_of(bytes: &[u8]) -> u64 {
    let mut hasher = FnvHasher::default();
    hasher.write(bytes);
    hasher.finish()
}

/// Address space of this process: what wants more than is thinkable fails at once.
const MOST_BYTES: u64 = 8 << 30;
/// Inputs that are kept.
const MOST_KEPT: usize = 4000;
/// Tries to make a failing input shorter.
const MOST_SHRINKS: u32 = 3000;

thread_local! {
    static IS_TRYING: Cell<bool> = const { Cell::new(false) };
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Panics of targets are remembered instead of told: shrinking has thousands of them.
fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if IS_TRYING.get() {
                LAST_PANIC.replace(info.to_string());
            } else {
                tell(info);
            }
        }));
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = Rlimit { current: Some(MOST_BYTES), ..getrlimit(Resource::As) };
        setrlimit(Resource::As, limit).unwrap();
    });
}

/// How long to go on.
enum Until {
    Executions(u64),
    Time(Duration),
}

struct Plan {
    seed: u64,
    until: Until,
}

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}: it takes a whole number")))
}

impl Plan {
    fn of(target: &Target) -> Plan {
        let clock = || SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64 & 0xffff_ffff);
        match from_environment("DKV_FUZZ_SECONDS") {
            Some(seconds) => Plan {
                seed: from_environment("DKV_FUZZ_SEED").unwrap_or_else(clock),
                until: Until::Time(Duration::from_secs(seconds)),
            },
            None => Plan {
                seed: from_environment("DKV_FUZZ_SEED").unwrap_or(1),
                until: Until::Executions(from_environment("DKV_FUZZ_EXECUTIONS").unwrap_or(target.executions)),
            },
        }
    }
}

/// The input that is being tried, in a file: what ends the process leaves it behind.
struct Running {
    file: File,
    path: PathBuf,
    len: usize,
}

fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

impl Running {
    fn new(target: &Target) -> Running {
        let path = scratch(&format!("fuzz-{}-{}.running", target.name, std::process::id()));
        Running { file: File::create(&path).unwrap(), path, len: 0 }
    }

    fn note(&mut self, input: &[u8]) {
        if input.len() != self.len {
            self.file.set_len(input.len() as u64).unwrap();
            self.len = input.len();
        }
        self.file.write_all_at(input, 0).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Two inputs, by place, and what is to be changed.
type Drawn = ([u32; 2], Vec<Edit>);

/// One target's run.
struct Session<'t> {
    target: &'t Target,
    plan: Plan,
    running: Running,
    inputs: Vec<Vec<u8>>,
    /// What was seen in trails.
    seen: HashSet<u64>,
    executions: u64,
    slowest: Duration,
}

/// All that is in the target's folder of the corpus, in the order of the names.
fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target.name);
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort_unstable();
    paths.into_iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Runs a target, as the environment asks (`main.rs` says how).
pub fn fuzz(target: &Target) {
    prepare();
    if let Ok(path) = std::env::var("DKV_FUZZ_INPUT") {
        let input = std::fs::read(&path).unwrap();
        (target.run)(&input, &mut Trail::default());
        println!("fuzz {}: {path} passes", target.name);
        return;
    }
    let mut session = Session {
        target,
        plan: Plan::of(target),
        running: Running::new(target),
        inputs: Vec::new(),
        seen: HashSet::new(),
        executions: 0,
        slowest: Duration::ZERO,
    };
    session.run();
}

impl Session<'_> {
    fn run(&mut self) {
        let began = Instant::now();
        for input in corpus(self.target).into_iter().chain((self.target.seeds)()) {
            if self.execute(&input).is_err() {
                self.fail(input);
            }
            if self.inputs.last() != Some(&input) {
                self.inputs.push(input);
            }
        }
        assert!(!self.inputs.is_empty(), "there is something to begin with");
        let given = self.inputs.len();
        let mut seed = [0; 16];
        seed[..8].copy_from_slice(&self.plan.seed.to_le_bytes());
        let config = Config { failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::XorShift, &seed));
        let strategy = (any::<[u32; 2]>(), edits());
        let mut told = began;
        while self.is_wanted(began) {
            let mut drawn = strategy.new_tree(&mut runner).unwrap();
            let input = self.changed(&drawn.current());
            if self.execute(&input).is_err() {
                let shortest = self.shrink(input, &mut drawn);
                self.fail(shortest);
            }
            if told.elapsed() > Duration::from_secs(60) {
                told = Instant::now();
                self.tell("under way", given, began);
            }
        }
        self.tell("passed", given, began);
        if let Ok(folder) = std::env::var("DKV_FUZZ_DISTIL") {
            self.distil(Path::new(&folder), given);
        }
    }

    fn is_wanted(&self, began: Instant) -> bool {
        match self.plan.until {
            Until::Executions(wanted) => self.executions < wanted,
            Until::Time(time) => began.elapsed() < time,
        }
    }

    fn tell(&self, how: &str, given: usize, began: Instant) {
        println!(
            "fuzz {}: {how}, seed {}, {} executions in {:.0} s, {} inputs kept beside {given}, slowest {} us",
            self.target.name,
            self.plan.seed,
            self.executions,
            began.elapsed().as_secs_f64(),
            self.inputs.len() - given,
            self.slowest.as_micros(),
        );
    }

    /// The shorter of two inputs, changed.
    fn changed(&self, (bases, edits): &Drawn) -> Vec<u8> {
        let Target { words, longest, .. } = *self.target;
        let input = |at: u32| &self.inputs[((u64::from(at) * self.inputs.len() as u64) >> 32) as usize];
        let [one, other] = bases.map(input);
        let base = if other.len() < one.len() { other } else { one };
        Material { inputs: &self.inputs, words, longest }.apply(base, edits)
    }

    /// Runs the target once, and keeps the input if it showed something new.
    fn execute(&mut self, input: &[u8]) -> Result<(), ()> {
        self.running.note(input);
        self.executions += 1;
        let mut trail = Trail::default();
        let began = Instant::now();
        let result = attempt(self.target, input, &mut trail);
        self.slowest = self.slowest.max(began.elapsed());
        result?;
        let mut is_new = false;
        for mark in trail.marks {
            is_new |= self.seen.insert(mark);
        }
        if is_new && self.inputs.len() < MOST_KEPT {
            self.inputs.push(input.to_vec());
        }
        Ok(())
    }

    /// The shortest input found that still fails: with fewer and smaller edits, then with bytes left out.
    fn shrink(&mut self, input: Vec<u8>, drawn: &mut impl ValueTree<Value = Drawn>) -> Vec<u8> {
        let (mut shortest, mut tries) = (input, 0);
        let mut fails = |input: &[u8]| {
            tries += 1;
            tries < MOST_SHRINKS && attempt(self.target, input, &mut Trail::default()).is_err()
        };
        let mut goes_on = drawn.simplify();
        while goes_on {
            let input = self.changed(&drawn.current());
            goes_on = if fails(&input) {
                shortest = input;
                drawn.simplify()
            } else {
                drawn.complicate()
            };
        }
        let mut step = shortest.len() / 2;
        while step > 0 {
            let mut at = 0;
            while at + step <= shortest.len() {
                let without = [&shortest[..at], &shortest[at + step..]].concat();
                if fails(&without) {
                    shortest = without;
                } else {
                    at += step;
                }
            }
            step /= 2;
        }
        shortest
    }

    /// Tells the failure of an input, which is tried once more for that.
    fn fail(&mut self, input: Vec<u8>) -> ! {
        self.running.note(&input);
        let _ = attempt(self.target, &input, &mut Trail::default());
        let name = self.target.name;
        let path = scratch(&format!("fuzz-{name}-{:016x}", number_of(&input)));
        std::fs::write(&path, &input).unwrap();
        let shown = input[..input.len().min(3000)].escape_ascii();
        let Session { executions, plan: Plan { seed, .. }, .. } = self;
        let (path, bytes, why) = (path.display(), input.len(), LAST_PANIC.take());
        panic!(
            "fuzz {name}: execution {executions} of seed {seed} failed: {why}\n{bytes} bytes: {shown}\nalone: \
             DKV_FUZZ_INPUT={path} cargo test --test fuzz -- --exact {name}\nto keep it: cp {path} \
             tests/fuzz/corpus/{name}/"
        );
    }

    /// Writes the shortest of what was kept, for a corpus.
    fn distil(&self, folder: &Path, given: usize) {
        const MOST_FILES: usize = 60;
        let folder = folder.join(self.target.name);
        std::fs::create_dir_all(&folder).unwrap();
        let mut kept: Vec<&Vec<u8>> = self.inputs[given..].iter().collect();
        kept.sort_by_key(|input| input.len());
        let most = kept.len();
        for n in 0..MOST_FILES.min(most) {
            // Spread over all lengths, the short ones being more.
            let input = kept[n * n * most / (MOST_FILES * MOST_FILES).max(n * n + 1)];
            std::fs::write(folder.join(format!("{:016x}", number_of(input))), input).unwrap();
        }
    }
}

fn attempt(target: &Target, input: &[u8], trail: &mut Trail) -> Result<(), ()> {
    IS_TRYING.set(true);
    let result = catch_unwind(AssertUnwindSafe(|| (target.run)(input, trail)));
    IS_TRYING.set(false);
    result.map_err(|_| ())
}

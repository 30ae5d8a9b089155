//! Owns: every setting: its name, default, range and meaning. All are optional in the file.
//! Never: what is done with a setting; the table of shards.

use std::ops::{Range, RangeInclusive};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::report::{Report, did_you_mean};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// All settings, by table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// `[limits]`
    pub limits: Limits,
    /// `[deadlines]`
    pub deadlines: Deadlines,
    /// `[replication]`
    pub replication: Replication,
    /// `[store]`
    pub store: Store,
    /// `[http]`
    pub http: Http,
}

/// `[limits]`: how much one request, one connection, one node takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The longest key, in bytes after decoding. Default 4096; 1 to 16384.
    pub max_key_bytes: usize,
    /// The longest value, in bytes. Default 1 MiB; 1 to 64 MiB.
    pub max_value_bytes: usize,
    /// The longest request head, the target included, in bytes. Default 32 KiB; 1 KiB to 1 MiB.
    pub max_head_bytes: usize,
    /// Client connections at a time; room for the peers is kept beside them. Default 10,000; 1 to 1,000,000.
    pub max_connections: usize,
    /// Bytes of requests and answers under way over all connections. Default 256 MiB; 64 KiB to 64 GiB, and at
    /// least twice the largest request.
    pub max_inflight_bytes: usize,
    /// Requests under way on one connection; those behind them wait in the socket. Default 128; 1 to 65535.
    pub max_pipeline: usize,
}

/// `[deadlines]`: how long the node waits for what, in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deadlines {
    /// For a whole request head, from its first byte. Default 10,000.
    pub head_ms: u64,
    /// The slowest body that is waited for, in bytes a second, after the first 10 seconds. Default 1024; 1 to
    /// 1 GiB.
    pub body_min_bytes_per_s: u64,
    /// For the next request on an idle connection. Default 60,000.
    pub idle_ms: u64,
    /// For a client that takes nothing of its answer. Default 30,000.
    pub stall_ms: u64,
    /// How long a request waits for a shard's primary that cannot be reached, before 503. Default 2,000.
    pub wait_ms: u64,
    /// For the answer of a request that was forwarded to another node, before 504. Default 10,000.
    pub answer_ms: u64,
    /// What a stopping node gives the requests that are under way. Default 5,000.
    pub drain_ms: u64,
    /// How long a disk may take for one sync before the node stops counting on it. Default 5,000.
    pub disk_ms: u64,
}

/// `[replication]`: how the copies of a shard stand in for each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replication {
    /// How long an in-sync copy waits for a primary that is silent before it takes over, in milliseconds; how long a
    /// primary may rely on its lease, and how often it is heard, derive from it. Default 600; 200 to 60,000.
    pub failover_ms: u64,
    /// What a read rests on. Default `lease`.
    pub reads: Reads,
}

/// How a primary knows, at a read, that no other has taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reads {
    /// By a lease from every other in-sync copy: no message a read, and the hosts' clocks must run at nearly the same
    /// rate.
    Lease,
    /// By an answer of every other in-sync copy that was asked after the read had come: nothing is assumed of clocks.
    Confirm,
}

/// `[store]`: the data on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// Where the nodes' data directories lie, one a node, named after its address; relative to the working
    /// directory of the process. Default `data`.
    pub directory: String,
    /// What the log may take on disk beside twice its live records is twice this, in bytes, as long as no record is
    /// longer than a sixteenth of it; a file of the log is closed at a quarter. Default 48 MiB; 256 KiB to 256 MiB, a
    /// multiple of 4096.
    pub segment_bytes: u64,
    /// Compaction begins when more than this share of the log's closed files is dead, in percent. Default 28; 5 to 45.
    pub compact_dead_percent: u32,
}

/// `[http]`: which browsers' requests are taken. Clients that are no browser are not concerned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Http {
    /// Host names, without port, by which the nodes may be asked, beside IP addresses and `localhost`. Default none.
    pub allowed_hosts: Vec<String>,
    /// Origins, such as `https://example.org`, whose pages may use the store. Default none.
    pub allowed_origins: Vec<String>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_key_bytes: 4 * KIB,
            max_value_bytes: MIB,
            max_head_bytes: 32 * KIB,
            max_connections: 10_000,
            max_inflight_bytes: 256 * MIB,
            max_pipeline: 128,
        }
    }
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines {
            head_ms: 10_000,
            body_min_bytes_per_s: 1024,
            idle_ms: 60_000,
            stall_ms: 30_000,
            wait_ms: 2_000,
            answer_ms: 10_000,
            drain_ms: 5_000,
            disk_ms: 5_000,
        }
    }
}

impl Default for Replication {
    fn default() -> Self {
        Replication { failover_ms: 600, reads: Reads::Lease }
    }
}

impl Default for Store {
    fn default() -> Self {
        Store { directory: "data".to_owned(), segment_bytes: 48 * MIB as u64, compact_dead_percent: 28 }
    }
}

/// A setting as it is in effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// `table.name`.
    pub setting: String,
    /// The value. As text it would stand so in the file: JSON's numbers, texts and lists are TOML's.
    pub value: Value,
    /// The file's line that sets it, counted from 1; none: it is the default.
    pub line: Option<usize>,
}

/// The tables that hold settings.
pub(super) const TABLES: [&str; 5] = ["limits", "deadlines", "replication", "store", "http"];

/// One millisecond to one hour.
/// What a record takes in the log beside its key and value, and more.
const RECORD_ROOM_BYTES: u64 = 4096;
const ANY_MS: RangeInclusive<u64> = 1..=3_600_000;

/// Reads all tables of settings. What is wrong goes to `report`; such a setting keeps its default.
pub(super) fn read(root: &DeTable<'_>, report: &mut Report<'_>) -> (Settings, Vec<Origin>) {
    let mut settings = Settings::default();
    let mut origins = Vec::new();
    let Settings { limits, deadlines, replication, store, http } = &mut settings;

    let mut table = Section::open("limits", root, report, &mut origins);
    table.number("max_key_bytes", &mut limits.max_key_bytes, 1..=16 * KIB as u64);
    table.number("max_value_bytes", &mut limits.max_value_bytes, 1..=64 * MIB as u64);
    table.number("max_head_bytes", &mut limits.max_head_bytes, KIB as u64..=MIB as u64);
    table.number("max_connections", &mut limits.max_connections, 1..=1_000_000);
    table.number("max_inflight_bytes", &mut limits.max_inflight_bytes, 64 * KIB as u64..=65_536 * MIB as u64);
    table.number("max_pipeline", &mut limits.max_pipeline, 1..=65_535);
    table.close();

    let mut table = Section::open("deadlines", root, report, &mut origins);
    table.number("head_ms", &mut deadlines.head_ms, ANY_MS);
    table.number("body_min_bytes_per_s", &mut deadlines.body_min_bytes_per_s, 1..=1024 * MIB as u64);
    table.number("idle_ms", &mut deadlines.idle_ms, ANY_MS);
    table.number("stall_ms", &mut deadlines.stall_ms, ANY_MS);
    table.number("wait_ms", &mut deadlines.wait_ms, 0..=3_600_000);
    table.number("answer_ms", &mut deadlines.answer_ms, ANY_MS);
    table.number("drain_ms", &mut deadlines.drain_ms, 0..=3_600_000);
    table.number("disk_ms", &mut deadlines.disk_ms, ANY_MS);
    table.close();

    let mut table = Section::open("replication", root, report, &mut origins);
    table.number("failover_ms", &mut replication.failover_ms, 200..=60_000);
    table.choice("reads", &mut replication.reads, "\"lease\" or \"confirm\"");
    table.close();

    let mut table = Section::open("store", root, report, &mut origins);
    table.text("directory", &mut store.directory, directory);
    table.number("segment_bytes", &mut store.segment_bytes, 256 * KIB as u64..=256 * MIB as u64);
    table.number("compact_dead_percent", &mut store.compact_dead_percent, 5..=45);
    table.close();

    let mut table = Section::open("http", root, report, &mut origins);
    table.texts("allowed_hosts", &mut http.allowed_hosts, host);
    table.texts("allowed_origins", &mut http.allowed_origins, origin);
    table.close();

    check_together(&settings, root, report);
    (settings, origins)
}

/// The rules that a range cannot say.
fn check_together(settings: &Settings, root: &DeTable<'_>, report: &mut Report<'_>) {
    let Settings { limits, store, .. } = settings;
    if !store.segment_bytes.is_multiple_of(4096) {
        report.error(
            span_of(root, "store", "segment_bytes"),
            format!("store.segment_bytes: {} is not a multiple of 4096", store.segment_bytes),
            format!("the next is {}", store.segment_bytes.next_multiple_of(4096)),
        );
    }
    let largest = limits.max_value_bytes + limits.max_head_bytes;
    if limits.max_inflight_bytes < 2 * largest {
        report.error(
            span_of(root, "limits", "max_inflight_bytes"),
            format!(
                "limits.max_inflight_bytes = {} has no room for two of the largest requests \
                 (max_value_bytes + max_head_bytes = {largest})",
                limits.max_inflight_bytes
            ),
            format!("raise limits.max_inflight_bytes to {} or more, or lower limits.max_value_bytes", 2 * largest),
        );
    }
}

/// A replica takes records as they come, without waiting for its disk, up to an eighth of `segment_bytes`: a longer one
/// would never get through to it.
pub(super) fn check_records(settings: &Settings, root: &DeTable<'_>, report: &mut Report<'_>) {
    let (limits, segment_bytes) = (&settings.limits, settings.store.segment_bytes);
    let longest = (limits.max_value_bytes + limits.max_key_bytes) as u64 + RECORD_ROOM_BYTES;
    if longest > segment_bytes / 8 {
        let least = (8 * longest).next_multiple_of(4096);
        let at = span_of(root, "store", "segment_bytes");
        report.error(
            if at.is_empty() { span_of(root, "limits", "max_value_bytes") } else { at },
            format!(
                "store.segment_bytes = {segment_bytes} is too little for replicas of the longest records: an eighth of it \
                 must hold limits.max_value_bytes + limits.max_key_bytes + {RECORD_ROOM_BYTES} = {longest}"
            ),
            format!("raise store.segment_bytes to {least} or more, or lower limits.max_value_bytes"),
        );
    }
}

/// The place of a setting, or else of its table, which a rule can only be broken by having.
fn span_of(root: &DeTable<'_>, table: &str, name: &str) -> Range<usize> {
    let table = root.get(table);
    let setting = table.and_then(|t| t.get_ref().get(name));
    setting.or(table).map_or(0..0, Spanned::span)
}

/// One table of settings while it is read: remembers which names it has, so that the others can be told.
struct Section<'s, 't, 'r> {
    name: &'static str,
    table: Option<&'s DeTable<'t>>,
    known: Vec<&'static str>,
    report: &'s mut Report<'r>,
    origins: &'s mut Vec<Origin>,
}

impl<'s, 't, 'r> Section<'s, 't, 'r> {
    fn open(
        name: &'static str,
        root: &'s DeTable<'t>,
        report: &'s mut Report<'r>,
        origins: &'s mut Vec<Origin>,
    ) -> Section<'s, 't, 'r> {
        let found = root.get(name);
        let table = found.and_then(|v| v.get_ref().as_table());
        if let (Some(value), None) = (found, table) {
            let message = format!("{name} is {}, not a table", kind(value.get_ref()));
            report.error(value.span(), message, format!("write [{name}], and its settings on the lines below"));
        }
        Section { name, table, known: Vec::new(), report, origins }
    }

    fn number<T>(&mut self, name: &'static str, into: &mut T, range: RangeInclusive<u64>)
    where
        T: TryFrom<u64> + Copy + Into<Value>,
    {
        let (low, high) = (*range.start(), *range.end());
        let line = self.take(name, format!("a whole number from {low} to {high}"), |value| {
            let number: u64 = leaf(value)?;
            let fits = T::try_from(number).ok().filter(|_| range.contains(&number));
            *into = fits.ok_or_else(|| format!("{number} is out of range"))?;
            Ok(())
        });
        self.note(name, (*into).into(), line);
    }

    /// One word of a few, which `wants` lists.
    fn choice<T>(&mut self, name: &'static str, into: &mut T, wants: &str)
    where
        T: DeserializeOwned + Serialize + Copy,
    {
        let line = self.take(name, wants.to_owned(), |value| {
            let word: String = leaf(value)?;
            *into = leaf(value).map_err(|_| format!("{word:?} is not known"))?;
            Ok(())
        });
        self.note(name, serde_json::to_value(*into).expect("a word has a JSON form"), line);
    }

    fn text(&mut self, name: &'static str, into: &mut String, check: fn(&str) -> Result<String, String>) {
        let line = self.take(name, "text in double quotes".to_owned(), |value| {
            *into = check(&leaf::<String>(value)?)?;
            Ok(())
        });
        self.note(name, into.clone().into(), line);
    }

    fn texts(&mut self, name: &'static str, into: &mut Vec<String>, check: fn(&str) -> Result<String, String>) {
        let line = self.take(name, "a list of texts: [\"…\", \"…\"]".to_owned(), |value| {
            let texts: Vec<String> = leaf(value)?;
            *into = texts.iter().map(|t| check(t)).collect::<Result<_, _>>()?;
            Ok(())
        });
        self.note(name, into.clone().into(), line);
    }

    /// Hands the setting's value, if the file has one, to `read`; gives its line. `wants` says what is taken.
    fn take(
        &mut self,
        name: &'static str,
        wants: String,
        read: impl FnOnce(&Spanned<DeValue<'t>>) -> Result<(), String>,
    ) -> Option<usize> {
        self.known.push(name);
        let value = self.table?.get(name)?;
        if let Err(wrong) = read(value) {
            self.report.error(value.span(), format!("{}.{name}: {wrong}", self.name), format!("it takes {wants}"));
        }
        Some(self.report.line_of(value.span().start))
    }

    fn note(&mut self, name: &str, value: Value, line: Option<usize>) {
        self.origins.push(Origin { setting: format!("{}.{name}", self.name), value, line });
    }

    fn close(self) {
        for key in self.table.iter().flat_map(|t| t.keys()) {
            let word = key.get_ref().as_ref();
            if !self.known.contains(&word) {
                let message = format!("[{}] has no setting {word:?}", self.name);
                self.report.error(key.span(), message, did_you_mean(word, &self.known, |w| w.to_owned()));
            }
        }
    }
}

/// A value as a Rust type, by serde.
///
/// # Errors
/// Says what it is instead.
pub(super) fn leaf<T: DeserializeOwned>(value: &Spanned<DeValue<'_>>) -> Result<T, String> {
    T::deserialize(ValueDeserializer::from(value.clone())).map_err(|error| match value.get_ref() {
        DeValue::Array(_) => error.message().to_owned(),
        DeValue::Integer(number) if !error.message().ends_with("a string") => format!("{number} does not fit"),
        other => format!("this is {}", kind(other)),
    })
}

/// The type of a value, with its article.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn directory(text: &str) -> Result<String, String> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err("this names no directory".to_owned());
    }
    Ok(text.to_owned())
}

/// A host's name as a Host header has it, in lower case.
fn host(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if text.is_empty() || !text.chars().all(plain) {
        return Err(format!("{text:?} is not a host name: write it without scheme, port and path"));
    }
    Ok(text.to_ascii_lowercase())
}

/// An origin as a browser sends it, in lower case.
fn origin(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    if rest.is_none_or(|r| r.is_empty() || r.contains(['/', '?', '#', '@', ' ', '*'])) {
        return Err(format!("{text:?} is not an origin: write scheme://host or scheme://host:port, no path"));
    }
    Ok(text.to_ascii_lowercase())
}

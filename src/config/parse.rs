//! Owns: the text of `sharding.toml` → [`Loaded`], or everything that is wrong with it at once.
//! Never: the ranges of settings (settings.rs); what is an address (address.rs).

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::address::{canonical, parse_table_address};
use super::report::{Report, did_you_mean, nearest};
use super::settings::{self, kind, leaf};
use super::warnings::warnings;
use super::{Cluster, ConfigError, Loaded, ShardEntry};

/// The keys of a `[[shard]]`.
const KEYS: [&str; 4] = ["name", "idx", "address", "replicas"];

/// The key of a `[[witness]]`.
const WITNESS_KEYS: [&str; 1] = ["address"];

/// The tables that list nodes.
const LISTS: [&str; 2] = ["shard", "witness"];

/// How many characters a shard's name may have.
const MAX_NAME_CHARS: usize = 64;

/// Reads a configuration. `file_name` is used in messages only.
///
/// # Errors
/// Everything that is wrong with it, in the order of the text; never empty.
pub fn parse(text: &str, file_name: &str) -> Result<Loaded, Vec<ConfigError>> {
    let mut report = Report::new(file_name, text);
    let (root, syntax) = DeTable::parse_recoverable(text);
    for error in &syntax {
        report.syntax(error);
    }
    let root = root.into_inner();
    check_tables(&root, &mut report);
    let drafts = read_shards(&root, text.len(), &mut report);
    check_names(&drafts, &mut report);
    check_indexes(&drafts, &mut report);
    let witnesses = read_witnesses(&root, &mut report);
    check_addresses(drafts.iter().flat_map(|d| &d.addresses).chain(&witnesses), &mut report);
    let (settings, origins) = settings::read(&root, &mut report);
    if drafts.iter().any(|draft| draft.addresses.len() > 1) {
        settings::check_records(&settings, &root, &mut report);
    }
    if !report.is_clean() {
        return Err(report.finish());
    }
    let witnesses = witnesses.into_iter().map(Spanned::into_inner).collect();
    let cluster = Cluster::new(in_order(drafts), witnesses, settings);
    let warnings = warnings(&cluster);
    Ok(Loaded { cluster, warnings, origins })
}

/// A `[[shard]]` as far as it could be read. Each part keeps its place.
#[derive(Default)]
struct Draft {
    name: Option<Spanned<String>>,
    idx: Option<Spanned<u32>>,
    /// Primary first. Lacks those that are no address.
    addresses: Vec<Spanned<SocketAddr>>,
}

/// Unknown tables and keys at the top.
fn check_tables(root: &DeTable<'_>, report: &mut Report<'_>) {
    let known: Vec<&str> = LISTS.into_iter().chain(settings::TABLES).collect();
    let write = |word: &str| if LISTS.contains(&word) { format!("[[{word}]]") } else { format!("[{word}]") };
    for (key, value) in root {
        let word = key.get_ref().as_ref();
        if known.contains(&word) {
            continue;
        }
        if KEYS.contains(&word) {
            let advice = format!("write [[shard]] on a line above {word}");
            report.error(key.span(), format!("{word:?} stands outside of a shard"), advice);
            continue;
        }
        let shown = match value.get_ref() {
            DeValue::Array(_) => format!("[[{word}]]"),
            DeValue::Table(_) => format!("[{word}]"),
            _ => format!("{word:?}"),
        };
        report.error(key.span(), format!("{shown} is not known"), did_you_mean(word, &known, write));
    }
}

fn read_shards(root: &DeTable<'_>, end: usize, report: &mut Report<'_>) -> Vec<Draft> {
    // A table whose name is nearly right has been told as unknown; its shards are checked all the same.
    let meant = || root.iter().find(|(key, _)| nearest(key.get_ref(), &["shard"]).is_some()).map(|(_, value)| value);
    let Some(value) = root.get("shard").or_else(meant) else {
        report.absent(end..end, "no shard at all", "write a [[shard]] with name, idx, address and replicas");
        return Vec::new();
    };
    match value.get_ref() {
        DeValue::Array(list) if list.is_empty() => {
            report.absent(value.span(), "no shard at all", "write a [[shard]] with name, idx, address and replicas");
            Vec::new()
        }
        DeValue::Array(list) => list.iter().map(|item| read_shard(item, report)).collect(),
        DeValue::Table(_) => {
            report.error(value.span(), "[shard] is one table, not a list", "write [[shard]], with two brackets");
            Vec::new()
        }
        other => {
            report.error(value.span(), format!("shard is {}", kind(other)), "write a [[shard]] for each shard");
            Vec::new()
        }
    }
}

fn read_shard(item: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Draft {
    let mut draft = Draft::default();
    let Some(table) = item.get_ref().as_table() else {
        report.error(item.span(), format!("a shard is a table; this is {}", kind(item.get_ref())), "write [[shard]]");
        return draft;
    };
    for key in table.keys().filter(|k| !KEYS.contains(&k.get_ref().as_ref())) {
        let word = key.get_ref().as_ref();
        let advice = did_you_mean(word, &KEYS, |w| w.to_owned());
        report.error(key.span(), format!("a shard has no {word:?}"), advice);
    }
    match table.get("name") {
        None => missing(table, "name", item.span(), "name = \"Moscow\"", report),
        Some(value) => draft.name = read_name(value, report),
    }
    match table.get("idx") {
        None => missing(table, "idx", item.span(), "idx = 0; indexes run 0, 1, 2, …", report),
        Some(value) => match leaf::<u32>(value) {
            Ok(idx) => draft.idx = Some(Spanned::new(value.span(), idx)),
            Err(wrong) => report.error(value.span(), format!("idx: {wrong}"), "it takes a whole number: 0, 1, 2, …"),
        },
    }
    match table.get("address") {
        None => missing(table, "address", item.span(), "address = \"127.0.0.1:8080\"", report),
        Some(value) => draft.addresses.extend(read_address("address", value, report)),
    }
    match table.get("replicas").map(|v| (v, v.get_ref())) {
        None => {}
        Some((_, DeValue::Array(list))) => {
            draft.addresses.extend(list.iter().filter_map(|v| read_address("replicas", v, report)));
        }
        Some((value, other)) => {
            let advice = "it takes a list of addresses: replicas = [\"127.0.0.1:8081\"]";
            report.error(value.span(), format!("replicas: this is {}", kind(other)), advice);
        }
    }
    draft
}

/// The witnesses' addresses. Lacks those that are no address.
fn read_witnesses(root: &DeTable<'_>, report: &mut Report<'_>) -> Vec<Spanned<SocketAddr>> {
    let meant = || root.iter().find(|(key, _)| nearest(key.get_ref(), &LISTS) == Some("witness")).map(|(_, v)| v);
    let Some(value) = root.get("witness").or_else(meant) else { return Vec::new() };
    match value.get_ref() {
        DeValue::Array(list) => list.iter().filter_map(|item| read_witness(item, report)).collect(),
        DeValue::Table(_) => {
            report.error(value.span(), "[witness] is one table, not a list", "write [[witness]], with two brackets");
            Vec::new()
        }
        other => {
            let advice = "write a [[witness]] for each witness, and its address on the line below";
            report.error(value.span(), format!("witness is {}", kind(other)), advice);
            Vec::new()
        }
    }
}

fn read_witness(item: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Spanned<SocketAddr>> {
    let Some(table) = item.get_ref().as_table() else {
        let message = format!("a witness is a table; this is {}", kind(item.get_ref()));
        report.error(item.span(), message, "write [[witness]], and its address on the line below");
        return None;
    };
    let mut mistyped = false;
    for key in table.keys().filter(|k| !WITNESS_KEYS.contains(&k.get_ref().as_ref())) {
        let word = key.get_ref().as_ref();
        mistyped |= nearest(word, &WITNESS_KEYS).is_some();
        let advice = match KEYS.contains(&word) {
            true => "a witness holds no shard: it has an address alone".to_owned(),
            false => did_you_mean(word, &WITNESS_KEYS, |w| w.to_owned()),
        };
        report.error(key.span(), format!("a witness has no {word:?}"), advice);
    }
    let Some(value) = table.get("address") else {
        if !mistyped {
            report.absent(item.span(), "this witness has no address", "write address = \"127.0.0.1:8090\"");
        }
        return None;
    };
    read_address("address", value, report)
}

fn missing(table: &DeTable<'_>, key: &str, header: Range<usize>, example: &str, report: &mut Report<'_>) {
    // A key that is nearly right has been told already as unknown.
    let mistyped = |k: &str| !KEYS.contains(&k) && nearest(k, &KEYS) == Some(key);
    if !table.keys().any(|k| mistyped(k.get_ref())) {
        report.absent(header, format!("this shard has no {key}"), format!("write {example}"));
    }
}

fn read_name(value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Spanned<String>> {
    let wrong = match leaf::<String>(value) {
        Err(wrong) => wrong,
        Ok(name) if name.trim().is_empty() => "it is empty".to_owned(),
        Ok(name) if name.chars().any(char::is_control) => "it has a control character".to_owned(),
        Ok(name) if name.chars().count() > MAX_NAME_CHARS => format!("it has over {MAX_NAME_CHARS} characters"),
        Ok(name) => return Some(Spanned::new(value.span(), name)),
    };
    let advice = format!("it takes text of 1 to {MAX_NAME_CHARS} characters in double quotes");
    report.error(value.span(), format!("name: {wrong}"), advice);
    None
}

fn read_address(key: &str, value: &Spanned<DeValue<'_>>, report: &mut Report<'_>) -> Option<Spanned<SocketAddr>> {
    match leaf::<String>(value).and_then(|text| parse_table_address(&text)) {
        Ok(address) => Some(Spanned::new(value.span(), address)),
        Err(wrong) => {
            report.error(value.span(), format!("{key}: {wrong}"), "an address is IP:PORT in double quotes");
            None
        }
    }
}

fn check_names(drafts: &[Draft], report: &mut Report<'_>) {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for name in drafts.iter().filter_map(|d| d.name.as_ref()) {
        let line = report.line_of(name.span().start);
        match seen.get(name.get_ref().as_str()) {
            None => drop(seen.insert(name.get_ref(), line)),
            Some(first) => {
                let message =
                    format!("a second shard is named {:?}: line {first} has the name already", name.get_ref());
                report.error(name.span(), message, "give every shard a name of its own");
            }
        }
    }
}

/// Of n shards the indexes must be 0 to n-1. Then a repeated one, or one out of range, is what leaves a gap, and
/// there is no gap without one of them.
fn check_indexes(drafts: &[Draft], report: &mut Report<'_>) {
    let known: Vec<&Spanned<u32>> = drafts.iter().filter_map(|d| d.idx.as_ref()).collect();
    let (count, last) = (drafts.len(), drafts.len().saturating_sub(1));
    let free = |idx: &usize| known.iter().all(|k| *k.get_ref() as usize != *idx);
    let free: Vec<String> = (0..count).filter(free).map(|idx| idx.to_string()).collect();
    let gaps = format!("idx {} {} missing: indexes run 0..{last}", free.join(", "), plural(free.len()));
    let mut seen: BTreeMap<u32, usize> = BTreeMap::new();
    for idx in known {
        let (number, line) = (*idx.get_ref(), report.line_of(idx.span().start));
        if let Some(first) = seen.get(&number) {
            report.error(idx.span(), format!("a second shard has idx {number}: line {first} has it already"), &gaps);
        } else if number as usize >= count {
            let message = format!("idx {number} is too large for {count} shard{}", if count == 1 { "" } else { "s" });
            report.error(idx.span(), message, &gaps);
        }
        seen.entry(number).or_insert(line);
    }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "is" } else { "are" }
}

/// `addresses`: the shards' in the file's order, then the witnesses'.
fn check_addresses<'a>(addresses: impl Iterator<Item = &'a Spanned<SocketAddr>>, report: &mut Report<'_>) {
    let mut seen: HashMap<SocketAddr, usize> = HashMap::new();
    for address in addresses {
        let line = report.line_of(address.span().start);
        match seen.get(&canonical(*address.get_ref())) {
            None => drop(seen.insert(canonical(*address.get_ref()), line)),
            Some(first) => {
                let message =
                    format!("a second node has the address {}: line {first} has it already", address.get_ref());
                report.error(
                    address.span(),
                    message,
                    "every node, primary, replica or witness, has an address of its own",
                );
            }
        }
    }
}

/// The shards in order of their indexes, which are known to be 0 to n-1.
fn in_order(drafts: Vec<Draft>) -> Vec<ShardEntry> {
    let mut entries = BTreeMap::new();
    for draft in drafts {
        let (Some(name), Some(idx)) = (draft.name, draft.idx) else {
            unreachable!("a shard without name or idx has been reported");
        };
        let addresses = draft.addresses.into_iter().map(Spanned::into_inner).collect();
        entries.insert(idx.into_inner(), ShardEntry { name: name.into_inner(), addresses });
    }
    entries.into_values().collect()
}

//! Who may know whom: every file of the product names only the modules, and the parts of the system, that its place in
//! the design allows. A new file says what it owns and what it must never know.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by its place")]

use std::fs;
use std::path::Path;

/// What a file, or all files of a folder, may name.
struct Border {
    /// The module's path, without `crate::`. The longest that fits counts.
    of: &'static str,
    /// Modules of this crate, beside itself and what is below it.
    may: &'static [&'static str],
    /// Paths of other crates that it must not name.
    never: &'static [&'static str],
}

const SOCKETS: [&str; 4] =
    ["std::net::TcpStream", "std::net::TcpListener", "std::net::UdpSocket", "std::net::ToSocketAddrs"];
/// What has no input and output at all.
const PURE: &[&str] =
    &["mio", "nix", "rustix", "signal_hook", "std::net", "std::io", "std::fs", "std::time", "std::thread"];
/// The same, but addresses are mere names.
const NAMES: &[&str] = &["mio", "nix", "rustix", "std::io", "std::fs", "std::time", "std::thread"];
const STORE: &[&str] = &["mio", "nix", "rustix", "signal_hook", "std::fs", "std::time", "std::thread"];
const STORE_ON_FILES: &[&str] = &["mio", "nix::time", "signal_hook", "std::time", "rustix::net", "rustix::time"];
/// The parts of the core, which a simulation runs as they are.
const CORE: &[&str] = &[
    "config",
    "configuration",
    "id",
    "node",
    "op",
    "router",
    "server::agreement",
    "server::ahead",
    "server::core",
    "server::drain",
    "server::execute",
    "server::expiry",
    "server::follow",
    "server::forward",
    "server::lane",
    "server::lead",
    "server::standing",
    "store::AppendError",
    "store::Arrived",
    "store::Event",
    "store::Fatal",
    "store::Home",
    "store::HomeEvent",
    "store::KeyHash",
    "store::Kind",
    "store::Known",
    "store::LogCursor",
    "store::LogRead",
    "store::Lookup",
    "store::OpenError",
    "store::Options",
    "store::PersistId",
    "store::Probe",
    "store::SmallState",
    "store::StageError",
    "store::Store",
    "store::SyncProgress",
    "store::disk",
    "wire",
];
const CALLS: &[&str] =
    &["http", "id", "op", "server::api", "server::browser", "server::error", "server::metrics", "server::render"];

const fn border(of: &'static str, may: &'static [&'static str], never: &'static [&'static str]) -> Border {
    Border { of, may, never }
}

const BORDERS: &[Border] = &[
    border("id", &[], NAMES),
    border("op", &["id"], PURE),
    border("router", &["config", "id"], PURE),
    border("wire", &["id", "op"], PURE),
    border("peers", &["id", "wire"], PURE),
    border("configuration", &["id"], PURE),
    border("config", &["id"], &["mio", "nix", "rustix", "std::time", "std::thread"]),
    border("reactor", &["id"], &["std::fs", "std::thread", "httparse"]),
    border("http", &[], PURE),
    border("node", &["configuration", "id"], PURE),
    border("node::copy", &["configuration", "id", "node", "wire"], PURE),
    border("node::directory", &["config", "id", "peers", "wire"], PURE),
    border("node::followers", &["configuration", "id", "node", "wire"], PURE),
    border("node::lease", &["id"], PURE),
    border("node::lineage", &["id"], PURE),
    border("node::registers", &["configuration", "id"], PURE),
    border("node::registers::table", &["config", "configuration", "id", "node::registers"], NAMES),
    border("reform", &["config", "configuration", "id", "node::registers", "router"], NAMES),
    border("reform::apply", &["configuration", "id", "node::registers", "reform", "store"], NAMES),
    border("reform::survey", &["configuration", "id", "node::registers", "reform", "router", "store"], NAMES),
    border("store", &["id"], STORE),
    border("store::dir", &["id", "store"], STORE_ON_FILES),
    border("store::files", &["id", "store"], STORE_ON_FILES),
    border(
        "store::mapped",
        &[],
        &["mio", "nix", "signal_hook", "std::time", "rustix::net", "rustix::fs", "rustix::time"],
    ),
    border("store::offline", &["id", "store"], STORE_ON_FILES),
    border("store::stopped", &["id", "store"], STORE_ON_FILES),
    border(
        "server",
        &["config", "http", "id", "node", "op", "peers", "reactor", "router", "store", "wire"],
        &["std::fs"],
    ),
    border("server::process", &["server::metrics"], &["mio", "std::net"]),
    border("server::agreement", CORE, PURE),
    border(
        "server::ahead",
        &["op", "server::lane", "store::KeyHash", "store::Looked", "store::Store", "store::disk"],
        PURE,
    ),
    border("server::core", CORE, PURE),
    border("server::execute", CORE, PURE),
    border("server::expiry", CORE, PURE),
    border("server::follow", CORE, PURE),
    border("server::forward", CORE, PURE),
    border("server::lane", CORE, PURE),
    border("server::lead", CORE, PURE),
    border("server::messages", CORE, PURE),
    border("server::standing", CORE, PURE),
    border("server::pipeline", &[], PURE),
    border("server::api", CALLS, NAMES),
    border("server::known", CALLS, PURE),
    border("server::browser", CALLS, NAMES),
    border("server::error", CALLS, NAMES),
    border("server::render", CALLS, NAMES),
    border("server::metrics", &["id", "op"], NAMES),
    border("cli", &["config", "id", "node::registers", "reform", "router", "server", "store"], &["mio"]),
    border("main", &[], &["mio", "std::net", "std::fs"]),
    border("lib", &[], PURE),
];

/// Files that may read a clock; to all others, time is an argument. (A client waits for its answer by the clock. Of a
/// page it is only believed for so long that it is in memory: what is read is the same.)
const CLOCKS: [&str; 3] = ["server::turn", "store::mapped", "cli"];
/// The one file that has `unsafe`.
const UNSAFE: &str = "store::mapped";
const CLOCK_WORDS: [&str; 5] = ["Instant::now", "SystemTime::now", "clock_gettime", ".elapsed()", "UNIX_EPOCH"];

/// Whether the path is this one, or below it.
fn is_in(path: &str, of: &str) -> bool {
    path.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// What is wrong with a file of the product: `module` is its path in the crate, `text` its source.
fn complaints(module: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let head: Vec<&str> = text.lines().take_while(|line| line.starts_with("//!")).collect();
    for word in ["Owns: ", "Never: "] {
        if !["lib", "main"].contains(&module) && !head.iter().any(|line| line.contains(word)) {
            found.push(format!("its head has no {word:?}"));
        }
    }
    let code = code_of(text);
    if module != UNSAFE && words(&code).any(|word| word == "unsafe") {
        found.push("it has unsafe code".to_owned());
    }
    if !CLOCKS.iter().any(|of| is_in(module, of)) {
        found.extend(CLOCK_WORDS.iter().filter(|w| code.contains(*w)).map(|w| format!("it reads a clock: {w}")));
    }
    let fitting = BORDERS.iter().filter(|border| is_in(module, border.of));
    let Some(border) = fitting.max_by_key(|border| border.of.len()) else {
        found.push("BORDERS does not say what it may know".to_owned());
        return found;
    };
    for path in paths(&code, module) {
        let forbidden = match path.strip_prefix("crate::") {
            Some(path) => !is_in(path, border.of) && !border.may.iter().any(|may| is_in(path, may)),
            None => {
                border.never.iter().any(|never| is_in(&path, never))
                    || (!["reactor", "cli"].contains(&border.of) && SOCKETS.contains(&path.as_str()))
            }
        };
        if forbidden {
            found.push(format!("it must not know {path}"));
        }
    }
    found
}

/// A source without comments and without its unit tests.
fn code_of(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]" && lines.peek().is_some_and(|next| next.starts_with("mod ")) {
            // rustfmt puts the module's closing brace at the line's beginning.
            let is_block = lines.next().is_some_and(|line| line.ends_with('{'));
            while is_block && lines.next().is_some_and(|line| line != "}") {}
            continue;
        }
        code.push_str(line.split("//").next().unwrap_or_default());
        code.push('\n');
    }
    code
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// All paths that start at the crate's root, at a parent, or at another crate, each from its root.
fn paths(code: &str, module: &str) -> Vec<String> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let begins = at == 0 || tokens[at - 1] != "::";
        let goes_on = tokens.get(at + 1).is_some_and(|token| token == "::");
        if begins && goes_on && is_name(&tokens[at]) {
            let mut leaves = Vec::new();
            at = tree(&tokens, at, String::new(), &mut leaves);
            found.extend(leaves.iter().filter_map(|leaf| from_root(leaf, module)));
        } else {
            at += 1;
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The path from the crate's root; `None`: it starts at something of the file's own.
fn from_root(path: &str, module: &str) -> Option<String> {
    let (first, rest) = path.split_once("::")?;
    match first {
        "crate" | "mio" | "nix" | "rustix" | "std" | "httparse" => Some(path.to_owned()),
        "signal_hook" | "signal_hook_mio" => Some(path.replacen("signal_hook_mio", "signal_hook", 1)),
        "super" => {
            let mut rest = rest;
            let mut parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
            while let Some(above) = rest.strip_prefix("super::") {
                parent = parent.rsplit_once("::").map_or("", |(parent, _)| parent);
                rest = above;
            }
            Some(if parent.is_empty() { format!("crate::{rest}") } else { format!("crate::{parent}::{rest}") })
        }
        _ => None,
    }
}

/// Reads a path, with its groups in braces, from `at`; gives where it ends.
fn tree(tokens: &[String], mut at: usize, mut path: String, leaves: &mut Vec<String>) -> usize {
    while let Some(token) = tokens.get(at) {
        if token == "{" && path.ends_with("::") {
            at += 1;
            while tokens.get(at).is_some_and(|token| token != "}") {
                at = if tokens[at] == "," { at + 1 } else { tree(tokens, at, path.clone(), leaves).max(at + 1) };
            }
            return at + 1;
        }
        if !is_name(token) {
            break;
        }
        // `use a::{self}` is `a`.
        if token == "self" && path.ends_with("::") {
            path.truncate(path.len() - 2);
        } else {
            path.push_str(token);
        }
        at += 1;
        if tokens.get(at).is_none_or(|token| token != "::") {
            break;
        }
        path.push_str("::");
        at += 1;
    }
    leaves.push(path.trim_end_matches("::").to_owned());
    at
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Names, `::` and other characters; blanks are left out.
fn tokens(code: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut rest = code.trim_start();
    while let Some(c) = rest.chars().next() {
        let length = if rest.starts_with("::") {
            2
        } else if c.is_alphanumeric() || c == '_' {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
        } else {
            c.len_utf8()
        };
        tokens.push(rest[..length].to_owned());
        rest = rest[length..].trim_start();
    }
    tokens
}

/// Every source file of the product below a folder, with its module's path. Files of unit tests are left out.
fn sources(folder: &Path, module: &str, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let module = match (module, name.as_str()) {
            ("", _) => name.clone(),
            (_, "mod") => module.to_owned(),
            _ => format!("{module}::{name}"),
        };
        if path.is_dir() {
            sources(&path, &module, found);
        } else if name != "tests" && !name.ends_with("_tests") {
            found.push((module, fs::read_to_string(path).unwrap()));
        }
    }
}

#[test]
fn every_module_keeps_within_its_borders() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut files);
    assert!(files.len() > 50, "the sources are found: {}", files.len());
    let told: Vec<String> = files
        .iter()
        .flat_map(|(module, text)| complaints(module, text).into_iter().map(move |what| format!("{module}: {what}")))
        .collect();
    assert!(told.is_empty(), "\n{}", told.join("\n"));
    for border in BORDERS {
        assert!(files.iter().any(|(module, _)| is_in(module, border.of)), "there is no {} any more", border.of);
    }
}

/// What the rules say of a module with a good head and this code.
fn judged(module: &str, code: &str) -> String {
    complaints(module, &format!("//! Owns: a thing.\n//! Never: another.\n\n{code}")).join("; ")
}

#[test]
fn what_crosses_a_border_is_seen() {
    for (module, code, what) in [
        ("reactor::conn", "use crate::http::Head;", "it must not know crate::http::Head"),
        ("http", "use std::{fmt, net::TcpStream};", "it must not know std::net::TcpStream"),
        ("store::scan", "fn f() -> crate::node::Barrier {}", "it must not know crate::node::Barrier"),
        ("store", "use std::{io, fs::{self, File}};", "it must not know std::fs; it must not know std::fs::File"),
        ("node::copy", "use std::time::Duration;", "it must not know std::time::Duration"),
        ("server::core", "use super::turn::Server;", "it must not know crate::server::turn::Server"),
        ("server::core", "use crate::store::files::RealDisk;", "it must not know crate::store::files::RealDisk"),
        ("server::core", "use crate::{id::Lsn, reactor::{Conn}};", "it must not know crate::reactor::Conn"),
        ("server::lane", "let x = super::super::http::Head;", "it must not know crate::http::Head"),
        ("server::mod", "fn f() { let a = Instant::now(); }", "it reads a clock: Instant::now"),
        ("server::link", "fn f() { unsafe { g() } }", "it has unsafe code"),
        ("newcomer", "", "BORDERS does not say what it may know"),
    ] {
        assert_eq!(judged(module, code), what, "{module}: {code}");
    }
    assert_eq!(complaints("op", "//! Owns: a thing.\n"), ["its head has no \"Never: \""]);
}

#[test]
fn what_keeps_within_its_border_is_left_alone() {
    for (module, code) in [
        ("reactor", "use crate::id::ConnId;\nuse mio::net::{TcpListener, TcpStream};"),
        ("server::core", "// crate::http in a comment\nuse super::lane::{Lane, Wait};\nuse crate::store::disk::Disk;"),
        ("server::turn", "fn f() { clock_gettime(ClockId::Boottime); }"),
        ("store::dir", "use std::fs::File;\nuse std::net::SocketAddr;\nuse super::state::SmallState;"),
        ("node", "fn f() {}\n#[cfg(test)]\nmod tests {\n    use std::time::Instant;\n}\n"),
    ] {
        assert_eq!(judged(module, code), "", "{module}: {code}");
    }
}

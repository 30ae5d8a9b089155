//! Owns: `dkv check`: what is said of a configuration.
//! Never: what is right or wrong with one.

use std::fmt::Write;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::output::{Format, columns, print, print_json};
use super::{ConfigArg, Failure};
use crate::config::{LoadError, Loaded};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dkv check
  dkv check --config /etc/dkv/sharding.toml
  dkv check -o json

Exit code 0: the file describes a cluster, perhaps with warnings. 1: it does not; all errors are shown.")]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

pub(super) fn run(args: &CheckArgs) -> Result<ExitCode, Failure> {
    let file = args.config.config.display().to_string();
    match (super::load(&args.config.config), args.output) {
        (Ok(loaded), Format::Text) => print(text(&file, &loaded).as_bytes()).map(|()| ExitCode::SUCCESS),
        (Ok(loaded), Format::Json) => {
            let Loaded { cluster, warnings, origins } = &loaded;
            print_json(&json!({
                "ok": true, "file": file, "errors": [], "warnings": warnings,
                "shards": cluster.shards().len(), "nodes": cluster.nodes().len(),
                "witnesses": cluster.witnesses().count(),
                "fingerprint": format!("{:016x}", cluster.fingerprint()), "settings": origins,
            }))
            .map(|()| ExitCode::SUCCESS)
        }
        (Err(LoadError::Invalid(errors)), Format::Json) => {
            print_json(&json!({ "ok": false, "file": file, "errors": errors, "warnings": [] }))?;
            Ok(ExitCode::FAILURE)
        }
        (Err(error), _) => Err(Failure(error.to_string())),
    }
}

/// The settings in the file's own language, so that a line can be copied into it.
fn text(file: &str, loaded: &Loaded) -> String {
    let Loaded { cluster, warnings, origins } = loaded;
    let (shards, nodes) = (cluster.shards().len(), cluster.nodes().len());
    let witnesses = match cluster.witnesses().count() {
        0 => String::new(),
        1 => ", one of them a witness".to_owned(),
        n => format!(", {n} of them witnesses"),
    };
    let s = |n: usize| if n == 1 { "" } else { "s" };
    let fingerprint = cluster.fingerprint();
    let (of_shards, of_nodes) = (s(shards), s(nodes));
    let mut text = format!(
        "{file}: {shards} shard{of_shards}, {nodes} node{of_nodes}{witnesses}, fingerprint {fingerprint:016x}\n"
    );
    for warning in warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut table = "";
    for origin in origins {
        let Some((of, name)) = origin.setting.split_once('.') else { continue };
        if of != table {
            rows.extend([vec![String::new()], vec![format!("[{of}]")]]);
            table = of;
        }
        let from = origin.line.map_or("# default".to_owned(), |line| format!("# {file}:{line}"));
        rows.push(vec![format!("{name} = {}", origin.value), from]);
    }
    text + &columns(&rows)
}

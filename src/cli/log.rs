//! Owns: `dkv log`: what is told of a stopped node's log.
//! Never: reading or changing one (store/offline.rs).

use std::fmt::Write as _;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::Failure;
use super::output::{Format, columns, print, print_json};
use crate::store::offline::{self, Cut, Damage, OfflineError, Verification};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dkv log verify data/127.0.0.1_8080
  dkv log dump data/127.0.0.1_8080 | tail
  dkv log cut data/127.0.0.1_8080

The node must be stopped. verify and dump change nothing.")]
pub(super) struct LogArgs {
    #[command(subcommand)]
    command: LogCommand,
}

#[derive(Debug, Subcommand)]
enum LogCommand {
    /// Read all of it and say where it is damaged, if it is: then exit code 1
    #[command(after_help = "\
Examples:
  dkv log verify data/127.0.0.1_8080
  dkv log verify data/127.0.0.1_8080 -o json

Exit code 0: not damaged. A torn tail, which the next start cuts, is no damage: nothing in it was answered.")]
    Verify(DirArgs),
    /// Print its records, a line each: lsn, epoch, kind, key, length of the value
    #[command(after_help = "\
Examples:
  dkv log dump data/127.0.0.1_8080 | tail
  dkv log dump data/127.0.0.1_8080 -o json | jq -r .key

Fields are separated by tabs; with -o json, each line is an object. Bytes of a key that are not printable ASCII are
escaped. Exit code 1: it ends with a damaged place.")]
    Dump(DirArgs),
    /// Drop all from the first damaged place on, so that the node serves what is sound
    #[command(after_help = "\
Examples:
  dkv log verify data/127.0.0.1_8080 && echo nothing to cut
  dkv log cut data/127.0.0.1_8080

What was written after the damaged place is lost to the node, and older values of the same keys may be back. The files
as they were stay beside the log as *.cut. A log that is not damaged is left alone.")]
    Cut(DirArgs),
}

#[derive(Debug, Args)]
struct DirArgs {
    /// The node's data directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

pub(super) fn run(args: &LogArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        LogCommand::Verify(args) => verify(args),
        LogCommand::Dump(args) => dump(args),
        LogCommand::Cut(args) => cut(args),
    }
}

fn verify(args: &DirArgs) -> Result<ExitCode, Failure> {
    let found = offline::verify(&args.directory).map_err(|e| failed(&args.directory, &e))?;
    match args.output {
        Format::Json => print_json(&found)?,
        Format::Text => print(verification(&found).as_bytes())?,
    }
    Ok(if found.damage.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn dump(args: &DirArgs) -> Result<ExitCode, Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    let dumped = offline::dump(&args.directory, &mut out, args.output == Format::Json);
    let flushed = dumped.and_then(|damage| out.flush().map(|()| damage).map_err(|e| OfflineError::Io("printing", e)));
    match flushed {
        Ok(None) => Ok(ExitCode::SUCCESS),
        Ok(Some(damage)) => Err(Failure(remedy(&damage, &args.directory))),
        // The reader has what it wanted.
        Err(OfflineError::Io(_, e)) if e.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(failed(&args.directory, &error)),
    }
}

fn cut(args: &DirArgs) -> Result<ExitCode, Failure> {
    let done = offline::cut(&args.directory).map_err(|e| failed(&args.directory, &e))?;
    match (args.output, &done) {
        (Format::Json, done) => print_json(&json!({ "cut": done }))?,
        (Format::Text, None) => print(b"not damaged: nothing was cut\n")?,
        (Format::Text, Some(Cut { damage, end, keys, kept_aside })) => {
            let aside = kept_aside.join(", ");
            print(
                format!(
                    "{damage}\ncut: the log ends with lsn {end} now, and {keys} keys have a value\n\
                     kept aside, to be removed when nobody needs them: {aside}\n"
                )
                .as_bytes(),
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn failed(directory: &Path, error: &OfflineError) -> Failure {
    let (directory, error) = (directory.display().to_string(), error.to_string());
    // Some errors name the directory already.
    Failure(if error.contains(&directory) { error } else { format!("{directory}: {error}") })
}

fn remedy(damage: &Damage, directory: &Path) -> String {
    format!("{damage}; `dkv log cut {}` drops all from there on", directory.display())
}

fn verification(found: &Verification) -> String {
    let Verification { address, store, segments, end, committed, torn_bytes, damage } = found;
    let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let heads = ["segment", "bytes", "lsns", "records", "sealed", "compacted", "damage"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for s in segments {
        let damage = s.damage.as_ref().map_or("-".to_owned(), |d| format!("at byte {}", d.offset));
        let lsns = format!("{}..{}", s.first, s.last);
        let (bytes, records) = (s.bytes.to_string(), s.records.to_string());
        rows.push(vec![s.file.clone(), bytes, lsns, records, yes_no(s.sealed), yes_no(s.compacted), damage]);
    }
    let mut text = columns(&rows);
    let _ = writeln!(text, "node {address}, store {store}: ends with lsn {end}, committed {committed}");
    if *torn_bytes > 0 {
        let _ = writeln!(text, "{torn_bytes} bytes behind the end were never synced: the next start cuts them");
    }
    let _ = match damage {
        None => writeln!(text, "not damaged"),
        Some(damage) => writeln!(text, "{damage}\nall behind that cannot be used: `dkv log cut DIR` drops it"),
    };
    text
}

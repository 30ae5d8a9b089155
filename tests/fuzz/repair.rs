//! Owns: the target `repair`: a stopped node's directory with damaged files, under the tools: checked, printed, cut. What
//! is cut opens, says that it is sound, and holds what was written, or nothing, under each key.
//!
//! Inputs are those of the target `log`. These are real files: each takes some milliseconds.
//! Never: which records a cut may give up.

use super::damage::{self, Script};
use super::harness::{Target, Trail};
use super::log::templates;
use super::support::driver::{Write, address, fresh};
use dkv::store::stopped::Stopped;
use dkv::store::{Kind, offline, stopped};
use std::fs;
use std::path::Path;

pub const TARGET: Target = Target { name: "repair", seeds, words: damage::WORDS, longest: 100, executions: 100, run };

/// Some of them.
fn seeds() -> Vec<Vec<u8>> {
    damage::seeds().into_iter().step_by(5).collect()
}

fn run(input: &[u8], trail: &mut Trail) {
    let templates = templates();
    let script = Script::of(input, templates.len());
    let template = &templates[script.template];
    let mut files = template.files.clone();
    for step in script.inflict(&mut files, templates) {
        trail.step(step);
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node");
    stopped::create(&path, address(), fresh()).unwrap();
    for entry in fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_string_lossy().starts_with("1-") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    for (name, bytes) in files {
        fs::write(path.join(format!("1-{name}")), bytes).unwrap();
    }
    use_the_tools(&path, &template.history, script.is_forged, trail);
}

fn use_the_tools(path: &Path, history: &[Write], is_forged: bool, trail: &mut Trail) {
    let checked = match offline::verify(path) {
        Ok(checked) => checked,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return trail.step(("refused", std::mem::discriminant(&error)));
        }
    };
    trail.step((checked.damage.is_some(), checked.segments.len(), checked.torn_bytes > 0));
    let (mut printed, mut last) = (0_u64, 0);
    let damage = offline::dump_with(path, |line| {
        assert!(line.lsn > last || is_forged, "{} behind {last}", line.lsn);
        (printed, last) = (printed + 1, line.lsn);
        Ok(())
    });
    assert_eq!(damage.unwrap(), checked.damage, "both say the same");
    // Forged numbers may give a log that no store can have; then it may be refused.
    let cut = match offline::cut(path) {
        Err(error) if is_forged => return trail.step(("not cut", std::mem::discriminant(&error))),
        cut => cut.unwrap(),
    };
    assert_eq!(cut.is_some(), checked.damage.is_some());
    trail.step(cut.map(|cut| (cut.kept_aside.len(), cut.end == last)));
    let again = offline::verify(path).unwrap();
    assert_eq!(again.damage, None, "what was cut is sound");
    assert!(offline::cut(path).unwrap().is_none());
    if !is_forged {
        check_keys(path, history);
    }
}

/// Every key that is left was written.
fn check_keys(path: &Path, history: &[Write]) {
    let mut stopped = Stopped::open(path, false).unwrap();
    assert!(stopped.end().0 as usize <= history.len());
    stopped.each_key(|key| assert!(history.iter().any(|write| write.kind != Kind::Jump && write.key == key))).unwrap();
}

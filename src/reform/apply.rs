//! Owns: writing a plan into the directories of a host: first it is seen that all of them are as they were surveyed,
//! then each gets its files, then their names. What was done before is left alone, so that an application that was cut
//! short is run again.
//! Never: deciding anything; the data.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::plan::{Plan, PlannedNode, Source};
use crate::configuration::Formation;
use crate::id::{Lsn, NodeId, Uuid};
use crate::node::registers::{formation_file, formation_of, voter_file};
use crate::store::SmallState;
use crate::store::stopped::{Stopped, create, is_there};

/// What was done for a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The node.
    pub address: SocketAddr,
    /// Its directory.
    pub directory: PathBuf,
    /// What became of it.
    pub done: Done,
    /// The name that it had, if it has another now.
    pub was: Option<PathBuf>,
}

/// What became of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// It belongs to the new cluster now.
    Written,
    /// The same, and it was made for that.
    Made,
    /// It did before.
    Already,
}

/// A directory that is about to be written, or was.
struct Held {
    node: NodeId,
    stopped: Stopped,
    done: Done,
    /// Where it will stand.
    target: PathBuf,
}

/// Applies a plan to the directories of this host: those that are where they were surveyed, or where they will stand;
/// and those that are `named`, which stay where they are, and are made where there is none. Returns what was done, and
/// the nodes whose directories are not here: those of other hosts.
///
/// # Errors
/// A directory is not as it was surveyed, and nothing was written; or a write failed, and it may be run again. A
/// sentence.
pub fn apply(
    plan: &Plan,
    named: &[(SocketAddr, PathBuf)],
    random: &mut dyn FnMut() -> u128,
) -> Result<(Vec<Applied>, Vec<SocketAddr>), String> {
    let (mut held, mut absent) = (Vec::new(), Vec::new());
    let is_known = |address: &SocketAddr| plan.nodes.iter().any(|node| node.address == *address);
    if let Some((address, _)) = named.iter().find(|(address, _)| !is_known(address)) {
        return Err(format!("{address} is no node of the plan"));
    }
    for (at, planned) in (0..).zip(&plan.nodes) {
        let node = NodeId(at);
        match named.iter().find(|(address, _)| *address == planned.address) {
            Some((_, path)) => held.push(hold_named(plan, node, planned, path, random)?),
            None => match &planned.source {
                None => {}
                Some(source) => match find(plan, planned, source, &held)? {
                    Some(stopped) => held.push(hold(plan, node, planned, stopped, PathBuf::from(&source.becomes))?),
                    None => absent.push(planned.address),
                },
            },
        }
    }
    check_targets(&held)?;
    for held in held.iter_mut().filter(|held| held.done != Done::Already) {
        let address = plan.nodes[held.node.0 as usize].address;
        let voter = voter_file(&plan.formation, held.node, &plan.registers);
        let assumed = held.stopped.assume(address, &formation_file(&plan.formation), voter.as_deref());
        assumed.map_err(|e| format!("{}: {e}; run it again", held.stopped.path().display()))?;
    }
    Ok((rename_all(plan, held)?, absent))
}

/// That nothing stands where a directory is to stand, but those that are to be renamed themselves.
fn check_targets(held: &[Held]) -> Result<(), String> {
    let is_held = |path: &Path| held.iter().any(|other| other.stopped.path() == path);
    match held.iter().find(|held| held.target.exists() && !is_held(&held.target)) {
        None => Ok(()),
        Some(Held { stopped, target, .. }) => Err(format!(
            "{} is to be renamed to {}, but there is something: nothing was written; move that away and run it again",
            stopped.path().display(),
            target.display()
        )),
    }
}

/// The directory that becomes a node's, if it is here: where it was, where it will stand, or on its way.
/// Another may stand where this one did, of the plan or, where paths are the same on all hosts, of none.
fn find(plan: &Plan, planned: &PlannedNode, source: &Source, held: &[Held]) -> Result<Option<Stopped>, String> {
    let target = PathBuf::from(&source.becomes);
    for path in [PathBuf::from(&source.path), on_its_way(&target), target] {
        if held.iter().any(|held| held.stopped.path() == path) || !is_there(&path) {
            continue;
        }
        let stopped = open(&path)?;
        if is_applied(plan, planned, &stopped)? || stopped.state().content() == source.store {
            return Ok(Some(stopped));
        }
    }
    Ok(None)
}

fn is_applied(plan: &Plan, planned: &PlannedNode, stopped: &Stopped) -> Result<bool, String> {
    let formation = formation_in(stopped)?;
    let is_new = formation.is_some_and(|formation| formation.cluster == plan.formation.cluster);
    Ok(is_new && stopped.node().address == planned.address)
}

fn formation_in(stopped: &Stopped) -> Result<Option<Formation>, String> {
    let newer = |_| format!("{} was written by a newer version: run that one", stopped.path().display());
    formation_of(&stopped.node().formation).map_err(newer)
}

fn open(path: &Path) -> Result<Stopped, String> {
    Stopped::open(path, true).map_err(|e| format!("{}: {e}", path.display()))
}

/// A directory that is not applied must be as it was surveyed.
fn hold(plan: &Plan, node: NodeId, planned: &PlannedNode, stopped: Stopped, target: PathBuf) -> Result<Held, String> {
    if is_applied(plan, planned, &stopped)? {
        return Ok(Held { node, stopped, done: Done::Already, target });
    }
    let path = stopped.path().display().to_string();
    let cluster = formation_in(&stopped)?.map(|formation| formation.cluster);
    let state = stopped.state();
    let is_as_surveyed = match &planned.source {
        Some(Source { store, epoch, end, .. }) => {
            cluster == Some(plan.old_cluster) && (state.content(), state.epoch, stopped.end()) == (*store, *epoch, *end)
        }
        // One that was begun for it, or by it, and holds nothing.
        None => cluster.is_none() && stopped.node().address == planned.address && stopped.end() == Lsn::ZERO,
    };
    if is_as_surveyed {
        return Ok(Held { node, stopped, done: Done::Written, target });
    }
    Err(match &planned.source {
        Some(source) => format!(
            "{path} is not what was surveyed for {} (store {}, epoch {}, records up to {}; now it is of {}, store {}, epoch \
             {}, up to {}): nothing was written; survey and plan anew",
            planned.address,
            source.store,
            source.epoch.0,
            source.end.0,
            cluster.map_or("no cluster".to_owned(), |cluster| format!("cluster {cluster}")),
            state.content(),
            state.epoch.0,
            stopped.end().0
        ),
        None => format!(
            "{path} holds something, but by the plan {} starts without data: nothing was written; name a new or empty \
             directory",
            planned.address
        ),
    })
}

/// A directory that was named stays where it is; where there is none, one is made.
fn hold_named(
    plan: &Plan,
    node: NodeId,
    planned: &PlannedNode,
    path: &Path,
    random: &mut dyn FnMut() -> u128,
) -> Result<Held, String> {
    let path = std::path::absolute(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let was_there = is_there(&path);
    if !was_there {
        if let Some(source) = &planned.source {
            return Err(format!(
                "{} is no data directory, but by the plan {} goes on with the one that was surveyed as {}: name that",
                path.display(),
                planned.address,
                source.path
            ));
        }
        let fresh = SmallState::new(Uuid(random()), random(), false);
        create(&path, planned.address, fresh).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    let held = hold(plan, node, planned, open(&path)?, path)?;
    Ok(if was_there { held } else { Held { done: Done::Made, ..held } })
}

fn on_its_way(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".reform");
    target.with_file_name(name)
}

/// Gives each directory its name. Directories may have to change places: then one is put aside first.
fn rename_all(plan: &Plan, held: Vec<Held>) -> Result<Vec<Applied>, String> {
    let mut applied: Vec<Applied> = held.iter().map(|held| told(plan, held)).collect();
    let moves = held.into_iter().enumerate().filter(|(_, held)| held.stopped.path() != held.target);
    let mut waiting: VecDeque<(usize, Held)> = moves.collect();
    let mut tried = 0;
    while let Some((at, mut held)) = waiting.pop_front() {
        let mut rename = |to: &Path| {
            let from = held.stopped.path().display().to_string();
            held.stopped.rename(to).map_err(|e| {
                let to = to.display();
                format!(
                    "{from} is applied, but cannot be renamed to {to}: {e}; do that, or give the node --data-dir {from}"
                )
            })
        };
        if !held.target.exists() {
            let target = held.target.clone();
            rename(&target)?;
            applied[at].directory = target;
            tried = 0;
            continue;
        }
        tried += 1;
        if tried > waiting.len() {
            if !waiting.iter().any(|(_, other)| other.stopped.path() == held.target) {
                return Err(format!(
                    "{} is applied, but cannot be renamed to {}: there is something; move that away and run it again",
                    held.stopped.path().display(),
                    held.target.display()
                ));
            }
            let aside = on_its_way(&held.target);
            rename(&aside)?;
            tried = 0;
        }
        waiting.push_back((at, held));
    }
    Ok(applied)
}

fn told(plan: &Plan, held: &Held) -> Applied {
    let here = held.stopped.path().to_path_buf();
    let was = (here != held.target).then(|| here.clone());
    Applied { address: plan.nodes[held.node.0 as usize].address, directory: here, done: held.done, was }
}

//! Owns: what must hold at every step, whatever happens; and what was seen, for the guards against runs in which nothing
//! happens.
//! Never: changes anything.

use super::node::{LogView, Node, View, name, told};
use super::workload::Noted;
use crate::support::linear::Got;
use dkv::configuration::{Configuration, Member};
use dkv::id::{Epoch, Lsn, NodeId, ShardId, Uuid};
use dkv::node::lineage::epoch_of;
use dkv::store::record;
use dkv::wire::CopyState;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Figures of a run: it must not pass because nothing happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    pub figures: BTreeMap<&'static str, u64>,
}

impl Seen {
    pub fn add(&mut self, what: &'static str, n: u64) {
        *self.figures.entry(what).or_default() += n;
    }

    pub fn merge(&mut self, other: &Seen) {
        for (what, n) in &other.figures {
            self.add(what, *n);
        }
    }

    pub fn of(&self, what: &str) -> u64 {
        self.figures.get(what).copied().unwrap_or(0)
    }
}

/// A record as it was written, somewhere.
#[derive(Debug, Clone, Copy)]
struct Written {
    epoch: Epoch,
    content: u32,
    value: u64,
}

/// What records of one lsn made of a key, each in another epoch.
type Versions = Vec<(Epoch, Option<u64>)>;

/// A log as its writes show it.
#[derive(Debug, Default)]
struct Shadow {
    /// The epoch of each record that was written last with this lsn.
    epochs: BTreeMap<Lsn, Epoch>,
    last: Lsn,
}

/// So many of a log's last records are compared with its lineage when that changes.
const COMPARED: usize = 300;

/// See the module.
#[derive(Debug, Default)]
pub struct Checks {
    /// Every record that was ever written, anywhere.
    written: HashMap<(ShardId, Lsn), Vec<Written>>,
    /// The records of each key: whether it has a value from then on, and which.
    of_key: HashMap<(ShardId, Vec<u8>), BTreeMap<Lsn, Versions>>,
    /// The logs of each node's generations.
    shadows: HashMap<(NodeId, u64), Shadow>,
    /// By what a generation holds.
    generations: HashMap<(NodeId, Uuid), u64>,
    lineages: HashMap<NodeId, Vec<(Epoch, Lsn)>>,
    /// What each process showed last.
    views: BTreeMap<NodeId, (u64, View)>,
    /// Every configuration that somebody knew to be chosen.
    configurations: BTreeMap<(ShardId, u64), Configuration>,
    /// The writes that were answered: of each epoch the first and the last.
    answered: BTreeMap<(ShardId, Epoch), (Lsn, Lsn)>,
    /// Nodes whose data a fault has taken, or a part of it, until they have all again.
    pub robbed: BTreeSet<NodeId>,
    /// Nodes on whose disk a bit was flipped.
    pub rotten: BTreeSet<NodeId>,
    /// The process that was looked at last has just begun to serve.
    pub serves_anew: bool,
    pub seen: Seen,
}

impl Checks {
    /// What a node wrote to its disk: a record is the same wherever it stands.
    pub fn written(&mut self, node: &Node, file: &str, bytes: &[u8]) -> Result<(), String> {
        let Some(shard) = node.shard.filter(|_| file.contains(".log")) else { return Ok(()) };
        let generation = file.split('-').next().and_then(|prefix| prefix.parse().ok()).unwrap_or(0);
        let shadow = self.shadows.entry((node.id, generation)).or_default();
        let mut rest = bytes;
        while rest.len() >= record::RECORD_HEADER {
            let Ok((found, length)) = record::decode(rest) else {
                rest = &rest[record::ALIGN..];
                continue;
            };
            let content = crc32c::crc32c(&rest[..length]);
            rest = &rest[length..];
            let before = std::mem::replace(&mut shadow.last, found.lsn);
            if found.key.is_empty() {
                // It stands for records that are no more.
                let gone: Vec<Lsn> =
                    shadow.epochs.range(before.next()..=found.lsn.max(before.next())).map(|(lsn, _)| *lsn).collect();
                gone.iter().for_each(|lsn| _ = shadow.epochs.remove(lsn));
                continue;
            }
            shadow.epochs.insert(found.lsn, found.epoch);
            let known = self.written.entry((shard, found.lsn)).or_default();
            match known.iter().find(|written| written.epoch == found.epoch) {
                Some(first) if first.content == content => {}
                Some(_) => {
                    return Err(format!("two records of shard {} are {:?} {:?}", shard.0, found.epoch, found.lsn));
                }
                None => {
                    let value = super::workload::value_id(found.value);
                    known.push(Written { epoch: found.epoch, content, value });
                    let value = (found.kind == record::Kind::Set).then_some(value);
                    let of_key = self.of_key.entry((shard, found.key.to_vec())).or_default();
                    of_key.entry(found.lsn).or_default().push((found.epoch, value));
                }
            }
        }
        Ok(())
    }

    /// What must hold of one process from step to step.
    pub fn process(&mut self, node: &Node, nodes: &[Node], now: u64) -> Result<(), String> {
        let Some(view) = node.view(now) else { return Ok(()) };
        let before = match self.views.remove(&node.id) {
            Some((start, before)) if start == node.starts => before,
            Some((_, before)) => {
                self.restarted(node, &before, &view)?;
                View::default()
            }
            None => View::default(),
        };
        let letter = node.name();
        let goes_back = |what: &str| Err(format!("{what} of {letter} went back: {before:?}, now {view:?}"));
        let version = |view: &View| view.configuration.as_ref().map_or(0, |c| c.version);
        if view.epoch < before.epoch {
            return goes_back("the epoch");
        }
        if version(&view) < version(&before) {
            return goes_back("the version");
        }
        if view.committed < before.committed && view.store == before.store {
            return goes_back("what is committed");
        }
        if view.committed > view.durable {
            return Err(format!("{letter} has committed what is not durable there: {view:?}"));
        }
        if view.durable > view.end {
            return Err(format!("{letter} takes for durable what its log does not hold: {view:?}"));
        }
        if view.is_damaged && !self.rotten.contains(&node.id) {
            return Err(format!("{letter} finds its data damaged, but nothing has damaged it: {}", node.damage()));
        }
        let is_in = matches!(view.state, CopyState::Serving | CopyState::InSync);
        let me = Member { node: node.id, store: view.store };
        if let Some(known) = view.configuration.as_ref().filter(|known| is_in && !known.in_sync.contains(&me)) {
            return Err(format!(
                "{letter} takes itself for in sync, but it is not what {} names: {view:?}",
                told(known)
            ));
        }
        self.serves_anew = view.state == CopyState::Serving && before.state != CopyState::Serving;
        self.lineage(node)?;
        if view.committed > before.committed {
            self.agree(node, &view, nodes)?;
        }
        self.count(&before, &view);
        let is_news = view.configuration != before.configuration;
        if is_news && let (Some(shard), Some(configuration)) = (node.shard, view.configuration.clone()) {
            self.chosen(shard, configuration, nodes)?;
        }
        self.views.insert(node.id, (node.starts, view));
        Ok(())
    }

    /// A process began on the data that another one left.
    fn restarted(&mut self, node: &Node, before: &View, now: &View) -> Result<(), String> {
        if now.store == before.store && now.end < before.committed && !now.is_damaged {
            let letter = node.name();
            return Err(format!(
                "{letter} has lost what was committed, and takes its log for whole: {before:?}, now {now:?}"
            ));
        }
        Ok(())
    }

    /// What a copy has committed is what the others have committed.
    fn agree(&self, node: &Node, now: &View, nodes: &[Node]) -> Result<(), String> {
        let (Some(mine), Some(shard)) = (node.log(), node.shard) else { return Ok(()) };
        // An operator who forces a copy to lead gives up what others have committed.
        if self.newest(shard).is_some_and(|newest| newest.forced > 0) {
            return Ok(());
        }
        let at = now.committed;
        for other in nodes.iter().filter(|other| other.id != node.id && other.shard == node.shard) {
            let has_it = |(start, its): &&(u64, View)| *start == other.starts && its.committed >= at;
            let Some((_, its)) = self.views.get(&other.id).filter(has_it) else { continue };
            let Some(theirs) = other.log().filter(|log| log.store == its.store) else { continue };
            let epochs = (epoch_of(&mine.lineage, at), epoch_of(&theirs.lineage, at));
            if let (Some((epoch, _)), Some((its, _))) = epochs
                && epoch != its
            {
                let (letter, other) = (node.name(), other.name());
                return Err(format!("{letter} has committed {at:?} of {epoch:?}, but {other} has one of {its:?}"));
            }
        }
        Ok(())
    }

    /// The directory is another one.
    pub fn replaced(&mut self, node: NodeId) {
        self.views.remove(&node);
        self.shadows.retain(|(its, _), _| *its != node);
        self.generations.retain(|(its, _), _| *its != node);
        self.lineages.remove(&node);
    }

    /// A log's records are of the epochs that its lineage says.
    fn lineage(&mut self, node: &Node) -> Result<(), String> {
        let Some(log) = node.log() else { return Ok(()) };
        // The home names the next generation some time before the store is that one.
        let generation = *self.generations.entry((node.id, log.store)).or_insert(log.generation);
        let Some(shadow) = self.shadows.get_mut(&(node.id, generation)) else { return Ok(()) };
        if log.end < shadow.last {
            // It was cut: what stands for records that are no more begins there.
            _ = shadow.epochs.split_off(&log.end.next());
            shadow.last = log.end;
        }
        let is_known = self.lineages.get(&node.id).is_some_and(|known| *known == log.lineage);
        let records = shadow.epochs.range(..=log.durable).rev().take(if is_known { 2 } else { COMPARED });
        for (lsn, epoch) in records {
            if let Some((its, _)) = epoch_of(&log.lineage, *lsn).filter(|(its, _)| its != epoch) {
                return Err(format!(
                    "{} holds {lsn:?} of {epoch:?}, but its lineage says {its:?}: {log:?}",
                    node.name()
                ));
            }
        }
        if !is_known {
            self.lineages.insert(node.id, log.lineage);
        }
        Ok(())
    }

    fn count(&mut self, before: &View, now: &View) {
        if now.state != before.state {
            match now.state {
                CopyState::Serving => self.seen.add("serving", 1),
                CopyState::CatchingUp => self.seen.add("catching up", 1),
                CopyState::Syncing => self.seen.add("full syncs begun", 1),
                CopyState::Damaged => self.seen.add("damaged", 1),
                _ => {}
            }
        }
        if now.store != before.store && before.store != Uuid::default() {
            self.seen.add("full syncs", 1);
        }
        if now.is_formed && now.votes && before.is_formed && !before.votes {
            self.seen.add("voters re-seeded", 1);
        }
        let copies = |view: &View| view.configuration.as_ref().map_or(0, |c| c.in_sync.len());
        if now.is_damaged && before.is_damaged && copies(before) == 1 && copies(now) == 2 {
            self.seen.add("copies filled by a damaged one", 1);
        }
    }

    /// A configuration is known to be chosen: there is one of each version, and its copies have all that was answered.
    fn chosen(&mut self, shard: ShardId, now: Configuration, nodes: &[Node]) -> Result<(), String> {
        let key = (shard, now.version);
        match self.configurations.get(&key) {
            Some(known) if *known == now => return Ok(()),
            Some(known) => return Err(format!("two configurations were chosen: {}, and {}", told(known), told(&now))),
            None => {}
        }
        let newest = self.newest(shard).map(|c| (c.version, c.epoch, c.primary, c.in_sync.len()));
        if let Some((_, epoch, primary, copies)) = newest.filter(|(version, ..)| *version < now.version) {
            let what = match () {
                () if primary != now.primary => "failovers",
                () if epoch != now.epoch => "restarts of primaries",
                () if copies < now.in_sync.len() => "copies taken in",
                () => "copies removed",
            };
            self.seen.add(what, 1);
        }
        self.configurations.insert(key, now);
        self.complete(shard, nodes)
    }

    /// The newest configuration that somebody knows.
    pub fn newest(&self, shard: ShardId) -> Option<&Configuration> {
        self.configurations.range((shard, 0)..=(shard, u64::MAX)).next_back().map(|(_, newest)| newest)
    }

    /// A client got an answer.
    pub fn answered(&mut self, shard: ShardId, noted: &Noted, nodes: &[Node]) -> Result<(), String> {
        let (Got::Created(lsn) | Got::Replaced(lsn)) = noted.operation.got else { return Ok(()) };
        let (lsn, value) = (Lsn(lsn), noted.operation.value);
        let written = self.written.get(&(shard, lsn)).and_then(|all| all.iter().find(|written| written.value == value));
        let Some(Written { epoch, .. }) = written else {
            return Err(format!("a write was answered with {lsn:?}, but nobody has written it"));
        };
        let span = self.answered.entry((shard, *epoch)).or_insert((lsn, lsn));
        *span = (span.0.min(lsn), span.1.max(lsn));
        self.complete(shard, nodes)
    }

    /// Every copy in sync has every answered write.
    fn complete(&mut self, shard: ShardId, nodes: &[Node]) -> Result<(), String> {
        let Some(newest) = self.newest(shard).cloned() else { return Ok(()) };
        for member in &newest.in_sync {
            let node = &nodes[member.node.0 as usize];
            let Some(log) = node.log().filter(|log| log.store == member.store) else { continue };
            let lacks = self.lacks(shard, &log);
            match lacks {
                None => _ = self.robbed.remove(&node.id),
                Some(_) if self.robbed.contains(&node.id) => {}
                Some((epoch, lsn)) => {
                    return Err(format!(
                        "{} is in sync ({}), but it lacks an answered write, {epoch:?} {lsn:?}: {log:?}",
                        name(member.node),
                        told(&newest)
                    ));
                }
            }
        }
        Ok(())
    }

    /// An answered write that a log does not have.
    fn lacks(&self, shard: ShardId, log: &LogView) -> Option<(Epoch, Lsn)> {
        let of_shard = self.answered.range((shard, Epoch(0))..=(shard, Epoch(u64::MAX)));
        of_shard.flat_map(|((_, epoch), (first, last))| [(*epoch, *first), (*epoch, *last)]).find(|(epoch, lsn)| {
            // How far back a lineage reaches is bounded.
            let has = epoch_of(&log.lineage, *lsn).is_none_or(|(its, _)| its == *epoch);
            *lsn > log.durable || !has
        })
    }

    /// Whether a log that has everything has this record, as far back as its lineage reaches.
    pub fn is_kept(&self, shard: ShardId, lsn: u64, value: u64, log: &LogView) -> bool {
        let written = self.written.get(&(shard, Lsn(lsn))).into_iter().flatten().find(|w| w.value == value);
        let its = epoch_of(&log.lineage, Lsn(lsn));
        written.is_some_and(|written| its.is_none_or(|(epoch, _)| epoch == written.epoch))
    }

    /// What a log says of a key, up to some record of it: lsn and value. `None`: its lineage does not reach back so far.
    pub fn said(&self, shard: ShardId, key: &[u8], upto: Lsn, log: &LogView) -> Option<Option<(u64, u64)>> {
        let Some(records) = self.of_key.get(&(shard, key.to_vec())) else { return Some(None) };
        for (lsn, versions) in records.range(..=upto).rev() {
            let (its, _) = epoch_of(&log.lineage, *lsn)?;
            if let Some((_, value)) = versions.iter().find(|(epoch, _)| *epoch == its) {
                return Some(value.map(|value| (lsn.0, value)));
            }
        }
        Some(None)
    }

    /// What must hold of all nodes together, in true time.
    pub fn together(&mut self, nodes: &[Node], now: u64) -> Result<(), String> {
        for (at, node) in nodes.iter().enumerate() {
            if node.shard.is_none() || !node.may_read(now) {
                continue;
            }
            if let Some(other) = nodes[at + 1..].iter().find(|other| other.shard == node.shard && other.may_read(now)) {
                return Err(format!("{} and {} would both answer reads", node.name(), other.name()));
            }
        }
        Ok(())
    }
}

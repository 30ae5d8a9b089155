//! Owns: the plan: from the surveys, the new table and what the operator wants to the new cluster's formation and
//! registers, and which directory becomes which node. Pure.
//! Never: files, randomness of its own, what is printed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::old::Old;
use super::survey::{Directory, FORMAT, is_lawful};
use crate::config::Cluster;
use crate::configuration::{Configuration, Formation, Member, Seat, VoterId};
use crate::id::{Epoch, Lsn, NodeId, ShardId, Uuid, address_as_file_name};
use crate::node::registers::{Table, choose_voters};

/// What the operator wants.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Which directory becomes which node, by the path that the survey has or the end of it, or by the store's id.
    pub nodes: Vec<(SocketAddr, String)>,
    /// Who leads a shard.
    pub leads: Vec<(ShardId, SocketAddr)>,
    /// Answered writes may be lost.
    pub accepts_data_loss: bool,
}

/// What is to be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Always `dkv plan`: that it is one.
    pub kind: String,
    /// See [`FORMAT`].
    pub format: u32,
    /// The cluster whose directories these are.
    pub old_cluster: Uuid,
    /// How the new cluster is formed.
    pub formation: Formation,
    /// What each shard's register holds at first.
    pub registers: Vec<Configuration>,
    /// The nodes of the new table, in its order.
    pub nodes: Vec<PlannedNode>,
    /// For people: how it comes about, by shard.
    pub shards: Vec<ShardPlan>,
    /// For people: the directories that are not used, and why.
    pub unused: Vec<String>,
    /// For people: nodes without a directory that must be given one, since the new cluster has too few voters else.
    pub must_be_made: Vec<SocketAddr>,
}

/// What [`Plan::kind`] says.
pub const KIND: &str = "dkv plan";

/// A node of the new table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedNode {
    /// Its address.
    pub address: SocketAddr,
    /// The directory that becomes its own; `None`: it starts empty.
    pub source: Option<Source>,
}

/// A directory that becomes a node's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Where it was surveyed.
    pub path: String,
    /// Where it will stand.
    pub becomes: String,
    /// What it held then.
    pub store: Uuid,
    /// Its epoch then.
    pub epoch: Epoch,
    /// Its last lsn then.
    pub end: Lsn,
}

/// How a shard's register comes about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardPlan {
    /// The shard's name.
    pub name: String,
    /// Who leads it.
    pub leads: SocketAddr,
    /// The last lsn of its log.
    pub end: Lsn,
    /// Who holds all that it holds.
    pub in_sync: Vec<SocketAddr>,
    /// Answered writes may be lost.
    pub may_lose: bool,
    /// What else is to be known, a sentence each.
    pub notes: Vec<String>,
}

/// Makes a plan. `random` gives a number that was never given before.
///
/// # Errors
/// All that is in the way, a sentence each.
pub fn plan(
    cluster: &Cluster,
    surveyed: &[&Directory],
    wanted: &Wanted,
    random: &mut dyn FnMut() -> Uuid,
) -> Result<Plan, Vec<String>> {
    let used = assign(cluster, surveyed, wanted)?;
    let formation = one_cluster(cluster, surveyed, &used).map_err(|why| vec![why])?;
    let old = Old::of(formation, surveyed).map_err(|why| vec![why])?;
    let planner = Planner { cluster, old, used, wanted };
    planner.check_shards()?;
    let shards = (0..).map(ShardId).take(cluster.shards().len()).map(|shard| planner.shard(shard));
    let (made, refused): (Vec<_>, Vec<_>) = shards.partition(Result::is_ok);
    let mut refused: Vec<String> = refused.into_iter().filter_map(Result::err).collect();
    if !refused.is_empty() {
        refused.splice(0..0, planner.why_uncertain());
        return Err(refused);
    }
    let (registers, shards) = made.into_iter().flatten().unzip();
    Ok(planner.finish(surveyed, registers, shards, random))
}

/// Which surveyed directory becomes which node.
type Used<'s> = BTreeMap<NodeId, &'s Directory>;

/// By the operator's word; else by the directory's name; else by the address of its node. What is given by one is not
/// taken by the next.
fn assign<'s>(cluster: &Cluster, surveyed: &[&'s Directory], wanted: &Wanted) -> Result<Used<'s>, Vec<String>> {
    let (mut named, mut wrong) = (Vec::new(), Vec::new());
    for (address, text) in &wanted.nodes {
        match (cluster.node_at(*address), find(surveyed, text)) {
            (None, _) => wrong.push(format!("--node {address}={text}: {address} is no node of the new table")),
            (_, Err(why)) => wrong.push(format!("--node {address}={text}: {why}")),
            (Some(node), Ok(directory)) => named.push((node, directory)),
        }
    }
    let mut used = Used::new();
    give(cluster, &mut used, named, &mut wrong);
    let formed = || surveyed.iter().copied().filter(|directory| directory.formation.is_some());
    let by_name = formed().filter_map(|directory| Some((node_by_name(cluster, directory)?, directory)));
    let by_name = free(&used, by_name);
    give(cluster, &mut used, by_name, &mut wrong);
    let by_address = formed().filter_map(|directory| Some((cluster.node_at(directory.address)?, directory)));
    let by_address = free(&used, by_address);
    give(cluster, &mut used, by_address, &mut wrong);
    if wrong.is_empty() { Ok(used) } else { Err(wrong) }
}

/// Of these, where neither the node nor the directory is given yet.
fn free<'s>(used: &Used<'s>, all: impl Iterator<Item = (NodeId, &'s Directory)>) -> Vec<(NodeId, &'s Directory)> {
    let is_given = |directory: &Directory| used.values().any(|other| is_same(other, directory));
    all.filter(|(node, directory)| !used.contains_key(node) && !is_given(directory)).collect()
}

fn give<'s>(cluster: &Cluster, used: &mut Used<'s>, given: Vec<(NodeId, &'s Directory)>, wrong: &mut Vec<String>) {
    for (node, directory) in given {
        let (path, address) = (&directory.path, cluster.node(node).address);
        if used.values().any(|other| is_same(other, directory)) {
            wrong.push(format!("{path} cannot become two nodes"));
        }
        if let Some(other) = used.insert(node, directory) {
            wrong.push(format!("{} and {path} would both become {address}: say which by --node", other.path));
        }
    }
}

fn is_same(one: &Directory, other: &Directory) -> bool {
    std::ptr::eq(one, other)
}

fn find<'s>(surveyed: &[&'s Directory], text: &str) -> Result<&'s Directory, String> {
    let end = Path::new(text.trim_start_matches("./"));
    let is_meant = |d: &&&Directory| Path::new(&d.path).ends_with(end) || d.store.to_string() == text;
    let mut found = surveyed.iter().filter(is_meant);
    match (found.next(), found.next()) {
        (Some(directory), None) => Ok(directory),
        (None, _) => Err("no such directory was surveyed".to_owned()),
        (Some(one), Some(other)) => Err(format!(
            "{} and {} both end so: write more of the path, or the store's id, which the survey has",
            one.path, other.path
        )),
    }
}

/// The node of the new table that this is the directory of, by its name.
fn node_by_name(cluster: &Cluster, directory: &Directory) -> Option<NodeId> {
    let name = Path::new(&directory.path).file_name()?.to_str()?;
    cluster.node_ids().find(|node| is_name_of(name, cluster.node(*node).address))
}

fn is_name_of(name: &str, address: SocketAddr) -> bool {
    name == address_as_file_name(address) || name == address.to_string()
}

/// Where a directory will stand: one that is called as its node was is called as its node will be.
fn becomes(directory: &Directory, address: SocketAddr) -> String {
    let path = Path::new(&directory.path);
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = if name == directory.address.to_string() {
        address.to_string()
    } else if is_name_of(name, directory.address) {
        address_as_file_name(address)
    } else {
        return directory.path.clone();
    };
    path.with_file_name(name).display().to_string()
}

/// The one cluster whose directories are used.
fn one_cluster<'s>(cluster: &Cluster, surveyed: &[&'s Directory], used: &Used<'s>) -> Result<&'s Formation, String> {
    let mut first: Option<(&Directory, &Formation)> = None;
    for (node, directory) in used {
        let address = cluster.node(*node).address;
        let Some(formation) = &directory.formation else {
            return Err(format!("{} cannot become {address}: it never was part of a cluster", directory.path));
        };
        match first {
            Some((other, known)) if known.cluster != formation.cluster => {
                return Err(format!(
                    "{} is of cluster {} and {} of cluster {}: they hold different data, and cannot become one",
                    other.path, known.cluster, directory.path, formation.cluster
                ));
            }
            _ => drop(first.get_or_insert((directory, formation))),
        }
    }
    first.map(|(_, formation)| formation).ok_or_else(|| {
        let paths: Vec<&str> = surveyed.iter().map(|directory| directory.path.as_str()).collect();
        let paths = if paths.is_empty() { "nothing".to_owned() } else { paths.join(", ") };
        format!(
            "none of the directories becomes a node of the new table; --node IP:PORT=DIR says which. Surveyed: {paths}"
        )
    })
}

/// A shard's register and how it came about, or why it cannot be.
type Made = Result<(Configuration, ShardPlan), String>;

struct Planner<'s> {
    cluster: &'s Cluster,
    old: Old<'s>,
    used: Used<'s>,
    wanted: &'s Wanted,
}

impl<'s> Planner<'s> {
    fn address(&self, node: NodeId) -> SocketAddr {
        self.cluster.node(node).address
    }

    fn addresses(&self, nodes: impl Iterator<Item = NodeId>) -> String {
        nodes.map(|node| self.address(node).to_string()).collect::<Vec<_>>().join(", ")
    }

    /// The directories that become copies of a shard.
    fn copies(&self, shard: ShardId) -> impl Iterator<Item = (NodeId, &'s Directory)> {
        self.cluster.shard(shard).nodes.iter().filter_map(|node| Some((*node, *self.used.get(node)?)))
    }

    /// What a directory is known to be a copy of: by its keys, or by a register that names it.
    fn shard_of(&self, directory: &Directory) -> Option<ShardId> {
        let by_keys = directory.keys.and_then(|keys| keys.shard(self.cluster.shards().len()));
        let names = |shard: &ShardId| {
            self.old.newest(*shard).is_some_and(|c| c.in_sync.iter().any(|member| member.store == directory.store))
        };
        by_keys.or_else(|| (0..).map(ShardId).take(self.cluster.shards().len()).find(names))
    }

    /// That no key would be looked for elsewhere from now on.
    fn check_shards(&self) -> Result<(), Vec<String>> {
        let shards = self.cluster.shards().len();
        if let Some(before) = self.old.shards().filter(|before| *before != shards) {
            return Err(vec![format!(
                "the old table had {before} shards, the new one has {shards}: the number of shards stays for ever, since \
                 a key's shard follows from it"
            )]);
        }
        let mut wrong = Vec::new();
        for (node, directory) in &self.used {
            let (path, address) = (&directory.path, self.address(*node));
            if directory.keys.is_some_and(|keys| keys.shard(shards).is_none()) {
                wrong.push(format!("{path} cannot become {address}: its keys belong to several of {shards} shards"));
                continue;
            }
            if let (Some(holds), Some(wants)) = (self.shard_of(directory), self.cluster.node(*node).shard)
                && holds != wants
            {
                let names = [holds, wants].map(|shard| format!("shard {} {}", shard.0, self.cluster.shard(shard).name));
                let [holds, wants] = names;
                wrong.push(format!(
                    "{path} holds {holds} and cannot become {address}, a copy of {wants}: --node IP:PORT=DIR says which \
                     node a directory becomes"
                ));
            }
        }
        wrong.extend(
            self.wanted
                .leads
                .iter()
                .filter(|(shard, _)| shard.0 as usize >= shards)
                .map(|(shard, address)| format!("--lead {}={address}: there is no shard {}", shard.0, shard.0)),
        );
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    /// The copies that hold all that was ever answered, and will be copies again.
    fn in_sync(&self, shard: ShardId) -> Vec<(NodeId, &'s Directory)> {
        let holds_all = |directory: &Directory| match self.old.newest(shard) {
            Some(newest) => newest.in_sync.iter().any(|member| member.store == directory.store),
            // Nobody ever led the shard: it is empty.
            None => directory.end == Lsn::ZERO && self.old.formation.stores.contains(&directory.store),
        };
        let is_one = |(_, directory): &(NodeId, &Directory)| is_sound(directory) && holds_all(directory);
        if self.old.reading.is_certain() { self.copies(shard).filter(is_one).collect() } else { Vec::new() }
    }

    fn lead_wanted(&self, shard: ShardId) -> Option<SocketAddr> {
        self.wanted.leads.iter().rev().find(|(of, _)| *of == shard).map(|(_, address)| *address)
    }

    fn shard(&self, shard: ShardId) -> Made {
        let in_sync = self.in_sync(shard);
        if in_sync.is_empty() { self.forced(shard) } else { self.in_order(shard, &in_sync) }
    }

    /// Nothing is lost.
    fn in_order(&self, shard: ShardId, in_sync: &[(NodeId, &'s Directory)]) -> Made {
        let own = self.cluster.primary(shard);
        let longest =
            in_sync.iter().max_by_key(|(node, directory)| (directory.end, *node == own, std::cmp::Reverse(*node)));
        let by_itself = in_sync.iter().find(|(node, _)| *node == own).or(longest);
        let chosen = match self.lead_wanted(shard) {
            None => by_itself,
            Some(address) => {
                let meant = in_sync.iter().find(|(node, _)| Some(*node) == self.cluster.node_at(address));
                Some(meant.ok_or_else(|| {
                    let able = self.addresses(in_sync.iter().map(|(node, _)| *node));
                    format!("--lead {}={address}: it is not in sync; one of {able} can lead without loss", shard.0)
                })?)
            }
        };
        let (primary, directory) = *chosen.ok_or_else(|| format!("shard {} has no copy", shard.0))?;
        self.make(shard, primary, directory, in_sync.iter().map(|(node, d)| member(*node, d)).collect(), false)
    }

    /// One copy's data is taken as the truth, whatever was answered.
    fn forced(&self, shard: ShardId) -> Made {
        let head = format!("shard {} {}", shard.0, self.cluster.shard(shard).name);
        let state = self.state_of(shard);
        if let Some(left) = self.left_out(shard) {
            return Err(format!(
                "{head}: {} holds all answered writes, and becomes no copy of it: say which by --node IP:PORT={}",
                left.path, left.path
            ));
        }
        let Some(address) = self.lead_wanted(shard).filter(|_| self.wanted.accepts_data_loss) else {
            let best = self.best(shard).map_or("IP:PORT".to_owned(), |node| self.address(node).to_string());
            return Err(format!(
                "{head}: {state}. --accept-data-loss with --lead {}={best} takes that copy's data as the truth: answered \
                 writes that it lacks are lost for good",
                shard.0
            ));
        };
        let meant = self.copies(shard).find(|(node, _)| Some(*node) == self.cluster.node_at(address));
        let Some((node, directory)) = meant else {
            return Err(format!(
                "{head}: --lead {}={address}: no surveyed directory becomes that copy. {state}",
                shard.0
            ));
        };
        if !is_sound(directory) {
            return Err(format!("{head}: --lead {}={address}: {}", shard.0, why_unsound(directory)));
        }
        self.make(shard, node, directory, vec![member(node, directory)], true)
    }

    fn make(
        &self,
        shard: ShardId,
        primary: NodeId,
        leads: &Directory,
        mut in_sync: Vec<Member>,
        is_forced: bool,
    ) -> Made {
        let is_its = |d: &Directory| self.shard_of(d) == Some(shard) || self.copies(shard).any(|(_, c)| is_same(c, d));
        let seen = self.old.highest(shard, is_its);
        let before = self.old.newest(shard).map_or(0, |newest| newest.forced);
        in_sync.sort_unstable();
        let configuration = Configuration {
            version: seen.version.saturating_add(1),
            epoch: Epoch(seen.epoch.0.saturating_add(1)),
            primary,
            in_sync,
            forced: if is_forced { seen.forced.saturating_add(1) } else { before },
        };
        if !is_lawful(&configuration) {
            return Err(format!("the surveys' numbers of shard {} make no sense", shard.0));
        }
        let plan = ShardPlan {
            name: self.cluster.shard(shard).name.clone(),
            leads: self.address(primary),
            end: leads.end,
            in_sync: configuration.in_sync.iter().map(|member| self.address(member.node)).collect(),
            may_lose: is_forced,
            notes: self.notes(shard, &configuration, is_forced),
        };
        Ok((configuration, plan))
    }

    /// What becomes of the copies that are not in sync, and of the in-sync copies that are not there.
    fn notes(&self, shard: ShardId, made: &Configuration, is_forced: bool) -> Vec<String> {
        let mut notes = if is_forced { vec![self.state_of(shard)] } else { Vec::new() };
        for node in self.cluster.shard(shard).nodes.iter().filter(|node| made.member(**node).is_none()) {
            let address = self.address(*node);
            notes.push(match self.used.get(node) {
                None => format!("{address} starts empty: it gets all data from the others"),
                Some(directory) => format!("{address} is not in sync ({}): it gets what it lacks", said_of(directory)),
            });
        }
        if let Some(newest) = self.old.newest(shard).filter(|_| !is_forced) {
            let missing = newest.in_sync.iter().filter(|old| made.in_sync.iter().all(|new| new.store != old.store));
            notes.extend(missing.map(|old| format!("not among them is what was in sync before: {}", self.called(old))));
        }
        notes
    }

    /// An in-sync copy of before.
    fn called(&self, member: &Member) -> String {
        match self.old.directories.iter().find(|directory| directory.store == member.store) {
            Some(directory) if is_sound(directory) => format!("{}, not used as a copy of the shard", directory.path),
            Some(directory) => why_unsound(directory),
            None => format!("old node {} (store {}), not surveyed", member.node.0, member.store),
        }
    }

    /// A sound in-sync copy of before that was surveyed: it needs only be used.
    fn left_out(&self, shard: ShardId) -> Option<&'s Directory> {
        let members = &self.old.newest(shard).filter(|_| self.old.reading.is_certain())?.in_sync;
        let is_member = |directory: &Directory| members.iter().any(|member| member.store == directory.store);
        self.old.directories.iter().copied().find(|directory| is_member(directory) && is_sound(directory))
    }

    /// Why none is known to be in sync, and what there is.
    fn state_of(&self, shard: ShardId) -> String {
        let why = match (self.old.reading.is_certain(), self.old.newest(shard)) {
            (false, _) => "which copies hold all answered writes is not known".to_owned(),
            (true, Some(newest)) => {
                let gone: Vec<String> = newest.in_sync.iter().map(|member| self.called(member)).collect();
                format!("no copy is left that holds all answered writes: {}", gone.join("; "))
            }
            (true, None) => "it was never led, and none of its empty directories is used".to_owned(),
        };
        let there: Vec<String> =
            self.copies(shard).map(|(node, d)| format!("{} has {}", self.address(node), said_of(d))).collect();
        let there = if there.is_empty() { "no directory becomes a copy of it".to_owned() } else { there.join(", ") };
        format!("{why}; {there}")
    }

    /// The copy that seems to hold most.
    fn best(&self, shard: ShardId) -> Option<NodeId> {
        let sound = self.copies(shard).filter(|(_, directory)| is_sound(directory));
        sound.max_by_key(|(node, d)| (d.epoch, d.end, std::cmp::Reverse(*node))).map(|(node, _)| node)
    }

    /// Why nothing is certain, if so.
    fn why_uncertain(&self) -> Option<String> {
        let reading = &self.old.reading;
        (!reading.is_certain()).then(|| {
            format!(
                "{} of the old cluster's {} voters are needed to know its newest configurations, and the memory of {} \
                 was found: {}",
                reading.majority,
                self.old.formation.voters.len(),
                reading.counted.len(),
                self.old.missing_voters().join("; ")
            )
        })
    }

    fn finish(
        self,
        surveyed: &[&Directory],
        registers: Vec<Configuration>,
        shards: Vec<ShardPlan>,
        random: &mut dyn FnMut() -> Uuid,
    ) -> Plan {
        let voters = choose_voters(&Table::of(self.cluster));
        let mut first = || VoterId { generation: 0, uuid: random() };
        let voters: Vec<Seat> = voters.into_iter().map(|node| Seat { node, first: first() }).collect();
        // Only of these it is known that they are whole; all others are filled.
        let store =
            |node| registers.iter().find_map(|register| register.member(node)).map_or(Uuid::default(), |m| m.store);
        let formation = Formation {
            cluster: random(),
            fingerprint: self.cluster.fingerprint(),
            stores: self.cluster.node_ids().map(store).collect(),
            voters,
        };
        let (with, without): (Vec<NodeId>, Vec<NodeId>) =
            formation.voters.iter().map(|seat| seat.node).partition(|node| self.used.contains_key(node));
        let too_few = with.len() < formation.voters.len() / 2 + 1;
        let must_be_made = without.iter().filter(|_| too_few).map(|node| self.address(*node)).collect();
        let node = |node: NodeId| PlannedNode {
            address: self.address(node),
            source: self.used.get(&node).map(|directory| source(directory, self.address(node))),
        };
        let is_unused = |directory: &&&Directory| !self.used.values().any(|used| is_same(used, directory));
        let unused = surveyed.iter().filter(is_unused).map(|directory| self.why_unused(directory)).collect();
        Plan {
            kind: KIND.to_owned(),
            format: FORMAT,
            old_cluster: self.old.formation.cluster,
            nodes: self.cluster.node_ids().map(node).collect(),
            formation,
            registers,
            shards,
            unused,
            must_be_made,
        }
    }

    fn why_unused(&self, directory: &Directory) -> String {
        let why = match &directory.formation {
            None => "it never was part of a cluster".to_owned(),
            Some(formation) if formation.cluster != self.old.formation.cluster => {
                format!("it is of another cluster, {}", formation.cluster)
            }
            Some(_) => format!("it was {}'s, and becomes no node of the new table", directory.address),
        };
        format!("{}: {why}", directory.path)
    }
}

fn member(node: NodeId, directory: &Directory) -> Member {
    Member { node, store: directory.store }
}

fn source(directory: &Directory, address: SocketAddr) -> Source {
    let Directory { path, store, epoch, end, .. } = directory;
    Source { path: path.clone(), becomes: becomes(directory, address), store: *store, epoch: *epoch, end: *end }
}

fn is_sound(directory: &Directory) -> bool {
    directory.damage.is_none() && directory.whole
}

fn why_unsound(directory: &Directory) -> String {
    match &directory.damage {
        Some(damage) => format!("{} is damaged: {damage}", directory.path),
        None => format!("{} never had all data", directory.path),
    }
}

fn said_of(directory: &Directory) -> String {
    let state = match (&directory.damage, directory.whole) {
        (Some(_), _) => ", damaged",
        (None, false) => ", never filled",
        (None, true) => "",
    };
    format!("records up to {} of epoch {}{state}", directory.end.0, directory.epoch.0)
}

impl Plan {
    /// Reads a plan's JSON. What came through people's hands is checked against the invariants of its types.
    ///
    /// # Errors
    /// It is none, or of another version: a sentence.
    pub fn read(json: &[u8]) -> Result<Plan, String> {
        let plan: Plan =
            serde_json::from_slice(json).map_err(|e| format!("it is not what `dkv reform plan` prints: {e}"))?;
        if plan.kind != KIND || plan.format != FORMAT {
            return Err(format!("its format is {:?} {}, but this dkv reads {KIND:?} {FORMAT}", plan.kind, plan.format));
        }
        let is_one = is_lawful(&plan.formation)
            && plan.formation.stores.len() == plan.nodes.len()
            && plan.registers.iter().all(is_lawful);
        if is_one { Ok(plan) } else { Err("it was changed and makes no sense any more".to_owned()) }
    }

    /// Whether a node will hold the registers.
    #[must_use]
    pub fn votes(&self, node: NodeId) -> bool {
        self.formation.voters.iter().any(|seat| seat.node == node)
    }
}

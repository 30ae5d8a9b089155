//! Owns: the faults: which nodes each is drawn for, what it does, and how it ends. Each leaves no process stopped for
//! good; what else it leaves, healing mends.
//! Never: clients, judgement.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::crowd::Crowd;
use crate::rig::Rig;
use crate::shim::Word;
use crate::support::dice::Dice;
use crate::support::load::Watch;

/// What can be done to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// `kill -9`, and a start some time later.
    Kill,
    /// `kill -9`, and a start at once.
    KillAndBack,
    /// SIGSTOP, SIGCONT.
    Freeze,
    /// All nodes at once, as when their machine sleeps.
    FreezeAll,
    /// Each node is killed and started again and again.
    Storm,
    /// All are killed at once and started in some order, one long after the others.
    KillAll,
    /// SIGTERM and a start, node by node.
    RollingRestart,
    /// A connection on every node but a few, by thousands, among them slow senders and floods, while a primary dies.
    Crowd,
    /// The primary and a replica do not hear each other.
    CutPair,
    /// A node hears no other node, and is heard by clients alone.
    CutFromPeers,
    /// Two parts.
    Halves,
    /// What a node sends is lost; what it is sent arrives.
    Muted,
    /// What a node is sent is lost; what it sends arrives.
    Deaf,
    /// A cut that comes and goes.
    Flapping,
    /// What a node sends goes over a narrow line.
    SlowLink,
    FullDisk,
    /// Syncs fail; what they were for is lost.
    SyncError,
    SlowSync,
    /// Syncs never return.
    HungDisk,
    /// The power goes: of what was not synced, any part is lost.
    PowerLoss,
    /// The same for all nodes at once.
    PowerLossOfAll,
    /// The wall clock jumps by an hour.
    WallClock,
    /// A clock that is nearly 1 % fast or slow from the next start on.
    ClockRate,
    /// A node is started with another table for a while.
    OtherTable,
    /// A flipped bit in a log file.
    FlippedLog,
    FlippedHint,
    /// A flipped bit in what a voter remembers.
    FlippedVoter,
    /// An empty disk.
    Wipe,
    /// A directory of some time ago.
    OldImage,
}

use Fault::*;

/// All of them, the more often the more entries.
const OFTEN: [Fault; 33] = [
    Kill,
    Kill,
    KillAndBack,
    KillAndBack,
    Freeze,
    Freeze,
    FreezeAll,
    Storm,
    KillAll,
    RollingRestart,
    Crowd,
    CutPair,
    CutPair,
    CutFromPeers,
    CutFromPeers,
    Halves,
    Muted,
    Deaf,
    Flapping,
    SlowLink,
    FullDisk,
    SyncError,
    SlowSync,
    HungDisk,
    PowerLoss,
    PowerLossOfAll,
    WallClock,
    ClockRate,
    OtherTable,
    FlippedLog,
    FlippedHint,
    Wipe,
    OldImage,
];

/// One fault, and whom it strikes: the first of them, if it strikes one alone.
#[derive(Debug, Clone)]
pub struct Strike {
    pub fault: Fault,
    pub nodes: Vec<usize>,
    pub seed: u64,
}

impl Fault {
    /// It takes data away that was synced: no other may be about to do so, and all copies must be in sync before.
    pub fn destroys(self) -> bool {
        matches!(self, FlippedLog | FlippedHint | FlippedVoter | Wipe | OldImage)
    }

    /// It strikes all nodes, so that no other goes with it.
    pub fn is_for_all(self) -> bool {
        matches!(self, FreezeAll | Storm | KillAll | RollingRestart | Halves | PowerLossOfAll)
    }

    /// The process must end by itself: nobody knows what is on its disk.
    pub fn ends_processes(self) -> bool {
        self == SyncError
    }

    fn needs_hosts(self) -> bool {
        matches!(self, CutPair | CutFromPeers | Halves | Muted | Deaf | Flapping | SlowLink)
    }

    fn needs_shim(self) -> bool {
        matches!(self, SyncError | SlowSync | HungDisk | PowerLoss | PowerLossOfAll | WallClock | ClockRate)
    }

    pub fn is_possible(self, rig: &Rig) -> bool {
        (rig.hosts.is_some() || !self.needs_hosts())
            && (rig.has_shims() || !self.needs_shim())
            && (rig.hosts.is_some() || rig.has_shims() || self != FullDisk)
    }

    pub fn all() -> impl Iterator<Item = Fault> {
        OFTEN.into_iter().chain([FlippedVoter])
    }

    /// A fault of any kind.
    pub fn draw(dice: &mut Dice) -> Fault {
        match *dice.pick(&OFTEN).unwrap() {
            FlippedHint if dice.once_in(2) => FlippedVoter,
            fault => fault,
        }
    }
}

impl Strike {
    /// Draws whom it strikes, of the nodes that are free; `None`: there is nobody.
    pub fn draw(fault: Fault, rig: &Rig, free: &[usize], dice: &mut Dice) -> Option<Strike> {
        let seed = dice.next();
        let strike = |nodes: Vec<usize>| Some(Strike { fault, nodes, seed });
        if fault.is_for_all() {
            let all: Vec<usize> = rig.nodes().collect();
            return if free.len() == all.len() { strike(all) } else { None };
        }
        let copies = || free.iter().copied().filter(|node| rig.shard_of(*node).is_some());
        match fault {
            CutPair | Flapping => {
                let shard = dice.below(rig.cluster.shards() as u64) as usize;
                let nodes: Vec<usize> = copies().filter(|node| rig.shard_of(*node) == Some(shard)).take(2).collect();
                if nodes.len() == 2 { strike(nodes) } else { None }
            }
            FullDisk if !rig.has_shims() => {
                let small: Vec<usize> = copies().filter(|node| rig.has_small_disk(*node)).collect();
                strike(vec![*dice.pick(&small)?])
            }
            FullDisk | FlippedLog | FlippedHint | Crowd | OldImage => {
                strike(vec![*dice.pick(&copies().collect::<Vec<_>>())?])
            }
            // The primaries more often than the others: what they do matters most.
            _ => {
                let leads = |node: &usize| rig.shard_of(*node).is_some_and(|shard| rig.cluster.leads_now(shard, *node));
                let leaders: Vec<usize> = free.iter().copied().filter(leads).collect();
                let from = if leaders.is_empty() || dice.once_in(2) { free } else { &leaders };
                strike(vec![*dice.pick(from)?])
            }
        }
    }

    /// Does it, and ends it. `crowd`: how many connections make one.
    pub fn carry_out(&self, rig: &Rig, watch: &Watch<'_, '_>, crowd: usize) {
        let dice = &mut Dice::new(self.seed);
        let node = self.nodes[0];
        match self.fault {
            Kill => down_for(rig, node, some_ms(dice, 200, 3000)),
            KillAndBack => down_for(rig, node, some_ms(dice, 0, 200)),
            Freeze => {
                let longest_ms = if dice.once_in(5) { 10_000 } else { 4000 };
                freeze(rig, &[node], some_ms(dice, 300, longest_ms));
            }
            FreezeAll => freeze(rig, &self.nodes, some_ms(dice, 1000, 8000)),
            Storm => storm(rig, dice),
            KillAll => kill_all(rig, dice),
            RollingRestart => rolling_restart(rig),
            Crowd => crowd_at(rig, node, crowd, dice),
            CutPair | CutFromPeers | Halves | Muted | Deaf | Flapping | SlowLink => self.on_the_network(rig, dice),
            FullDisk => full_disk(rig, node, some_ms(dice, 500, 4000)),
            SyncError => sync_error(rig, node, watch, dice),
            SlowSync => {
                shim(rig, node).set(Word::SyncDelayMs, 50 + dice.below(1950));
                pause(some_ms(dice, 2000, 5000));
                shim(rig, node).clear();
            }
            HungDisk => hung_disk(rig, node, dice),
            PowerLoss | PowerLossOfAll => _ = power_loss(rig, &self.nodes, dice),
            WallClock => {
                let hour = 3_600_000_000_000_i64;
                shim(rig, node).set(Word::WallOffsetNs, if dice.once_in(2) { hour } else { -hour } as u64);
                pause(some_ms(dice, 1000, 3000));
                shim(rig, node).clear();
            }
            ClockRate => {
                let ppm = dice.below(19_000) as i64 - 9_500;
                shim(rig, node).set(Word::ClockPpm, ppm as u64);
                down_for(rig, node, some_ms(dice, 0, 1000));
                pause(some_ms(dice, 1000, 2000));
            }
            OtherTable => other_table(rig, node, dice),
            FlippedLog => destroyed(rig, node, |rig| flip_log(rig, node, dice)),
            FlippedHint => {
                destroyed(rig, node, |rig| rig.files(node, ".hint").iter().for_each(|hint| flip(hint, dice, 2)))
            }
            FlippedVoter => {
                destroyed(rig, node, |rig| rig.files(node, "voter").iter().for_each(|file| flip(file, dice, 2)))
            }
            Wipe => destroyed(rig, node, |rig| rig.wipe(node)),
            OldImage => old_image(rig, node, watch),
        }
    }

    fn on_the_network(&self, rig: &Rig, dice: &mut Dice) {
        let hosts = rig.hosts.as_ref().expect("drawn where there are hosts");
        let node = self.nodes[0];
        let peers = || rig.nodes().filter(move |peer| *peer != node);
        match self.fault {
            CutPair => hosts.cut_both_ways(node, self.nodes[1]),
            CutFromPeers => peers().for_each(|peer| hosts.cut_both_ways(node, peer)),
            Muted => peers().for_each(|peer| hosts.cut(node, peer)),
            Deaf => peers().for_each(|peer| hosts.cut(peer, node)),
            SlowLink => hosts.slow(node, 50_000 + dice.below(1_000_000) as usize),
            Halves => {
                let sides: Vec<bool> = self.nodes.iter().map(|_| dice.once_in(2)).collect();
                for (a, b) in
                    rig.nodes().flat_map(|a| (0..a).map(move |b| (a, b))).filter(|(a, b)| sides[*a] != sides[*b])
                {
                    hosts.cut_both_ways(a, b);
                }
            }
            Flapping => {
                for _ in 0..2 + dice.below(4) {
                    hosts.cut_both_ways(node, self.nodes[1]);
                    pause(some_ms(dice, 300, 2000));
                    hosts.heal(node);
                    hosts.heal(self.nodes[1]);
                    pause(some_ms(dice, 300, 2000));
                }
            }
            _ => unreachable!("not of the network"),
        }
        if self.fault != Flapping {
            pause(some_ms(dice, 500, 5000));
            rig.nodes().for_each(|node| hosts.heal(node));
        }
    }
}

fn shim(rig: &Rig, node: usize) -> &crate::shim::NodeShim {
    rig.shim(node).expect("drawn where there are shims")
}

fn some_ms(dice: &mut Dice, from: u64, upto: u64) -> Duration {
    Duration::from_millis(from + dice.below(upto - from))
}

/// A fault lasts so long.
fn pause(time: Duration) {
    thread::sleep(time);
}

fn down_for(rig: &Rig, node: usize, time: Duration) {
    rig.kill(node);
    pause(time);
    rig.cluster.spawn(node);
}

fn freeze(rig: &Rig, nodes: &[usize], time: Duration) {
    nodes.iter().for_each(|node| rig.signal(*node, Signal::STOP));
    pause(time);
    nodes.iter().for_each(|node| rig.signal(*node, Signal::CONT));
}

fn storm(rig: &Rig, dice: &mut Dice) {
    for _ in 0..rig.cluster.nodes() * 2 {
        let node = dice.below(rig.cluster.nodes() as u64) as usize;
        down_for(rig, node, some_ms(dice, 0, 400));
        pause(some_ms(dice, 0, 800));
    }
}

fn shuffled(rig: &Rig, dice: &mut Dice) -> Vec<usize> {
    let mut nodes: Vec<(u64, usize)> = rig.nodes().map(|node| (dice.next(), node)).collect();
    nodes.sort_unstable();
    nodes.into_iter().map(|(_, node)| node).collect()
}

fn kill_all(rig: &Rig, dice: &mut Dice) {
    rig.nodes().for_each(|node| rig.kill(node));
    let order = shuffled(rig, dice);
    let (last, first) = order.split_last().expect("there are nodes");
    for node in first {
        rig.cluster.spawn(*node);
        pause(some_ms(dice, 0, 300));
    }
    pause(some_ms(dice, 500, 3000));
    rig.cluster.spawn(*last);
}

fn rolling_restart(rig: &Rig) {
    for node in rig.nodes() {
        rig.cluster.stop(node);
        rig.cluster.start(node);
        rig.wait_until_well();
    }
}

/// Half of the crowd is where the primary is, half where another copy is.
fn crowd_at(rig: &Rig, node: usize, connections: usize, dice: &mut Dice) {
    let shard = rig.shard_of(node).expect("drawn among copies");
    let leader = rig.cluster.leader(shard);
    let other = rig.cluster.copies(shard).find(|copy| *copy != leader).expect("there are replicas");
    let crowds = [leader, other].map(|node| Crowd::gather(rig.cluster.addresses[node], connections / 2));
    rig.kill(leader);
    pause(some_ms(dice, 1000, 3000));
    rig.cluster.spawn(leader);
    pause(some_ms(dice, 500, 1000));
    drop(crowds);
}

fn full_disk(rig: &Rig, node: usize, time: Duration) {
    if !rig.has_small_disk(node) {
        shim(rig, node).set(Word::NoSpace, 1);
        pause(time);
        shim(rig, node).clear();
        return;
    }
    // What somebody else has put there.
    let filler = rig.cluster.data(node).join("filler");
    let file = OpenOptions::new().create(true).append(true).open(&filler).unwrap();
    let mut at = 0;
    for piece in [1 << 20, 4096, 1] {
        while let Ok(n) = file.write_at(&vec![0; piece], at) {
            at += n as u64;
        }
    }
    pause(time);
    fs::remove_file(&filler).unwrap();
}

/// The process ends by itself: after a failed sync nobody knows what is on the disk.
fn sync_error(rig: &Rig, node: usize, watch: &Watch<'_, '_>, dice: &mut Dice) {
    shim(rig, node).set(Word::FailSyncs, 1);
    // A witness syncs nothing unless something changes.
    let has_writes = rig.shard_of(node).is_some_and(|shard| rig.cluster.leads_now(shard, node));
    for n in 0.. {
        if !rig.cluster.has_process(node) || watch.is_over() || (n > 300 && !has_writes) {
            break;
        }
        pause(Duration::from_millis(10));
    }
    rig.kill(node);
    shim(rig, node).lose_unsynced(dice);
    shim(rig, node).clear();
    pause(some_ms(dice, 0, 1000));
    rig.cluster.spawn(node);
}

fn hung_disk(rig: &Rig, node: usize, dice: &mut Dice) {
    shim(rig, node).set(Word::Hang, 1);
    pause(some_ms(dice, 1000, 8000));
    if dice.once_in(2) {
        shim(rig, node).clear();
    } else {
        // Somebody has had enough of it.
        rig.kill(node);
        shim(rig, node).clear();
        rig.cluster.spawn(node);
    }
}

/// Gives how many writes were undone.
pub fn power_loss(rig: &Rig, nodes: &[usize], dice: &mut Dice) -> usize {
    nodes.iter().for_each(|node| rig.signal(*node, Signal::KILL));
    nodes.iter().for_each(|node| rig.kill(*node));
    let undone = nodes.iter().map(|node| shim(rig, *node).lose_unsynced(dice)).sum();
    pause(some_ms(dice, 0, 1500));
    for node in nodes {
        rig.cluster.spawn(*node);
        pause(some_ms(dice, 0, 200));
    }
    undone
}

/// A table in which somebody mistyped the port of another node.
fn other_table(rig: &Rig, node: usize, dice: &mut Dice) {
    let text = fs::read_to_string(rig.cluster.config()).unwrap();
    let others: Vec<_> = rig.cluster.addresses.iter().enumerate().filter(|(other, _)| *other != node).collect();
    let gone = dice.pick(&others).unwrap().1.to_string();
    let other = rig.cluster.path(&format!("other-{node}.toml"));
    let port = gone.rsplit_once(':').expect("an address").1;
    let mistyped = gone.replace(&format!(":{port}"), ":9");
    fs::write(&other, text.replace(&gone, &mistyped)).unwrap();
    rig.kill(node);
    rig.cluster.spawn_with(node, &other);
    pause(some_ms(dice, 500, 2500));
    rig.kill(node);
    rig.cluster.spawn(node);
}

fn destroyed(rig: &Rig, node: usize, destroy: impl FnOnce(&Rig)) {
    rig.kill(node);
    destroy(rig);
    rig.cluster.spawn(node);
}

/// One bit of the first `1 / part` of a file; not of its end, which nobody could tell from a torn tail.
pub fn flip(path: &std::path::Path, dice: &mut Dice, part: u64) {
    let bytes = fs::read(path).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
    if used / part == 0 {
        return;
    }
    let at = dice.below(used / part);
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[bytes[at as usize] ^ 1 << dice.below(8)], at).unwrap();
}

/// A start reads no file that has a hint. So that the damage is found while another copy is there, this one has none.
fn flip_log(rig: &Rig, node: usize, dice: &mut Dice) {
    let files = rig.files(node, ".log");
    if let Some(path) = dice.pick(&files) {
        flip(path, dice, 2);
        let _ = fs::remove_file(path.with_extension("hint"));
    }
}

fn old_image(rig: &Rig, node: usize, watch: &Watch<'_, '_>) {
    rig.kill(node);
    let image = rig.keep_image(node);
    rig.cluster.spawn(node);
    rig.wait_until_well();
    watch.more_writes_everywhere(20);
    rig.kill(node);
    rig.put_image(node, &image);
    rig.cluster.spawn(node);
}

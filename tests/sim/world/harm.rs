//! Owns: how faults are done to a world, and undone.
//! Never: how often, and which ([`super::super::faults`]).

use super::*;
use crate::workload::value;
use dkv::op::{Condition, Verb};

impl World {
    /// Some node; as often as not one that leads.
    pub(super) fn any(&mut self) -> usize {
        let leads = |node: &&Node| node.view(self.now).is_some_and(|view| view.state == CopyState::Serving);
        let leading: Vec<usize> = self.nodes.iter().filter(leads).map(|node| node.id.0 as usize).collect();
        let other = self.fates.faults.below(self.nodes.len() as u64) as usize;
        let leader = self.fates.faults.pick(&leading).copied();
        if self.fates.faults.once_in(2) { leader.unwrap_or(other) } else { other }
    }

    pub(super) fn two(&mut self) -> Option<(NodeId, NodeId)> {
        let count = self.nodes.len() as u64;
        if count < 2 {
            return None;
        }
        let from = self.any() as u64;
        let to = (from + 1 + self.fates.faults.below(count - 1)) % count;
        Some((NodeId(from as u32), NodeId(to as u32)))
    }

    /// How long a fault lasts: shorter than it takes another copy to take over, longer, or much longer.
    pub(super) fn spell(&mut self) -> Nanos {
        let failover = self.cluster.settings().replication.failover_ms * MS;
        let spans =
            [(MS, 50 * MS), (MS, failover), (failover, 3 * failover), (failover, 3 * failover), (failover, 8 * SECOND)];
        let (least, most) = *self.fates.faults.pick(&spans).expect("there are five");
        least + self.fates.faults.below(most - least)
    }

    /// Does a fault.
    pub(super) fn strike(&mut self, fault: Fault) {
        let at = self.any();
        let spell = self.spell();
        self.trace.line(self.now, format_args!("{fault:?} {} {} ms", name(NodeId(at as u32)), spell / MS));
        match fault {
            Fault::Kill => self.kill(at),
            Fault::PowerLoss => {
                if self.nodes[at].process.is_some() {
                    self.power_loss(at);
                }
            }
            Fault::PowerLossInCall => {
                let n = 1 + self.fates.faults.below(60);
                if self.nodes[at].process.is_some() {
                    self.nodes[at].machine.fault_at(n, DiskFault::Stop);
                }
            }
            Fault::Blackout => {
                for at in 0..self.nodes.len() {
                    if self.nodes[at].process.is_some() {
                        self.power_loss(at);
                    }
                }
            }
            Fault::Stop => self.stop(at),
            Fault::StopAll => (0..self.nodes.len()).for_each(|at| self.stop(at)),
            Fault::HandOver => {
                let to = NodeId(at as u32);
                let shard = self.nodes[at].shard;
                for other in (0..self.nodes.len()).filter(|other| *other != at) {
                    if shard.is_some() && self.nodes[other].shard == shard {
                        self.nodes[other].ask(Asked::HandOver(to));
                        self.poke(other, self.now);
                    }
                }
            }
            Fault::Pause => {
                let stands =
                    self.cluster.settings().replication.reads == Reads::Confirm && self.fates.clocks.once_in(2);
                // Half of them in the middle of a turn: what it judges then by an older moment is found out.
                let steps = self.fates.faults.below(40);
                let is_amid = self.fates.faults.once_in(2) && !stands;
                let node = &mut self.nodes[at];
                match node.process {
                    Some(_) if is_amid => node.pause_in = Some((steps, spell)),
                    Some(_) => node.paused_until = node.paused_until.max(self.now + spell),
                    None => {}
                }
                if stands {
                    node.clock.stands(self.now);
                    let until = node.paused_until;
                    self.at(until, Event::Undo(Undo::ClockGoes(at)));
                }
            }
            Fault::CutOneWay => {
                if let Some((from, to)) = self.two() {
                    self.cut(from, to, spell);
                }
            }
            Fault::CutPair => {
                if let Some((from, to)) = self.two() {
                    self.cut(from, to, spell);
                    self.cut(to, from, spell);
                }
            }
            Fault::Isolate => {
                let one = NodeId(at as u32);
                for other in self.cluster.node_ids().filter(|other| *other != one) {
                    self.cut(one, other, spell);
                    self.cut(other, one, spell);
                }
            }
            Fault::Partition => self.partition(spell),
            Fault::BreakConnections => self.break_connections(),
            Fault::SlowLink => {
                let speed = 1 + self.fates.faults.below(200);
                if let Some((from, to)) = self.two() {
                    self.network.set_speed(from, to, Some(speed));
                    self.after(spell, Event::Undo(Undo::FullSpeed(from, to)));
                }
            }
            Fault::LateLink => {
                let late = self.fates.faults.below(400 * MS);
                if let Some((from, to)) = self.two() {
                    self.network.set_delay(from, to, late / 2, late);
                    self.after(spell, Event::Undo(Undo::FullSpeed(from, to)));
                }
            }
            Fault::DiskError => {
                let n = 1 + self.fates.faults.below(40);
                if self.nodes[at].process.is_some() {
                    self.nodes[at].machine.fault_at(n, DiskFault::WriteError);
                }
            }
            Fault::DiskFull => {
                let machine = &self.nodes[at].machine;
                machine.set_capacity(machine.used_bytes() + self.fates.faults.below(100_000));
                self.after(spell, Event::Undo(Undo::Room(at)));
            }
            Fault::DiskSlow => {
                let slow = *self.fates.faults.pick(&[20 * MS, 200 * MS, 2 * SECOND]).expect("there are three");
                self.nodes[at].machine.set_pace(slow / 4, slow);
                self.after(spell, Event::Undo(Undo::DiskPace(at)));
            }
            Fault::DiskHang => {
                self.nodes[at].machine.hang();
                self.after(spell * 2, Event::Undo(Undo::DiskWorks(at)));
            }
            Fault::Evict => self.nodes[at].machine.evict(),
            Fault::WallClock => {
                let wall_ms = self.fates.clocks.below(1 << 41);
                self.nodes[at].clock.set_wall(wall_ms);
            }
            Fault::Rot | Fault::RotAlone | Fault::Wipe | Fault::OldImage | Fault::Island => {}
        }
    }

    pub(super) fn stop(&mut self, at: usize) {
        if self.nodes[at].process.is_none() || self.nodes[at].is_stopping() {
            return;
        }
        self.nodes[at].ask(Asked::Stop);
        self.poke(at, self.now);
        let start = self.nodes[at].starts;
        self.after(8 * SECOND, Event::Undo(Undo::KillIfStopping(at, start)));
    }

    /// Nothing else befalls the cluster until all is whole, and the fault has struck; or for so long.
    pub(super) fn begin_lull(&mut self, fault: Option<Fault>) {
        self.lulls += 1;
        let not_before = if fault.is_some() { self.now } else { self.now + 3 * SECOND };
        self.lull = Some(Lull { number: self.lulls, fault, not_before, whole_since: None });
        self.after(30 * SECOND, Event::Undo(Undo::EndLull(self.lulls)));
    }

    /// Takes data from a node, if all is whole.
    pub(super) fn use_lull(&mut self) -> Result<(), String> {
        let Some(Lull { fault, not_before, .. }) = self.lull else { return Ok(()) };
        if self.now < not_before || self.is_healed {
            return Ok(());
        }
        let all_run = self.nodes.iter().all(|node| {
            let at = node.id.0 as usize;
            let runs = node.paused_until.max(self.busy_until[at]) <= self.now + LONG_NS && node.pause_in.is_none();
            runs && node.view(self.now).is_some_and(|view| view.is_formed && view.votes)
        });
        let mut shards = (0..self.cluster.shards().len() as u32).map(ShardId);
        let is_struck = self.ailing > 0 || self.nodes.iter().any(|node| node.machine.awaits_fault());
        let is_calm = !is_struck && all_run && self.network.is_whole() && shards.all(|shard| self.is_in_sync(shard));
        let Some(lull) = &mut self.lull else { return Ok(()) };
        if !is_calm {
            lull.whole_since = None;
            return Ok(());
        }
        if self.now < *lull.whole_since.get_or_insert(self.now) + CALM_NS {
            return Ok(());
        }
        let at = self.any();
        match fault {
            None => {}
            Some(Fault::OldImage) if self.images.is_empty() => {
                for at in 0..self.nodes.len() {
                    let image = self.nodes[at].machine.fork(self.fates.faults.next());
                    image.lose_power(self.fates.faults.next());
                    self.images.insert(at, image);
                }
            }
            Some(Fault::Island) => {
                self.begin_island(at);
                return Ok(());
            }
            Some(Fault::RotAlone) => {
                let copies = self.nodes.iter().filter(|other| other.shard == self.nodes[at].shard).count();
                let leads = self.nodes[at].view(self.now).is_some_and(|view| view.state == CopyState::Serving);
                match self.sealed(at) {
                    _ if !leads || copies < 2 => self.end_lull(),
                    Some(file) => {
                        self.rot_alone(at, file);
                        self.begin_lull(None);
                    }
                    None => {
                        self.fill_a_file(at);
                        self.begin_lull(fault);
                    }
                }
                return Ok(());
            }
            Some(fault) => {
                self.rob(at, fault);
                // What it took must come back first: the others must be there until it has been noticed.
                if fault != Fault::Wipe {
                    self.begin_lull(None);
                    return Ok(());
                }
            }
        }
        self.end_lull();
        Ok(())
    }

    pub(super) fn end_lull(&mut self) {
        self.lull = None;
        let Some(Flip { node, file, at, bit, around, is_alone }) = self.flip.take() else { return };
        let machine = &self.nodes[node].machine;
        if machine.files().iter().any(|(name, _)| *name == file) {
            machine.damage(&file, |bytes| {
                let from = at.saturating_sub(32);
                if bytes.get(from..from + around.len()) == Some(&around) {
                    bytes[at] ^= 1 << bit;
                }
            });
        }
        // The other lacked what cannot be read, and nothing repairs that; with a sound file a start does.
        if is_alone && self.nodes[node].view(self.now).is_some_and(|view| view.is_damaged) {
            self.kill(node);
        }
    }

    /// Takes data away, but not what nobody else has.
    pub(super) fn rob(&mut self, at: usize, fault: Fault) {
        let node = &self.nodes[at];
        let copies = self.nodes.iter().filter(|other| other.shard == node.shard).count();
        let voters = node.voters().unwrap_or_default();
        let votes = voters.contains(&node.id);
        if (node.shard.is_some() && copies < 2) || (votes && voters.len() < 3) {
            return;
        }
        let letter = node.name();
        match fault {
            Fault::Wipe => {
                self.trace.line(self.now, format_args!("{letter} is emptied"));
                self.checks.seen.add(if votes { "wiped voters" } else { "wiped others" }, 1);
                self.kill(at);
                self.empty(at);
            }
            Fault::Rot => self.rot(at),
            Fault::OldImage => {
                let Some(image) = self.images.remove(&at) else { return };
                // A voter that forgets what it promised cannot be noticed: that is outside of what is assumed.
                if votes {
                    image.put("voter", self.nodes[at].machine.read("voter"));
                }
                self.trace.line(self.now, format_args!("{letter} is what it was some time ago"));
                self.checks.seen.add("old images", 1);
                self.kill(at);
                self.checks.robbed.insert(NodeId(at as u32));
                self.checks.replaced(NodeId(at as u32));
                self.nodes[at].replace_machine(image);
                self.nodes[at].machine.set_pace(50_000, 3 * MS);
            }
            _ => {}
        }
    }

    pub(super) fn empty(&mut self, at: usize) {
        let machine = Machine::new(self.fates.faults.next());
        machine.set_pace(50_000, 3 * MS);
        self.checks.robbed.insert(NodeId(at as u32));
        self.checks.replaced(NodeId(at as u32));
        self.nodes[at].replace_machine(machine);
    }

    /// A bit flips in some file: in what was synced long ago.
    pub(super) fn rot(&mut self, at: usize) {
        let machine = self.nodes[at].machine.clone();
        let files: Vec<(String, u64)> = machine.files().into_iter().filter(|(_, bytes)| *bytes > 0).collect();
        let Some((file, _)) = self.fates.faults.pick(&files).cloned() else { return };
        let bytes = machine.read(&file);
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
        let bit = self.fates.faults.below(used * 8 * 6 / 10 + 1) as usize;
        self.flip(at, file, bit, false);
        if self.fates.faults.once_in(2) {
            self.kill(at);
        }
    }

    /// A bit flips at the primary, in a file of which the others lack nothing, and they are away for a while: the damage
    /// is found while nobody else is in sync.
    fn rot_alone(&mut self, at: usize, file: String) {
        let others = self.nodes.iter().filter(|node| node.shard == self.nodes[at].shard).map(|node| node.id.0 as usize);
        for other in others.filter(|other| *other != at).collect::<Vec<usize>>() {
            if self.nodes[other].process.is_some() {
                self.end(other, false);
                self.nodes[other].machine.kill();
                let away = SECOND + self.fates.faults.below(5 * SECOND);
                self.after(away, Event::Undo(Undo::Start(other)));
            }
        }
        let bits = self.nodes[at].machine.read(&file).len() as u64 * 8;
        let bit = self.fates.faults.below(bits) as usize;
        self.flip(at, file, bit, true);
        let failover = self.cluster.settings().replication.failover_ms * MS;
        let late = self.fates.faults.below(2 * failover);
        self.after(late, Event::ReadAll(at));
    }

    /// The newest file of a log that is sealed.
    fn sealed(&self, at: usize) -> Option<String> {
        let files = self.nodes[at].machine.files();
        let sealed = files.iter().filter_map(|(name, _)| Some(format!("{}.log", name.strip_suffix(".hint")?)));
        sealed.filter(|log| files.iter().any(|(name, _)| name == log)).max()
    }

    /// Writes long records, until a file is sealed by them.
    fn fill_a_file(&mut self, at: usize) {
        for key in self.long_keys(at) {
            let value = value(u64::MAX, 16_000);
            self.call(at, Call { verb: Verb::Set, key, value, condition: Condition::None, stale: false });
        }
    }

    fn long_keys(&self, at: usize) -> Vec<Vec<u8>> {
        let keys = (0..).map(|n| format!("long{n}").into_bytes());
        keys.filter(|key| Some(self.router.shard_of(key)) == self.nodes[at].shard).take(8).collect()
    }

    /// Reads all that there may be.
    pub(super) fn read_all(&mut self, at: usize) {
        let Some(shard) = self.nodes[at].shard.filter(|_| self.nodes[at].process.is_some()) else { return };
        let keys = self.workload.habits.keys.iter().filter(|key| self.router.shard_of(key) == shard).cloned();
        for key in keys.chain(self.long_keys(at)).collect::<Vec<Vec<u8>>>() {
            self.call(at, Call { verb: Verb::Get, key, value: Vec::new(), condition: Condition::None, stale: false });
        }
    }

    fn flip(&mut self, at: usize, file: String, bit: usize, is_alone: bool) {
        let machine = self.nodes[at].machine.clone();
        self.trace.line(self.now, format_args!("{}: bit {bit} of {file} flips", name(NodeId(at as u32))));
        self.checks.seen.add("flipped bits", 1);
        self.checks.rotten.insert(NodeId(at as u32));
        self.checks.robbed.insert(NodeId(at as u32));
        let (place, bit) = (bit / 8, bit % 8);
        self.nodes[at].has_rotten_voter |= file == "voter";
        machine.damage(&file, |bytes| {
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= 1 << bit;
            }
        });
        let from = place.saturating_sub(32);
        let around = machine.read(&file).into_iter().skip(from).take(64).collect();
        self.flip = Some(Flip { node: at, file, at: place, bit, around, is_alone });
    }

    /// Each direction fails, and comes back, at a moment of its own.
    pub(super) fn cut(&mut self, from: NodeId, to: NodeId, spell: Nanos) {
        let (late, later) = (self.fates.faults.below(self.stagger), self.fates.faults.below(self.stagger));
        self.after(late, Event::Cut(from, to));
        self.after(late + spell + later, Event::Undo(Undo::Heal(from, to)));
    }

    pub(super) fn partition(&mut self, spell: Nanos) {
        let sides: Vec<bool> = self.nodes.iter().map(|_| self.fates.faults.once_in(2)).collect();
        for from in self.cluster.node_ids() {
            for to in self.cluster.node_ids() {
                if sides[from.0 as usize] != sides[to.0 as usize] {
                    self.cut(from, to, spell);
                }
            }
        }
    }

    pub(super) fn break_connections(&mut self) {
        let share = 1 + self.fates.faults.below(6);
        for number in self.network.whole() {
            if self.fates.faults.once_in(share) {
                self.network.break_up(self.now, number);
            }
        }
    }

    pub(super) fn undo(&mut self, undo: Undo) -> Result<(), String> {
        self.ailing -= u64::from(!matches!(undo, Undo::EndLull(_)));
        match undo {
            Undo::Start(at) => return self.start(at),
            Undo::KillIfStopping(at, start) => {
                if self.nodes[at].is_stopping() && self.nodes[at].starts == start {
                    self.kill(at);
                }
            }
            Undo::Heal(from, to) => self.network.heal(self.now, from, to),
            Undo::FullSpeed(from, to) => {
                self.network.set_speed(from, to, None);
                self.network.set_delay(from, to, self.delay.0, self.delay.1);
            }
            Undo::Room(at) => self.nodes[at].machine.set_capacity(u64::MAX),
            Undo::DiskPace(at) => self.nodes[at].machine.set_pace(50_000, 3 * MS),
            Undo::ClockGoes(at) => {
                if self.nodes[at].paused_until <= self.now {
                    self.nodes[at].clock.goes(self.now);
                }
            }
            Undo::EndLull(number) => {
                if self.lull.as_ref().is_some_and(|lull| lull.number == number) {
                    self.end_lull();
                }
            }
            Undo::DiskWorks(at) => {
                self.disk_works(at);
            }
        }
        Ok(())
    }
}

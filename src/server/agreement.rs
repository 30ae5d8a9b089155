//! Owns: the way of the registers' messages and bytes: to the links, to the home's files, and back when they are
//! durable; what a settled round means for this node's copy; learning of other shards' configurations.
//! Never: how a register is agreed upon ([`crate::node::registers`]), what a role may do ([`crate::node::copy`]).

use std::collections::VecDeque;

use super::core::{Core, Sink, Start};
use crate::config::Cluster;
use crate::configuration::{Change, Coded, Configuration};
use crate::id::{LinkId, NodeId, ShardId, Uuid};
use crate::node::copy::Turn;
use crate::node::registers::{BadStart, Identity, Outbox, Registers, Settled, Table};
use crate::store::disk::Disk;
use crate::store::{Fatal, Home, HomeEvent, PersistId};
use crate::wire::Message;

/// See the module.
pub struct Agreement {
    /// The registers on this node.
    pub registers: Registers,
    outbox: Outbox,
    /// What the registers handed out, by what the home calls it.
    voter_files: VecDeque<(PersistId, u64)>,
    node_files: VecDeque<(PersistId, u64)>,
    /// The highest number of those that are durable.
    durable: u64,
    /// That this node's copy is whole by the formation has been looked at.
    is_checked: bool,
    /// A round on this copy's own register is under way, and whether it only asks.
    is_proposing: bool,
    is_observing: bool,
}

impl Agreement {
    /// From what the home holds.
    ///
    /// # Errors
    /// That does not fit the table: a sentence.
    pub fn new<D: Disk>(
        cluster: &Cluster,
        me: NodeId,
        home: &Home<D>,
        store: Uuid,
        start: &Start,
    ) -> Result<Self, String> {
        let identity = Identity {
            me,
            store,
            incarnation: start.incarnation,
            fingerprint: cluster.fingerprint(),
            seed: start.entropy as u64,
        };
        let registers = Registers::new(identity, Table::of(cluster), &home.state().formation, home.voter());
        let registers = registers.map_err(|bad| match bad {
            BadStart::Formation => "what the data directory says of the cluster's formation cannot be read: it was \
                                    written by a newer version; run that one"
                .to_owned(),
            BadStart::Voter => "the file `voter` of the data directory was written by a newer version: run that one"
                .to_owned(),
            BadStart::OtherTable { formed } => format!(
                "the data directory belongs to a cluster that was formed with another table (fingerprint {formed:016x}; \
                 this table's is {:016x}): put the table back as it was; or, where the cluster is to have \
                 another, stop all nodes and let `dkv reform` make a new cluster of their directories",
                cluster.fingerprint()
            ),
        })?;
        let (voter_files, node_files) = (VecDeque::new(), VecDeque::new());
        Ok(Self {
            registers,
            outbox: Outbox::default(),
            voter_files,
            node_files,
            durable: 0,
            is_checked: false,
            is_proposing: false,
            is_observing: false,
        })
    }

    /// When the registers want to be ticked, in milliseconds.
    #[must_use]
    pub fn next_ms(&self) -> Option<u64> {
        self.registers.next_ms()
    }
}

impl<D: Disk> Core<D> {
    /// A message of the registers. Links between nodes of different clusters are refused; but a node may learn which
    /// cluster it belongs to while links are up.
    pub(super) fn on_register(
        &mut self,
        (from, link): (NodeId, LinkId),
        cluster: Uuid,
        bytes: &[u8],
        sink: &mut impl Sink,
    ) {
        let own = self.cluster_id();
        if cluster != own && cluster != Uuid::default() && own != Uuid::default() {
            return sink.finish(link);
        }
        let Agreement { registers, outbox, .. } = &mut self.agreement;
        if registers.on_message(from, link, bytes, self.now_ms, outbox).is_err() {
            log::warn!("a link is closed: it brought a message of the registers that makes no sense");
            sink.finish(link);
        }
        self.send_registers(sink);
    }

    /// The cluster that this node belongs to; zero while it knows of none.
    #[must_use]
    pub fn cluster_id(&self) -> Uuid {
        self.agreement.registers.formation().map_or(Uuid::default(), |formation| formation.cluster)
    }

    /// The control link to a node is up.
    pub(super) fn on_node_up(&mut self, node: NodeId, sink: &mut impl Sink) {
        let Agreement { registers, outbox, .. } = &mut self.agreement;
        registers.on_node_up(node, self.now_ms, outbox);
        self.send_registers(sink);
        if let (Some(link), Some(known)) = (self.controls[node.0 as usize], self.copy.configuration()) {
            sink.send(link, &Message::Know(&known.encode()));
        }
    }

    /// Lets the registers' messages leave. What they rest on is durable: they see to that.
    fn send_registers(&mut self, sink: &mut impl Sink) {
        let cluster = self.cluster_id();
        for (node, bytes) in self.agreement.outbox.requests.drain(..) {
            if let Some(link) = self.controls[node.0 as usize] {
                sink.send(link, &Message::Register { cluster, bytes: &bytes });
            }
        }
        for (link, bytes) in self.agreement.outbox.answers.drain(..) {
            sink.send(link, &Message::Register { cluster, bytes: &bytes });
        }
    }

    /// Does what the registers have asked for since the last turn, and tells them what is durable.
    ///
    /// # Errors
    /// A write or sync failed.
    pub(super) fn flush_agreement(&mut self, sink: &mut impl Sink) -> Result<(), Fatal> {
        while let Some(event) = self.home.poll()? {
            self.on_home(event, sink)?;
        }
        if self.agreement.registers.next_ms().is_some_and(|next| next <= self.now_ms) {
            let Agreement { registers, outbox, .. } = &mut self.agreement;
            registers.tick(self.now_ms, outbox);
        }
        // A crash may have come between the formation's file and what follows from it.
        if !self.agreement.is_checked && self.agreement.registers.formation().is_some() {
            self.on_formed()?;
        }
        self.propose(sink);
        // Settling a round may begin the next, and a lone voter answers itself.
        loop {
            self.persist_registers()?;
            self.send_registers(sink);
            let settled = std::mem::take(&mut self.agreement.outbox.settled);
            let formed = std::mem::take(&mut self.agreement.outbox.formed);
            if formed {
                self.on_formed()?;
            }
            if settled.is_empty() && !formed {
                return Ok(());
            }
            for round in settled {
                self.on_round(round, sink)?;
            }
            self.propose(sink);
        }
    }

    fn persist_registers(&mut self) -> Result<(), Fatal> {
        let (formation, voter) =
            (self.agreement.outbox.persist_formation.take(), self.agreement.outbox.persist_voter.take());
        if let Some((number, bytes)) = formation {
            let id = self.home.persist(|state| state.formation = bytes)?;
            self.agreement.node_files.push_back((id, number));
        }
        if let Some((number, bytes)) = voter {
            let id = self.home.persist_voter(bytes)?;
            self.agreement.voter_files.push_back((id, number));
        }
        Ok(())
    }

    fn on_home(&mut self, event: HomeEvent, sink: &mut impl Sink) -> Result<(), Fatal> {
        let (files, upto) = match event {
            HomeEvent::Persisted(id) => {
                self.on_node_file(id, sink)?;
                (&mut self.agreement.node_files, id)
            }
            HomeEvent::VoterPersisted(id) => (&mut self.agreement.voter_files, id),
        };
        let mut durable = self.agreement.durable;
        while let Some((id, number)) = files.front().copied()
            && id <= upto
        {
            files.pop_front();
            durable = durable.max(number);
        }
        self.agreement.durable = durable;
        // The two files become durable in any order, the numbers only in theirs.
        let waits = |files: &VecDeque<(PersistId, u64)>| files.front().map(|(_, number)| *number);
        let first = waits(&self.agreement.node_files).into_iter().chain(waits(&self.agreement.voter_files)).min();
        let Agreement { registers, outbox, .. } = &mut self.agreement;
        registers.persisted(first.map_or(durable, |first| durable.min(first - 1)), self.now_ms, outbox);
        Ok(())
    }

    /// The cluster is formed: what this node held then is whole.
    fn on_formed(&mut self) -> Result<(), Fatal> {
        self.agreement.is_checked = true;
        let formation = self.agreement.registers.formation();
        let is_original = formation.is_some_and(|f| f.stores[self.me.0 as usize] == self.copy.me.store);
        log::info!("the cluster is formed: {}", formation.map_or(Uuid::default(), |f| f.cluster));
        if is_original && !self.store.small_state().whole {
            self.store.persist(|state| state.whole = true)?;
            self.copy.set_health(self.store.health().is_some(), true);
        }
        Ok(())
    }

    /// Begins the round that this copy needs, if none is under way.
    pub(super) fn propose(&mut self, sink: &mut impl Sink) {
        let Some(shard) = self.my_shard else { return };
        let is_formed = self.agreement.registers.formation().is_some();
        // Copies that were let go leave with everything: they stay in sync. One that is being replaced would be gone when
        // its change is chosen.
        if !is_formed || self.agreement.is_proposing || self.is_released || self.is_being_replaced() {
            return;
        }
        let Some(change) = self.copy.wanted(self.store.end(), self.stopping_since_ns.is_some()) else { return };
        if change != Change::Observe {
            log::debug!("proposing {change:?}");
        }
        let Agreement { registers, outbox, .. } = &mut self.agreement;
        self.agreement.is_proposing = registers.propose(shard, change, self.now_ms, outbox);
        self.agreement.is_observing = change == Change::Observe;
        self.send_registers(sink);
    }

    /// Gives the round under way up, if nothing was sent that could be chosen.
    pub(super) fn withdraw(&mut self) -> bool {
        let Some(shard) = self.my_shard else { return false };
        let is_given_up = !self.agreement.is_proposing || self.agreement.registers.withdraw(shard);
        self.agreement.is_proposing &= !is_given_up;
        is_given_up
    }

    fn on_round(&mut self, round: Settled, sink: &mut impl Sink) -> Result<(), Fatal> {
        if Some(round.shard) != self.my_shard {
            return Ok(());
        }
        self.agreement.is_proposing = false;
        let before = self.copy.configuration().cloned();
        let why = self.copy.leading().and_then(|leading| leading.followers.proposed());
        let chosen = round.chosen.clone();
        let turn = if self.agreement.is_observing {
            self.copy.on_observed(round.chosen)
        } else {
            self.copy.on_settled(round.chosen, round.applied)
        };
        self.tell_change(before.as_ref(), &chosen, why.and_then(|(_, cause)| cause).map(|cause| cause.as_str()));
        self.turn_to(turn, sink)?;
        self.spread(sink);
        Ok(())
    }

    /// Another node knows a configuration.
    pub(super) fn on_know(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<(), Fatal> {
        let Some(configuration) = Configuration::decode(bytes) else { return Ok(()) };
        let shard = self.copies.iter().position(|copies| copies.contains(&configuration.primary));
        let Some(shard) = shard.map(|at| ShardId(at as u32)) else { return Ok(()) };
        if Some(shard) == self.my_shard {
            let before = self.copy.configuration().cloned();
            let turn = self.copy.learn(configuration.clone());
            self.tell_change(before.as_ref(), &configuration, Some("another node told it"));
            self.turn_to(turn, sink)?;
        }
        if self.directory.learn(shard, configuration.epoch, configuration.primary) {
            self.on_new_primary(shard, sink);
        }
        Ok(())
    }

    /// What a change of role means for what waits.
    pub(super) fn turn_to(&mut self, turn: Turn, sink: &mut impl Sink) -> Result<(), Fatal> {
        match turn {
            Turn::None => Ok(()),
            Turn::Begins => self.begin_epoch(),
            Turn::Deposed => {
                log::warn!("this copy does not lead any more");
                self.settle(sink);
                Ok(())
            }
        }
    }

    /// A log line for each change of the configuration, with its reason.
    fn tell_change(&mut self, before: Option<&Configuration>, now: &Configuration, why: Option<&'static str>) {
        if before.is_some_and(|before| before.version >= now.version) {
            return;
        }
        let old = before.map_or(&[][..], |before| &before.in_sync);
        let reason = match before {
            None => "start",
            Some(before) if before.epoch != now.epoch && before.primary == now.primary => "the primary started anew",
            Some(before) if before.primary != now.primary => "another copy leads",
            Some(_) if now.in_sync.len() > old.len() => "a copy is in sync again",
            Some(_) => why.unwrap_or("a copy was removed"),
        };
        *self.counters.changes.entry(reason).or_default() += 1;
        let nodes: Vec<NodeId> = now.in_sync.iter().map(|member| member.node).collect();
        log::info!(
            "configuration {} of this shard: epoch {}, primary {}, in sync {}: {reason}",
            now.version,
            now.epoch.0,
            self.name(now.primary),
            self.names_of(&nodes)
        );
    }
}

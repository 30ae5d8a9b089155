//! Owns: what each message of another node is for; links that come and go.
//! Never: what follows from a message, sockets.

use super::core::{Core, Sink};
use crate::id::{LinkId, NodeId};
use crate::store::Fatal;
use crate::store::disk::Disk;
use crate::wire::{Class, Message, Status};

impl<D: Disk> Core<D> {
    /// A message of another node: any but those of the handshake.
    ///
    /// # Errors
    /// A write or sync failed.
    pub fn on_message(
        &mut self,
        link: LinkId,
        from: NodeId,
        message: &Message<'_>,
        sink: &mut impl Sink,
    ) -> Result<(), Fatal> {
        let is_for_copies = matches!(
            message,
            Message::Follow(_)
                | Message::Following(_)
                | Message::Append(_)
                | Message::Ack(_)
                | Message::Beacon(_)
                | Message::Grant { .. }
                | Message::Confirm { .. }
                | Message::Confirmed { .. }
                | Message::Lead { .. }
                | Message::Leave
                | Message::Released
        );
        if is_for_copies && !self.is_copy_of_my_shard(from) {
            log::warn!("a link is closed: {} has no copy of this shard, but speaks as if it had", self.name(from));
            sink.finish(link);
            return Ok(());
        }
        match message {
            Message::Forward(forward) => self.on_forward(link, forward, sink),
            Message::Answer { id, outcome } => self.on_answer(link, *id, outcome, sink),
            Message::NotPrimary { id, op } => self.on_not_primary(link, *id, op, sink),
            Message::Leaving => self.on_leaving(link, sink),
            Message::Ping(status) => {
                sink.send(link, &Message::Pong(self.status()));
                self.on_status(from, *status, sink);
            }
            Message::Pong(status) => self.on_status(from, *status, sink),
            Message::Register { cluster, bytes } => self.on_register((from, link), *cluster, bytes, sink),
            Message::Know(bytes) => self.on_know(bytes, sink)?,
            Message::Follow(asked) => self.on_follow(from, link, asked, sink)?,
            Message::Following(said) => self.on_following(from, link, said, sink),
            Message::Append(append) => self.on_append(link, append, sink),
            Message::Ack(ack) => self.on_ack(from, link, ack),
            Message::Beacon(beacon) => self.on_beacon(from, link, beacon, sink)?,
            Message::Grant { epoch, sent_ns, version } => self.on_grant(from, *epoch, *sent_ns, *version, sink),
            Message::Confirm { epoch, round } => {
                if self.copy.confirms(from, *epoch) {
                    sink.send(link, &Message::Confirmed { epoch: *epoch, round: *round });
                }
            }
            Message::Confirmed { epoch, round } => self.on_confirmed(from, *epoch, *round),
            Message::Lead { epoch, keeps_old } => self.on_lead(from, *epoch, *keeps_old, sink),
            Message::Leave => {
                let now_ns = self.now_ns;
                if let Some(leading) = self.copy.leading_mut() {
                    leading.followers.on_leave(from, now_ns);
                }
            }
            Message::HandOver { to } => {
                if let Err(why) = self.hand_over(*to) {
                    sink.send(link, &Message::NotHanded(why));
                }
            }
            Message::NotHanded(why) => self.not_handed = Some((from, (*why).to_owned())),
            Message::Released => self.is_released |= self.stopping_since_ns.is_some(),
            Message::Hello(_) | Message::Welcome(_) | Message::Refuse { .. } => {}
        }
        Ok(())
    }

    /// A link that this node dialled is through its handshake.
    pub fn on_dialled(&mut self, node: NodeId, class: Class, link: LinkId, sink: &mut impl Sink) {
        // Whoever comes to lead has its links already.
        if self.is_copy_of_my_shard(node) {
            sink.want(node, Class::Data);
        }
        match class {
            Class::Control => {
                self.controls[node.0 as usize] = Some(link);
                sink.send(link, &Message::Ping(self.status()));
                self.on_node_up(node, sink);
            }
            Class::Data => {
                self.links[node.0 as usize] = Some(link);
                self.ask_to_follow(node, link, sink);
                self.retry_primaries(sink);
            }
        }
    }

    /// A link that another node dialled is through its handshake.
    pub fn on_accepted(&mut self, link: LinkId, sink: &mut impl Sink) {
        sink.send(link, &Message::Pong(self.status()));
    }

    /// A link that this node dialled is gone. `written`: how many bytes of its stream the kernel took; `unsent`: those
    /// behind.
    pub fn on_dialled_down(
        &mut self,
        node: NodeId,
        class: Class,
        link: LinkId,
        (written, unsent): (u64, &[u8]),
        sink: &mut impl Sink,
    ) {
        match class {
            Class::Control => {
                if self.controls[node.0 as usize] == Some(link) {
                    self.controls[node.0 as usize] = None;
                    self.directory.lose(node);
                }
            }
            Class::Data => {
                let now_ns = self.now_ns;
                if let Some(leading) = self.copy.leading_mut() {
                    leading.followers.on_down(node, link, now_ns);
                }
                self.on_link_down(node, link, written, unsent, sink);
            }
        }
    }

    /// A link that another node dialled is gone.
    pub fn on_accepted_down(&mut self, link: LinkId) {
        self.copy.on_link_lost(link);
    }

    /// A beacon of another node, or its answer to ours.
    fn on_status(&mut self, node: NodeId, status: Status, sink: &mut impl Sink) {
        if let Some(shard) = self.directory.hear(node, status, self.now_ms) {
            self.on_new_primary(shard, sink);
        }
    }

    fn on_lead(&mut self, from: NodeId, epoch: crate::id::Epoch, keeps_old: bool, sink: &mut impl Sink) {
        let link = self.copy.following().and_then(|following| following.link);
        self.copy.on_lead(from, epoch, keeps_old);
        self.leave_primary(link, sink);
        self.propose(sink);
    }

    /// A copy that is about to lead takes no more of the primary before.
    pub(super) fn leave_primary(&mut self, link: Option<LinkId>, sink: &mut impl Sink) {
        if let Some(link) = link.filter(|_| self.copy.is_candidate()) {
            log::info!(
                "this copy is about to lead: the primary of epoch {} is gone or has stopped",
                self.copy.epoch().0
            );
            sink.finish(link);
        }
    }
}

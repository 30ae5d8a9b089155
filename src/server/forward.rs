//! Owns: requests that are executed at another node: sending them over its link, taking the answers, and what becomes of
//! them when the link breaks. **A write whose first byte was given to the kernel is never sent again.**
//! Never: what the requests do, sockets.

use super::core::{Core, Sink};
use super::lane::{Asked, Stream, Target};
use crate::id::{LinkId, NodeId, ShardId};
use crate::op::{Condition, Failure, Op, Outcome, Verb};
use crate::store::disk::Disk;
use crate::wire::{self, Forward, Message};

/// A link whose output holds more than this part of what may be in flight takes no further request.
const LINK_SHARE: usize = 4;
/// Buffers for keys of reads that are kept for reuse.
const SPARE_KEYS: usize = 1024;

/// A request that was sent to another node and is not answered.
#[derive(Debug)]
pub(super) struct Sent {
    pub generation: u32,
    pub asked: Asked,
    pub link: LinkId,
    /// The place of its first byte in the link's stream. Once the kernel has that byte, a write is never sent again.
    place: u64,
    pub verb: Verb,
    condition: Condition,
    is_stale: bool,
    /// Of a read, which may be asked again.
    key: Vec<u8>,
}

impl<D: Disk> Core<D> {
    pub(super) fn send(&mut self, asked: Asked, op: &Op<'_>, link: LinkId, sink: &mut impl Sink) {
        let left_ms = asked.deadline_ms.saturating_sub(self.now_ms);
        let stream = match asked.lane.0 {
            Stream::Client(conn) => u64::from(conn.generation) << 32 | u64::from(conn.slot),
            Stream::Link(..) => unreachable!("a forwarded request is never forwarded again"),
        };
        self.next_generation = self.next_generation.wrapping_add(1);
        let entry = self.sent.vacant_entry();
        let id = u64::from(self.next_generation) << 32 | entry.key() as u64;
        let forward = Forward { id, stream, ms_left: u32::try_from(left_ms).unwrap_or(u32::MAX), op: *op };
        if sink.queued_bytes(link) > self.max_inflight_bytes / LINK_SHARE {
            return sink.answer(asked.ticket, &Outcome::Failed(Failure::Overloaded));
        }
        let Some(place) = sink.send(link, &Message::Forward(forward)) else {
            // It is closed, which the core is yet to be told: until there is another, its requests wait.
            self.links.iter_mut().for_each(|known| _ = known.take_if(|known| *known == link));
            return self.park_again(asked, op);
        };
        let mut key = self.spare_keys.pop().unwrap_or_default();
        if op.verb == Verb::Get {
            key.extend_from_slice(op.key);
        }
        entry.insert(Sent {
            generation: self.next_generation,
            asked,
            link,
            place,
            verb: op.verb,
            condition: op.condition,
            is_stale: op.stale,
            key,
        });
        self.counters.forwards += 1;
        let lane = self.lanes.entry(asked.lane).or_default();
        lane.running += 1;
        lane.target = Target::Link(link);
    }

    /// Another node's answer to a forward.
    pub(super) fn on_answer(&mut self, link: LinkId, id: u64, outcome: &Outcome<'_>, sink: &mut impl Sink) {
        let Some(sent) = self.take_sent(link, id) else { return };
        self.counters.forwards_answered += 1;
        sink.answer(sent.asked.ticket, outcome);
        self.ended(sent.asked.lane, sink);
        self.recycle(sent.key);
        self.finish_left(link, sink);
    }

    /// The other end of a link that this node dialled is about to stop: nothing more is sent there, and the link is
    /// closed once every answer has come. So an orderly stop leaves no request unknown.
    pub(super) fn on_leaving(&mut self, link: LinkId, sink: &mut impl Sink) {
        let Some(node) = self.links.iter().position(|known| *known == Some(link)) else { return };
        // The log goes on by it as long as the copy is there to take it.
        if self.copy.leads() && self.is_copy_of_my_shard(NodeId(node as u32)) {
            return;
        }
        self.links[node] = None;
        self.leaving.push(link);
        self.finish_left(link, sink);
    }

    pub(super) fn finish_left(&mut self, link: LinkId, sink: &mut impl Sink) {
        if self.leaving.contains(&link) && !self.sent.iter().any(|(_, sent)| sent.link == link) {
            self.leaving.retain(|left| *left != link);
            sink.finish(link);
        }
    }

    /// The receiver of a forward was not the primary: the request waits for one to be known.
    pub(super) fn on_not_primary(&mut self, link: LinkId, id: u64, op: &Op<'_>, sink: &mut impl Sink) {
        let Some(sent) = self.take_sent(link, id) else { return };
        self.counters.forwards_misled += 1;
        let lane = self.lanes.get_mut(&sent.asked.lane).expect("a lane exists while a request of it is under way");
        lane.running -= 1;
        self.park_again(sent.asked, op);
        self.recycle(sent.key);
        self.finish_left(link, sink);
    }

    fn take_sent(&mut self, link: LinkId, id: u64) -> Option<Sent> {
        let (slot, generation) = ((id & 0xffff_ffff) as usize, (id >> 32) as u32);
        self.sent.get(slot).filter(|sent| sent.generation == generation && sent.link == link)?;
        Some(self.sent.remove(slot))
    }

    pub(super) fn recycle(&mut self, mut key: Vec<u8>) {
        if self.spare_keys.len() < SPARE_KEYS {
            key.clear();
            self.spare_keys.push(key);
        }
    }

    /// Another node leads a shard: what was sent to the one before, and is not answered, is settled. A read is asked
    /// again; a write is unknown.
    pub(super) fn forget_sent(&mut self, shard: ShardId, sink: &mut impl Sink) {
        let now = self.links[self.directory.primary(shard).0 as usize];
        let of_old = |sent: &Sent| sent.asked.lane.1 == shard && Some(sent.link) != now && !sent.is_stale;
        let old: Vec<usize> = self.sent.iter().filter(|(_, sent)| of_old(sent)).map(|(slot, _)| slot).collect();
        for slot in old {
            let sent = self.sent.remove(slot);
            self.counters.forwards_lost += 1;
            let (lane, link) = (sent.asked.lane, sent.link);
            if sent.verb == Verb::Get {
                let again =
                    Op { verb: Verb::Get, key: &sent.key, value: &[], condition: sent.condition, stale: sent.is_stale };
                let lane = self.lanes.get_mut(&lane).expect("a lane exists while a request of it is under way");
                lane.running -= 1;
                self.park_again(sent.asked, &again);
                self.recycle(sent.key);
            } else {
                sink.answer(sent.asked.ticket, &Outcome::Failed(Failure::Unknown));
                self.ended(lane, sink);
            }
            self.finish_left(link, sink);
        }
    }

    /// A data link that this node dialled is gone. `written`: how many bytes of its stream the kernel took; `unsent`:
    /// those behind. What was not begun to be sent waits for the next link; a write that was is unknown; a read is asked
    /// again.
    pub(super) fn on_link_down(
        &mut self,
        node: NodeId,
        link: LinkId,
        written: u64,
        unsent: &[u8],
        sink: &mut impl Sink,
    ) {
        if self.links[node.0 as usize] == Some(link) {
            self.links[node.0 as usize] = None;
        }
        self.leaving.retain(|left| *left != link);
        let mut lost: Vec<(u64, usize)> =
            self.sent.iter().filter(|(_, sent)| sent.link == link).map(|(slot, sent)| (sent.place, slot)).collect();
        lost.sort_unstable();
        let mut lanes = Vec::new();
        for (place, slot) in lost {
            let sent = self.sent.remove(slot);
            let lane = self.lanes.get_mut(&sent.asked.lane).expect("a lane exists while a request of it is under way");
            lane.running -= 1;
            lanes.push(sent.asked.lane);
            let op =
                Op { verb: Verb::Get, key: &sent.key, value: &[], condition: sent.condition, stale: sent.is_stale };
            if place >= written {
                let op = unsent_op(unsent, place - written).expect("a frame that was queued whole");
                self.park_again(sent.asked, &op);
            } else if sent.verb == Verb::Get {
                self.park_again(sent.asked, &op);
            } else {
                self.counters.forwards_lost += 1;
                sink.answer(sent.asked.ticket, &Outcome::Failed(Failure::Unknown));
            }
            self.recycle(sent.key);
        }
        lanes.sort_unstable();
        lanes.dedup();
        for lane in lanes {
            self.drain(lane, sink);
        }
    }
}

/// The request whose frame starts at `at` in what a link left unsent.
fn unsent_op(unsent: &[u8], at: u64) -> Option<Op<'_>> {
    let frame = unsent.get(usize::try_from(at).ok()?..)?;
    match wire::decode(frame, usize::MAX) {
        Ok(Some((Message::Forward(forward), _))) => Some(forward.op),
        _ => None,
    }
}

//! Owns: what time alone brings: requests that have waited too long, and a disk that does not answer.
//! Never: reads the clock; sockets.

use std::collections::VecDeque;

use super::core::{Core, Sink, Waiter};
use super::lane::{LaneKey, Wait};
use crate::node::lease::MS;
use crate::op::{Failure, Outcome, Verb};
use crate::store::disk::Disk;

/// How often the deadlines of requests are looked at while one waits.
const TICK_MS: u64 = 25;

impl<D: Disk> Core<D> {
    /// What time alone brings: roles that end or begin, requests that have waited too long, a disk that does not answer.
    /// To be called at [`Core::next_tick_ms`], after the sockets were drained.
    ///
    /// # Errors
    /// A write or sync failed.
    pub fn tick(&mut self, sink: &mut impl Sink) {
        let now_ms = self.now_ms;
        if !self.has_primary() {
            self.counters.without_primary_ns += self.now_ns - self.ticked_ns;
        }
        self.ticked_ns = self.now_ns;
        self.judge_disk();
        let link = self.copy.following().and_then(|following| following.link);
        if self.copy.tick(self.stopping_since_ns.is_some()) {
            let why = "it was not done in time: is a majority of the voters there, and does the copy keep up?";
            self.not_handed = Some((self.me, why.to_owned()));
        }
        self.leave_primary(link, sink);
        self.lead_on(sink);
        self.follow_on(sink);
        self.stop_on(sink);
        self.settle_forwards(sink);
        self.retry_primaries(sink);
        let late: Vec<usize> =
            self.sent.iter().filter(|(_, sent)| sent.asked.deadline_ms <= now_ms).map(|(slot, _)| slot).collect();
        for slot in late {
            let sent = self.sent.remove(slot);
            self.counters.forwards_lost += 1;
            let failure = if sent.verb == Verb::Get { Failure::NoPrimary } else { Failure::Unknown };
            sink.answer(sent.asked.ticket, &Outcome::Failed(failure));
            self.ended(sent.asked.lane, sink);
            self.finish_left(sent.link, sink);
        }
        self.expire_waiters(now_ms, sink);
        self.expire_parked(now_ms, sink);
    }

    fn expire_waiters(&mut self, now_ms: u64, sink: &mut impl Sink) {
        for of_readers in [false, true] {
            let queue = if of_readers { &mut self.readers } else { &mut self.waiters };
            let waiters = std::mem::take(queue).into_iter();
            let (late, kept): (VecDeque<Waiter>, _) = waiters.partition(|waiter| waiter.asked.deadline_ms <= now_ms);
            *queue = kept;
            for waiter in late {
                // A write that has an lsn may yet be committed; what only rested on another's was surely not applied.
                let failure = if waiter.is_write { Failure::Unknown } else { Failure::DiskSlow };
                sink.answer(waiter.asked.ticket, &Outcome::Failed(failure));
                self.ended(waiter.asked.lane, sink);
            }
        }
    }

    fn expire_parked(&mut self, now_ms: u64, sink: &mut impl Sink) {
        let keys: Vec<LaneKey> =
            self.lanes.iter().filter(|(_, lane)| !lane.queue.is_empty()).map(|(k, _)| *k).collect();
        for key in keys {
            let Some(lane) = self.lanes.get_mut(&key) else { continue };
            let (wait, mut at) = (lane.wait, 0);
            while let Some(parked) = lane.queue.get(at) {
                let asked = parked.asked;
                let until = if wait == Wait::Primary { asked.wait_until_ms } else { asked.deadline_ms };
                if until > now_ms {
                    at += 1;
                    continue;
                }
                if let Some(parked) = lane.queue.remove(at) {
                    self.held_bytes -= parked.held_bytes();
                }
                if at == 0 {
                    lane.wait = if matches!(wait, Wait::Primary | Wait::Later) { wait } else { Wait::Turn };
                }
                let failure = match wait {
                    Wait::Primary | Wait::Turn | Wait::Confirm(_) => Failure::NoPrimary,
                    Wait::Disk(_) | Wait::Commit(_) => Failure::DiskSlow,
                    Wait::Later => Failure::Overloaded,
                };
                sink.answer(asked.ticket, &Outcome::Failed(failure));
            }
            self.drain(key, sink);
        }
    }

    /// A sync that has been under way for too long: the disk hangs. New writes are refused until it answers.
    fn judge_disk(&mut self) {
        self.note_syncs();
        let slow = self.now_ms >= self.sync_seen.1 + self.disk_ms;
        if slow != self.disk_slow {
            if slow {
                log::error!(
                    "the disk has not completed a sync for {} ms (deadlines.disk_ms): writes are refused until it does",
                    self.disk_ms
                );
            } else {
                log::info!("the disk answers again: writes go on");
            }
        }
        self.disk_slow = slow;
    }

    /// Remembers since when the sync that is under way has been the oldest.
    pub(super) fn note_syncs(&mut self) {
        let syncs = self.store.syncs();
        if syncs.started == syncs.completed || self.sync_seen.0 != syncs.completed {
            self.sync_seen = (syncs.completed, self.now_ms);
        }
    }

    /// When [`Core::tick`] is to be called next, in milliseconds. Counted from its last call: what is counted from now is
    /// never due.
    #[must_use]
    pub fn next_tick_ms(&self) -> u64 {
        let syncs = self.store.syncs();
        let waits = !self.lanes.is_empty() || syncs.started != syncs.completed || self.disk_slow;
        let requests = if waits { self.ticked_ns / MS + TICK_MS } else { u64::MAX };
        let registers = self.agreement.next_ms().unwrap_or(u64::MAX);
        let role = if self.my_shard.is_some() { self.copy.next_ns() / MS + 1 } else { u64::MAX };
        requests.min(registers).min(role)
    }
}

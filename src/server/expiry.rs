//! Owns: what time alone brings: requests that have waited too long, and a disk that does not answer.
//! Never: reads the clock; sockets.

use std::collections::VecDeque;

use super::core::{Core, Sink, Waiter};
use super::lane::{LaneKey, Wait};
use crate::op::{Failure, Outcome, Verb};
use crate::store::disk::Disk;

/// How often [`Core::tick`] is called while something waits.
pub const TICK_MS: u64 = 25;

impl<D: Disk> Core<D> {
    /// What time alone brings: requests that have waited too long, and a disk that does not answer. To be called every
    /// [`TICK_MS`] while [`Core::is_waiting`].
    pub fn tick(&mut self, sink: &mut impl Sink) {
        let now_ms = self.now_ms;
        self.judge_disk();
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
        let waiters = std::mem::take(&mut self.waiters).into_iter();
        let (late, kept): (VecDeque<Waiter>, _) = waiters.partition(|waiter| waiter.asked.deadline_ms <= now_ms);
        self.waiters = kept;
        for waiter in late {
            // A write that has an lsn may yet be committed; what only rested on another's was surely not applied.
            let failure = if waiter.is_write { Failure::Unknown } else { Failure::DiskSlow };
            sink.answer(waiter.asked.ticket, &Outcome::Failed(failure));
            self.ended(waiter.asked.lane, sink);
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
                    lane.wait = if wait == Wait::Primary { wait } else { Wait::Turn };
                }
                let failure = match wait {
                    Wait::Primary | Wait::Turn => Failure::NoPrimary,
                    Wait::Disk(_) | Wait::Commit(_) => Failure::DiskSlow,
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

    /// Whether anything waits that [`Core::tick`] could end.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        let syncs = self.store.syncs();
        !self.lanes.is_empty() || syncs.started != syncs.completed || self.disk_slow
    }
}

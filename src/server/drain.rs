//! Owns: when what waits in a lane goes on: its turn, a commit, the disk, the other copies, a primary; and how much of it a
//! turn begins.
//! Never: what it waits for (`execute.rs` says that), sockets, the clock.

use super::core::{Core, Sink};
use super::lane::{LaneKey, Target, Wait};
use crate::store::disk::Disk;
use crate::store::{Arrived, Known};

/// Where so many bytes of values were written, sent or answered, what still waits is the next turn's: six values of 1 MiB
/// that had waited for the log's room came to be written at once, which took 6 ms.
const BEGUN_BYTES: usize = 512 << 10;

impl<D: Disk> Core<D> {
    /// One request of a lane that was under way has been answered.
    pub(super) fn ended(&mut self, key: LaneKey, sink: &mut impl Sink) {
        let lane = self.lanes.get_mut(&key).expect("a lane exists while a request of it is under way");
        lane.running -= 1;
        self.drain(key, sink);
    }

    /// Begins what a lane's queue holds, as far as it can, and as this turn may.
    pub(super) fn drain(&mut self, key: LaneKey, sink: &mut impl Sink) {
        loop {
            let Some(lane) = self.lanes.get(&key) else { return };
            if lane.is_idle() {
                self.lanes.remove(&key);
                return;
            }
            let Some(first) = lane.queue.front() else { return };
            if matches!(lane.wait, Wait::Disk(_) | Wait::Commit(_) | Wait::Confirm(_) | Wait::Later) {
                return;
            }
            let target = self.target(key, first.op().stale, sink);
            let lane = self.lanes.get_mut(&key).expect("it was there");
            match target {
                None => {
                    lane.wait = Wait::Primary;
                    return;
                }
                Some(target) if !lane.takes(target) => {
                    lane.wait = Wait::Turn;
                    return;
                }
                Some(_) if self.begun_bytes >= BEGUN_BYTES => {
                    lane.wait = Wait::Later;
                    self.left.push_back(key);
                    return;
                }
                Some(target) => {
                    lane.wait = Wait::Turn;
                    let parked = lane.queue.pop_front().expect("it has a first");
                    self.held_bytes -= parked.held_bytes();
                    self.begin(parked.asked, &parked.op(), target, Known::default(), sink);
                }
            }
        }
    }

    /// Whether something was left to the next turn, which must come at once.
    #[must_use]
    pub fn has_left(&self) -> bool {
        !self.left.is_empty()
    }

    /// Goes on with what earlier turns have left. A lane that has more to begin than there is room for goes behind the others.
    fn go_on_with_left(&mut self, sink: &mut impl Sink) {
        self.begun_bytes = 0;
        for _ in 0..self.left.len() {
            if self.begun_bytes >= BEGUN_BYTES {
                return;
            }
            let Some(key) = self.left.pop_front() else { return };
            if let Some(lane) = self.lanes.get_mut(&key).filter(|lane| lane.wait == Wait::Later) {
                lane.wait = Wait::Turn;
                self.drain(key, sink);
            }
        }
    }

    pub(super) fn retry_primaries(&mut self, sink: &mut impl Sink) {
        let mut waiting: Vec<LaneKey> =
            self.lanes.iter().filter(|(_, lane)| lane.wait == Wait::Primary).map(|(key, _)| *key).collect();
        waiting.sort_unstable();
        for key in waiting {
            self.drain(key, sink);
        }
    }

    /// Answers what has met its barrier, and goes on with what waited for that.
    pub(super) fn release(&mut self, sink: &mut impl Sink) {
        self.go_on_with_left(sink);
        let applied = self.store.committed();
        for of_readers in [false, true] {
            loop {
                let queue = if of_readers { &mut self.readers } else { &mut self.waiters };
                if !queue.front().is_some_and(|waiter| self.copy.meets(&waiter.barrier, applied)) {
                    break;
                }
                let Some(waiter) = queue.pop_front() else { break };
                sink.answer(waiter.asked.ticket, &waiter.outcome);
                self.ended(waiter.asked.lane, sink);
            }
        }
        for key in std::mem::take(&mut self.commit_lanes) {
            let Some(lane) = self.lanes.get_mut(&key) else { continue };
            match lane.wait {
                Wait::Commit(lsn) if lsn <= applied => {
                    lane.wait = Wait::Turn;
                    self.drain(key, sink);
                }
                Wait::Commit(_) => self.commit_lanes.push(key),
                _ => {}
            }
        }
        let confirmed = self.copy.leading().map_or(0, |leading| leading.followers.confirmed_round());
        for key in std::mem::take(&mut self.confirm_lanes) {
            let Some(lane) = self.lanes.get_mut(&key) else { continue };
            match lane.wait {
                Wait::Confirm(round) if round <= confirmed => {
                    lane.wait = Wait::Turn;
                    if let Some(parked) = lane.queue.front_mut() {
                        parked.asked.is_confirmed = true;
                    }
                    self.drain(key, sink);
                }
                Wait::Confirm(_) => self.confirm_lanes.push(key),
                _ => {}
            }
        }
    }

    pub(super) fn on_read(&mut self, arrived: &Arrived, sink: &mut impl Sink) {
        let Some(key) = self.cold.remove(&arrived.op) else { return };
        let Some(lane) = self.lanes.get_mut(&key).filter(|lane| lane.wait == Wait::Disk(arrived.op)) else { return };
        lane.wait = Wait::Turn;
        let parked = lane.queue.pop_front().expect("a lane that waits for the disk has a first");
        self.held_bytes -= parked.held_bytes();
        let known = Known::from(Some(arrived));
        self.begin(parked.asked, &parked.op(), Target::Local, known, sink);
        self.drain(key, sink);
    }
}

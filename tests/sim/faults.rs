//! Owns: what befalls the nodes, the disks, the clocks and the network, and how often: each seed draws which kinds of
//! faults there are (swarm testing, Groce et al. 2012), so that one kind does not hide what another would find.
//! Never: how a fault is done.

use super::clock::{Nanos, SECOND};
use crate::support::dice::Dice;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// kill -9: what was written stays in the page cache.
    Kill,
    /// The machine is off: of what was not synced, any part is gone.
    PowerLoss,
    /// The same, in the middle of some call to the disk.
    PowerLossInCall,
    /// All machines are off at once.
    Blackout,
    /// SIGTERM.
    Stop,
    /// SIGTERM to all.
    StopAll,
    /// `dkv handover`.
    HandOver,
    /// SIGSTOP, and later SIGCONT; where reads are confirmed, the clock may stand still meanwhile.
    Pause,
    CutOneWay,
    CutPair,
    Isolate,
    Partition,
    BreakConnections,
    SlowLink,
    LateLink,
    DiskError,
    DiskFull,
    DiskSlow,
    DiskHang,
    /// Nothing is in the page cache any more.
    Evict,
    /// The wall clock jumps.
    WallClock,
    /// A bit flips in a file.
    Rot,
    /// The other copies of a shard die, and a bit flips in what the primary has and they have, too.
    RotAlone,
    /// The directory is emptied.
    Wipe,
    /// The directory is what it was some time ago.
    OldImage,
    /// One node of a whole cluster fails for some time, and nothing else: the others must go on.
    Island,
}

/// All of them, and about how long it takes from one to the next where they occur, in seconds.
const ALL: [(Fault, u64); 26] = [
    (Fault::Kill, 4),
    (Fault::PowerLoss, 6),
    (Fault::PowerLossInCall, 6),
    (Fault::Blackout, 15),
    (Fault::Stop, 8),
    (Fault::StopAll, 20),
    (Fault::HandOver, 5),
    (Fault::Pause, 4),
    (Fault::CutOneWay, 4),
    (Fault::CutPair, 4),
    (Fault::Isolate, 6),
    (Fault::Partition, 8),
    (Fault::BreakConnections, 2),
    (Fault::SlowLink, 5),
    (Fault::LateLink, 5),
    (Fault::DiskError, 8),
    (Fault::DiskFull, 8),
    (Fault::DiskSlow, 6),
    (Fault::DiskHang, 10),
    (Fault::Evict, 5),
    (Fault::WallClock, 5),
    (Fault::Rot, 6),
    (Fault::RotAlone, 6),
    (Fault::Wipe, 6),
    (Fault::OldImage, 5),
    (Fault::Island, 6),
];

/// What a seed drew.
#[derive(Debug, Clone)]
pub struct Mix {
    /// Each kind, and how long it takes on average from one to the next.
    pub kinds: Vec<(Fault, Nanos)>,
    /// A process loses the processor once in so many steps; 0: never.
    pub stall_once_in: u64,
    /// A process that is gone stays so until somebody starts it.
    pub starts_by_hand: bool,
}

impl Fault {
    /// Whether it strikes only where all is whole: it takes data away for good, of which there must be another copy, or
    /// it shows what the others owe meanwhile.
    pub fn wants_calm(self) -> bool {
        matches!(self, Fault::Rot | Fault::RotAlone | Fault::Wipe | Fault::OldImage | Fault::Island)
    }
}

impl Mix {
    pub fn draw(dice: &mut Dice) -> Mix {
        // From nearly nothing to nearly all.
        let share = 5 + dice.below(60);
        let tenths = *dice.pick(&[2, 4, 8, 16]).expect("there are four");
        let drawn = |dice: &mut Dice| dice.below(100) < share;
        let kinds = ALL.iter().filter(|_| drawn(dice)).map(|(fault, seconds)| (*fault, seconds * tenths * SECOND / 10));
        let kinds = kinds.collect();
        Mix { kinds, stall_once_in: if dice.once_in(3) { 200 + dice.below(5_000) } else { 0 }, starts_by_hand: false }
    }

    /// Nothing happens.
    pub fn none() -> Mix {
        Mix { kinds: Vec::new(), stall_once_in: 0, starts_by_hand: true }
    }

    /// How long until the n-th kind occurs again.
    pub fn next(&self, nth: usize, dice: &mut Dice) -> Nanos {
        1 + dice.below(2 * self.kinds[nth].1)
    }
}

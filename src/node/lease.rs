//! Owns: how long leases and graces are.
//! Never: who holds them; clocks.
//!
//! A lease begins when the beacon that asked for it was *sent*, on the primary's clock; the grace begins when it was
//! *received*, on the copy's. The rates of two clocks differ by less than 2 % (each is within 1 %), so a lease of nine
//! tenths of the grace is over, in true time, before the grace is (Gray and Cheriton 1989, with bounded drift).

use crate::id::Epoch;

/// A moment of `CLOCK_BOOTTIME`, in nanoseconds.
pub type BootNs = u64;

/// One millisecond.
pub const MS: u64 = 1_000_000;

/// How long what takes, from `replication.failover_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long a copy that hears nothing waits before it takes over: `replication.failover_ms`.
    pub grace_ms: u64,
    /// How long a primary may read on the strength of a beacon.
    pub lease_ms: u64,
    /// How long a primary waits for a silent copy before it removes it. Shorter than the grace: where the two do not
    /// hear each other, and all else is well, the primary stays and only the set of copies changes.
    pub silence_ms: u64,
    /// How often beacons are sent.
    pub beacon_ms: u64,
}

impl Timing {
    /// For this `replication.failover_ms`.
    #[must_use]
    pub fn new(failover_ms: u64) -> Self {
        Self {
            grace_ms: failover_ms,
            lease_ms: failover_ms * 9 / 10,
            silence_ms: failover_ms * 3 / 4,
            beacon_ms: (failover_ms / 6).max(20),
        }
    }
}

/// The grace that goes with a lease of this length, whatever the copy's own setting is.
#[must_use]
pub fn grace_ms(lease_ms: u64) -> u64 {
    (lease_ms * 10).div_ceil(9)
}

/// What a copy owes a primary whose beacon it granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// The primary's epoch.
    pub epoch: Epoch,
    /// Not before this the copy may take over.
    pub until_ns: BootNs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_over_before_its_grace_at_any_rates_within_the_bound() {
        for failover_ms in [200, 201, 599, 600, 1_000, 7_777, 60_000] {
            let timing = Timing::new(failover_ms);
            let grace_ms = grace_ms(timing.lease_ms);
            // In true time: the lease on a clock that is 1 % slow, the grace on one that is 1 % fast.
            let (longest_lease, shortest_grace) = (timing.lease_ms as f64 / 0.99, grace_ms as f64 / 1.01);
            assert!(longest_lease < shortest_grace, "{timing:?}");
            assert!(grace_ms <= timing.grace_ms + 1, "{timing:?}: {grace_ms}");
        }
    }
}

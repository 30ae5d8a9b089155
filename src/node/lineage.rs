//! Owns: where each epoch began in a log, and what two logs share by that.
//! Never: the records themselves.
//!
//! A lineage is a list of (epoch, first lsn), both growing. An epoch has one primary and one start of it, so (epoch,
//! lsn) names one record, and a primary's log holds before an epoch's first record what it held when the epoch began:
//! two logs that have the same epoch at an lsn are equal up to there (the log matching of Raft, Ongaro 2014, 3.5).

use crate::id::{Epoch, Lsn};

/// See the module.
pub type Lineage = [(Epoch, Lsn)];

/// The epoch of the record at `lsn`; `None`: the lineage does not reach back so far.
#[must_use]
pub fn epoch_of(lineage: &Lineage, lsn: Lsn) -> Option<(Epoch, Lsn)> {
    lineage.iter().rev().find(|(_, begins)| *begins <= lsn).copied()
}

/// Up to where two logs are the same; `None`: that cannot be known any more.
#[must_use]
pub fn common_point(mine: &Lineage, my_end: Lsn, theirs: &Lineage, their_end: Lsn) -> Option<Lsn> {
    let mut at = my_end.min(their_end);
    while at > Lsn::ZERO {
        let ((my_epoch, my_begin), (their_epoch, their_begin)) = (epoch_of(mine, at)?, epoch_of(theirs, at)?);
        if my_epoch == their_epoch {
            return Some(at);
        }
        // The log with the lower epoch here has nothing of the higher one at or before this record.
        let begins = if my_epoch > their_epoch { my_begin } else { their_begin };
        at = Lsn(begins.0.saturating_sub(1));
    }
    Some(Lsn::ZERO)
}

/// Notes that `epoch` begins behind `end`. An epoch in which nothing was written leaves no trace.
pub fn begin(lineage: &mut Vec<(Epoch, Lsn)>, epoch: Epoch, end: Lsn) {
    let begins = end.next();
    lineage.retain(|(_, from)| *from < begins);
    lineage.push((epoch, begins));
}

/// The bytes of a lineage in a frame.
#[must_use]
pub fn encode(lineage: &Lineage) -> Vec<u8> {
    lineage.iter().flat_map(|(epoch, lsn)| [epoch.0.to_le_bytes(), lsn.0.to_le_bytes()]).flatten().collect()
}

/// Reads [`encode`]'s bytes; `None`: they are no lineage.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<Vec<(Epoch, Lsn)>> {
    let word = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_le_bytes);
    let (pairs, rest) = bytes.as_chunks::<16>();
    let read: Option<Vec<_>> =
        pairs.iter().map(|pair| Some((Epoch(word(&pair[..8])?), Lsn(word(&pair[8..])?)))).collect();
    let read = read.filter(|_| rest.is_empty())?;
    read.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1).then_some(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage(pairs: &[(u64, u64)]) -> Vec<(Epoch, Lsn)> {
        pairs.iter().map(|(epoch, lsn)| (Epoch(*epoch), Lsn(*lsn))).collect()
    }

    fn common(mine: &[(u64, u64)], my_end: u64, theirs: &[(u64, u64)], their_end: u64) -> Option<u64> {
        let forth = common_point(&lineage(mine), Lsn(my_end), &lineage(theirs), Lsn(their_end));
        let back = common_point(&lineage(theirs), Lsn(their_end), &lineage(mine), Lsn(my_end));
        assert_eq!(forth, back);
        forth.map(|lsn| lsn.0)
    }

    #[test]
    fn logs_are_equal_as_far_as_their_epochs_are() {
        assert_eq!(common(&[], 0, &[], 0), Some(0));
        assert_eq!(common(&[(1, 1)], 5, &[], 0), Some(0));
        assert_eq!(common(&[(1, 1)], 5, &[(1, 1)], 9), Some(5));
        // An old primary's tail that the new one never had.
        assert_eq!(common(&[(1, 1)], 12, &[(1, 1), (2, 10)], 30), Some(9));
        // Two that went on by themselves after 9.
        assert_eq!(common(&[(1, 1), (2, 10)], 12, &[(1, 1), (3, 8)], 30), Some(7));
        assert_eq!(common(&[(1, 1), (4, 10)], 12, &[(1, 1), (3, 8)], 30), Some(7));
        // Epochs of which nothing arrived do not count.
        assert_eq!(common(&[(1, 1), (9, 6)], 5, &[(1, 1), (2, 10)], 30), Some(5));
        assert_eq!(common(&[(1, 1)], 5, &[(2, 1)], 5), Some(0));
    }

    #[test]
    fn what_a_lineage_has_forgotten_is_not_guessed() {
        assert_eq!(common(&[(7, 100)], 120, &[(1, 1), (2, 50)], 90), None);
        assert_eq!(common(&[(7, 100)], 120, &[(1, 1), (7, 100)], 110), Some(110));
    }

    #[test]
    fn an_epoch_without_a_record_leaves_no_trace() {
        let mut kept = lineage(&[(1, 1), (3, 8)]);
        begin(&mut kept, Epoch(4), Lsn(7));
        assert_eq!(kept, lineage(&[(1, 1), (4, 8)]));
        assert_eq!(decode(&encode(&kept)), Some(kept.clone()));
        assert_eq!(decode(&encode(&kept)[..31]), None);
        for no_lineage in [[(4, 8), (1, 9)], [(4, 8), (4, 9)], [(1, 8), (4, 8)]] {
            assert_eq!(decode(&encode(&lineage(&no_lineage))), None, "both grow");
        }
    }
}

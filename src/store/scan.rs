//! Owns: reading a segment's bytes from front to back, and looking for marks behind a place where that ends.
//! Never: files; what follows from what is found.

use super::record::{self, Kind, MARK_BYTES, MARK_SALT_AT, Mark, Record};
use super::segment::{DATA_AT, Frame, frame};
use crate::id::{Epoch, Lsn};

/// What marks say, taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Claims {
    pub synced: Lsn,
    pub committed: Lsn,
}

impl Claims {
    pub fn and(self, other: Claims) -> Claims {
        Claims { synced: self.synced.max(other.synced), committed: self.committed.max(other.committed) }
    }

    /// What all marks in `bytes` claim, wherever they stand: see [`marks_in`].
    pub fn anywhere_in(bytes: &[u8], salt: u64) -> Claims {
        marks_in(bytes, salt).fold(Claims::default(), |claims, (_, mark)| {
            claims.and(Claims { synced: mark.synced, committed: mark.committed })
        })
    }
}

/// The marks in `bytes`, wherever they stand, each with its place; `bytes` begins at an aligned position of a segment with
/// this salt.
fn marks_in(bytes: &[u8], salt: u64) -> impl Iterator<Item = (usize, Mark)> {
    let salt_bytes = salt.to_le_bytes();
    let words = bytes.chunks_exact(record::ALIGN).enumerate().skip(MARK_SALT_AT / record::ALIGN);
    let salts = words.filter(move |(_, word)| **word == salt_bytes);
    salts.filter_map(move |(word, _)| {
        let at = word * record::ALIGN - MARK_SALT_AT;
        record::decode_mark(&bytes[at..], salt).map(|mark| (at, mark))
    })
}

/// How many bytes there are before the end of the last mark.
pub(super) fn up_to_last_mark(bytes: &[u8], salt: u64) -> u64 {
    marks_in(bytes, salt).last().map_or(0, |(at, _)| (at + MARK_BYTES) as u64)
}

/// A record and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placed<'a> {
    pub record: Record<'a>,
    /// Bytes from the start of the segment's file.
    pub at: u64,
    /// With padding.
    pub bytes: u32,
}

/// Reads a segment from front to back.
#[derive(Debug, Clone)]
pub(super) struct Scan<'a> {
    /// The segment's bytes from its start.
    image: &'a [u8],
    salt: u64,
    /// The next frame's place: behind the last good one.
    pub at: u64,
    /// The lsn that the next record must have, or may have at the least where gaps are allowed.
    pub expected: Lsn,
    gaps_allowed: bool,
    /// The next record's epoch is at least this.
    pub epoch: Epoch,
}

impl<'a> Scan<'a> {
    /// A scan of a segment whose first record is `expected` (or a later one, where gaps are allowed).
    pub fn new(image: &'a [u8], salt: u64, expected: Lsn, gaps_allowed: bool, epoch: Epoch) -> Scan<'a> {
        Scan { image, salt, at: DATA_AT, expected, gaps_allowed, epoch }
    }

    /// The next record, if `end` is not reached before. Steps over marks.
    ///
    /// # Errors
    /// What is wrong at `self.at`.
    pub fn next_record(&mut self, end: u64) -> Result<Option<Placed<'a>>, String> {
        while self.at < end {
            let Some(rest) = self.image.get(self.at as usize..end as usize) else {
                return Err(format!("the file ends at byte {}, before its data does", self.image.len()));
            };
            let (found, taken) = frame(rest, self.salt).map_err(|reason| reason.to_string())?;
            match found {
                Frame::Mark(mark) if mark.last.next() != self.expected => {
                    return Err(format!("a mark behind record {} stands where {} ends", mark.last.0, self.expected.0));
                }
                Frame::Mark(_) => self.at += taken as u64,
                Frame::Record(record) => {
                    self.check_order(&record)?;
                    let placed = Placed { record, at: self.at, bytes: taken as u32 };
                    self.at += taken as u64;
                    self.expected = record.lsn.next();
                    self.epoch = record.epoch;
                    return Ok(Some(placed));
                }
            }
        }
        Ok(None)
    }

    /// Reads on to where the records end: why they do.
    pub fn run_out(&mut self) -> String {
        loop {
            match self.next_record(self.image.len() as u64) {
                Ok(Some(_)) => {}
                Ok(None) => return "the file ends there".to_owned(),
                Err(reason) => return reason,
            }
        }
    }

    fn check_order(&self, record: &Record<'_>) -> Result<(), String> {
        let may_jump = self.gaps_allowed || record.kind == Kind::Jump;
        let in_order = record.lsn == self.expected || (may_jump && record.lsn > self.expected);
        if in_order && record.epoch >= self.epoch {
            return Ok(());
        }
        Err(format!(
            "record {} of epoch {} stands where {} of epoch {} or later belongs",
            record.lsn.0, record.epoch.0, self.expected.0, self.epoch.0
        ))
    }
}

/// How many bytes there are before the zeros at the end.
pub(super) fn without_trailing_zeros(bytes: &[u8]) -> u64 {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_found_wherever_it_stands() {
        let mark = |synced| Mark { last: Lsn(99), synced: Lsn(synced), committed: Lsn(synced / 2) };
        let mut bytes = vec![7; 40];
        bytes.extend_from_slice(&record::encode_mark(mark(12), 77));
        bytes.extend_from_slice(&[0; 32]);
        bytes.extend_from_slice(&record::encode_mark(mark(6), 77));
        assert_eq!(Claims::anywhere_in(&bytes, 77), Claims { synced: Lsn(12), committed: Lsn(6) });
        assert_eq!(Claims::anywhere_in(&bytes, 78), Claims::default());
        bytes[40 + 20] ^= 1;
        assert_eq!(Claims::anywhere_in(&bytes, 77), Claims { synced: Lsn(6), committed: Lsn(3) });
        // A mark's last sector, without those before it.
        assert_eq!(Claims::anywhere_in(&77_u64.to_le_bytes(), 77), Claims::default());
    }

    /// It is another place's, or was written before what stands around it.
    #[test]
    fn a_mark_that_does_not_fit_the_records_before_it_is_no_part_of_a_segment() {
        for (last, fits) in [(0, false), (1, true), (2, false)] {
            let mut image = vec![0; DATA_AT as usize];
            let set = Record { lsn: Lsn(1), epoch: Epoch(1), kind: Kind::Set, expiry_ms: 0, key: b"k", value: b"" };
            let at = DATA_AT + record::encode(&mut image, &set) as u64;
            let mark = Mark { last: Lsn(last), synced: Lsn(0), committed: Lsn(0) };
            image.extend_from_slice(&record::encode_mark(mark, 77));
            record::encode(&mut image, &Record { lsn: Lsn(2), ..set });
            let end = image.len() as u64;
            let mut scan = Scan::new(&image, 77, Lsn(1), false, Epoch(0));
            assert_eq!(scan.next_record(end).unwrap().map(|placed| placed.record), Some(set));
            let next = scan.next_record(end).map(|placed| placed.map(|placed| placed.record.lsn));
            if fits {
                assert_eq!(next, Ok(Some(Lsn(2))));
            } else {
                assert!(next.is_err_and(|reason| reason.starts_with(&format!("a mark behind record {last} "))));
                assert_eq!(scan.at, at);
            }
        }
    }

    #[test]
    fn trailing_zeros_do_not_count() {
        assert_eq!(without_trailing_zeros(&[0, 0]), 0);
        assert_eq!(without_trailing_zeros(&[1, 0, 2, 0, 0]), 3);
    }
}

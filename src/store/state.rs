//! Owns: the small state: what a copy must not forget and that is not in its log, and its bytes.
//! Never: what any of it means to leases or elections.

use super::record::{COUNT_END, u32_at, u64_at, u128_at};
use super::segment::FORMAT;
use crate::id::{Epoch, Lsn, Uuid};

/// The file's name.
pub const STATE_NAME: &str = "state";
/// The name under which a new one is written before it is installed.
pub const STATE_TEMPORARY: &str = "state.tmp";
/// Space that is kept for a new one, in bytes; a longer state needs room on the disk when it is written.
pub const STATE_RESERVED_BYTES: u64 = 8192;
/// The most epochs that the lineage keeps: the newest.
pub const MOST_LINEAGE: usize = 256;
const MAGIC: &[u8; 8] = b"dkv-stat";
const CRC_BYTES: usize = 4;

/// What a copy must not forget and that is not in its log. Changed by [`super::Store::persist`] only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmallState {
    /// Names the content of the log: a directory that was emptied has another one.
    pub store: Uuid,
    /// Seeds the index's hash and the segments' salts. Secret.
    pub hash_seed: u128,
    /// The highest epoch that the copy has acted in or followed.
    pub epoch: Epoch,
    /// Where each epoch began in this copy's log: its first lsn. Both grow. At most [`MOST_LINEAGE`] are kept.
    pub lineage: Vec<(Epoch, Lsn)>,
    /// No tombstone above this was ever dropped: a copy that shares less with this one needs all of it.
    pub tombstone_floor: Lsn,
    /// Whether this copy has ever had everything: one that is still being filled has not.
    pub whole: bool,
    /// How often an operator gave up the end of the log: after that it holds something else than before.
    pub cuts: u64,
}

/// Why a small state cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadState {
    /// Its bytes are damaged.
    Damaged,
    /// It was written by a later version, with this format.
    Newer(u32),
}

impl std::fmt::Display for BadState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BadState::Damaged => write!(
                f,
                "the file `{STATE_NAME}` is damaged, so this copy no longer knows what it holds: empty the directory and \
                 let the node be filled by a peer, or restore the whole directory"
            ),
            BadState::Newer(format) => write!(
                f,
                "the file `{STATE_NAME}` has format {format}, but this version reads up to {FORMAT}: run the newer dkv"
            ),
        }
    }
}

impl SmallState {
    /// A new store's state.
    #[must_use]
    pub fn new(store: Uuid, hash_seed: u128, whole: bool) -> Self {
        SmallState {
            store,
            hash_seed,
            epoch: Epoch::default(),
            lineage: Vec::new(),
            tombstone_floor: Lsn::ZERO,
            whole,
            cuts: 0,
        }
    }

    /// Names what the copy holds, to the other copies: another after each cut.
    #[must_use]
    pub fn content(&self) -> Uuid {
        Uuid(self.store.0.wrapping_add(u128::from(self.cuts)))
    }

    /// Forgets the oldest epochs of a lineage that is too long.
    pub(super) fn bound(&mut self) {
        let surplus = self.lineage.len().saturating_sub(MOST_LINEAGE);
        self.lineage.drain(..surplus);
    }

    /// The file's bytes: magic, format, store, hash seed, epoch, tombstone floor, whole (0 or 1) and cuts as u64, the lineage
    /// behind its number of pairs, crc32c of all before it. Integers are little-endian.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        for wide in [self.store.0, self.hash_seed] {
            out.extend_from_slice(&wide.to_le_bytes());
        }
        for word in [self.epoch.0, self.tombstone_floor.0, u64::from(self.whole), self.cuts] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&(self.lineage.len() as u32).to_le_bytes());
        for (epoch, start) in &self.lineage {
            out.extend_from_slice(&epoch.0.to_le_bytes());
            out.extend_from_slice(&start.0.to_le_bytes());
        }
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
    }

    /// Reads a file's bytes. What is behind the state (reserved space) is ignored.
    ///
    /// # Errors
    /// Where it is damaged or newer than this version.
    pub fn decode(file: &[u8]) -> Result<Self, BadState> {
        let mut fields = Fields { bytes: file, at: MAGIC.len() };
        if !file.starts_with(MAGIC) {
            return Err(BadState::Damaged);
        }
        let format = fields.u32().ok_or(BadState::Damaged)?;
        if format > FORMAT {
            return Err(BadState::Newer(format));
        }
        Self::decode_fields(&mut fields).ok_or(BadState::Damaged)
    }

    fn decode_fields(fields: &mut Fields<'_>) -> Option<Self> {
        let [store, hash_seed] = [fields.u128()?, fields.u128()?];
        let [epoch, floor, whole, cuts] = [fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?];
        let pairs = fields.u32()?;
        let mut lineage = Vec::new();
        for _ in 0..pairs {
            lineage.push((Epoch(fields.u64()?), Lsn(fields.u64()?)));
        }
        let crc = crc32c::crc32c(&fields.bytes[..fields.at]);
        let sound = fields.u32()? == crc;
        let grows = lineage.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1);
        let last = lineage.last().map_or(0, |(epoch, start)| epoch.0.max(start.0));
        let is_lawful = grows && whole <= 1 && [last, epoch, floor, cuts].iter().all(|count| *count < COUNT_END);
        (sound && is_lawful).then_some(SmallState {
            store: Uuid(store),
            hash_seed,
            epoch: Epoch(epoch),
            lineage,
            tombstone_floor: Lsn(floor),
            whole: whole == 1,
            cuts,
        })
    }

    /// The bytes that the file takes.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        MAGIC.len() + 4 + 2 * 16 + 4 * 8 + 4 + 16 * self.lineage.len() + CRC_BYTES
    }
}

/// Takes little-endian fields off a file's bytes, one after the other.
pub(super) struct Fields<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
}

impl<'a> Fields<'a> {
    pub fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(bytes)?)?;
        self.at += bytes;
        Some(taken)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.take(4).map(|bytes| u32_at(bytes, 0))
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.take(8).map(|bytes| u64_at(bytes, 0))
    }

    pub fn u128(&mut self) -> Option<u128> {
        self.take(16).map(|bytes| u128_at(bytes, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> SmallState {
        let mut state = SmallState::new(Uuid(1), 3 << 100, true);
        state.epoch = Epoch(7);
        state.lineage = vec![(Epoch(1), Lsn(1)), (Epoch(7), Lsn(900))];
        state
    }

    #[test]
    fn it_survives_with_reserved_space_behind_it() {
        let mut bytes = state().encode();
        assert_eq!(bytes.len(), state().encoded_bytes());
        bytes.resize(STATE_RESERVED_BYTES as usize, 0);
        assert_eq!(SmallState::decode(&bytes), Ok(state()));
    }

    #[test]
    fn a_long_lineage_forgets_its_oldest_and_fits_what_is_reserved() {
        let mut state = state();
        state.lineage = (1..1000).map(|n| (Epoch(n), Lsn(n * 10))).collect();
        state.bound();
        assert_eq!(state.lineage.first(), Some(&(Epoch(744), Lsn(7440))));
        assert_eq!(state.lineage.last(), Some(&(Epoch(999), Lsn(9990))));
        assert!(state.encoded_bytes() <= STATE_RESERVED_BYTES as usize);
    }

    #[test]
    fn no_cut_and_no_flipped_bit_is_taken_for_it() {
        let bytes = state().encode();
        for cut in 0..bytes.len() {
            assert!(SmallState::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(SmallState::decode(&bad).is_err(), "bit {bit}");
        }
    }

    /// A checksum fits these, too: what is done with a state rests on these laws.
    #[test]
    fn a_state_that_breaks_its_laws_is_damaged() {
        for bad in [
            SmallState { lineage: vec![(Epoch(7), Lsn(1)), (Epoch(1), Lsn(900))], ..state() },
            SmallState { lineage: vec![(Epoch(1), Lsn(900)), (Epoch(7), Lsn(900))], ..state() },
            SmallState { lineage: vec![(Epoch(7), Lsn(1)), (Epoch(7), Lsn(900))], ..state() },
            SmallState { lineage: vec![(Epoch(1), Lsn(COUNT_END))], ..state() },
            SmallState { epoch: Epoch(COUNT_END), ..state() },
            SmallState { tombstone_floor: Lsn(COUNT_END), ..state() },
            SmallState { cuts: u64::MAX, ..state() },
        ] {
            assert_eq!(SmallState::decode(&bad.encode()), Err(BadState::Damaged), "{bad:?}");
        }
    }

    #[test]
    fn a_newer_format_is_named() {
        let mut bytes = state().encode();
        bytes[8] = 9;
        assert_eq!(SmallState::decode(&bytes), Err(BadState::Newer(9)));
    }
}

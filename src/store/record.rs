//! Owns: the bytes of a record and of a mark: encoding, decoding, their constants. The format in words stands in
//! `store/mod.rs`.
//! Never: files, positions, whether a record is live.

use crate::id::{Epoch, Lsn};

/// Every record and mark starts at a multiple of this.
pub const ALIGN: usize = 8;
/// Bytes of a record before its key.
pub const RECORD_HEADER: usize = 40;
/// Bytes of a mark.
pub const MARK_BYTES: usize = 48;
/// The longest key that a record can hold, in bytes.
pub const MAX_KEY_BYTES: usize = u16::MAX as usize;
/// The longest value that a record can hold, in bytes.
pub const MAX_VALUE_BYTES: usize = 64 << 20;
/// The longest record, padding included, in bytes.
pub const MAX_RECORD_BYTES: usize = padded(RECORD_HEADER + MAX_KEY_BYTES + MAX_VALUE_BYTES);

/// Counts that grow by one at a time (lsns, epochs, numbers of files) never come near this. One that was read and does
/// is no count, checksum or not; so a step from any that was read cannot overflow.
pub(super) const COUNT_END: u64 = 1 << 62;

const CRC_AT: usize = 0;
const LENGTH_AT: usize = 4;
const LSN_AT: usize = 8;
const EPOCH_AT: usize = 16;
const EXPIRY_AT: usize = 24;
const KEY_LENGTH_AT: usize = 32;
const KIND_AT: usize = 34;
const RESERVED_AT: usize = 35;

const MARK_LAST_AT: usize = 8;
const MARK_SYNCED_AT: usize = 16;
const MARK_COMMITTED_AT: usize = 24;
const MARK_KIND: u8 = 3;
/// Where a mark's salt stands: recovery looks for these eight bytes at every aligned position.
pub const MARK_SALT_AT: usize = 40;

/// What a record does to its key. The numbers are on disk: never change them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The key has this value.
    Set = 1,
    /// The key is absent: a tombstone.
    Delete = 2,
    /// There is no record between the one before this and this one's lsn. It has neither key nor value. (3 is a
    /// mark's number.)
    Jump = 4,
}

/// A record, borrowing key and value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its place in the shard's log.
    pub lsn: Lsn,
    /// The epoch of the primary that gave it its lsn.
    pub epoch: Epoch,
    /// Set, delete or jump.
    pub kind: Kind,
    /// Unix time in milliseconds after which the key counts as absent; 0: never.
    pub expiry_ms: u64,
    /// 1 to [`MAX_KEY_BYTES`] bytes; empty for a jump.
    pub key: &'a [u8],
    /// Up to [`MAX_VALUE_BYTES`] bytes; empty for a delete and a jump.
    pub value: &'a [u8],
}

/// What a node itself says about its log at some point of it; never sent to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// The lsn of the record before this mark.
    pub last: Lsn,
    /// Every record up to here was durable when the mark was written.
    pub synced: Lsn,
    /// Every record up to here was committed when the mark was written. At most `synced`.
    pub committed: Lsn,
}

/// Why bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadRecord {
    /// The bytes end before the record does: this many bytes (padding included) would be needed.
    Short(usize),
    /// The length is impossible.
    Length(u32),
    /// The checksum is another one.
    Checksum,
    /// The checksum is right, but a field has no meaning to this version.
    Field,
}

impl std::fmt::Display for BadRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BadRecord::Short(need) => write!(f, "the record needs {need} bytes, but the file ends before that"),
            BadRecord::Length(length) => write!(f, "impossible record length {length}"),
            BadRecord::Checksum => write!(f, "the record's checksum does not match its bytes"),
            BadRecord::Field => write!(f, "the record has a field that this version does not know"),
        }
    }
}

/// Rounds a length up to the alignment of records.
#[must_use]
pub const fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGN)
}

/// The bytes that a record takes in the log, padding included.
#[must_use]
pub fn encoded_bytes(key: &[u8], value: &[u8]) -> usize {
    padded(RECORD_HEADER + key.len() + value.len())
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let mut word = [0; 2];
    word.copy_from_slice(&bytes[at..at + 2]);
    u16::from_le_bytes(word)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

pub(super) fn u128_at(bytes: &[u8], at: usize) -> u128 {
    let mut word = [0; 16];
    word.copy_from_slice(&bytes[at..at + 16]);
    u128::from_le_bytes(word)
}

pub(super) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// Appends the record's bytes, padded, and returns how many they are.
///
/// # Panics
/// If key or value are longer than a record can hold, the key is empty, or a jump has either: the caller has limits of
/// its own.
pub fn encode(out: &mut Vec<u8>, record: &Record<'_>) -> usize {
    let Record { key, value, .. } = record;
    let is_jump = record.kind == Kind::Jump;
    assert!(key.is_empty() == is_jump && key.len() <= MAX_KEY_BYTES, "a key of {} bytes", key.len());
    assert!(value.len() <= if is_jump { 0 } else { MAX_VALUE_BYTES }, "a value of {} bytes", value.len());
    let length = RECORD_HEADER + key.len() + value.len();
    let mut head = [0_u8; RECORD_HEADER];
    put(&mut head, LENGTH_AT, &(length as u32).to_le_bytes());
    put(&mut head, LSN_AT, &record.lsn.0.to_le_bytes());
    put(&mut head, EPOCH_AT, &record.epoch.0.to_le_bytes());
    put(&mut head, EXPIRY_AT, &record.expiry_ms.to_le_bytes());
    put(&mut head, KEY_LENGTH_AT, &(key.len() as u16).to_le_bytes());
    head[KIND_AT] = record.kind as u8;
    let start = out.len();
    out.reserve(padded(length));
    out.extend_from_slice(&head);
    out.extend_from_slice(key);
    out.extend_from_slice(value);
    out.resize(start + padded(length), 0);
    let bytes = &mut out[start..];
    let crc = crc32c::crc32c(&bytes[LENGTH_AT..]);
    put(bytes, CRC_AT, &crc.to_le_bytes());
    padded(length)
}

/// Decodes the record at the start of `bytes`, and says how many bytes it takes, padding included.
///
/// # Errors
/// Where the bytes are no whole, sound record. Zeros are none.
pub fn decode(bytes: &[u8]) -> Result<(Record<'_>, usize), BadRecord> {
    let (length, total) = lengths(bytes)?;
    if crc32c::crc32c(&bytes[LENGTH_AT..total]) != u32_at(bytes, CRC_AT) {
        return Err(BadRecord::Checksum);
    }
    Ok((fields(bytes, length)?, total))
}

/// As [`decode`], for bytes whose checksum is known to be right.
///
/// # Errors
/// As [`decode`].
pub(super) fn decode_again(bytes: &[u8]) -> Result<(Record<'_>, usize), BadRecord> {
    let (length, total) = lengths(bytes)?;
    Ok((fields(bytes, length)?, total))
}

/// The record's length without and with its padding; all of it is there.
fn lengths(bytes: &[u8]) -> Result<(usize, usize), BadRecord> {
    if bytes.len() < RECORD_HEADER {
        return Err(BadRecord::Short(RECORD_HEADER));
    }
    let length = u32_at(bytes, LENGTH_AT);
    let total = padded(length as usize);
    if (length as usize) < RECORD_HEADER || total > MAX_RECORD_BYTES {
        return Err(BadRecord::Length(length));
    }
    if bytes.len() < total {
        return Err(BadRecord::Short(total));
    }
    Ok((length as usize, total))
}

/// The fields of a whole record of this length.
fn fields(bytes: &[u8], length: usize) -> Result<Record<'_>, BadRecord> {
    let kind = match bytes[KIND_AT] {
        1 => Kind::Set,
        2 => Kind::Delete,
        4 => Kind::Jump,
        _ => return Err(BadRecord::Field),
    };
    let key_end = RECORD_HEADER + u16_at(bytes, KEY_LENGTH_AT) as usize;
    let reserved_is_zero = bytes[RESERVED_AT..RECORD_HEADER].iter().all(|b| *b == 0);
    let is_jump = kind == Kind::Jump;
    let jumps_rightly = !is_jump || (length == RECORD_HEADER && u64_at(bytes, EXPIRY_AT) == 0);
    if (key_end == RECORD_HEADER) != is_jump || key_end > length || !reserved_is_zero || !jumps_rightly {
        return Err(BadRecord::Field);
    }
    let [lsn, epoch] = [LSN_AT, EPOCH_AT].map(|at| u64_at(bytes, at));
    if lsn >= COUNT_END || epoch >= COUNT_END {
        return Err(BadRecord::Field);
    }
    Ok(Record {
        lsn: Lsn(lsn),
        epoch: Epoch(epoch),
        kind,
        expiry_ms: u64_at(bytes, EXPIRY_AT),
        key: &bytes[RECORD_HEADER..key_end],
        value: &bytes[key_end..length],
    })
}

/// The mark's bytes in a segment with this salt.
#[must_use]
pub fn encode_mark(mark: Mark, salt: u64) -> [u8; MARK_BYTES] {
    assert!(mark.committed <= mark.synced && mark.synced <= mark.last, "{mark:?}");
    let mut bytes = [0; MARK_BYTES];
    put(&mut bytes, LENGTH_AT, &(MARK_BYTES as u32).to_le_bytes());
    put(&mut bytes, MARK_LAST_AT, &mark.last.0.to_le_bytes());
    put(&mut bytes, MARK_SYNCED_AT, &mark.synced.0.to_le_bytes());
    put(&mut bytes, MARK_COMMITTED_AT, &mark.committed.0.to_le_bytes());
    bytes[KIND_AT] = MARK_KIND;
    put(&mut bytes, MARK_SALT_AT, &salt.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[LENGTH_AT..]);
    put(&mut bytes, CRC_AT, &crc.to_le_bytes());
    bytes
}

/// The mark at the start of `bytes`, if one of a segment with this salt is there.
#[must_use]
pub fn decode_mark(bytes: &[u8], salt: u64) -> Option<Mark> {
    let bytes = bytes.get(..MARK_BYTES)?;
    let is_mark = u64_at(bytes, MARK_SALT_AT) == salt
        && bytes[KIND_AT] == MARK_KIND
        && u32_at(bytes, LENGTH_AT) == MARK_BYTES as u32
        && crc32c::crc32c(&bytes[LENGTH_AT..]) == u32_at(bytes, CRC_AT);
    let [last, synced, committed] = [MARK_LAST_AT, MARK_SYNCED_AT, MARK_COMMITTED_AT].map(|at| Lsn(u64_at(bytes, at)));
    let is_lawful = committed <= synced && synced <= last && last.0 < COUNT_END;
    (is_mark && is_lawful).then_some(Mark { last, synced, committed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_record() -> impl Strategy<Value = (u64, u64, bool, u64, Vec<u8>, Vec<u8>)> {
        let bytes = proptest::collection::vec(any::<u8>(), 1..300);
        let value = proptest::collection::vec(any::<u8>(), 0..600);
        (0..COUNT_END, 0..COUNT_END, any::<bool>(), any::<u64>(), bytes, value)
    }

    fn encoded((lsn, epoch, set, expiry_ms, key, value): &(u64, u64, bool, u64, Vec<u8>, Vec<u8>)) -> Vec<u8> {
        let kind = if *set { Kind::Set } else { Kind::Delete };
        let mut out = Vec::new();
        let record = Record { lsn: Lsn(*lsn), epoch: Epoch(*epoch), kind, expiry_ms: *expiry_ms, key, value };
        encode(&mut out, &record);
        assert_eq!(decode(&out), Ok((record, out.len())));
        out
    }

    proptest! {
        #[test]
        fn a_record_survives_and_no_flipped_bit_does(parts in any_record(), bit in any::<prop::sample::Index>()) {
            let mut bytes = encoded(&parts);
            prop_assert_eq!(bytes.len() % ALIGN, 0);
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn a_cut_record_says_how_much_it_needs(parts in any_record(), cut in any::<prop::sample::Index>()) {
            let bytes = encoded(&parts);
            let cut = cut.index(bytes.len());
            let need = if cut < RECORD_HEADER { RECORD_HEADER } else { bytes.len() };
            prop_assert_eq!(decode(&bytes[..cut]), Err(BadRecord::Short(need)));
        }

        #[test]
        fn random_bytes_are_no_record(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn a_mark_is_found_with_its_own_salt_only(a in 0..COUNT_END, b in 0..COUNT_END, salt in any::<u64>(), other in any::<u64>()) {
            let mark = Mark { last: Lsn(a.max(b)), synced: Lsn(a.max(b)), committed: Lsn(a.min(b)) };
            let bytes = encode_mark(mark, salt);
            prop_assert_eq!(decode_mark(&bytes, salt), Some(mark));
            prop_assert_eq!(decode_mark(&bytes, other).is_some(), other == salt);
            prop_assert!(decode(&bytes).is_err());
        }
    }

    #[test]
    fn zeros_are_neither() {
        assert_eq!(decode(&[0; 64]), Err(BadRecord::Length(0)));
        assert_eq!(decode_mark(&[0; 64], 0), None);
    }

    #[test]
    fn a_jump_has_a_place_and_nothing_else() {
        let jump = Record { lsn: Lsn(9), epoch: Epoch(2), kind: Kind::Jump, expiry_ms: 0, key: b"", value: b"" };
        let mut bytes = Vec::new();
        assert_eq!(encode(&mut bytes, &jump), RECORD_HEADER);
        assert_eq!(decode(&bytes), Ok((jump, RECORD_HEADER)));
        let set = Record { kind: Kind::Set, key: b"k", ..jump };
        for (record, kind) in [(jump, 1), (jump, 2), (set, 4), (Record { expiry_ms: 1, ..jump }, 4)] {
            let mut bytes = Vec::new();
            encode(&mut bytes, &record);
            bytes[KIND_AT] = kind;
            assert_eq!(decode(&summed(bytes)), Err(BadRecord::Field), "{record:?} as kind {kind}");
        }
    }

    /// With the checksum that fits.
    fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
        let crc = crc32c::crc32c(&bytes[LENGTH_AT..]);
        put(&mut bytes, CRC_AT, &crc.to_le_bytes());
        bytes
    }

    #[test]
    fn the_longest_record_is_one_and_no_longer_one() {
        let mut head = vec![0; RECORD_HEADER];
        put(&mut head, LENGTH_AT, &(MAX_RECORD_BYTES as u32).to_le_bytes());
        assert_eq!(decode(&head), Err(BadRecord::Short(MAX_RECORD_BYTES)));
        let longer = MAX_RECORD_BYTES as u32 + 1;
        put(&mut head, LENGTH_AT, &longer.to_le_bytes());
        assert_eq!(decode(&head), Err(BadRecord::Length(longer)));
    }

    #[test]
    fn a_key_that_leaves_its_record_and_a_reserved_byte_are_refused() {
        let good = Record { lsn: Lsn(9), epoch: Epoch(2), kind: Kind::Set, expiry_ms: 0, key: b"k", value: b"v" };
        for (at, byte) in [(KEY_LENGTH_AT, 3), (RESERVED_AT, 1), (RECORD_HEADER - 1, 1)] {
            let mut bytes = Vec::new();
            encode(&mut bytes, &good);
            bytes[at] = byte;
            assert_eq!(decode(&summed(bytes)), Err(BadRecord::Field), "{byte} at {at}");
        }
    }

    /// A checksum fits these, too: such numbers would overflow at the next step.
    #[test]
    fn numbers_that_nothing_counts_to_are_refused() {
        let good = Record { lsn: Lsn(9), epoch: Epoch(2), kind: Kind::Set, expiry_ms: 0, key: b"k", value: b"v" };
        for bad in [Record { lsn: Lsn(COUNT_END), ..good }, Record { epoch: Epoch(COUNT_END), ..good }] {
            let mut bytes = Vec::new();
            encode(&mut bytes, &bad);
            assert_eq!(decode(&bytes), Err(BadRecord::Field), "{bad:?}");
        }
        let mark = Mark { last: Lsn(9), synced: Lsn(9), committed: Lsn(9) };
        let mut bytes = encode_mark(mark, 7).to_vec();
        put(&mut bytes, MARK_SYNCED_AT, &10_u64.to_le_bytes());
        assert_eq!(decode_mark(&summed(bytes), 7), None, "more is synced than is there");
        assert_eq!(decode_mark(&encode_mark(Mark { last: Lsn(COUNT_END), ..mark }, 7), 7), None);
    }

    #[test]
    fn the_bytes_are_these_for_ever() {
        let mut out = Vec::new();
        let record =
            Record { lsn: Lsn(7), epoch: Epoch(3), kind: Kind::Set, expiry_ms: 9, key: b"key", value: b"value" };
        encode(&mut out, &record);
        let head: Vec<u8> = [
            [48, 0, 0, 0].as_slice(),
            &[7, 0, 0, 0, 0, 0, 0, 0],
            &[3, 0, 0, 0, 0, 0, 0, 0],
            &[9, 0, 0, 0, 0, 0, 0, 0],
            &[3, 0, 1, 0, 0, 0, 0, 0],
            b"keyvalue",
        ]
        .concat();
        assert_eq!(out[4..], head);
        assert_eq!(out[..4], crc32c::crc32c(&head).to_le_bytes());
    }
}

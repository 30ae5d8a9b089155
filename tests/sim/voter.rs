//! Owns: that a voter has told nobody what it could forget: what an answer says is in its file, synced, when it leaves.
//! Reads the bytes of both by itself, so that a mistake in the code that writes them is not repeated here.
//! Never: what a majority makes of it.

use dkv::configuration::{Ballot, Coded, VoterId};
use dkv::id::ShardId;
use dkv::node::registers::Vote;

const PROMISE: u8 = 11;
const ACCEPTED: u8 = 13;
/// Of the file: magic, format, length.
const HEAD: usize = 8 + 4 + 4;

/// One register in a voter's file.
struct Slot {
    promised: Ballot,
    accepted: Option<Vote>,
}

impl Coded for Slot {
    fn put(&self, _: &mut Vec<u8>) {
        unreachable!("it is only read")
    }
    fn take(from: &mut &[u8]) -> Option<Self> {
        Some(Self { promised: Coded::take(from)?, accepted: Coded::take(from)? })
    }
}

/// The voter's id, and its registers. `None`: there is no whole file.
fn read(file: &[u8]) -> Option<(VoterId, Vec<Slot>)> {
    let length = u32::from_le_bytes(file.get(HEAD - 4..HEAD)?.try_into().ok()?) as usize;
    let sum = file.get(HEAD + length..HEAD + length + 4)?;
    if crc32c::crc32c(&file[..HEAD + length]).to_le_bytes() != sum {
        return None;
    }
    // The first byte is the version.
    let mut rest = file.get(HEAD + 1..HEAD + length)?;
    let id = VoterId::take(&mut rest)?;
    Vec::<VoterId>::take(&mut rest)?;
    Some((id, Vec::take(&mut rest)?))
}

/// Whether these bytes are a voter's promise or acceptance.
pub fn is_word(message: &[u8]) -> bool {
    matches!(message.first(), Some(&(PROMISE | ACCEPTED)))
}

/// Whether what a voter says is in its file.
///
/// # Errors
/// What could be forgotten.
pub fn keeps(file: Option<&[u8]>, message: &[u8]) -> Result<(), String> {
    let Some((kind, mut rest)) = message.split_first() else { return Ok(()) };
    let (Some(shard), Some(ballot), Some(by)) =
        (ShardId::take(&mut rest), Ballot::take(&mut rest), VoterId::take(&mut rest))
    else {
        return Ok(());
    };
    let kept = file.and_then(read);
    let slot = kept.as_ref().filter(|(id, _)| *id == by).and_then(|(_, slots)| slots.get(shard.0 as usize));
    let has_accepted = |slot: &Slot| slot.accepted.as_ref().is_some_and(|vote| vote.ballot >= ballot);
    if slot.is_some_and(|slot| slot.promised >= ballot && (*kind == PROMISE || has_accepted(slot))) {
        return Ok(());
    }
    let what = if *kind == PROMISE { "promises" } else { "has accepted" };
    Err(format!("{what} {ballot:?} of shard {} as {by:?}, but a crash would make it forget that", shard.0))
}

//! Owns: scripts of damage to a store's files: bits, bytes, numbers, ranges, whole files; places are those where
//! something begins. And, where a script forges, checksums that fit again.
//! Never: what comes of it.

use super::log::Template;
use std::collections::BTreeMap;

/// A store's files by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A script as it is read from an input: two bytes, then 12 a damage.
pub struct Script<'a> {
    pub template: usize,
    /// Checksums are made to fit again.
    pub is_forged: bool,
    /// Whole frames are copied within a file: an older record of a key may stand where its newest is expected, and only
    /// a reading of the whole file can tell.
    pub moves_frames: bool,
    damages: &'a [[u8; 12]],
}

pub const WORDS: &[&[u8]] = &[
    b"\x00\x00",
    b"\x04\x00",
    b"\x04\x01",
    b"\x03\x01",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x00\x00\x00\x00\x00\x00\x00\x00",
];

/// Each kind of damage once, to each template, honest and forged.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for template in 0..6 {
        for is_forged in [0, 1] {
            for what in 0..KINDS {
                let file = what.wrapping_mul(7);
                seeds.push(vec![template, is_forged, what, file, what, template, what, 3, 1, 0, 9, 0, 0, template]);
            }
        }
    }
    seeds
}

const KINDS: u8 = 14;
const MOVES_FRAME: u8 = 10;

impl<'a> Script<'a> {
    pub fn of(input: &'a [u8], templates: usize) -> Script<'a> {
        let (head, rest) = input.split_at(input.len().min(2));
        let [template, flags] = [0, 1].map(|at| head.get(at).copied().unwrap_or(0));
        let damages = rest.as_chunks().0;
        let moves_frames = damages.iter().any(|damage: &[u8; 12]| damage[0] % KINDS == MOVES_FRAME);
        Script { template: usize::from(template) % templates, is_forged: flags & 1 != 0, moves_frames, damages }
    }

    /// Does it all; says what was done.
    pub fn inflict(&self, files: &mut Files, templates: &[Template]) -> Vec<(u8, &'static str)> {
        let damages = (1..=u8::MAX).cycle().zip(self.damages);
        damages.filter_map(|(nth, damage)| self.inflict_one(nth, damage, files, templates)).collect()
    }

    fn inflict_one(
        &self,
        number: u8,
        &[what, file, place @ .., v0, v1, v2, v3]: &[u8; 12],
        files: &mut Files,
        templates: &[Template],
    ) -> Option<(u8, &'static str)> {
        let what = what % KINDS;
        let value = u32::from_le_bytes([v0, v1, v2, v3]);
        let [anchor, offset, len] = [0, 2, 4].map(|at| u16::from_le_bytes([place[at], place[at + 1]]));
        let name = nth(files, file)?;
        let kind = kind_of(&name);
        let bytes = files.get_mut(&name)?;
        let anchors = anchors(&name, bytes);
        let anchor = anchors[usize::from(anchor) % anchors.len()];
        let at = (anchor + usize::from(offset) % 97).min(bytes.len());
        let end = (at + usize::from(len)).min(bytes.len());
        match what {
            0 => *bytes.get_mut(at)? ^= 1 << (value % 8),
            1 => *bytes.get_mut(at)? = v0,
            2 => overwrite(bytes, at, &u64::from(value).to_le_bytes()),
            3 => overwrite(bytes, at, &value.to_le_bytes()),
            4 => {
                let word = u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?);
                overwrite(bytes, at, &word.wrapping_add_signed(i64::from(v0 as i8)).to_le_bytes());
            }
            5 => overwrite(bytes, at, &(u64::MAX - u64::from(v0)).to_le_bytes()),
            6 => bytes[at..end].fill(if v0 < 200 { 0 } else { v0 }),
            7 => drop(bytes.drain(at..end)),
            8 => bytes.truncate(at),
            9 => bytes[at..].fill(0),
            MOVES_FRAME => {
                // A frame over another one, or between.
                let from = anchors[value as usize % anchors.len()];
                let next = anchors.iter().find(|next| **next > from).copied().unwrap_or(bytes.len());
                let copy = bytes[from.min(next)..next].to_vec();
                if len % 2 == 0 { overwrite(bytes, anchor, &copy) } else { drop(bytes.splice(anchor..anchor, copy)) }
            }
            11 => {
                files.remove(&name);
                return Some((what, kind));
            }
            12 => {
                let other = nth(files, v0)?;
                let copy = files.get(&other)?.clone();
                files.insert(name.clone(), copy);
            }
            _ => {
                // Another store's, and each time another one's: two of one could make it whole.
                let other = &templates[usize::from(v0) % templates.len()].files;
                let other = nth(other, v1)?;
                let mut copy = templates[usize::from(v0) % templates.len()].files.get(&other)?.clone();
                let store_at = if kind_of(&other) == "state" { 12 } else { 16 };
                if let Some(byte) = copy.get_mut(store_at) {
                    *byte ^= number;
                }
                reseal(&other, &mut copy, 0);
                files.insert(name.clone(), copy);
            }
        }
        if self.is_forged {
            reseal(&name, files.get_mut(&name)?, anchor);
        }
        Some((what, kind))
    }
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    let end = bytes.len().min(at + with.len());
    bytes[at..end].copy_from_slice(&with[..end - at]);
}

/// The more kinds of files there are, the more often each is hit: all names count alike.
fn nth(files: &Files, n: u8) -> Option<String> {
    files.keys().nth(usize::from(n) % files.len().max(1)).cloned()
}

fn kind_of(name: &str) -> &'static str {
    ["log", "hint", "state", "spare"].into_iter().find(|kind| name.ends_with(kind)).unwrap_or("other")
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}

const HINT_TABLE: usize = 64;
const HINT_ENTRIES: usize = 2120;

/// Where something begins. Never empty.
fn anchors(name: &str, bytes: &[u8]) -> Vec<usize> {
    let mut anchors = vec![0];
    match kind_of(name) {
        "log" => {
            anchors.extend([512, 1024]);
            let mut at = 1024;
            while let Some(length) = u32_at(bytes, at + 4).filter(|length| *length >= 40) {
                at += (length as usize).next_multiple_of(8);
                anchors.push(at);
            }
        }
        "hint" => anchors.extend([32, HINT_TABLE, HINT_TABLE + 800, 2112, HINT_ENTRIES, HINT_ENTRIES + 24 * 9]),
        _ => anchors.extend([12, 44, 76]),
    }
    anchors.retain(|at| *at <= bytes.len());
    anchors
}

/// Makes the checksum fit that covers what begins at `anchor`.
pub fn reseal(name: &str, bytes: &mut [u8], anchor: usize) {
    let sum = |bytes: &mut [u8], from: usize, end: usize, at: usize| {
        if let Some(covered) = bytes.get(from..end) {
            let crc = crc32c::crc32c(covered).to_le_bytes();
            overwrite(bytes, at, &crc);
        }
    };
    match (kind_of(name), anchor) {
        ("log", 0) => sum(bytes, 0, 80, 80),
        ("log", 512) => sum(bytes, 512, 560, 560),
        ("log", at) => {
            let Some(length) = u32_at(bytes, at + 4) else { return };
            sum(bytes, at + 4, at.saturating_add((length as usize).next_multiple_of(8)), at);
        }
        ("hint", _) => {
            let mut at = HINT_ENTRIES;
            for group in 0..256 {
                let place = HINT_TABLE + group * 8;
                let end = at + u32_at(bytes, place).unwrap_or(0) as usize * 24;
                sum(bytes, at, end, place + 4);
                at = end;
            }
            sum(bytes, 0, 2112, 2112);
        }
        ("state", _) => {
            let end = 80 + 16 * u32_at(bytes, 76).unwrap_or(0) as usize;
            sum(bytes, 0, end, end);
        }
        _ => {}
    }
}

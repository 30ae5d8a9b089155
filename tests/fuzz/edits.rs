//! Owns: how an input is changed into another: edits as values, drawn and shrunk by proptest.
//! Never: what an input means.

use proptest::prelude::*;

/// One change. Places and lengths are fractions of what is there, in 2^-32.
#[derive(Debug, Clone)]
pub enum Edit {
    /// Changes one bit.
    Flip { at: u32, bit: u8 },
    /// Changes one byte.
    Put { at: u32, byte: u8 },
    /// Overwrites with a number of this many bytes, little-endian.
    Number { at: u32, value: u64, bytes: usize },
    /// Adds to a number of this many bytes, little-endian.
    Add { at: u32, difference: i8, bytes: usize },
    /// Writes another number in the place of the digits that stand there or behind.
    Digits { at: u32, value: u64, hexadecimal: bool },
    /// Takes bytes out.
    Remove { at: u32, bytes: u32 },
    /// Writes bytes once more, this often, behind themselves.
    Repeat { at: u32, bytes: u32, times: u8 },
    /// Copies bytes to another place: between what is there, or over it.
    Copy { from: u32, bytes: u32, to: u32, over: bool },
    /// Writes one of the target's words: between what is there, or over it.
    Word { at: u32, word: u32, over: bool },
    /// Copies bytes of another input.
    Splice { other: u32, from: u32, bytes: u32, to: u32, over: bool },
    /// Ends it here.
    Truncate { at: u32 },
}

/// Numbers at which something often changes.
const BORDERS: [u64; 24] = [
    0,
    1,
    2,
    7,
    8,
    15,
    16,
    31,
    32,
    40,
    48,
    64,
    127,
    128,
    255,
    256,
    1024,
    4096,
    0xffff,
    1 << 31,
    u32::MAX as u64,
    1 << 62,
    i64::MAX as u64,
    u64::MAX,
];

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => prop::sample::select(&BORDERS[..]),
        1 => any::<u64>(),
        1 => (0..300_u64).boxed(),
        1 => (prop::sample::select(&BORDERS[..]), -2..3_i64).prop_map(|(n, by)| n.wrapping_add_signed(by)),
    ]
}

fn width() -> impl Strategy<Value = usize> {
    prop::sample::select(&[1_usize, 2, 4, 8][..])
}

/// A fraction that is small more often than not.
fn length() -> impl Strategy<Value = u32> {
    any::<(u32, u8)>().prop_map(|(fraction, shift)| fraction >> (shift % 24))
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<u32>;
    prop_oneof![
        3 => (at(), 0..8_u8).prop_map(|(at, bit)| Edit::Flip { at, bit }),
        3 => (at(), any::<u8>()).prop_map(|(at, byte)| Edit::Put { at, byte }),
        3 => (at(), number(), width()).prop_map(|(at, value, bytes)| Edit::Number { at, value, bytes }),
        2 => (at(), any::<i8>(), width()).prop_map(|(at, difference, bytes)| Edit::Add { at, difference, bytes }),
        2 => (at(), number(), any::<bool>())
            .prop_map(|(at, value, hexadecimal)| Edit::Digits { at, value, hexadecimal }),
        3 => (at(), length()).prop_map(|(at, bytes)| Edit::Remove { at, bytes }),
        1 => (at(), length(), 1..20_u8).prop_map(|(at, bytes, times)| Edit::Repeat { at, bytes, times }),
        2 => (at(), length(), at(), any::<bool>())
            .prop_map(|(from, bytes, to, over)| Edit::Copy { from, bytes, to, over }),
        4 => (at(), at(), any::<bool>()).prop_map(|(at, word, over)| Edit::Word { at, word, over }),
        2 => (at(), at(), length(), at(), any::<bool>())
            .prop_map(|(other, from, bytes, to, over)| Edit::Splice { other, from, bytes, to, over }),
        1 => at().prop_map(|at| Edit::Truncate { at }),
    ]
}

/// Some changes in a row.
pub fn edits() -> impl Strategy<Value = Vec<Edit>> {
    prop::collection::vec(edit(), 1..7)
}

/// What edits may draw from.
pub struct Material<'a> {
    pub inputs: &'a [Vec<u8>],
    pub words: &'a [&'a [u8]],
    /// No input gets longer than this many bytes.
    pub longest: usize,
}

fn scaled(fraction: u32, whole: usize) -> usize {
    ((u64::from(fraction) * whole as u64) >> 32) as usize
}

fn write(into: &mut Vec<u8>, at: usize, bytes: &[u8], over: bool) {
    let end = if over { (at + bytes.len()).min(into.len()) } else { at };
    into.splice(at..end, bytes.iter().copied());
}

impl Material<'_> {
    /// The input with all of these changes.
    pub fn apply(&self, input: &[u8], edits: &[Edit]) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for edit in edits {
            self.apply_one(&mut bytes, edit);
            bytes.truncate(self.longest);
        }
        bytes
    }

    fn apply_one(&self, bytes: &mut Vec<u8>, edit: &Edit) {
        let len = bytes.len();
        let place = |at: u32| scaled(at, len + 1);
        let piece = |from: u32, length: u32| {
            let from = scaled(from, len);
            from..len.min(from + 1 + scaled(length, len - from))
        };
        match *edit {
            Edit::Flip { at, bit } => {
                if let Some(byte) = bytes.get_mut(scaled(at, len)) {
                    *byte ^= 1 << bit;
                }
            }
            Edit::Put { at, byte } => write(bytes, place(at), &[byte], true),
            Edit::Number { at, value, bytes: width } => write(bytes, place(at), &value.to_le_bytes()[..width], true),
            Edit::Add { at, difference, bytes: width } => {
                let at = place(at);
                let mut word = [0; 8];
                let there = &bytes[at..len.min(at + width)];
                word[..there.len()].copy_from_slice(there);
                let sum = u64::from_le_bytes(word).wrapping_add_signed(difference.into());
                write(bytes, at, &sum.to_le_bytes()[..width], true);
            }
            Edit::Digits { at, value, hexadecimal } => {
                let is_digit = |b: &u8| if hexadecimal { b.is_ascii_hexdigit() } else { b.is_ascii_digit() };
                let Some(skip) = bytes[place(at)..].iter().position(is_digit) else { return };
                let start = place(at) + skip;
                let count = bytes[start..].iter().take_while(|b| is_digit(b)).count();
                let text = if hexadecimal { format!("{value:x}") } else { value.to_string() };
                bytes.splice(start..start + count, text.into_bytes());
            }
            Edit::Remove { at, bytes: length } => drop(bytes.drain(piece(at, length))),
            Edit::Repeat { at, bytes: length, times } => {
                let piece = piece(at, length);
                let most = self.longest / piece.len().max(1);
                let copies = bytes[piece.clone()].repeat(usize::from(times).min(most));
                write(bytes, piece.end, &copies, false);
            }
            Edit::Copy { from, bytes: length, to, over } => {
                let copy = bytes[piece(from, length)].to_vec();
                write(bytes, place(to), &copy, over);
            }
            Edit::Word { at, word, over } => {
                if let Some(word) = self.words.get(scaled(word, self.words.len())) {
                    write(bytes, place(at), word, over);
                }
            }
            Edit::Splice { other, from, bytes: length, to, over } => {
                let other = &self.inputs[scaled(other, self.inputs.len())];
                let from = scaled(from, other.len());
                let end = other.len().min(from + 1 + scaled(length, other.len() - from));
                write(bytes, place(to), &other[from..end], over);
            }
            Edit::Truncate { at } => bytes.truncate(place(at)),
        }
    }
}

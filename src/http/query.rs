//! Owns: `name=value&name=value`, in a target's query and in form bodies. `&` separates, `+` is a space, `%XX` is
//! one byte, decoded exactly once; nothing is normalised and every byte value can be written.
//! Never: which parameters there are.

/// One parameter, undecoded, and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair<'q> {
    /// Before the first `=`.
    pub name: &'q [u8],
    /// Behind it; `None` where there is no `=`.
    pub value: Option<&'q [u8]>,
    /// Byte offset of the name in the whole.
    pub at: usize,
}

impl Pair<'_> {
    /// Byte offset of the value in the whole.
    #[must_use]
    pub fn value_at(&self) -> usize {
        self.at + self.name.len() + 1
    }
}

/// The parameters in order. An empty query has none; `a=1&` has an empty second one.
pub fn pairs(query: &[u8]) -> Pairs<'_> {
    Pairs { rest: (!query.is_empty()).then_some(query), at: 0 }
}

/// See [`pairs`].
#[derive(Debug, Clone)]
pub struct Pairs<'q> {
    rest: Option<&'q [u8]>,
    at: usize,
}

impl<'q> Iterator for Pairs<'q> {
    type Item = Pair<'q>;

    fn next(&mut self) -> Option<Pair<'q>> {
        let rest = self.rest?;
        let at = self.at;
        let pair = match memchr::memchr(b'&', rest) {
            Some(end) => {
                self.rest = rest.get(end + 1..);
                self.at += end + 1;
                &rest[..end]
            }
            None => {
                self.rest = None;
                rest
            }
        };
        Some(match memchr::memchr(b'=', pair) {
            Some(mark) => Pair { name: &pair[..mark], value: Some(&pair[mark + 1..]), at },
            None => Pair { name: pair, value: None, at },
        })
    }
}

/// A `%` that is not followed by two hexadecimal digits, and its offset in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadPercent(pub usize);

/// A name or value as it came, known to decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoded<'q> {
    raw: &'q [u8],
    len: usize,
    /// Where the first byte stands that is not itself.
    first: Option<usize>,
}

impl<'q> Encoded<'q> {
    /// Checks every `%`.
    ///
    /// # Errors
    /// The first bad one.
    pub fn new(raw: &'q [u8]) -> Result<Encoded<'q>, BadPercent> {
        let first = memchr::memchr2(b'%', b'+', raw);
        let mut escapes = 0;
        let mut at = first.unwrap_or(raw.len());
        while let Some(offset) = memchr::memchr(b'%', &raw[at..]) {
            escape_at(raw, at + offset).ok_or(BadPercent(at + offset))?;
            at += offset + 3;
            escapes += 1;
        }
        Ok(Encoded { raw, len: raw.len() - 2 * escapes, first })
    }

    /// Decoded length in bytes.
    #[must_use]
    pub fn decoded_len(&self) -> usize {
        self.len
    }

    /// The decoded bytes: the raw ones where nothing is to be decoded, else in `scratch`, which is emptied first.
    #[must_use]
    pub fn decode<'a>(self, scratch: &'a mut Vec<u8>) -> &'a [u8]
    where
        'q: 'a,
    {
        let Some(first) = self.first else { return self.raw };
        scratch.clear();
        scratch.extend_from_slice(&self.raw[..first]);
        let mut at = first;
        while let Some(&byte) = self.raw.get(at) {
            let (decoded, width) = match byte {
                b'+' => (b' ', 1),
                b'%' => (escape_at(self.raw, at).unwrap_or(b'%'), 3),
                _ => (byte, 1),
            };
            scratch.push(decoded);
            at += width;
        }
        assert_eq!(scratch.len(), self.len, "a checked text has no bad percent");
        scratch
    }
}

/// The byte that the `%XX` at `at` stands for.
fn escape_at(raw: &[u8], at: usize) -> Option<u8> {
    let digit = |i: usize| raw.get(i).and_then(|&b| char::from(b).to_digit(16));
    Some((digit(at + 1)? << 4 | digit(at + 2)?) as u8)
}

/// Whether a byte stands for itself in every part of a target (RFC 3986, section 2.3).
#[must_use]
pub const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Appends `raw` such that decoding gives it back and that it can stand in a target.
pub fn encode(raw: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &b in raw {
        if is_plain(b) {
            out.push(b);
        } else {
            out.extend_from_slice(&[b'%', HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dec(raw: &[u8]) -> Result<Vec<u8>, BadPercent> {
        let mut scratch = vec![b'x'];
        Encoded::new(raw).map(|e| e.decode(&mut scratch).to_vec())
    }

    #[test]
    fn decodes_exactly_once() {
        assert_eq!(dec(b"a+b%20c%2B").unwrap(), b"a b c+");
        assert_eq!(dec(b"%2541").unwrap(), b"%41");
        assert_eq!(dec(b"%00%ff%Fe/../%2e").unwrap(), b"\x00\xff\xfe/../.");
        assert_eq!(dec("käse".as_bytes()).unwrap(), "käse".as_bytes());
        assert_eq!(dec(b"").unwrap(), b"");
    }

    #[test]
    fn every_byte_value_can_be_written_in_either_case() {
        for b in 0..=255u8 {
            assert_eq!(dec(format!("%{b:02x}").as_bytes()).unwrap(), [b]);
            assert_eq!(dec(format!("%{b:02X}").as_bytes()).unwrap(), [b]);
        }
    }

    #[test]
    fn a_bad_percent_is_found_where_it_stands() {
        for (raw, at) in [("%", 0), ("ab%", 2), ("ab%4", 2), ("%41%4g", 3), ("%%41", 0), ("%+1", 0), ("%u0041", 0)] {
            assert_eq!(dec(raw.as_bytes()), Err(BadPercent(at)), "{raw}");
        }
    }

    #[test]
    fn borrows_where_nothing_is_to_be_decoded() {
        let raw = b"plain-key";
        let mut scratch = Vec::new();
        assert_eq!(Encoded::new(raw).unwrap().decode(&mut scratch).as_ptr(), raw.as_ptr());
        assert_eq!(scratch.capacity(), 0);
    }

    #[test]
    fn pairs_keep_order_and_offsets() {
        let all: Vec<_> = pairs(b"key=a=b&&v&x=").map(|p| (p.name, p.value, p.at)).collect();
        assert_eq!(all, [(&b"key"[..], Some(&b"a=b"[..]), 0), (b"", None, 8), (b"v", None, 9), (b"x", Some(b""), 11)]);
        assert_eq!(pairs(b"").count(), 0);
        assert_eq!(pairs(b"a&").count(), 2);
    }

    proptest! {
        #[test]
        fn decode_undoes_encode(bytes: Vec<u8>) {
            let mut raw = Vec::new();
            encode(&bytes, &mut raw);
            prop_assert_eq!(Encoded::new(&raw).unwrap().decoded_len(), bytes.len());
            prop_assert_eq!(dec(&raw).unwrap(), bytes);
        }

        #[test]
        fn what_is_accepted_decodes_to_the_length_promised(
            raw in proptest::collection::vec(prop_oneof![Just(b'%'), Just(b'+'), Just(b'4'), Just(b'f'), any::<u8>()], 0..40),
        ) {
            if let Ok(encoded) = Encoded::new(&raw) {
                prop_assert_eq!(encoded.decode(&mut Vec::new()).len(), encoded.decoded_len());
            }
        }
    }
}

//! Owns: entity tags (RFC 9110, section 8.8.3): a record's number in quotes.
//! Never: what a condition does.

/// What an `If-Match` or `If-None-Match` header names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// `*`
    Any,
    /// `"N"`, as this server writes it.
    Number {
        /// The number; never 0, which names no record.
        number: u64,
        /// Written `W/"N"`.
        weak: bool,
    },
    /// A well-formed tag that this server never gave out.
    Foreign,
}

/// A header that does not hold exactly one tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadTag {
    /// Several tags.
    List,
    /// Not a tag: most often the quotes are missing.
    Malformed,
}

/// Reads the value of an `If-Match` or `If-None-Match` header.
///
/// # Errors
/// See [`BadTag`].
pub fn parse(value: &[u8]) -> Result<Tag, BadTag> {
    if value == b"*" {
        return Ok(Tag::Any);
    }
    let (weak, quoted) = match value.strip_prefix(b"W/") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let inner = quoted.strip_prefix(b"\"").ok_or(BadTag::Malformed)?;
    let end = memchr::memchr(b'"', inner).ok_or(BadTag::Malformed)?;
    let (opaque, rest) = (&inner[..end], &inner[end + 1..]);
    if opaque.iter().any(|&b| b <= b' ' || b == 0x7f) {
        return Err(BadTag::Malformed);
    }
    match rest.trim_ascii_start() {
        [] => Ok(number(opaque).map_or(Tag::Foreign, |number| Tag::Number { number, weak })),
        [b',', ..] => Err(BadTag::List),
        _ => Err(BadTag::Malformed),
    }
}

/// The number, if it is written as this server writes it: no sign, no leading zero.
fn number(opaque: &[u8]) -> Option<u64> {
    let plain = matches!(opaque, [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit));
    std::str::from_utf8(opaque).ok().filter(|_| plain)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tag_or_a_star() {
        let n = |number, weak| Ok(Tag::Number { number, weak });
        for (value, expected) in [
            (&b"*"[..], Ok(Tag::Any)),
            (b"\"1\"", n(1, false)),
            (b"W/\"17\"", n(17, true)),
            (b"\"18446744073709551615\"", n(u64::MAX, false)),
            (b"\"18446744073709551616\"", Ok(Tag::Foreign)),
            (b"\"0\"", Ok(Tag::Foreign)),
            (b"\"01\"", Ok(Tag::Foreign)),
            (b"\"+1\"", Ok(Tag::Foreign)),
            (b"\"\"", Ok(Tag::Foreign)),
            (b"\"a,b\"", Ok(Tag::Foreign)),
            (b"\"\xff\"", Ok(Tag::Foreign)),
            (b"\"1\", \"2\"", Err(BadTag::List)),
            (b"\"1\",", Err(BadTag::List)),
            (b"1", Err(BadTag::Malformed)),
            (b"", Err(BadTag::Malformed)),
            (b"\"1", Err(BadTag::Malformed)),
            (b"\"1\"2", Err(BadTag::Malformed)),
            (b"w/\"1\"", Err(BadTag::Malformed)),
            (b"*, \"1\"", Err(BadTag::Malformed)),
            (b"\"a b\"", Err(BadTag::Malformed)),
        ] {
            assert_eq!(parse(value), expected, "{}", value.escape_ascii());
        }
    }
}

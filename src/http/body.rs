//! Owns: a request's body: counted or chunked (RFC 9112, section 7.1). Chunks are decoded in place: the data moves
//! to the front of the buffer, right behind the head, and what framed it is overwritten.
//! Never: what the body means.

use super::head::{BodyKind, Head, is_token_byte};
use super::{Limits, Reject};

/// Longest chunk extension in bytes.
const MAX_EXTENSION_BYTES: u16 = 256;
/// Most digits of a chunk's size; more could not be told from an overflow.
const MAX_SIZE_DIGITS: u8 = 15;
/// Longest trailer section in bytes, its empty line included. Trailers are read and dropped.
const MAX_TRAILER_BYTES: usize = 4096;

/// A body that has come as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Bytes of content, from the body's beginning.
    pub body_len: usize,
    /// Bytes that it took in the buffer.
    pub raw_len: usize,
}

/// A body under way. The slices given to it always begin right behind the head.
#[derive(Debug)]
pub enum Body {
    /// This many bytes.
    Counted(usize),
    /// Chunks.
    Chunked(Chunks),
}

impl Body {
    /// The body that `head` announces.
    ///
    /// # Errors
    /// 413 where it is longer than is ever taken.
    pub fn new(head: &Head<'_>, limits: &Limits) -> Result<Body, Reject> {
        let max = limits.max_body_bytes(head.is_form);
        match head.body {
            BodyKind::None => Ok(Body::Counted(0)),
            BodyKind::Length(len) => match usize::try_from(len) {
                Ok(fits) if fits <= max => Ok(Body::Counted(fits)),
                _ => Err(Reject::value_too_large(len, limits)),
            },
            BodyKind::Chunked => Ok(Body::Chunked(Chunks::new(max, *limits))),
        }
    }

    /// Goes on with all that is there behind the head. `None`: more is needed.
    ///
    /// # Errors
    /// Malformed chunks; 413 where the announced chunks exceed the limit.
    pub fn advance(&mut self, rest: &mut [u8]) -> Result<Option<Taken>, Reject> {
        match self {
            Body::Counted(len) => Ok((rest.len() >= *len).then_some(Taken { body_len: *len, raw_len: *len })),
            Body::Chunked(chunks) => chunks.advance(rest),
        }
    }

    /// Moves what is not decoded yet to the end of what is. Returns how many bytes are left then.
    pub fn squeeze(&mut self, rest: &mut [u8]) -> usize {
        match self {
            Body::Counted(_) => rest.len(),
            Body::Chunked(chunks) => chunks.squeeze(rest),
        }
    }

    /// Bytes that the body needs in the buffer, as far as is known.
    #[must_use]
    pub fn wanted(&self) -> usize {
        match self {
            Body::Counted(len) => *len,
            Body::Chunked(chunks) => chunks.filled + chunks.left_in_memory(),
        }
    }
}

/// What is expected next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// A size; how many digits have come.
    Size(u8),
    /// The rest of an extension; how many bytes have come.
    Extension(u16, Part),
    /// The LF that ends the line of the size.
    SizeLf,
    /// Data.
    Data,
    /// The CR behind the data.
    DataCr,
    /// The LF behind the data.
    DataLf,
    /// A trailer line, or the empty line that ends the body.
    Trailer,
}

/// Where in a chunk's extension: `;name` or `;name=value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Behind `;`: a name must follow.
    Start,
    Name,
    /// Behind `=`: a value must follow.
    ValueStart,
    Value,
}

/// The part that `byte` belongs to; `None` where it is not allowed.
fn extend(part: Part, byte: u8) -> Option<Part> {
    match (part, byte) {
        (Part::Start | Part::Name, b) if is_token_byte(b) => Some(Part::Name),
        (Part::Name, b'=') => Some(Part::ValueStart),
        (Part::Name | Part::Value, b';') => Some(Part::Start),
        (Part::ValueStart | Part::Value, b) if !b.is_ascii_control() && b != b';' => Some(Part::Value),
        _ => None,
    }
}

/// The state of the chunk decoder.
#[derive(Debug)]
pub struct Chunks {
    expect: Expect,
    /// Bytes of data at the front.
    filled: usize,
    /// Where the undecoded bytes begin.
    raw: usize,
    /// The present chunk's size as read so far; then what is left of its data.
    left: u64,
    trailer_bytes: usize,
    max: usize,
    limits: Limits,
}

fn bad_chunk(message: &str) -> Reject {
    Reject::new(400, "bad_chunk", message)
}

impl Chunks {
    fn new(max: usize, limits: Limits) -> Chunks {
        Chunks { expect: Expect::Size(0), filled: 0, raw: 0, left: 0, trailer_bytes: 0, max, limits }
    }

    fn advance(&mut self, rest: &mut [u8]) -> Result<Option<Taken>, Reject> {
        while let Some(&byte) = rest.get(self.raw) {
            match self.expect {
                Expect::Data => {
                    self.move_data(rest);
                    continue;
                }
                Expect::Trailer => match self.trailer(&rest[self.raw..])? {
                    Trailer::Partial => return Ok(None),
                    Trailer::Line(len) => {
                        self.raw += len;
                        continue;
                    }
                    Trailer::End(len) => {
                        return Ok(Some(Taken { body_len: self.filled, raw_len: self.raw + len }));
                    }
                },
                _ => self.framing_byte(byte)?,
            }
            self.raw += 1;
        }
        Ok(None)
    }

    /// Everything but data and trailers: a byte at a time, so that the first wrong one is noticed at once.
    fn framing_byte(&mut self, byte: u8) -> Result<(), Reject> {
        self.expect = match (self.expect, byte) {
            (Expect::Size(digits), b) if b.is_ascii_hexdigit() => {
                if digits == MAX_SIZE_DIGITS {
                    return Err(bad_chunk("a chunk's size has over 15 digits"));
                }
                let digit = char::from(b).to_digit(16).unwrap_or_default();
                self.left = self.left << 4 | u64::from(digit);
                Expect::Size(digits + 1)
            }
            (Expect::Size(1..), b'\r') => Expect::SizeLf,
            (Expect::Size(1..), b';') => Expect::Extension(0, Part::Start),
            (Expect::Size(_), _) => return Err(bad_chunk("a chunk's size is not plain hexadecimal digits")),
            (Expect::Extension(_, Part::Name | Part::Value), b'\r') => Expect::SizeLf,
            (Expect::Extension(MAX_EXTENSION_BYTES, _), _) => {
                return Err(bad_chunk("a chunk's extension is over 256 bytes"));
            }
            (Expect::Extension(n, part), b) => {
                let part =
                    extend(part, b).ok_or_else(|| bad_chunk("a chunk's extension is not ;NAME or ;NAME=VALUE"))?;
                Expect::Extension(n + 1, part)
            }
            (Expect::SizeLf, b'\n') => self.sized()?,
            (Expect::DataCr, b'\r') => Expect::DataLf,
            (Expect::DataLf, b'\n') => Expect::Size(0),
            (Expect::DataCr | Expect::DataLf, _) => {
                return Err(bad_chunk("a chunk's data is longer than its size, or does not end with CR LF"));
            }
            _ => return Err(bad_chunk("the line of a chunk's size does not end with CR LF")),
        };
        Ok(())
    }

    /// The line of a size is complete.
    fn sized(&mut self) -> Result<Expect, Reject> {
        if self.left == 0 {
            return Ok(Expect::Trailer);
        }
        if self.left > (self.max - self.filled) as u64 {
            return Err(Reject::value_too_large(self.filled as u64 + self.left, &self.limits));
        }
        Ok(Expect::Data)
    }

    fn left_in_memory(&self) -> usize {
        usize::try_from(self.left).unwrap_or(usize::MAX)
    }

    fn move_data(&mut self, rest: &mut [u8]) {
        let n = self.left_in_memory().min(rest.len() - self.raw);
        rest.copy_within(self.raw..self.raw + n, self.filled);
        self.raw += n;
        self.filled += n;
        self.left -= n as u64;
        if self.left == 0 {
            self.expect = Expect::DataCr;
        }
    }

    fn trailer(&mut self, rest: &[u8]) -> Result<Trailer, Reject> {
        let room = MAX_TRAILER_BYTES - self.trailer_bytes;
        let window = &rest[..rest.len().min(room)];
        let Some(lf) = memchr::memchr(b'\n', window) else {
            return if window.len() == room {
                Err(bad_chunk("the trailers are over 4096 bytes"))
            } else {
                Ok(Trailer::Partial)
            };
        };
        let Some(line) = window[..lf].strip_suffix(b"\r") else {
            return Err(bad_chunk("a trailer line ends with a bare LF: lines end with CR LF"));
        };
        self.trailer_bytes += lf + 1;
        if line.is_empty() {
            return Ok(Trailer::End(lf + 1));
        }
        check_trailer(line)?;
        Ok(Trailer::Line(lf + 1))
    }

    fn squeeze(&mut self, rest: &mut [u8]) -> usize {
        rest.copy_within(self.raw.., self.filled);
        let left = self.filled + rest.len() - self.raw;
        self.raw = self.filled;
        left
    }
}

/// What stands at the front of the trailers, with its length in bytes.
enum Trailer {
    Partial,
    Line(usize),
    End(usize),
}

fn check_trailer(line: &[u8]) -> Result<(), Reject> {
    let colon = memchr::memchr(b':', line).unwrap_or(0);
    let (name, value) = line.split_at(colon);
    let clean = value.iter().all(|&b| b == b'\t' || !b.is_ascii_control());
    if name.is_empty() || !name.iter().copied().all(is_token_byte) || !clean {
        return Err(bad_chunk("a trailer line is malformed: NAME: VALUE, no control bytes, no folding"));
    }
    let forbidden: [&[u8]; 3] = [b"content-length", b"transfer-encoding", b"host"];
    if forbidden.iter().any(|f| name.eq_ignore_ascii_case(f)) {
        return Err(bad_chunk("a trailer may not be Content-Length, Transfer-Encoding or Host"));
    }
    Ok(())
}

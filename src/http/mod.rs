//! Owns: bytes ↔ requests and responses. [`Decoder`] finds one request after another in a connection's buffer and
//! lends it out without copying; [`response`] writes response heads; [`query`] and [`etag`] read the small
//! languages inside a head.
//! Never: sockets, paths, shards, or why a response has its status.

pub mod body;
pub mod etag;
pub mod head;
pub mod query;
pub mod response;

pub use head::{BodyKind, Head, KnownLines, Version};

/// What a client may send at most (the table `[limits]`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest key in bytes, decoded.
    pub max_key_bytes: usize,
    /// Longest value in bytes.
    pub max_value_bytes: usize,
    /// Longest head in bytes: request line with the target, header lines, and the empty line.
    pub max_head_bytes: usize,
    /// Most header lines; at most [`head::MAX_HEADERS`].
    pub max_headers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_key_bytes: 4096,
            max_value_bytes: 1 << 20,
            max_head_bytes: 32 << 10,
            max_headers: head::MAX_HEADERS,
        }
    }
}

impl Limits {
    /// The longest body in bytes that is ever taken into memory. A form spends up to three bytes on one of a key
    /// or a value, and some on names.
    #[must_use]
    pub fn max_body_bytes(&self, is_form: bool) -> usize {
        if is_form {
            self.max_value_bytes.saturating_add(self.max_key_bytes).saturating_mul(3).saturating_add(64)
        } else {
            self.max_value_bytes
        }
    }
}

/// A request that cannot be read. It is answered with `status`, and the connection is closed: where the next
/// request begins is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// The response's status.
    pub status: u16,
    /// A stable word for programs.
    pub code: &'static str,
    /// One line for people, without a line end.
    pub message: String,
}

impl Reject {
    pub(crate) fn new(status: u16, code: &'static str, message: impl Into<String>) -> Reject {
        Reject { status, code, message: message.into() }
    }

    /// 413: `size` bytes where the limit for values is `limits.max_value_bytes`.
    pub(crate) fn value_too_large(size: u64, limits: &Limits) -> Reject {
        let limit = limits.max_value_bytes;
        Reject::new(
            413,
            "value_too_large",
            format!(
                "value too large: {size} bytes, the limit is {limit} (limits.max_value_bytes): \
                 store it in parts, or raise the setting"
            ),
        )
    }
}

/// The protocol that a connection between nodes is upgraded to.
pub const UPGRADE_PEER: &str = "dkv-peer";

/// A whole request, borrowed from the connection's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'b> {
    /// The head.
    pub head: Head<'b>,
    /// The body's bytes, decoded.
    pub body: &'b [u8],
    /// Whether there was a body at all: `Content-Length: 0` is an explicit empty one.
    pub body_present: bool,
}

/// What [`Decoder::step`] found.
#[derive(Debug)]
pub enum Step<'b> {
    /// More bytes are needed. The first `.0` bytes of the buffer are what is left of it: cut the rest off (a chunked
    /// body shrinks while it is decoded) and append what comes next.
    Partial(usize),
    /// The head is complete, the body is not. Said once for a request, so that it can be refused before its body is
    /// read, or be told to go on (`100 Continue`). Call `step` again; an answer without doing so closes.
    Head(Head<'b>),
    /// A whole request, and how many bytes of the buffer it took.
    Complete(Request<'b>, usize),
    /// Answer with this and close.
    Reject(Reject),
}

/// What a connection is in the midst of: each has its own deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Between requests.
    Idle,
    /// A head has begun.
    Head,
    /// The head is complete, the body is not.
    Body,
}

/// A connection's place in its stream of requests. The buffer given to [`Decoder::step`] always begins where the
/// last complete request ended.
#[derive(Debug, Default)]
pub struct Decoder {
    scan: head::Scan,
    pending: Option<Pending>,
}

/// A request whose head was complete before its body was.
#[derive(Debug)]
struct Pending {
    head_start: usize,
    head_end: usize,
    body: body::Body,
}

impl Decoder {
    /// Looks at all bytes of the connection that are not consumed yet. The same bytes give the same requests and the
    /// same rejections however they were split, and whatever lines are known
    /// (under the same limits).
    pub fn step<'b>(&mut self, buf: &'b mut [u8], limits: &Limits, known: &mut KnownLines) -> Step<'b> {
        let step = match self.pending.take() {
            Some(pending) => self.go_on(pending, buf, limits, known),
            None => self.begin(buf, limits, known),
        };
        step.unwrap_or_else(Step::Reject)
    }

    fn begin<'b>(&mut self, buf: &'b mut [u8], limits: &Limits, known: &mut KnownLines) -> Result<Step<'b>, Reject> {
        let Some(found) = self.scan.find(buf, limits.max_head_bytes, known)? else {
            return Ok(Step::Partial(buf.len()));
        };
        self.scan = head::Scan::default();
        let (front, rest) = buf.split_at_mut(found.end);
        let front: &'b [u8] = front;
        let head = head::parse(&front[found.start..], limits, known)?;
        let mut body = body::Body::new(&head, limits)?;
        match body.advance(rest)? {
            Some(taken) => Ok(complete(head, rest, found.end, taken)),
            None => {
                self.pending = Some(Pending { head_start: found.start, head_end: found.end, body });
                Ok(Step::Head(head))
            }
        }
    }

    fn go_on<'b>(
        &mut self,
        mut pending: Pending,
        buf: &'b mut [u8],
        limits: &Limits,
        known: &mut KnownLines,
    ) -> Result<Step<'b>, Reject> {
        assert!(buf.len() >= pending.head_end, "the caller dropped bytes of a request under way");
        let (front, rest) = buf.split_at_mut(pending.head_end);
        match pending.body.advance(rest)? {
            Some(taken) => {
                let front: &'b [u8] = front;
                let head = head::parse(&front[pending.head_start..], limits, known)?;
                Ok(complete(head, rest, pending.head_end, taken))
            }
            None => {
                let keep = pending.head_end + pending.body.squeeze(rest);
                self.pending = Some(pending);
                Ok(Step::Partial(keep))
            }
        }
    }

    /// Whether nothing of the next request was looked at.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.pending.is_none() && self.scan.is_fresh()
    }

    /// How many bytes the request under way needs in the buffer at least, from its first byte on; 0 where that is
    /// not known.
    #[must_use]
    pub fn wanted(&self) -> usize {
        self.pending.as_ref().map_or(0, |p| p.head_end + p.body.wanted())
    }

    /// Whether a body is under way whose length was announced with its head.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        matches!(&self.pending, Some(Pending { body: body::Body::Counted(_), .. }))
    }

    /// What the connection is in the midst of, as of the last step.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.pending {
            Some(_) => Phase::Body,
            None if self.scan.has_begun() => Phase::Head,
            None => Phase::Idle,
        }
    }
}

fn complete<'b>(head: Head<'b>, rest: &'b [u8], head_end: usize, taken: body::Taken) -> Step<'b> {
    let request = Request { head, body: &rest[..taken.body_len], body_present: head.body != BodyKind::None };
    Step::Complete(request, head_end + taken.raw_len)
}

#[cfg(test)]
mod tests;

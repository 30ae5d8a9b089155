//! Owns: a GET that is, byte for byte, one before but for its key: it means what that one meant. To read it took a third of
//! the instructions of a GET, and whoever reads many keys asks for each in the same words. The last wording is known.
//! Never: what a request means: that is said by `http` and `api`, once for each new wording.

use super::api::Call;
use super::render::About;
use crate::http::query::is_plain;
use crate::http::response::Persistence;
use crate::http::{BodyKind, Limits, Request};
use crate::op::{Condition, Op, Verb};

/// The key's parameter, the first and only one.
const NAME: &[u8] = b"key=";
/// A longer request is read each time.
const MOST_BYTES: usize = 4096;

/// Whether a byte stands for itself in a query, whatever is around it (RFC 3986, section 3.4). There are more.
static IS_ITSELF: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = is_plain(byte as u8) || matches!(byte as u8, b':' | b'/' | b'@');
        byte += 1;
    }
    table
};

fn is_itself(byte: u8) -> bool {
    IS_ITSELF[usize::from(byte)]
}

/// The wording of one GET: what stood before its key, and what behind it, to the end.
///
/// A key of bytes that stand for themselves may take the place of another one: what is around it is read as before. A request
/// with conditions, a body or other parameters, and one that closes its connection, is read each time.
#[derive(Debug, Default)]
pub(super) struct KnownGet {
    before: Vec<u8>,
    behind: Vec<u8>,
    /// `None`: none is known.
    about: Option<About>,
}

impl KnownGet {
    /// The key of a GET in these words at the beginning of `bytes`, what its answer depends on, and how long it is.
    pub(super) fn find<'b>(&self, bytes: &'b [u8], limits: &Limits) -> Option<(&'b [u8], About, usize)> {
        let about = self.about?;
        let rest = bytes.strip_prefix(self.before.as_slice())?;
        let longest = rest.len().min(limits.max_key_bytes.saturating_add(1));
        let key_bytes = rest[..longest].iter().position(|byte| !is_itself(*byte))?;
        let (key, rest) = rest.split_at(key_bytes);
        let all = self.before.len() + key_bytes + self.behind.len();
        let fits = key_bytes > 0 && all <= limits.max_head_bytes;
        (fits && rest.starts_with(&self.behind)).then_some((key, about, all))
    }

    /// How long the key is of a request whose words are worth knowing.
    pub(super) fn key_bytes(request: &Request<'_>, call: &Call<'_>, about: About) -> Option<usize> {
        let Request { head, .. } = request;
        let Call::Data(Op { verb: Verb::Get, key, condition: Condition::None, stale: false, .. }) = call else {
            return None;
        };
        let is_plain_get =
            head.method == "GET" && head.body == BodyKind::None && about.persistence != Persistence::Close;
        let raw = head.query.as_bytes().strip_prefix(NAME)?;
        (is_plain_get && raw == *key && raw.iter().all(|byte| is_itself(*byte))).then_some(raw.len())
    }

    /// From now on the words of this request are known: all its bytes, and how long its key is.
    pub(super) fn learn(&mut self, raw: &[u8], key_bytes: usize, about: About) {
        // The query begins at the first mark. There may be empty lines before a request: those are no words of it.
        let Some(mark) = raw.iter().position(|byte| *byte == b'?') else { return };
        if raw.len() <= MOST_BYTES && raw.starts_with(b"GET ") {
            let (before, rest) = raw.split_at(mark + 1 + NAME.len());
            self.before.clear();
            self.before.extend_from_slice(before);
            self.behind.clear();
            self.behind.extend_from_slice(&rest[key_bytes..]);
            self.about = Some(about);
        }
    }
}

#[cfg(test)]
#[path = "known_tests.rs"]
mod tests;

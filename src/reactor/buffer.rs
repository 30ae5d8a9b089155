//! Owns: bytes that were read and are not consumed yet.
//! Never: sockets, what the bytes mean.
//!
//! ```text
//! 0 ........ filled ........ bytes.len()
//!   data       room (initialised once, then reused: a read must not pay for zeroing it again)
//! ```
//! Invariant: `filled <= bytes.len()`.

/// See the module.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    filled: usize,
}

impl Buffer {
    /// An empty one on memory that was used before: what was initialised of it need not be again.
    #[must_use]
    pub fn on(memory: Vec<u8>) -> Buffer {
        Buffer { bytes: memory, filled: 0 }
    }

    /// The memory, to be used again.
    #[must_use]
    pub fn into_memory(self) -> Vec<u8> {
        self.bytes
    }

    /// What stands in it.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// What stands in it, to decode in place.
    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.filled]
    }

    /// How many bytes stand in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.filled
    }

    /// Whether nothing stands in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Room for at least `want` bytes behind the data.
    pub fn room(&mut self, want: usize) -> &mut [u8] {
        if self.bytes.len() - self.filled < want {
            self.bytes.resize(self.filled + want, 0);
        }
        &mut self.bytes[self.filled..]
    }

    /// The first `n` bytes of the room are data now.
    pub fn added(&mut self, n: usize) {
        self.filled += n;
        assert!(self.filled <= self.bytes.len(), "more was read than there was room for");
    }

    /// Drops the first `n` bytes of the data.
    pub fn consume(&mut self, n: usize) {
        assert!(n <= self.filled, "more consumed than was there");
        if n > 0 && n < self.filled {
            self.bytes.copy_within(n..self.filled, 0);
        }
        self.filled -= n;
    }

    /// Drops what is behind the first `n` bytes of the data.
    pub fn truncate(&mut self, n: usize) {
        assert!(n <= self.filled, "cut behind the end");
        self.filled = n;
    }

    /// Appends.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.filled += bytes.len();
    }

    /// The memory it holds.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

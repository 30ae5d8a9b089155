//! Owns: one TCP stream: its input that was not consumed, its output that was not sent, and how it ends. It is read and
//! written without libc, whose calls lock a word twice each in a process of several threads: one could cancel another there.
//! Never: what the bytes mean.

use std::net::{Shutdown, SocketAddr};

use mio::net::TcpStream;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::READ_LARGE_BYTES;
use super::buffer::Buffer;
use crate::id::ConnId;

/// What a read found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// New bytes, and the socket may have more.
    More,
    /// New bytes, or none, and the socket is empty for now.
    Drained,
    /// The other side has closed its half (there may be new bytes before that).
    Ended,
    /// The connection is broken, or was not there.
    Gone,
}

/// System calls on sockets, since the start: what a request costs the kernel beside the poll.
#[derive(Debug, Clone, Copy, Default)]
pub struct SocketCalls {
    /// Reads, those that found nothing as well.
    pub reads: u64,
    /// Writes, those that were not taken as well.
    pub writes: u64,
}

/// How far the closing of a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// It is not closing.
    No,
    /// Once the output is sent. Then our half is shut, and what still arrives is dropped for a while: closing with
    /// bytes unread would make the system send a reset, which can destroy the answer on its way.
    AfterOutput,
    /// Our half is shut; waiting for the other side to close, or the deadline.
    Lingering {
        /// When to wait no more, on the loop's clock.
        until_ms: u64,
    },
}

/// How long [`Closing::Lingering`] lasts.
const LINGER_MS: u64 = 2_000;

/// A connection.
pub struct Conn<T> {
    /// Its name.
    pub id: ConnId,
    /// The address at the other end.
    pub peer: SocketAddr,
    /// What the owner keeps with it.
    pub state: T,
    /// The socket may have bytes (or its end) that were not read yet.
    pub readable: bool,
    /// How it is closing.
    pub closing: Closing,
    /// Since when the output has waited for the other side to read, without any progress.
    pub stalled_since_ms: Option<u64>,
    /// Bytes given to the kernel since the connection began.
    pub written_bytes: u64,
    /// An error on it ended it.
    pub is_broken: bool,
    /// For a dialled connection: it is up.
    pub is_connected: bool,
    pub(super) socket: TcpStream,
    pub(super) input: Buffer,
    pub(super) output: Vec<u8>,
    /// Bytes of the output as counted in the reactor's sum: those of the last flush.
    pub(super) counted: usize,
    pub(super) is_dirty: bool,
    pub(super) is_doomed: bool,
    pub(super) is_listed: bool,
    pub(super) is_again: bool,
    sent: usize,
    writable: bool,
    read_ended: bool,
}

impl<T> Conn<T> {
    pub(super) fn accepted(socket: TcpStream, peer: SocketAddr, state: T) -> Self {
        Self {
            id: ConnId { slot: 0, generation: 0 },
            peer,
            state,
            readable: false,
            closing: Closing::No,
            stalled_since_ms: None,
            written_bytes: 0,
            is_broken: false,
            is_connected: true,
            socket,
            input: Buffer::default(),
            output: Vec::new(),
            counted: 0,
            is_dirty: false,
            is_doomed: false,
            is_listed: false,
            is_again: false,
            sent: 0,
            writable: true,
            read_ended: false,
        }
    }

    pub(super) fn dialled(socket: TcpStream, to: SocketAddr, state: T) -> Self {
        Self { is_connected: false, writable: false, ..Self::accepted(socket, to, state) }
    }

    pub(super) fn on_event(&mut self, readable: bool, writable: bool, read_closed: bool) {
        self.readable |= readable || read_closed;
        self.read_ended |= read_closed;
        if writable {
            self.writable = true;
            if !self.is_connected {
                match self.socket.take_error() {
                    Ok(None) => self.is_connected = self.socket.peer_addr().is_ok(),
                    Ok(Some(_)) | Err(_) => self.is_broken = true,
                }
            }
        }
    }

    /// Something happened on it that its owner has not looked at: it is no more silent than what it may have sent.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.is_listed || self.is_again
    }

    /// Bytes in the output that the kernel has not taken.
    #[must_use]
    pub fn output_bytes(&self) -> usize {
        self.output.len() - self.sent
    }

    /// What the kernel has not taken of the output.
    #[must_use]
    pub fn unsent(&self) -> &[u8] {
        &self.output[self.sent..]
    }

    /// Bytes put into the output since the connection began: the place of the next one in the stream.
    #[must_use]
    pub fn queued_bytes(&self) -> u64 {
        self.written_bytes + self.output_bytes() as u64
    }

    /// Bytes of input that were not consumed.
    #[must_use]
    pub fn input_bytes(&self) -> usize {
        self.input.len()
    }

    /// Reads once, up to `want` bytes behind what `buffer` holds.
    pub(super) fn fill(&mut self, buffer: &mut Buffer, want: usize, calls: &mut SocketCalls) -> Filled {
        if self.is_broken {
            return Filled::Gone;
        }
        if !self.readable {
            return Filled::Drained;
        }
        // There may be far more in a buffer that was used before.
        let room = buffer.room(want);
        let room_bytes = room.len().min(READ_LARGE_BYTES);
        let room = &mut room[..room_bytes];
        let result = loop {
            calls.reads += 1;
            match recv(&self.socket, &mut *room, RecvFlags::empty()) {
                Err(Errno::INTR) => {}
                other => break other.map(|(bytes, _)| bytes),
            }
        };
        buffer.added(*result.as_ref().unwrap_or(&0));
        match result {
            Ok(0) => {
                self.readable = false;
                Filled::Ended
            }
            // A short read has emptied the socket: whatever comes later is a new event. Only where the end of the
            // stream was announced already must it be read for.
            Ok(n) if n < room_bytes && !self.read_ended => {
                self.readable = false;
                Filled::Drained
            }
            Ok(_) => Filled::More,
            Err(Errno::AGAIN) => {
                self.readable = false;
                Filled::Drained
            }
            Err(_) => {
                self.is_broken = true;
                Filled::Gone
            }
        }
    }

    /// Whether there is something to send, and the socket may take it.
    pub(super) fn can_send(&self) -> bool {
        self.writable && self.is_connected && self.sent < self.output.len() && !self.is_broken
    }

    /// Writes until nothing is left, or the socket is full, or `most` bytes are written; when nothing is left and the
    /// connection is closing, shuts our half. Returns how many bytes were written.
    pub(super) fn flush(&mut self, now_ms: u64, most: usize, calls: &mut SocketCalls) -> usize {
        let mut written = 0;
        while self.can_send() && written < most {
            calls.writes += 1;
            let end = self.output.len().min(self.sent.saturating_add(most - written));
            match send(&self.socket, &self.output[self.sent..end], SendFlags::NOSIGNAL) {
                Ok(n) => {
                    written += n;
                    self.sent += n;
                    self.written_bytes += n as u64;
                    self.stalled_since_ms = None;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.writable = false,
                Err(_) => self.is_broken = true,
            }
        }
        if self.sent < self.output.len() {
            if !self.can_send() {
                self.stalled_since_ms.get_or_insert(now_ms);
            }
            // Sent bytes are given up once they are the greater part, so that the rest moves at most once for each.
            if self.sent > self.output.len() / 2 {
                self.output.drain(..self.sent);
                self.sent = 0;
            }
            return written;
        }
        self.output.clear();
        self.sent = 0;
        if self.closing == Closing::AfterOutput {
            if self.socket.shutdown(Shutdown::Write).is_err() {
                self.is_broken = true;
            }
            self.closing = Closing::Lingering { until_ms: now_ms + LINGER_MS };
            self.readable = true;
        }
        written
    }
}

//! Owns: the poll, the listener, the slab of connections with their buffers, and what the operating system says of
//! sockets. Gives out [`ConnId`]s and bytes. `T` is whatever the owner keeps with a connection ([`Kept`]).
//!
//! mio's registrations are edge-triggered and made once a connection, for reading and writing alike, so that no
//! request costs an `epoll_ctl`. Whoever stops reading before the socket is empty must remember it: that is
//! [`Conn::readable`] and [`Reactor::again`].
//!
//! Never: HTTP, shards, what a byte means.

mod buffer;
mod conn;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use slab::Slab;

pub use buffer::Buffer;
pub use conn::{Closing, Conn, Filled, SocketCalls};

use crate::id::ConnId;

const LISTENER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);
/// The first of the tokens that are left to the owner (signals).
const OWN: Token = Token(usize::MAX - 2);

/// Connections accepted in one turn at most: a flood of them must not starve those that are there.
const ACCEPTS_PER_TURN: usize = 64;
/// Connections that may wait to be accepted: mio asks for 128, and those that come in a burst above it meet a second's
/// pause. The system may allow fewer (net.core.somaxconn).
const BACKLOG: i32 = 4096;
/// How much a read asks for, and at most where a larger body is on its way.
const READ_BYTES: usize = 64 * 1024;
const READ_LARGE_BYTES: usize = 128 * 1024;
/// How much a turn writes to connections that are not urgent: where many take large answers, what the turn has to do beside
/// waits for no more than this.
const SENT_BYTES: usize = 512 * 1024;
/// How much it writes to each one that is urgent, or twice what the turn has added for it, so that none falls behind.
const SENT_URGENT_BYTES: usize = 256 * 1024;
/// What was left of earlier reads moves back into the shared buffer, up to so many bytes: with the room that a read
/// asks for, a few bytes of each of many connections would hold far more memory than anybody counts.
const MOVED_BYTES: usize = 4 * 1024;
/// Buffers kept for reuse: the largest that is kept, and how much memory they may hold together.
const POOL_BUFFER_BYTES: usize = 512 * 1024;
const POOL_BYTES: usize = 4 * 1024 * 1024;
/// The buffer that all connections share may have grown to so much.
const SHARED_BYTES: usize = 2 * READ_BYTES;
/// Buffers kept for large bodies, messages and answers, since each page of fresh memory costs a fault: the largest that is
/// kept, and how many.
const LARGE_BUFFER_BYTES: usize = 2 * 1024 * 1024;
const LARGE_BUFFERS: usize = 4;

/// What a turn found ready.
#[derive(Debug, Default)]
pub struct Ready {
    /// Connections may be waiting to be accepted.
    pub accept: bool,
    /// The owner's own source (signals) is ready.
    pub own: bool,
}

/// What the owner keeps with a connection.
pub trait Kept {
    /// Whether the connection goes before those that are not urgent.
    fn is_urgent(&self) -> bool;
}

/// See the module.
pub struct Reactor<T> {
    poll: Poll,
    events: Events,
    listener: Option<TcpListener>,
    accept_paused: bool,
    /// A turn's bound was reached while accepting: no event will tell of those that still wait.
    accept_again: bool,
    /// Said, until a connection is accepted again.
    out_of_descriptors: bool,
    conns: Slab<Conn<T>>,
    next_generation: u32,
    /// Connections on which something happened, each once, in order; those that are urgent in the second queue.
    listed: [VecDeque<ConnId>; 2],
    again: Vec<ConnId>,
    /// Connections that have something to send, each once; those that are urgent in the second list.
    dirty: [Vec<ConnId>; 2],
    doomed: Vec<ConnId>,
    pool: Vec<Vec<u8>>,
    pool_bytes: usize,
    large: Vec<Vec<u8>>,
    scratch: Buffer,
    held_bytes: u64,
    calls: SocketCalls,
}

impl<T: Kept> Reactor<T> {
    /// A reactor that listens on `listen`.
    ///
    /// # Errors
    /// The address is in use, not of this host, or may not be bound; or the system has no descriptors left.
    pub fn new(listen: SocketAddr) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(listen)?;
        rustix::net::listen(&listener, BACKLOG)?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self {
            poll,
            events: Events::with_capacity(1024),
            listener: Some(listener),
            accept_paused: false,
            accept_again: false,
            out_of_descriptors: false,
            conns: Slab::new(),
            next_generation: 0,
            listed: Default::default(),
            again: Vec::new(),
            dirty: Default::default(),
            doomed: Vec::new(),
            pool: Vec::new(),
            pool_bytes: 0,
            large: Vec::new(),
            scratch: Buffer::default(),
            held_bytes: 0,
            calls: SocketCalls::default(),
        })
    }

    /// A waker that ends [`Reactor::wait`] from another thread.
    ///
    /// # Errors
    /// The system has no descriptors left.
    pub fn waker(&self) -> io::Result<Waker> {
        Waker::new(self.poll.registry(), WAKER)
    }

    /// Registers a source of the owner's, reported as [`Ready::own`].
    ///
    /// # Errors
    /// What the system says.
    pub fn register_own(&self, source: &mut impl mio::event::Source) -> io::Result<()> {
        self.registry().register(source, OWN, Interest::READABLE)
    }

    fn registry(&self) -> &Registry {
        self.poll.registry()
    }

    /// Waits until something is ready or the timeout has passed; at once where work was left over
    /// ([`Reactor::again`], [`Reactor::next_ready`], [`Reactor::accept`]), or what was appended to an output was not
    /// sent yet. Sets `ready`.
    ///
    /// # Errors
    /// The poll itself failed.
    pub fn wait(&mut self, timeout: Option<Duration>, ready: &mut Ready) -> io::Result<()> {
        ready.accept = std::mem::take(&mut self.accept_again);
        ready.own = false;
        let has_listed = self.listed.iter().any(|queue| !queue.is_empty());
        let is_left = ready.accept || has_listed || !self.again.is_empty() || self.has_unsent();
        let timeout = if is_left { Some(Duration::ZERO) } else { timeout };
        match self.poll.poll(&mut self.events, timeout) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => self.events.clear(),
            other => other?,
        }
        let listed = &mut self.listed;
        let mut list = |conn: &mut Conn<T>| {
            if !std::mem::replace(&mut conn.is_listed, true) {
                listed[usize::from(conn.state.is_urgent())].push_back(conn.id);
            }
        };
        for id in self.again.drain(..) {
            let Some(conn) = lookup(&mut self.conns, id) else { continue };
            conn.is_again = false;
            list(conn);
        }
        for event in &self.events {
            match event.token() {
                LISTENER => ready.accept = true,
                WAKER => {}
                OWN => ready.own = true,
                token => {
                    // A late event of a connection that is gone: its generation is not that of the slot's tenant.
                    let Some(conn) = lookup(&mut self.conns, conn_id(token)) else { continue };
                    conn.on_event(event.is_readable(), event.is_writable(), event.is_read_closed());
                    list(conn);
                }
            }
        }
        Ok(())
    }

    /// The next connection on which something happened, of the urgent ones or of the others. Those that are not taken
    /// in one turn come first in the next.
    pub fn next_ready(&mut self, is_urgent: bool) -> Option<ConnId> {
        while let Some(id) = self.listed[usize::from(is_urgent)].pop_front() {
            if let Some(conn) = lookup(&mut self.conns, id) {
                conn.is_listed = false;
                return Some(id);
            }
        }
        None
    }

    /// Accepts what is waiting, up to a bound a turn (those behind it are the next turn's) and to `room` connections.
    /// Returns how many were taken, or lost in the taking. Pauses where there is no room, or, saying so in the log, where
    /// the system has no descriptors or memory left: [`Reactor::resume_accepting`].
    pub fn accept(&mut self, room: usize, mut state: impl FnMut(SocketAddr) -> T) -> usize {
        let mut accepted = 0;
        let Some(listener) = &self.listener else { return accepted };
        while accepted < ACCEPTS_PER_TURN {
            if accepted >= room {
                self.accept_paused = true;
                return accepted;
            }
            match listener.accept() {
                Ok((socket, peer)) => {
                    let state = state(peer);
                    if let Err(e) = insert(
                        &self.poll,
                        &mut self.conns,
                        &mut self.next_generation,
                        Conn::accepted(socket, peer, state),
                    ) {
                        log::warn!("a connection of {peer} could not be set up: {e}");
                    }
                    accepted += 1;
                    self.out_of_descriptors = false;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return accepted,
                Err(e) if e.raw_os_error().is_some_and(|code| OUT_OF_RESOURCES.contains(&code)) => {
                    if !std::mem::replace(&mut self.out_of_descriptors, true) {
                        log::warn!("the system has no room for a new connection ({e}): accepting pauses until it has");
                    }
                    self.accept_paused = true;
                    return accepted;
                }
                // The connection went away before it was accepted, or the network has a fault: the next may be good.
                Err(e) => {
                    log::debug!("accept: {e}");
                    accepted += 1;
                }
            }
        }
        self.accept_again = true;
        accepted
    }

    /// Whether accepting stopped for want of room, so that [`Reactor::accept`] must be called again by itself.
    #[must_use]
    pub fn accept_is_paused(&self) -> bool {
        self.accept_paused
    }

    /// Takes back a pause; the caller accepts again.
    pub fn resume_accepting(&mut self) {
        self.accept_paused = false;
    }

    /// Closes the listener: nobody new comes in.
    pub fn stop_listening(&mut self) {
        self.listener = None;
    }

    /// Starts a connection to `to`. It is up at its first writable event without an error ([`Conn::is_connected`]).
    ///
    /// # Errors
    /// It could not even be started.
    pub fn connect(&mut self, to: SocketAddr, state: T) -> io::Result<ConnId> {
        let socket = TcpStream::connect(to)?;
        insert(&self.poll, &mut self.conns, &mut self.next_generation, Conn::dialled(socket, to, state))
    }

    /// The connection, if it is still there.
    pub fn get(&mut self, id: ConnId) -> Option<&mut Conn<T>> {
        lookup(&mut self.conns, id)
    }

    /// All connections.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Conn<T>> {
        self.conns.iter_mut().map(|(_, conn)| conn)
    }

    /// How many connections there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.conns.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.conns.is_empty()
    }

    /// System calls on sockets so far.
    #[must_use]
    pub fn calls(&self) -> SocketCalls {
        self.calls
    }

    /// Bytes that stand in all connections' buffers; of the outputs, as of the last flush.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// The connection has work left that no event will announce: it is ready again in the next turn.
    pub fn again(&mut self, id: ConnId) {
        if let Some(conn) = lookup(&mut self.conns, id)
            && !conn.is_again
        {
            conn.is_again = true;
            self.again.push(id);
        }
    }

    /// Reads once from the socket, and lends all bytes that are not consumed yet: those left from before, then the new
    /// ones. `want`: how many more are known to be needed; a larger body is read in larger steps. The buffer goes back
    /// by [`Reactor::give_back`], always.
    ///
    /// Where nothing was left, the bytes stand in the one buffer that all connections share, so that an idle connection
    /// holds no memory.
    pub fn read(&mut self, id: ConnId, want: usize) -> (Buffer, Filled) {
        let mut buffer = self.borrow(id);
        let mut step = READ_BYTES;
        if buffer.len() <= MOVED_BYTES && want <= READ_BYTES {
            let left = std::mem::replace(&mut buffer, std::mem::take(&mut self.scratch));
            if !left.is_empty() {
                buffer.extend(left.data());
            }
            self.keep_large(left.into_memory());
        } else {
            step = buffer.len().clamp(MOVED_BYTES, READ_BYTES);
            if want > 0 {
                // More would make the buffer grow once more for the last of a body.
                step = step.min(want);
            }
            let wanted = buffer.len() + want;
            if buffer.capacity() <= SHARED_BYTES
                && let Some(large) = take_large(&mut self.large, wanted)
            {
                let left = std::mem::replace(&mut buffer, Buffer::on(large));
                buffer.extend(left.data());
            }
        }
        let Some(conn) = lookup(&mut self.conns, id) else { return (buffer, Filled::Gone) };
        let filled = conn.fill(&mut buffer, want.clamp(step, READ_LARGE_BYTES), &mut self.calls);
        (buffer, filled)
    }

    /// Lends the bytes that were left, without reading.
    pub fn borrow(&mut self, id: ConnId) -> Buffer {
        let Some(conn) = lookup(&mut self.conns, id) else { return Buffer::default() };
        self.held_bytes -= conn.input.len() as u64;
        std::mem::take(&mut conn.input)
    }

    /// Takes a lent buffer back; its first `consumed` bytes are done with.
    pub fn give_back(&mut self, id: ConnId, mut buffer: Buffer, consumed: usize) {
        buffer.consume(consumed);
        if let Some(conn) = lookup(&mut self.conns, id)
            && !buffer.is_empty()
        {
            assert!(conn.input.capacity() == 0, "a connection's input was lent twice");
            self.held_bytes += buffer.len() as u64;
            if self.scratch.capacity() > 0 || buffer.capacity() > SHARED_BYTES {
                conn.input = buffer;
                return;
            }
            // It is the shared buffer: what is left moves to one of the connection's own.
            conn.input.extend(buffer.data());
        }
        let all = buffer.len();
        buffer.consume(all);
        if self.scratch.capacity() == 0 && buffer.capacity() <= SHARED_BYTES {
            self.scratch = buffer;
        } else {
            self.keep_large(buffer.into_memory());
        }
    }

    /// The connection's output, to append to, and its state. What is appended leaves with the next
    /// [`Reactor::flush_dirty`]. `bytes`: about how many will be, where it may be many. `None`: the connection is gone.
    pub fn output(&mut self, id: ConnId, bytes: usize) -> Option<(&mut Vec<u8>, &mut T)> {
        let conn = lookup(&mut self.conns, id)?;
        if conn.output.capacity() == 0 {
            if let Some(mut buffer) = take_large(&mut self.large, bytes) {
                buffer.clear();
                conn.output = buffer;
            } else if let Some(buffer) = self.pool.pop() {
                self.pool_bytes -= buffer.capacity();
                conn.output = buffer;
            }
        }
        if !conn.is_dirty {
            conn.is_dirty = true;
            self.dirty[usize::from(conn.state.is_urgent())].push(id);
        }
        Some((&mut conn.output, &mut conn.state))
    }

    /// Writes what was appended, and to the sockets that became writable: directly, until they are full. First to those
    /// that are urgent, at most `SENT_URGENT_BYTES` to each; to the others at most `SENT_BYTES` together: the rest is
    /// the next turn's, in which another comes first. `added`: bytes that this turn may have added for each urgent one.
    /// `done` hears of each of them, as it is then.
    pub fn flush_dirty(&mut self, now_ms: u64, added: usize, mut done: impl FnMut(&mut Conn<T>)) {
        for is_urgent in [true, false] {
            let mut dirty = std::mem::take(&mut self.dirty[usize::from(is_urgent)]);
            let mut room = if is_urgent { SENT_URGENT_BYTES.max(2 * added) } else { SENT_BYTES };
            dirty.retain(|id| {
                let Some(conn) = lookup(&mut self.conns, *id) else { return false };
                // What it holds stays unsent, so that its owner can tell what was begun.
                if conn.is_doomed {
                    conn.is_dirty = false;
                    return false;
                }
                if room > 0 {
                    let sent = conn.flush(now_ms, room, &mut self.calls);
                    room -= if is_urgent { 0 } else { sent };
                    conn.is_dirty = conn.can_send();
                }
                self.held_bytes -= conn.counted as u64;
                conn.counted = conn.output.len();
                self.held_bytes += conn.counted as u64;
                let buffer = if conn.output.is_empty() { std::mem::take(&mut conn.output) } else { Vec::new() };
                let is_left = conn.is_dirty;
                done(conn);
                self.recycle(buffer);
                is_left
            });
            // Another comes first the next time: one that takes much would take all of every turn.
            if !dirty.is_empty() {
                dirty.rotate_left(1);
            }
            self.dirty[usize::from(is_urgent)] = dirty;
        }
    }

    /// Writes what one connection's output holds at once: it is about to be closed.
    pub fn flush(&mut self, id: ConnId, now_ms: u64) {
        if let Some(conn) = lookup(&mut self.conns, id) {
            conn.flush(now_ms, usize::MAX, &mut self.calls);
        }
    }

    /// Whether [`Reactor::flush_dirty`] has something to do: something was appended since, or left by it.
    fn has_unsent(&self) -> bool {
        self.dirty.iter().any(|list| !list.is_empty())
    }

    /// Marks a connection for [`Reactor::flush_dirty`] though nothing was appended: it became writable.
    pub fn touch(&mut self, id: ConnId) {
        let _ = self.output(id, 0);
    }

    /// Closes at the end of the turn. What stands in the output is not sent.
    pub fn close(&mut self, id: ConnId) {
        if let Some(conn) = lookup(&mut self.conns, id)
            && !conn.is_doomed
        {
            conn.is_doomed = true;
            self.doomed.push(id);
        }
    }

    /// Ends the turn: removes the connections that were closed, and hands each to `gone`.
    pub fn reap(&mut self, mut gone: impl FnMut(Conn<T>)) {
        for at in 0..self.doomed.len() {
            let id = self.doomed[at];
            if lookup(&mut self.conns, id).is_none() {
                continue;
            }
            let mut conn = self.conns.remove(id.slot as usize);
            self.held_bytes -= (conn.counted + conn.input.len()) as u64;
            if let Err(e) = self.poll.registry().deregister(&mut conn.socket) {
                log::debug!("deregister: {e}");
            }
            gone(conn);
        }
        self.doomed.clear();
    }

    fn recycle(&mut self, mut buffer: Vec<u8>) {
        let bytes = buffer.capacity();
        if (1..=POOL_BUFFER_BYTES).contains(&bytes) && self.pool_bytes + bytes <= POOL_BYTES {
            buffer.clear();
            self.pool_bytes += bytes;
            self.pool.push(buffer);
        } else {
            self.keep_large(buffer);
        }
    }

    fn keep_large(&mut self, buffer: Vec<u8>) {
        let is_large = (SHARED_BYTES + 1..=LARGE_BUFFER_BYTES).contains(&buffer.capacity());
        if is_large && self.large.len() < LARGE_BUFFERS {
            self.large.push(buffer);
        }
    }
}

/// The descriptors of the process, or of the system, or its memory, are used up.
const OUT_OF_RESOURCES: [i32; 4] = {
    use rustix::io::Errno;
    [
        Errno::MFILE.raw_os_error(),
        Errno::NFILE.raw_os_error(),
        Errno::NOBUFS.raw_os_error(),
        Errno::NOMEM.raw_os_error(),
    ]
};

/// One for so many bytes, which are many, and none that is far larger: what a connection holds is counted by the bytes.
fn take_large(large: &mut Vec<Vec<u8>>, bytes: usize) -> Option<Vec<u8>> {
    if bytes <= SHARED_BYTES {
        return None;
    }
    let fits = large.iter().enumerate().filter(|(_, buffer)| buffer.capacity() / 2 <= bytes);
    let (longest, _) = fits.max_by_key(|(_, buffer)| buffer.capacity())?;
    Some(large.swap_remove(longest))
}

fn lookup<T>(conns: &mut Slab<Conn<T>>, id: ConnId) -> Option<&mut Conn<T>> {
    conns.get_mut(id.slot as usize).filter(|conn| conn.id == id)
}

fn insert<T>(poll: &Poll, conns: &mut Slab<Conn<T>>, generation: &mut u32, mut conn: Conn<T>) -> io::Result<ConnId> {
    let entry = conns.vacant_entry();
    let slot = u32::try_from(entry.key()).expect("fewer than 2^32 connections");
    // The top of the range of tokens is the reactor's own: a generation of all ones is not given out.
    *generation = if *generation >= u32::MAX - 1 { 0 } else { *generation + 1 };
    conn.id = ConnId { slot, generation: *generation };
    // Small answers must not wait for the acknowledgement of earlier ones.
    conn.socket.set_nodelay(true)?;
    poll.registry().register(&mut conn.socket, token(conn.id), Interest::READABLE | Interest::WRITABLE)?;
    let id = conn.id;
    entry.insert(conn);
    Ok(id)
}

fn token(id: ConnId) -> Token {
    Token((id.generation as usize) << 32 | id.slot as usize)
}

fn conn_id(token: Token) -> ConnId {
    ConnId { slot: (token.0 & 0xffff_ffff) as u32, generation: (token.0 >> 32) as u32 }
}

#[cfg(test)]
mod tests;

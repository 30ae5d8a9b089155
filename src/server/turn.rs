//! Owns: the turn of the event loop, the clock, the signals, and the deadlines of connections. This is the one file
//! that sees all the others.
//!
//! [`Server::turn`] is the whole product on one page: wait → read → timers → store → send → background → reap.
//!
//! Never: protocol rules, file formats, how a request is parsed or answered.

use std::io;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use signal_hook_mio::v1_0::Signals;

use super::ServeError;
use super::browser::AllowedHosts;
use super::conn::{Client, Ledger, Role, Stage};
use super::core::Core;
use super::known::KnownGet;
use super::longest::LongestTurn;
use super::metrics::{Metrics, TurnPhase};
use super::sink::Out;
use crate::config::Cluster;
use crate::http::response::DateCache;
use crate::http::{KnownLines, Limits, Phase};
use crate::id::{ConnId, NodeId, Now};
use crate::peers::{BEACON_MS, Peers};
use crate::reactor::{Closing, Conn, Reactor, Ready};
use crate::store::files::RealDisk;
use crate::wire::Class;

/// How often the deadlines of connections are looked at, in milliseconds.
const SWEEP_MS: u64 = 250;
/// After this long without a write the log gets its last mark, in milliseconds.
const IDLE_LOG_MS: u64 = 100;
/// A node that stops waits so long for the first request of a connection, in milliseconds.
const FIRST_MS: u64 = 1_000;
/// Connections above `limits.max_connections` that are accepted all the same: peers come by the same door.
pub(super) const PEER_RESERVE: usize = 64;
/// Bytes of background work in a turn at most.
const BACKGROUND_BYTES: u64 = 32 * 1024;
/// A turn that has taken so many nanoseconds leaves it to the next one.
const LONG_TURN_NS: u64 = 1_000_000;
/// So long a turn reads from links, and again from clients, in nanoseconds: those that were not reached come first in the
/// next one. What follows from what was read takes longer than the reading: sending, the store.
const READ_NS: u64 = 300_000;
/// So many clients a turn reads from: they are answered while their sockets are still in the processor's cache.
const READ_CLIENTS: usize = 96;
/// After so many bytes of records the rest of a reading is the next turn's, too: they are still to be written and sent,
/// and compaction works in proportion to them.
const READ_RECORD_BYTES: usize = 512 << 10;
/// However much the turn before has left to be written: small requests do not wait for all of that.
const READ_RECORD_LEAST_BYTES: usize = 16 << 10;
/// How long a connection above the limit may take to show that it is a peer's, in milliseconds.
const SURPLUS_MS: u64 = 1_000;
/// A body gets this long before its rate counts, in milliseconds.
const BODY_GRACE_MS: u64 = 10_000;

/// A running node.
pub struct Server {
    pub(super) cluster: Cluster,
    pub(super) me: NodeId,
    pub(super) limits: Limits,
    pub(super) known_lines: KnownLines,
    pub(super) known_get: KnownGet,
    pub(super) hosts: AllowedHosts,
    pub(super) max_connections: usize,
    pub(super) reactor: Reactor<Role>,
    pub(super) core: Core<RealDisk>,
    pub(super) peers: Peers,
    pub(super) metrics: Metrics,
    pub(super) ledger: Ledger,
    pub(super) now: Now,
    /// When this turn began: what was read since has waited from here on.
    pub(super) woke_ns: u64,
    /// See [`READ_NS`].
    reads_until_ns: u64,
    /// See [`READ_RECORD_BYTES`].
    reads_until_bytes: usize,
    pub(super) date: DateCache,
    pub(super) scratch: super::api::Scratch,
    pub(super) identity: super::link::Identity,
    pub(super) draining_until_ms: Option<u64>,
    /// How many of the connections are peer links: those are no clients.
    pub(super) links: usize,
    pub(super) started_wall_ms: u64,
    signals: Signals,
    next_sweep_ms: u64,
    next_beacon_ms: u64,
    last_write_ms: u64,
    written: crate::id::Lsn,
    log_is_idle: bool,
    has_background: bool,
    /// The last turn left its background work to this one.
    leaves_background: bool,
    /// The store's damage was said, here or at the start.
    damage_is_told: bool,
    has_more: bool,
    /// A write or a sync failed while a message was taken.
    pub(super) fatal: Option<crate::store::Fatal>,
    /// What operators asked for and is not answered.
    pub(super) operations: Vec<super::operate::Operation>,
    /// Those who forward requests here were told that this node stops.
    said_goodbye: bool,
    sync_since_ns: Option<(u64, u64)>,
    longest_turn: Option<LongestTurn>,
}

/// What a server is made of.
pub(super) struct Parts {
    pub cluster: Cluster,
    pub me: NodeId,
    pub reactor: Reactor<Role>,
    pub core: Core<RealDisk>,
    pub signals: Signals,
    pub max_connections: usize,
    pub identity: super::link::Identity,
}

impl Server {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { cluster, me, reactor, mut core, signals, max_connections, mut identity } = parts;
        let settings = cluster.settings();
        let limits = Limits {
            max_key_bytes: settings.limits.max_key_bytes,
            max_value_bytes: settings.limits.max_value_bytes,
            max_head_bytes: settings.limits.max_head_bytes,
            ..Limits::default()
        };
        let hosts =
            AllowedHosts::new(cluster.node(me).address, &settings.http.allowed_hosts, &settings.http.allowed_origins);
        let mut peers = Peers::new(me, cluster.nodes().len(), identity.incarnation);
        for node in cluster.node_ids().filter(|node| *node != me) {
            peers.want(node, Class::Control);
        }
        let now = now();
        core.at(now);
        identity.cluster = core.cluster_id();
        let written = core.store().end();
        let damage_is_told = core.store().health().is_some();
        Self {
            limits,
            known_lines: KnownLines::default(),
            known_get: KnownGet::default(),
            hosts,
            max_connections,
            reactor,
            core,
            peers,
            metrics: Metrics::default(),
            ledger: Ledger::default(),
            now,
            woke_ns: now.boot_ns,
            reads_until_ns: now.boot_ns,
            reads_until_bytes: 0,
            date: DateCache::new(now.wall_ms / 1_000),
            scratch: super::api::Scratch::default(),
            identity,
            draining_until_ms: None,
            links: 0,
            started_wall_ms: now.wall_ms,
            signals,
            next_sweep_ms: 0,
            next_beacon_ms: 0,
            last_write_ms: now.ms(),
            written,
            log_is_idle: false,
            has_background: true,
            leaves_background: false,
            damage_is_told,
            has_more: true,
            fatal: None,
            operations: Vec::new(),
            said_goodbye: false,
            sync_since_ns: None,
            longest_turn: LongestTurn::if_asked(now.boot_ns, thread_cpu_ns()),
            cluster,
            me,
        }
    }

    /// Turns until told to stop; then closes the store.
    pub(super) fn run(mut self) -> Result<(), ServeError> {
        let mut ready = Ready::default();
        while !self.is_finished() {
            self.turn(&mut ready)?;
        }
        log::info!("stopping: the log gets its last mark");
        self.core.close().map_err(|e| ServeError(e.to_string()))
    }

    /// One turn.
    fn turn(&mut self, ready: &mut Ready) -> Result<(), ServeError> {
        let fatal = |e: crate::store::Fatal| ServeError(e.to_string());
        let begin = self.now.boot_ns;
        self.reactor.wait(self.timeout(), ready).map_err(|e| ServeError(format!("the event loop failed: {e}")))?;
        self.now.wall_ms = wall_ms();
        self.tell_time();
        self.woke_ns = self.now.boot_ns;
        let begin = self.phase(TurnPhase::Wait, begin);

        if ready.own {
            self.on_signal();
        }
        self.read();
        self.begin_requests();
        if ready.accept || self.reactor.accept_is_paused() {
            self.accept();
        }
        self.tell_time();
        let begin = self.phase(TurnPhase::Read, begin);

        self.timers();
        self.tell_time();
        let begin = self.phase(TurnPhase::Timers, begin);

        if let Some(failed) = self.fatal.take() {
            return Err(fatal(failed));
        }
        let added = self.core.unwritten_bytes();
        let (core, mut out) = self.core_and_sink();
        self.has_more = core.flush(&mut out).map_err(fatal)?;
        self.watch_log();
        self.tell_time();
        let begin = self.phase(TurnPhase::Store, begin);

        self.send(added);
        // What is told to the others when the cluster has just been formed is on its way.
        self.mind_cluster();
        self.tell_time();
        let begin = self.phase(TurnPhase::Send, begin);

        // Once only: where all turns are long, it would never be done.
        self.leaves_background = !self.leaves_background && self.now.boot_ns >= self.woke_ns + LONG_TURN_NS;
        self.has_background =
            self.leaves_background || self.core.store_mut().background(BACKGROUND_BYTES).map_err(fatal)?;
        if !self.log_is_idle && self.now.ms() >= self.last_write_ms + IDLE_LOG_MS {
            self.core.store_mut().mark_idle().map_err(fatal)?;
            self.log_is_idle = true;
        }
        self.reap();
        self.tell_time();
        self.phase(TurnPhase::Background, begin);
        self.metrics.turns += 1;
        if let Some(longest) = &mut self.longest_turn {
            longest.turn_ended(self.now.boot_ns);
        }
        Ok(())
    }

    /// Reads from those that are ready, as much as a turn may. Links before clients: a flood of requests must not delay a
    /// beacon or an answer of a peer.
    fn read(&mut self) {
        // What the turn before left to be written, of what had waited, is the clients' as well.
        let begun_bytes = self.core.unwritten_bytes();
        for is_urgent in [true, false] {
            let taken_bytes = if is_urgent { 0 } else { begun_bytes };
            let most_bytes = READ_RECORD_BYTES.saturating_sub(taken_bytes).max(READ_RECORD_LEAST_BYTES);
            self.reads_until_ns = self.now.boot_ns + READ_NS;
            self.reads_until_bytes = self.core.unwritten_bytes() + most_bytes;
            let mut left = if is_urgent { usize::MAX } else { READ_CLIENTS };
            while left > 0
                && !(self.has_read_enough() || !is_urgent && self.core.is_behind())
                && let Some(id) = self.reactor.next_ready(is_urgent)
            {
                left -= 1;
                match self.reactor.get(id).map(|conn| &conn.state) {
                    Some(Role::Link(_)) => self.on_link_ready(id),
                    _ => self.on_client_ready(id),
                }
            }
        }
    }

    /// Begins requests that were put off: some at least, all if there is time. None where the clients have brought this turn's
    /// fill of records, and none was left already: then no client is read before them in the next.
    fn begin_requests(&mut self) {
        if self.core.unwritten_bytes() >= self.reads_until_bytes && self.core.leaves_all() {
            return;
        }
        loop {
            let (core, mut out) = self.core_and_sink();
            if !core.begin_some(&mut out) || self.now.boot_ns >= self.reads_until_ns {
                return;
            }
            self.tell_time();
        }
    }

    /// Whether the rest is the next turn's.
    pub(super) fn has_read_enough(&self) -> bool {
        self.now.boot_ns >= self.reads_until_ns || self.core.unwritten_bytes() >= self.reads_until_bytes
    }

    /// Reads the clocks: after the sockets, never before, so that no answer is judged by a moment that lies before its
    /// request was read.
    pub(super) fn tell_time(&mut self) {
        self.now.boot_ns = boot_ns();
        self.core.at(self.now);
    }

    fn phase(&mut self, phase: TurnPhase, begin: u64) -> u64 {
        self.metrics.spent(phase, self.now.boot_ns.saturating_sub(begin));
        if let Some(longest) = &mut self.longest_turn {
            longest.phase_ended(phase, thread_cpu_ns());
        }
        self.now.boot_ns
    }

    pub(super) fn core_and_sink(&mut self) -> (&mut Core<RealDisk>, Out<'_>) {
        let out = Out {
            reactor: &mut self.reactor,
            peers: &mut self.peers,
            metrics: &mut self.metrics,
            ledger: &mut self.ledger,
            date: self.date.at(self.now.wall_ms / 1_000),
            now_ns: self.now.boot_ns,
            max_inflight_bytes: self.cluster.settings().limits.max_inflight_bytes,
            core_held_bytes: self.core.held_bytes(),
        };
        (&mut self.core, out)
    }

    fn timeout(&self) -> Option<Duration> {
        if self.has_background || self.has_more || self.core.has_left() {
            return Some(Duration::ZERO);
        }
        let mut next = self.next_beacon_ms;
        if !self.reactor.is_empty() || self.draining_until_ms.is_some() {
            next = next.min(self.next_sweep_ms);
        }
        next = next.min(self.core.next_tick_ms());
        if !self.operations.is_empty() {
            next = next.min(self.now.ms() + super::operate::LOOK_MS);
        }
        // A stopping node dials nobody.
        if let Some(peers) = self.peers.next_ms().filter(|_| self.draining_until_ms.is_none()) {
            next = next.min(peers);
        }
        if !self.log_is_idle {
            next = next.min(self.last_write_ms + IDLE_LOG_MS);
        }
        // A millisecond more than needed rather than one turn too many.
        Some(Duration::from_millis(next.saturating_sub(self.now.ms()) + 1).min(Duration::from_secs(1)))
    }

    /// Connections that are no links.
    pub(super) fn clients(&self) -> usize {
        self.reactor.len() - self.links
    }

    /// Takes in who has connected, up to a bound; how many.
    fn accept(&mut self) -> usize {
        self.reactor.resume_accepting();
        let (now_ms, most, mut count) = (self.now.ms(), self.max_connections, self.clients());
        let room = (most + PEER_RESERVE).saturating_sub(count);
        let accepted = self.reactor.accept(room, |_| {
            count += 1;
            Role::Client(Client::new(now_ms, count > most))
        });
        self.metrics.accepted += accepted as u64;
        accepted
    }

    fn timers(&mut self) {
        let now_ms = self.now.ms();
        if self.draining_until_ms.is_some() {
            let is_busy = self.is_busy();
            self.core.set_busy(is_busy);
        }
        if now_ms >= self.core.next_tick_ms() {
            let (core, mut out) = self.core_and_sink();
            core.tick(&mut out);
        }
        self.answer_operators();
        if self.draining_until_ms.is_some()
            && !self.said_goodbye
            && (!self.core.copy().leads() || self.core.leaves_no_successor())
        {
            self.said_goodbye = true;
            self.say_goodbye();
        }
        self.dial_what_is_due();
        if now_ms >= self.next_beacon_ms {
            self.next_beacon_ms = now_ms + BEACON_MS;
            self.send_beacons();
        }
        if now_ms >= self.next_sweep_ms {
            self.next_sweep_ms = now_ms + SWEEP_MS;
            self.sweep();
        }
    }

    /// Notes what the log did in this turn: whether it was written, found damaged, and how long its syncs take.
    fn watch_log(&mut self) {
        let end = self.core.store().end();
        if end != self.written {
            self.written = end;
            self.last_write_ms = self.now.ms();
            self.log_is_idle = false;
        }
        self.damage_is_told &= self.core.store().health().is_some();
        if !self.damage_is_told
            && let Some(damage) = self.core.store().health()
        {
            log::error!("{damage}. This copy serves no more requests; dkv log verify checks its data directory");
            self.damage_is_told = true;
        }
        let syncs = self.core.store().syncs();
        if let Some((number, since_ns)) = self.sync_since_ns
            && syncs.completed >= number
        {
            self.metrics.fsync.observe_ns(self.now.boot_ns.saturating_sub(since_ns));
            self.sync_since_ns = None;
        }
        if self.sync_since_ns.is_none() && syncs.started > syncs.completed {
            self.sync_since_ns = Some((syncs.started, self.now.boot_ns));
        }
    }

    /// Sends what was queued, and wakes the clients that were paused for it.
    /// `added`: bytes of records that go to the other copies.
    fn send(&mut self, added: usize) {
        let now_ms = self.now.ms();
        let max_pipeline = self.cluster.settings().limits.max_pipeline;
        let mut again = Vec::new();
        self.reactor.flush_dirty(now_ms, added, |conn| {
            let output_bytes = conn.output_bytes();
            if conn.is_broken || matches!(conn.closing, Closing::Lingering { .. }) {
                again.push(conn.id);
            } else if let Role::Client(client) = &mut conn.state
                && client.is_paused
                && !client.must_pause(output_bytes, max_pipeline)
            {
                again.push(conn.id);
            }
        });
        self.ledger.queued_bytes = 0;
        for id in again {
            self.reactor.again(id);
        }
    }

    /// Bytes in flight: in buffers, in kept requests, and promised.
    pub(super) fn inflight_bytes(&self) -> u64 {
        self.reactor.held_bytes() + self.core.held_bytes() + self.ledger.bytes()
    }

    /// Looks at every connection's deadline.
    fn sweep(&mut self) {
        let now_ms = self.now.ms();
        let deadlines = self.cluster.settings().deadlines.clone();
        let mut late: Vec<(ConnId, Late)> = Vec::new();
        for conn in self.reactor.iter_mut() {
            if let Some(why) = judge(conn, now_ms, &deadlines, self.draining_until_ms.is_some(), &self.peers) {
                late.push((conn.id, why));
            }
        }
        for (id, why) in late {
            self.metrics.timeouts += u64::from(!matches!(why, Late::Drained));
            match why {
                Late::Answer(setting) => self.refuse_late(id, setting),
                Late::Close | Late::Drained => self.reactor.close(id),
            }
        }
    }

    fn on_signal(&mut self) {
        for signal in self.signals.pending() {
            if self.draining_until_ms.is_some() {
                log::warn!("signal {signal} again: exiting now");
                std::process::exit(1);
            }
            log::info!("signal {signal}: no longer ready; finishing what is under way");
            self.draining_until_ms = Some(self.now.ms() + self.cluster.settings().deadlines.drain_ms);
            // Who has connected already is answered.
            while self.accept() > 0 {}
            self.reactor.stop_listening();
            self.next_sweep_ms = 0;
            let (core, mut out) = self.core_and_sink();
            core.stop(&mut out);
        }
    }

    /// Whether a stopping node has nothing more to do.
    fn is_finished(&mut self) -> bool {
        let Some(until) = self.draining_until_ms else { return false };
        if self.now.ms() >= until {
            log::warn!("not everything under way could be finished within deadlines.drain_ms");
            return true;
        }
        !self.is_busy() && self.core.is_idle() && self.core.is_released()
    }

    /// Whether something is on its way to somebody, or may come from somebody.
    fn is_busy(&mut self) -> bool {
        let now_ms = self.now.ms();
        self.reactor.iter_mut().any(|conn| match &conn.state {
            Role::Client(client) => {
                let is_new = client.pipeline.pushed() == 0 && now_ms < client.since_ms + FIRST_MS;
                let is_idle = client.pipeline.is_empty() && client.decoder.phase() == Phase::Idle;
                is_new || !is_idle || conn.output_bytes() > 0 || conn.has_news()
            }
            // Who forwards requests here was told, and closes the link when it has its answers.
            Role::Link(link) => {
                conn.output_bytes() > 0 || (link.brings_requests() && !self.core.is_copy_of_my_shard(link.node))
            }
        })
    }

    fn reap(&mut self) {
        let mut gone = Vec::new();
        self.reactor.reap(|conn| gone.push(conn));
        for conn in gone {
            self.on_gone(conn);
        }
    }
}

/// Why a connection is closed at a sweep.
enum Late {
    /// With 408, which names the setting.
    Answer(&'static str),
    /// Without a word.
    Close,
    /// The node stops, and the connection is idle.
    Drained,
}

fn judge(
    conn: &mut Conn<Role>,
    now_ms: u64,
    deadlines: &crate::config::Deadlines,
    draining: bool,
    peers: &Peers,
) -> Option<Late> {
    if let Closing::Lingering { until_ms } = conn.closing {
        return (now_ms >= until_ms).then_some(Late::Close);
    }
    if conn.stalled_since_ms.is_some_and(|since| now_ms >= since + deadlines.stall_ms) {
        return Some(Late::Close);
    }
    let input_bytes = conn.input_bytes() as u64;
    let output_bytes = conn.output_bytes();
    let has_news = conn.has_news();
    match &mut conn.state {
        Role::Link(link) => {
            // Its beacons and their answers may stand behind bulk that is on its way.
            if output_bytes > 0 && conn.written_bytes != link.written_bytes && link.stage == Stage::Up {
                link.heard_ms = now_ms;
            }
            link.written_bytes = conn.written_bytes;
            let is_up = link.stage == Stage::Up;
            let patience_ms = if is_up { peers.patience_ms(link.node, link.class) } else { crate::peers::DIAL_MS };
            (now_ms >= link.heard_ms + patience_ms).then_some(Late::Close)
        }
        Role::Client(client) => {
            let phase = client.decoder.phase();
            let waits_for_us = !client.pipeline.is_empty() || client.is_paused || output_bytes > 0;
            let request = client.pipeline.pushed();
            if phase != client.phase || request != client.request || waits_for_us {
                client.phase = phase;
                client.request = request;
                client.since_ms = now_ms;
                client.body_bytes = input_bytes;
            }
            let spent_ms = now_ms - client.since_ms;
            match phase {
                // What it has sent and was not read yet is judged when it was.
                _ if waits_for_us || has_news => None,
                Phase::Idle if draining => (request > 0 || spent_ms >= FIRST_MS).then_some(Late::Drained),
                // The room that it takes is the peers'.
                _ if client.is_surplus => (spent_ms >= SURPLUS_MS).then_some(Late::Close),
                Phase::Idle => (spent_ms >= deadlines.idle_ms).then_some(Late::Close),
                Phase::Head => (spent_ms >= deadlines.head_ms).then_some(Late::Answer("deadlines.head_ms")),
                Phase::Body => {
                    let came = input_bytes.saturating_sub(client.body_bytes);
                    let due = deadlines.body_min_bytes_per_s * spent_ms.saturating_sub(BODY_GRACE_MS) / 1_000;
                    (spent_ms >= BODY_GRACE_MS && came < due).then_some(Late::Answer("deadlines.body_min_bytes_per_s"))
                }
            }
        }
    }
}

/// The moment.
pub(super) fn now() -> Now {
    Now { boot_ns: boot_ns(), wall_ms: wall_ms() }
}

/// Nanoseconds of the clock that also counts while the machine sleeps.
pub(super) fn boot_ns() -> u64 {
    clock_ns(ClockId::CLOCK_BOOTTIME)
}

/// Nanoseconds that this thread has been computing. This clock is a system call.
fn thread_cpu_ns() -> u64 {
    clock_ns(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

fn wall_ms() -> u64 {
    clock_ns(ClockId::CLOCK_REALTIME) / 1_000_000
}

fn clock_ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).expect("Linux has had this clock since 2.6.39");
    time.tv_sec().unsigned_abs() * 1_000_000_000 + time.tv_nsec().unsigned_abs()
}

/// The signals that stop a node.
pub(super) fn stop_signals() -> io::Result<Signals> {
    Signals::new([signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT])
}

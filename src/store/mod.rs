//! Owns: the store: an append-only log in segment files and an index of it in memory; what is promised about both.
//! Never: clocks, roles, HTTP, sockets.
//!
//! # Files of a data directory
//!
//! ```text
//! VERSION LOCK              the directory itself: dir.rs
//! node voter                what belongs to no copy's data: home.rs
//! 1-state                   the small state: state.rs
//! 1-0000000000000001.log    segments, oldest first: the log; and at most one file that it will use again: reuse.rs
//! 1-0000000000000001.hint   what a sealed segment holds, so that a start need not read it: hint.rs
//! 1-spare                   space kept for a start on a full disk, and for compaction
//! *.tmp                     being written; removed or written anew by the next start
//! *.cut                     what `dkv log cut` set aside
//! ```
//!
//! The number before the dash is that of the *generation*: a copy that is filled from a peer is a fresh one beside the
//! old one, and the file `node` says which counts. A [`Store`] knows the names without it.
//!
//! # A segment
//!
//! Integers are little-endian. Head and seal have a sector each; records and marks begin at multiples of 8.
//!
//! ```text
//! 0     head    magic "dkv-log\n", u32 format, u32 compacted, u128 store, u64 seq, u64 seq_to, u64 salt,
//!               u64 purged, u32 reused, 12 × 0, u32 crc32c of all before
//! 512   seal    magic "dkv-seal", u64 salt, u64 first lsn, u64 last lsn, u64 end,
//!               u64 committed, u32 crc32c of all before
//! 1024  mark    repeats the last of the segment before
//!       records and marks, to the end; behind it reserved space: zeros, or, in a file that was an earlier segment's
//!       (reuse.rs), what that left
//!
//! record  0 u32 crc32c of bytes 4 to the end of the padding     mark  0 u32 crc32c of bytes 4 to 48
//!         4 u32 length without padding                                4 u32 48
//!         8 u64 lsn                                                   8 u64 last: the lsn before this mark
//!        16 u64 epoch                                                16 u64 synced
//!        24 u64 expiry in Unix ms, 0: never                          24 u64 committed
//!        32 u16 key length                                           32 u16 0
//!        34 u8  kind: 1 set, 2 delete, 4 jump                        34 u8  3
//!        35 5 × 0                                                    35 5 × 0
//!        40 key, value, zeros up to a multiple of 8                  40 u64 the segment's salt
//! ```
//!
//! A jump has neither key nor value: it says that there is no record between the one before it and its lsn. A record's
//! bytes depend on nothing but the record: replicas are sent the same. A mark is this node's own word on
//! what was durable and committed when it was written; the salt is secret, so that no value can contain one.
//!
//! # Invariants
//!
//! - `committed ≤ durable ≤ written ≤ end`: see [`Store::committed`] and its neighbours.
//! - lsns grow by one from record to record, over segment borders, too, but for jumps. Only compacted segments have
//!   gaps without one; their seals name the span that they stand for.
//! - At most two segments are in use and not sealed. The second is synced for the first time only when the seal of
//!   the first is durable: what a mark calls synced is in sealed segments, or in the first unsealed one, or in the
//!   second one whose predecessor is sealed.
//! - A segment's head, and its name in the directory, are durable before anything is written into it.
//! - Positions of committed records are in the index, those of pending ones in the overlay, and nowhere else. Jumps are
//!   in neither.
//!
//! # A turn
//!
//! ```
//! use dkv::id::{Epoch, Uuid};
//! use dkv::store::{Event, Home, Kind, Lookup, Options, Probe, SmallState, dir::DataDir, files::RealDisk};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path();
//! let address = "127.0.0.1:8080".parse()?;
//! let (wake, woken) = std::sync::mpsc::channel();
//! let disk = RealDisk::start(DataDir::open(path)?, move || wake.send(()).unwrap_or(()))?;
//! let fresh = || SmallState::new(Uuid(1), 3, true); // random numbers, really
//! let (_home, mut store, _recovery) = Home::open(disk, Options::default(), address, fresh)?;
//!
//! if let Probe::Absent { prior, .. } = store.probe(b"key", None) {
//!     let lsn = store.stage(Epoch(1), Kind::Set, b"key", b"value", 0, prior).map_err(|e| format!("{e:?}"))?;
//!     assert!(matches!(store.get(b"key", None), Lookup::Absent)); // not committed
//!     store.write_turn()?;
//!     while store.committed() < lsn {
//!         woken.recv()?;
//!         while let Some(event) = store.poll()? {
//!             if let Event::Durable(upto) = event {
//!                 store.commit(upto);
//!             }
//!         }
//!     }
//!     assert_eq!(store.get(b"key", None), Lookup::Found { lsn, value: b"value" });
//! }
//! store.close()?;
//! # Ok(())
//! # }
//! ```

mod append;
mod commit;
mod compaction;
pub mod dir;
pub mod disk;
pub mod files;
mod hint;
pub mod home;
pub mod index;
mod log_read;
mod mapped;
pub mod offline;
mod overlay;
mod read;
mod rebuild;
pub mod record;
mod recovery;
mod reuse;
mod scan;
pub mod segment;
mod small;
mod space;
pub mod state;
pub mod stopped;
mod sync;
mod truncate;

pub use append::{AppendError, StageError};
pub use home::{Home, HomeEvent, NodeState, VoterFile};
pub use index::{Candidate, KeyHash, Looked};
pub use log_read::{LogCursor, LogRead};
pub use overlay::Prior;
pub use read::{Arrived, Known, Lookup, Probe};
pub use record::Kind;
pub use recovery::{OpenError, Recovery};
pub use small::PersistId;
pub use state::SmallState;

use crate::id::Lsn;
use append::Log;
use commit::Commits;
use compaction::Compactor;
use disk::{Disk, Done, FileId, OpId};
use index::Index;
use log_read::LogReads;
use overlay::Overlay;
use record::Mark;
use reuse::Freed;
use segment::Segments;
use small::Small;
use space::Space;
use std::collections::{HashMap, VecDeque};
use std::io;

/// Settings of a store.
///
/// The promise on disk use: all files of the directory together stay below 2 × the live records (each takes key,
/// value and 40 bytes, rounded up to 8, in the log, and 18 bytes in a hint) + 2 × `segment_bytes`, however long keys
/// are overwritten, set and deleted, as long as no record is longer than `segment_bytes` / 16 and the disk keeps up.
/// To that end the log's files are a quarter of `segment_bytes` long, and compaction, whenever more than
/// `compact_dead_percent` of the sealed files is dead, works in proportion to what is appended and to what dies. Where
/// many long values are deleted at once, it holds again when compaction has caught up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// 256 KiB to 256 MiB. A file of the log is closed when it is a quarter as long; each file takes a descriptor.
    pub segment_bytes: u64,
    /// 5 to 45: how much of the sealed files may be dead before compaction begins.
    pub compact_dead_percent: u32,
    /// The most that may be staged and not committed: beyond it, [`StageError::Busy`].
    pub overlay_bytes: u64,
    /// Random at every start: the segments' salts derive from it and from the store's seed.
    pub entropy: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options { segment_bytes: 48 << 20, compact_dead_percent: 28, overlay_bytes: 64 << 20, entropy: 0 }
    }
}

impl Options {
    /// The length at which a file of the log is closed.
    fn file_bytes(&self) -> u64 {
        self.segment_bytes / 4
    }

    /// How much space is reserved at a time.
    fn step_bytes(&self) -> u64 {
        (self.file_bytes() / 16).next_multiple_of(512)
    }

    fn check(&self) -> Result<(), String> {
        let Options { segment_bytes, compact_dead_percent, .. } = self;
        if !(256 << 10..=256 << 20).contains(segment_bytes) || !segment_bytes.is_multiple_of(4096) {
            return Err(format!(
                "segment_bytes is {segment_bytes}: it must be a multiple of 4096 between 262144 and 268435456"
            ));
        }
        if !(5..=45).contains(compact_dead_percent) {
            return Err(format!("compact_dead_percent is {compact_dead_percent}: it must be between 5 and 45"));
        }
        Ok(())
    }
}

/// What [`Store::poll`] reports.
#[derive(Debug)]
pub enum Event {
    /// All records up to here are durable.
    Durable(Lsn),
    /// A cold read came back: ask again, giving it.
    Read(Arrived),
    /// The read that [`LogRead::Cold`] named came back: ask again.
    LogRead(OpId),
    /// The small state as of this [`Store::persist`], and of all before, is durable.
    Persisted(PersistId),
    /// The store is damaged, as [`Store::health`] says.
    Corrupt,
}

/// A write or a sync failed, and what is on the disk is not known any more. The process must say so and exit; the
/// next start finds out what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fatal(String);

impl Fatal {
    fn new(what: &str, error: &io::Error) -> Fatal {
        Fatal(format!(
            "{what} failed ({error}): what is on the disk is not known any more, so this process ends; check the disk \
             and start the node again"
        ))
    }
}

impl From<OpenError> for Fatal {
    fn from(error: OpenError) -> Fatal {
        Fatal(error.to_string())
    }
}

impl std::fmt::Display for Fatal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fatal {}

/// Where a store is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corruption {
    /// The file's name in the data directory.
    pub file: String,
    /// Bytes from the file's start.
    pub offset: u64,
    /// What is wrong there.
    pub reason: String,
}

impl std::fmt::Display for Corruption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is damaged at byte {}: {}", self.file, self.offset, self.reason)
    }
}

/// Figures for `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Bytes in the log of the newest committed records, tombstones not counted.
    pub live_bytes: u64,
    /// Bytes in the log of everything else: superseded records, tombstones, marks.
    pub dead_bytes: u64,
    /// Bytes that the files of the log take on disk: with hints, reserved space, the spare and a file that waits to be used
    /// again.
    pub log_bytes: u64,
    /// Files of the log.
    pub segments: u64,
    /// Compactions that were installed since the store was opened.
    pub compactions: u64,
    /// Bytes that compaction copied since the store was opened.
    pub compacted_bytes: u64,
    /// Bytes staged and not committed.
    pub overlay_bytes: u64,
    /// Entries of the index: keys with a value, and tombstones.
    pub index_entries: u64,
    /// Memory of the index, in bytes.
    pub index_bytes: u64,
    /// Whether the last attempt to reserve space found the disk full.
    pub disk_full: bool,
}

/// The log's syncs so far; the caller, who has a clock, learns from it how long the oldest has been under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SyncProgress {
    /// Started since the store was opened.
    pub started: u64,
    /// Completed of these: equal, or one less.
    pub completed: u64,
}

/// What an operation of the disk was started for.
#[derive(Debug)]
enum Purpose {
    /// The log's one sync under way; which, says [`Log`].
    Sync,
    /// A cold read.
    Read { file: FileId, at: u64 },
    /// What must be done before the next segment can be used.
    Next,
    /// A cold read for another copy.
    LogRead { file: FileId, at: u64 },
    /// The small state's installation.
    Persist,
    /// Compaction's read, or its output's installation.
    Compact,
    /// The sync of a part of its output.
    CompactSync,
    /// A hint's writing.
    Hint,
    /// The spare's removal.
    Spare,
    /// That of the file that was kept for the log.
    Freed,
    /// A removal that nothing waits for.
    Removal,
}

/// A shard's data on one disk. See the module for what it promises.
///
/// One turn of the caller: [`Store::poll`] until it has no more; for each write [`Store::probe`] and
/// [`Store::stage`] (or, for what another node has staged, [`Store::append`]); [`Store::write_turn`] once; [`Store::commit`] when the records may be seen.
///
/// Damage that is found at the start or later makes all of it answer `Corrupt`, but for [`Store::read_log`] behind a file
/// that was found damaged later: nothing damaged is served, copied or dropped. What is durable and committed then can be
/// repaired from a peer, or with the offline tools.
#[derive(Debug)]
pub struct Store<D: Disk> {
    disk: D,
    options: Options,
    small: Small,
    segments: Segments,
    index: Index,
    overlay: Overlay,
    log: Log,
    commits: Commits,
    space: Space,
    compactor: Compactor,
    freed: Option<Freed>,
    keys: u64,
    under_way: HashMap<OpId, Purpose>,
    events: VecDeque<Event>,
    health: Option<Corruption>,
    /// It opened damaged, or was found damaged in more than one file: its log is not read any more.
    is_given_up: bool,
    failed: Option<Fatal>,
    /// What cold reads for other copies brought.
    log_reads: LogReads,
    /// Where reads go, but of long records that memory has: grows to the longest record or chunk read and stays.
    scratch: Vec<u8>,
}

impl<D: Disk> Store<D> {
    /// Opens the store on a disk: recovers the log, makes what it recovered durable, and builds the index. A
    /// directory without a store gets one with the state that `fresh` makes.
    ///
    /// Records that were durable, but not known to be committed, are pending again: it is the caller who decides
    /// about them, with [`Store::commit`].
    ///
    /// A damaged log opens all the same: see [`Store::health`].
    ///
    /// # Errors
    /// Where the disk fails or is full, the small state is damaged, or an option is out of its range.
    pub fn open(disk: D, options: Options, fresh: impl FnOnce() -> SmallState) -> Result<(Self, Recovery), OpenError> {
        recovery::open(disk, options, fresh)
    }

    /// The next thing that has happened on the disk, if any. Never blocks.
    ///
    /// # Errors
    /// Where a write or sync failed, now or before.
    pub fn poll(&mut self) -> Result<Option<Event>, Fatal> {
        loop {
            self.check()?;
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            let Some((op, result)) = self.disk.poll() else {
                return Ok(None);
            };
            self.complete(op, result).map_err(|fatal| self.fail(fatal))?;
        }
    }

    fn complete(&mut self, op: OpId, result: io::Result<Done>) -> Result<(), Fatal> {
        let Some(purpose) = self.under_way.remove(&op) else {
            // Of a file that was given up: void.
            return Ok(());
        };
        match purpose {
            Purpose::Read { file, at } => self.read_arrived(op, file, at, result),
            Purpose::LogRead { file, at } => self.log_read_arrived(op, file, at, result),
            Purpose::Sync => self.synced(result)?,
            Purpose::Next => self.next_prepared(result)?,
            Purpose::Persist => self.persisted(result)?,
            Purpose::Compact => self.compaction_went_on(result)?,
            Purpose::CompactSync => self.compaction_synced(result)?,
            Purpose::Hint => self.hint_written(result)?,
            Purpose::Spare => self.spare_removed(result)?,
            Purpose::Freed => self.freed_removed(result)?,
            Purpose::Removal => {
                result.map_err(|e| Fatal::new("removing a file of the log", &e))?;
            }
        }
        Ok(())
    }

    /// The lsn of the last record that was staged.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.log.end
    }

    /// All records up to here are on the disk for good.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        self.log.durable
    }

    /// All records up to here are visible: [`Store::commit`] is at work on the rest of what it was told.
    #[must_use]
    pub fn committed(&self) -> Lsn {
        self.log.committed
    }

    /// How many keys have a value.
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// Where the store is damaged, if it is.
    #[must_use]
    pub fn health(&self) -> Option<&Corruption> {
        self.health.as_ref()
    }

    /// Whether nothing of its log is read any more: it opened damaged, or is damaged in more than one file.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.is_given_up
    }

    /// The log's syncs so far.
    #[must_use]
    pub fn syncs(&self) -> SyncProgress {
        self.log.syncs
    }

    /// The small state as it is or is being made durable.
    #[must_use]
    pub fn small_state(&self) -> &SmallState {
        self.small.state()
    }

    /// Figures for `/metrics`. Takes a look at every segment.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = Stats {
            compactions: self.compactor.installed,
            compacted_bytes: self.compactor.copied_bytes,
            overlay_bytes: self.overlay.bytes(),
            index_entries: self.index.entries(),
            index_bytes: self.index.memory_bytes() as u64,
            disk_full: self.space.is_full,
            log_bytes: self.space.spare_bytes() + self.log.next_bytes() + self.freed_bytes(),
            ..Stats::default()
        };
        let mut data_bytes = 0;
        for segment in self.segments.all() {
            stats.segments += 1;
            stats.live_bytes += segment.live_bytes;
            stats.log_bytes += segment.reserved + segment.hint_bytes;
            data_bytes += segment.end - segment::DATA_AT;
        }
        stats.dead_bytes = data_bytes.saturating_sub(stats.live_bytes);
        stats
    }

    /// Writes what is staged and a last mark, syncs, and waits for all that is under way. What is to be seen as
    /// committed by the next start must be committed before. *Blocking.*
    ///
    /// # Errors
    /// Where a write or sync failed, now or before.
    pub fn close(mut self) -> Result<(), Fatal> {
        self.hold_syncs(false);
        self.write_turn()?;
        self.settle()?;
        self.mark_idle()?;
        self.settle()
    }

    /// Waits for all that is under way and for what follows from it.
    fn settle(&mut self) -> Result<(), Fatal> {
        while let Some((op, result)) = self.disk.wait() {
            self.complete(op, result).map_err(|fatal| self.fail(fatal))?;
        }
        Ok(())
    }

    /// The last failure, if there was one: it holds for ever.
    fn check(&self) -> Result<(), Fatal> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn fail(&mut self, fatal: Fatal) -> Fatal {
        self.failed.get_or_insert(fatal).clone()
    }

    /// Damage was found. The first finding is the one that is reported.
    fn corrupt(&mut self, file: String, offset: u64, reason: String) {
        let file = self.disk.whole_name(&file);
        if let Some(found) = &self.health {
            if found.file != file && !self.is_given_up {
                log::error!(
                    "{}: it is damaged in a second file: nothing is read of it any more",
                    Corruption { file, offset, reason }
                );
                self.is_given_up = true;
            }
            return;
        }
        self.health = Some(Corruption { file, offset, reason });
        self.events.push_back(Event::Corrupt);
    }

    fn start(&mut self, op: OpId, purpose: Purpose) -> OpId {
        self.under_way.insert(op, purpose);
        op
    }

    /// What can be said at the end of `last`.
    fn mark(&self, last: Lsn) -> Mark {
        let synced = self.log.durable.min(last);
        Mark { last, synced, committed: self.commits.goal.min(synced) }
    }
}

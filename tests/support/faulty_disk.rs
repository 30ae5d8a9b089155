//! Owns: a disk in memory that does what real ones do at their worst, the same for the same seed:
//!
//! - A crash of the machine ([`Machine::lose_power`]) keeps, of each 512-byte sector, what was last synced or any
//!   version written since; of a file's length likewise; of directory entries not yet synced, any part. A rename is
//!   never seen by half.
//! - A sync covers what was written before it was started, and nothing more.
//! - A failed sync drops what it should have written: it stays visible until the power is lost, and no later sync
//!   writes it.
//! - A crash of the process ([`Machine::kill`]) keeps what was written; what was started and not done is lost.
//! - Any call can fail, any call can be the last before a crash ([`Machine::fault_at`]). An installation counts as
//!   three.
//! - It can be full: a write into space that was not reserved fails then.
//! - Reads that are not in the page cache ([`Machine::evict`]) come back later, whole; the part that is there is
//!   given at once.
//!
//! Completions come in an order that the seed decides; those of a lane in the order in which they were started. Where
//! the time is told ([`Machine::tell_time`]), each takes as long as the seed decides, and none comes early.
//!
//! Never: what the bytes mean.

use super::dice::Dice;
use dkv::store::disk::{Disk, Done, FileId, Lane, OpId};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, IoSlice};
use std::rc::Rc;

const SECTOR: usize = 512;
const PAGE: u64 = 4096;

/// What happens at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This call fails; those behind it do not.
    Error,
    /// The first write, sync or change of a name from this call on fails; reads do not, nor what is behind it.
    WriteError,
    /// The machine stops: this call and all behind it do nothing and fail.
    Stop,
}

type Inode = usize;
type Handle = u32;
type Completion = (OpId, io::Result<Done>);

#[derive(Debug, Clone, Default)]
struct File {
    /// What a read sees.
    live: Vec<u8>,
    /// What was synced.
    durable: Vec<u8>,
    /// Per sector: what was written since, and when.
    dirty: BTreeMap<usize, Vec<(u64, Vec<u8>)>>,
    /// The lengths since, and when.
    lengths: Vec<(u64, usize)>,
    /// Bytes of space that the file holds.
    allocated: u64,
}

impl File {
    fn write(&mut self, tick: u64, at: usize, bytes: &[u8]) {
        if self.live.len() < at + bytes.len() {
            self.set_len(tick, at + bytes.len());
        }
        self.live[at..at + bytes.len()].copy_from_slice(bytes);
        for sector in at / SECTOR..(at + bytes.len()).div_ceil(SECTOR) {
            let mut version = vec![0; SECTOR];
            let end = self.live.len().min((sector + 1) * SECTOR);
            version[..end - sector * SECTOR].copy_from_slice(&self.live[sector * SECTOR..end]);
            self.dirty.entry(sector).or_default().push((tick, version));
        }
    }

    fn set_len(&mut self, tick: u64, len: usize) {
        self.live.resize(len, 0);
        self.lengths.push((tick, len));
    }

    fn put_durable(&mut self, sector: usize, version: &[u8]) {
        let end = (sector + 1) * SECTOR;
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        self.durable[sector * SECTOR..end].copy_from_slice(version);
    }

    /// Everything up to `tick` is durable, or, where the sync failed, is lost to later ones.
    fn sync(&mut self, tick: u64, succeeds: bool) {
        let (done, rest): (Vec<_>, Vec<_>) = self.lengths.drain(..).partition(|(when, _)| *when <= tick);
        self.lengths = rest;
        let lengths = if succeeds { done } else { Vec::new() };
        self.resize_durable(&lengths);
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            let (done, rest): (Vec<_>, Vec<_>) = versions.into_iter().partition(|(when, _)| *when <= tick);
            if let (Some((_, version)), true) = (done.last(), succeeds) {
                self.put_durable(sector, version);
            }
            if !rest.is_empty() {
                self.dirty.insert(sector, rest);
            }
        }
        self.resize_durable(&lengths[lengths.len().saturating_sub(1)..]);
    }

    /// One after the other: what a truncation cut off reads as zeros when the file grows again.
    fn resize_durable(&mut self, lengths: &[(u64, usize)]) {
        for (_, len) in lengths {
            self.durable.resize(*len, 0);
        }
    }

    fn lose_power(&mut self, dice: &mut Dice) {
        let mut lengths = std::mem::take(&mut self.lengths);
        lengths.truncate(dice.below(lengths.len() as u64 + 1) as usize);
        self.resize_durable(&lengths);
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            // One more than there are: the synced one.
            if let Some((_, version)) = versions.get(dice.below(versions.len() as u64 + 1) as usize) {
                self.put_durable(sector, version);
            }
        }
        self.resize_durable(&lengths[lengths.len().saturating_sub(1)..]);
        self.live.clone_from(&self.durable);
    }
}

#[derive(Debug, Clone)]
enum DirectoryChange {
    Link(String, Inode),
    Unlink(String),
    Rename(String, String, Inode),
}

fn apply(directory: &mut BTreeMap<String, Inode>, change: &DirectoryChange) {
    match change {
        DirectoryChange::Link(name, inode) => drop(directory.insert(name.clone(), *inode)),
        DirectoryChange::Unlink(name) => drop(directory.remove(name)),
        DirectoryChange::Rename(from, to, inode) => {
            directory.remove(from);
            directory.insert(to.clone(), *inode);
        }
    }
}

#[derive(Debug, Clone)]
enum Work {
    Write(Inode, u64, Vec<u8>),
    Sync(Inode, u64),
    SyncDir(u64),
    Install(Inode, String, String),
    Remove(String),
    Clear(String),
    Read(Inode, u64, usize),
}

#[derive(Debug)]
struct Started {
    op: OpId,
    handle: Handle,
    work: Work,
    /// When it is done, where the time is told.
    due_ns: u64,
}

/// How long operations take.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    now_ns: u64,
    least_ns: u64,
    most_ns: u64,
}

#[derive(Debug)]
struct World {
    files: Vec<File>,
    names: BTreeMap<String, Inode>,
    durable_names: BTreeMap<String, Inode>,
    name_changes: Vec<(u64, DirectoryChange)>,
    /// By which handle, too.
    open: Vec<Option<(Inode, Handle)>>,
    queues: [VecDeque<Started>; 4],
    /// What was done for a handle while another one waited.
    done: VecDeque<(Handle, Completion)>,
    handles: Handle,
    /// `None`: nobody tells the time, and the seed decides at each poll.
    pace: Option<Pace>,
    /// Until when the process was waiting for the disk: for ever, where that hung.
    waited_until_ns: u64,
    /// Every write since it was taken last, where somebody watches.
    watched: Option<Vec<(String, Vec<u8>)>>,
    /// `None`: everything is in the page cache.
    cached: Option<BTreeSet<(Inode, u64)>>,
    capacity: u64,
    dice: Dice,
    tick: u64,
    next_op: u64,
    calls: u64,
    fault: Option<(u64, Fault)>,
    is_stopped: bool,
    is_hung: bool,
    syncs: u64,
}

/// The machine: its disk, seen from outside.
#[derive(Debug, Clone)]
pub struct Machine(Rc<RefCell<World>>);

/// The disk as a process sees it: a handle onto the files whose names begin with a prefix.
#[derive(Debug)]
pub struct FaultyDisk {
    world: Rc<RefCell<World>>,
    prefix: String,
    handle: Handle,
    /// What can be viewed: where it stands, and the bytes.
    viewed: (FileId, u64, Vec<u8>),
}

impl FaultyDisk {
    fn with_prefix(world: &Rc<RefCell<World>>, prefix: String) -> FaultyDisk {
        let mut inner = world.borrow_mut();
        inner.handles += 1;
        FaultyDisk { world: Rc::clone(world), prefix, handle: inner.handles, viewed: (FileId(0), 0, Vec::new()) }
    }

    fn start(&self, queue: usize, work: Work) -> OpId {
        self.world.borrow_mut().start(queue, self.handle, work)
    }

    /// What was done for this handle while another one waited.
    fn next_done(&self) -> Option<Completion> {
        let mut world = self.world.borrow_mut();
        let at = world.done.iter().position(|(handle, _)| *handle == self.handle)?;
        world.done.remove(at).map(|(_, completion)| completion)
    }

    /// Does the next operation of some queue. `false`: there is none that could be done.
    fn work(&self, next: impl FnOnce(&mut World) -> Option<(Handle, Completion)>) -> bool {
        let mut world = self.world.borrow_mut();
        let done = next(&mut world);
        let worked = done.is_some();
        world.done.extend(done);
        worked
    }
}

impl Drop for FaultyDisk {
    fn drop(&mut self) {
        let mut world = self.world.borrow_mut();
        world.done.retain(|(handle, _)| *handle != self.handle);
        for open in world.open.iter_mut().filter(|open| open.is_some_and(|(_, handle)| handle == self.handle)) {
            *open = None;
        }
    }
}

impl Machine {
    pub fn new(seed: u64) -> Machine {
        Machine(Rc::new(RefCell::new(World {
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            open: Vec::new(),
            queues: Default::default(),
            done: VecDeque::new(),
            handles: 0,
            pace: None,
            waited_until_ns: 0,
            watched: None,
            cached: None,
            capacity: u64::MAX,
            dice: Dice::new(seed),
            tick: 0,
            next_op: 0,
            calls: 0,
            fault: None,
            is_stopped: false,
            is_hung: false,
            syncs: 0,
        })))
    }

    /// The disk for a new process. The one before must be gone, or killed.
    pub fn disk(&self) -> FaultyDisk {
        FaultyDisk::with_prefix(&self.0, String::new())
    }

    /// From now on the time is this, for all that is started and completes.
    pub fn tell_time(&self, now_ns: u64) {
        self.0.borrow_mut().pace.get_or_insert_default().now_ns = now_ns;
    }

    /// From now on an operation takes so long, where the time is told.
    pub fn set_pace(&self, least_ns: u64, most_ns: u64) {
        let mut world = self.0.borrow_mut();
        let pace = world.pace.get_or_insert_default();
        (pace.least_ns, pace.most_ns) = (least_ns, most_ns);
    }

    /// When the next operation completes, where the time is told.
    pub fn next_due_ns(&self) -> Option<u64> {
        let world = self.0.borrow();
        if !world.done.is_empty() {
            return Some(0);
        }
        let heads = world.queues.iter().enumerate().filter(|(queue, _)| !world.is_hung || *queue == READS);
        heads.filter_map(|(_, queue)| queue.front()).map(|started| started.due_ns).min()
    }

    /// Until when, where the time is told, the process has been waiting for what it could not do without; for ever,
    /// where that hung. Then, what it did since happens only when that is over.
    pub fn take_wait_ns(&self) -> u64 {
        std::mem::take(&mut self.0.borrow_mut().waited_until_ns)
    }

    /// Every write since this was asked last, the file's name and the bytes; none before it was asked first.
    pub fn take_watched(&self) -> Vec<(String, Vec<u8>)> {
        self.0.borrow_mut().watched.replace(Vec::new()).unwrap_or_default()
    }

    /// The n-th call from now on (1: the next) meets this.
    pub fn fault_at(&self, n: u64, fault: Fault) {
        let mut world = self.0.borrow_mut();
        let at = world.calls + n;
        world.fault = Some((at, fault));
    }

    /// Whether a fault that was asked for has not come yet.
    pub fn awaits_fault(&self) -> bool {
        self.0.borrow().fault.is_some()
    }

    /// A fault that was asked for and is still to come does not come.
    pub fn no_fault(&self) {
        self.0.borrow_mut().fault = None;
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.0.borrow().calls
    }

    /// Syncs that were done so far.
    pub fn syncs(&self) -> u64 {
        self.0.borrow().syncs
    }

    /// Whether a [`Fault::Stop`] has been met.
    pub fn is_stopped(&self) -> bool {
        self.0.borrow().is_stopped
    }

    /// Whether the fault that was asked for is still to come.
    pub fn is_fault_to_come(&self) -> bool {
        let world = self.0.borrow();
        world.fault.is_some_and(|(at, _)| world.calls < at)
    }

    /// The process is gone. What it had written stays.
    pub fn kill(&self) {
        let mut world = self.0.borrow_mut();
        world.open.clear();
        world.queues = Default::default();
        world.done.clear();
        (world.is_stopped, world.fault) = (false, None);
        world.waited_until_ns = 0;
    }

    /// The machine is gone, and on again.
    pub fn lose_power(&self, seed: u64) {
        self.kill();
        let mut world = self.0.borrow_mut();
        let world = &mut *world;
        let mut dice = Dice::new(seed);
        for (_, change) in std::mem::take(&mut world.name_changes) {
            if dice.once_in(2) {
                apply(&mut world.durable_names, &change);
            }
        }
        world.names.clone_from(&world.durable_names);
        for file in &mut world.files {
            file.lose_power(&mut dice);
        }
        if let Some(cached) = &mut world.cached {
            cached.clear();
        }
    }

    /// Another machine with the same content, as [`Machine::lose_power`] finds it there.
    pub fn fork(&self, seed: u64) -> Machine {
        let world = self.0.borrow();
        let fork = Machine::new(seed);
        {
            let mut new = fork.0.borrow_mut();
            (new.files, new.names) = (world.files.clone(), world.names.clone());
            (new.durable_names, new.name_changes) = (world.durable_names.clone(), world.name_changes.clone());
            (new.tick, new.cached, new.capacity) = (world.tick, world.cached.clone(), world.capacity);
            new.pace = world.pace;
        }
        fork
    }

    /// Until [`Machine::resume`] nothing that was started completes but reads.
    pub fn hang(&self) {
        self.0.borrow_mut().is_hung = true;
    }

    /// Ends [`Machine::hang`].
    pub fn resume(&self) {
        self.0.borrow_mut().is_hung = false;
    }

    /// Nothing is in the page cache any more.
    pub fn evict(&self) {
        self.0.borrow_mut().cached = Some(BTreeSet::new());
    }

    /// Everything is in the page cache.
    pub fn warm(&self) {
        self.0.borrow_mut().cached = None;
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        let world = self.0.borrow();
        world.done.is_empty() && world.queues.iter().all(VecDeque::is_empty)
    }

    /// How many reads were started and are not done.
    pub fn reads(&self) -> usize {
        self.0.borrow().queues[READS].len()
    }

    /// Bytes that the files take on the disk.
    pub fn used_bytes(&self) -> u64 {
        self.0.borrow().used_bytes()
    }

    /// From now on the disk holds this many bytes.
    pub fn set_capacity(&self, bytes: u64) {
        self.0.borrow_mut().capacity = bytes;
    }

    /// Names and lengths of all files.
    pub fn files(&self) -> Vec<(String, u64)> {
        let world = self.0.borrow();
        world.names.iter().map(|(name, inode)| (name.clone(), world.files[*inode].live.len() as u64)).collect()
    }

    /// A file's bytes.
    pub fn read(&self, name: &str) -> Vec<u8> {
        let world = self.0.borrow();
        world.files[world.names[name]].live.clone()
    }

    /// What a crash leaves of a file at least: the bytes that were synced under this name.
    pub fn durable(&self, name: &str) -> Option<Vec<u8>> {
        let world = self.0.borrow();
        Some(world.files[*world.durable_names.get(name)?].durable.clone())
    }

    /// Lets a process read as if all were in the page cache and nothing could fail, and as if it had not read.
    pub fn look<T>(&self, reads: impl FnOnce() -> T) -> T {
        let mut world = self.0.borrow_mut();
        let before = (world.cached.take(), world.fault.take(), world.calls, world.tick);
        drop(world);
        let seen = reads();
        let mut world = self.0.borrow_mut();
        (world.cached, world.fault, world.calls, world.tick) = before;
        seen
    }

    /// Replaces a file's bytes, durably, behind everybody's back.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut world = self.0.borrow_mut();
        let inode = world.names[name];
        let file = &mut world.files[inode];
        change(&mut file.live);
        file.durable.clone_from(&file.live);
        (file.dirty, file.lengths) = (BTreeMap::new(), Vec::new());
    }

    /// Makes a file of these bytes, durably, behind everybody's back.
    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        let mut world = self.0.borrow_mut();
        let inode = world.files.len();
        let allocated = bytes.len() as u64;
        world.files.push(File { live: bytes.clone(), durable: bytes, allocated, ..File::default() });
        world.names.insert(name.to_owned(), inode);
        world.durable_names.insert(name.to_owned(), inode);
    }

    /// Removes a file, durably, behind everybody's back.
    pub fn lose(&self, name: &str) {
        let mut world = self.0.borrow_mut();
        world.names.remove(name);
        world.durable_names.remove(name);
        world.name_changes.clear();
    }
}

fn broken() -> io::Error {
    io::Error::other("injected fault")
}

fn lane_number(lane: Lane) -> usize {
    match lane {
        Lane::Data => 0,
        Lane::Background => 1,
        Lane::Small => 2,
    }
}

const READS: usize = 3;

impl World {
    /// Of so many bytes at `at`, those from the first on that are in the page cache.
    fn cached_bytes(&self, inode: usize, at: u64, len: usize) -> usize {
        let Some(cached) = &self.cached else { return len };
        let missing = (at / PAGE..(at + len as u64).div_ceil(PAGE)).find(|page| !cached.contains(&(inode, *page)));
        missing.map_or(len, |page| (page * PAGE).saturating_sub(at) as usize)
    }

    /// Counts a call; it may be the one that fails.
    fn call(&mut self) -> io::Result<()> {
        self.count(false)
    }

    fn write_call(&mut self) -> io::Result<()> {
        self.count(true)
    }

    fn count(&mut self, writes: bool) -> io::Result<()> {
        self.calls += 1;
        self.tick += 1;
        match self.fault {
            _ if self.is_stopped => Err(broken()),
            Some((at, Fault::Error)) if at == self.calls => Err(broken()),
            Some((at, Fault::WriteError)) if writes && at <= self.calls => {
                self.fault = None;
                Err(broken())
            }
            Some((at, Fault::Stop)) if at == self.calls => {
                self.is_stopped = true;
                Err(broken())
            }
            _ => Ok(()),
        }
    }

    fn used_bytes(&self) -> u64 {
        let open = self.open.iter().flatten().map(|(inode, _)| *inode);
        let inodes: BTreeSet<Inode> = self.names.values().copied().chain(open).collect();
        inodes.into_iter().map(|inode| self.files[inode].allocated.next_multiple_of(SECTOR as u64)).sum()
    }

    fn inode(&self, file: FileId) -> Inode {
        self.open[file.0 as usize].expect("a file is used only between open and close").0
    }

    fn change_name(&mut self, change: DirectoryChange) {
        apply(&mut self.names, &change);
        self.name_changes.push((self.tick, change));
    }

    fn allocate(&mut self, inode: Inode, upto: u64) -> io::Result<()> {
        let more = upto.saturating_sub(self.files[inode].allocated);
        if more > 0 && self.used_bytes() + more > self.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.files[inode].allocated += more;
        Ok(())
    }

    fn cache(&mut self, inode: Inode, at: u64, len: usize) {
        if let Some(cached) = &mut self.cached {
            cached.extend((at / PAGE..(at + len as u64).div_ceil(PAGE)).map(|page| (inode, page)));
        }
    }

    fn start(&mut self, queue: usize, handle: Handle, work: Work) -> OpId {
        let op = OpId(self.next_op);
        self.next_op += 1;
        let due_ns = self.pace.map_or(0, |pace| {
            let least = pace.now_ns + pace.least_ns + self.dice.below(pace.most_ns - pace.least_ns + 1);
            self.queues[queue].back().map_or(least, |before| least.max(before.due_ns))
        });
        self.queues[queue].push_back(Started { op, handle, work, due_ns });
        op
    }

    /// Does the next operation of some queue, if one is done by now.
    fn poll(&mut self) -> Option<(Handle, Completion)> {
        match self.pace.map(|pace| pace.now_ns) {
            Some(now_ns) => self.complete(now_ns),
            None if self.dice.once_in(2) => self.complete(u64::MAX),
            None => None,
        }
    }

    /// Waits for the next operation of some queue. Where the time is told, waiting takes its time.
    fn wait(&mut self) -> Option<(Handle, Completion)> {
        if self.pace.is_none() {
            return self.complete(u64::MAX);
        }
        let hung = std::mem::take(&mut self.is_hung);
        let due_ns = self.queues.iter().filter_map(|queue| queue.front()).map(|started| started.due_ns).min();
        let done = self.complete(due_ns.unwrap_or(0));
        self.is_hung = hung;
        if done.is_some() {
            let until_ns = if hung { u64::MAX } else { due_ns.unwrap_or(0) };
            self.waited_until_ns = self.waited_until_ns.max(until_ns);
        }
        done
    }

    /// Does the next operation of some queue: of those that are due by then.
    fn complete(&mut self, by_ns: u64) -> Option<(Handle, Completion)> {
        let waiting: Vec<usize> = (0..4)
            .filter(|queue| self.queues[*queue].front().is_some_and(|started| started.due_ns <= by_ns))
            .filter(|queue| !self.is_hung || *queue == READS)
            .collect();
        let queue = *self.dice.pick(&waiting)?;
        let Started { op, handle, work, .. } = self.queues[queue].pop_front()?;
        Some((handle, (op, self.perform(work))))
    }

    fn perform(&mut self, work: Work) -> io::Result<Done> {
        match work {
            Work::Write(inode, at, bytes) => self.write(inode, at, bytes)?,
            Work::Sync(inode, tick) => self.sync(inode, tick)?,
            Work::SyncDir(tick) => self.sync_dir(tick)?,
            Work::Install(inode, from, to) => {
                let tick = self.tick;
                self.sync(inode, tick)?;
                self.write_call()?;
                assert_eq!(self.names.get(&from), Some(&inode), "{from} is not the file that is installed as {to}");
                self.change_name(DirectoryChange::Rename(from, to, inode));
                let tick = self.tick;
                self.sync_dir(tick)?;
            }
            Work::Remove(name) => {
                self.write_call()?;
                if self.names.contains_key(&name) {
                    self.change_name(DirectoryChange::Unlink(name));
                }
            }
            Work::Clear(prefix) => {
                let doomed: Vec<String> = self.names.keys().filter(|name| name.starts_with(&prefix)).cloned().collect();
                self.call()?;
                for name in doomed {
                    self.call()?;
                    self.change_name(DirectoryChange::Unlink(name));
                }
            }
            Work::Read(inode, at, len) => {
                self.call()?;
                self.cache(inode, at, len);
                let live = &self.files[inode].live;
                let start = live.len().min(at as usize);
                let end = live.len().min(at as usize + len);
                return Ok(Done::Read(live[start..end].to_vec()));
            }
        }
        Ok(Done::Ok)
    }

    fn write(&mut self, inode: Inode, at: u64, mut bytes: Vec<u8>) -> io::Result<()> {
        let result = self.write_call();
        let length = bytes.len();
        if result.is_err() {
            if self.is_stopped {
                return result;
            }
            // A write that fails may have written a part.
            let part = self.dice.below(bytes.len() as u64) as usize;
            bytes.truncate(part);
        }
        self.allocate(inode, at + bytes.len() as u64)?;
        let tick = self.tick;
        self.cache(inode, at, bytes.len());
        self.files[inode].write(tick, at as usize, &bytes);
        if self.watched.is_some() {
            let name =
                self.names.iter().find(|(_, its)| **its == inode).map_or(String::new(), |(name, _)| name.clone());
            // Where nothing but zeros is missing, nothing is.
            bytes.resize(length, 0);
            self.watched.get_or_insert_default().push((name, bytes));
        }
        result
    }

    fn sync(&mut self, inode: Inode, tick: u64) -> io::Result<()> {
        let result = self.write_call();
        if !self.is_stopped {
            self.files[inode].sync(tick, result.is_ok());
            self.syncs += 1;
        }
        result
    }

    fn sync_dir(&mut self, tick: u64) -> io::Result<()> {
        self.write_call()?;
        self.syncs += 1;
        let (done, rest): (Vec<_>, Vec<_>) = self.name_changes.drain(..).partition(|(when, _)| *when <= tick);
        self.name_changes = rest;
        for (_, change) in &done {
            apply(&mut self.durable_names, change);
        }
        Ok(())
    }
}

impl Disk for FaultyDisk {
    fn handle(&self, prefix: &str) -> Self {
        Self::with_prefix(&self.world, self.whole_name(prefix))
    }

    fn whole_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn list(&mut self) -> io::Result<Vec<String>> {
        let mut world = self.world.borrow_mut();
        world.call()?;
        Ok(world.names.keys().filter_map(|name| name.strip_prefix(&self.prefix)).map(str::to_owned).collect())
    }

    fn open(&mut self, name: &str) -> io::Result<FileId> {
        let mut world = self.world.borrow_mut();
        world.call()?;
        let inode = world.names.get(&self.whole_name(name)).copied().ok_or(io::ErrorKind::NotFound)?;
        world.open.push(Some((inode, self.handle)));
        Ok(FileId(world.open.len() as u32 - 1))
    }

    fn len(&mut self, file: FileId) -> io::Result<u64> {
        let mut world = self.world.borrow_mut();
        world.call()?;
        let inode = world.inode(file);
        Ok(world.files[inode].live.len() as u64)
    }

    fn read(&mut self, file: FileId, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut world = self.world.borrow_mut();
        world.call()?;
        let inode = world.inode(file);
        world.cache(inode, at, buf.len());
        Ok(copy_from(&world.files[inode].live, at, buf))
    }

    fn wait(&mut self) -> Option<Completion> {
        loop {
            if let Some(done) = self.next_done() {
                return Some(done);
            }
            let is_mine = |started: &Started| started.handle == self.handle;
            let has_some = self.world.borrow().queues.iter().flatten().any(is_mine);
            if !has_some || !self.work(World::wait) {
                return None;
            }
        }
    }

    fn create(&mut self, name: &str) -> io::Result<FileId> {
        let mut world = self.world.borrow_mut();
        world.write_call()?;
        if world.used_bytes() >= world.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = match world.names.get(&self.whole_name(name)) {
            Some(inode) => {
                let inode = *inode;
                let tick = world.tick;
                let file = &mut world.files[inode];
                file.set_len(tick, 0);
                (file.dirty, file.allocated) = (BTreeMap::new(), 0);
                inode
            }
            None => {
                world.files.push(File::default());
                let inode = world.files.len() - 1;
                world.change_name(DirectoryChange::Link(self.whole_name(name), inode));
                inode
            }
        };
        world.open.push(Some((inode, self.handle)));
        Ok(FileId(world.open.len() as u32 - 1))
    }

    fn can_be_written_over(&self, _file: FileId) -> bool {
        true
    }

    fn reserve(&mut self, file: FileId, upto: u64) -> io::Result<()> {
        let mut world = self.world.borrow_mut();
        world.write_call()?;
        let inode = world.inode(file);
        world.allocate(inode, upto)?;
        let tick = world.tick;
        let file = &mut world.files[inode];
        if file.live.len() < upto as usize {
            file.set_len(tick, upto as usize);
        }
        Ok(())
    }

    fn write(&mut self, file: FileId, at: u64, bytes: &[IoSlice<'_>]) -> io::Result<()> {
        let mut world = self.world.borrow_mut();
        let inode = world.inode(file);
        world.write(inode, at, bytes.iter().flat_map(|slice| slice.iter().copied()).collect())
    }

    fn can_view(&mut self, file: FileId, at: u64, len: usize) -> bool {
        let world = self.world.borrow();
        let inode = world.inode(file);
        let mut bytes = vec![0; world.cached_bytes(inode, at, len)];
        // It is no call, so no fault meets it.
        let is_whole = copy_from(&world.files[inode].live, at, &mut bytes) == len;
        self.viewed = (file, at, bytes);
        is_whole
    }

    fn view(&self, file: FileId, at: u64, len: usize) -> &[u8] {
        let (viewed, from, bytes) = &self.viewed;
        assert_eq!((*viewed, *from, bytes.len()), (file, at, len), "only what can be viewed is viewed");
        bytes
    }

    fn try_read(&mut self, file: FileId, at: u64, buf: &mut [u8]) -> io::Result<Option<usize>> {
        let mut world = self.world.borrow_mut();
        world.call()?;
        let inode = world.inode(file);
        let len = world.cached_bytes(inode, at, buf.len());
        if len == 0 && !buf.is_empty() {
            return Ok(None);
        }
        Ok(Some(copy_from(&world.files[inode].live, at, &mut buf[..len])))
    }

    fn close(&mut self, file: FileId) {
        self.world.borrow_mut().open[file.0 as usize] = None;
    }

    fn start_write(&mut self, lane: Lane, file: FileId, at: u64, parts: Vec<Vec<u8>>) -> OpId {
        let work = Work::Write(self.world.borrow().inode(file), at, parts.concat());
        self.start(lane_number(lane), work)
    }

    fn start_sync(&mut self, lane: Lane, file: FileId) -> OpId {
        let world = self.world.borrow();
        let work = Work::Sync(world.inode(file), world.tick);
        drop(world);
        self.start(lane_number(lane), work)
    }

    fn start_read(&mut self, file: FileId, at: u64, len: usize) -> OpId {
        let work = Work::Read(self.world.borrow().inode(file), at, len);
        self.start(READS, work)
    }

    fn start_install(&mut self, lane: Lane, file: FileId, from: &str, to: &str) -> OpId {
        let [from, to] = [self.whole_name(from), self.whole_name(to)];
        let work = Work::Install(self.world.borrow().inode(file), from, to);
        self.start(lane_number(lane), work)
    }

    fn start_sync_dir(&mut self, lane: Lane) -> OpId {
        let work = Work::SyncDir(self.world.borrow().tick);
        self.start(lane_number(lane), work)
    }

    fn start_remove(&mut self, lane: Lane, name: &str) -> OpId {
        self.start(lane_number(lane), Work::Remove(self.whole_name(name)))
    }

    fn start_clear(&mut self, lane: Lane, prefix: &str) -> OpId {
        self.start(lane_number(lane), Work::Clear(self.whole_name(prefix)))
    }

    fn poll(&mut self) -> Option<Completion> {
        let done = self.next_done();
        if done.is_none() {
            self.work(World::poll);
            return self.next_done();
        }
        done
    }
}

fn copy_from(live: &[u8], at: u64, buf: &mut [u8]) -> usize {
    let start = live.len().min(at as usize);
    let len = buf.len().min(live.len() - start);
    buf[..len].copy_from_slice(&live[start..start + len]);
    len
}

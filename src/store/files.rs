//! Owns: the real disk: files of one directory, and the threads that do what may take long. They own no state: each
//! takes jobs from its queue, in order, and reports what came of them.
//! Never: what the bytes mean.

use super::dir::{DataDir, OWN_NAMES};
use super::disk::{Disk, Done, FileId, Lane, OpId};
use super::mapped::{Mapped, Moment};
use fnv::FnvHashMap;
use nix::errno::Errno as LibcErrno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::uio::pwritev;
use rustix::fs::{Advice, fadvise, fstatfs};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use rustix::process::nice;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

/// How much of zeros is written at a time where the file system cannot allocate space.
const ZEROS_BYTES: usize = 1 << 20;
/// The kernel takes no more in one call (IOV_MAX).
const MOST_SLICES: usize = 1024;
/// File systems that write in place: ext2 to ext4, XFS, tmpfs (statfs(2)).
const IN_PLACE: [u64; 3] = [0xEF53, 0x5846_5342, 0x0102_1994];
/// How much nicer the thread is that reads what is not in memory, for whoever asks, compaction and copies that catch up
/// included: where it shares a processor with the loop, which answers those whose records are in memory, that one goes first.
const READERS_NICE: i32 = 10;
/// How much of a removed file is freed at a time.
const FREED_BYTES: u64 = 1 << 20;

enum Work {
    Write {
        file: Arc<File>,
        at: u64,
        parts: Vec<Vec<u8>>,
    },
    Sync(Arc<File>),
    SyncDir,
    Install {
        file: Arc<File>,
        from: PathBuf,
        to: PathBuf,
    },
    Remove(PathBuf),
    Clear(String),
    Read {
        file: Arc<File>,
        at: u64,
        len: usize,
    },
    /// The last that holds a file which was removed gives all of its pages and blocks back.
    Close(Open),
}

struct Job {
    work: Work,
    /// To the handle that asked for it, which may be gone; `None`: nobody did.
    report: Option<(OpId, Sender<Completion>)>,
}

type Completion = (OpId, io::Result<Done>);

struct Open {
    file: Arc<File>,
    /// Bytes from the start whose space is allocated: the file is at least that long.
    reserved: u64,
    view: View,
}

/// How what is in the page cache is read.
enum View {
    /// Nothing was read of it yet, or it has grown beyond its mapping.
    None,
    Mapped(Mapped),
    /// It cannot be mapped.
    Calls,
}

impl Open {
    fn mapped(&mut self) -> Option<&mut Mapped> {
        if matches!(&self.view, View::Mapped(mapped) if mapped.len() < self.reserved) {
            self.view = View::None;
        }
        if matches!(self.view, View::None) {
            self.view = Mapped::new(&self.file, self.reserved).map_or(View::Calls, View::Mapped);
        }
        match &mut self.view {
            View::Mapped(mapped) => Some(mapped),
            View::None | View::Calls => None,
        }
    }

    #[inline]
    fn try_view(&mut self, at: u64, len: usize, moment: Moment) -> Option<&[u8]> {
        let file_bytes = self.reserved;
        self.mapped()?.try_view(at, len, file_bytes, moment)
    }
}

/// A directory's files, and the four threads that sync and read them, which all handles share.
pub struct RealDisk {
    shared: Arc<Shared>,
    prefix: String,
    files: FnvHashMap<FileId, Open>,
    report: Sender<Completion>,
    done: Receiver<Completion>,
    under_way: usize,
    /// When a read last found that memory does not have it.
    missed_ms: Option<u64>,
}

struct Shared {
    /// Held for as long as there is a handle.
    directory: DataDir,
    data: Sender<Job>,
    small: Sender<Job>,
    background: Sender<Job>,
    reads: Sender<Job>,
    next_op: AtomicU64,
    next_file: AtomicU32,
    /// See [`Disk::at`].
    now_ms: AtomicU64,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for RealDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RealDisk({}, {:?})", self.shared.directory.path().display(), self.prefix)
    }
}

impl RealDisk {
    /// Starts the threads. `wake` is called, from any of them, whenever [`Disk::poll`] has something new.
    ///
    /// # Errors
    /// Where a thread cannot be started or the directory not be opened.
    pub fn start(directory: DataDir, wake: impl Fn() + Send + Sync + 'static) -> io::Result<RealDisk> {
        let wake: Arc<dyn Fn() + Send + Sync> = Arc::new(wake);
        let mut threads = Vec::new();
        let mut start = |name: &str, nicer: i32| {
            let (queue, jobs) = channel();
            let worker = Worker {
                jobs,
                wake: Arc::clone(&wake),
                path: directory.path().to_path_buf(),
                directory: File::open(directory.path())?,
            };
            let run = move || {
                // Linux gives this to the calling thread only.
                if nicer > 0
                    && let Err(error) = nice(nicer)
                {
                    log::debug!("a thread of the disk is not as nice as it should be: {error}");
                }
                worker.run();
            };
            threads.push(std::thread::Builder::new().name(name.to_owned()).spawn(run)?);
            io::Result::Ok(queue)
        };
        let [data, small] = [start("dkv-sync", 0)?, start("dkv-small", 0)?];
        let [background, reads] = [start("dkv-background", 0)?, start("dkv-read", READERS_NICE)?];
        let (next_op, next_file, now_ms) = (AtomicU64::new(0), AtomicU32::new(0), AtomicU64::new(0));
        let shared = Shared { directory, data, small, background, reads, next_op, next_file, now_ms, threads };
        Ok(Self::with_prefix(Arc::new(shared), String::new()))
    }

    fn with_prefix(shared: Arc<Shared>, prefix: String) -> RealDisk {
        let (report, done) = channel();
        RealDisk { shared, prefix, files: FnvHashMap::default(), report, done, under_way: 0, missed_ms: None }
    }

    fn open_file(&self, file: FileId) -> &Open {
        self.files.get(&file).expect("a file is used only between open and close")
    }

    fn open_file_mut(&mut self, file: FileId) -> &mut Open {
        self.files.get_mut(&file).expect("a file is used only between open and close")
    }

    fn moment(&self) -> Moment {
        Moment { now_ms: self.shared.now_ms.load(Ordering::Relaxed), missed_ms: self.missed_ms }
    }

    fn file(&self, file: FileId) -> Arc<File> {
        Arc::clone(&self.open_file(file).file)
    }

    fn add(&mut self, file: File) -> io::Result<FileId> {
        let reserved = file.metadata()?.len();
        // Records are read here and there: what the system would read around each would push others out of memory.
        if let Err(error) = fadvise(&file, 0, None, Advice::Random) {
            log::debug!("a file of the log is read ahead: {error}");
        }
        let id = FileId(self.shared.next_file.fetch_add(1, Ordering::Relaxed));
        self.files.insert(id, Open { file: Arc::new(file), reserved, view: View::None });
        Ok(id)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.shared.directory.path().join(self.whole_name(name))
    }

    fn send(&mut self, lane: Lane, work: Work) -> OpId {
        let queue = match lane {
            Lane::Data => &self.shared.data,
            Lane::Small => &self.shared.small,
            Lane::Background => &self.shared.background,
        };
        let op = self.begin(queue, work);
        self.under_way += 1;
        op
    }

    fn begin(&self, queue: &Sender<Job>, work: Work) -> OpId {
        let op = OpId(self.shared.next_op.fetch_add(1, Ordering::Relaxed));
        let job = Job { work, report: Some((op, self.report.clone())) };
        queue.send(job).expect("the threads run until the last handle is dropped");
        op
    }
}

impl Disk for RealDisk {
    fn at(&mut self, now_ms: u64) {
        self.shared.now_ms.store(now_ms, Ordering::Relaxed);
    }

    fn handle(&self, prefix: &str) -> Self {
        Self::with_prefix(Arc::clone(&self.shared), self.whole_name(prefix))
    }

    fn whole_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn list(&mut self) -> io::Result<Vec<String>> {
        names_with(self.shared.directory.path(), &self.prefix)
    }

    fn open(&mut self, name: &str) -> io::Result<FileId> {
        self.add(OpenOptions::new().read(true).write(true).open(self.path(name))?)
    }

    fn len(&mut self, file: FileId) -> io::Result<u64> {
        Ok(self.open_file(file).file.metadata()?.len())
    }

    fn read(&mut self, file: FileId, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        read_all_at(&self.open_file(file).file, at, buf)
    }

    fn wait(&mut self) -> Option<Completion> {
        if self.under_way == 0 {
            return None;
        }
        self.under_way -= 1;
        Some(self.done.recv().expect("the threads run until the disk is dropped"))
    }

    fn create(&mut self, name: &str) -> io::Result<FileId> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let opened = options.open(self.path(name)).map_err(|error| match Errno::from_io_error(&error) {
            // Nothing has changed, and closing connections may help: as with a full disk, writes are refused.
            Some(Errno::MFILE | Errno::NFILE) => {
                log::error!(
                    "no descriptor is left for a new file of the log: raise the limit (LimitNOFILE, ulimit -n)"
                );
                io::ErrorKind::StorageFull.into()
            }
            _ => error,
        });
        self.add(opened?)
    }

    fn reserve(&mut self, file: FileId, upto: u64) -> io::Result<()> {
        let open = self.open_file_mut(file);
        if upto > open.reserved {
            allocate(&open.file, open.reserved, upto)?;
            open.reserved = upto;
        }
        Ok(())
    }

    fn can_be_written_over(&self, file: FileId) -> bool {
        let file = &self.open_file(file).file;
        let is_in_place = fstatfs(file).is_ok_and(|found| IN_PLACE.contains(&(found.f_type as u64)));
        is_in_place && file.metadata().is_ok_and(|found| found.blocks() * 512 >= found.len())
    }

    fn write(&mut self, file: FileId, at: u64, bytes: &[IoSlice<'_>]) -> io::Result<()> {
        let open = self.open_file_mut(file);
        write_all_at(&open.file, at, bytes)?;
        if let View::Mapped(mapped) = &mut open.view {
            mapped.wrote(at, bytes.iter().map(|slice| slice.len() as u64).sum());
        }
        Ok(())
    }

    fn expect(&self, file: FileId, at: u64, len: usize) {
        if let Some(Open { view: View::Mapped(mapped), .. }) = self.files.get(&file) {
            mapped.expect(at, len);
        }
    }

    fn can_view(&mut self, file: FileId, at: u64, len: usize) -> bool {
        let moment = self.moment();
        self.open_file_mut(file).try_view(at, len, moment).is_some()
    }

    fn view(&self, file: FileId, at: u64, len: usize) -> &[u8] {
        let open = self.open_file(file);
        assert!(at.saturating_add(len as u64) <= open.reserved, "viewed behind the file's end");
        match &open.view {
            View::Mapped(mapped) => mapped.view(at, len),
            View::None | View::Calls => unreachable!("what can be viewed is mapped"),
        }
    }

    fn try_read(&mut self, file: FileId, at: u64, buf: &mut [u8]) -> io::Result<Option<usize>> {
        let moment = self.moment();
        let open = self.open_file_mut(file);
        if let Some(bytes) = open.try_view(at, buf.len(), moment) {
            buf.copy_from_slice(bytes);
            return Ok(Some(buf.len()));
        }
        let real = &open.file;
        match preadv2(&**real, &mut [IoSliceMut::new(buf)], at, ReadWriteFlags::NOWAIT) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Errno::AGAIN) => {
                self.missed_ms = Some(moment.now_ms);
                Ok(None)
            }
            Err(Errno::INTR) => Ok(None),
            // A file system without such reads (tmpfs before Linux 6.x, some network ones).
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => read_all_at(real, at, buf).map(Some),
            Err(error) => Err(error.into()),
        }
    }

    fn close(&mut self, file: FileId) {
        if let Some(open) = self.files.remove(&file) {
            let job = Job { work: Work::Close(open), report: None };
            self.shared.background.send(job).expect("the threads run until the last handle is dropped");
        }
    }

    fn start_write(&mut self, lane: Lane, file: FileId, at: u64, parts: Vec<Vec<u8>>) -> OpId {
        let work = Work::Write { file: self.file(file), at, parts };
        self.send(lane, work)
    }

    fn start_sync(&mut self, lane: Lane, file: FileId) -> OpId {
        let work = Work::Sync(self.file(file));
        self.send(lane, work)
    }

    fn start_read(&mut self, file: FileId, at: u64, len: usize) -> OpId {
        let work = Work::Read { file: self.file(file), at, len };
        self.under_way += 1;
        self.begin(&self.shared.reads, work)
    }

    fn start_install(&mut self, lane: Lane, file: FileId, from: &str, to: &str) -> OpId {
        let work = Work::Install { file: self.file(file), from: self.path(from), to: self.path(to) };
        self.send(lane, work)
    }

    fn start_sync_dir(&mut self, lane: Lane) -> OpId {
        self.send(lane, Work::SyncDir)
    }

    fn start_remove(&mut self, lane: Lane, name: &str) -> OpId {
        let work = Work::Remove(self.path(name));
        self.send(lane, work)
    }

    fn start_clear(&mut self, lane: Lane, prefix: &str) -> OpId {
        let work = Work::Clear(self.whole_name(prefix));
        self.send(lane, work)
    }

    fn poll(&mut self) -> Option<Completion> {
        match self.done.try_recv() {
            Ok(completion) => {
                self.under_way -= 1;
                Some(completion)
            }
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // A thread ends when its queue has no sender any more; what is in the queue is done before that.
        let (closed, _) = channel();
        for queue in [&mut self.data, &mut self.small, &mut self.background, &mut self.reads] {
            *queue = closed.clone();
        }
        for thread in self.threads.drain(..) {
            // One that panicked has nothing to report any more: the store has seen no completion of it.
            let _ = thread.join();
        }
    }
}

struct Worker {
    jobs: Receiver<Job>,
    wake: Arc<dyn Fn() + Send + Sync>,
    path: PathBuf,
    directory: File,
}

impl Worker {
    fn run(self) {
        while let Ok(Job { work, report }) = self.jobs.recv() {
            let result = self.perform(work);
            // Nobody is left to hear it where the handle is gone: others have work to be done.
            if report.is_some_and(|(op, report)| report.send((op, result)).is_ok()) {
                (self.wake)();
            }
        }
    }

    fn perform(&self, work: Work) -> io::Result<Done> {
        match work {
            Work::Write { file, mut at, parts } => {
                for part in parts {
                    file.write_all_at(&part, at)?;
                    at += part.len() as u64;
                }
            }
            Work::Sync(file) => file.sync_data()?,
            Work::SyncDir => self.directory.sync_all()?,
            Work::Install { file, from, to } => {
                file.sync_all()?;
                std::fs::rename(from, to)?;
                self.directory.sync_all()?;
            }
            Work::Remove(path) => remove_if_there(&path)?,
            Work::Clear(prefix) => {
                for name in names_with(&self.path, &prefix)? {
                    remove_if_there(&self.path.join(prefix.clone() + &name))?;
                }
            }
            Work::Close(open) => give_back(open)?,
            Work::Read { file, at, len } => {
                let mut bytes = vec![0; len];
                let read = read_all_at(&file, at, &mut bytes)?;
                bytes.truncate(read);
                return Ok(Done::Read(bytes));
            }
        }
        Ok(Done::Ok)
    }
}

/// The names of the files that begin with the prefix, without it.
fn names_with(directory: &Path, prefix: &str) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().into_string().ok().filter(|name| !OWN_NAMES.contains(&name.as_str()));
        if let Some(rest) = name.as_ref().and_then(|name| name.strip_prefix(prefix))
            && entry.file_type()?.is_file()
        {
            names.push(rest.to_owned());
        }
    }
    Ok(names)
}

/// What nobody can open any more gives its space back in steps: a file system that discards what is freed (ext4 with
/// `discard`) keeps the device's queue for as long as that takes, and a sync of the log would wait for all of it.
///
/// Nobody maps it: who opened it a second time (`reuse.rs`) has closed the first before, in this lane. A read of that one
/// which is still under way may come back short; nobody asks for what it brings.
fn give_back(Open { file, view, .. }: Open) -> io::Result<()> {
    drop(view);
    let Ok(file) = Arc::try_unwrap(file) else { return Ok(()) };
    let found = file.metadata()?;
    if found.nlink() == 0 {
        let steps = found.len().div_ceil(FREED_BYTES);
        (0..steps).rev().try_for_each(|step| file.set_len(step * FREED_BYTES))?;
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn read_all_at(file: &File, at: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        match file.read_at(&mut buf[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// One system call, but for a write that the kernel cuts short.
fn write_all_at(file: &File, mut at: u64, bytes: &[IoSlice<'_>]) -> io::Result<()> {
    let mut owned = bytes.to_vec();
    let mut rest = owned.as_mut_slice();
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match pwritev(file, &rest[..rest.len().min(MOST_SLICES)], at.cast_signed()) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                at += written as u64;
                IoSlice::advance_slices(&mut rest, written);
            }
            Err(LibcErrno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Allocates space up to `upto`, or changes nothing: all before `from` is allocated already.
fn allocate(file: &File, from: u64, upto: u64) -> io::Result<()> {
    let len = file.metadata()?.len();
    loop {
        match fallocate(file, FallocateFlags::empty(), from.cast_signed(), (upto - from).cast_signed()) {
            Ok(()) => return Ok(()),
            Err(LibcErrno::EINTR) => {}
            Err(LibcErrno::EOPNOTSUPP | LibcErrno::ENOSYS) => break,
            // Over quota is a full disk, too: deleting helps, and nothing is broken.
            Err(LibcErrno::ENOSPC | LibcErrno::EDQUOT) => {
                // Some file systems (ext4) keep what they had found until then: the last of the disk, in a file that
                // has no use for it.
                file.set_len(len)?;
                return Err(io::ErrorKind::StorageFull.into());
            }
            Err(error) => return Err(error.into()),
        }
    }
    let zeros = vec![0; ZEROS_BYTES];
    let mut at = from;
    while at < upto {
        let bytes = zeros.len().min((upto - at) as usize);
        if let Err(error) = file.write_all_at(&zeros[..bytes], at) {
            // What was added must not count as reserved when the directory is opened again.
            file.set_len(len)?;
            return Err(error);
        }
        at += bytes as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    fn disk() -> (tempfile::TempDir, RealDisk, Arc<AtomicUsize>) {
        let tmp = tempfile::tempdir().unwrap();
        let woken = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&woken);
        let directory = DataDir::open(tmp.path()).unwrap();
        let wake = move || {
            counter.fetch_add(1, Ordering::SeqCst);
        };
        (tmp, RealDisk::start(directory, wake).unwrap(), woken)
    }

    #[test]
    fn what_is_written_is_read_both_ways() {
        let (_tmp, mut disk, _) = disk();
        let file = disk.create("x.tmp").unwrap();
        for (upto, len) in [(4_000, 4_000), (10_000, 10_000), (10_000, 10_000), (7_000, 10_000)] {
            disk.reserve(file, upto).unwrap();
            assert_eq!(disk.len(file).unwrap(), len);
        }
        disk.write(file, 5_000, &[IoSlice::new(b"one"), IoSlice::new(b""), IoSlice::new(b"two")]).unwrap();
        let mut buf = [9; 8];
        assert_eq!(disk.read(file, 4_999, &mut buf).unwrap(), 8);
        assert_eq!(&buf, b"\0onetwo\0");
        assert_eq!(disk.try_read(file, 5_000, &mut buf[..6]).unwrap(), Some(6));
        let op = disk.start_read(file, 9_998, 100);
        let (done, result) = disk.wait().unwrap();
        assert_eq!(done, op);
        assert!(matches!(result.unwrap(), Done::Read(bytes) if bytes == [0, 0]));
        assert!(disk.wait().is_none());
    }

    #[test]
    fn a_read_that_misses_is_remembered() {
        let (tmp, mut disk, _) = disk();
        let file = disk.create("x.tmp").unwrap();
        disk.reserve(file, 1 << 20).unwrap();
        disk.write(file, 0, &[IoSlice::new(&[7; 1 << 20])]).unwrap();
        let real = File::open(tmp.path().join("x.tmp")).unwrap();
        real.sync_all().unwrap();
        fadvise(&real, 0, None, Advice::DontNeed).unwrap();
        let is_there = disk.try_read(file, 1 << 19, &mut [0; 5]).unwrap().is_some();
        assert_eq!(disk.missed_ms.is_none(), is_there);
        // A file system in memory (tmpfs) keeps all of it.
        assert!(!is_there || fstatfs(&real).unwrap().f_type == 0x0102_1994, "nothing was missed");
    }

    #[test]
    fn a_page_that_has_left_memory_is_believed_to_be_there_for_a_time_only() {
        let (tmp, mut disk, _) = disk();
        let file = disk.create("x.tmp").unwrap();
        disk.reserve(file, 1 << 20).unwrap();
        // Page by page: the page cache keeps longer writes in longer pieces.
        for page in 0..64 {
            disk.write(file, page * 4096, &[IoSlice::new(&[7; 4096])]).unwrap();
        }
        let real = File::open(tmp.path().join("x.tmp")).unwrap();
        real.sync_all().unwrap();
        disk.at(1_000);
        assert!(disk.try_read(file, 0, &mut [0; 5]).unwrap().is_some());
        // A page that was read by the mapping stays in memory, and those around it: this one is far from that, and was
        // looked at with it.
        fadvise(&real, 0, None, Advice::DontNeed).unwrap();
        // Any handle can tell.
        disk.handle("y").at(1_250);
        let is_there = disk.try_read(file, 200_000, &mut [0; 5]).unwrap().is_some();
        assert_eq!(is_there, fstatfs(&real).unwrap().f_type == 0x0102_1994, "unless it is a file system in memory");
    }

    #[test]
    fn installs_replace_and_removals_may_find_nothing() {
        let (tmp, mut disk, woken) = disk();
        for content in ["old", "new"] {
            let file = disk.create("x.tmp").unwrap();
            disk.write(file, 0, &[IoSlice::new(content.as_bytes())]).unwrap();
            disk.start_sync(Lane::Data, file);
            disk.start_install(Lane::Small, file, "x.tmp", "x");
            while let Some((_, result)) = disk.wait() {
                result.unwrap();
            }
            assert_eq!(std::fs::read_to_string(tmp.path().join("x")).unwrap(), content);
        }
        assert_eq!(disk.list().unwrap(), ["x"]);
        disk.start_remove(Lane::Background, "x");
        disk.start_remove(Lane::Background, "x");
        disk.start_sync_dir(Lane::Background);
        while let Some((_, result)) = disk.wait() {
            result.unwrap();
        }
        assert!(disk.list().unwrap().is_empty());
        drop(disk);
        assert_eq!(woken.load(Ordering::SeqCst), 7);
    }

    #[test]
    fn handles_share_the_directory_and_nothing_else() {
        let (tmp, mut disk, _) = disk();
        let [mut one, mut two] = [disk.handle("1-"), disk.handle("2-")];
        let [a, b] = [one.create("x").unwrap(), two.create("x").unwrap()];
        assert_ne!(a, b);
        one.write(a, 0, &[IoSlice::new(b"one")]).unwrap();
        two.write(b, 0, &[IoSlice::new(b"two")]).unwrap();
        let [of_one, of_two] = [one.start_sync(Lane::Data, a), two.start_install(Lane::Small, b, "x", "y")];
        assert_eq!(two.wait().map(|done| done.0), Some(of_two));
        assert_eq!(one.wait().map(|done| done.0), Some(of_one));
        assert!(one.wait().is_none() && two.wait().is_none() && disk.wait().is_none());
        assert_eq!((one.list().unwrap(), two.list().unwrap()), (vec!["x".to_owned()], vec!["y".to_owned()]));
        assert_eq!(std::fs::read_to_string(tmp.path().join("2-y")).unwrap(), "two");
        assert_eq!(two.whole_name("y"), "2-y");
        // What a handle that is dropped has started is done all the same, and in order with what others start.
        two.start_install(Lane::Background, b, "y", "z");
        drop(two);
        disk.start_clear(Lane::Background, "2-");
        disk.wait().unwrap().1.unwrap();
        assert_eq!(disk.list().unwrap(), ["1-x"]);
        drop(disk);
        assert_eq!(one.len(a).unwrap(), 3);
        assert!(matches!(DataDir::open(tmp.path()), Err(super::super::dir::DirError::Held(_))));
        drop(one);
        DataDir::open(tmp.path()).unwrap();
    }

    #[test]
    fn a_write_that_was_started_is_there_when_it_is_done() {
        let (tmp, mut disk, _) = disk();
        let file = disk.create("x").unwrap();
        disk.start_write(Lane::Background, file, 2, vec![b"one".to_vec(), Vec::new(), b"two".to_vec()]);
        disk.close(file);
        disk.wait().unwrap().1.unwrap();
        assert_eq!(std::fs::read(tmp.path().join("x")).unwrap(), b"\0\0onetwo");
    }

    #[test]
    fn a_failed_job_says_so() {
        let (tmp, mut disk, _) = disk();
        let file = disk.create("x.tmp").unwrap();
        disk.start_install(Lane::Data, file, "not there", "x");
        assert!(disk.wait().unwrap().1.is_err());
        assert!(disk.open("not there").is_err());
        std::fs::create_dir(tmp.path().join("directory")).unwrap();
        disk.start_remove(Lane::Background, "directory");
        assert!(disk.wait().unwrap().1.is_err());
        let nowhere = 1 << 63;
        assert!(disk.read(file, nowhere, &mut [0; 8]).is_err());
        disk.start_read(file, nowhere, 8);
        assert!(disk.wait().unwrap().1.is_err());
    }

    #[test]
    fn a_closed_file_completes_what_was_started_and_holds_no_space() {
        let (tmp, mut disk, _) = disk();
        let file = disk.create("x").unwrap();
        disk.write(file, 0, &[IoSlice::new(b"abc")]).unwrap();
        disk.try_read(file, 0, &mut [0; 3]).unwrap();
        disk.start_read(file, 0, 3);
        disk.start_remove(Lane::Background, "x");
        disk.close(file);
        // Behind it in its lane, so that it is done, too.
        disk.start_sync_dir(Lane::Background);
        let mut read = None;
        while let Some((_, result)) = disk.wait() {
            if let Done::Read(bytes) = result.unwrap() {
                read = Some(bytes);
            }
        }
        assert_eq!(read.as_deref(), Some(b"abc".as_slice()));
        let links = std::fs::read_dir("/proc/self/fd").unwrap();
        let open = links.filter_map(|link| std::fs::read_link(link.ok()?.path()).ok());
        let held: Vec<PathBuf> =
            open.filter(|path| path.starts_with(tmp.path()) && path.ends_with("x (deleted)")).collect();
        assert!(held.is_empty(), "{held:?}");
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert!(!maps.contains(tmp.path().join("x").to_str().unwrap()), "{maps}");
    }
}

//! Owns: the real disk: files of one directory, and the threads that do what may take long. They own no state: each
//! takes jobs from its queue, in order, and reports what came of them.
//! Never: what the bytes mean.

use super::dir::{DataDir, OWN_NAMES};
use super::disk::{Disk, Done, FileId, Lane, OpId};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{Errno, ReadWriteFlags, preadv2, pwritev};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

/// How much of zeros is written at a time where the file system cannot allocate space.
const ZEROS_BYTES: usize = 1 << 20;

enum Work {
    Sync(Arc<File>),
    SyncDir,
    Install { file: Arc<File>, from: PathBuf, to: PathBuf },
    Remove(PathBuf),
    Read { file: Arc<File>, at: u64, len: usize },
}

struct Job {
    op: OpId,
    work: Work,
}

type Completion = (OpId, io::Result<Done>);

struct Open {
    file: Arc<File>,
    /// Bytes from the start whose space is allocated.
    reserved: u64,
}

/// A directory's files and the four threads that sync and read them.
pub struct RealDisk {
    /// Held for as long as the files are open.
    directory: DataDir,
    files: Vec<Option<Open>>,
    data: Sender<Job>,
    small: Sender<Job>,
    background: Sender<Job>,
    reads: Sender<Job>,
    done: Receiver<Completion>,
    next_op: u64,
    under_way: usize,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for RealDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RealDisk({})", self.directory.path().display())
    }
}

impl RealDisk {
    /// Starts the threads. `wake` is called, from any of them, whenever [`Disk::poll`] has something new.
    ///
    /// # Errors
    /// Where a thread cannot be started or the directory not be opened.
    pub fn start(directory: DataDir, wake: impl Fn() + Send + Sync + 'static) -> io::Result<RealDisk> {
        let (report, done) = channel();
        let wake: Arc<dyn Fn() + Send + Sync> = Arc::new(wake);
        let mut threads = Vec::new();
        let mut start = |name: &str| {
            let (queue, jobs) = channel();
            let worker = Worker {
                jobs,
                report: report.clone(),
                wake: Arc::clone(&wake),
                directory: File::open(directory.path())?,
            };
            threads.push(std::thread::Builder::new().name(name.to_owned()).spawn(move || worker.run())?);
            io::Result::Ok(queue)
        };
        let [data, small] = [start("dkv-sync")?, start("dkv-small")?];
        let [background, reads] = [start("dkv-background")?, start("dkv-read")?];
        let files = Vec::new();
        Ok(RealDisk { directory, files, data, small, background, reads, done, next_op: 0, under_way: 0, threads })
    }

    fn open_file(&self, file: FileId) -> &Open {
        let open = self.files.get(file.0 as usize).and_then(Option::as_ref);
        open.expect("a file is used only between open and close")
    }

    fn file(&self, file: FileId) -> Arc<File> {
        Arc::clone(&self.open_file(file).file)
    }

    fn add(&mut self, file: File) -> io::Result<FileId> {
        let reserved = file.metadata()?.len();
        self.files.push(Some(Open { file: Arc::new(file), reserved }));
        Ok(FileId((self.files.len() - 1) as u32))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn queue(&self, lane: Lane) -> &Sender<Job> {
        match lane {
            Lane::Data => &self.data,
            Lane::Small => &self.small,
            Lane::Background => &self.background,
        }
    }

    fn send(&mut self, queue: impl Fn(&Self) -> &Sender<Job>, work: Work) -> OpId {
        let op = OpId(self.next_op);
        self.next_op += 1;
        self.under_way += 1;
        queue(self).send(Job { op, work }).expect("the threads run until the disk is dropped");
        op
    }
}

impl Disk for RealDisk {
    fn list(&mut self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.directory.path())? {
            let entry = entry?;
            let name = entry.file_name().into_string();
            let is_file = entry.file_type()?.is_file();
            names.extend(name.ok().filter(|name| is_file && !OWN_NAMES.contains(&name.as_str())));
        }
        Ok(names)
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
        self.add(options.open(self.path(name))?)
    }

    fn reserve(&mut self, file: FileId, upto: u64) -> io::Result<()> {
        let Open { file: real, reserved } = self.open_file(file);
        if upto <= *reserved {
            return Ok(());
        }
        allocate(real, *reserved, upto)?;
        if let Some(Some(open)) = self.files.get_mut(file.0 as usize) {
            open.reserved = upto;
        }
        Ok(())
    }

    fn write(&mut self, file: FileId, at: u64, bytes: &[IoSlice<'_>]) -> io::Result<()> {
        write_all_at(&self.open_file(file).file, at, bytes)
    }

    fn try_read(&mut self, file: FileId, at: u64, buf: &mut [u8]) -> io::Result<Option<usize>> {
        let real = &self.open_file(file).file;
        match preadv2(&**real, &mut [IoSliceMut::new(buf)], at, ReadWriteFlags::NOWAIT) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            // A file system without such reads (tmpfs before Linux 6.x, some network ones).
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => read_all_at(real, at, buf).map(Some),
            Err(error) => Err(error.into()),
        }
    }

    fn close(&mut self, file: FileId) {
        if let Some(open) = self.files.get_mut(file.0 as usize) {
            *open = None;
        }
    }

    fn start_sync(&mut self, lane: Lane, file: FileId) -> OpId {
        let work = Work::Sync(self.file(file));
        self.send(|disk| disk.queue(lane), work)
    }

    fn start_read(&mut self, file: FileId, at: u64, len: usize) -> OpId {
        let work = Work::Read { file: self.file(file), at, len };
        self.send(|disk| &disk.reads, work)
    }

    fn start_install(&mut self, lane: Lane, file: FileId, from: &str, to: &str) -> OpId {
        let work = Work::Install { file: self.file(file), from: self.path(from), to: self.path(to) };
        self.send(|disk| disk.queue(lane), work)
    }

    fn start_sync_dir(&mut self, lane: Lane) -> OpId {
        self.send(|disk| disk.queue(lane), Work::SyncDir)
    }

    fn start_remove(&mut self, lane: Lane, name: &str) -> OpId {
        let work = Work::Remove(self.path(name));
        self.send(|disk| disk.queue(lane), work)
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

impl Drop for RealDisk {
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
    report: Sender<Completion>,
    wake: Arc<dyn Fn() + Send + Sync>,
    directory: File,
}

impl Worker {
    fn run(self) {
        while let Ok(Job { op, work }) = self.jobs.recv() {
            let result = self.perform(work);
            if self.report.send((op, result)).is_err() {
                return;
            }
            (self.wake)();
        }
    }

    fn perform(&self, work: Work) -> io::Result<Done> {
        match work {
            Work::Sync(file) => file.sync_data()?,
            Work::SyncDir => self.directory.sync_all()?,
            Work::Install { file, from, to } => {
                file.sync_all()?;
                std::fs::rename(from, to)?;
                self.directory.sync_all()?;
            }
            Work::Remove(path) => remove_if_there(&path)?,
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
        match pwritev(file, rest, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                at += written as u64;
                IoSlice::advance_slices(&mut rest, written);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Allocates space up to `upto`, or changes nothing: all before `from` is allocated already.
fn allocate(file: &File, from: u64, upto: u64) -> io::Result<()> {
    let len = file.metadata()?.len();
    loop {
        match fallocate(file, FallocateFlags::empty(), from, upto - from) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => break,
            // Over quota is a full disk, too: deleting helps, and nothing is broken.
            Err(Errno::NOSPC | Errno::DQUOT) => {
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn disk() -> (tempfile::TempDir, RealDisk, Arc<AtomicUsize>) {
        let tmp = tempfile::tempdir().unwrap();
        let woken = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&woken);
        let directory = DataDir::open(tmp.path(), SocketAddr::from(([127, 0, 0, 1], 1))).unwrap();
        let wake = move || {
            counter.fetch_add(1, Ordering::SeqCst);
        };
        (tmp, RealDisk::start(directory, wake).unwrap(), woken)
    }
    use std::net::SocketAddr;

    #[test]
    fn what_is_written_is_read_both_ways() {
        let (_tmp, mut disk, _) = disk();
        let file = disk.create("x.tmp").unwrap();
        disk.reserve(file, 10_000).unwrap();
        assert_eq!(disk.len(file).unwrap(), 10_000);
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
    fn a_failed_job_says_so() {
        let (_tmp, mut disk, _) = disk();
        let file = disk.create("x.tmp").unwrap();
        disk.start_install(Lane::Data, file, "not there", "x");
        assert!(disk.wait().unwrap().1.is_err());
        assert!(disk.open("not there").is_err());
    }

    #[test]
    fn a_closed_file_completes_what_was_started() {
        let (_tmp, mut disk, _) = disk();
        let file = disk.create("x").unwrap();
        disk.write(file, 0, &[IoSlice::new(b"abc")]).unwrap();
        disk.start_read(file, 0, 3);
        disk.start_remove(Lane::Background, "x");
        disk.close(file);
        let mut read = None;
        while let Some((_, result)) = disk.wait() {
            if let Done::Read(bytes) = result.unwrap() {
                read = Some(bytes);
            }
        }
        assert_eq!(read.as_deref(), Some(b"abc".as_slice()));
    }
}

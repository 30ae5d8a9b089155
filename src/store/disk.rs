//! Owns: the door to the disk, as a trait (`files.rs` has the real files). What may take long is started and
//! completes later; nothing here blocks the loop but the calls marked *blocking*, which only opening and closing a
//! store use.
//! Never: what the bytes mean.

use std::io::{self, IoSlice};

/// An open file. Each [`Disk::open`] and [`Disk::create`] gives one of its own, which is never used again while the process
/// lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u32);

/// Something that was started and will be reported by [`Disk::poll`] once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// Which queue of the disk's threads an operation stands in. Operations of one lane complete in order; a small
/// state that must be persisted does not stand behind the data's fdatasync, nor does a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// The log's fdatasync: answers wait for it, so nothing else stands here while the store serves.
    Data,
    /// What nobody waits for: the next segment, compaction, removals.
    Background,
    /// The small state (and later the registers).
    Small,
}

/// What came of an operation that was started.
#[derive(Debug)]
pub enum Done {
    /// A write, a sync, an install or a removal.
    Ok,
    /// The bytes of a read; shorter than asked for only at the end of the file.
    Read(Vec<u8>),
}

/// One data directory, or those of its files whose names begin with a prefix. Names are plain file names in it,
/// without the prefix.
///
/// An error of `write` or of a completed write, sync or install is final (the caller stops the process): after it, what is
/// on the disk is not known. Errors of kind [`io::ErrorKind::StorageFull`] from `reserve` and `create` are not.
pub trait Disk: Sized {
    /// Tells the moment to all handles, in milliseconds of a clock that does not go back: what was seen to be in memory is
    /// believed to be there for a while. Where it is not told, no time passes.
    fn at(&mut self, _now_ms: u64) {}

    /// Another handle onto the same directory. It sees only the files whose names begin with this handle's prefix and
    /// then `prefix`, and learns only of what was started by it. The lanes are shared: operations of one complete in
    /// order, whichever handles they were started by. No two handles give out the same [`FileId`] or [`OpId`].
    #[must_use]
    fn handle(&self, prefix: &str) -> Self;

    /// A file's name as it stands in the directory: with the prefix.
    fn whole_name(&self, name: &str) -> String;

    /// *Blocking.* The names of all files, in no particular order.
    ///
    /// # Errors
    /// Whatever the system says.
    fn list(&mut self) -> io::Result<Vec<String>>;

    /// *Blocking*, but for a file that is open already. Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// Whatever the system says.
    fn open(&mut self, name: &str) -> io::Result<FileId>;

    /// *Blocking.* The file's length in bytes.
    ///
    /// # Errors
    /// Whatever the system says.
    fn len(&mut self, file: FileId) -> io::Result<u64>;

    /// *Blocking.* Reads up to `buf.len()` bytes at `at`; fewer only at the end of the file.
    ///
    /// # Errors
    /// Whatever the system says.
    fn read(&mut self, file: FileId, at: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// *Blocking.* Waits for the next completion of anything that was started. `None`: nothing is under way.
    fn wait(&mut self) -> Option<(OpId, io::Result<Done>)>;

    /// Creates an empty file (an existing one of that name is emptied). Its directory entry is durable only after
    /// an install, or a [`Disk::start_sync_dir`], has completed.
    ///
    /// # Errors
    /// Whatever the system says; `StorageFull` is not final.
    fn create(&mut self, name: &str) -> io::Result<FileId>;

    /// Allocates the file's space up to `upto` bytes, so that writes below it cannot meet a full disk. The file's
    /// length grows to at least `upto`; what was not written reads as zeros.
    ///
    /// # Errors
    /// `StorageFull` where there is no room: nothing has changed then.
    fn reserve(&mut self, file: FileId, upto: u64) -> io::Result<()>;

    /// Whether all bytes of a file can be replaced without any more room: it has no holes, and its file system writes in
    /// place.
    fn can_be_written_over(&self, file: FileId) -> bool;

    /// Writes all the bytes at `at` into the page cache.
    ///
    /// # Errors
    /// Final, whatever it is.
    fn write(&mut self, file: FileId, at: u64, bytes: &[IoSlice<'_>]) -> io::Result<()>;

    /// These bytes will be read soon. Changes nothing but how long that takes.
    fn expect(&self, _file: FileId, _at: u64, _len: usize) {}

    /// Whether these bytes are in memory and can be looked at there, by [`Disk::view`], for as long as nothing is asked of
    /// this handle that changes it.
    fn can_view(&mut self, _file: FileId, _at: u64, _len: usize) -> bool {
        false
    }

    /// Looks at bytes where they are in memory.
    ///
    /// # Panics
    /// Where [`Disk::can_view`] has not just said that these can be.
    fn view(&self, _file: FileId, _at: u64, _len: usize) -> &[u8] {
        unreachable!("this disk shows nothing")
    }

    /// Reads what is in the page cache, without waiting for the device. `None`: not even the first byte is there.
    /// Otherwise the number of bytes read from `at` on: fewer than `buf.len()` at the end of the file, or where the
    /// rest is not in the page cache.
    ///
    /// # Errors
    /// Whatever the system says.
    fn try_read(&mut self, file: FileId, at: u64, buf: &mut [u8]) -> io::Result<Option<usize>>;

    /// Forgets a file. Operations on it that are under way complete all the same.
    fn close(&mut self, file: FileId);

    /// Starts writing all the bytes, one part after the other, at `at`, into the page cache: for what is long, into space
    /// that is reserved. An error of it is final.
    fn start_write(&mut self, lane: Lane, file: FileId, at: u64, parts: Vec<Vec<u8>>) -> OpId;

    /// Starts fdatasync: everything written to the file before this call is durable when it completes.
    fn start_sync(&mut self, lane: Lane, file: FileId) -> OpId;

    /// Starts a read of `len` bytes at `at` (see [`Done::Read`]).
    fn start_read(&mut self, file: FileId, at: u64, len: usize) -> OpId;

    /// Starts: fsync the file, rename it from `from` to `to` (replacing a file of that name), sync the directory.
    /// When it completes, the file is under its new name for good.
    fn start_install(&mut self, lane: Lane, file: FileId, from: &str, to: &str) -> OpId;

    /// Starts a sync of the directory: what was created, renamed or removed before is so for good when it completes.
    fn start_sync_dir(&mut self, lane: Lane) -> OpId;

    /// Starts the removal of a name. A file of that name that is still open stays readable until it is closed.
    fn start_remove(&mut self, lane: Lane, name: &str) -> OpId;

    /// Starts the removal of all files whose names begin with `prefix` when it is this operation's turn.
    fn start_clear(&mut self, lane: Lane, prefix: &str) -> OpId;

    /// The next completion, if there is one. Never blocks.
    fn poll(&mut self) -> Option<(OpId, io::Result<Done>)>;
}

//! Owns: the data directory: making it, its version, its lock.
//! Never: what is in it.

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The version of the directory's layout. A directory of another one is refused.
pub const DIRECTORY_VERSION: u32 = 2;
const VERSION_NAME: &str = "VERSION";
const LOCK_NAME: &str = "LOCK";
/// Files of the directory that are none of the disk's.
pub(super) const OWN_NAMES: [&str; 2] = [VERSION_NAME, LOCK_NAME];

/// A data directory that this process holds until the value is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Holds the lock: the kernel gives it back when the process ends, however it ends.
    _lock: File,
}

/// Why a directory cannot be used: one sentence each.
#[derive(Debug)]
pub enum DirError {
    /// It cannot be read or written.
    Io(PathBuf, io::Error),
    /// Another process holds it.
    Held(PathBuf),
    /// A later version made it.
    Newer(PathBuf, String),
    /// An earlier version made it, whose layout this one does not know.
    Older(PathBuf, String),
    /// It holds files, but not this program's.
    Foreign(PathBuf),
    /// There is nothing there.
    Missing(PathBuf),
}

impl std::fmt::Display for DirError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DirError::Io(path, error) => write!(f, "cannot use {}: {error}", path.display()),
            DirError::Held(path) => write!(
                f,
                "the data directory {} is in use by another process: stop that one, or give another --data-dir",
                path.display()
            ),
            DirError::Newer(path, version) => write!(
                f,
                "the data directory {} was written by a newer version (`{version}`; this one reads `{}`): run that \
                 version",
                path.display(),
                version_line()
            ),
            DirError::Older(path, version) => write!(
                f,
                "the data directory {} was written by an earlier version (`{version}`; this one reads `{}`): run that \
                 version, or give an empty directory and let the node be filled by a peer",
                path.display(),
                version_line()
            ),
            DirError::Foreign(path) => write!(
                f,
                "the directory {} holds files, but no VERSION: it is not a data directory; give an empty or new one",
                path.display()
            ),
            DirError::Missing(path) => {
                write!(f, "there is no data directory at {}", path.display())
            }
        }
    }
}

impl std::error::Error for DirError {}

fn version_line() -> String {
    format!("dkv {DIRECTORY_VERSION}")
}

impl DataDir {
    /// Opens a node's directory, making it if it is not there, and locks it.
    ///
    /// # Errors
    /// Where it cannot be used, is held by another process, of another version, or not a data directory.
    pub fn open(path: &Path) -> Result<DataDir, DirError> {
        std::fs::create_dir_all(path).map_err(|e| io_error(path, e))?;
        let lock = lock(path, FlockOperation::NonBlockingLockExclusive)?;
        match version(path)? {
            Some(line) => check_version(path, &line)?,
            None => write_version(path)?,
        }
        Ok(DataDir { path: path.to_path_buf(), _lock: lock })
    }

    /// Opens an existing directory for a tool. Without `exclusive`, other tools may read it at the same time; a
    /// running node excludes both.
    ///
    /// # Errors
    /// As [`DataDir::open`], and where there is no data directory.
    pub fn open_existing(path: &Path, exclusive: bool) -> Result<DataDir, DirError> {
        let Some(line) = version(path)? else {
            return Err(DirError::Missing(path.to_path_buf()));
        };
        let operation = match exclusive {
            true => FlockOperation::NonBlockingLockExclusive,
            false => FlockOperation::NonBlockingLockShared,
        };
        let lock = lock(path, operation)?;
        check_version(path, &line)?;
        Ok(DataDir { path: path.to_path_buf(), _lock: lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn io_error(path: &Path, error: io::Error) -> DirError {
    DirError::Io(path.to_path_buf(), error)
}

fn lock(path: &Path, operation: FlockOperation) -> Result<File, DirError> {
    let name = path.join(LOCK_NAME);
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).open(&name).map_err(|e| io_error(&name, e))?;
    match flock(&file, operation) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(DirError::Held(path.to_path_buf())),
        Err(error) => Err(io_error(&name, error.into())),
    }
}

/// The first line of VERSION. `None`: the directory is new.
fn version(path: &Path) -> Result<Option<String>, DirError> {
    let name = path.join(VERSION_NAME);
    match std::fs::read_to_string(&name) {
        Ok(text) => Ok(Some(text.lines().next().unwrap_or_default().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match is_new(path) {
            Ok(true) => Ok(None),
            Ok(false) => Err(DirError::Foreign(path.to_path_buf())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error(path, error)),
        },
        Err(error) => Err(io_error(&name, error)),
    }
}

fn is_new(path: &Path) -> io::Result<bool> {
    for entry in std::fs::read_dir(path)? {
        let name = entry?.file_name();
        // A start that was cut short leaves the lock and perhaps a half-written VERSION.
        let ours = name == LOCK_NAME || name == "VERSION.tmp" || name == "lost+found";
        if !ours {
            return Ok(false);
        }
    }
    Ok(true)
}

fn check_version(path: &Path, line: &str) -> Result<(), DirError> {
    let number = line.strip_prefix("dkv ").and_then(|digits| digits.parse::<u32>().ok());
    match number {
        Some(DIRECTORY_VERSION) => Ok(()),
        Some(number) if number < DIRECTORY_VERSION => Err(DirError::Older(path.to_path_buf(), line.to_owned())),
        Some(_) => Err(DirError::Newer(path.to_path_buf(), line.to_owned())),
        None => Err(DirError::Foreign(path.to_path_buf())),
    }
}

fn write_version(path: &Path) -> Result<(), DirError> {
    let temporary = path.join("VERSION.tmp");
    let written = (|| {
        let mut file = File::create(&temporary)?;
        writeln!(file, "{}", version_line())?;
        file.sync_all()?;
        sync_ancestors(path)?;
        std::fs::rename(&temporary, path.join(VERSION_NAME))?;
        File::open(path)?.sync_all()
    })();
    written.map_err(|e| io_error(path, e))
}

/// The entries of the directory and of those that it stands in: a new one must not vanish with what is written into
/// it. All of that is done when there is a VERSION. Those further up may be none of ours to open.
fn sync_ancestors(path: &Path) -> io::Result<()> {
    let path = std::fs::canonicalize(path)?;
    for (n, ancestor) in path.ancestors().skip(1).enumerate() {
        let synced = File::open(ancestor).and_then(|directory| directory.sync_all());
        if n == 0 {
            synced?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn it_is_made_and_held_and_given_back() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("a/b");
        let held = DataDir::open(&path).unwrap();
        assert!(matches!(DataDir::open(&path), Err(DirError::Held(_))));
        assert!(matches!(DataDir::open_existing(&path, false), Err(DirError::Held(_))));
        drop(held);
        let one = DataDir::open_existing(&path, false).unwrap();
        let two = DataDir::open_existing(&path, false).unwrap();
        drop((one, two));
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn newer_older_foreign_missing_and_unreadable_are_one_sentence_each() {
        let tmp = tempfile::tempdir().unwrap();
        assert!(matches!(DataDir::open_existing(&tmp.path().join("no"), true), Err(DirError::Missing(_))));
        std::fs::write(tmp.path().join("VERSION"), "dkv 3\n").unwrap();
        let newer = DataDir::open(tmp.path()).unwrap_err().to_string();
        assert!(newer.contains("newer version (`dkv 3`") && !newer.contains('\n'), "{newer}");
        std::fs::write(tmp.path().join("VERSION"), "dkv 1\n").unwrap();
        let older = DataDir::open(tmp.path()).unwrap_err().to_string();
        assert!(older.contains("earlier version (`dkv 1`") && !older.contains('\n'), "{older}");
        std::fs::remove_file(tmp.path().join("VERSION")).unwrap();
        std::fs::create_dir(tmp.path().join("VERSION")).unwrap();
        assert!(matches!(DataDir::open(tmp.path()), Err(DirError::Io(..))), "whose it is cannot be told");
        std::fs::remove_dir(tmp.path().join("VERSION")).unwrap();
        std::fs::write(tmp.path().join("letter.txt"), "x").unwrap();
        assert!(matches!(DataDir::open(tmp.path()), Err(DirError::Foreign(_))));
        assert!(matches!(DataDir::open(&tmp.path().join("letter.txt")), Err(DirError::Io(..))));
    }
}

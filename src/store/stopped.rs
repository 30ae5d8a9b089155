//! Owns: the directory of a node that is stopped, as a whole: what it says of itself, and making it another node's.
//! Never: what the formation and the voter's bytes say; changing a log; a node that runs: it holds the lock.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::dir::{DataDir, DirError};
use super::files::RealDisk;
use super::home::{self, Home, NodeState, VoterFile};
use super::offline::{Damage, Examined, OfflineError, examine};
use super::{OpenError, Options, SmallState};
use crate::id::Lsn;

/// A stopped node's directory. No node uses it while this value lives.
pub struct Stopped {
    path: PathBuf,
    examined: Examined,
}

impl Stopped {
    /// Reads all of it. Without `exclusive`, other tools may read it at the same time.
    ///
    /// # Errors
    /// Where the directory is in use or cannot be read.
    pub fn open(path: &Path, exclusive: bool) -> Result<Stopped, OfflineError> {
        Ok(Stopped { path: path.to_path_buf(), examined: examine(path, exclusive)? })
    }

    /// What belongs to the node and not to its data.
    #[must_use]
    pub fn node(&self) -> &NodeState {
        &self.examined.node
    }

    /// The voter's file.
    #[must_use]
    pub fn voter(&self) -> &VoterFile {
        &self.examined.voter
    }

    /// The small state of the data that counts.
    #[must_use]
    pub fn state(&self) -> &SmallState {
        &self.examined.state
    }

    /// The last lsn.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.examined.end()
    }

    /// The last lsn that is known to be committed.
    #[must_use]
    pub fn committed(&self) -> Lsn {
        self.examined.committed()
    }

    /// Where the log is damaged.
    #[must_use]
    pub fn damage(&self) -> Option<&Damage> {
        self.examined.damage.as_ref()
    }

    /// Hands out the key of every sound record that has one, deletes among them, up to the first damage.
    ///
    /// # Errors
    /// Where the log cannot be read.
    pub fn each_key(&mut self, mut take: impl FnMut(&[u8])) -> Result<(), OfflineError> {
        self.examined.each_record(|_, placed| {
            if !placed.record.key.is_empty() {
                take(placed.record.key);
            }
            Ok(())
        })
    }

    /// Makes it the directory of the node at `address`, in a cluster that was formed so; `voter`: its memory, if it
    /// votes. The data and the largest grace stay. Either file is replaced as a whole and durably, and the node's file
    /// comes last: until then it is the old cluster's directory, whose voter has lost its memory.
    ///
    /// # Errors
    /// Where a file cannot be written. Then it may be done again.
    pub fn assume(&mut self, address: SocketAddr, formation: &[u8], voter: Option<&[u8]>) -> Result<(), OfflineError> {
        let state = NodeState { address, formation: formation.to_vec(), ..self.examined.node.clone() };
        let write = || {
            match voter {
                Some(bytes) => replace(&self.path, home::VOTER_NAME, &home::encode_voter(bytes))?,
                None => remove(&self.path, home::VOTER_NAME)?,
            }
            replace(&self.path, home::NODE_NAME, &state.encode())
        };
        write().map_err(|e| OfflineError::Io("writing the files `voter` and `node`", e))?;
        self.examined.node = state;
        Ok(())
    }

    /// Gives the directory another name, durably. The caller has seen that nothing is there.
    ///
    /// # Errors
    /// Where the system does not do it.
    pub fn rename(&mut self, to: &Path) -> Result<(), OfflineError> {
        let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let renamed = fs::rename(&self.path, to).and_then(|()| File::open(parent)?.sync_all());
        renamed.map_err(|e| OfflineError::Io("renaming the data directory", e))?;
        self.path = to.to_path_buf();
        Ok(())
    }

    /// Where it stands.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Whether there is a data directory, whatever its state.
#[must_use]
pub fn is_there(path: &Path) -> bool {
    !matches!(DataDir::open_existing(path, false), Err(DirError::Missing(_) | DirError::Foreign(_)))
}

/// Makes a new directory without data, of the node at `address` before it knows of any cluster.
///
/// # Errors
/// Where it is not empty, or cannot be written.
pub fn create(path: &Path, address: SocketAddr, fresh: SmallState) -> Result<(), OfflineError> {
    let directory = DataDir::open(path)?;
    let disk = RealDisk::start(directory, || ()).map_err(|e| OfflineError::Io("starting the disk's threads", e))?;
    let (home, store, _) = Home::open(disk, Options::default(), address, || fresh)?;
    store.close().map_err(OpenError::from)?;
    Ok(home.close().map_err(OpenError::from)?)
}

/// Replaces a file as a whole, durably.
fn replace(path: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.join(format!("{name}.tmp"));
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path.join(name))?;
    File::open(path)?.sync_all()
}

fn remove(path: &Path, name: &str) -> io::Result<()> {
    match fs::remove_file(path.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed?,
    }
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Epoch, Uuid};
    use crate::store::{Kind, Prior};

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn open(path: &Path, port: u16) -> Result<(Home<RealDisk>, crate::store::Store<RealDisk>), OpenError> {
        let disk = RealDisk::start(DataDir::open(path).unwrap(), || ()).unwrap();
        let (home, store, _) = Home::open(disk, Options::default(), address(port), || panic!("it is there"))?;
        Ok((home, store))
    }

    #[test]
    fn it_becomes_another_nodes_and_keeps_its_data() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("a");
        create(&path, address(1), SmallState::new(Uuid(7), 3, true)).unwrap();
        let (mut home, mut store) = open(&path, 1).unwrap();
        assert!(matches!(DataDir::open_existing(&path, false), Err(crate::store::dir::DirError::Held(_))));
        assert!(matches!(Stopped::open(&path, false), Err(OfflineError::Dir(_))), "a node uses it");
        store.stage(Epoch(1), Kind::Set, b"key", b"value", 0, Prior::None).unwrap();
        store.stage(Epoch(1), Kind::Delete, b"gone", b"", 0, Prior::None).unwrap();
        store.write_turn().unwrap();
        store.settle().unwrap();
        store.commit(Lsn(1));
        store.close().unwrap();
        home.persist(|state| (state.largest_grace_ms, state.formation) = (900, b"old".to_vec())).unwrap();
        home.persist_voter(b"memory".to_vec()).unwrap();
        home.close().unwrap();

        let mut stopped = Stopped::open(&path, true).unwrap();
        assert_eq!((stopped.end(), stopped.committed()), (Lsn(2), Lsn(1)));
        assert_eq!((stopped.state().store, stopped.damage()), (Uuid(7), None));
        assert_eq!(stopped.voter(), &VoterFile::Sound(b"memory".to_vec()));
        let mut keys = Vec::new();
        stopped.each_key(|key| keys.push(key.to_vec())).unwrap();
        assert_eq!(keys, [b"key".to_vec(), b"gone".to_vec()]);
        stopped.assume(address(2), b"new", Some(b"other")).unwrap();
        stopped.rename(&tmp.path().join("b")).unwrap();
        drop(stopped);

        let path = tmp.path().join("b");
        assert!(matches!(open(&path, 1), Err(OpenError::OtherNode(_))));
        let (home, store) = open(&path, 2).unwrap();
        assert_eq!((store.end(), home.voter()), (Lsn(2), Some(&b"other"[..])));
        assert_eq!((home.state().largest_grace_ms, &home.state().formation[..]), (900, &b"new"[..]));
        store.close().unwrap();
        home.close().unwrap();
        // A second time, as where the first was cut short: what is gone may be gone already.
        for _ in 0..2 {
            let mut stopped = Stopped::open(&path, true).unwrap();
            stopped.assume(address(2), b"new", None).unwrap();
            drop(stopped);
            assert_eq!(Stopped::open(&path, false).unwrap().voter(), &VoterFile::Missing);
        }
    }

    #[test]
    fn a_voters_memory_that_cannot_be_removed_is_not_taken_for_gone() {
        let tmp = tempfile::tempdir().unwrap();
        create(tmp.path(), address(1), SmallState::new(Uuid(7), 3, true)).unwrap();
        let mut stopped = Stopped::open(tmp.path(), true).unwrap();
        fs::create_dir(tmp.path().join(home::VOTER_NAME)).unwrap();
        assert!(matches!(stopped.assume(address(2), b"new", None), Err(OfflineError::Io(..))));
        assert_eq!(stopped.node().address, address(1));
    }

    #[test]
    fn a_damaged_log_is_said_to_be() {
        let tmp = tempfile::tempdir().unwrap();
        create(tmp.path(), address(1), SmallState::new(Uuid(7), 3, true)).unwrap();
        fs::remove_file(tmp.path().join("1-0000000000000001.log")).unwrap();
        let stopped = Stopped::open(tmp.path(), true).unwrap();
        assert_eq!(stopped.damage().map(|damage| &damage.file[..]), Some("1-0000000000000001.log"));
    }

    /// One that is in use, or whose VERSION cannot be read, may hold data that is not to be passed over.
    #[test]
    fn a_directory_is_there_whatever_its_state_and_no_other_is() {
        let tmp = tempfile::tempdir().unwrap();
        assert!(!is_there(&tmp.path().join("no")) && !is_there(tmp.path()));
        fs::write(tmp.path().join("letter.txt"), "x").unwrap();
        assert!(!is_there(tmp.path()));
        let path = tmp.path().join("a");
        let held = DataDir::open(&path).unwrap();
        assert!(is_there(&path));
        drop(held);
        assert!(is_there(&path));
        fs::write(path.join("VERSION"), [0xff]).unwrap();
        assert!(is_there(&path));
    }

    #[test]
    fn nothing_is_made_where_there_is_something() {
        let tmp = tempfile::tempdir().unwrap();
        fs::write(tmp.path().join("letter.txt"), "x").unwrap();
        assert!(matches!(
            create(tmp.path(), address(1), SmallState::new(Uuid(7), 3, false)),
            Err(OfflineError::Dir(_))
        ));
    }
}

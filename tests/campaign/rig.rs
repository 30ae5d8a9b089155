//! Owns: the cluster that the campaign works on: its shape and settings by seed, each node on a host of its own where
//! that is possible, above the shim where there is a compiler, every other one on a small disk of its own.
//! Never: which faults there are, what clients do.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::figures::Sample;
use crate::hosts::Hosts;
use crate::shim::{NodeShim, Shim};
use crate::support::cluster::Cluster;
use crate::support::dice::Dice;
use crate::support::http::Client;
use crate::support::process::free_address;

const SEGMENT_BYTES: u64 = 1 << 20;

/// The room of a small disk. Much more than the campaign's data.
const SMALL_DISK_BYTES: usize = 192 << 20;

/// Shapes: copies of each shard, and witnesses.
const SHAPES: [(&[usize], usize); 4] = [(&[2, 2], 0), (&[2, 2], 1), (&[3, 2], 0), (&[2, 2, 2, 2], 0)];

pub struct Rig {
    pub cluster: Cluster,
    pub hosts: Option<Hosts>,
    shims: Vec<NodeShim>,
    pub shape: String,
}

impl Rig {
    /// A cluster by seed. `has_hosts`: this process has namespaces of its own.
    pub fn draw(dice: &mut Dice, has_hosts: bool) -> Rig {
        let (copies, witnesses) = SHAPES[dice.below(SHAPES.len() as u64) as usize];
        let reads = if dice.once_in(2) { "lease" } else { "confirm" };
        let settings = format!(
            "[limits]\nmax_value_bytes = 65536\n[deadlines]\ndisk_ms = 2000\nanswer_ms = 5000\n\
             [replication]\nreads = \"{reads}\"\n[store]\nsegment_bytes = {SEGMENT_BYTES}"
        );
        Rig::start(copies, witnesses, &settings, has_hosts)
    }

    /// All nodes run and are ready.
    pub fn start(copies: &[usize], witnesses: usize, settings: &str, has_hosts: bool) -> Rig {
        let nodes = copies.iter().sum::<usize>() + witnesses;
        let hosts = has_hosts.then(|| Hosts::new(nodes));
        let addresses = match &hosts {
            Some(hosts) => hosts.addresses(),
            None => (0..nodes).map(|_| free_address()).collect::<Vec<SocketAddr>>(),
        };
        let mut cluster = Cluster::at(&addresses, copies, settings);
        let shim = Shim::build(&cluster.path(""));
        let of_node = |node| shim.as_ref().unwrap().of_node(cluster.path(&format!("shim-{node}")), cluster.data(node));
        let shims: Vec<NodeShim> = if shim.is_some() { (0..nodes).map(of_node).collect() } else { Vec::new() };
        cluster = cluster.wrapped_each(|node| {
            let host = hosts.as_ref().map(|hosts| hosts.wrapper(node)).unwrap_or_default();
            let shim = shims.get(node).map(NodeShim::wrapper).unwrap_or_default();
            [host, shim].concat()
        });
        let settings = settings.replace('\n', "; ");
        let shape = format!("copies {copies:?}, {witnesses} witnesses; {settings}");
        let rig = Rig { cluster, hosts, shims, shape };
        (0..nodes).for_each(|node| rig.make_disk(node));
        rig.cluster.start_all();
        rig
    }

    fn make_disk(&self, node: usize) {
        let data = self.cluster.data(node);
        fs::create_dir_all(&data).unwrap();
        if self.has_small_disk(node) {
            let size = format!("size={SMALL_DISK_BYTES}");
            let output = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&data).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        }
    }

    /// Its disk is in memory and has little room; other nodes share the machine's.
    pub fn has_small_disk(&self, node: usize) -> bool {
        self.hosts.is_some() && node % 2 == 1
    }

    pub fn shim(&self, node: usize) -> Option<&NodeShim> {
        self.shims.get(node)
    }

    pub fn has_shims(&self) -> bool {
        !self.shims.is_empty()
    }

    pub fn nodes(&self) -> Range<usize> {
        0..self.cluster.nodes()
    }

    /// The shard that a node holds a copy of.
    pub fn shard_of(&self, node: usize) -> Option<usize> {
        (0..self.cluster.shards()).find(|shard| self.cluster.copies(*shard).contains(&node))
    }

    /// Kills a node, if it runs.
    pub fn kill(&self, node: usize) {
        if self.cluster.has_process(node) {
            self.cluster.kill(node);
        }
    }

    /// Nodes whose processes have ended by themselves.
    pub fn ended(&self) -> Vec<usize> {
        self.nodes().filter(|node| !self.cluster.has_process(*node)).collect()
    }

    /// Every node runs, none is held up, all is connected.
    pub fn heal(&self) {
        for node in self.nodes() {
            if let Some(hosts) = &self.hosts {
                hosts.heal(node);
            }
            if let Some(shim) = self.shim(node) {
                shim.clear();
            }
            if self.cluster.has_process(node) && self.cluster.is_frozen(node) {
                self.cluster.thaw(node);
            }
            if !self.cluster.has_process(node) {
                self.cluster.spawn(node);
            }
        }
    }

    /// Waits until every copy is in sync and every node ready.
    pub fn wait_until_well(&self) {
        while let Some(waits) = self.nodes().find(|node| !self.is_ready(*node)) {
            assert!(self.cluster.has_process(waits), "node {waits} has ended by itself: {}", self.last_words(waits));
            thread::sleep(Duration::from_millis(10));
        }
        (0..self.cluster.shards()).for_each(|shard| self.cluster.wait_until_whole(shard));
    }

    /// The end of what a node has logged.
    pub fn last_words(&self, node: usize) -> String {
        let log = self.cluster.log(node);
        log.lines().rev().take(3).collect::<Vec<_>>().join(" | ")
    }

    fn is_ready(&self, node: usize) -> bool {
        let answer =
            Client::try_connect(self.cluster.addresses[node]).and_then(|mut client| client.try_call("GET /readyz"));
        answer.is_some_and(|answer| answer.status == 200)
    }

    /// The files of a dead node's directory whose names end so.
    pub fn files(&self, node: usize, ending: &str) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = names(&self.cluster.data(node));
        files.retain(|path| path.to_str().is_some_and(|name| name.ends_with(ending)));
        files.sort();
        files
    }

    /// Empties a dead node's directory.
    pub fn wipe(&self, node: usize) {
        for path in names(&self.cluster.data(node)) {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.unwrap();
        }
        self.shim(node).inspect(|shim| shim.forget());
    }

    /// Keeps a dead node's directory as it is now.
    pub fn keep_image(&self, node: usize) -> PathBuf {
        let image = self.cluster.path(&format!("image-{node}"));
        let _ = fs::remove_dir_all(&image);
        copy_files(&self.cluster.data(node), &image);
        image
    }

    /// Puts an image in the place of a dead node's directory.
    pub fn put_image(&self, node: usize, image: &Path) {
        self.wipe(node);
        copy_files(image, &self.cluster.data(node));
    }

    /// Of its process, in memory.
    pub fn resident_bytes(&self, node: usize) -> u64 {
        let pid = self.cluster.pid(node).as_raw_nonzero();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        resident.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// What it uses now.
    pub fn figures(&self, node: usize) -> Sample {
        use std::os::unix::fs::MetadataExt;
        let resident_bytes = self.resident_bytes(node);
        let pid = self.cluster.pid(node).as_raw_nonzero();
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        let blocks = |path: PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512);
        let disk_bytes = names(&self.cluster.data(node)).into_iter().map(blocks).sum();
        let live =
            self.cluster.metric(node, "dkv_log_bytes{state=\"live\"}") + 18.0 * self.cluster.metric(node, "dkv_keys");
        let allowed_bytes = 2 * live as u64 + 2 * SEGMENT_BYTES;
        Sample { node, resident_bytes, descriptors, disk_bytes, allowed_bytes }
    }

    /// What every node says of itself, for people; does not wait for those that say nothing.
    pub fn describe(&self) -> String {
        let ask = |node: usize| {
            let quiet = Duration::from_secs(2);
            let stream = TcpStream::connect_timeout(&self.cluster.addresses[node], quiet).ok()?;
            stream.set_read_timeout(Some(quiet)).ok()?;
            let mut text = String::new();
            for path in ["/readyz?verbose", "/cluster"] {
                use std::io::{Read, Write};
                let mut stream = stream.try_clone().ok()?;
                let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n");
                stream.write_all(request.as_bytes()).ok()?;
                let mut space = [0; 1 << 16];
                let n = stream.read(&mut space).ok()?;
                text += &String::from_utf8_lossy(&space[..n]);
            }
            Some(text)
        };
        self.nodes().map(|node| format!("node {node}: {}\n", ask(node).unwrap_or("no answer".to_owned()))).collect()
    }

    /// Copies everything to where it can be looked at after all has ended.
    pub fn keep_all(&self) {
        let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join("campaign");
        let _ = fs::remove_dir_all(&to);
        let copied = Command::new("cp").arg("-r").args([self.cluster.path(""), to.clone()]).status();
        println!("directories and logs are kept in {}: {copied:?}", to.display());
    }

    pub fn signal(&self, node: usize, signal: Signal) {
        if self.cluster.has_process(node) {
            self.cluster.signal(node, signal);
        }
    }
}

fn names(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for path in names(from) {
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("{}", self.describe());
            self.keep_all();
        }
    }
}

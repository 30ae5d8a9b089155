//! Owns: a cluster of nodes of the real binary, in one directory, each to be started, stopped, frozen and killed by
//! itself, all ended by their pids when the test lets go of the cluster.
//! Never: what the nodes answer, beyond the question whether they are ready.

use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use dkv::id::address_as_file_name;
use dkv::router::Router;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::http::Client;
use super::process::free_address;

/// A cluster. Its nodes are numbered as the product does: the shards in order, each primary before its replicas.
pub struct Cluster {
    pub addresses: Vec<SocketAddr>,
    /// The nodes of each shard; the rest are witnesses.
    shards: Vec<Range<usize>>,
    dir: Arc<TempDir>,
    /// What the names of its table and its logs begin with.
    name: &'static str,
    children: Vec<Mutex<Option<Child>>>,
    /// By node: what starts its process.
    wrappers: Vec<Vec<String>>,
}

impl Cluster {
    /// A cluster with these tables of settings; no node runs yet.
    pub fn new(shards: usize, copies: usize, settings: &str) -> Cluster {
        let addresses: Vec<SocketAddr> = (0..shards * copies).map(|_| free_address()).collect();
        Cluster::at(&addresses, &vec![copies; shards], settings)
    }

    /// A cluster at these addresses: so many copies of each shard; the rest are witnesses. No node runs yet.
    pub fn at(addresses: &[SocketAddr], copies: &[usize], settings: &str) -> Cluster {
        Cluster::in_dir("", Arc::new(tempfile::tempdir().unwrap()), addresses, copies, settings)
    }

    fn in_dir(
        name: &'static str,
        dir: Arc<TempDir>,
        addresses: &[SocketAddr],
        copies: &[usize],
        settings: &str,
    ) -> Cluster {
        let (mut config, mut shards, mut first) = (String::new(), Vec::new(), 0);
        for copies in copies {
            config += &shard_text(shards.len(), &addresses[first..first + copies]);
            shards.push(first..first + copies);
            first += copies;
        }
        for witness in &addresses[first..] {
            config += &format!("[[witness]]\naddress = \"{witness}\"\n");
        }
        Cluster::with_table(name, dir, addresses.to_vec(), shards, &(config + settings + "\n"))
    }

    fn with_table(
        name: &'static str,
        dir: Arc<TempDir>,
        addresses: Vec<SocketAddr>,
        shards: Vec<Range<usize>>,
        config: &str,
    ) -> Cluster {
        fs::write(dir.path().join(format!("{name}sharding.toml")), config).unwrap();
        let children = addresses.iter().map(|_| Mutex::new(None)).collect();
        let wrappers = vec![Vec::new(); addresses.len()];
        Cluster { addresses, shards, dir, name, children, wrappers }
    }

    /// Another cluster in the same directory, with another table: so many copies of each shard, and witnesses. No node
    /// of it runs yet.
    pub fn successor(&self, name: &'static str, addresses: &[SocketAddr], copies: &[usize]) -> Cluster {
        Cluster::in_dir(name, Arc::clone(&self.dir), addresses, copies, "")
    }

    /// The nodes that hold copies of a shard.
    pub fn copies(&self, shard: usize) -> Range<usize> {
        self.shards[shard].clone()
    }

    /// The cluster's own table.
    pub fn config(&self) -> PathBuf {
        self.path(&format!("{}sharding.toml", self.name))
    }

    /// The same with all nodes running and ready.
    pub fn started(shards: usize, copies: usize, settings: &str) -> Cluster {
        let cluster = Cluster::new(shards, copies, settings);
        cluster.start_all();
        cluster
    }

    /// A cluster whose processes are started by another program, which must become what it is given to start.
    pub fn wrapped(self, wrapper: &[&str]) -> Cluster {
        self.wrapped_each(|_| wrapper.iter().map(|word| (*word).to_owned()).collect())
    }

    /// The same with another program for each node.
    pub fn wrapped_each(mut self, wrapper: impl Fn(usize) -> Vec<String>) -> Cluster {
        self.wrappers = (0..self.nodes()).map(wrapper).collect();
        self
    }

    pub fn nodes(&self) -> usize {
        self.addresses.len()
    }

    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// The table's primary of a shard.
    pub fn primary(&self, shard: usize) -> usize {
        self.shards[shard].start
    }

    /// The `n`th of this test's keys that belong to the shard.
    pub fn key(&self, shard: usize, n: usize) -> String {
        self.key_named("key", shard, n)
    }

    /// The `n`th key of the shard whose name begins so.
    pub fn key_named(&self, prefix: &str, shard: usize, n: usize) -> String {
        let mut mine = (0..).map(|i| format!("{prefix}-{i}")).filter(|key| self.shard_of(key.as_bytes()) == shard);
        mine.nth(n).unwrap()
    }

    pub fn shard_of(&self, key: &[u8]) -> usize {
        Router::of(self.shards.len()).shard_of(key).0 as usize
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A node's data directory.
    pub fn data(&self, node: usize) -> PathBuf {
        self.path("data").join(address_as_file_name(self.addresses[node]))
    }

    pub fn start_all(&self) {
        for node in 0..self.nodes() {
            self.spawn(node);
        }
        for node in 0..self.nodes() {
            self.wait_until_ready(node);
        }
    }

    /// Starts a node and waits until it is ready.
    pub fn start(&self, node: usize) {
        self.spawn(node);
        self.wait_until_ready(node);
    }

    /// Starts a node with the cluster's file, and waits for nothing.
    pub fn spawn(&self, node: usize) {
        self.spawn_with(node, &self.config());
    }

    /// Starts a node with another file.
    pub fn spawn_with(&self, node: usize, config: &Path) {
        let log = OpenOptions::new().create(true).append(true).open(self.log_path(node)).unwrap();
        let mut words = self.wrappers[node].clone();
        words.extend([env!("CARGO_BIN_EXE_dkv").to_owned(), "serve".to_owned()]);
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .arg("--config")
            .arg(config)
            .arg("--data-dir")
            .arg(self.data(node))
            .args(["--address", &self.addresses[node].to_string()])
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let before = self.child(node).replace(command.spawn().unwrap());
        assert!(before.is_none(), "node {node} runs already");
    }

    /// Waits until the node's process has begun to work on its data directory.
    pub fn wait_for_start(&self, node: usize) {
        let fds = format!("/proc/{}/fd", self.pid(node).as_raw_nonzero());
        let data = self.data(node);
        let works = |entry: std::io::Result<fs::DirEntry>| {
            entry.and_then(|entry| fs::read_link(entry.path())).is_ok_and(|target| target.starts_with(&data))
        };
        while !fs::read_dir(&fds).is_ok_and(|mut fds| fds.any(works)) {
            thread::yield_now();
        }
    }

    /// Waits until the node answers at all, ready or not.
    pub fn wait_until_alive(&self, node: usize) {
        self.wait_for(node, "GET /livez");
    }

    pub fn wait_until_ready(&self, node: usize) {
        self.wait_for(node, "GET /readyz");
    }

    fn wait_for(&self, node: usize, line: &str) {
        loop {
            if let Some(status) = self.child(node).as_mut().and_then(|child| child.try_wait().unwrap()) {
                panic!("node {node} ended with {status}: {}", self.log(node));
            }
            let answer = Client::try_connect(self.addresses[node]).and_then(|mut client| client.try_call(line));
            if answer.is_some_and(|answer| answer.status == 200) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// A connection to a node.
    pub fn client(&self, node: usize) -> Client {
        Client::connect(self.addresses[node])
    }

    /// What the node has logged.
    pub fn log(&self, node: usize) -> String {
        fs::read_to_string(self.log_path(node)).unwrap_or_default()
    }

    fn log_path(&self, node: usize) -> PathBuf {
        self.path(&format!("{}log-{node}", self.name))
    }

    /// `kill -9`; the process is gone when this returns.
    pub fn kill(&self, node: usize) {
        let mut child = self.child(node).take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Whether the node's process is there, running or stopped; one that has ended is let go.
    pub fn has_process(&self, node: usize) -> bool {
        let mut child = self.child(node);
        if child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_some()) {
            *child = None;
        }
        child.is_some()
    }

    pub fn signal(&self, node: usize, signal: Signal) {
        kill_process(self.pid(node), signal).unwrap();
    }

    pub fn pid(&self, node: usize) -> Pid {
        Pid::from_child(self.child(node).as_ref().expect("it runs"))
    }

    /// Stops the process where it stands; it is stopped when this returns.
    pub fn freeze(&self, node: usize) {
        self.signal(node, Signal::STOP);
        let stat = format!("/proc/{}/stat", self.pid(node).as_raw_nonzero());
        while !fs::read_to_string(&stat).unwrap().contains(") T ") {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether the process was stopped where it stands.
    pub fn is_frozen(&self, node: usize) -> bool {
        let pid = self.child(node).as_ref().map(Pid::from_child);
        let stat = pid.map(|pid| fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())));
        stat.is_some_and(|stat| stat.is_ok_and(|stat| stat.contains(") T ")))
    }

    pub fn thaw(&self, node: usize) {
        self.signal(node, Signal::CONT);
    }

    /// Asks the node to stop and waits until it has.
    pub fn stop(&self, node: usize) {
        self.signal(node, Signal::TERM);
        let status = self.wait(node);
        assert!(status.success(), "node {node} ended with {status}: {}", self.log(node));
    }

    /// Waits for the end of a node's process.
    pub fn wait(&self, node: usize) -> ExitStatus {
        let mut child = self.child(node).take().expect("it runs");
        child.wait().unwrap()
    }

    /// The value of a metric, by its whole name with labels.
    pub fn metric(&self, node: usize, name: &str) -> f64 {
        let page = self.client(node).call("GET /metrics", "");
        let rows = page.text().lines().filter_map(|line| line.rsplit_once(' '));
        let mut found = rows.filter(|(row, _)| *row == name).map(|(_, value)| value.parse().unwrap());
        found.next().unwrap_or_else(|| panic!("no {name} in {}", page.text()))
    }

    /// Waits until a metric has reached a value.
    pub fn wait_for_metric(&self, node: usize, name: &str, at_least: f64) {
        while self.metric(node, name) < at_least {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the node's log has a line with this text; gives the first.
    pub fn wait_for_log(&self, node: usize, text: &str) -> String {
        loop {
            if let Some(line) = self.log(node).lines().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn child(&self, node: usize) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.children[node].lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in 0..self.nodes() {
            if let Some(mut child) = self.child(node).take() {
                let _ = child.kill();
                let _ = child.wait();
            }
            if thread::panicking() {
                eprintln!("the log of node {node}, {}:\n{}", self.addresses[node], self.log(node));
            }
        }
    }
}

/// The shards of a cluster as its file has them.
pub fn table(addresses: &[SocketAddr], copies: usize) -> String {
    addresses.chunks(copies).enumerate().map(|(idx, nodes)| shard_text(idx, nodes)).collect()
}

fn shard_text(idx: usize, nodes: &[SocketAddr]) -> String {
    let replicas: Vec<String> = nodes[1..].iter().map(|node| format!("\"{node}\"")).collect();
    let (primary, replicas) = (nodes[0], replicas.join(", "));
    format!("[[shard]]\nname = \"shard-{idx}\"\nidx = {idx}\naddress = \"{primary}\"\nreplicas = [{replicas}]\n")
}

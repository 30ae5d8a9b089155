//! What a request costs, counted: system calls, reads of the log, and allocations. Times vary with the machine; these do
//! not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use dkv::config;
use dkv::id::NodeId;
use dkv::server::{ServeOptions, serve};
use rustix::process::{Pid, Signal, getpid, kill_process};

use support::cluster::Cluster;
use support::http::Client;
use support::process::free_address;

/// Counts what the thread allocates that has asked for it.
struct Counting;

thread_local! {
    static IS_COUNTED: Cell<bool> = const { Cell::new(false) };
}
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

fn count(bytes: usize) {
    if IS_COUNTED.try_with(Cell::get).unwrap_or(false) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

// SAFETY: all is done by the system's allocator.
#[allow(unsafe_code, reason = "an allocator that counts is an allocator")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as asked of us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as asked of us.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        // SAFETY: as asked of us.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes that the counted thread copied by calls of `memcpy` and `memmove`. Copies of a few bytes need no call.
static COPIED: AtomicU64 = AtomicU64::new(0);

/// Of long copies the one that this program makes, in place of the system library's: it counts them.
#[allow(unsafe_code, reason = "what all copies go through can be seen only here")]
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    if IS_COUNTED.try_with(Cell::get).unwrap_or(false) {
        COPIED.fetch_add(bytes as u64, Ordering::Relaxed);
    }
    let backwards = to.addr().wrapping_sub(from.addr()) < bytes;
    for n in 0..bytes {
        let at = if backwards { bytes - 1 - n } else { n };
        // SAFETY: both places are as long as the caller says; volatile, so that no call of this comes of it.
        unsafe { to.add(at).write_volatile(from.add(at).read_volatile()) };
    }
    to
}

#[allow(unsafe_code, reason = "see memmove")]
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    // SAFETY: as asked of us.
    unsafe { memmove(to, from, bytes) }
}

const CONNECTIONS: usize = 64;
const ROUNDS: usize = 20;
const REQUESTS: u64 = (CONNECTIONS * ROUNDS) as u64;
/// What a node does by itself meanwhile: beacons, deadlines, the last mark, the completion of a sync.
const BY_ITSELF: u64 = REQUESTS / 20;

fn get(n: usize) -> Vec<u8> {
    format!("GET /get?key=key-{n} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
}

fn set(n: usize, value: &str) -> Vec<u8> {
    let length = value.len();
    format!("PUT /set?key=key-{n} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{value}").into_bytes()
}

/// Reads by files' descriptors so far, sockets apart.
fn file_reads(pid: Pid) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/io", pid.as_raw_nonzero())).unwrap();
    text.lines().find_map(|line| line.strip_prefix("syscr: ")).unwrap().parse().unwrap()
}

/// What the node has counted: turns, socket reads, socket writes, reads of files.
fn counts(cluster: &Cluster) -> [u64; 4] {
    let metric = |name| cluster.metric(0, name) as u64;
    let names = ["dkv_turns_total", "dkv_socket_calls_total{call=\"read\"}", "dkv_socket_calls_total{call=\"write\"}"];
    let [turns, reads, writes] = names.map(metric);
    [turns, reads, writes, file_reads(cluster.pid(0))]
}

/// Every connection sends a request, and only then the node goes on: 64 are ready at once.
fn round(cluster: &Cluster, clients: &mut [Client], requests: &[Vec<u8>]) {
    cluster.freeze(0);
    for (client, request) in clients.iter_mut().zip(requests) {
        client.send(request);
    }
    cluster.thaw(0);
    for client in clients {
        assert!(matches!(client.read().status, 200 | 201));
    }
}

#[test]
fn a_get_costs_two_socket_calls_and_no_other() {
    let cluster = Cluster::started(1, 1, "");
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|_| cluster.client(0)).collect();
    let value = "v".repeat(100);
    let sets: Vec<_> = (0..CONNECTIONS).map(|n| set(n, &value)).collect();
    round(&cluster, &mut clients, &sets);
    let gets: Vec<_> = (0..CONNECTIONS).map(get).collect();
    let before = counts(&cluster);
    for _ in 0..ROUNDS {
        round(&cluster, &mut clients, &gets);
    }
    let after = counts(&cluster);
    let [turns, reads, writes, file_reads] = [0, 1, 2, 3].map(|at| after[at] - before[at]);
    assert!(reads <= REQUESTS + BY_ITSELF, "{reads} reads of sockets for {REQUESTS} requests");
    assert!(writes <= REQUESTS + BY_ITSELF, "{writes} writes to sockets for {REQUESTS} requests");
    assert!(turns <= REQUESTS / 4, "{turns} turns for {REQUESTS} requests, 64 at a time");
    assert!(file_reads <= BY_ITSELF, "{file_reads} reads of files for {REQUESTS} requests whose records are in memory");
}

#[test]
fn sets_that_come_together_are_written_together() {
    let cluster = Cluster::started(1, 1, "");
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|_| cluster.client(0)).collect();
    let writes_so_far = || {
        let text = std::fs::read_to_string(format!("/proc/{}/io", cluster.pid(0).as_raw_nonzero())).unwrap();
        text.lines().find_map(|line| line.strip_prefix("syscw: ")).unwrap().parse::<u64>().unwrap()
    };
    let syncs = || cluster.metric(0, "dkv_log_fsync_duration_seconds_count") as u64;
    let value = "v".repeat(100);
    let requests: Vec<_> = (0..CONNECTIONS).map(|n| set(n, &value)).collect();
    let before = [writes_so_far(), syncs()];
    for _ in 0..ROUNDS {
        round(&cluster, &mut clients, &requests);
    }
    let [writes, syncs] = [writes_so_far() - before[0], syncs() - before[1]];
    // The log's write, what wakes the loop when the sync is done, and now and then a mark.
    assert!(writes <= REQUESTS / 4, "{writes} writes of files for {REQUESTS} records, 64 at a time");
    assert!(syncs <= REQUESTS / 8, "{syncs} syncs for {REQUESTS} records, 64 at a time");
}

/// A node on a thread of this process, whose allocations are counted.
struct Node {
    address: SocketAddr,
    thread: thread::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Node {
    fn start() -> Node {
        let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
        let text = format!("[[shard]]\nname = 'a'\nidx = 0\naddress = '{address}'\nreplicas = []\n");
        let cluster = config::parse(&text, "test").unwrap().cluster;
        let options = ServeOptions { cluster, node: NodeId(0), listen: address, data_dir: dir.path().join("data") };
        let thread = thread::spawn(move || {
            IS_COUNTED.set(true);
            serve(options).unwrap();
        });
        while Client::try_connect(address).and_then(|mut c| c.try_call("GET /readyz")).is_none_or(|r| r.status != 200) {
            thread::yield_now();
        }
        Node { address, thread, _dir: dir }
    }

    fn stop(self) {
        kill_process(getpid(), Signal::TERM).unwrap();
        self.thread.join().unwrap();
    }
}

/// How many allocations the node made while this was asked for, and of how many bytes.
fn allocations(client: &mut Client, requests: impl Iterator<Item = Vec<u8>>) -> (u64, u64) {
    let before = (ALLOCATIONS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
    for request in requests {
        assert!(matches!(client.ask(&request).status, 200 | 201));
    }
    (ALLOCATIONS.load(Ordering::Relaxed) - before.0, BYTES.load(Ordering::Relaxed) - before.1)
}

#[test]
fn a_get_allocates_nothing_and_a_set_little() {
    const TIMES: usize = 2_000;
    let node = Node::start();
    let mut client = Client::connect(node.address);
    let value = "v".repeat(100);
    // Buffers and tables grow to what they stay at.
    allocations(&mut client, (0..TIMES).map(|n| set(n, &value)));
    allocations(&mut client, (0..TIMES).map(get));
    let (gets, _) = allocations(&mut client, (0..TIMES).map(get));
    let (sets, set_bytes) = allocations(&mut client, (0..TIMES).map(|n| set(n, &value)));
    let large = "v".repeat(100_000);
    allocations(&mut client, (0..20).map(|n| set(n, &large)));
    allocations(&mut client, (0..20).map(get));
    let before = COPIED.load(Ordering::Relaxed);
    let (_, large_bytes) = allocations(&mut client, (0..20).map(get));
    let get_copied = COPIED.load(Ordering::Relaxed) - before;
    allocations(&mut client, (0..20).map(|n| set(n, &large)));
    let set_copied = COPIED.load(Ordering::Relaxed) - before - get_copied;
    node.stop();
    println!("20 GETs of 100 kB copy {get_copied} bytes, 20 SETs {set_copied}");
    println!("{TIMES} GETs: {gets}; {TIMES} SETs: {sets} of {set_bytes} bytes; 20 GETs of 100 kB: {large_bytes} bytes");
    // What the node does by itself meanwhile (its beacons, its deadlines) may allocate now and then.
    assert!(gets <= TIMES as u64 / 50, "{gets} allocations for {TIMES} GETs");
    assert!(large_bytes <= 400_000, "{large_bytes} bytes allocated for 20 GETs of 100 kB: its buffers are not kept");
    // Once: from where memory has the log into the output.
    assert!(get_copied <= 20 * 110_000, "{get_copied} bytes copied for 20 GETs of 100 kB");
    // Into the log's buffer; what the socket brought in parts may move once, when its buffer grows.
    assert!(set_copied <= 20 * 450_000, "{set_copied} bytes copied for 20 SETs of 100 kB");
    assert!(sets <= 4 * TIMES as u64, "{sets} allocations for {TIMES} SETs");
}

//! Owns: a node of the real binary in a directory of its own, ended by its pid when the test lets go of it.
//! Never: HTTP beyond the question whether it is ready.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::http::Client;

/// A cluster of one node.
pub struct Node {
    pub address: SocketAddr,
    child: Child,
    dir: TempDir,
}

impl Node {
    /// Starts a node with these tables of settings and waits until it is ready.
    pub fn start(settings: &str) -> Node {
        let address = free_address();
        let dir = tempfile::tempdir().unwrap();
        let config =
            format!("[[shard]]\nname = \"Only\"\nidx = 0\naddress = \"{address}\"\nreplicas = []\n{settings}\n");
        fs::write(dir.path().join("sharding.toml"), config).unwrap();
        let child = spawn(&dir, address);
        let mut node = Node { address, child, dir };
        node.wait_until_ready();
        node
    }

    /// What the node has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn wait_until_ready(&mut self) {
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the node ended with {status}: {}", self.log());
            }
            if let Some(mut client) = Client::try_connect(self.address) {
                client.send(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n");
                if client.read().status == 200 {
                    return;
                }
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the node's log:\n{}", self.log());
        }
    }
}

fn spawn(dir: &TempDir, address: SocketAddr) -> Child {
    let log = File::create(dir.path().join("log")).unwrap();
    Command::new(env!("CARGO_BIN_EXE_dkv"))
        .args(["serve", "--config", "sharding.toml", "--data-dir", "data", "--address", &address.to_string()])
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// An address that nobody listens on. Below the range that the system gives to outgoing connections, and each one
/// once in a process, so that tests that run at the same time do not meet.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 15_000 + ((std::process::id() as u16).wrapping_mul(37).wrapping_add(step)) % 15_000;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

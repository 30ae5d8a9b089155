//! Owns: connections by thousands on one node: idle ones, heads that come a byte at a time, floods of pipelined
//! requests whose answers nobody reads.
//! Never: whether anybody else is served meanwhile.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A crowd, until it is let go of.
pub struct Crowd {
    goes_on: Arc<AtomicBool>,
    connections: usize,
    thread: Option<JoinHandle<()>>,
}

impl Crowd {
    /// So many connections; all that the node takes are there when this returns.
    pub fn gather(address: SocketAddr, connections: usize) -> Crowd {
        let connect = |_| TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok();
        let mut all: Vec<TcpStream> = (0..connections).map_while(connect).collect();
        all.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
        let goes_on = Arc::new(AtomicBool::new(true));
        let connections = all.len();
        let still = Arc::clone(&goes_on);
        let thread = thread::spawn(move || {
            while still.load(Ordering::Relaxed) {
                all.iter_mut().enumerate().for_each(|(n, stream)| go_on(n, stream));
                thread::sleep(Duration::from_millis(200));
            }
        });
        Crowd { goes_on, connections, thread: Some(thread) }
    }

    pub fn connections(&self) -> usize {
        self.connections
    }
}

/// What the `n`th connection sends next, as far as it is taken.
fn go_on(n: usize, stream: &mut TcpStream) {
    let flood = b"GET /get?key=flood HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(16);
    let _ = match n % 8 {
        0 => stream.write(&flood),
        1..4 => stream.write(b"G"),
        _ => Ok(0),
    };
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.goes_on.store(false, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

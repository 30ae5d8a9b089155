//! Owns: a network namespace for each node, all on one bridge together with the clients, and what happens on the way
//! between two nodes: cut in one direction or both, slow. Without a module of the kernel beyond bridges and veth: what a
//! node sends to a peer goes to an address that nobody has.
//! Never: processes, faults of anything but the network.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

/// The port of every node.
const PORT: u16 = 8080;

/// Nobody's address.
const NOWHERE: &str = "02:00:00:00:0f:ff";

/// The namespaces of so many nodes. They live in this process's own namespaces, and end with it.
pub struct Hosts {
    nodes: usize,
}

impl Hosts {
    pub fn new(nodes: usize) -> Hosts {
        for line in [
            "mount -t tmpfs tmpfs /run",
            "mkdir /run/netns",
            "ip link set lo up",
            "ip link add bridge type bridge",
            "ip link set bridge up",
            "ip address add 10.77.0.254/24 dev bridge",
        ] {
            run(line);
        }
        let hosts = Hosts { nodes };
        (0..nodes).for_each(|node| hosts.add(node));
        for node in 0..nodes {
            hosts.heal(node);
        }
        hosts
    }

    fn add(&self, node: usize) {
        let (mac, address) = (mac(node), address(node));
        for line in [
            format!("ip netns add node{node}"),
            format!("ip link add port{node} type veth peer name eth0 address {mac} netns node{node}"),
            format!("ip link set port{node} master bridge up"),
            format!("ip -n node{node} address add {}/24 dev eth0", address.ip()),
            format!("ip -n node{node} link set eth0 up"),
            format!("ip -n node{node} link set lo up"),
        ] {
            run(&line);
        }
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        (0..self.nodes).map(address).collect()
    }

    /// The words that go before a program's, so that it runs on the node's host.
    pub fn wrapper(&self, node: usize) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net=/run/netns/node{node}")]
    }

    /// Nothing that one node sends reaches the other any more; nothing tells either.
    pub fn cut(&self, from: usize, to: usize) {
        self.leads(from, to, NOWHERE);
    }

    pub fn cut_both_ways(&self, a: usize, b: usize) {
        self.cut(a, b);
        self.cut(b, a);
    }

    /// What a node sends goes through so narrow a line, which holds half a second of it.
    pub fn slow(&self, node: usize, bytes_per_s: usize) {
        let bits = bytes_per_s * 8;
        run(&format!("tc -n node{node} qdisc replace dev eth0 root tbf rate {bits}bit burst 16k latency 500ms"));
    }

    /// All that a node sends arrives, at once.
    pub fn heal(&self, node: usize) {
        for peer in (0..self.nodes).filter(|peer| *peer != node) {
            self.leads(node, peer, &mac(peer));
        }
        let _ = command(&format!("tc -n node{node} qdisc del dev eth0 root")).output();
    }

    fn leads(&self, from: usize, to: usize, mac: &str) {
        let to = address(to).ip();
        run(&format!("ip -n node{from} neighbour replace {to} lladdr {mac} nud permanent dev eth0"));
    }
}

fn address(node: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(10, 77, 0, 1 + node as u8), PORT))
}

fn mac(node: usize) -> String {
    format!("02:00:00:00:00:{:02x}", 1 + node)
}

fn command(line: &str) -> Command {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    command
}

fn run(line: &str) {
    let output = command(line).output().unwrap_or_else(|e| panic!("{line}: {e}"));
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Whether this machine lets a process have namespaces of its own, as [`Hosts`] needs them.
pub fn are_possible() -> bool {
    let probe = "mount -t tmpfs tmpfs /run && mkdir /run/netns && ip netns add probe && ip link add bridge type bridge \
                 && ip link add port0 type veth peer name eth0 netns probe && mount -t tmpfs tmpfs /mnt";
    let output = in_namespaces().args(["sh", "-c", probe]).output();
    output.is_ok_and(|output| output.status.success())
}

/// What follows runs in namespaces of its own: users, network, mounts and processes, all of which end with the first
/// process, and that with the one that started it.
pub fn in_namespaces() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "-Urnmp", "--fork", "--mount-proc", "--kill-child"]);
    command
}

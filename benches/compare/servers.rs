//! Owns: the candidates: how each is started, pinned and filled, each in a directory of its own, all ended by their
//! pids when the measurement lets go of them.
//! Never: how they are measured.

use std::any::Any;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::interrupt;
use crate::load::{self, Keys, Pace, Plan};
use crate::machine::{Cores, first_line, program};
use crate::speech::{Op, Speech, base64, key_name};
use crate::support::cluster::Cluster;
use crate::support::http::Client;
use crate::support::process::free_address;

/// Whom the load asks, and whose processor time counts.
#[derive(Clone)]
pub struct Target {
    pub name: &'static str,
    pub address: SocketAddr,
    pub speech: Speech,
    pub pids: Vec<u32>,
}

/// A candidate that runs until this is dropped.
pub struct Server {
    pub target: Target,
    /// Who leads each shard, where there are any.
    pub primaries: Vec<SocketAddr>,
    /// Its processes and directories.
    _keeps: Box<dyn Any>,
}

/// Where candidates are started, and which are wanted.
pub struct Site {
    pub cores: Cores,
    /// Names on the command line; empty: all.
    pub wanted: Vec<String>,
    /// Another build of dkv, to be measured beside this one.
    pub other: Option<PathBuf>,
    pub dir: tempfile::TempDir,
    /// How each was started, and what it says of its version.
    pub started: Vec<(&'static str, String, String)>,
    skipped: Vec<&'static str>,
}

impl Site {
    pub fn new(cores: Cores, wanted: Vec<String>, other: Option<PathBuf>) -> Site {
        let dir = tempfile::tempdir().unwrap();
        Site { cores, wanted, other, dir, started: Vec::new(), skipped: Vec::new() }
    }

    /// The program, if it is wanted and installed; says once if it is not installed.
    fn program(&mut self, name: &'static str, file: &str) -> Option<PathBuf> {
        if !self.wants(name) {
            return None;
        }
        let found = program(file);
        if found.is_none() && !self.skipped.contains(&name) {
            println!("{name} is left out: {file} is not installed.");
            self.skipped.push(name);
        }
        found
    }

    pub fn wants(&self, name: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|wanted| wanted == name)
    }

    fn note(&mut self, name: &'static str, command: &str, version: String) {
        let command = command.replace(&*self.dir.path().to_string_lossy(), "DIR");
        if !self.started.iter().any(|(known, ..)| *known == name) {
            self.started.push((name, command, version));
        }
    }

    /// A directory of its own.
    fn place(&self, name: &str) -> PathBuf {
        let place = (0..).map(|n| self.dir.path().join(format!("{name}-{n}"))).find(|dir| !dir.exists());
        let place = place.expect("one of them is free");
        fs::create_dir(&place).unwrap();
        place
    }

    fn spawn(&mut self, name: &'static str, version: String, program: &Path, args: &[&str], place: &Path) -> Process {
        let log = File::create(place.join("output")).unwrap();
        let wrapper = self.cores.wrapper();
        let child = Command::new(&wrapper[0])
            .args(&wrapper[1..])
            .arg(program)
            .args(args)
            .current_dir(place)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let file = program.file_name().unwrap_or_default().to_string_lossy();
        let args: Vec<_> = args.iter().map(|arg| if arg.is_empty() { "''" } else { arg }).collect();
        self.note(name, &format!("{file} {}", args.join(" ")), version);
        Process { child, name, output: place.join("output") }
    }

    pub fn floor(&mut self, value_bytes: usize) -> Option<Server> {
        if !self.wants("floor") {
            return None;
        }
        let (place, address) = (self.place("floor"), free_address());
        let (port, bytes) = (address.port().to_string(), value_bytes.to_string());
        let this = std::env::current_exe().unwrap();
        let version = "mio, httparse (benches/compare/floor.rs)".to_owned();
        let mut process = self.spawn("floor", version, &this, &["floor", &port, &bytes], &place);
        process.wait_until_open(address);
        Some(process.server(address, Speech::Dkv))
    }

    /// Constants that fit its configuration come from `return`; others from a file that it keeps open.
    pub fn nginx(&mut self, value_bytes: usize) -> Option<Server> {
        let program = self.program("nginx", "nginx")?;
        let (place, address) = (self.place("nginx"), free_address());
        let value = "v".repeat(value_bytes);
        let location = if value_bytes < 4000 {
            format!("location / {{ return 200 \"{value}\"; }}")
        } else {
            fs::write(place.join("value"), value).unwrap();
            let file = place.join("value");
            format!("location = /get {{ alias {}; open_file_cache max=10; sendfile on; }}", file.display())
        };
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary = temporary.map(|kind| format!("{kind}_temp_path {kind};\n")).concat();
        // A single process: a worker would outlive a master that is killed.
        let config = format!(
            "daemon off;\nmaster_process off;\npid pid;\nerror_log error.log crit;\n\
             events {{ worker_connections 12000; }}\n\
             http {{\naccess_log off;\nkeepalive_requests 1000000000;\nkeepalive_timeout 3600;\n{temporary}\
             default_type application/octet-stream;\nserver {{ listen {address}; {location} }}\n}}\n"
        );
        fs::write(place.join("nginx.conf"), config).unwrap();
        let prefix = place.display().to_string();
        let version = first_line(&program, "-v");
        let mut process = self.spawn("nginx", version, &program, &["-p", &prefix, "-c", "nginx.conf"], &place);
        process.wait_until_open(address);
        Some(process.server(address, Speech::Dkv))
    }

    /// Every write is synced before it is answered; no snapshots beside that.
    pub fn redis(&mut self) -> Option<Server> {
        let program = self.program("redis", "redis-server")?;
        let (place, address) = (self.place("redis"), free_address());
        let port = address.port().to_string();
        let args = ["--bind", "127.0.0.1", "--port", &port, "--maxclients", "12000"];
        let durable = ["--save", "", "--appendonly", "yes", "--appendfsync", "always"];
        let version = first_line(&program, "--version");
        let mut process = self.spawn("redis", version, &program, &[&args[..], &durable[..]].concat(), &place);
        process.wait_until_open(address);
        Some(process.server(address, Speech::Redis))
    }

    /// In front of a Redis, whose processor time counts as well.
    pub fn webdis(&mut self, redis: &Target) -> Option<Server> {
        let program = self.program("webdis", "webdis")?;
        let (place, address) = (self.place("webdis"), free_address());
        let config = serde_json::json!({
            "redis_host": "127.0.0.1", "redis_port": redis.address.port(),
            "http_host": "127.0.0.1", "http_port": address.port(),
            "threads": 1, "pool_size": 20, "daemonize": false, "verbosity": 0, "logfile": "log",
        });
        fs::write(place.join("webdis.json"), config.to_string()).unwrap();
        let mut process = self.spawn("webdis", package_version("webdis"), &program, &["webdis.json"], &place);
        process.wait_until_open(address);
        let mut server = process.server(address, Speech::Webdis);
        server.target.pids.extend(&redis.pids);
        Some(server)
    }

    /// One node, or three; then the leader is asked.
    pub fn etcd(&mut self, nodes: usize) -> Option<Server> {
        let program = self.program("etcd", "etcd")?;
        let name = if nodes == 1 { "etcd" } else { "etcd-three" };
        let addresses: Vec<_> = (0..nodes).map(|_| (free_address(), free_address())).collect();
        let cluster: Vec<_> =
            (addresses.iter().enumerate()).map(|(at, (_, peer))| format!("n{at}=http://{peer}")).collect();
        let version = first_line(&program, "--version");
        let mut processes = Vec::new();
        for (at, (client, peer)) in addresses.iter().enumerate() {
            let (client, peer, place) = (format!("http://{client}"), format!("http://{peer}"), self.place(name));
            let args = ["--name", &format!("n{at}"), "--data-dir", "data", "--log-level", "error", "--logger", "zap"];
            let urls =
                ["--listen-client-urls", &client, "--advertise-client-urls", &client, "--listen-peer-urls", &peer];
            let more = ["--initial-advertise-peer-urls", &peer, "--initial-cluster", &cluster.join(",")];
            let limits = ["--max-txn-ops", "1000", "--quota-backend-bytes", "8589934592"];
            let args = [&args[..], &urls[..], &more[..], &limits[..]].concat();
            processes.push(self.spawn(name, version.clone(), &program, &args, &place));
        }
        for ((client, _), process) in addresses.iter().zip(&mut processes) {
            process.wait_until(|| etcd_leads(*client).is_some());
        }
        let leader = addresses.iter().find(|(client, _)| etcd_leads(*client) == Some(true)).expect("a leader").0;
        let pids = processes.iter().map(|process| process.child.id()).collect();
        let target = Target { name, address: leader, speech: Speech::Etcd, pids };
        Some(Server { target, primaries: Vec::new(), _keeps: Box::new(processes) })
    }

    /// So many copies of each shard, and witnesses, with default settings. The first shard's primary is asked, and all
    /// processes count.
    pub fn dkv(&mut self, name: &'static str, shards: usize, copies: usize, witnesses: usize) -> Option<Server> {
        if !self.wants("dkv") {
            return None;
        }
        self.nodes(name, self.cores.wrapper(), shards, copies, witnesses)
    }

    /// One copy of the other build, if there is one.
    pub fn other_dkv(&mut self) -> Option<Server> {
        let other = self.other.clone()?;
        let mut wrapper = self.cores.wrapper();
        // Its arguments begin with the program that it is to become another one than.
        wrapper.extend(["sh", "-c", "shift; exec \"$0\" \"$@\""].map(str::to_owned));
        wrapper.push(other.display().to_string());
        self.nodes("dkv-other", wrapper, 1, 1, 0)
    }

    fn nodes(
        &mut self,
        name: &'static str,
        wrapper: Vec<String>,
        shards: usize,
        copies: usize,
        witnesses: usize,
    ) -> Option<Server> {
        let addresses: Vec<_> = (0..shards * copies + witnesses).map(|_| free_address()).collect();
        let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
        let cluster = Cluster::at(&addresses, &vec![copies; shards], "").wrapped(&wrapper);
        cluster.start_all();
        (0..shards).for_each(|shard| cluster.wait_until_whole(shard));
        let primaries: Vec<_> = (0..shards).map(|shard| cluster.addresses[cluster.leader(shard)]).collect();
        let pids = (0..cluster.nodes()).map(|node| cluster.pid(node).as_raw_nonzero().get().unsigned_abs()).collect();
        let command = format!(
            "dkv serve --config sharding.toml --data-dir DIR --address IP:PORT ({shards} shards, {copies} copies each, \
             {witnesses} witnesses)"
        );
        self.note(name, &command, first_line(Path::new(env!("CARGO_BIN_EXE_dkv")), "--version"));
        let target = Target { name, address: primaries[0], speech: Speech::Dkv, pids };
        Some(Server { target, primaries, _keeps: Box::new(cluster) })
    }
}

/// A version as the system's packages have it; for programs that do not tell theirs.
fn package_version(package: &str) -> String {
    let said = Command::new("dpkg-query").args(["-W", "-f", "${Package} ${Version}", package]).output();
    said.map(|said| String::from_utf8_lossy(&said.stdout).into_owned()).unwrap_or_default()
}

/// Whether this node leads; `None`: it does not serve yet.
fn etcd_leads(address: SocketAddr) -> Option<bool> {
    let answer = Client::try_connect(address)?
        .try_ask(b"POST /v3/maintenance/status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")?;
    let status: Value = serde_json::from_slice(&answer.body).ok()?;
    let leader = status.get("leader")?.as_str()?;
    Some(status.get("header")?.get("member_id")?.as_str()? == leader)
}

/// A server process in its own directory, which is left to the site.
struct Process {
    child: Child,
    name: &'static str,
    output: PathBuf,
}

impl Process {
    fn wait_until(&mut self, is_there: impl Fn() -> bool) {
        while !is_there() {
            interrupt::check();
            if let Some(status) = self.child.try_wait().unwrap() {
                let said = fs::read_to_string(&self.output).unwrap_or_default();
                panic!("{} ended with {status}: {said}", self.name);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn wait_until_open(&mut self, address: SocketAddr) {
        self.wait_until(|| TcpStream::connect(address).is_ok());
    }

    fn server(self, address: SocketAddr, speech: Speech) -> Server {
        let target = Target { name: self.name, address, speech, pids: vec![self.child.id()] };
        Server { target, primaries: Vec::new(), _keeps: Box::new(self) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Target {
    /// Gives every key below this number a value, where the candidate keeps values of its own.
    pub fn fill(&self, keys: u32, value_bytes: usize) {
        match (self.name, self.speech) {
            ("floor" | "nginx" | "webdis", _) => {}
            (_, Speech::Etcd) => self.fill_etcd(keys, value_bytes),
            _ => self.fill_pipelined(keys, value_bytes),
        }
    }

    fn fill_pipelined(&self, keys: u32, value_bytes: usize) {
        let hour = Duration::from_secs(3600);
        let (depth, keys) = (if value_bytes > 4096 { 1 } else { 64 }, Keys::Each(0..keys));
        let plan = Plan {
            op: Op::Set,
            value_bytes,
            keys,
            connections: 32,
            depth,
            pace: Pace::Closed,
            warm_up: Duration::ZERO,
            window: hour,
        };
        let outcome = load::run(self.address, self.speech, &plan, || ()).expect("the candidate listens");
        assert!(outcome.fault.is_none(), "filling {}: {:?}", self.name, outcome.fault);
        if self.speech == Speech::Redis {
            self.wait_for_rewrite();
        }
    }

    /// A thousand in one transaction: one by one would take as long as the measurement.
    fn fill_etcd(&self, keys: u32, value_bytes: usize) {
        let value = base64(&vec![b'v'; value_bytes]);
        for first in (0..keys).step_by(1000) {
            interrupt::check();
            let put = |key| format!(r#"{{"requestPut":{{"key":"{}","value":"{value}"}}}}"#, base64(&key_name(key)));
            let puts: Vec<String> = (first..keys.min(first + 1000)).map(put).collect();
            let body = format!(r#"{{"success":[{}]}}"#, puts.join(","));
            let length = body.len();
            let head = format!(
                "POST /v3/kv/txn HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
            );
            let (mut stream, mut answer) = (TcpStream::connect(self.address).unwrap(), String::new());
            stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).unwrap();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.contains(r#""succeeded":true"#), "filling {}: {answer}", self.name);
        }
    }

    /// Redis rewrites its log in a child when it has doubled, which filling provokes.
    fn wait_for_rewrite(&self) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let (mut said, mut space) = (String::new(), [0; 8192]);
        while !said.contains("aof_rewrite_in_progress:0") || !said.contains("aof_rewrite_scheduled:0") {
            interrupt::check();
            thread::sleep(Duration::from_millis(100));
            stream.write_all(b"*2\r\n$4\r\nINFO\r\n$11\r\npersistence\r\n").unwrap();
            let n = stream.read(&mut space).unwrap();
            said = String::from_utf8_lossy(&space[..n]).into_owned();
        }
    }
}

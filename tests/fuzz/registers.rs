//! Owns: the target `registers`: what a node's files say of the formation and of its vote, and the messages of others.
//! Whatever they are, the registers refuse to start, or go on; what they persist, they start with again; what they
//! send, others read.
//!
//! An input: which node this is; the formation's bytes and the voter's, each behind its length; then events: whom from,
//! and a message behind its length, or a tick, or a change to propose.
//! Never: links, files.

use super::harness::{Target, Trail};
use dkv::configuration::{Change, Configuration, Formation, Member, Seat, VoterId};
use dkv::id::{ConnId, Epoch, LinkId, NodeId, ShardId, Uuid};
use dkv::node::registers::{
    Identity, Outbox, Place, Registers, Standing, Table, formation_file, formation_of, read, recall, voter_file,
};

pub const TARGET: Target = Target {
    name: "registers",
    seeds,
    words: &[
        b"\x00\x00",
        b"\x01\x01\x00\x00\x00",
        b"\xfe\x00\x00",
        b"\xff\x00\x00",
        b"\x00\x00\x00\x00\x00\x00\x00\x00",
        b"\x01",
    ],
    longest: 3000,
    executions: 6000,
    run,
};

const NODES: u32 = 4;
const TICK: u8 = 0xfe;
const PROPOSE: u8 = 0xff;

/// Two shards, one with two copies; a witness.
fn table() -> Table {
    let ip = [127, 0, 0, 1].into();
    let place = |shard: Option<u32>| Place { shard: shard.map(ShardId), ip };
    let nodes = [Some(0), Some(0), Some(1), None].map(place).to_vec();
    Table { nodes, shards: vec![vec![NodeId(0), NodeId(1)], vec![NodeId(2)]] }
}

fn identity(me: u32, start: u128) -> Identity {
    let incarnation = Uuid(1000 * u128::from(me + 1) + start);
    Identity { me: NodeId(me), store: Uuid(u128::from(me) + 1), incarnation, fingerprint: 7, seed: u64::from(me) }
}

/// As that table is formed.
pub fn formation() -> Formation {
    let seat =
        |node| Seat { node: NodeId(node), first: VoterId { generation: 0, uuid: identity(node, 0).incarnation } };
    Formation {
        cluster: Uuid(77),
        fingerprint: 7,
        voters: [0, 1, 3].map(seat).to_vec(),
        stores: (0..NODES).map(|node| identity(node, 0).store).collect(),
    }
}

/// The registers of any node, from these files.
pub fn start_with(formation: &[u8], voter: &[u8], trail: &mut Trail) {
    for me in 0..NODES {
        let registers = Registers::new(identity(me, 1), table(), formation, Some(voter));
        trail.step(registers.as_ref().err().map(std::mem::discriminant));
        if let Ok(mut registers) = registers {
            registers.tick(1, &mut Outbox::default());
            trail.step(std::mem::discriminant(&registers.standing()));
        }
    }
    if let Ok(Some(formation)) = formation_of(formation) {
        let memory = recall(&formation, voter);
        if let Ok(Some(memory)) = &memory {
            let reading = read(&formation, &[memory]);
            assert!(reading.counted.len() <= 1 && reading.majority > formation.voters.len() / 2);
            trail.step(reading.is_certain());
        }
        trail.step(memory.map(|memory| memory.is_some()).is_ok());
    }
}

fn put(input: &mut Vec<u8>, bytes: &[u8]) {
    input.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
    input.extend_from_slice(bytes);
}

fn take<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = input.split_first_chunk()?;
    let (taken, rest) = rest.split_at(rest.len().min(usize::from(u16::from_le_bytes(*length))));
    *input = rest;
    Some(taken)
}

/// What each node of a cluster heard: while it was formed, in a round, and when a voter had lost its memory.
fn seeds() -> Vec<Vec<u8>> {
    let fresh = |me: u32| start(me, 0, &[], None).0;
    let mut seeds = converse((0..NODES).map(fresh).collect(), &mut |_, _| ());
    let file = formation_file(&formation());
    let member = |node| Member { node: NodeId(node), store: identity(node, 0).store };
    let (in_sync, primary) = (vec![member(0), member(1)], NodeId(0));
    let known = Configuration { version: 4, epoch: Epoch(3), primary, in_sync, forced: 0 };
    let voter = |me| voter_file(&formation(), NodeId(me), &[known.clone(), known.clone()]);
    for lost in [9, 1] {
        let formed = |me: u32| start(me, 0, &file, voter(me).filter(|_| me != lost).as_deref()).0;
        let mut propose = |registers: &mut [Registers], out: &mut Vec<Outbox>| {
            registers[0].propose(ShardId(0), Change::Restart(member(0)), 1, &mut out[0]);
        };
        for (me, seed) in (0..).zip(converse((0..NODES).map(formed).collect(), &mut propose)) {
            let mut input = vec![me as u8];
            put(&mut input, &file);
            put(&mut input, &voter(me).filter(|_| me != lost).unwrap_or_default());
            // Behind the two empty files.
            input.extend_from_slice(&seed[5..]);
            seeds.push(input);
        }
    }
    seeds
}

fn start(me: u32, start: u128, formation: &[u8], voter: Option<&[u8]>) -> (Registers, Outbox) {
    (Registers::new(identity(me, start), table(), formation, voter).unwrap(), Outbox::default())
}

fn link() -> LinkId {
    LinkId(ConnId { slot: 1, generation: 1 })
}

/// Lets nodes talk for a while; what each of them heard, as inputs without files.
fn converse(mut nodes: Vec<Registers>, meanwhile: &mut impl FnMut(&mut [Registers], &mut Vec<Outbox>)) -> Vec<Vec<u8>> {
    let mut heard: Vec<Vec<u8>> = (0..NODES).map(|me| vec![me as u8, 0, 0, 0, 0]).collect();
    for turn in 0..12_u64 {
        let mut outs: Vec<Outbox> = nodes.iter().map(|_| Outbox::default()).collect();
        for (me, node) in nodes.iter_mut().enumerate() {
            node.tick(turn * 200, &mut outs[me]);
            heard[me].extend_from_slice(&[TICK, 0, 0]);
        }
        if turn == 3 {
            meanwhile(&mut nodes, &mut outs);
            heard[0].extend_from_slice(&[PROPOSE, 0, 0]);
        }
        for (from, out) in outs.into_iter().enumerate() {
            persist(&mut nodes[from], &out);
            for (to, bytes) in out.requests {
                let to = to.0 as usize;
                heard[to].push(from as u8);
                put(&mut heard[to], &bytes);
                let mut back = Outbox::default();
                nodes[to].on_message(NodeId(from as u32), link(), &bytes, turn * 200, &mut back).unwrap();
                let mut later = persist(&mut nodes[to], &back);
                back.answers.append(&mut later.answers);
                for (_, bytes) in back.answers {
                    heard[from].push(to as u8);
                    put(&mut heard[from], &bytes);
                    let mut out = Outbox::default();
                    nodes[from].on_message(NodeId(to as u32), link(), &bytes, turn * 200, &mut out).unwrap();
                    persist(&mut nodes[from], &out);
                }
            }
        }
    }
    assert!(nodes.iter().all(|node| node.formation().is_some()), "they form a cluster");
    heard.iter_mut().for_each(|input| input.truncate(2400));
    heard
}

/// All that is to be persisted is; what follows from that.
fn persist(registers: &mut Registers, out: &Outbox) -> Outbox {
    let mut later = Outbox::default();
    let numbers = [&out.persist_voter, &out.persist_formation].map(|kept| kept.as_ref().map(|(number, _)| *number));
    if let Some(number) = numbers.into_iter().flatten().max() {
        registers.persisted(number, 0, &mut later);
    }
    later
}

fn run(input: &[u8], trail: &mut Trail) {
    go_through(input, trail);
}

/// Does what the input says; the registers as they are then, and how many messages they took.
fn go_through(input: &[u8], trail: &mut Trail) -> Option<(Registers, usize)> {
    let (me, mut rest) = input.split_first()?;
    let me = u32::from(*me) % NODES;
    let formation = take(&mut rest).unwrap_or_default();
    let voter = take(&mut rest).filter(|voter| !voter.is_empty());
    start_with(formation, voter.unwrap_or_default(), trail);
    let registers = match Registers::new(identity(me, 0), table(), formation, voter) {
        Ok(registers) => registers,
        Err(bad) => {
            trail.step(std::mem::discriminant(&bad));
            return None;
        }
    };
    let files = (formation.to_vec(), voter.map(<[u8]>::to_vec));
    let mut node = Node { registers, files, now_ms: 0, taken: 0 };
    // A count at the very end of what is taken cannot be counted on from: then the next one is refused.
    let may_end = input.contains(&0x3f);
    while let Some((from, next)) = rest.split_first() {
        rest = next;
        let bytes = take(&mut rest).unwrap_or_default();
        let out = node.hear(*from, bytes, trail);
        node.settle(out, may_end, trail);
    }
    Some((node.registers, node.taken))
}

struct Node {
    registers: Registers,
    /// What was persisted last.
    files: (Vec<u8>, Option<Vec<u8>>),
    now_ms: u64,
    /// Messages that were ones.
    taken: usize,
}

impl Node {
    fn hear(&mut self, from: u8, bytes: &[u8], trail: &mut Trail) -> Outbox {
        let mut out = Outbox::default();
        match from {
            TICK => {
                self.now_ms += 1 + u64::from(bytes.first().copied().unwrap_or(150));
                self.registers.tick(self.now_ms, &mut out);
            }
            PROPOSE if self.registers.formation().is_some() => {
                let [what, shard, node] = [0, 1, 2].map(|at| u32::from(bytes.get(at).copied().unwrap_or(0)));
                let (shard, epoch) = (ShardId(shard % 2), Epoch(3));
                let member = Member { node: NodeId(node % NODES), store: Uuid(u128::from(node % NODES) + 1) };
                let change = match what % 6 {
                    0 => Change::Restart(member),
                    1 => Change::TakeOver { by: member, epoch, keeps_old: what > 100 },
                    2 => Change::Shrink { epoch, member },
                    3 => Change::Grow { epoch, member },
                    4 => Change::Force(member),
                    _ => Change::Observe,
                };
                trail.step(self.registers.propose(shard, change, self.now_ms, &mut out));
            }
            PROPOSE => {}
            from => {
                let from = NodeId(u32::from(from));
                let heard = self.registers.on_message(from, link(), bytes, self.now_ms, &mut out);
                self.taken += usize::from(heard.is_ok());
                trail.step((heard.is_ok(), bytes.first().filter(|_| heard.is_ok())));
            }
        }
        out
    }

    /// Persists what is to be persisted, and checks it and what is sent.
    fn settle(&mut self, mut out: Outbox, may_end: bool, trail: &mut Trail) {
        loop {
            let Identity { me, .. } = identity(0, 0);
            trail.step((out.requests.len(), out.answers.len(), out.settled.len(), out.formed));
            trail.step((out.persist_voter.is_some(), out.persist_formation.is_some()));
            for bytes in out.requests.iter().map(|(_, b)| b).chain(out.answers.iter().map(|(_, b)| b)) {
                let (mut other, mut ignored) = start(1, 0, &[], None);
                let read = other.on_message(me, link(), bytes, 0, &mut ignored);
                assert!(read.is_ok() || may_end, "others do not read {}", bytes.escape_ascii());
            }
            if out.persist_voter.is_none() && out.persist_formation.is_none() {
                break;
            }
            let later = persist(&mut self.registers, &out);
            if let Some((_, voter)) = out.persist_voter {
                self.files.1 = Some(voter);
            }
            if let Some((_, formation)) = out.persist_formation {
                self.files.0 = formation;
            }
            let again = Registers::new(identity(1, 2), table(), &self.files.0, self.files.1.as_deref());
            assert!(again.is_ok() || may_end, "what was persisted is refused: {again:?}");
            out = later;
        }
        if let Standing::Mute { waits_for } = self.registers.standing() {
            assert!(waits_for.iter().all(|node| node.0 < NODES), "{waits_for:?}");
        }
    }
}

/// What the target begins with leads it through a formation, rounds and the re-seeding of a voter.
#[test]
fn the_seeds_tell_what_they_are_to_tell() {
    let mut taken = 0;
    for seed in seeds() {
        let (registers, messages) = go_through(&seed, &mut Trail::default()).unwrap();
        assert!(registers.formation().is_some() && !matches!(registers.standing(), Standing::Mute { .. }));
        taken += messages;
    }
    assert!(taken > 40, "{taken}");
}

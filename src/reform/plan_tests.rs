//! Plans from made-up surveys: an old cluster of two shards with two copies each and a witness, and what may be missing.

use super::plan::{Plan, Wanted, plan};
use super::survey::{Directory, Keys, Survey, Voter};
use crate::config::{self, Cluster};
use crate::configuration::{Ballot, Configuration, Formation, Member, Seat, VoterId};
use crate::id::{Epoch, Lsn, NodeId, ShardId, Uuid};
use crate::node::registers::{Memory, Vote};
use crate::router;

fn cluster(text: &str) -> Cluster {
    config::parse(text, "new.toml").unwrap().cluster
}

/// A table: each shard's ports, and those of the witnesses.
fn table(shards: &[&[u16]], witnesses: &[u16]) -> Cluster {
    let mut text = String::new();
    for (idx, ports) in shards.iter().enumerate() {
        let replicas: Vec<String> = ports[1..].iter().map(|port| format!("'10.0.0.1:{port}'")).collect();
        text += &format!(
            "[[shard]]\nname='s{idx}'\nidx={idx}\naddress='10.0.0.1:{}'\nreplicas=[{}]\n",
            ports[0],
            replicas.join(",")
        );
    }
    for port in witnesses {
        text += &format!("[[witness]]\naddress='10.0.0.1:{port}'\n");
    }
    cluster(&text)
}

fn first(node: u32) -> VoterId {
    VoterId { generation: 0, uuid: Uuid(u128::from(node) + 500) }
}

fn store(node: u32) -> Uuid {
    Uuid(u128::from(node) + 1000)
}

fn formation(cluster: u128) -> Formation {
    let voters = (0..5).map(|node| Seat { node: NodeId(node), first: first(node) }).collect();
    Formation { cluster: Uuid(cluster), fingerprint: 1, voters, stores: (0..5).map(store).collect() }
}

fn vote(round: u64, version: u64, primary: u32, in_sync: &[u32]) -> Option<Vote> {
    let in_sync = in_sync.iter().map(|node| Member { node: NodeId(*node), store: store(*node) }).collect();
    let value = Configuration { version, epoch: Epoch(version), primary: NodeId(primary), in_sync, forced: 0 };
    Some(Vote { ballot: Ballot { round, proposer: Uuid(1) }, value })
}

/// Keys of one shard of two.
fn keys(shard: u32) -> Option<Keys> {
    let all = (0..100).map(|n| format!("key-{n}"));
    let own = all.filter(|key| router::Router::of(2).shard_of(key.as_bytes()) == ShardId(shard));
    own.fold(None, |keys, key| Some(Keys::with(keys, router::hash(key.as_bytes()))))
}

/// The directories of the old nodes 8000 to 8004, all sound and in sync.
fn old() -> Vec<Directory> {
    let accepted = vec![vote(7, 4, 0, &[0, 1]), vote(9, 6, 3, &[2, 3])];
    (0..5)
        .map(|node| Directory {
            path: format!("/data/10.0.0.1_{}", 8000 + node),
            address: format!("10.0.0.1:{}", 8000 + node).parse().unwrap(),
            node: Some(NodeId(node)),
            formation: Some(formation(9)),
            voter: Voter::Memory(Memory {
                node: NodeId(node),
                id: first(node),
                table: (0..5).map(first).collect(),
                accepted: accepted.clone(),
            }),
            store: store(node),
            epoch: Epoch(6),
            lineage: vec![(Epoch(1), Lsn(1))],
            end: Lsn(100 + u64::from(node)),
            committed: Lsn(90),
            whole: true,
            damage: None,
            keys: if node < 4 { keys(node / 2) } else { None },
            largest_grace_ms: 700,
        })
        .collect()
}

fn with_accepted(mut directory: Directory, accepted: Vec<Option<Vote>>) -> Directory {
    let Voter::Memory(memory) = &mut directory.voter else { panic!("it is a voter") };
    memory.accepted = accepted;
    directory
}

fn planned(cluster: &Cluster, surveyed: &[Directory], wanted: &Wanted) -> Result<Plan, Vec<String>> {
    // As it goes through the files.
    let json = serde_json::to_vec(&Survey::of(surveyed.to_vec())).unwrap();
    let surveyed = Survey::read(&json).unwrap().directories;
    let mut drawn = 7_000;
    let mut random = || {
        drawn += 1;
        Uuid(drawn)
    };
    let plan = plan(cluster, &surveyed.iter().collect::<Vec<_>>(), wanted, &mut random)?;
    let json = serde_json::to_vec(&plan).unwrap();
    assert_eq!(Plan::read(&json).as_ref(), Ok(&plan));
    Ok(plan)
}

fn good(cluster: &Cluster, surveyed: &[Directory]) -> Plan {
    planned(cluster, surveyed, &Wanted::default()).unwrap()
}

#[track_caller]
fn refused(cluster: &Cluster, surveyed: &[Directory], wanted: &Wanted, says: &[&str]) {
    let told = planned(cluster, surveyed, wanted).unwrap_err().join("\n");
    for part in says {
        assert!(told.contains(part), "{part:?} in {told}");
    }
}

fn same() -> Cluster {
    table(&[&[8000, 8001], &[8002, 8003]], &[8004])
}

fn leads(leads: &[(u32, u16)]) -> Wanted {
    let lead = |(shard, port): &(u32, u16)| (ShardId(*shard), format!("10.0.0.1:{port}").parse().unwrap());
    Wanted { leads: leads.iter().map(lead).collect(), accepts_data_loss: true, ..Wanted::default() }
}

fn nodes(register: &Configuration) -> Vec<u32> {
    register.in_sync.iter().map(|member| member.node.0).collect()
}

#[test]
fn all_in_sync_copies_go_on_above_all_that_was_seen() {
    let plan = good(&same(), &old());
    assert_eq!(plan.old_cluster, Uuid(9));
    let [one, two] = &plan.registers[..] else { panic!() };
    assert_eq!((one.version, one.epoch, one.primary, one.forced), (5, Epoch(7), NodeId(0), 0));
    assert_eq!((two.version, two.epoch, two.primary), (7, Epoch(7), NodeId(2)), "the table's own primary");
    assert_eq!((nodes(one), nodes(two)), (vec![0, 1], vec![2, 3]));
    assert_eq!(plan.formation.fingerprint, same().fingerprint());
    assert_ne!(plan.formation.cluster, Uuid(9));
    assert_eq!(plan.formation.stores, [store(0), store(1), store(2), store(3), Uuid(0)], "a witness has nothing");
    let ids: Vec<Uuid> = plan.formation.voters.iter().map(|seat| seat.first.uuid).collect();
    assert!(ids.len() == 5 && ids.iter().all(|id| id.0 > 7_000), "{ids:?}");
    assert!(plan.unused.is_empty() && plan.must_be_made.is_empty() && !plan.shards[0].may_lose);
}

#[test]
fn nodes_may_move_come_and_go() {
    // Other ports, a third copy of shard 0, no witness any more.
    let cluster = table(&[&[9000, 9001, 9005], &[9002, 9003]], &[]);
    let named = |port: u16| (format!("10.0.0.1:{}", port + 1000).parse().unwrap(), format!("10.0.0.1_{port}"));
    let wanted = Wanted { nodes: (8000..8004).map(named).collect(), ..Wanted::default() };
    let plan = planned(&cluster, &old(), &wanted).unwrap();
    let source = |at: usize| plan.nodes[at].source.as_ref().map(|source| (&source.path[..], &source.becomes[..]));
    assert_eq!(source(0), Some(("/data/10.0.0.1_8000", "/data/10.0.0.1_9000")));
    assert_eq!(source(2), None);
    assert_eq!(source(4), Some(("/data/10.0.0.1_8003", "/data/10.0.0.1_9003")));
    let [one, two] = &plan.registers[..] else { panic!() };
    assert_eq!((nodes(one), nodes(two), two.primary), (vec![0, 1], vec![3, 4], NodeId(3)));
    assert!(plan.shards[0].notes.iter().any(|note| note.contains("10.0.0.1:9005 starts empty")), "{plan:?}");
    assert_eq!(plan.formation.stores[2], Uuid(0));
    assert!(plan.unused[0].starts_with("/data/10.0.0.1_8004: "), "{:?}", plan.unused);
    // A copy that holds all is not passed over, whatever is accepted.
    let wanted = Wanted { nodes: wanted.nodes[2..].to_vec(), ..leads(&[(0, 9000)]) };
    refused(&cluster, &old(), &wanted, &["/data/10.0.0.1_8000 holds all answered writes", "--node IP:PORT="]);
    // With no word of the operator's nothing becomes anything.
    refused(&cluster, &old(), &Wanted::default(), &["--node IP:PORT=DIR"]);
}

#[test]
fn a_directory_with_a_name_of_its_own_is_its_nodes_and_keeps_the_name() {
    let mut surveyed = old();
    surveyed[1].path = "/srv/one".to_owned();
    surveyed[2].path = "/srv/10.0.0.1:8002".to_owned();
    let plan = good(&same(), &surveyed);
    let becomes = |at: usize| plan.nodes[at].source.as_ref().unwrap().becomes.clone();
    assert_eq!((becomes(1), becomes(2)), ("/srv/one".to_owned(), "/srv/10.0.0.1:8002".to_owned()));
    let moved = table(&[&[8000, 8001], &[9002, 8003]], &[8004]);
    let wanted = Wanted { nodes: vec![("10.0.0.1:9002".parse().unwrap(), store(2).to_string())], ..Wanted::default() };
    let plan = planned(&moved, &surveyed, &wanted).unwrap();
    assert_eq!(plan.nodes[2].source.as_ref().unwrap().becomes, "/srv/10.0.0.1:9002");
}

#[test]
fn the_highest_ballot_counts_and_what_was_never_chosen_is_passed_over() {
    let mut surveyed = old();
    // Node 1 was removed by a round that a majority accepted. Node 4 has a later version, of a ballot below.
    for at in [0, 2, 3] {
        surveyed[at] = with_accepted(surveyed[at].clone(), vec![vote(8, 5, 0, &[0]), vote(9, 6, 3, &[2, 3])]);
    }
    let lost = vec![vote(6, 9, 1, &[1]), vote(9, 6, 3, &[2, 3])];
    surveyed[4] = with_accepted(surveyed[4].clone(), lost);
    let plan = good(&same(), &surveyed);
    assert_eq!(
        (nodes(&plan.registers[0]), plan.registers[0].version),
        (vec![0], 10),
        "above what was never chosen, too"
    );
    assert_eq!(plan.registers[0].epoch, Epoch(10));
    assert_eq!(plan.formation.stores[1], Uuid(0), "it is not known to be whole");
    assert!(plan.shards[0].notes[0].contains("10.0.0.1:8001 is not in sync"), "{:?}", plan.shards[0].notes);
}

#[test]
fn who_leads_is_in_sync() {
    let mut surveyed = old();
    surveyed[0].damage = Some("a file is damaged".to_owned());
    let plan = good(&same(), &surveyed);
    assert_eq!((plan.registers[0].primary, nodes(&plan.registers[0])), (NodeId(1), vec![1]));
    assert!(plan.shards[0].notes.iter().any(|note| note.contains("a file is damaged")));
    let not = Wanted { accepts_data_loss: false, ..leads(&[(0, 8000)]) };
    refused(&same(), &surveyed, &not, &["10.0.0.1:8000: it is not in sync", "10.0.0.1:8001 can lead"]);
    refused(&same(), &surveyed, &leads(&[(0, 8000)]), &["it is not in sync"]);
    let plan = planned(&same(), &old(), &leads(&[(1, 8003)])).unwrap();
    assert_eq!((plan.registers[1].primary, plan.registers[1].forced), (NodeId(3), 0), "nothing is forced without need");
    refused(&same(), &old(), &leads(&[(2, 8003)]), &["there is no shard 2"]);
    // The longest log leads where the table's own primary has none.
    let moved = table(&[&[9000, 8000, 8001], &[8002, 8003]], &[8004]);
    assert_eq!(good(&moved, &old()).registers[0].primary, NodeId(2));
}

#[test]
fn of_a_minority_nothing_is_certain() {
    let surveyed = [old()[0].clone(), old()[3].clone()];
    let says = ["3 of the old cluster's 5 voters", "node 1 was not surveyed", "shard 0 s0", "--lead 1=10.0.0.1:8003"];
    refused(&same(), &surveyed, &Wanted::default(), &says);
    refused(&same(), &surveyed, &leads(&[(0, 8000)]), &["--accept-data-loss with --lead 1="]);
    let unwilling = Wanted { accepts_data_loss: false, ..leads(&[(0, 8000), (1, 8003)]) };
    refused(&same(), &surveyed, &unwilling, &["answered writes that it lacks are lost for good"]);
    refused(&same(), &surveyed, &leads(&[(0, 8001), (1, 8003)]), &["no surveyed directory becomes that copy"]);

    let plan = planned(&same(), &surveyed, &leads(&[(0, 8000), (1, 8003)])).unwrap();
    let one = &plan.registers[0];
    assert_eq!((one.forced, one.version, one.epoch, nodes(one)), (1, 5, Epoch(7), vec![0]));
    assert!(plan.shards[0].may_lose && plan.shards[0].notes[0].contains("is not known"));
    let made: Vec<String> = plan.must_be_made.iter().map(ToString::to_string).collect();
    assert_eq!(made, ["10.0.0.1:8001", "10.0.0.1:8002", "10.0.0.1:8004"], "too few voters have a memory");
}

#[test]
fn a_damaged_or_emptied_voter_does_not_count() {
    for voter in [Voter::Damaged, Voter::Foreign, Voter::None] {
        let mut surveyed = old();
        for directory in &mut surveyed[..3] {
            directory.voter = voter.clone();
        }
        refused(&same(), &surveyed, &Wanted::default(), &["and the memory of 2", "file `voter`"]);
        surveyed[2] = old()[2].clone();
        good(&same(), &surveyed);
    }
    // One that knows another's later id makes the older memory void.
    let mut surveyed = old()[..3].to_vec();
    let Voter::Memory(memory) = &mut surveyed[0].voter else { panic!() };
    memory.table[1].generation = 1;
    refused(&same(), &surveyed, &Wanted::default(), &["its memory is void"]);
}

#[test]
fn where_no_in_sync_copy_is_left_one_is_forced() {
    let mut surveyed = old();
    surveyed[0].store = Uuid(77);
    surveyed.remove(1);
    surveyed[0].epoch = Epoch(40);
    surveyed[0].end = Lsn((3 << 48) + 5);
    let says = ["no copy is left", "(store", "not surveyed", "--lead 0=10.0.0.1:8000", "records up to"];
    refused(&same(), &surveyed, &Wanted::default(), &says);
    let plan = planned(&same(), &surveyed, &leads(&[(0, 8000)])).unwrap();
    let [one, two] = &plan.registers[..] else { panic!() };
    assert_eq!((one.forced, one.epoch), (4, Epoch(41)), "above its log's lsns and epoch");
    assert_eq!((two.forced, nodes(two)), (0, vec![2, 3]), "the other shard loses nothing");
    surveyed[0].whole = false;
    refused(&same(), &surveyed, &leads(&[(0, 8000)]), &["never had all data"]);
}

#[test]
fn a_shard_that_was_never_led_begins_empty() {
    let mut surveyed = old();
    for directory in &mut surveyed {
        *directory = with_accepted(directory.clone(), vec![None, vote(9, 6, 3, &[2, 3])]);
    }
    refused(&same(), &surveyed, &Wanted::default(), &["it was never led"]);
    for directory in &mut surveyed[..2] {
        (directory.end, directory.keys, directory.epoch) = (Lsn(0), None, Epoch(0));
    }
    let plan = good(&same(), &surveyed);
    assert_eq!((nodes(&plan.registers[0]), plan.registers[0].version), (vec![0, 1], 1));
}

#[test]
fn keys_stay_in_their_shard() {
    let crossed = table(&[&[8000, 8002], &[8001, 8003]], &[8004]);
    refused(&crossed, &old(), &Wanted::default(), &["holds shard 1 s1 and cannot become 10.0.0.1:8002"]);
    let mut empty = old();
    empty[2].keys = None;
    refused(&crossed, &empty, &Wanted::default(), &["holds shard 1 s1 and cannot become 10.0.0.1:8002"]);
    let more = table(&[&[8000, 8001], &[8002, 8003], &[8005]], &[8004]);
    refused(&more, &old(), &Wanted::default(), &["the old table had 2 shards, the new one has 3"]);
    let mut mixed = old();
    mixed[0].keys = Some(Keys { hash: 4, step: 1 });
    refused(&same(), &mixed, &Wanted::default(), &["/data/10.0.0.1_8000", "belong to several of 2 shards"]);
}

#[test]
fn clusters_are_not_mixed_and_twins_are_refused() {
    let mut surveyed = old();
    surveyed[1].formation = Some(formation(8));
    refused(&same(), &surveyed, &Wanted::default(), &["hold different data"]);
    // Where it is not used, it is only told, and its voter does not count.
    surveyed[1].path = "/backup/x".to_owned();
    surveyed[1].address = "10.9.9.9:1".parse().unwrap();
    let plan = good(&same(), &surveyed);
    assert!(plan.unused[0].contains("/backup/x: it is of another cluster"), "{:?}", plan.unused);
    surveyed.truncate(3);
    refused(&same(), &surveyed, &leads(&[(0, 8000)]), &["and the memory of 2"]);

    let mut twins = old();
    twins.push(Directory { path: "/backup/a".to_owned(), address: "10.9.9.9:1".parse().unwrap(), ..old()[0].clone() });
    refused(&same(), &twins, &Wanted::default(), &["/data/10.0.0.1_8000 and /backup/a", "used last"]);
    twins[5].address = twins[0].address;
    twins[0].path = "/data/x".to_owned();
    refused(&same(), &twins, &Wanted::default(), &["would both become 10.0.0.1:8000"]);
    let mut liar = old();
    liar[4] = with_accepted(liar[4].clone(), vec![vote(7, 4, 1, &[0, 1]), vote(9, 6, 3, &[2, 3])]);
    refused(&same(), &liar, &Wanted::default(), &["shard 0 cannot be those of one cluster"]);
}

#[test]
fn an_unformed_directory_is_no_copy() {
    let mut surveyed = old();
    (surveyed[1].formation, surveyed[1].voter) = (None, Voter::None);
    let plan = good(&same(), &surveyed);
    assert!(plan.unused[0].contains("never was part of a cluster"));
    let wanted =
        Wanted { nodes: vec![("10.0.0.1:8001".parse().unwrap(), "10.0.0.1_8001".to_owned())], ..Wanted::default() };
    refused(&same(), &surveyed, &wanted, &["cannot become 10.0.0.1:8001"]);
    let wanted =
        Wanted { nodes: vec![("10.0.0.1:8001".parse().unwrap(), "10.0.0.1_80".to_owned())], ..Wanted::default() };
    refused(&same(), &surveyed, &wanted, &["no such directory was surveyed"]);
}

//! Owns: the target `frames`: bytes of a link. As they are; behind a checksum that fits, as a frame's body; and what
//! frames carry: configurations, lineages, records.
//! Never: what a message leads to.

use super::harness::{Target, Trail};
use dkv::configuration::{Ballot, Coded, Configuration, Formation, Member, VoterId};
use dkv::id::{Epoch, Lsn, NodeId, Uuid};
use dkv::node::lineage;
use dkv::op::{Condition, Failure, Op, Outcome, Verb};
use dkv::store::Kind;
use dkv::store::record::{self, Record};
use dkv::wire::{
    Ack, Append, Beacon, Class, CopyState, FRAME_HEAD_BYTES, Follow, Following, Forward, Hello, Message, Status,
    decode, encode, frame_bytes,
};

/// An input's first byte says as what the rest is taken.
pub const TARGET: Target = Target {
    name: "frames",
    seeds,
    words: &[b"\x01\x00\x00\x00", b"\xff\xff\xff\xff", b"\x00\x00\x00\x00\x00\x00\x00\x00", b"127.0.0.1:8080", b"\xff"],
    longest: 1500,
    executions: 20_000,
    run,
};

const RAW: u8 = 0;
const BODY: u8 = 1;
const CONFIGURATION: u8 = 2;
const FORMATION: u8 = 3;
const LINEAGE: u8 = 4;
const RECORDS: u8 = 5;

fn tagged(tag: u8, bytes: &[u8]) -> Vec<u8> {
    [&[tag], bytes].concat()
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let mut stream = vec![RAW];
    for message in messages() {
        let mut frame = Vec::new();
        encode(&message, &mut frame);
        seeds.push(tagged(BODY, &frame[FRAME_HEAD_BYTES..]));
        stream.extend_from_slice(&frame);
    }
    seeds.push(stream);
    seeds.push(tagged(CONFIGURATION, &configuration().encode()));
    let seat = |node| dkv::configuration::Seat {
        node: NodeId(node),
        first: VoterId { generation: 0, uuid: Uuid(u128::from(node)) },
    };
    let formation =
        Formation { cluster: Uuid(1), fingerprint: 2, voters: (0..3).map(seat).collect(), stores: vec![Uuid(9); 4] };
    seeds.push(tagged(FORMATION, &formation.encode()));
    seeds.push(tagged(LINEAGE, &lineage::encode(&[(Epoch(1), Lsn(1)), (Epoch(4), Lsn(900))])));
    seeds.push(tagged(RECORDS, &records()));
    seeds
}

fn configuration() -> Configuration {
    let member = |node| Member { node: NodeId(node), store: Uuid(u128::from(node) + 5) };
    Configuration {
        version: 3,
        epoch: Epoch(2),
        primary: NodeId(1),
        in_sync: vec![member(0), member(1), member(2)],
        forced: 0,
    }
}

fn records() -> Vec<u8> {
    let mut bytes = Vec::new();
    let set = Record { lsn: Lsn(1), epoch: Epoch(1), kind: Kind::Set, expiry_ms: 0, key: b"key", value: b"value" };
    record::encode(&mut bytes, &set);
    record::encode(&mut bytes, &Record { lsn: Lsn(2), kind: Kind::Delete, value: b"", ..set });
    record::encode(&mut bytes, &Record { lsn: Lsn(9), kind: Kind::Jump, key: b"", value: b"", ..set });
    bytes
}

/// One of each kind.
fn messages() -> Vec<Message<'static>> {
    let epoch = Epoch(7);
    let hello = Hello {
        version: dkv::wire::VERSION,
        class: Class::Data,
        fingerprint: 77,
        cluster: Uuid(1 << 101),
        from: NodeId(3),
        to: NodeId(4),
        store: Uuid(1 << 100),
        incarnation: 77,
        address: "127.0.0.1:8080",
    };
    let op = Op { verb: Verb::Set, key: b"key", value: b"value", condition: Condition::IsNot(Lsn(4)), stale: false };
    let status = Status { ready: true, state: CopyState::Witness, in_sync: 3, ..Status::default() };
    let following = Following {
        epoch,
        store: Uuid(1 << 99),
        had: Lsn(12),
        had_committed: Lsn(8),
        end: Lsn(9),
        durable: Lsn(7),
        is_whole: true,
        is_ahead: false,
    };
    let mut messages = vec![
        Message::Hello(hello),
        Message::Welcome(hello),
        Message::Refuse { reason: "no", table: "0 Moscow" },
        Message::Leaving,
        Message::Ping(status),
        Message::Pong(status),
        Message::Forward(Forward { id: 1, stream: 2, ms_left: 3, op }),
        Message::NotPrimary { id: 1, op: Op { verb: Verb::Get, value: b"", condition: Condition::None, ..op } },
        Message::Register { cluster: Uuid(1 << 98), bytes: b"\x01" },
        Message::Know(b"configuration"),
        Message::Follow(Follow {
            epoch,
            configuration: b"who",
            end: Lsn(9),
            floor: Lsn(2),
            lineage: &[1; 32],
            is_settled: true,
        }),
        Message::Following(following),
        Message::Append(Append { epoch, after: Lsn(3), committed: Lsn(2), records: b"records" }),
        Message::Ack(Ack { epoch, durable: Lsn(4), room_bytes: 1 << 40, is_whole: false }),
        Message::Beacon(Beacon { epoch, sent_ns: 1 << 60, lease_ms: 540, committed: Lsn(1) }),
        Message::Grant { epoch, sent_ns: 5, version: 6 },
        Message::Confirm { epoch, round: 3 },
        Message::Confirmed { epoch, round: 3 },
        Message::Lead { epoch, keeps_old: true },
        Message::Leave,
        Message::Released,
        Message::HandOver { to: NodeId(3) },
        Message::NotHanded("why"),
    ];
    let outcomes = [
        Outcome::Found { lsn: Lsn(7), value: b"v", behind_ms: Some(0) },
        Outcome::Created(Lsn(1)),
        Outcome::Deleted,
        Outcome::NotModified(Lsn(3)),
        Outcome::PreconditionFailed(Some(Lsn(4))),
        Outcome::Failed(Failure::KeyTooLong),
    ];
    messages.extend(outcomes.map(|outcome| Message::Answer { id: 5, outcome }));
    messages
}

fn run(input: &[u8], trail: &mut Trail) {
    let Some((tag, bytes)) = input.split_first() else { return };
    trail.step(tag.min(&6));
    match *tag {
        RAW => read_stream(bytes, trail),
        BODY => {
            let frame = framed(bytes);
            let result = decode(&frame, frame.len());
            trail
                .step(result.as_ref().map(|found| found.map(|(message, _)| kind(&message))).map_err(|e| e.to_string()));
            if let Ok(found) = result {
                let (message, length) = found.expect("it is complete");
                assert_eq!(length, frame.len());
                check_message(&message, trail);
            }
            assert!(decode(&frame, frame.len() - 1).is_err(), "the limit counts");
        }
        CONFIGURATION => check_coded::<Configuration>(bytes, trail),
        FORMATION => check_coded::<Formation>(bytes, trail),
        LINEAGE => read_lineage(bytes, trail),
        RECORDS => read_records(bytes, trail),
        _ => {
            check_coded::<Vec<Option<Ballot>>>(bytes, trail);
            check_coded::<Vec<VoterId>>(bytes, trail);
        }
    }
}

/// A message's kind.
fn kind(message: &Message<'_>) -> String {
    format!("{message:?}").split([' ', '(']).next().unwrap_or_default().to_owned()
}

/// A frame with this body.
fn framed(body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_le_bytes();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&length), body).to_le_bytes();
    [&length, &crc, body].concat()
}

/// Frame by frame, as a link does.
fn read_stream(mut bytes: &[u8], trail: &mut Trail) {
    const LIMIT: usize = 1000;
    loop {
        match decode(bytes, LIMIT) {
            Ok(Some((message, length))) => {
                assert_eq!(frame_bytes(bytes), Some(length));
                assert!((FRAME_HEAD_BYTES..=LIMIT.min(bytes.len())).contains(&length));
                check_message(&message, trail);
                bytes = &bytes[length..];
            }
            Ok(None) => {
                assert!(frame_bytes(bytes).is_none_or(|length| length > bytes.len()));
                return trail.step("more");
            }
            Err(error) => return trail.step(std::mem::discriminant(&error)),
        }
    }
}

/// What was decoded goes the way back and forth, and no part of it passes for a frame.
fn check_message(message: &Message<'_>, trail: &mut Trail) {
    trail.step(kind(message));
    let mut frame = Vec::new();
    encode(message, &mut frame);
    assert_eq!(decode(&frame, frame.len()), Ok(Some((*message, frame.len()))));
    for cut in (0..frame.len()).step_by(1 + frame.len() / 16) {
        assert_eq!(decode(&frame[..cut], frame.len()), Ok(None));
    }
    let mut two = frame.clone();
    encode(message, &mut two);
    assert_eq!(two, [&frame[..], &frame].concat(), "a frame does not depend on what stands before it");
}

fn check_coded<T: Coded + PartialEq + std::fmt::Debug>(bytes: &[u8], trail: &mut Trail) {
    let value = T::decode(bytes);
    trail.step(value.is_some());
    if let Some(value) = value {
        assert_eq!(value.encode(), bytes, "a value has one form: {value:?}");
    }
}

fn read_lineage(bytes: &[u8], trail: &mut Trail) {
    let Some(mine) = lineage::decode(bytes) else { return trail.step("none") };
    assert_eq!(lineage::encode(&mine), bytes);
    let theirs = [(Epoch(1), Lsn(1)), (Epoch(4), Lsn(900)), (Epoch(9), Lsn(1000))];
    for (my_end, their_end) in [(0, 0), (5, 2000), (950, 950), (u64::MAX, u64::MAX)] {
        let forth = lineage::common_point(&mine, Lsn(my_end), &theirs, Lsn(their_end));
        let back = lineage::common_point(&theirs, Lsn(their_end), &mine, Lsn(my_end));
        assert_eq!(forth, back);
        assert!(forth.is_none_or(|at| at.0 <= my_end.min(their_end)));
        trail.step(forth.is_some());
    }
}

fn read_records(mut bytes: &[u8], trail: &mut Trail) {
    loop {
        match record::decode(bytes) {
            Ok((found, taken)) => {
                trail.step((found.kind, found.value.is_empty()));
                let mut again = Vec::new();
                assert_eq!(record::encode(&mut again, &found), taken);
                assert_eq!(again, bytes[..taken], "a record has one form");
                bytes = &bytes[taken..];
            }
            Err(reason) => return trail.step(std::mem::discriminant(&reason)),
        }
    }
}

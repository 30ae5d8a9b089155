//! Owns: how long the parts take that turn bytes into values and back, or put answers in order: query decoding,
//! routing, records, frames, the pipeline. Allocations are counted: on the path of a request there should be none.
//! Never: sockets, files.

use std::hint::black_box;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use dkv::http::query::{self, Encoded};
use dkv::id::{Epoch, Lsn};
use dkv::op::{Condition, Op, Outcome, Verb};
use dkv::router::Router;
use dkv::server::pipeline::Pipeline;
use dkv::store::record::{self, Kind, Record};
use dkv::wire::{self, Forward, Message};

#[global_allocator]
static ALLOC: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}

const KEY: &[u8] = b"user:1234567";
const VALUE_BYTES: [usize; 3] = [0, 100, 10_000];

#[divan::bench(args = ["plain", "escaped", "every byte escaped"])]
fn decode_query(bencher: Bencher<'_, '_>, name: &str) {
    let raw: Vec<u8> = match name {
        "plain" => b"key=user:1234567&value=some+value".to_vec(),
        "escaped" => b"key=a%20b%2Bc%2Fuser+1234567&value=1%2B1%3D2".to_vec(),
        _ => {
            let mut raw = b"key=".to_vec();
            KEY.iter().for_each(|byte| raw.extend_from_slice(format!("%{byte:02x}").as_bytes()));
            raw
        }
    };
    let mut scratch = Vec::with_capacity(64);
    bencher.counter(BytesCount::new(raw.len())).bench_local(|| {
        let mut decoded = 0;
        for pair in query::pairs(black_box(&raw)) {
            let Ok(value) = Encoded::new(pair.value.unwrap_or_default()) else { panic!("refused") };
            decoded += value.decode(&mut scratch).len();
        }
        decoded
    });
}

#[divan::bench(args = [12, 100, 4096])]
fn shard_of(bencher: Bencher<'_, '_>, key_bytes: usize) {
    let (router, key) = (Router::of(4), vec![b'k'; key_bytes]);
    bencher.counter(BytesCount::new(key_bytes)).bench_local(|| router.shard_of(black_box(&key)));
}

fn a_record(value: &[u8]) -> Record<'_> {
    Record { lsn: Lsn(7), epoch: Epoch(3), kind: Kind::Set, expiry_ms: 0, key: KEY, value }
}

#[divan::bench(args = VALUE_BYTES)]
fn encode_record(bencher: Bencher<'_, '_>, value_bytes: usize) {
    let value = vec![b'v'; value_bytes];
    let mut out = Vec::with_capacity(value_bytes + 128);
    bencher.counter(BytesCount::new(record::encoded_bytes(KEY, &value))).bench_local(|| {
        out.clear();
        record::encode(&mut out, black_box(&a_record(&value)))
    });
}

#[divan::bench(args = VALUE_BYTES)]
fn decode_record(bencher: Bencher<'_, '_>, value_bytes: usize) {
    let (value, mut bytes) = (vec![b'v'; value_bytes], Vec::new());
    record::encode(&mut bytes, &a_record(&value));
    bencher.counter(BytesCount::new(bytes.len())).bench_local(|| {
        let Ok((found, taken)) = record::decode(black_box(&bytes)) else { panic!("not a record") };
        found.value.len() + taken
    });
}

fn a_forward(value: &[u8]) -> Message<'_> {
    let op = Op { verb: Verb::Set, key: KEY, value, condition: Condition::None, stale: false };
    Message::Forward(Forward { id: 7, stream: 3, ms_left: 2_000, op })
}

fn an_answer(value: &[u8]) -> Message<'_> {
    Message::Answer { id: 7, outcome: Outcome::Found { lsn: Lsn(9), value, behind_ms: None } }
}

/// The two frames of a forwarded request: there and back.
#[divan::bench(args = VALUE_BYTES)]
fn encode_frames(bencher: Bencher<'_, '_>, value_bytes: usize) {
    let value = vec![b'v'; value_bytes];
    let mut out = Vec::with_capacity(2 * value_bytes + 256);
    bencher.counter(ItemsCount::new(2u32)).bench_local(|| {
        out.clear();
        wire::encode(black_box(&a_forward(&value)), &mut out);
        wire::encode(black_box(&an_answer(&value)), &mut out);
        out.len()
    });
}

#[divan::bench(args = VALUE_BYTES)]
fn decode_frames(bencher: Bencher<'_, '_>, value_bytes: usize) {
    let (value, mut bytes) = (vec![b'v'; value_bytes], Vec::new());
    wire::encode(&a_forward(&value), &mut bytes);
    wire::encode(&an_answer(&value), &mut bytes);
    bencher.counter(ItemsCount::new(2u32)).bench_local(|| {
        let mut at = 0;
        while let Ok(Some((message, taken))) = wire::decode(black_box(&bytes[at..]), 1 << 20) {
            black_box(message);
            at += taken;
        }
        assert_eq!(at, bytes.len(), "both frames are whole");
    });
}

/// Sixteen requests come at once. In order, each answer leaves at once; in reverse, fifteen are kept until the first
/// one's, which costs an allocation each.
#[divan::bench(args = ["in order", "reversed"])]
fn pipeline_of_16(bencher: Bencher<'_, '_>, order: &str) {
    const DEPTH: u64 = 16;
    let mut pipeline: Pipeline<u64> = Pipeline::default();
    let mut out = Vec::with_capacity(4096);
    bencher.counter(ItemsCount::new(DEPTH)).bench_local(|| {
        out.clear();
        let first = pipeline.push(0);
        (1..DEPTH).for_each(|about| _ = pipeline.push(about));
        for n in 0..DEPTH {
            let n = if order == "reversed" { DEPTH - 1 - n } else { n };
            pipeline.answer(first + n, &mut out, |out, _| out.extend_from_slice(&[b'a'; 150]));
        }
        assert!(pipeline.is_empty() && out.len() == 150 * DEPTH as usize, "all have left");
    });
}

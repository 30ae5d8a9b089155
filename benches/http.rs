//! Owns: how long a request takes between the socket's buffers, without store and kernel: head to call, outcome to
//! bytes. Allocations are counted, since a GET must have none.
//! Never: sockets.

use std::hint::black_box;

use divan::Bencher;
use divan::counter::ItemsCount;
use dkv::http::response::{DateText, format_date};
use dkv::http::{Decoder, KnownLines, Limits, Step};
use dkv::id::Lsn;
use dkv::op::{Outcome, Verb};
use dkv::server::api::{self, Call, Scratch};
use dkv::server::browser::AllowedHosts;
use dkv::server::render::{self, About};

#[global_allocator]
static ALLOC: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}

const CURL: &[u8] =
    b"GET /get?key=user:1234567 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";
const ESCAPED: &[u8] =
    b"GET /get?key=a%20b%2Bc%2Fuser+1234567 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";
const CHUNKED: &[u8] =
    b"PUT /set?key=user:1234567 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nTransfer-Encoding: chunked\r\n\r\n\
    10\r\n0123456789abcdef\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n";

#[divan::bench(args = ["curl", "escaped", "chunked"])]
fn bytes_to_call(bencher: Bencher<'_, '_>, name: &str) {
    let request = match name {
        "curl" => CURL,
        "escaped" => ESCAPED,
        _ => CHUNKED,
    };
    let (limits, hosts, mut scratch) = (Limits::default(), AllowedHosts::default(), Scratch::default());
    let (mut decoder, mut known) = (Decoder::default(), KnownLines::default());
    let mut buf = request.to_vec();
    bencher.counter(ItemsCount::new(1u32)).bench_local(|| {
        buf.copy_from_slice(request);
        let Step::Complete(request, _) = decoder.step(black_box(&mut buf), &limits, &mut known) else {
            panic!("not whole")
        };
        let Ok(Call::Data(op)) = api::call(&request, &limits, &hosts, &mut scratch) else { panic!("refused") };
        black_box(op.key.len())
    });
}

#[divan::bench]
fn get_hit_without_store(bencher: Bencher<'_, '_>) {
    let (limits, hosts, mut scratch) = (Limits::default(), AllowedHosts::default(), Scratch::default());
    let date: DateText = format_date(784_111_777);
    let (mut decoder, mut known) = (Decoder::default(), KnownLines::default());
    let (mut buf, mut out) = (CURL.to_vec(), Vec::with_capacity(4096));
    bencher.counter(ItemsCount::new(1u32)).bench_local(|| {
        out.clear();
        let Step::Complete(request, _) = decoder.step(black_box(&mut buf), &limits, &mut known) else {
            panic!("not whole")
        };
        let about = About::new(&request.head);
        let Ok(Call::Data(op)) = api::call(&request, &limits, &hosts, &mut scratch) else { panic!("refused") };
        let found =
            Outcome::Found { lsn: Lsn(op.key.len() as u64), value: b"some value of a hundred", behind_ms: None };
        render::outcome(&mut out, about, Verb::Get, &found, &date);
        black_box(out.len())
    });
}

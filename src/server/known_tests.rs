use super::*;
use crate::http::{Decoder, KnownLines, Step};
use crate::server::api::{self, Scratch};
use crate::server::browser::AllowedHosts;
use proptest::prelude::*;

fn hosts() -> AllowedHosts {
    AllowedHosts::new("127.0.0.1:8080".parse().unwrap(), &[], &[])
}

/// A GET of a key without conditions, as the long way reads it.
struct Read {
    key: Vec<u8>,
    about: About,
    bytes: usize,
    /// How long its key is, if its words are worth knowing.
    key_bytes: Option<usize>,
}

fn read(bytes: &[u8]) -> Option<Read> {
    let (mut buffer, limits) = (bytes.to_vec(), Limits::default());
    let step = Decoder::default().step(&mut buffer, &limits, &mut KnownLines::default());
    let Step::Complete(request, all) = step else { return None };
    let (hosts, mut scratch) = (hosts(), Scratch::default());
    let call = api::call(&request, &limits, &hosts, &mut scratch).ok()?;
    let about = About::new(&request.head);
    let key_bytes = KnownGet::key_bytes(&request, &call, about);
    match call {
        Call::Data(Op { verb: Verb::Get, key, value: b"", condition: Condition::None, stale: false }) => {
            Some(Read { key: key.to_vec(), about, bytes: all, key_bytes })
        }
        _ => None,
    }
}

fn known(bytes: &[u8]) -> KnownGet {
    let mut known = KnownGet::default();
    if let Some(Read { about, bytes: all, key_bytes: Some(key_bytes), .. }) = read(bytes) {
        known.learn(&bytes[..all], key_bytes, about);
    }
    known
}

const USUAL: &[u8] = b"GET /get?key=k1 HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
fn another_key_in_the_same_words_is_found() {
    let absolute = known(b"GET http://localhost/get?key=a HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let of_absolute = b"GET http://localhost/get?key=b HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert!(absolute.find(of_absolute, &Limits::default()).is_some());
    let known = known(USUAL);
    let other = b"GET /get?key=another:key HTTP/1.1\r\nHost: localhost\r\n\r\nGET /get?key=next HT";
    let (key, about, all) = known.find(other, &Limits::default()).unwrap();
    assert_eq!(
        (key, about, &other[all..]),
        (&b"another:key"[..], read(USUAL).unwrap().about, &b"GET /get?key=next HT"[..])
    );
}

#[test]
fn other_words_are_not() {
    let known = known(USUAL);
    let [long, short] = [usize::MAX, 5].map(|max_key_bytes| Limits { max_key_bytes, ..Limits::default() });
    assert!(known.find(b"GET /get?key=123456 HTTP/1.1\r\nHost: localhost\r\n\r\n", &long).is_some());
    assert!(known.find(b"GET /get?key=123456 HTTP/1.1\r\nHost: localhost\r\n\r\n", &short).is_none());
    let small = Limits { max_head_bytes: USUAL.len(), ..long };
    assert!(known.find(USUAL, &small).is_some());
    assert!(known.find(b"GET /get?key=k11 HTTP/1.1\r\nHost: localhost\r\n\r\n", &small).is_none());
    for other in [
        "GET /get?key= HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /get?key=a%20b HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /get?key=a+b HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /get?key=a&key=b HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /get?key=k1 HTTP/1.0\r\nHost: localhost\r\n\r\n",
        "GET /get?key=k1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "HEAD /get?key=k1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /get?key=k1 HTTP/1.1\r\nHost: localhost\r\n",
        "GET /get?key=k1",
        "",
    ] {
        assert!(known.find(other.as_bytes(), &long).is_none(), "{other}");
    }
}

#[test]
fn what_says_more_than_a_key_is_not_learnt() {
    for other in [
        "\r\nGET /get?key=k1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "HEAD /get?key=k1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /get?key=%41 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /get?key=k1&consistency=stale HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /get?consistency=stale&key=k1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /get?key=k1 HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: \"1\"\r\n\r\n",
        "GET /get?key=k1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
        "GET /get?key=k1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "GET /get?key=k1 HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        "GET /where?key=k1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "DELETE /delete?key=k1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ] {
        assert!(known(other.as_bytes()).about.is_none(), "{other}");
    }
}

fn piece() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just("GET "),
        Just("HEAD "),
        Just("PUT "),
        Just("/get?"),
        Just("/set?"),
        Just("key="),
        Just("k"),
        Just("1-_~.:/@"),
        Just("%41"),
        Just("+"),
        Just("&"),
        Just("="),
        Just("?"),
        Just("#"),
        Just(" "),
        Just("HTTP/1.1"),
        Just("HTTP/1.0"),
        Just("\r\n"),
        Just("\r"),
        Just("\n"),
        Just("Host: localhost\r\n"),
        Just("Host: evil\r\n"),
        Just("Accept: */*\r\n"),
        Just("Accept: application/json\r\n"),
        Just("Connection: close\r\n"),
        Just("Connection: keep-alive\r\n"),
        Just("Content-Length: 1\r\n"),
        Just("If-Match: *\r\n"),
        Just("consistency=stale"),
        Just("\0"),
        Just("ä"),
    ]
}

/// A GET as it may come, of which nothing, or one piece, was replaced by others.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let words =
        ["GET ", "/get?", "key=", "k", " ", "HTTP/1.1", "\r\n", "Host: localhost\r\n", "Accept: */*\r\n", "\r\n"];
    let other = (0..words.len(), proptest::collection::vec(piece(), 0..4), any::<bool>());
    other.prop_map(move |(at, pieces, is_other)| {
        let mut words: Vec<&str> = words.to_vec();
        if is_other {
            words.splice(at..=at, pieces);
        }
        words.concat().into_bytes()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// Whatever was learnt: what is found is what the long way finds.
    #[test]
    fn what_is_found_is_what_is_read(one in request(), other in request(), behind in piece()) {
        let other = [other.as_slice(), behind.as_bytes()].concat();
        if let Some((key, about, all)) = known(&one).find(&other, &Limits::default()) {
            let read = read(&other).expect("the long way reads it, too");
            prop_assert_eq!((key, about, all), (read.key.as_slice(), read.about, read.bytes));
        }
    }
}

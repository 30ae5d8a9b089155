//! The decoder over whole, split, dribbled and pipelined input.

use super::*;
use proptest::prelude::*;

/// A request as owned data, or a rejection: what must not depend on how the input was split.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Request { method: String, path: String, query: String, body: Vec<u8>, body_present: bool, keep_alive: bool },
    Reject(Reject),
}

/// Feeds `pieces` as a connection would: appends, steps until more is needed, cuts off what is consumed.
fn feed<'p>(pieces: impl IntoIterator<Item = &'p [u8]>, limits: &Limits) -> Vec<Seen> {
    let (mut decoder, mut known) = (Decoder::default(), KnownLines::default());
    let mut buf: Vec<u8> = Vec::new();
    let mut seen = Vec::new();
    for piece in pieces {
        buf.extend_from_slice(piece);
        let mut announced = false;
        loop {
            match decoder.step(&mut buf, limits, &mut known) {
                Step::Partial(keep) => {
                    buf.truncate(keep);
                    break;
                }
                Step::Head(head) => {
                    assert!(!announced && head.body != BodyKind::None, "announced once, and only where a body follows");
                    announced = true;
                }
                Step::Complete(request, consumed) => {
                    seen.push(own(&request));
                    buf.drain(..consumed);
                    announced = false;
                }
                Step::Reject(reject) => {
                    seen.push(Seen::Reject(reject));
                    return seen;
                }
            }
        }
    }
    seen
}

fn own(request: &Request<'_>) -> Seen {
    Seen::Request {
        method: request.head.method.to_owned(),
        path: request.head.path.to_owned(),
        query: request.head.query.to_owned(),
        body: request.body.to_vec(),
        body_present: request.body_present,
        keep_alive: request.head.keep_alive,
    }
}

fn whole(input: &[u8]) -> Vec<Seen> {
    feed([input], &Limits::default())
}

fn status(input: &[u8]) -> u16 {
    match whole(input).pop() {
        Some(Seen::Reject(reject)) => reject.status,
        other => panic!("not rejected: {other:?}"),
    }
}

fn bodies(input: &[u8]) -> Vec<Vec<u8>> {
    let all = whole(input).into_iter();
    all.map(|s| match s {
        Seen::Request { body, .. } => body,
        Seen::Reject(reject) => panic!("{reject:?}"),
    })
    .collect()
}

const GET: &[u8] = b"GET /get?key=a HTTP/1.1\r\nHost: localhost\r\n\r\n";
const CHUNKED: &[u8] = b"PUT /set?key=a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
    5\r\nhello\r\n1;x=y\r\n \r\n00A\r\n0123456789\r\n0\r\nSome: trailer\r\n\r\n";
const COUNTED: &[u8] = b"PUT /set?key=a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello";

#[test]
fn a_small_request_is_lent_from_the_buffer() {
    let mut buf = GET.to_vec();
    let range = buf.as_ptr_range();
    let mut decoder = Decoder::default();
    let Step::Complete(request, consumed) = decoder.step(&mut buf, &Limits::default(), &mut KnownLines::default())
    else {
        panic!()
    };
    assert_eq!(consumed, GET.len());
    assert_eq!((request.head.method, request.head.path, request.head.query), ("GET", "/get", "key=a"));
    assert_eq!(request.head.host.map(|host| host.text), Some(b"localhost".as_slice()));
    assert!(range.contains(&request.head.query.as_ptr()), "no copying");
    assert!(!request.body_present && request.head.keep_alive);
}

#[test]
fn bodies_counted_and_chunked() {
    assert_eq!(bodies(COUNTED), [b"hello"]);
    assert_eq!(bodies(CHUNKED), [b"hello 0123456789"]);
    let empty = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    let Some(Seen::Request { body_present, .. }) = whole(empty).pop() else { panic!() };
    assert!(body_present, "an explicit empty body is a body");
}

#[test]
fn the_head_is_announced_once_and_before_the_body() {
    for input in [COUNTED, CHUNKED] {
        let body_at = memchr::memmem::find(input, b"\r\n\r\n").unwrap() + 6;
        let mut decoder = Decoder::default();
        let mut buf = input[..body_at].to_vec();
        assert_eq!(decoder.phase(), Phase::Idle);
        let Step::Head(head) = decoder.step(&mut buf, &Limits::default(), &mut KnownLines::default()) else { panic!() };
        assert_eq!(head.path, "/set");
        assert_eq!(decoder.phase(), Phase::Body);
        let Step::Partial(keep) = decoder.step(&mut buf, &Limits::default(), &mut KnownLines::default()) else {
            panic!()
        };
        buf.truncate(keep);
        buf.extend_from_slice(&input[body_at..]);
        assert!(matches!(decoder.step(&mut buf, &Limits::default(), &mut KnownLines::default()), Step::Complete(..)));
        assert_eq!(decoder.phase(), Phase::Idle);
    }
}

/// One behind the other on a connection, they are what each is alone: which lines were known before makes no difference.
#[test]
fn lines_that_are_known_change_nothing() {
    let lines = ["Host: a:1\r\nIf-Match: \"7\"\r\nAccept: application/json\r\n\r\n", "Host: b\r\nX: y\r\n\r\n", "\r\n"];
    let firsts = [
        "GET /get?key=a HTTP/1.1\r\n",
        "GET /get?key=bb HTTP/1.1\r\n",
        "GET /get?key=a HTTP/1.0\r\n",
        "GET http://a:1/x HTTP/1.1\r\n",
        "HEAD /get?key=a HTTP/1.1\r\nOrigin: http://a:1\r\n",
        "PUT /set?key=a HTTP/1.1\r\nConnection: close\r\n",
        "PUT /set?key=a HTTP/1.1\r\nHost: c\r\n",
        "GET /get?key=a HTTP/1.1\r\nX y\r\n",
        "GET /get?key=\u{ff} HTTP/1.1\r\n",
        "GET /get?key=a\r\n",
        "\r\nGET /get?key=a HTTP/1.1\r\n",
        "\r\n\r\n\r\nGET /get?key=a HTTP/1.1\r\n",
        "GET /get?key=a HTTP/1.1\n",
        "GET /get\r?key=a HTTP/1.1\r\n",
    ];
    let mut known = KnownLines::default();
    let mut was_known = 0;
    for [before, line, first] in (0..3 * 3 * firsts.len()).map(|n| [lines[n % 3], lines[n / 3 % 3], firsts[n / 9]]) {
        // So that the lines before are those that are known, if they are good ones.
        let mut prelude = format!("GET / HTTP/1.1\r\n{before}").into_bytes();
        let _ = Decoder::default().step(&mut prelude, &Limits::default(), &mut known);
        let whole = format!("{first}{line}").into_bytes();
        was_known += usize::from(known.before(&whole).is_some());
        let alone = format!(
            "{:?}",
            Decoder::default().step(&mut whole.clone(), &Limits::default(), &mut KnownLines::default())
        );
        let step = format!("{:?}", Decoder::default().step(&mut whole.clone(), &Limits::default(), &mut known));
        assert_eq!(step, alone, "{first}{line} behind {before}");
    }
    assert!(was_known > 5, "{was_known}: this shows nothing");
}

#[test]
fn what_is_wanted_is_the_whole_request() {
    let mut decoder = Decoder::default();
    let mut buf = COUNTED[..COUNTED.len() - 2].to_vec();
    assert_eq!(decoder.wanted(), 0);
    assert!(matches!(decoder.step(&mut buf, &Limits::default(), &mut KnownLines::default()), Step::Head(_)));
    assert_eq!(decoder.wanted(), COUNTED.len());
}

#[test]
fn blank_lines_between_requests_are_not_a_head_that_has_begun() {
    let mut decoder = Decoder::default();
    assert!(matches!(
        decoder.step(&mut b"\r\n".to_vec(), &Limits::default(), &mut KnownLines::default()),
        Step::Partial(2)
    ));
    assert_eq!(decoder.phase(), Phase::Idle);
    assert!(matches!(
        decoder.step(&mut b"\r\nG".to_vec(), &Limits::default(), &mut KnownLines::default()),
        Step::Partial(3)
    ));
    assert_eq!(decoder.phase(), Phase::Head);
    let Step::Complete(_, consumed) =
        decoder.step(&mut [b"\r\n", GET].concat(), &Limits::default(), &mut KnownLines::default())
    else {
        panic!()
    };
    assert_eq!(consumed, GET.len() + 2);
}

#[test]
fn a_chunked_body_keeps_no_more_in_memory_than_its_data() {
    let mut decoder = Decoder::default();
    let head = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut buf = head.to_vec();
    assert!(matches!(decoder.step(&mut buf, &Limits::default(), &mut KnownLines::default()), Step::Head(_)));
    for sent in 1..=1000 {
        buf.extend_from_slice(b"1;a-long-extension\r\nx\r\n");
        let Step::Partial(keep) = decoder.step(&mut buf, &Limits::default(), &mut KnownLines::default()) else {
            panic!()
        };
        assert_eq!(keep, head.len() + sent);
        buf.truncate(keep);
    }
    buf.extend_from_slice(b"0\r\n\r\n");
    let Step::Complete(request, _) = decoder.step(&mut buf, &Limits::default(), &mut KnownLines::default()) else {
        panic!()
    };
    assert_eq!(request.body, [b'x'; 1000]);
}

#[test]
fn limits_hold_to_the_byte() {
    let limits = Limits { max_head_bytes: 100, max_value_bytes: 10, max_key_bytes: 10, max_headers: 4 };
    let head = |padding: usize, at: &str| {
        let bare = format!("GET /{at} HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n").len();
        let fill = "x".repeat(padding - bare);
        format!("GET /{at} HTTP/1.1\r\nHost: a\r\nX: {fill}\r\n\r\n")
    };
    assert!(matches!(feed([head(100, "").as_bytes()], &limits)[..], [Seen::Request { .. }]));
    let status = |input: &[u8]| match &feed([input], &limits)[..] {
        [Seen::Reject(reject)] => reject.status,
        other => panic!("{other:?}"),
    };
    assert_eq!(status(head(101, "").as_bytes()), 431);
    assert_eq!(status(&[b'G'; 100]), 414, "no line end in sight: it is the target that is too long");
    assert_eq!(status(head(120, &"t".repeat(60)).as_bytes()), 414);
    assert_eq!(status(b"GET / HTTP/1.1\r\nHost: a\r\na: b\r\na: b\r\na: b\r\na: b\r\n\r\n"), 431);
    assert_eq!(status(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n"), 413);
    assert_eq!(status(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n"), 413);
    assert_eq!(status(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n123456789\r\n2\r\n"), 413);
    assert_eq!(status(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n"), 413);
    let full = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n5\r\n67890\r\n0\r\n\r\n";
    assert!(matches!(&feed([&full[..]], &limits)[..], [Seen::Request { .. }]));
}

#[test]
fn the_trailers_are_bounded() {
    let input = |len: usize| {
        let head = "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n";
        format!("{head}T: {}\r\n\r\n", "x".repeat(len - 7)).into_bytes()
    };
    assert_eq!(bodies(&input(4096)), [b""]);
    assert_eq!(status(&input(4097)), 400);
}

#[test]
fn a_head_that_comes_a_byte_at_a_time_is_looked_at_once() {
    let mut scan = head::Scan::default();
    let long = [b"GET /", [b'x'; 20_000].as_slice(), b" HTTP/1.1\r\n\r\n"].concat();
    for end in 1..long.len() {
        assert_eq!(scan.find(&long[..end], 32 << 10, &KnownLines::default()).unwrap(), None);
        // What was looked at is not looked at again: damage there goes unnoticed.
        let mut damaged = long[..end].to_vec();
        damaged[end / 2] = b'\n';
        assert_eq!(scan.find(&damaged, 32 << 10, &KnownLines::default()).unwrap(), None);
    }
    assert_eq!(scan.find(&long, 32 << 10, &KnownLines::default()).unwrap(), Some(0..long.len()));
}

#[test]
fn keep_alive_by_version_and_by_word() {
    for (version, header, expected) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: foo, CLOSE\r\n", false),
        ("1.1", "Connection: keep-alive, close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive\r\nConnection: close\r\n", false),
    ] {
        let input = format!("GET / HTTP/{version}\r\nHost: a\r\n{header}\r\n");
        let Some(Seen::Request { keep_alive, .. }) = whole(input.as_bytes()).pop() else { panic!() };
        assert_eq!(keep_alive, expected, "{version} {header}");
    }
}

#[test]
fn headers_that_matter() {
    let input =
        b"PUT /set HTTP/1.1\r\nhOST: [::1]:80\r\nExpect: 100-Continue\r\nAccept: text/html, Application/JSON;q=0.9\r\n\
        Content-Type: application/x-www-form-urlencoded; charset=utf-8\r\nIf-Match:  \"1\" \r\nConnection: Upgrade\r\n\
        Upgrade: dkv-peer\r\nOrigin: http://a\r\nSec-Fetch-Site: none\r\n\r\n";
    let mut buf = input.to_vec();
    let Step::Complete(request, _) = Decoder::default().step(&mut buf, &Limits::default(), &mut KnownLines::default())
    else {
        panic!()
    };
    let head = request.head;
    assert!(head.expect_continue && head.accepts_json && head.is_form && head.upgrade_peer);
    assert_eq!(head.host.map(|host| (host.text, host.name)), Some((b"[::1]:80".as_slice(), b"[::1]".as_slice())));
    assert_eq!((head.if_match, head.if_none_match), (Some(&b"\"1\""[..]), None));
    assert_eq!((head.origin, head.sec_fetch_site), (Some(&b"http://a"[..]), Some(&b"none"[..])));
}

#[test]
fn absolute_targets_name_the_host() {
    for (target, path, query) in
        [("http://a:80/get?key=b", "/get", "key=b"), ("HTTP://A:80", "/", ""), ("http://a:80?x", "/", "x")]
    {
        let input = format!("GET {target} HTTP/1.1\r\nHost: a:80\r\n\r\n");
        let Some(Seen::Request { path: p, query: q, .. }) = whole(input.as_bytes()).pop() else { panic!("{target}") };
        assert_eq!((&*p, &*q), (path, query));
    }
    for target in ["http://b:80/", "https://a:80/", "http:///", "a:80", "//", "http://x@a:80/"] {
        let input = format!("GET {target} HTTP/1.1\r\nHost: a:80\r\n\r\n");
        let rejected = matches!(whole(input.as_bytes())[..], [Seen::Reject(Reject { status: 400, .. })]);
        assert_eq!(rejected, target != "//", "{target}");
    }
}

#[test]
fn hosts() {
    for good in ["a", "a.b-c_d", "a:0", "a:65535", "127.0.0.1:80", "[::1]", "[::1]:80", "[::ffff:1.2.3.4]"] {
        assert!(head::Host::parse(good.as_bytes()).is_some(), "{good}");
    }
    for bad in [
        "", ":80", "a:", "a:65536", "a:+1", "a:b", "a,b", "u@a", "a/b", "a b", "[::1", "[::1]x", "[]]", "::1",
        "a\u{e9}",
    ] {
        assert!(head::Host::parse(bad.as_bytes()).is_none(), "{bad}");
    }
}

/// Streams of good and bad requests.
fn corpus() -> Vec<Vec<u8>> {
    let get_close: &[u8] = b"GET / HTTP/1.0\r\n\r\n";
    vec![
        [GET, COUNTED, CHUNKED, GET, b"\r\n", get_close].concat(),
        [CHUNKED, CHUNKED, COUNTED].concat(),
        [b"\r\n\r\n", GET, b"\r\n", CHUNKED, b"\n", GET].concat(),
        [GET, b"GET / HTTP/1.1\nHost: a\r\n\r\n"].concat(),
        [GET, b"\x16\x03\x01\r\n\r\n"].concat(),
        [GET, b"GET / HTTP/2.0\r\n\r\n"].concat(),
        [COUNTED, b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"].concat(),
        [&CHUNKED[..CHUNKED.len() - 4], b"x y\r\n\r\n", GET].concat(),
        [&CHUNKED[..CHUNKED.len() - 2], b"Host: a\r\n\r\n", GET].concat(),
        CHUNKED.to_ascii_lowercase(),
    ]
}

#[test]
fn any_one_split_and_byte_by_byte_give_the_same() {
    for stream in corpus() {
        let expected = whole(&stream);
        for at in 0..=stream.len() {
            let (a, b) = stream.split_at(at);
            assert_eq!(feed([a, b], &Limits::default()), expected, "split at {at}");
        }
        assert_eq!(feed(stream.chunks(1), &Limits::default()), expected, "byte by byte");
    }
}

fn chunked(data: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut out = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let (mut rest, mut sizes) = (data, sizes.iter().cycle());
    while !rest.is_empty() {
        let n = sizes.next().map_or(1, |&n| n.clamp(1, rest.len()));
        out.extend_from_slice(format!("{n:x}\r\n").as_bytes());
        out.extend_from_slice(&rest[..n]);
        out.extend_from_slice(b"\r\n");
        rest = &rest[n..];
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

/// `input` in pieces whose ends are `cuts`, in any order.
fn pieces<'i>(input: &'i [u8], cuts: &[prop::sample::Index]) -> Vec<&'i [u8]> {
    let mut ends: Vec<usize> = cuts.iter().map(|c| c.index(input.len() + 1)).chain([0, input.len()]).collect();
    ends.sort_unstable();
    ends.windows(2).map(|w| &input[w[0]..w[1]]).collect()
}

proptest! {
    #[test]
    fn chunks_of_any_size_in_any_pieces_give_the_data(
        data in proptest::collection::vec(any::<u8>(), 0..300),
        sizes in proptest::collection::vec(1usize..40, 1..6),
        cuts: [prop::sample::Index; 6],
    ) {
        let input = [chunked(&data, &sizes), GET.to_vec()].concat();
        let seen = feed(pieces(&input, &cuts), &Limits::default());
        prop_assert_eq!(seen.len(), 2);
        let Seen::Request { body, .. } = &seen[0] else { panic!() };
        prop_assert_eq!(body, &data);
    }

    #[test]
    fn damage_anywhere_gives_the_same_in_any_pieces(
        which in 0usize..10,
        at: prop::sample::Index,
        byte in prop_oneof![Just(b'\n'), Just(b'\r'), Just(b' '), Just(b':'), Just(b'0'), any::<u8>()],
        cuts: [prop::sample::Index; 4],
    ) {
        let mut input = corpus().swap_remove(which);
        let at = at.index(input.len());
        input[at] = byte;
        prop_assert_eq!(feed(pieces(&input, &cuts), &Limits::default()), whole(&input));
    }

    #[test]
    fn rubbish_is_survived(input in proptest::collection::vec(any::<u8>(), 0..200), cuts: [prop::sample::Index; 2]) {
        prop_assert_eq!(feed(pieces(&input, &cuts), &Limits::default()), whole(&input));
    }
}

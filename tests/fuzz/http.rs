//! Owns: the target `http`: a connection's bytes through the decoder and the calls. However they are split, they are
//! the same requests, refusals and answers; a chunked body is what a plain reading of its chunks gives.
//! Never: sockets.

use super::harness::{Target, Trail, number_of};
use super::http_cases;
use super::support::dice::Dice;
use dkv::http::{BodyKind, Decoder, Head, KnownLines, Limits, Phase, Reject, Request, Step};
use dkv::server::api::{self, Call, Scratch};
use dkv::server::browser::AllowedHosts;

pub const TARGET: Target = Target {
    name: "http",
    seeds,
    words: &[
        b"\r\n",
        b"\r\n\r\n",
        b"0\r\n\r\n",
        b"\r",
        b"\n",
        b": ",
        b" HTTP/1.1\r\n",
        b" HTTP/1.0\r\n",
        b"Host: localhost\r\n",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Type: application/x-www-form-urlencoded\r\n",
        b"Connection: close\r\n",
        b"Connection: keep-alive\r\n",
        b"Connection: upgrade\r\nUpgrade: dkv-peer\r\n",
        b"Expect: 100-continue\r\n",
        b"If-Match: \"7\"\r\n",
        b"If-None-Match: *\r\n",
        b"Accept: application/json\r\n",
        b"Origin: http://localhost\r\n",
        b"Sec-Fetch-Site: cross-site\r\n",
        b"X: y\r\n",
        b"PUT /set?key=k HTTP/1.1\r\nHost: localhost\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /update?key=k&value=v",
        b"DELETE /delete?key=%6b",
        b"GET /get?key=k&stale=ok",
        b"http://localhost",
        b"5\r\nhello\r\n",
        b";a=b",
        b"%00",
        b"%",
        b"&value=",
        b"key=",
        b"\xff",
        b"\0",
        b"[::1]:80",
    ],
    longest: 6000,
    executions: 4000,
    run,
};

fn seeds() -> Vec<Vec<u8>> {
    let cases = http_cases::all().into_iter().map(|case| match case.rest {
        Some((rest, _)) => [case.bytes, rest].concat(),
        None => case.bytes,
    });
    let mut seeds: Vec<Vec<u8>> = cases.filter(|bytes| bytes.len() < 3000).collect();
    seeds.push(
        b"PUT /set?key=k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n00a\r\n\
        0123456789\r\n0\r\nT: v\r\n\r\nGET /get?key=k HTTP/1.1\r\nHost: localhost\r\n\r\n"
            .to_vec(),
    );
    seeds
}

/// So narrow that every limit is met.
const NARROW: Limits = Limits { max_key_bytes: 4, max_value_bytes: 24, max_head_bytes: 160, max_headers: 3 };

fn run(input: &[u8], trail: &mut Trail) {
    for limits in [Limits::default(), NARROW] {
        let whole = serve([input], &limits, true);
        for said in &whole.said {
            trail.step(said.split(' ').next());
        }
        assert_eq!(serve([input], &limits, false), whole, "with no lines known");
        assert_eq!(serve(input.chunks(1), &limits, true), whole, "a byte at a time");
        let mut dice = Dice::new(number_of(input));
        for most in [4, 60, input.len() as u64] {
            assert_eq!(serve(pieces(input, most, &mut dice), &limits, true), whole, "in pieces of up to {most}");
        }
    }
}

fn pieces<'a>(mut input: &'a [u8], most: u64, dice: &mut Dice) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    while !input.is_empty() {
        let (piece, rest) = input.split_at(input.len().min(1 + dice.below(most) as usize));
        pieces.push(piece);
        input = rest;
    }
    pieces
}

/// What came of a connection's bytes.
#[derive(Debug, PartialEq, Eq, Default)]
struct Served {
    /// Requests with their calls, refusals: each begins with a word that names it.
    said: Vec<String>,
    phase: Option<Phase>,
    wanted: usize,
}

/// `remembers`: whether the lines of the last head are known.
fn serve<'p>(pieces: impl IntoIterator<Item = &'p [u8]>, limits: &Limits, remembers: bool) -> Served {
    let mut known = KnownLines::default();
    let (mut decoder, mut served, mut buf) = (Decoder::default(), Served::default(), Vec::new());
    // The bytes of the request under way as they came: a chunked body is decoded in place.
    let mut raw: Vec<u8> = Vec::new();
    let mut early: Option<(String, Result<(), u16>)> = None;
    for piece in pieces {
        buf.extend_from_slice(piece);
        raw.extend_from_slice(piece);
        loop {
            let len = buf.len();
            if !remembers {
                known = KnownLines::default();
            }
            match decoder.step(&mut buf, limits, &mut known) {
                Step::Partial(keep) => {
                    assert!(keep <= len, "no bytes come from nowhere");
                    assert!(decoder.wanted() == 0 || decoder.wanted() >= keep || decoder.phase() == Phase::Body);
                    buf.truncate(keep);
                    break;
                }
                Step::Head(head) => {
                    assert!(early.is_none(), "a head is told once");
                    early = Some((format!("{head:?}"), admit(&head, limits)));
                }
                Step::Complete(request, consumed) => {
                    assert!(consumed > 0 && consumed <= len);
                    if let Some((head, admitted)) = early.take() {
                        assert_eq!(format!("{:?}", request.head), head, "a head does not change");
                        check_admitted(admitted, &request, limits);
                    }
                    let taken = raw.len() - (len - consumed);
                    served.said.push(take(&request, &raw[..taken], limits));
                    if !request.head.keep_alive {
                        return served;
                    }
                    raw.drain(..taken);
                    buf.drain(..consumed);
                }
                Step::Reject(reject) => {
                    served.said.push(refused(&reject));
                    return served;
                }
            }
        }
    }
    (served.phase, served.wanted) = (Some(decoder.phase()), decoder.wanted());
    served
}

fn refused(reject: &Reject) -> String {
    assert!((400..600).contains(&reject.status), "{reject:?}");
    assert!(!reject.message.contains(['\r', '\n']), "{reject:?}");
    format!("{}-{} {}", reject.status, reject.code, reject.message)
}

fn admit(head: &Head<'_>, limits: &Limits) -> Result<(), u16> {
    api::admit(head, limits, &AllowedHosts::default()).map_err(|error| error.status)
}

/// What is refused by its head is refused as a whole.
fn check_admitted(admitted: Result<(), u16>, request: &Request<'_>, limits: &Limits) {
    if let Err(status) = admitted {
        let mut scratch = Scratch::default();
        let late = api::call(request, limits, &AllowedHosts::default(), &mut scratch);
        assert_eq!(late.map_err(|error| error.status).map(|_| ()), Err(status));
    }
}

/// Checks a request against its own bytes, and says what it is.
fn take(request: &Request<'_>, raw: &[u8], limits: &Limits) -> String {
    let head = &request.head;
    assert!(head.path.starts_with('/') || (head.path == "*" && head.method == "OPTIONS"), "{head:?}");
    assert!(!head.path.contains(['?', '#', ' ']) && !head.query.contains(['#', ' ']), "{head:?}");
    assert!(request.body.len() <= limits.max_body_bytes(head.is_form));
    assert_eq!(request.body_present, head.body != BodyKind::None);
    // Blank lines before the request look like the end of a head.
    let begins = raw.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
    let ends = raw[begins..].windows(4).position(|window| window == b"\r\n\r\n");
    let behind = &raw[begins + ends.expect("a request has a head") + 4..];
    match head.body {
        BodyKind::None => assert!(behind.is_empty() && request.body.is_empty()),
        BodyKind::Length(length) => {
            assert_eq!(behind, request.body);
            assert_eq!(length, behind.len() as u64);
        }
        BodyKind::Chunked => assert_eq!(unchunked(behind).as_deref(), Some(request.body)),
    }
    let mut scratch = Scratch::default();
    match api::call(request, limits, &AllowedHosts::default(), &mut scratch) {
        Ok(call) => {
            if let Call::Data(op) = &call {
                assert!((1..=limits.max_key_bytes).contains(&op.key.len()), "{op:?}");
                assert!(op.value.len() <= limits.max_value_bytes, "{op:?}");
            }
            let name = |shown: String| shown.split([' ', '(']).next().unwrap_or_default().to_owned();
            let (kind, body) = (name(format!("{call:?}")), name(format!("{:?}", head.body)));
            format!("{kind}-{body}-{} {head:?} {:?} {call:?}", head.keep_alive, request.body)
        }
        Err(error) => {
            assert!((400..600).contains(&error.status) && !error.message.contains(['\r', '\n']), "{error:?}");
            format!("{}-{} {} {head:?} {:?}", error.status, error.code, error.message, request.body)
        }
    }
}

/// A chunked body, read plainly; it is known to be whole and lawful.
fn unchunked(mut raw: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = line(&mut raw)?;
        let digits = line.split(|b| *b == b';').next()?;
        let size = usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        if size == 0 {
            break;
        }
        body.extend_from_slice(raw.get(..size)?);
        raw = raw.get(size..)?.strip_prefix(b"\r\n")?;
    }
    while !line(&mut raw)?.is_empty() {}
    raw.is_empty().then_some(body)
}

/// Takes a line off, without its end.
fn line<'a>(raw: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = raw.windows(2).position(|window| window == b"\r\n")?;
    let (line, rest) = raw.split_at(end);
    *raw = &rest[2..];
    Some(line)
}

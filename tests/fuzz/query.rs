//! Owns: the target `query`: a text as a query, as a tag, as a host and as an address; next to a plain reading of it.
//! Never: heads, bodies.

use super::harness::{Target, Trail};
use dkv::config::parse_address;
use dkv::http::query::{BadPercent, Encoded, Pair, encode, pairs};
use dkv::http::{Decoder, KnownLines, Limits, Step, etag, head};
use dkv::server::api::{self, Call, Scratch};
use dkv::server::browser::AllowedHosts;

pub const TARGET: Target = Target {
    name: "query",
    seeds,
    words: &[
        b"key=",
        b"&value=",
        b"&stale=",
        b"&",
        b"=",
        b"%",
        b"%00",
        b"%fF",
        b"%25",
        b"%+1",
        b"+",
        b"\"",
        b"W/\"",
        b"*",
        b",",
        b":",
        b"[::1]:",
        b"127.0.0.1:8080",
    ],
    longest: 400,
    executions: 30_000,
    run,
};

fn seeds() -> Vec<Vec<u8>> {
    [
        "key=a+b%20c&value=%2541",
        "key=k",
        "key=&value",
        "stale=ok&key=%00%ff&&x==",
        "\"17\"",
        "W/\"18446744073709551615\"",
        "\"a\", \"b\"",
        "*",
        "localhost:8080",
        "[::1]:80",
        "127.0.0.1:8080",
        "[::ffff:1.2.3.4%1]:99999",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

fn run(input: &[u8], trail: &mut Trail) {
    read_pairs(input, trail);
    trail.step(etag::parse(input).map(|tag| std::mem::discriminant(&tag)).map_err(|e| format!("{e:?}")));
    if let Ok(etag::Tag::Number { number, weak }) = etag::parse(input) {
        let written = if weak { format!("W/\"{number}\"") } else { format!("\"{number}\"") };
        assert_eq!(written.as_bytes(), input.trim_ascii_end(), "a tag is written in one way");
        assert!(number > 0);
    }
    if let Ok(text) = std::str::from_utf8(input) {
        read_as_host(text, trail);
    }
    ask(input, trail);
}

/// All parameters, as the parser has them and as they are.
fn read_pairs(query: &[u8], trail: &mut Trail) {
    let all: Vec<Pair<'_>> = pairs(query).collect();
    let plain: Vec<&[u8]> = if query.is_empty() { Vec::new() } else { query.split(|b| *b == b'&').collect() };
    assert_eq!(all.len(), plain.len());
    for (pair, plain) in all.iter().zip(plain) {
        let mut parts = plain.splitn(2, |b| *b == b'=');
        assert_eq!(Some(pair.name), parts.next());
        assert_eq!(pair.value, parts.next());
        assert_eq!(&query[pair.at..pair.at + plain.len()], plain, "it stands where it says");
        if let Some(value) = pair.value {
            assert_eq!(&query[pair.value_at()..][..value.len()], value);
        }
        for part in [Some(pair.name), pair.value].into_iter().flatten() {
            trail.step(decode(part).is_ok());
        }
    }
}

/// Decodes, and checks it against a plain decoding.
fn decode(raw: &[u8]) -> Result<Vec<u8>, BadPercent> {
    let mut scratch = b"left over".to_vec();
    let decoded = Encoded::new(raw).map(|encoded| {
        let bytes = encoded.decode(&mut scratch).to_vec();
        assert_eq!(encoded.decoded_len(), bytes.len());
        bytes
    });
    assert_eq!(decoded, plainly(raw));
    if let Ok(bytes) = &decoded {
        let mut again = Vec::new();
        encode(bytes, &mut again);
        assert!(again.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~%".contains(b)));
        assert_eq!(plainly(&again).as_ref(), Ok(bytes));
    }
    decoded
}

fn plainly(raw: &[u8]) -> Result<Vec<u8>, BadPercent> {
    let (mut bytes, mut at) = (Vec::new(), 0);
    while at < raw.len() {
        match raw[at] {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits = raw.get(at + 1..at + 3).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
                let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok()).ok_or(BadPercent(at))?;
                bytes.push(u8::from_str_radix(digits, 16).unwrap());
                at += 2;
            }
            byte => bytes.push(byte),
        }
        at += 1;
    }
    Ok(bytes)
}

fn read_as_host(text: &str, trail: &mut Trail) {
    let host = head::Host::parse(text.as_bytes());
    trail.step(host.map(|host| host.name.len() < text.len()));
    if let Some(host) = host {
        let (whole, name) = (host.shown(), &text[..host.name.len()]);
        assert!(!name.is_empty() && host.name == name.as_bytes() && !name.contains(['/', '@', ' ']), "{text}");
        let port = text[name.len()..].strip_prefix(':').map(str::parse::<u16>);
        assert!(whole == text && (whole == name || matches!(port, Some(Ok(_)))), "{text}");
    }
    match parse_address(text) {
        Ok(address) => assert_eq!(parse_address(&address.to_string()), Ok(address)),
        Err(why) => assert!(!why.contains('\n') && !why.is_empty(), "{why}"),
    }
}

/// As the query of a request: what the call takes for key and value is what stands there.
fn ask(query: &[u8], trail: &mut Trail) {
    let mut request = [b"PUT /set?", query, b" HTTP/1.1\r\nHost: localhost\r\n\r\n"].concat();
    let limits = Limits { max_key_bytes: 30, max_value_bytes: 60, ..Limits::default() };
    let Step::Complete(request, _) = Decoder::default().step(&mut request, &limits, &mut KnownLines::default()) else {
        return;
    };
    if request.head.query.as_bytes() != query {
        // It went on behind a line end of its own.
        return;
    }
    let mut scratch = Scratch::default();
    match api::call(&request, &limits, &AllowedHosts::default(), &mut scratch) {
        Ok(Call::Data(op)) => {
            let value_of = |name: &[u8]| {
                let mut named = pairs(query).filter(|pair| plainly(pair.name).as_deref() == Ok(name));
                let value = named.next().map(|pair| plainly(pair.value.unwrap_or_default()).unwrap());
                assert!(named.next().is_none(), "a parameter is taken once");
                value
            };
            assert_eq!(value_of(b"key").as_deref(), Some(op.key));
            assert_eq!(value_of(b"value").unwrap_or_default(), op.value);
            trail.step((op.key.len().min(3), op.value.len().min(3), op.stale));
        }
        Ok(other) => panic!("{other:?}"),
        Err(error) => trail.step((error.status, error.code)),
    }
}

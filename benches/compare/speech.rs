//! Owns: how each server is asked for a key and told a value, and what its right answer looks like.
//! Never: sockets, time, how many requests there are.

use memchr::memmem::find;

pub const KEY_BYTES: usize = 16;

/// The name of the `n`th key, as redis-benchmark spells it, so that it finds what was filled here.
pub fn key_name(n: u32) -> [u8; KEY_BYTES] {
    let mut name = *b"key:000000000000";
    let (mut left, mut at) = (n, KEY_BYTES);
    while left > 0 {
        at -= 1;
        name[at] = b'0' + (left % 10) as u8;
        left /= 10;
    }
    name
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    Get,
    Set,
}

/// Whose language.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    /// dkv's own; floor and nginx take whatever they are asked.
    Dkv,
    Redis,
    Webdis,
    /// The JSON gateway of etcd's gRPC.
    Etcd,
}

/// A request with a gap for the key.
pub struct Request {
    bytes: Vec<u8>,
    key_at: usize,
    is_base64: bool,
}

impl Request {
    fn new(before: &str, after: &str) -> Request {
        let key = "-".repeat(KEY_BYTES);
        Request { bytes: format!("{before}{key}{after}").into_bytes(), key_at: before.len(), is_base64: false }
    }

    fn etcd(path: &str, before: &str, after: &str) -> Request {
        let key = base64(&[0; KEY_BYTES]);
        let length = before.len() + key.len() + after.len();
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{before}");
        Request { bytes: format!("{head}{key}{after}").into_bytes(), key_at: head.len(), is_base64: true }
    }

    /// Appends the request for this key.
    pub fn write(&self, key: u32, out: &mut Vec<u8>) {
        let at = out.len() + self.key_at;
        out.extend_from_slice(&self.bytes);
        let name = key_name(key);
        if self.is_base64 {
            let text = base64(&name);
            out[at..at + text.len()].copy_from_slice(text.as_bytes());
        } else {
            out[at..at + KEY_BYTES].copy_from_slice(&name);
        }
    }
}

/// What the right answer looks like.
pub enum Wanted {
    /// RESP: begins so, and is so long in all.
    Resp { start: Vec<u8>, length: usize },
    /// HTTP with success and a body of so many bytes.
    Http { body: usize },
    /// HTTP with success and this text somewhere in the body.
    HttpWith { text: &'static str },
}

/// What the bytes that came are.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// The beginning of an answer.
    Part,
    /// A right answer of this length, whose end may not have come.
    Right(usize),
    Wrong,
}

impl Speech {
    pub fn request(self, op: Op, value_bytes: usize) -> Request {
        let value = "v".repeat(value_bytes);
        let body = format!(" HTTP/1.1\r\nHost: localhost\r\nContent-Length: {value_bytes}\r\n\r\n{value}");
        match (self, op) {
            (Speech::Dkv, Op::Get) => Request::new("GET /get?key=", " HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            (Speech::Dkv, Op::Set) => Request::new("PUT /set?key=", &body),
            // The suffix makes the answer the bare value.
            (Speech::Webdis, Op::Get) => Request::new("GET /GET/", ".txt HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            (Speech::Webdis, Op::Set) => Request::new("PUT /SET/", &body),
            (Speech::Redis, Op::Get) => Request::new("*2\r\n$3\r\nGET\r\n$16\r\n", "\r\n"),
            (Speech::Redis, Op::Set) => {
                Request::new("*3\r\n$3\r\nSET\r\n$16\r\n", &format!("\r\n${value_bytes}\r\n{value}\r\n"))
            }
            (Speech::Etcd, Op::Get) => Request::etcd("/v3/kv/range", r#"{"key":""#, r#""}"#),
            (Speech::Etcd, Op::Set) => {
                let after = format!(r#"","value":"{}"}}"#, base64(value.as_bytes()));
                Request::etcd("/v3/kv/put", r#"{"key":""#, &after)
            }
        }
    }

    pub fn wanted(self, op: Op, value_bytes: usize) -> Wanted {
        match (self, op) {
            (Speech::Redis, Op::Get) => {
                let start = format!("${value_bytes}\r\n").into_bytes();
                Wanted::Resp { length: start.len() + value_bytes + 2, start }
            }
            (Speech::Redis, Op::Set) => Wanted::Resp { start: b"+OK\r\n".to_vec(), length: 5 },
            (Speech::Dkv | Speech::Webdis, Op::Get) => Wanted::Http { body: value_bytes },
            (Speech::Dkv, Op::Set) => Wanted::Http { body: "OK\n".len() },
            (Speech::Webdis, Op::Set) => Wanted::HttpWith { text: r#"{"SET":[true,"OK"]}"# },
            (Speech::Etcd, Op::Get) => Wanted::HttpWith { text: r#""count":"1""# },
            (Speech::Etcd, Op::Set) => Wanted::HttpWith { text: r#""revision":"# },
        }
    }
}

impl Wanted {
    pub fn judge(&self, bytes: &[u8]) -> Answer {
        match self {
            Wanted::Resp { start, length } => match bytes.get(..start.len()) {
                Some(begun) if begun == start => Answer::Right(*length),
                Some(_) => Answer::Wrong,
                None if start.starts_with(bytes) => Answer::Part,
                None => Answer::Wrong,
            },
            Wanted::Http { body } => match http(bytes) {
                Some((true, head, length)) if length == *body => Answer::Right(head + length),
                Some(_) => Answer::Wrong,
                None => Answer::Part,
            },
            Wanted::HttpWith { text } => match http(bytes) {
                Some((true, head, length)) => match bytes.get(head..head + length) {
                    Some(body) if find(body, text.as_bytes()).is_some() => Answer::Right(head + length),
                    Some(_) => Answer::Wrong,
                    None => Answer::Part,
                },
                Some(_) => Answer::Wrong,
                None => Answer::Part,
            },
        }
    }
}

/// Whether it is a success, the length of the head, and that of the body (none told: an impossible one). `None`: the
/// head is not complete.
fn http(bytes: &[u8]) -> Option<(bool, usize, usize)> {
    let head = find(bytes, b"\r\n\r\n")? + 4;
    let is_good = bytes.starts_with(b"HTTP/1.1 200 ") || bytes.starts_with(b"HTTP/1.1 201 ");
    let length = find(&bytes[..head], b"Content-Length: ").map(|at| number(&bytes[at + 16..head]));
    Some((is_good && length.is_some(), head, length.unwrap_or(0)))
}

fn number(bytes: &[u8]) -> usize {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |n, digit| n * 10 + usize::from(digit - b'0'))
}

pub fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for at in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * at)) as usize & 63];
            text.push(if at <= group.len() { letter as char } else { '=' });
        }
    }
    text
}

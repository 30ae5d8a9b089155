//! Owns: requests that are malformed, ambiguous or merely unusual, with the answer each must get. What is tried is
//! taken from the suites of others: Http11Probe, h1spec, llhttp, gunicorn, the trophies of http-garden.
//! Never: how they are sent.
//!
//! The paths are chosen such that an accepted request has the same answer on every store: `POST /update` of the key
//! `absent`, which nobody creates, gives 404; `GET /livez` 200.

/// What comes behind the last answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The server closes.
    Closes,
    /// The connection is ready for another request.
    Open,
    /// The server waits for the rest of a request: [`Case::rest`].
    Waits,
}

/// A stream of bytes on a fresh connection, and what comes back.
#[derive(Debug, Clone)]
pub struct Case {
    pub name: String,
    pub bytes: Vec<u8>,
    /// The statuses of the answers, in order.
    pub answers: &'static [u16],
    pub end: End,
    /// What completes a request that was cut, and the status that it gets then.
    pub rest: Option<(Vec<u8>, u16)>,
}

/// An answer that refuses and closes.
const BAD: (&[u16], End) = (&[400], End::Closes);
const NOT_IMPLEMENTED: (&[u16], End) = (&[501], End::Closes);
const VERSION: (&[u16], End) = (&[505], End::Closes);
const LIVE: (&[u16], End) = (&[200], End::Open);
/// An accepted `POST /update` of the absent key.
const TAKEN: (&[u16], End) = (&[404], End::Open);

type Expected = (&'static [u16], End);

struct Table(Vec<Case>);

impl Table {
    fn add(&mut self, name: &str, bytes: impl AsRef<[u8]>, expected: Expected) {
        let (answers, end) = expected;
        self.0.push(Case { name: name.to_owned(), bytes: bytes.as_ref().to_vec(), answers, end, rest: None });
    }

    /// A request that comes as `first` and then `rest`, and is answered with `status` then and not before.
    fn cut(&mut self, first: &[u8], rest: &[u8], status: u16) {
        let name = format!("cut: {} | {}", first.escape_ascii(), rest.escape_ascii());
        let rest = Some((rest.to_vec(), status));
        self.0.push(Case { name, bytes: first.to_vec(), answers: &[], end: End::Waits, rest });
    }

    /// A GET with this first line (without its CR LF).
    fn line(&mut self, name: &str, line: &[u8], expected: Expected) {
        self.add(name, [line, b"\r\nHost: localhost\r\n\r\n"].concat(), expected);
    }

    /// A GET with these header lines behind Host (each with its line end).
    fn headers(&mut self, name: &str, lines: &[u8], expected: Expected) {
        let head: &[u8] = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n";
        self.add(name, [head, lines, b"\r\n"].concat(), expected);
    }

    /// A GET with this Host value.
    fn host(&mut self, name: &str, value: &str, expected: Expected) {
        self.add(name, format!("GET /livez HTTP/1.1\r\nHost:{value}\r\n\r\n"), expected);
    }

    /// A POST with these framing headers, and `body` behind the head.
    fn framing(&mut self, name: &str, lines: &[u8], body: &[u8], expected: Expected) {
        let head: &[u8] = b"POST /update?key=absent HTTP/1.1\r\nHost: localhost\r\n";
        self.add(name, [head, lines, b"\r\n", body].concat(), expected);
    }

    /// A POST with this as its chunks.
    fn chunks(&mut self, name: &str, chunks: impl AsRef<[u8]>, expected: Expected) {
        self.framing(name, b"Transfer-Encoding: chunked\r\n", chunks.as_ref(), expected);
    }
}

/// All of them.
pub fn all() -> Vec<Case> {
    let mut table = Table(Vec::new());
    request_lines(&mut table);
    targets(&mut table);
    line_ends(&mut table);
    header_lines(&mut table);
    hosts(&mut table);
    content_lengths(&mut table);
    transfer_encodings(&mut table);
    chunk_sizes(&mut table);
    chunk_extensions(&mut table);
    chunk_data_and_trailers(&mut table);
    desync(&mut table);
    calls(&mut table);
    limits(&mut table);
    unfinished(&mut table);
    table.0
}

fn request_lines(t: &mut Table) {
    t.line("baseline", b"GET /livez HTTP/1.1", LIVE);
    t.add("http/1.0 without host", b"GET /livez HTTP/1.0\r\n\r\n", (&[200], End::Closes));
    t.line("http/1.0 closes", b"GET /livez HTTP/1.0", (&[200], End::Closes));
    t.add("http/0.9", b"GET /livez\r\n\r\n", BAD);
    t.line("http/0.9 with headers", b"GET /livez", BAD);
    t.line("version 0.99", b"GET /livez HTTP/0.99", BAD);
    t.line("version 1.2", b"GET /livez HTTP/1.2", VERSION);
    t.line("version 2.0", b"GET /livez HTTP/2.0", VERSION);
    t.line("version 9.9", b"GET /livez HTTP/9.9", VERSION);
    t.line("version 5.6", b"GET /livez HTTP/5.6", VERSION);
    t.line("version 1.32", b"GET /livez HTTP/1.32", BAD);
    t.line("version 111", b"GET /livez HTTP/111", BAD);
    t.line("version 1", b"GET /livez HTTP/1", BAD);
    t.line("version 01.01", b"GET /livez HTTP/01.01", BAD);
    t.line("version with many digits", format!("GET /livez HTTP/{}.1", "1".repeat(80)).as_bytes(), BAD);
    t.line("version with a space", b"GET /livez HTTP/ 1.1", BAD);
    t.line("version in small letters", b"GET /livez http/1.1", BAD);
    t.line("version with trailing space", b"GET /livez HTTP/1.1 ", BAD);
    t.line("ftp", b"GET /livez FTP/1.1", BAD);
    t.line("ice", b"GET /livez ICE/1.0", BAD);
    t.line("ihttp", b"GET /livez IHTTP/1.0", BAD);
    t.line("rtsp", b"PUT /livez RTSP/1.0", BAD);
    t.add("http/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", VERSION);
    t.add("tls client hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", BAD);
    t.add("ssh banner", b"SSH-2.0-OpenSSH_9.9\r\n\r\n", BAD);
    t.add("proxy protocol", b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\nGET /livez HTTP/1.1\r\n\r\n", BAD);
    t.add("redis", b"*1\r\n$4\r\nPING\r\n\r\n", BAD);
    t.add("binary", b"\x00\xff\xfe\x80rubbish", BAD);
    t.line("extra word before", b"Extra lineGET /livez HTTP/1.1", BAD);
    t.line("two spaces", b"GET  /livez HTTP/1.1", BAD);
    t.line("two spaces behind the target", b"GET /livez  HTTP/1.1", BAD);
    t.line("tab for space", b"GET\t/livez HTTP/1.1", BAD);
    t.line("leading space", b" GET /livez HTTP/1.1", BAD);
    t.add("a line of white space", b" \r\n\r\n", BAD);
    t.line("no target", b"GET HTTP/1.1", BAD);
    t.line("no target, two spaces", b"GET  HTTP/1.1", BAD);
    t.line("method with a colon", b"GET: /livez HTTP/1.1", BAD);
    t.line("method with quotes", b"G=\":<>(e),[T];?\" /livez HTTP/1.1", BAD);
    t.line("method with a NUL", b"GET\0 /livez HTTP/1.1", BAD);
    t.line("method beyond ascii", b"GET\xc3\x9f /livez HTTP/1.1", BAD);
    t.line("method in latin-1", b"GET\xff /livez HTTP/1.1", BAD);
    t.line("method in small letters", b"get /livez HTTP/1.1", (&[501], End::Open));
    t.line("method with a dash before", b"-bl /livez HTTP/1.1", (&[501], End::Open));
    t.line("unknown method", b"MKCOLA /livez HTTP/1.1", (&[501], End::Open));
    t.line("a long method", format!("{} /livez HTTP/1.1", "M".repeat(500)).as_bytes(), (&[501], End::Open));
    t.line("trace", b"TRACE /livez HTTP/1.1", (&[501], End::Open));
}

fn targets(t: &mut Table) {
    t.line("fragment", b"GET /livez#frag HTTP/1.1", BAD);
    t.line("relative", b"GET livez HTTP/1.1", BAD);
    t.line("authority form", b"GET localhost:80 HTTP/1.1", BAD);
    t.line("connect", b"CONNECT localhost:443 HTTP/1.1", BAD);
    t.line("asterisk with GET", b"GET * HTTP/1.1", BAD);
    t.line("asterisk with OPTIONS", b"OPTIONS * HTTP/1.1", (&[501], End::Open));
    t.line("absolute form", b"GET http://localhost/livez HTTP/1.1", LIVE);
    t.line("absolute form, another host", b"GET http://other.example/livez HTTP/1.1", BAD);
    t.line("absolute form with user", b"GET http://u@localhost/livez HTTP/1.1", BAD);
    t.line("absolute form, another scheme", b"GET ftp://localhost/livez HTTP/1.1", BAD);
    t.line("a scheme of rubbish", b"PUT s://]ufd/: HTTP/1.1", BAD);
    t.line("one exclamation mark", b"GET ! HTTP/1.1", BAD);
    t.line("space in the target", b"GET /li vez HTTP/1.1", BAD);
    t.line("space in the query", b"GET /get?key=a b HTTP/1.1", BAD);
    t.line("NUL in the target", b"GET /\0livez HTTP/1.1", BAD);
    t.line("DEL in the target", b"GET /livez\x7f HTTP/1.1", BAD);
    t.line("ESC in the query", b"GET /get?key=\x1b HTTP/1.1", BAD);
    t.line("overlong utf-8", b"GET /\xc0\xaf HTTP/1.1", BAD);
    t.line("latin-1 in the query", b"GET /get?key=caf\xe9 HTTP/1.1", BAD);
    t.line("utf-8 in the query", "GET /get?key=absent-käse HTTP/1.1".as_bytes(), TAKEN);
    t.line("quotes in the query", b"GET /get?key=absent\"{}\" HTTP/1.1", TAKEN);
    t.line("backslash", b"GET /livez\\x HTTP/1.1", (&[404], End::Open));
    t.line("encoded slash and dots", b"GET /%2e%2e/livez HTTP/1.1", (&[404], End::Open));
    t.line("dots", b"GET /x/../livez HTTP/1.1", (&[404], End::Open));
    t.line("encoded NUL in the path", b"GET /livez%00.html HTTP/1.1", (&[404], End::Open));
    t.line("encoded CR LF in the path", b"GET /livez%0d%0aX-Injected:%20true HTTP/1.1", (&[404], End::Open));
    t.line("encoded NUL in a key", b"GET /get?key=absent%00 HTTP/1.1", TAKEN);
    t.line("bad percent in a key", b"GET /get?key=%zz HTTP/1.1", (&[400], End::Open));
    t.line("cut percent in a key", b"GET /get?key=a% HTTP/1.1", (&[400], End::Open));
    t.line("two keys", b"GET /get?key=a&key=b HTTP/1.1", (&[400], End::Open));
}

fn line_ends(t: &mut Table) {
    t.add("bare LF behind the request line", b"GET /livez HTTP/1.1\nHost: localhost\r\n\r\n", BAD);
    t.add("bare LF everywhere", b"GET /livez HTTP/1.1\nHost: localhost\n\n", BAD);
    t.add("LF for space", b"GET\n/livez\nHTTP/1.1\r\n\r\n", BAD);
    t.add("LF before the version", b"GET /livez\nHTTP/1.1\r\n\r\n", BAD);
    t.add("bare CR behind the request line", b"GET /livez HTTP/1.1\rHost: localhost\r\n\r\n", BAD);
    t.headers("bare LF behind a header", b"X-Test: value\n", BAD);
    t.headers("bare LF hides a header", b"Dummy: x\nContent-Length: 23\r\n", BAD);
    t.headers("bare LF hides a coding", b"x:\nTransfer-Encoding: chunked\r\n", BAD);
    t.headers("bare CR in a value", b"X-Test: val\rue\r\n", BAD);
    t.headers("bare CR hides a header", b"Foo: 1\rBar: 2\r\n", BAD);
    t.headers("CR CR LF", b"X: y\r\r\n", BAD);
    t.headers("CR before the empty line", b"\rSome-Header: Test\r\n", BAD);
    t.headers("CR Z for the empty line", b"\rZGET /evil HTTP/1.1\r\nHost: a\r\n", BAD);
    t.headers("CR for a dash", b"Content\rLength: 3\r\n", BAD);
    t.headers("a smuggled request behind LF", b"Newline: a\nContent-Length: 26\r\nGET / HTTP/1.1\nHost: x\r\n", BAD);
    t.add("CR without LF at the end", b"PUT / HTTP/1.1\r\nContent-Length: 3\r\n\rabc", BAD);
    t.add("one blank line before", b"\r\nGET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", LIVE);
    t.add("two blank lines before", b"\r\n\r\nGET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", LIVE);
    t.add("three blank lines before", b"\r\n\r\n\r\nGET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", BAD);
    t.add("a bare LF before", b"\nGET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", BAD);
    t.add("a bare CR before", b"\rGET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", BAD);
}

fn header_lines(t: &mut Table) {
    t.headers("folded value", b"X-Test: one\r\n two\r\n", BAD);
    t.headers("folded from the start", b"X-Test:\r\n two\r\n", BAD);
    t.headers("folded with a tab", b"X-Test: one\r\n\ttwo\r\n", BAD);
    t.headers("folded name", b"name\r\n : value\r\n", BAD);
    t.headers("space before the colon", b"X-Test : value\r\n", BAD);
    t.headers("tab before the colon", b"X-Test\t: value\r\n", BAD);
    t.headers("space in a name", b"X Test: value\r\n", BAD);
    t.headers("empty name", b": value\r\n", BAD);
    t.headers("no colon", b"NoColonHere\r\n", BAD);
    t.headers("brackets in a name", b"X-Invalid[]: test\r\n", BAD);
    t.headers("at in a name", b"Fo@: Failure\r\n", BAD);
    t.headers("control byte in a name", b"Foo\x01test: Bar\r\n", BAD);
    t.headers("NUL in a name", b"ba\0z: bar\r\n", BAD);
    t.headers("utf-8 in a name", b"X-T\xc3\xabst: value\r\n", BAD);
    t.headers("latin-1 at a name's start", b"\xeffoo: bar\r\n", BAD);
    t.headers("a damaged name", b"Connection\r\x1b\x35\xd5eep-Alive\r\n", BAD);
    t.headers("NUL in a value", b"X-Test: val\0ue\r\n", BAD);
    t.headers("NUL and CR in a value", b"Header: v\0\ralue\r\n", BAD);
    t.headers("BEL in a value", b"X-Test: plain\x07injected\r\n", BAD);
    t.headers("DEL in a value", b"X-Test: plain\x7finjected\r\n", BAD);
    t.headers("more control bytes in a value", b"X-Test: abc\x07\x08\x0bdef\r\n", BAD);
    t.headers("empty value", b"X-Empty:\r\nX-Blank: \r\n", LIVE);
    t.headers("utf-8 in a value", b"X-Test: caf\xc3\xa9\r\n", LIVE);
    t.headers("tabs around a value", b"X-Test:\tvalue\t\r\n", LIVE);
    t.add("space before the first header", b"GET /livez HTTP/1.1\r\n Host: localhost\r\n\r\n", BAD);
    t.add("a blank before the headers", b"GET /livez HTTP/1.1\r\n \r\nHost: localhost\r\n\r\n", BAD);
    t.add("tab before the first header", b"GET /livez HTTP/1.1\r\n\tHost: localhost\r\n\r\n", BAD);
    t.headers("two origins", b"Origin: http://localhost\r\nOrigin: http://localhost\r\n", BAD);
    t.headers("two content types", b"Content-Type: text/plain\r\nContent-Type: text/html\r\n", BAD);
    t.headers("unknown expectation", b"Expect: 200-ok\r\n", (&[417], End::Closes));
    t.headers("upgrade to websocket", b"Connection: Upgrade\r\nUpgrade: websocket\r\n", LIVE);
    t.headers("upgrade without connection", b"Upgrade: dkv-peer\r\n", LIVE);
    t.headers("connection: close", b"Connection: close\r\n", (&[200], End::Closes));
    t.headers("ranges", b"Range: bytes=0-,0-,0-\r\n", LIVE);
    t.headers("foreign origin", b"Origin: http://evil.example\r\n", (&[403], End::Open));
}

fn hosts(t: &mut Table) {
    t.add("no host", b"GET /livez HTTP/1.1\r\n\r\n", BAD);
    t.headers("two hosts", b"Host: other.example\r\n", BAD);
    t.headers("the same host twice", b"Host: localhost\r\n", BAD);
    t.host("empty host", "", BAD);
    t.host("blank host", "  ", BAD);
    t.host("host list", " localhost, other.example", BAD);
    t.host("host with user", " user@localhost", BAD);
    t.host("host with path", " localhost/path", BAD);
    t.host("host with scheme", " http://localhost", BAD);
    t.host("host with equals", " 0.0.0.0=5000", BAD);
    t.host("host with a bad port", " localhost:http", BAD);
    t.host("host with a signed port", " localhost:+80", BAD);
    t.host("host with a port too large", " localhost:65536", BAD);
    t.host("ipv6 without brackets", " ::1", BAD);
    t.host("ipv6", " [::1]:80", LIVE);
    t.host("foreign host", " evil.example", (&[421], End::Open));
    t.add("foreign host in 1.0", b"GET /livez HTTP/1.0\r\nHost: evil.example\r\n\r\n", (&[421], End::Closes));
}

fn content_lengths(t: &mut Table) {
    let mut length = |name: &str, value: &str, expected| {
        t.framing(name, format!("Content-Length:{value}\r\n").as_bytes(), b"hello", expected);
    };
    length("length", " 5", TAKEN);
    length("length without blank", "5", TAKEN);
    length("length with blanks around", "   5 ", TAKEN);
    length("length with tabs around", "\t5\t", TAKEN);
    length("length with leading zeros", " 005", TAKEN);
    length("length +5", " +5", BAD);
    length("length -1", " -1", BAD);
    length("length -0", " -0", BAD);
    length("length of a large negative", " -123456789123456789123456789", BAD);
    length("length 0x5", " 0x5", BAD);
    length("length 0o5", " 0o5", BAD);
    length("length 1_0", " 1_0", BAD);
    length("length +1_0", " +1_0", BAD);
    length("length 5x", " 5x", BAD);
    length("length 5.0", " 5.0", BAD);
    length("length 5e0", " 5e0", BAD);
    length("length abc", " abc", BAD);
    length("length of nothing", "", BAD);
    length("length of a blank", " ", BAD);
    length("length 4 2", " 4 2", BAD);
    length("length with a tab inside", " 4\t2", BAD);
    length("length 5, 5", " 5, 5", BAD);
    length("length 5, 10", " 5, 10", BAD);
    length("length 5,", " 5,", BAD);
    length("length of full-width digits", " \u{ff15}", BAD);
    length("length with VT", " \x0b5", BAD);
    length("length over u64", " 99999999999999999999", BAD);
    length("length just over u64", " 18446744073709551616", BAD);
    length("length of u64", " 18446744073709551615", (&[413], End::Closes));
    length("length over the limit", " 999999999", (&[413], End::Closes));
    let mut both = |name: &str, lines: &[u8]| t.framing(name, lines, b"helloworld", BAD);
    both("two different lengths", b"Content-Length: 5\r\nContent-Length: 10\r\n");
    both("the same length twice", b"Content-Length: 5\r\ncontent-length: 5\r\n");
    both("space before the length's colon", b"Content-Length : 5\r\n");
    both("another length with space before its colon", b"Content-Length: 5\r\nContent-Length : 6\r\n");
    both("tab in a length's name", b"Content-Length: 10\r\nContent\tLength: 9\r\n");
    both("length with a name beyond ascii", b"Content-Length\xc3\x9f: 3\r\nContent-Length: 3\r\n");
    t.framing("underscore is no dash", b"Content-Length: 5\r\nContent_Length: 99\r\n", b"hello", TAKEN);
    t.framing("a length of zero", b"Content-Length: 0\r\n", b"", TAKEN);
    t.framing("a length of zeros", b"Content-Length: 00\r\n", b"", TAKEN);
    t.add("length in 1.0 is checked", b"GET /livez HTTP/1.0\r\nContent-Length: -0\r\n\r\n", BAD);
}

fn transfer_encodings(t: &mut Table) {
    const CHUNKS: &[u8] = b"5\r\nhello\r\n0\r\n\r\n";
    let mut coding = |name: &str, lines: &[u8], expected| t.framing(name, lines, CHUNKS, expected);
    coding("chunked", b"Transfer-Encoding: chunked\r\n", TAKEN);
    coding("CHUNKED", b"TRANSFER-ENCODING: CHUNKED\r\n", TAKEN);
    coding("chunked with blanks around", b"Transfer-Encoding: \tchunked \r\n", TAKEN);
    coding("length and coding", b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", BAD);
    coding("coding and length", b"Transfer-Encoding: chunked\r\nContent-Length: 30\r\n", BAD);
    coding("coding and bad length", b"Transfer-Encoding: chunked\r\nContent-Length: +5\r\n", BAD);
    coding("other case, and length", b"Content-Length: 5\r\nTransfer-Encoding: Chunked\r\n", BAD);
    coding("identity and length", b"Content-Length: 5\r\nTransfer-Encoding: identity\r\n", BAD);
    coding("empty coding and length", b"Content-Length: 5\r\nTransfer-Encoding:\r\n", BAD);
    coding("xchunked and length", b"Content-Length: 5\r\nTransfer-Encoding: xchunked\r\n", BAD);
    coding("chunked twice", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", BAD);
    coding("chunked, then identity", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", BAD);
    coding("gzip, then chunked", b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", BAD);
    coding("space before the coding's colon", b"Transfer-Encoding : chunked\r\n", BAD);
    coding("coding folded", b"Transfer-Encoding:\r\n chunked\r\n", BAD);
    coding("coding folded behind", b"Transfer-Encoding: chunked\r\n  abc\r\n", BAD);
    coding("coding with VT", b"Transfer-Encoding: \x0bchunked\r\n", BAD);
    coding("coding with FF", b"Transfer-Encoding: \x0cchunked\r\n", BAD);
    coding("coding with NUL", b"Transfer-Encoding: chunked\0\r\n", BAD);
    coding("chunked, chunked", b"Transfer-Encoding: chunked, chunked\r\n", NOT_IMPLEMENTED);
    coding("chunked, gzip", b"Transfer-Encoding: chunked, gzip\r\n", NOT_IMPLEMENTED);
    coding("gzip, chunked", b"Transfer-Encoding: gzip, chunked\r\n", NOT_IMPLEMENTED);
    coding("identity, chunked", b"Transfer-Encoding: identity, chunked, identity, chunked\r\n", NOT_IMPLEMENTED);
    coding("gzip", b"Transfer-Encoding: gzip\r\n", NOT_IMPLEMENTED);
    coding("identity", b"Transfer-Encoding: identity\r\n", NOT_IMPLEMENTED);
    coding("xchunked", b"Transfer-Encoding: xchunked\r\n", NOT_IMPLEMENTED);
    coding("chunkedchunked", b"Transfer-Encoding: chunkedchunked\r\n", NOT_IMPLEMENTED);
    coding("chunked with parameters", b"Transfer-Encoding: chunked;ext=val\r\n", NOT_IMPLEMENTED);
    coding("comma before", b"Transfer-Encoding: , chunked\r\n", NOT_IMPLEMENTED);
    coding("comma behind", b"Transfer-Encoding: chunked,\r\n", NOT_IMPLEMENTED);
    coding("chunked in quotes", b"Transfer-Encoding: \"chunked\"\r\n", NOT_IMPLEMENTED);
    coding("empty coding", b"Transfer-Encoding:\r\n", NOT_IMPLEMENTED);
    let http10 = b"POST /update?key=absent HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    t.add("coding in 1.0", http10, BAD);
}

fn chunk_sizes(t: &mut Table) {
    t.chunks("two chunks and zeros", b"5\r\nhello\r\n6\r\n world\r\n000\r\n\r\n", TAKEN);
    t.chunks("upper case size", b"A\r\n0123456789\r\n0\r\n\r\n", TAKEN);
    t.chunks("no chunk but the last", b"0\r\n\r\n", TAKEN);
    t.chunks("size 0x5", b"0x5\r\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("size +5", b"+5\r\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("size -1", b"-1\r\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("size +0", b"+0\r\n\r\nX", BAD);
    t.chunks("size 0_2e", b"0_2e\r\n\r\n", BAD);
    t.chunks("size 6_0", b"5\r\nhello\r\n6_0\r\n world\r\n0\r\n\r\n", BAD);
    t.chunks("size with a space before", b" 5\r\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("size with a space behind", b"5 \r\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("size with a tab behind", b"5\t\r\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("last size with a space behind", b"5\r\nhello\r\n0 \r\n\r\n", BAD);
    t.chunks("last size with a space before", b"5\r\nhello\r\n 0\r\n\r\n", BAD);
    t.chunks("empty size", b"\r\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("empty size with extension", b";foo=bar\r\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("blank size with extension", b" ;foo=bar\r\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("size of letters", b"xyz\r\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("size in quotes", b"\"5\"\r\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("size with a dot", b"5.0\r\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("size with h", b"5h\r\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("size with NUL", b"5\0\r\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("size of 16 digits", b"0000000000000005\r\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("size of 15 digits", b"000000000000005\r\nhello\r\n0\r\n\r\n", TAKEN);
    t.chunks("size that overflows to 0", b"10000000000000000\r\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("size over u64", b"FFFFFFFFFFFFFFFF0\r\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("size over the limit", b"fffffffffffffff\r\nhello", (&[413], End::Closes));
    t.chunks("size ends with LF", b"5\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("size ends with CR", b"5\rhello\r\n0\r\n\r\n", BAD);
    t.chunks("size ends with CR CR", b"5\r\r;ABCD\r\n34\r\nE\r\n0\r\n\r\n", BAD);
    t.chunks("LF and blanks behind the size", b"3 \n  \r\nfoo\r\n0\r\n\r\n", BAD);
    t.chunks("words behind the size", b"2 erfrferferf\r\naa\r\n0 rrrr\r\n\r\n", BAD);
}

fn chunk_extensions(t: &mut Table) {
    let long = |name: usize| format!("5;{}\r\nhello\r\n0\r\n\r\n", "e".repeat(name)).into_bytes();
    t.chunks("extensions", b"5;ext=value\r\nhello\r\n6;a;b=c;d\r\n world\r\n0;end\r\n\r\n", TAKEN);
    t.chunks("quoted extension", b"5;ext=\"a b\"\r\nhello\r\n0\r\n\r\n", TAKEN);
    t.chunks("extension of 256 bytes", long(256), TAKEN);
    t.chunks("extension of 257 bytes", long(257), BAD);
    t.chunks("extension of 64 KiB", long(1 << 16), BAD);
    t.chunks("nothing behind the semicolon", b"5;\r\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("nothing behind the second semicolon", b"5;a;\r\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("nothing behind the equals sign", b"5;a=\r\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("extension without name", b"5;=a\r\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("extension with a bracket", b"5;bad[=x\r\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("extension ends with LF", b"5;\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("extension with LF", b"5;a\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("extension with LF in a value", b"5;a=b\nc\r\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("extension with CR", b"5;a\rX\r\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("extension with CR in a value", b"5;ext=val\rue\r\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("extension with NUL", b"5;\0ext\r\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("extension with BEL in a value", b"5;a=\x07\r\nhello\r\n0\r\n\r\n", BAD);
    t.chunks("LF, then an extension", b"5\n;\r\nhello\r\n0\r\n\r\n", BAD);
}

fn chunk_data_and_trailers(t: &mut Table) {
    t.chunks("data longer than its size", b"5\r\nhello!!\r\n0\r\n\r\n", BAD);
    t.chunks("no CR LF behind the data", b"5\r\nhello0\r\n\r\n", BAD);
    t.chunks("LF behind the data", b"5\r\nhello\n0\r\n\r\n", BAD);
    t.chunks("CR behind the data", b"5\r\nhello\r0\r\n\r\n", BAD);
    t.chunks("blank line for the last chunk", b"3\r\nfoo\r\n\r\n", BAD);
    t.chunks("trailers", b"5\r\nhello\r\n0\r\nVary: *\r\nX-Checksum: abc\r\n\r\n", TAKEN);
    t.chunks("LF for the last CR LF", b"5\r\nhello\r\n0\r\n\n", BAD);
    t.chunks("LF behind a trailer", b"5\r\nhello\r\n0\r\nA: b\n\r\n", BAD);
    t.chunks("CR in a trailer", b"0\r\nA: b\rc\r\n\r\n", BAD);
    t.chunks("NUL in a trailer", b"0\r\nA: b\0c\r\n\r\n", BAD);
    t.chunks("folded trailer", b"0\r\nA: b\r\n c\r\n\r\n", BAD);
    t.chunks("trailer without colon", b"0\r\nA\r\n\r\n", BAD);
    t.chunks("trailer without name", b"0\r\n: a\r\n\r\n", BAD);
    t.chunks("trailer with space before the colon", b"0\r\nA : a\r\n\r\n", BAD);
    t.chunks("trailer content-length", b"5\r\nhello\r\n0\r\nContent-Length: 50\r\n\r\n", BAD);
    t.chunks("trailer transfer-encoding", b"5\r\nhello\r\n0\r\ntransfer-encoding: chunked\r\n\r\n", BAD);
    t.chunks("trailer host", b"5\r\nhello\r\n0\r\nHost: evil.example\r\n\r\n", BAD);
    t.chunks("trailers of 5 KiB", [b"0\r\nA: ", [b'x'; 5120].as_slice(), b"\r\n\r\n"].concat(), BAD);
    t.chunks("a request for a trailer", b"0\r\nGET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", BAD);
}

fn desync(t: &mut Table) {
    const NEXT: &[u8] = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let smuggled = [b"0\r\n\r\n", NEXT].concat();
    let mut poison = |name: &str, lines: &str, expected| t.framing(name, lines.as_bytes(), &smuggled, expected);
    let length = smuggled.len();
    poison("CL.TE", &format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"), BAD);
    poison("TE.CL", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", BAD);
    poison("CL.TE, signed", &format!("Content-Length: +{length}\r\nTransfer-Encoding: chunked\r\n"), BAD);
    poison("CL.TE, not a number", &format!("Content-Length: {length}x\r\nTransfer-Encoding: chunked\r\n"), BAD);
    poison("CL.TE, folded", &format!("Transfer-Encoding:\r\n chunked\r\nContent-Length: {length}\r\n"), BAD);
    poison("CL.TE, comma", &format!("Content-Length: {length}\r\nTransfer-Encoding: , chunked\r\n"), BAD);
    poison("CL.CL", &format!("Content-Length: 4\r\nContent-Length: {length}\r\n"), BAD);
    poison("the body swallows", &format!("Content-Length: {length}\r\n"), TAKEN);
    poison("chunks end, the next is read", "Transfer-Encoding: chunked\r\n", (&[404, 200], End::Open));
    let get_body = [b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello", NEXT].concat();
    t.add("GET with a body is refused, the next is read", get_body, (&[400, 200], End::Open));
    let options = [b"OPTIONS / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello", NEXT].concat();
    t.add("OPTIONS with a body is refused, the next is read", options, (&[501, 200], End::Open));
    t.framing(
        "a byte behind an empty body",
        b"Content-Length: 0\r\n",
        &[b"\0", NEXT].concat(),
        (&[404, 400], End::Closes),
    );
    t.framing(
        "a letter behind an empty body",
        b"Content-Length: 0\r\n",
        &[b"X", NEXT].concat(),
        (&[404, 501], End::Open),
    );
    t.framing(
        "CR LF behind the body",
        b"Content-Length: 5\r\n",
        &[b"hello\r\n", NEXT].concat(),
        (&[404, 200], End::Open),
    );
    t.add("two pipelined", NEXT.repeat(2), (&[200, 200], End::Open));
    t.add("sixty pipelined", NEXT.repeat(60), (&[200; 60], End::Open));
    let closing = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    t.add("nothing is answered behind close", [closing, NEXT].concat(), (&[200], End::Closes));
    let http10 = b"GET /livez HTTP/1.0\r\n\r\n";
    t.add("nothing is answered behind 1.0", [http10, NEXT].concat(), (&[200], End::Closes));
    let bad = b"GET /livez HTTP/1.1\nHost: localhost\r\n\r\n";
    t.add("what was good is answered before what is bad", [NEXT, bad, NEXT].concat(), (&[200, 400], End::Closes));
    t.framing("1.1 body for expect", b"Expect: 100-continue\r\nContent-Length: 5\r\n", b"hello", TAKEN);
    let expect = b"POST /update?key=absent HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello";
    t.add("no 100 in 1.0", expect, (&[404], End::Closes));
}

fn calls(t: &mut Table) {
    t.line("GET for a write", b"GET /set?key=a&value=b HTTP/1.1", (&[405], End::Open));
    t.line("DELETE for the guide", b"DELETE / HTTP/1.1", (&[405], End::Open));
    t.line("unknown path", b"GET /nothing HTTP/1.1", (&[404], End::Open));
    t.line("no key", b"GET /get HTTP/1.1", (&[400], End::Open));
    t.line("no value", b"POST /update?key=absent HTTP/1.1", (&[400], End::Open));
    t.line("a peer's path without upgrade", b"GET /peer HTTP/1.1", (&[404], End::Open));
    let mut form = |name: &str, form: &str, expected| {
        let head = "POST /update HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n";
        t.add(name, format!("{head}Content-Length: {}\r\n\r\n{form}", form.len()), expected);
    };
    form("a form", "key=absent&value=x", TAKEN);
    form("a form with a bad percent", "key=absent&value=%", (&[400], End::Open));
    form("a form with two keys", "key=absent&value=x&key=y", (&[400], End::Open));
}

fn limits(t: &mut Table) {
    let target = format!("GET /get?key={} HTTP/1.1", "k".repeat(100_000));
    t.line("target of 100 kB", target.as_bytes(), (&[414], End::Closes));
    t.line("key of 4097 bytes", format!("GET /get?key={} HTTP/1.1", "k".repeat(4097)).as_bytes(), (&[414], End::Open));
    t.line("path of 8 kB", format!("GET /{} HTTP/1.1", "p".repeat(7900)).as_bytes(), (&[404], End::Open));
    t.add("method of 100 kB", "M".repeat(100_000), (&[414], End::Closes));
    t.headers("value of 100 kB", format!("X-Big: {}\r\n", "v".repeat(100_000)).as_bytes(), (&[431], End::Closes));
    t.headers("name of 100 kB", format!("{}: v\r\n", "n".repeat(100_000)).as_bytes(), (&[431], End::Closes));
    t.headers("64 headers", "X: y\r\n".repeat(63).as_bytes(), LIVE);
    t.headers("65 headers", "X: y\r\n".repeat(64).as_bytes(), (&[431], End::Closes));
    t.headers("10,000 headers", "X-Many: value\r\n".repeat(10_000).as_bytes(), (&[431], End::Closes));
}

fn unfinished(t: &mut Table) {
    let whole = b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for at in 0..whole.len() {
        t.cut(&whole[..at], &whole[at..], 404);
    }
    let head = b"POST /update?key=absent HTTP/1.1\r\nHost: localhost\r\n";
    let counted = [head.as_slice(), b"Content-Length: 10\r\n\r\n"].concat();
    t.cut(&counted, b"helloworld", 404);
    t.cut(&[counted.as_slice(), b"hello"].concat(), b"world", 404);
    let chunked = [head.as_slice(), b"Transfer-Encoding: chunked\r\n\r\n"].concat();
    t.cut(&[chunked.as_slice(), b"5\r\nhello\r\n"].concat(), b"0\r\n\r\n", 404);
    t.cut(&[chunked.as_slice(), b"5\r\nhello\r\n0\r\n"].concat(), b"\r\n", 404);
    t.cut(&[chunked.as_slice(), b"5\r\nhello\r\n0\r\n"].concat(), b"Host: a\r\n\r\n", 400);
}

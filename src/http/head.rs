//! Owns: a request's head: where it ends, one parse by httparse, and then every strict check that httparse leaves
//! out (RFC 9112), since two servers that read one head differently are how requests are smuggled. Header lines that are
//! those of the head before, byte for byte, are not read again ([`KnownLines`]).
//! Never: what paths or parameters mean.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::{Limits, Reject};

/// Most header lines in a head, whatever the settings say.
pub const MAX_HEADERS: usize = 64;

/// HTTP versions that are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// How a request's body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BodyKind {
    /// Neither `Content-Length` nor `Transfer-Encoding`.
    #[default]
    None,
    /// `Content-Length`, in bytes; 0 is an explicit empty body.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// A request's head, borrowed from the connection's buffer. All of it has passed the checks of this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head<'b> {
    /// The method, a token; letters as they came.
    pub method: &'b str,
    /// The target before `?`; begins with `/`, or is `*` (only with OPTIONS).
    pub path: &'b str,
    /// The target behind `?`, as it came; empty where there is none.
    pub query: &'b str,
    /// The version.
    pub version: Version,
    /// Whether the connection may be used again.
    pub keep_alive: bool,
    /// How the body is framed.
    pub body: BodyKind,
    /// `Expect: 100-continue` (never in HTTP/1.0).
    pub expect_continue: bool,
    /// `Host`. Always there in HTTP/1.1.
    pub host: Option<Host<'b>>,
    /// `If-Match`, as it came.
    pub if_match: Option<&'b [u8]>,
    /// `If-None-Match`, as it came.
    pub if_none_match: Option<&'b [u8]>,
    /// `Accept` names `application/json`.
    pub accepts_json: bool,
    /// `Origin`, as it came.
    pub origin: Option<&'b [u8]>,
    /// `Sec-Fetch-Site`, as it came.
    pub sec_fetch_site: Option<&'b [u8]>,
    /// `Content-Type: application/x-www-form-urlencoded`.
    pub is_form: bool,
    /// `Upgrade: dkv-peer` with `Connection: upgrade`, in HTTP/1.1.
    pub upgrade_peer: bool,
}

/// How far the search for the end of a head has come. Every byte is looked at once, however many steps it takes,
/// but for those that are compared with known lines at a line's end.
#[derive(Debug, Default)]
pub struct Scan {
    /// Where the head begins: behind the blank lines before it.
    start: usize,
    /// Where the present line begins.
    line: usize,
    /// Everything before was looked at.
    seen: usize,
}

/// Blank lines before a request that are forgiven (some clients end a body with one).
const LEADING_BLANK_LINES: usize = 2;

impl Scan {
    /// Whether nothing was looked at.
    pub(super) fn is_fresh(&self) -> bool {
        self.seen == 0
    }

    /// Whether a head has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.seen > self.start
    }

    /// The head's place in `buf`, its empty line included; `None`: the end has not come yet. `known`: whose lines need not
    /// be looked at.
    ///
    /// # Errors
    /// A line that does not end with CRLF, too many blank lines, or no end within `limit` bytes.
    pub fn find(&mut self, buf: &[u8], limit: usize, known: &KnownLines) -> Result<Option<Range<usize>>, Reject> {
        loop {
            if buf.get(self.start).is_some_and(|&b| !is_token_byte(b) && b != b'\r' && b != b'\n') {
                return Err(not_http());
            }
            let end = buf.len().min(self.start + limit);
            let fresh = buf.get(self.seen..end).unwrap_or_default();
            let Some(offset) = memchr::memchr2(b'\r', b'\n', fresh) else {
                self.seen = self.seen.max(end);
                return self.unfinished(&buf[..end], limit);
            };
            let at = self.seen + offset;
            match buf[at..end] {
                [b'\r', b'\n', ..] => {}
                [b'\r'] => {
                    self.seen = at;
                    return self.unfinished(&buf[..end], limit);
                }
                _ => return Err(bad_head("a bare CR or LF in the head: lines end with CR LF")),
            }
            let blank = at == self.line;
            self.line = at + 2;
            self.seen = at + 2;
            if blank && at > self.start {
                return Ok(Some(self.start..self.seen));
            }
            if blank {
                if self.start >= 2 * LEADING_BLANK_LINES {
                    return Err(bad_head("too many blank lines before the request line"));
                }
                self.start = self.seen;
            } else if known.begin(&buf[self.seen..end]) {
                return Ok(Some(self.start..self.seen + known.bytes.len()));
            }
        }
    }

    /// The end has not come in these bytes, which reach to the limit or to what has come.
    fn unfinished(&self, seen: &[u8], limit: usize) -> Result<Option<Range<usize>>, Reject> {
        let head = seen.get(self.start..).unwrap_or_default();
        if head.len() >= limit { Err(too_long(head, limit)) } else { Ok(None) }
    }
}

fn bad_head(message: &str) -> Reject {
    Reject::new(400, "bad_head", message)
}

fn not_http() -> Reject {
    bad_head("the request does not begin with a method: this port speaks plain HTTP/1.1 (http://, not https://)")
}

/// 414 where it is the target that fills the head, else 431.
fn too_long(head: &[u8], limit: usize) -> Reject {
    let line = memchr::memchr(b'\n', head).unwrap_or(head.len());
    if line > limit / 2 {
        return Reject::new(
            414,
            "target_too_long",
            format!(
                "target too long: the head with it is over {limit} bytes (limits.max_head_bytes): \
                 a long value can be the request's body instead of value="
            ),
        );
    }
    Reject::new(431, "head_too_large", format!("head too large: over {limit} bytes (limits.max_head_bytes)"))
}

/// The header lines of the head before, with the empty line behind them, and what they say: the next head nearly always has
/// the same ones, whichever connection it comes on, and they are most of its bytes.
#[derive(Debug, Default)]
pub struct KnownLines {
    /// Empty while none are known.
    bytes: Vec<u8>,
    fields: Fields,
    version: Option<Version>,
}

/// Longer lines are read each time.
const MAX_KNOWN_BYTES: usize = 4096;

impl KnownLines {
    /// Whether `rest`, from the beginning of a line on, begins with them.
    fn begin(&self, rest: &[u8]) -> bool {
        !self.bytes.is_empty() && rest.starts_with(&self.bytes)
    }

    /// The first line of a head whose other lines are these.
    pub(super) fn before<'b>(&self, bytes: &'b [u8]) -> Option<Line<'b>> {
        let first = bytes.strip_suffix(self.bytes.as_slice()).filter(|first| first.ends_with(b"\r\n"))?;
        // No room for headers: so it is an error if there is more than the one line.
        let mut parsed = httparse::Request::new(&mut []);
        match parsed.parse(first) {
            Ok(httparse::Status::Partial) => Line::of(&parsed).filter(|line| Some(line.version) == self.version),
            _ => None,
        }
    }

    fn learn(&mut self, lines: &[u8], fields: Fields, version: Version) {
        self.bytes.clear();
        if lines.len() <= MAX_KNOWN_BYTES {
            self.bytes.extend_from_slice(lines);
        }
        (self.fields, self.version) = (fields, Some(version));
    }
}

/// Parses a head that [`Scan`] found: once, without allocation (but for the known lines, where they change).
///
/// # Errors
/// Everything that makes the request unreadable, or readable in two ways.
pub fn parse<'b>(bytes: &'b [u8], limits: &Limits, known: &mut KnownLines) -> Result<Head<'b>, Reject> {
    if !known.bytes.is_empty()
        && let Some(line) = known.before(bytes)
    {
        return line.with(&known.fields, &bytes[bytes.len() - known.bytes.len()..]);
    }
    let mut space = [const { MaybeUninit::<httparse::Header<'b>>::uninit() }; MAX_HEADERS];
    let space = &mut space[..limits.max_headers.min(MAX_HEADERS)];
    let mut parsed = httparse::Request::new(&mut []);
    let whole = match parsed.parse_with_uninit_headers(bytes, space) {
        Ok(httparse::Status::Complete(len)) => len == bytes.len(),
        Ok(httparse::Status::Partial) => false,
        Err(error) => return Err(explain(error, bytes, limits)),
    };
    let (true, Some(line)) = (whole, Line::of(&parsed)) else {
        return Err(bad_head("the head does not end where its empty line is"));
    };
    let lines = &bytes[memchr::memchr(b'\n', bytes).map_or(0, |at| at + 1)..];
    let mut fields = Fields::default();
    for header in parsed.headers.iter() {
        fields.take(lines, header.name, header.value)?;
    }
    fields.check(lines, line.version)?;
    known.learn(lines, fields, line.version);
    line.with(&fields, lines)
}

/// A head's first line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'b> {
    method: &'b str,
    target: &'b str,
    version: Version,
}

impl<'b> Line<'b> {
    fn of(parsed: &httparse::Request<'_, 'b>) -> Option<Line<'b>> {
        let version = if parsed.version? == 0 { Version::Http10 } else { Version::Http11 };
        Some(Line { method: parsed.method?, target: parsed.path?, version })
    }

    /// With what the other lines say, all checked.
    fn with(self, fields: &Fields, lines: &'b [u8]) -> Result<Head<'b>, Reject> {
        let Line { method, target, version } = self;
        let http11 = version == Version::Http11;
        let text = |span: Option<Span>| span.map(|span| span.of(lines));
        let host =
            fields.host.map(|span| Host { text: span.of(lines), name: &span.of(lines)[..fields.host_name_bytes] });
        let (path, query) = split_target(target, method, host)?;
        Ok(Head {
            method,
            path,
            query,
            version,
            keep_alive: !fields.close && (http11 || fields.keep_alive),
            body: fields.body,
            expect_continue: http11 && fields.expect.is_some(),
            host,
            if_match: text(fields.if_match),
            if_none_match: text(fields.if_none_match),
            accepts_json: fields.accepts_json,
            origin: text(fields.origin),
            sec_fetch_site: text(fields.sec_fetch_site),
            is_form: fields.is_form,
            upgrade_peer: http11 && fields.connection_upgrade && fields.upgrade_peer,
        })
    }
}

/// Where a value stands in a head's lines.
#[derive(Debug, Clone, Copy)]
struct Span {
    at: usize,
    end: usize,
}

impl Span {
    /// The place of `value`, which is a part of `lines`.
    fn in_lines(value: &[u8], lines: &[u8]) -> Span {
        let at = value.as_ptr() as usize - lines.as_ptr() as usize;
        Span { at, end: at + value.len() }
    }

    fn of(self, lines: &[u8]) -> &[u8] {
        &lines[self.at..self.end]
    }
}

/// What the header lines that matter say, as they are met; where they stand, so that it holds for the same lines elsewhere.
#[derive(Debug, Clone, Copy, Default)]
struct Fields {
    host: Option<Span>,
    /// Of the host without its port: set by [`Fields::check`].
    host_name_bytes: usize,
    content_length: Option<Span>,
    transfer_encoding: Option<Span>,
    /// Set by [`Fields::check`].
    body: BodyKind,
    expect: Option<Span>,
    if_match: Option<Span>,
    if_none_match: Option<Span>,
    origin: Option<Span>,
    sec_fetch_site: Option<Span>,
    content_type: Option<Span>,
    is_form: bool,
    accepts_json: bool,
    close: bool,
    keep_alive: bool,
    connection_upgrade: bool,
    upgrade_peer: bool,
}

impl Fields {
    fn take(&mut self, lines: &[u8], name: &str, value: &[u8]) -> Result<(), Reject> {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        let slot = match name.len() {
            4 if is("host") => &mut self.host,
            6 if is("accept") => {
                self.accepts_json |= items(value).any(|i| media_type(i, b"application/json"));
                return Ok(());
            }
            6 if is("expect") => &mut self.expect,
            6 if is("origin") => &mut self.origin,
            7 if is("upgrade") => {
                self.upgrade_peer |= items(value).any(|i| i.eq_ignore_ascii_case(super::UPGRADE_PEER.as_bytes()));
                return Ok(());
            }
            8 if is("if-match") => &mut self.if_match,
            10 if is("connection") => {
                for item in items(value) {
                    self.close |= item.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= item.eq_ignore_ascii_case(b"keep-alive");
                    self.connection_upgrade |= item.eq_ignore_ascii_case(b"upgrade");
                }
                return Ok(());
            }
            12 if is("content-type") => {
                self.is_form = media_type(value, b"application/x-www-form-urlencoded");
                &mut self.content_type
            }
            13 if is("if-none-match") => &mut self.if_none_match,
            14 if is("content-length") => &mut self.content_length,
            14 if is("sec-fetch-site") => &mut self.sec_fetch_site,
            17 if is("transfer-encoding") => &mut self.transfer_encoding,
            _ => return Ok(()),
        };
        match slot.replace(Span::in_lines(value, lines)) {
            Some(_) => Err(Reject::new(400, "repeated_header", format!("the header {name} is there twice"))),
            None => Ok(()),
        }
    }

    /// When all were met.
    fn check(&mut self, lines: &[u8], version: Version) -> Result<(), Reject> {
        match self.host {
            Some(host) => self.host_name_bytes = check_host(host.of(lines))?.name.len(),
            None if version == Version::Http10 => {}
            None => return Err(Reject::new(400, "bad_host", "no Host header: HTTP/1.1 requires one")),
        }
        let text = |span: Option<Span>| span.map(|span| span.of(lines));
        self.body = body_kind(text(self.content_length), text(self.transfer_encoding), version)?;
        match text(self.expect) {
            Some(expect) if !expect.eq_ignore_ascii_case(b"100-continue") => {
                Err(Reject::new(417, "expectation_failed", "Expect: only 100-continue is understood"))
            }
            _ => Ok(()),
        }
    }
}

/// The items of a comma-separated header value.
fn items(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(<[u8]>::trim_ascii)
}

/// Whether `value` is this media type, parameters aside.
fn media_type(value: &[u8], wanted: &[u8]) -> bool {
    value.split(|&b| b == b';').next().is_some_and(|t| t.trim_ascii().eq_ignore_ascii_case(wanted))
}

fn body_kind(length: Option<&[u8]>, coding: Option<&[u8]>, version: Version) -> Result<BodyKind, Reject> {
    let bad = |message| Err(Reject::new(400, "bad_framing", message));
    match (length, coding) {
        (None, None) => Ok(BodyKind::None),
        (Some(_), Some(_)) => bad("Content-Length and Transfer-Encoding together: send one of them"),
        (Some(digits), None) => match parse_length(digits) {
            Some(length) => Ok(BodyKind::Length(length)),
            None => bad("Content-Length is not a plain decimal number"),
        },
        (None, Some(_)) if version == Version::Http10 => bad("Transfer-Encoding in HTTP/1.0: send Content-Length"),
        (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") => Ok(BodyKind::Chunked),
        (None, Some(_)) => Err(Reject::new(
            501,
            "transfer_encoding_unsupported",
            "Transfer-Encoding: only chunked is understood, alone and once",
        )),
    }
}

/// Digits only: `str::parse` would take a sign. `None` also where it does not fit.
fn parse_length(digits: &[u8]) -> Option<u64> {
    let value = digits.iter().try_fold(0u64, |sum, b| {
        let digit = b.is_ascii_digit().then(|| u64::from(b - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })?;
    (!digits.is_empty()).then_some(value)
}

/// Path and query. The absolute form is taken where it names the same host as `Host` does; asterisk form only with
/// OPTIONS.
fn split_target<'b>(target: &'b str, method: &str, host: Option<Host<'_>>) -> Result<(&'b str, &'b str), Reject> {
    let bad = |message| Err(Reject::new(400, "bad_target", message));
    if memchr::memchr(b'#', target.as_bytes()).is_some() {
        return bad("the target has a raw #: write it %23");
    }
    let origin_form = if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        target
    } else if let Some(rest) = strip_scheme(target) {
        let (authority, origin_form) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if !host.is_some_and(|h| h.text.eq_ignore_ascii_case(authority.as_bytes())) {
            return bad("the target's host is not the one in Host");
        }
        origin_form
    } else {
        return bad("the target must begin with /");
    };
    let (path, query) = match memchr::memchr(b'?', origin_form.as_bytes()) {
        Some(mark) => (&origin_form[..mark], &origin_form[mark + 1..]),
        None => (origin_form, ""),
    };
    Ok((if path.is_empty() { "/" } else { path }, query))
}

fn strip_scheme(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_at_checked("http://".len())?;
    scheme.eq_ignore_ascii_case("http://").then_some(rest)
}

fn check_host(value: &[u8]) -> Result<Host<'_>, Reject> {
    Host::parse(value).ok_or_else(|| {
        Reject::new(400, "bad_host", "the Host header is not HOST or HOST:PORT (one host, no user, no path)")
    })
}

/// A `Host` value, all ASCII.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host<'b> {
    /// As it came: the name, and the port if it has one.
    pub text: &'b [u8],
    /// An IPv6 literal keeps its brackets.
    pub name: &'b [u8],
}

impl<'b> Host<'b> {
    /// Its text, for people.
    #[must_use]
    pub fn shown(self) -> &'b str {
        std::str::from_utf8(self.text).unwrap_or_default()
    }

    /// `None` where it is not HOST or HOST:PORT.
    #[must_use]
    pub fn parse(value: &'b [u8]) -> Option<Host<'b>> {
        let (name_end, is_name) = match value {
            [b'[', rest @ ..] => {
                let end = rest.iter().position(|b| *b == b']')?;
                (end + 2, rest[..end].iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.')))
            }
            _ => {
                let is_of_name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
                let end = value.iter().position(|b| !is_of_name(b)).unwrap_or(value.len());
                (end, end > 0)
            }
        };
        let is_port = match &value[name_end..] {
            [] => true,
            [b':', digits @ ..] => parse_length(digits).is_some_and(|port| port <= u64::from(u16::MAX)),
            _ => false,
        };
        (is_name && is_port).then(|| Host { text: value, name: &value[..name_end] })
    }
}

/// RFC 9110's tchar.
#[must_use]
pub fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// Says what httparse found wrong. Not on the path of good requests.
fn explain(error: httparse::Error, bytes: &[u8], limits: &Limits) -> Reject {
    let line = bytes.split(|&b| b == b'\r' || b == b'\n').next().unwrap_or_default();
    let last = line.rsplit(|&b| b == b' ').next().unwrap_or_default();
    match error {
        httparse::Error::TooManyHeaders => Reject::new(
            431,
            "too_many_headers",
            format!("too many headers: the limit is {}", limits.max_headers.min(MAX_HEADERS)),
        ),
        httparse::Error::Version if is_version(last) && line.split(|&b| b == b' ').count() == 3 => {
            Reject::new(505, "version_unsupported", "HTTP version not supported: use HTTP/1.1 or HTTP/1.0")
        }
        httparse::Error::Token | httparse::Error::Version if std::str::from_utf8(line).is_err() => Reject::new(
            400,
            "bad_target",
            "the target has raw bytes that are not UTF-8: percent-encode binary keys and values",
        ),
        httparse::Error::Token | httparse::Error::Version => Reject::new(
            400,
            "bad_request_line",
            "the request line is not `METHOD /path?query HTTP/1.1`: \
             a space in the target is written %20 or +, other special bytes %XX",
        ),
        _ => bad_head(
            "a header line is malformed: NAME: VALUE, nothing before the name or between name and colon, \
             no control bytes, no folding, lines end with CR LF",
        ),
    }
}

fn is_version(word: &[u8]) -> bool {
    matches!(word, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit())
}

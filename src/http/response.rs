//! Owns: the bytes of a response's head (RFC 9112), appended to the connection's output without allocation.
//! Never: why a response has its status, or what its body says.

/// A date as it stands in a Date header (IMF-fixdate), e.g. `Sun, 06 Nov 1994 08:49:37 GMT`.
pub type DateText = [u8; 29];

/// Tells a client that waits with its body to send it.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What becomes of the connection behind a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// HTTP/1.1: stays open, which goes without saying.
    KeepAlive,
    /// HTTP/1.0: stays open, which must be said.
    KeepAliveHttp10,
    /// Is closed.
    Close,
}

/// Content-Type values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentType {
    /// A value.
    Bytes,
    /// A text for people.
    Text,
    /// JSON.
    Json,
    /// Prometheus' text format.
    Prometheus,
}

impl ContentType {
    /// Its header line, and the beginning of the next.
    fn line(self) -> &'static str {
        match self {
            ContentType::Bytes => "\r\nContent-Type: application/octet-stream\r\nContent-Length: ",
            ContentType::Text => "\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: ",
            ContentType::Json => "\r\nContent-Type: application/json\r\nContent-Length: ",
            ContentType::Prometheus => "\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: ",
        }
    }
}

/// The head of a response. `new` gives the plain one.
#[derive(Debug, Clone, Copy)]
pub struct ResponseHead {
    /// The status.
    pub status: u16,
    /// What becomes of the connection.
    pub persistence: Persistence,
    /// Type and length in bytes of the body, as GET would have it; `None` for 304, which has neither.
    pub content: Option<(ContentType, usize)>,
    /// ETag.
    pub etag: Option<u64>,
    /// Allow.
    pub allow: Option<&'static str>,
    /// Retry-After in seconds.
    pub retry_after_s: Option<u32>,
    /// `Consistency: stale`, and for how many milliseconds the copy may lack what others have.
    pub behind_ms: Option<u64>,
}

impl ResponseHead {
    /// A head with a body of this type and length in bytes, and nothing else.
    #[must_use]
    pub fn new(status: u16, persistence: Persistence, content_type: ContentType, length: usize) -> ResponseHead {
        ResponseHead {
            status,
            persistence,
            content: Some((content_type, length)),
            etag: None,
            allow: None,
            retry_after_s: None,
            behind_ms: None,
        }
    }

    /// Appends the head with its empty line.
    pub fn write(&self, out: &mut Vec<u8>, date: &DateText) {
        let mut number = itoa::Buffer::new();
        out.reserve(320);
        if self.status == 200 {
            out.extend_from_slice(b"HTTP/1.1 200 OK\r\nDate: ");
        } else {
            out.extend_from_slice(b"HTTP/1.1 ");
            out.extend_from_slice(number.format(self.status).as_bytes());
            out.push(b' ');
            out.extend_from_slice(reason(self.status).as_bytes());
            out.extend_from_slice(b"\r\nDate: ");
        }
        out.extend_from_slice(date);
        if let Some((content_type, length)) = self.content {
            out.extend_from_slice(content_type.line().as_bytes());
            out.extend_from_slice(number.format(length).as_bytes());
        }
        if let Some(etag) = self.etag {
            out.extend_from_slice(b"\r\nETag: \"");
            out.extend_from_slice(number.format(etag).as_bytes());
            out.push(b'"');
        }
        if let Some(allow) = self.allow {
            out.extend_from_slice(b"\r\nAllow: ");
            out.extend_from_slice(allow.as_bytes());
        }
        if let Some(seconds) = self.retry_after_s {
            out.extend_from_slice(b"\r\nRetry-After: ");
            out.extend_from_slice(number.format(seconds).as_bytes());
        }
        if let Some(behind_ms) = self.behind_ms {
            out.extend_from_slice(b"\r\nConsistency: stale\r\nBehind-Ms: ");
            out.extend_from_slice(number.format(behind_ms).as_bytes());
        }
        match self.persistence {
            Persistence::KeepAlive => {}
            Persistence::KeepAliveHttp10 => out.extend_from_slice(b"\r\nConnection: keep-alive"),
            Persistence::Close => out.extend_from_slice(b"\r\nConnection: close"),
        }
        out.extend_from_slice(b"\r\nX-Content-Type-Options: nosniff\r\n\r\n");
    }
}

/// Appends the answer that turns the connection into a link between nodes.
pub fn write_switching_protocols(out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ");
    out.extend_from_slice(super::UPGRADE_PEER.as_bytes());
    out.extend_from_slice(b"\r\n\r\n");
}

/// The reason phrase of a status that this server sends.
#[must_use]
pub fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        304 => "Not Modified",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "",
    }
}

/// The Date header's text, made anew when the second changes.
#[derive(Debug, Clone)]
pub struct DateCache {
    unix_s: u64,
    text: DateText,
}

impl DateCache {
    /// For this moment, in seconds since 1970.
    #[must_use]
    pub fn new(unix_s: u64) -> DateCache {
        DateCache { unix_s, text: format_date(unix_s) }
    }

    /// The text for this moment, in seconds since 1970.
    pub fn at(&mut self, unix_s: u64) -> &DateText {
        if unix_s != self.unix_s {
            *self = DateCache::new(unix_s);
        }
        &self.text
    }
}

/// IMF-fixdate of a moment in seconds since 1970. Years beyond 9999 stay at 9999.
#[must_use]
pub fn format_date(unix_s: u64) -> DateText {
    const DAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
    const MONTHS: [&[u8; 3]; 12] =
        [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    const LAST_SECOND: u64 = 253_402_300_799;
    let unix_s = unix_s.min(LAST_SECOND);
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    let (year, month, day) = civil(days);
    let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    text[..3].copy_from_slice(DAYS[(days % 7) as usize]);
    two_digits(&mut text[5..7], day);
    text[8..11].copy_from_slice(MONTHS[month as usize]);
    two_digits(&mut text[12..14], year / 100);
    two_digits(&mut text[14..16], year % 100);
    two_digits(&mut text[17..19], second / 3600);
    two_digits(&mut text[20..22], second / 60 % 60);
    two_digits(&mut text[23..25], second % 60);
    text
}

fn two_digits(at: &mut [u8], number: u64) {
    at.copy_from_slice(&[b'0' + (number / 10) as u8, b'0' + (number % 10) as u8]);
}

/// Year, month (from 0) and day (from 1) of a day counted from 1970-01-01.
fn civil(mut days: u64) -> (u64, u64, u64) {
    const DAYS_IN_400_YEARS: u64 = 146_097;
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970 + 400 * (days / DAYS_IN_400_YEARS);
    days %= DAYS_IN_400_YEARS;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_as_in_the_rfc() {
        for (unix_s, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_709_251_199, "Thu, 29 Feb 2024 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
            (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (u64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(std::str::from_utf8(&format_date(unix_s)).unwrap(), text);
        }
    }

    #[test]
    fn the_cache_follows_the_second() {
        let mut cache = DateCache::new(0);
        assert_eq!(cache.at(784_111_777), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(cache.at(784_111_778), b"Sun, 06 Nov 1994 08:49:38 GMT");
    }

    #[test]
    fn a_head_says_what_it_was_given_and_no_more() {
        let date = format_date(0);
        let mut out = Vec::new();
        ResponseHead::new(200, Persistence::KeepAlive, ContentType::Bytes, 5).write(&mut out, &date);
        assert_eq!(
            std::str::from_utf8(&out).unwrap(),
            "HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Type: application/octet-stream\r\n\
             Content-Length: 5\r\nX-Content-Type-Options: nosniff\r\n\r\n"
        );
        out.clear();
        let all = ResponseHead {
            status: 503,
            persistence: Persistence::Close,
            content: None,
            etag: Some(u64::MAX),
            allow: Some("GET, HEAD"),
            retry_after_s: Some(1),
            behind_ms: Some(12),
        };
        all.write(&mut out, &date);
        assert_eq!(
            std::str::from_utf8(&out).unwrap(),
            "HTTP/1.1 503 Service Unavailable\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
             ETag: \"18446744073709551615\"\r\nAllow: GET, HEAD\r\nRetry-After: 1\r\nConsistency: stale\r\nBehind-Ms: 12\r\n\
             Connection: close\r\nX-Content-Type-Options: nosniff\r\n\r\n"
        );
    }
}

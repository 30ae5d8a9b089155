//! Owns: the contract's calls as pure functions: a request in, a [`Call`] or a refusal that teaches out.
//! Never: sockets, state, or how an answer is written.

use super::browser::AllowedHosts;
use super::error::{ApiError, shown};
use crate::http::etag::{self, BadTag, Tag};
use crate::http::head::Host;
use crate::http::query::{self, BadPercent, Encoded, Pair};
use crate::http::{BodyKind, Head, Limits, Reject, Request};
use crate::id::Lsn;
use crate::op::{Condition, Op, Verb};

/// The path of the request that turns a connection into a link between nodes (with `Upgrade: dkv-peer`).
pub const PEER_PATH: &str = "/peer";

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call<'a> {
    /// One of the four calls.
    Data(Op<'a>),
    /// `GET /where`
    Where {
        /// The decoded key.
        key: &'a [u8],
    },
    /// `GET /cluster`
    Cluster,
    /// `GET /livez`
    Livez,
    /// `GET /readyz`
    Readyz {
        /// `?verbose`
        verbose: bool,
    },
    /// `GET /metrics`
    Metrics,
    /// `GET /`
    Guide,
    /// `POST /handover`
    Handover {
        /// The shard's `idx`.
        shard: u32,
        /// The address of the copy that shall lead, as it was given.
        to: &'a str,
    },
    /// `POST /takeover`
    Takeover {
        /// The shard's `idx`.
        shard: u32,
    },
    /// Another node wants a link.
    Peer,
}

/// Memory for decoded parameters, used again for every request.
#[derive(Debug, Default)]
pub struct Scratch {
    key: Vec<u8>,
    value: Vec<u8>,
}

/// What a path stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data(Verb),
    Where,
    Cluster,
    Livez,
    Readyz,
    Metrics,
    Guide,
    Handover,
    Takeover,
    Peer,
}

struct Route {
    path: &'static str,
    kind: Kind,
    allow: &'static str,
    /// The curl command up to the URL's host.
    curl: &'static str,
    /// The query of the curl line.
    example: &'static str,
    /// For messages.
    params: &'static str,
}

const GET: &str = "GET, HEAD";

const fn plain(path: &'static str, kind: Kind) -> Route {
    Route { path, kind, allow: GET, curl: "curl", example: "", params: "no parameters" }
}

const ROUTES: [Route; 13] = [
    Route {
        path: "/get",
        kind: Kind::Data(Verb::Get),
        allow: GET,
        curl: "curl",
        example: "?key=K",
        params: "key and consistency",
    },
    Route {
        path: "/set",
        kind: Kind::Data(Verb::Set),
        allow: "PUT",
        curl: "curl -X PUT",
        example: "?key=K&value=V",
        params: "key and value",
    },
    Route {
        path: "/update",
        kind: Kind::Data(Verb::Update),
        allow: "POST",
        curl: "curl -X POST",
        example: "?key=K&value=V",
        params: "key and value",
    },
    Route {
        path: "/delete",
        kind: Kind::Data(Verb::Delete),
        allow: "DELETE",
        curl: "curl -X DELETE",
        example: "?key=K",
        params: "key",
    },
    Route { path: "/where", kind: Kind::Where, allow: GET, curl: "curl", example: "?key=K", params: "key" },
    plain("/cluster", Kind::Cluster),
    plain("/livez", Kind::Livez),
    Route { path: "/readyz", kind: Kind::Readyz, allow: GET, curl: "curl", example: "", params: "verbose" },
    plain("/metrics", Kind::Metrics),
    Route {
        path: "/handover",
        kind: Kind::Handover,
        allow: "POST",
        curl: "curl -X POST",
        example: "?shard=0&to=IP%3APORT",
        params: "shard and to",
    },
    Route {
        path: "/takeover",
        kind: Kind::Takeover,
        allow: "POST",
        curl: "curl -X POST",
        example: "?shard=0&accept_data_loss=true",
        params: "shard and accept_data_loss",
    },
    plain("/", Kind::Guide),
    plain(PEER_PATH, Kind::Peer),
];

/// Whether the request may go on, decided from its head alone: before the body is read or `100 Continue` is sent.
///
/// # Errors
/// The refusal. The body was not read: the connection must be closed behind the answer.
pub fn admit(head: &Head<'_>, limits: &Limits, hosts: &AllowedHosts) -> Result<(), ApiError> {
    plan(head, limits, hosts)?.check_body(head.body, limits)
}

/// What a whole request asks for, borrowing from it and from `scratch`. Everything that [`admit`] checks is checked
/// here, too.
///
/// # Errors
/// The refusal. The request was read to its end: the connection can go on.
pub fn call<'a>(
    request: &Request<'a>,
    limits: &Limits,
    hosts: &AllowedHosts,
    scratch: &'a mut Scratch,
) -> Result<Call<'a>, ApiError> {
    let mut plan = plan(&request.head, limits, hosts)?;
    let length = BodyKind::Length(request.body.len() as u64);
    plan.check_body(if request.body_present { length } else { BodyKind::None }, limits)?;
    Ok(match plan.route.kind {
        Kind::Data(verb) => {
            let raw_body = plan.take_body(request, limits)?;
            let key = plan.key(limits)?.decode(&mut scratch.key);
            let value = match (plan.params.value, raw_body) {
                (Some(value), _) => value.decode(&mut scratch.value),
                (None, body) => body.unwrap_or_default(),
            };
            if value.len() > limits.max_value_bytes {
                return Err(Reject::value_too_large(value.len() as u64, limits).into());
            }
            Call::Data(Op { verb, key, value, condition: plan.condition, stale: plan.params.stale })
        }
        Kind::Where => Call::Where { key: plan.key(limits)?.decode(&mut scratch.key) },
        Kind::Cluster => Call::Cluster,
        Kind::Livez => Call::Livez,
        Kind::Readyz => Call::Readyz { verbose: plan.params.verbose },
        Kind::Metrics => Call::Metrics,
        Kind::Guide => Call::Guide,
        Kind::Handover => {
            let to = plan.params.to.ok_or_else(|| missing("to", "the address of the copy that shall lead"))?;
            let to = std::str::from_utf8(to.decode(&mut scratch.value)).unwrap_or_default();
            Call::Handover { shard: plan.shard(&mut scratch.key)?, to }
        }
        Kind::Takeover if plan.params.accepts_data_loss => Call::Takeover { shard: plan.shard(&mut scratch.key)? },
        Kind::Takeover => {
            return Err(missing("accept_data_loss=true", "answered writes that this copy lacks are lost for good"));
        }
        Kind::Peer => Call::Peer,
    })
}

/// What a head asks for.
struct Plan<'a> {
    route: &'static Route,
    params: Params<'a>,
    condition: Condition,
    is_form: bool,
}

fn plan<'a>(head: &Head<'a>, limits: &Limits, hosts: &AllowedHosts) -> Result<Plan<'a>, ApiError> {
    hosts.admit(head)?;
    let route = route(head)?;
    let mut params = Params::default();
    params.read(head.query.as_bytes(), route, "query")?;
    let condition = match route.kind {
        Kind::Data(_) => condition(head)?,
        _ => Condition::None,
    };
    let plan = Plan { route, params, condition, is_form: head.is_form };
    if let Some(key) = plan.params.key {
        check_key(key, limits)?;
    }
    if let Some(value) = plan.params.value
        && value.decoded_len() > limits.max_value_bytes
    {
        return Err(Reject::value_too_large(value.decoded_len() as u64, limits).into());
    }
    Ok(plan)
}

fn route(head: &Head<'_>) -> Result<&'static Route, ApiError> {
    let method = head.method;
    if !matches!(method, "GET" | "HEAD" | "PUT" | "POST" | "DELETE") {
        let method = shown(method.as_bytes());
        return Err(ApiError::new(
            501,
            "method_not_implemented",
            format!("method {method} is not implemented: GET, HEAD, PUT, POST and DELETE are"),
        ));
    }
    let known = ROUTES.iter().find(|r| r.path == head.path && (r.kind != Kind::Peer || head.upgrade_peer));
    let Some(route) = known else {
        return Err(ApiError::new(
            404,
            "no_such_path",
            "no such path; there are: PUT /set?key=K&value=V, GET /get?key=K, POST /update?key=K&value=V, \
             DELETE /delete?key=K, GET /where?key=K, /cluster, /livez, /readyz, /metrics, / (the guide)",
        ));
    };
    if route.allow == method || (route.allow == GET && matches!(method, "GET" | "HEAD")) {
        return Ok(route);
    }
    let Route { path, allow, curl, example, .. } = *route;
    let host = head.host.map_or("localhost:8080", Host::shown);
    Err(ApiError {
        allow: Some(allow),
        ..ApiError::new(
            405,
            "method_not_allowed",
            format!("{path} takes {allow}, not {method}: {curl} 'http://{host}{path}{example}'"),
        )
    })
}

fn check_key(key: Encoded<'_>, limits: &Limits) -> Result<(), ApiError> {
    let (len, limit) = (key.decoded_len(), limits.max_key_bytes);
    if len == 0 {
        return Err(ApiError::new(400, "empty_key", "key= is empty: a key has at least one byte"));
    }
    if len > limit {
        let message = format!("key too long: {len} bytes, the limit is {limit} (limits.max_key_bytes)");
        return Err(ApiError::new(414, "key_too_long", message));
    }
    Ok(())
}

/// The parameters of a query, and of a form behind it.
#[derive(Debug, Clone, Copy, Default)]
struct Params<'a> {
    key: Option<Encoded<'a>>,
    value: Option<Encoded<'a>>,
    consistency: bool,
    stale: bool,
    verbose: bool,
    shard: Option<Encoded<'a>>,
    to: Option<Encoded<'a>>,
    accepts_data_loss: bool,
}

impl<'a> Params<'a> {
    /// Reads the parameters that `route` has. `place` is "query" or "form".
    fn read(&mut self, text: &'a [u8], route: &Route, place: &str) -> Result<(), ApiError> {
        for pair in query::pairs(text) {
            match (pair.name, route.kind) {
                (b"key", Kind::Data(_) | Kind::Where) => set(&mut self.key, pair, place)?,
                (b"value", Kind::Data(Verb::Set | Verb::Update)) => set(&mut self.value, pair, place)?,
                (b"consistency", Kind::Data(Verb::Get)) => self.read_consistency(pair)?,
                (b"verbose", Kind::Readyz) if matches!(pair.value, None | Some(b"" | b"1" | b"true")) => {
                    self.verbose = true;
                }
                (b"shard", Kind::Handover | Kind::Takeover) => set(&mut self.shard, pair, place)?,
                (b"to", Kind::Handover) => set(&mut self.to, pair, place)?,
                (b"accept_data_loss", Kind::Takeover) if pair.value == Some(b"true") => self.accepts_data_loss = true,
                _ => return Err(unknown(pair, route, place)),
            }
        }
        Ok(())
    }

    fn read_consistency(&mut self, pair: Pair<'_>) -> Result<(), ApiError> {
        if self.consistency {
            return Err(repeated("consistency", pair.at, "query"));
        }
        if pair.value != Some(b"stale") {
            let word = shown(pair.value.unwrap_or_default());
            return Err(ApiError::new(
                400,
                "bad_consistency",
                format!("consistency={word} at byte {} of the query: the only word is stale", pair.at),
            ));
        }
        (self.consistency, self.stale) = (true, true);
        Ok(())
    }
}

fn set<'a>(slot: &mut Option<Encoded<'a>>, pair: Pair<'a>, place: &str) -> Result<(), ApiError> {
    if slot.is_some() {
        return Err(repeated(&shown(pair.name), pair.at, place));
    }
    let Some(raw) = pair.value else {
        let (name, at) = (shown(pair.name), pair.at);
        return Err(ApiError::new(
            400,
            "bad_parameter",
            format!("{name} without = at byte {at} of the {place}: {name}=... ({name}= is empty)"),
        ));
    };
    *slot = Some(Encoded::new(raw).map_err(|BadPercent(at)| bad_percent(place, pair, at, &raw[at..]))?);
    Ok(())
}

fn repeated(name: &str, at: usize, place: &str) -> ApiError {
    let message = format!("{name} is given twice, again at byte {at} of the {place}: an & inside a value is %26");
    ApiError::new(400, "repeated_parameter", message)
}

fn bad_percent(place: &str, pair: Pair<'_>, offset: usize, found: &[u8]) -> ApiError {
    let (name, at) = (shown(pair.name), pair.value_at() + offset);
    let found = shown(&found[..found.len().min(3)]);
    ApiError::new(
        400,
        "bad_percent",
        format!("bad percent-encoding in {name} at byte {at} of the {place}: {found} (a % itself is %25)"),
    )
}

fn missing(name: &str, what: &str) -> ApiError {
    ApiError::new(400, "missing_parameter", format!("{name} is missing: {what}"))
}

fn unknown(pair: Pair<'_>, route: &Route, place: &str) -> ApiError {
    let (path, params, at, name) = (route.path, route.params, pair.at, shown(pair.name));
    ApiError::new(
        400,
        "unknown_parameter",
        format!(
            "unknown parameter '{name}' at byte {at} of the {place}: {path} takes {params}; an & inside a value is %26"
        ),
    )
}

impl<'a> Plan<'a> {
    fn shard(&self, scratch: &mut Vec<u8>) -> Result<u32, ApiError> {
        let given = self.params.shard.ok_or_else(|| missing("shard", "the idx of the shard"))?;
        let digits = std::str::from_utf8(given.decode(scratch)).unwrap_or_default();
        let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse().ok().filter(|_| is_number).ok_or_else(|| {
            ApiError::new(400, "bad_shard", format!("shard={}: it takes the idx of a shard", shown(digits.as_bytes())))
        })
    }

    fn key(&self, limits: &Limits) -> Result<Encoded<'a>, ApiError> {
        let Some(key) = self.params.key else {
            let Route { path, example, .. } = self.route;
            return Err(ApiError::new(400, "missing_key", format!("no key: {path}{example}")));
        };
        check_key(key, limits)?;
        Ok(key)
    }

    /// Whether the body is one that this call can take, as far as its length tells.
    fn check_body(&self, body: BodyKind, limits: &Limits) -> Result<(), ApiError> {
        let path = self.route.path;
        let Kind::Data(Verb::Set | Verb::Update) = self.route.kind else {
            if matches!(self.route.kind, Kind::Data(_) | Kind::Where) {
                self.key(limits)?;
            }
            return match body {
                BodyKind::Length(1..) => {
                    Err(ApiError::new(400, "unexpected_body", format!("{path} takes no body: send it without one")))
                }
                _ => Ok(()),
            };
        };
        if self.params.key.is_none() && !(self.is_form && body != BodyKind::None) {
            self.key(limits)?;
        }
        match body {
            BodyKind::None if self.params.value.is_none() => Err(ApiError::new(
                400,
                "missing_value",
                "no value: add &value=V or send a body. \
                 If you did write &value=, quote the URL: the shell ends a command at an unquoted &",
            )),
            // The body is the key's form: how long its value is, is known when it is there.
            _ if self.params.key.is_none() => Ok(()),
            BodyKind::Length(1..) if self.params.value.is_some() => Err(ApiError::new(
                400,
                "value_twice",
                "the value is in the query and in the body: send it in one of them",
            )),
            BodyKind::Length(len) if len > limits.max_value_bytes as u64 => {
                Err(Reject::value_too_large(len, limits).into())
            }
            _ => Ok(()),
        }
    }

    /// The body as the value, or its form read into the parameters.
    fn take_body(&mut self, request: &Request<'a>, limits: &Limits) -> Result<Option<&'a [u8]>, ApiError> {
        if self.params.key.is_some() || !request.body_present {
            return Ok(request.body_present.then_some(request.body));
        }
        self.params.read(request.body, self.route, "form")?;
        self.key(limits)?;
        if self.params.value.is_none() {
            return Err(ApiError::new(400, "missing_value", "no value: the form has a key but no value=V"));
        }
        Ok(None)
    }
}

fn condition(head: &Head<'_>) -> Result<Condition, ApiError> {
    let (name, value) = match (head.if_match, head.if_none_match) {
        (None, None) => return Ok(Condition::None),
        (Some(value), None) => ("If-Match", value),
        (None, Some(value)) => ("If-None-Match", value),
        (Some(_), Some(_)) => {
            return Err(ApiError::new(400, "bad_condition", "If-Match and If-None-Match together: send one of them"));
        }
    };
    let tag = etag::parse(value).map_err(|bad| {
        let shown = shown(value);
        let what = match bad {
            BadTag::List => "has several tags: send one",
            BadTag::Malformed => "is no tag: it is * or the ETag as it came, in double quotes",
        };
        ApiError::new(400, "bad_condition", format!("{name}: {shown} {what} (curl -H '{name}: \"123\"')"))
    })?;
    // RFC 9110, section 13.1: If-Match compares strongly, so that a weak tag never matches; If-None-Match weakly.
    Ok(match (head.if_match.is_some(), tag) {
        (true, Tag::Any) => Condition::Exists,
        (true, Tag::Number { number, weak: false }) => Condition::Is(Lsn(number)),
        (true, Tag::Number { weak: true, .. } | Tag::Foreign) => Condition::Never,
        (false, Tag::Any) => Condition::Absent,
        (false, Tag::Number { number, .. }) => Condition::IsNot(Lsn(number)),
        (false, Tag::Foreign) => Condition::None,
    })
}

#[cfg(test)]
#[path = "api_tests.rs"]
mod tests;

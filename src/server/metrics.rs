//! Owns: what this node counts of itself, and its text for Prometheus (text format 0.0.4). Plain numbers and fixed
//! buckets: the loop is the only one that counts.
//! Never: keys, values; anything that changes what the node does.

use std::fmt::{Display, Write as _};

/// Which call a request was, as far as it could be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // The names of the calls are their documentation.
pub enum CallKind {
    Get,
    Set,
    Update,
    Delete,
    Where,
    Cluster,
    Livez,
    Readyz,
    Metrics,
    Guide,
    Handover,
    Takeover,
    /// Refused before it was known, or unknown.
    Other,
}

impl CallKind {
    const NAMES: [&str; 13] = [
        "get", "set", "update", "delete", "where", "cluster", "livez", "readyz", "metrics", "guide", "handover",
        "takeover", "other",
    ];
}

/// The statuses that are counted by themselves; any other is counted as the last.
const STATUSES: [u16; 23] =
    [200, 201, 304, 400, 403, 404, 405, 408, 412, 413, 414, 417, 421, 431, 500, 501, 502, 503, 504, 505, 507, 508, 0];

/// Upper bounds of the buckets, in microseconds.
const BOUNDS_US: [u64; 16] = [
    25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 2_500_000,
    10_000_000,
];

/// Durations in fixed buckets.
#[derive(Debug, Clone, Copy, Default)]
pub struct Histogram {
    buckets: [u64; BOUNDS_US.len() + 1],
    sum_ns: u64,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe_ns(&mut self, ns: u64) {
        let at = BOUNDS_US.iter().position(|bound| ns <= bound * 1_000).unwrap_or(BOUNDS_US.len());
        self.buckets[at] += 1;
        self.sum_ns += ns;
    }

    fn write(&self, out: &mut String, name: &str, labels: &str) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut total = 0;
        for (at, count) in self.buckets.iter().enumerate() {
            total += count;
            let bound = BOUNDS_US.get(at).map_or("+Inf".to_owned(), |us| format!("{}", *us as f64 / 1e6));
            let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {total}");
        }
        let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(out, "{name}_sum{braces} {}", self.sum_ns as f64 / 1e9);
        let _ = writeln!(out, "{name}_count{braces} {total}");
    }
}

/// The phases of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // The names of the phases are their documentation; `Server::turn` shows them.
pub enum TurnPhase {
    Wait,
    Read,
    Timers,
    Store,
    Send,
    Background,
}

impl TurnPhase {
    /// In order.
    pub const NAMES: [&str; 6] = ["wait", "read", "timers", "store", "send", "background"];
}

/// What the server counts.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: [[u64; STATUSES.len()]; CallKind::NAMES.len()],
    latency: [Histogram; CallKind::NAMES.len()],
    /// How long fdatasync took, as the loop saw it.
    pub fsync: Histogram,
    turn_ns: [u64; TurnPhase::NAMES.len()],
    /// Turns of the loop.
    pub turns: u64,
    /// Connections accepted since the start.
    pub accepted: u64,
    /// Connections that were closed at a deadline.
    pub timeouts: u64,
    /// Links that were refused, by either side.
    pub refused_links: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: [[0; STATUSES.len()]; CallKind::NAMES.len()],
            latency: [Histogram::default(); CallKind::NAMES.len()],
            fsync: Histogram::default(),
            turn_ns: [0; TurnPhase::NAMES.len()],
            turns: 0,
            accepted: 0,
            timeouts: 0,
            refused_links: 0,
        }
    }
}

impl Metrics {
    /// Counts an answer.
    pub fn answered(&mut self, call: CallKind, status: u16, took_ns: u64) {
        let at = STATUSES.iter().position(|s| *s == status).unwrap_or(STATUSES.len() - 1);
        self.requests[call as usize][at] += 1;
        self.latency[call as usize].observe_ns(took_ns);
    }

    /// Counts time of a turn.
    pub fn spent(&mut self, phase: TurnPhase, ns: u64) {
        self.turn_ns[phase as usize] += ns;
    }
}

/// A number that is read when it is asked for, not counted: name, type, help, value.
pub struct Gauge {
    /// The metric's name.
    pub name: &'static str,
    /// `gauge` or `counter`.
    pub kind: &'static str,
    /// One line for people.
    pub help: &'static str,
    /// Labels, ready-made: `a="b"`; may be empty.
    pub labels: String,
    /// The value.
    pub value: f64,
}

impl Gauge {
    /// A gauge without labels.
    #[must_use]
    pub fn new(name: &'static str, help: &'static str, value: f64) -> Self {
        Self { name, kind: "gauge", help, labels: String::new(), value }
    }

    /// A counter without labels.
    #[must_use]
    pub fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { kind: "counter", ..Self::new(name, help, value as f64) }
    }
}

/// The text for Prometheus.
#[must_use]
pub fn text(metrics: &Metrics, gauges: &[Gauge]) -> String {
    let mut out = String::with_capacity(16 * 1024);
    head(&mut out, "dkv_http_requests_total", "counter", "Requests by call and status.");
    for (call, counts) in CallKind::NAMES.iter().zip(&metrics.requests) {
        for (status, count) in STATUSES.iter().zip(counts).filter(|(_, count)| **count > 0) {
            let _ = writeln!(out, "dkv_http_requests_total{{call=\"{call}\",status=\"{status}\"}} {count}");
        }
    }
    let name = "dkv_http_request_duration_seconds";
    head(&mut out, name, "histogram", "From the reading of a request to the writing of its answer.");
    for (call, histogram) in CallKind::NAMES.iter().zip(&metrics.latency) {
        if histogram.buckets.iter().any(|count| *count > 0) {
            histogram.write(&mut out, name, &format!("call=\"{call}\""));
        }
    }
    head(&mut out, "dkv_log_fsync_duration_seconds", "histogram", "How long fdatasync of the log takes.");
    metrics.fsync.write(&mut out, "dkv_log_fsync_duration_seconds", "");
    head(&mut out, "dkv_turn_seconds_total", "counter", "Time of the event loop by phase.");
    for (phase, ns) in TurnPhase::NAMES.iter().zip(metrics.turn_ns) {
        line(&mut out, "dkv_turn_seconds_total", &format!("phase=\"{phase}\""), ns as f64 / 1e9);
    }
    let counters = [
        Gauge::counter("dkv_turns_total", "Turns of the event loop.", metrics.turns),
        Gauge::counter("dkv_connections_accepted_total", "Connections accepted.", metrics.accepted),
        Gauge::counter("dkv_connection_timeouts_total", "Connections closed at a deadline.", metrics.timeouts),
        Gauge::counter("dkv_links_refused_total", "Peer links refused, by either side.", metrics.refused_links),
    ];
    let mut last = "";
    for gauge in counters.iter().chain(gauges) {
        if gauge.name != last {
            head(&mut out, gauge.name, gauge.kind, gauge.help);
            last = gauge.name;
        }
        line(&mut out, gauge.name, &gauge.labels, gauge.value);
    }
    out
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, labels: &str, value: impl Display) {
    let _ =
        if labels.is_empty() { writeln!(out, "{name} {value}") } else { writeln!(out, "{name}{{{labels}}} {value}") };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_end_with_all() {
        let mut metrics = Metrics::default();
        metrics.answered(CallKind::Get, 200, 30_000);
        metrics.answered(CallKind::Get, 200, 30_000_000_000);
        metrics.answered(CallKind::Get, 299, 1);
        let text = text(&metrics, &[Gauge::new("dkv_keys", "Keys.", 5.0)]);
        for expected in [
            "dkv_http_requests_total{call=\"get\",status=\"200\"} 2",
            "dkv_http_requests_total{call=\"get\",status=\"0\"} 1",
            "dkv_http_request_duration_seconds_bucket{call=\"get\",le=\"0.000025\"} 1",
            "dkv_http_request_duration_seconds_bucket{call=\"get\",le=\"0.00005\"} 2",
            "dkv_http_request_duration_seconds_bucket{call=\"get\",le=\"10\"} 2",
            "dkv_http_request_duration_seconds_bucket{call=\"get\",le=\"+Inf\"} 3",
            "dkv_http_request_duration_seconds_count{call=\"get\"} 3",
            "# TYPE dkv_keys gauge\ndkv_keys 5",
        ] {
            assert!(text.contains(expected), "{expected} is missing in\n{text}");
        }
    }
}

//! Owns: what keeps pages of other sites away from a store on localhost. A browser lets any page send a form to any
//! address (so `POST /update` needs no permission), and a page whose name is bound anew to 127.0.0.1 is even of the
//! same origin; but it cannot forge `Host`, `Origin` and `Sec-Fetch-Site`.
//! Never: paths, keys.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::error::{ApiError, shown};
use crate::http::Head;
use crate::http::head::Host;

/// Hosts and origins that are allowed besides IP literals and localhost.
#[derive(Debug, Clone, Default)]
pub struct AllowedHosts {
    /// An IP literal that is looked at first: nearly all ask for it.
    own: String,
    hosts: Vec<String>,
    origins: Vec<String>,
}

impl AllowedHosts {
    /// For a node with this address, from the settings `http.allowed_hosts` (names, with or without a port: without, any
    /// port will do) and `http.allowed_origins` (such as `https://console.example`).
    #[must_use]
    pub fn new(own: SocketAddr, hosts: &[String], origins: &[String]) -> AllowedHosts {
        AllowedHosts { own: own.to_string(), hosts: hosts.to_vec(), origins: origins.to_vec() }
    }

    fn host(&self, host: Host<'_>) -> bool {
        let is = |known: &str, text: &[u8]| known.as_bytes().eq_ignore_ascii_case(text);
        host.text == self.own.as_bytes()
            || is("localhost", host.name)
            || is_ip_literal(host.name)
            || self.hosts.iter().any(|known| is(known, host.text) || is(known, host.name))
    }

    /// A page of this server itself, whatever stands before it for TLS, or a configured one.
    fn origin(&self, origin: &[u8], host: Option<Host<'_>>) -> bool {
        let site = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
        let own = site.is_some_and(|s| host.is_some_and(|h| h.text.eq_ignore_ascii_case(s)));
        own || self.configured(origin)
    }

    fn configured(&self, origin: &[u8]) -> bool {
        self.origins.iter().any(|o| o.as_bytes().eq_ignore_ascii_case(origin))
    }

    /// Refuses what a foreign page makes a browser send.
    ///
    /// # Errors
    /// 421 for a foreign `Host` (this server does not speak for that name, RFC 9110 section 7.4), 403 for a foreign
    /// page.
    pub fn admit(&self, head: &Head<'_>) -> Result<(), ApiError> {
        if let Some(host) = head.host
            && !self.host(host)
        {
            let host = shown(host.text);
            return Err(ApiError::new(
                421,
                "host_not_allowed",
                format!("host {host} is not allowed: use an IP address or localhost, or add it to http.allowed_hosts"),
            ));
        }
        let Some(foreign) = self.foreign(head) else { return Ok(()) };
        let foreign = shown(foreign);
        Err(ApiError::new(
            403,
            "origin_not_allowed",
            format!("a page of another site ({foreign}) may not use this store: see http.allowed_origins"),
        ))
    }

    /// What gives a foreign page away.
    fn foreign<'b>(&self, head: &Head<'b>) -> Option<&'b [u8]> {
        if let Some(origin) = head.origin
            && !self.origin(origin, head.host)
        {
            return Some(origin);
        }
        let site = head.sec_fetch_site?;
        let own = site == b"same-origin" || site == b"none" || head.origin.is_some_and(|o| self.configured(o));
        (!own).then_some(site)
    }
}

fn is_ip_literal(name: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(name) else { return false };
    match name.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok()),
        None => name.parse::<Ipv4Addr>().is_ok(),
    }
}

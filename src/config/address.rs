//! Owns: what counts as a node's address.
//! Never: whether anything listens there.

use std::net::{IpAddr, SocketAddr};

/// Reads `IP:PORT`, the address of a node.
///
/// # Errors
/// A sentence: what is wrong with it and what to write instead.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let Ok(address) = text.parse::<SocketAddr>() else { return Err(why_not(text)) };
    if address.port() == 0 {
        return Err(format!("{text:?} has port 0: a node needs a port of its own, 1 to 65535"));
    }
    Ok(address)
}

/// Reads an address of the table: one that the other nodes can dial.
///
/// # Errors
/// As [`parse_address`], and for addresses that stand for no single host.
pub(super) fn parse_table_address(text: &str) -> Result<SocketAddr, String> {
    let address = parse_address(text)?;
    let ip = address.ip().to_canonical();
    if ip.is_unspecified() {
        return Err(format!(
            "{text:?} means every interface, and other nodes could not dial it: write the address that they reach, \
             and give `--listen {text}` to dkv serve on that host"
        ));
    }
    if ip.is_multicast() || matches!(ip, IpAddr::V4(v4) if v4.is_broadcast()) {
        return Err(format!("{text:?} is the address of a group, not of one host"));
    }
    Ok(address)
}

/// The address by which two spellings of one socket are recognised: `[::ffff:1.2.3.4]:80` is `1.2.3.4:80`.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn why_not(text: &str) -> String {
    if text.is_empty() {
        return "the address is empty: write IP:PORT, such as 127.0.0.1:8080".to_owned();
    }
    if text.contains("://") {
        return format!("{text:?} is a URL: write only IP:PORT, such as 127.0.0.1:8080");
    }
    if text.parse::<IpAddr>().is_ok() {
        let example = if text.contains(':') { format!("[{text}]:8080") } else { format!("{text}:8080") };
        return format!("{text:?} has no port: write IP:PORT, such as {example}");
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return format!("{text:?} is not IP:PORT, such as 127.0.0.1:8080");
    };
    if port.parse::<u16>().is_err() {
        return format!("{text:?}: {port:?} is not a port, 1 to 65535");
    }
    if host.parse::<std::net::Ipv6Addr>().is_ok() {
        return format!("{text:?}: an IPv6 address stands in brackets before its port: [{host}]:{port}");
    }
    if host.chars().any(|c| c.is_ascii_alphabetic()) && !host.starts_with('[') {
        return format!("{text:?}: {host:?} is a host name, not an IP address: write the host's IP");
    }
    format!("{text:?}: {host:?} is not an IP address")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_are_taken() {
        for text in ["127.0.0.1:8080", "10.1.2.3:1", "[::1]:65535", "[fe80::1%2]:80", "[::ffff:10.0.0.1]:80"] {
            assert!(parse_table_address(text).is_ok(), "{text}: {:?}", parse_table_address(text));
        }
    }

    #[test]
    fn what_is_no_address_is_explained() {
        for (text, says) in [
            ("", "empty"),
            ("localhost:8080", "host name"),
            ("kv-1.example.org:8080", "host name"),
            ("http://127.0.0.1:8080", "URL"),
            ("127.0.0.1", "no port: write IP:PORT, such as 127.0.0.1:8080"),
            ("::1", "such as [::1]:8080"),
            ("fe80::1:zz", "\"zz\" is not a port"),
            ("127.0.0.1:", "not a port"),
            ("127.0.0.1:65536", "not a port"),
            ("127.0.0.1:0", "port 0"),
            ("127.0.0.256:80", "not an IP address"),
            ("127.0.0.01:80", "not an IP address"),
            ("8080", "is not IP:PORT"),
            ("0.0.0.0:8080", "--listen 0.0.0.0:8080"),
            ("[::]:8080", "--listen [::]:8080"),
            ("224.0.0.1:80", "group"),
            ("255.255.255.255:80", "group"),
            ("[ff02::1]:80", "group"),
        ] {
            let error = parse_table_address(text).unwrap_err();
            assert!(error.contains(says), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_mapped_address_is_its_ipv4_address() {
        let mapped = "[::ffff:10.0.0.1]:80".parse().unwrap();
        assert_eq!(canonical(mapped), "10.0.0.1:80".parse().unwrap());
    }
}

//! What may be downloaded from, and for how long. What a client asks for never makes the server talk to its own network: each address is
//! checked after its name was looked up, and that address is the one connected to.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use reqwest::Url;

/// What one download may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Looking the host's name up, and connecting, each.
    pub connect: Duration,
    /// The longest silence of the host.
    pub idle: Duration,
    /// All of it.
    pub total: Duration,
    /// In each such time at least so many bytes must come.
    pub pace: (Duration, u64),
    /// Bytes of the file.
    pub bytes: u64,
}

pub(super) const BOUNDS: Bounds = Bounds {
    connect: Duration::from_secs(15),
    idle: Duration::from_secs(60),
    total: Duration::from_secs(24 * 3600),
    pace: (Duration::from_secs(60), 256 * 1024),
    bytes: 256 << 30,
};

/// What may be connected to, and for how long.
pub(crate) struct Policy {
    pub(super) hosts: Vec<String>,
    pub(super) https_only: bool,
    pub(super) allowed: fn(IpAddr) -> bool,
    pub(super) bounds: Bounds,
}

impl Policy {
    pub(crate) fn public(hosts: Vec<String>) -> Self {
        Self { hosts, https_only: true, allowed: is_public, bounds: BOUNDS }
    }

    /// Files of this machine, for tests.
    #[cfg(test)]
    pub(crate) fn local() -> Self {
        let allowed = |ip: IpAddr| ip == IpAddr::from([127, 0, 0, 1]) || ip == IpAddr::from(Ipv6Addr::LOCALHOST);
        Self { hosts: vec!["localhost".into(), "127.0.0.1".into()], https_only: false, allowed, bounds: BOUNDS }
    }

    /// Fails unless the host of an address that a client gave is allowed.
    pub(super) fn check_host(&self, url: &Url) -> Result<(), String> {
        let host = url.host_str().unwrap_or_default().trim_end_matches('.');
        let is_below = |rest: &str| rest.is_empty() || rest.ends_with('.');
        let listed = self.hosts.iter().any(|known| host.strip_suffix(known.to_ascii_lowercase().as_str()).is_some_and(is_below));
        if listed { Ok(()) } else { Err(format!("the host '{host}' is not allowed: add it with --download-host")) }
    }

    /// Fails unless an address may be asked, be it a client's or one that a host redirects to. Allowed hosts keep their files at others,
    /// whose names change: what they redirect to need not be listed, but must be encrypted, and public as [`Policy::resolve`] sees it.
    pub(super) fn check(&self, url: &Url) -> Result<(), String> {
        if self.https_only && url.scheme() != "https" {
            return Err(format!("'{}' is not https: only encrypted addresses are fetched", url.scheme()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("the address must not hold a user name or password".into());
        }
        Ok(())
    }

    /// The host's addresses; fails if any is not allowed, as a name that leads to both is an attempt at something.
    pub(super) async fn resolve(&self, url: &Url) -> Result<Vec<SocketAddr>, String> {
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or(443);
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let found = tokio::time::timeout(self.bounds.connect, tokio::net::lookup_host((bare, port))).await;
        let found = found.map_err(|_| format!("the host '{host}' was not found in time: try again later"))?;
        let found = found.map_err(|e| format!("the host '{host}' was not found: {e}"))?;
        let found: Vec<SocketAddr> = found.collect();
        if found.is_empty() {
            return Err(format!("the host '{host}' has no address"));
        }
        match found.iter().find(|a| !(self.allowed)(a.ip())) {
            Some(bad) => Err(format!("the host '{host}' leads to {}, which is not a public address", bad.ip())),
            None => Ok(found),
        }
    }
}

/// Whether an address is somewhere on the public internet: not this machine, its networks, nor a reserved range.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let special = matches!((a, b), (0 | 10 | 127, _) | (100, 64..=127) | (169, 254) | (172, 16..=31) | (192, 168) | (198, 18..=19))
                || matches!((a, b, c), (192, 0, 0 | 2) | (192, 88, 99) | (198, 51, 100) | (203, 0, 113));
            !special && a < 224
        }
        IpAddr::V6(v6) => {
            if let Some(v4) = embedded_v4(v6) {
                return is_public(IpAddr::V4(v4));
            }
            // Only 2000::/3 is given out; in it, documentation (2001:db8::/32, 3fff::/20) and the protocols' 2001::/23 are not hosts.
            let [a, b, ..] = v6.segments();
            a & 0xe000 == 0x2000 && !(a == 0x2001 && (b == 0x0db8 || b < 0x0200)) && !(a == 0x3fff && b < 0x1000)
        }
    }
}

/// The IPv4 address inside a mapped, NAT64 or 6to4 address.
fn embedded_v4(v6: Ipv6Addr) -> Option<std::net::Ipv4Addr> {
    let s = v6.segments();
    let v4 = |high: u16, low: u16| std::net::Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match s {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => v6.to_ipv4_mapped(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn hosts_are_matched_by_label() {
        let policy = Policy::public(vec!["example.com".into()]);
        let check = |url: &str| {
            let url = Url::parse(url).unwrap();
            policy.check(&url).is_ok() && policy.check_host(&url).is_ok()
        };
        assert!(check("https://example.com/a") && check("https://cdn.Example.com/a"));
        assert!(!check("http://example.com/a") && !check("https://notexample.com/a") && !check("https://example.com.evil.net/a"));
        assert!(!check("https://example.com@evil.net/a") && !check("https://user@example.com/a"));
    }

    #[test]
    fn addresses_of_this_machine_and_its_networks_are_not_public() {
        let own = "127.0.0.1 10.1.2.3 172.31.0.1 192.168.0.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 ::1 :: fe80::1 \
            fc00::1 ::ffff:127.0.0.1 64:ff9b::7f00:1 2002:7f00:1:: 2001:db8::1 ff02::1";
        for ip in own.split(' ') {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["8.8.8.8", "172.32.0.1", "2606:4700::1111", "2a00:1450::1"] {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
    }
}

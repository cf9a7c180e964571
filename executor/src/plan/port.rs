//! EXPOSE's operands: `[ip:][host:]container[-end][/protocol]` comes in, `port/protocol` of the container's side comes out.

use std::net::IpAddr;

/// The highest port.
const PORT_MAX: u32 = 65_535;

/// What is written of one operand. Absent parts are empty.
pub(super) struct Parts<'a> {
    pub address: &'a str,
    pub host: &'a str,
    pub container: &'a str,
    pub protocol: &'a str,
}

/// Splits an operand; nothing is checked.
pub(super) fn split(word: &str) -> Parts<'_> {
    let (before, container) = word.rsplit_once(':').unwrap_or(("", word));
    let (address, host) = before.rsplit_once(':').unwrap_or(("", before));
    let (container, protocol) = container.split_once('/').unwrap_or((container, ""));
    Parts { address, host, container, protocol }
}

/// Reads one operand into the ports that it names.
pub(super) fn parse(word: &str) -> Result<Vec<String>, String> {
    let Parts { address, host, container, protocol } = split(word);
    if container.is_empty() {
        return Err(format!("no port specified: {word}"));
    }
    let protocol = if protocol.is_empty() { "tcp".to_owned() } else { protocol.to_lowercase() };
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(format!("invalid proto: {protocol}"));
    }
    // Only the container's side is kept, but nonsense on the other is refused.
    let bare = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
    if !bare.is_empty() && bare.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {address}"));
    }
    let (start, end) = range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
    if !host.is_empty() {
        let (first, last) = range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
        if last - first != end - start && start != end {
            return Err(format!("invalid ranges specified for container and host Ports: {container} and {host}"));
        }
    }
    Ok((start..=end).map(|port| format!("{port}/{protocol}")).collect())
}

/// Reads `80` or `80-90`.
fn range(text: &str) -> Option<(u32, u32)> {
    let (start, end) = text.split_once('-').unwrap_or((text, text));
    let (start, end) = (number(start)?, number(end)?);
    (start <= end).then_some((start, end))
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|port| *port <= PORT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(word: &str, expected: Result<&[&str], &str>) {
        let expected = expected.map(|ports| ports.iter().map(ToString::to_string).collect()).map_err(str::to_owned);
        assert_eq!(parse(word), expected, "{word}");
    }

    #[test]
    fn c3_ports_have_ranges_and_protocols() {
        check("80", Ok(&["80/tcp"]));
        check("53/UDP", Ok(&["53/udp"]));
        check("8000-8002/sctp", Ok(&["8000/sctp", "8001/sctp", "8002/sctp"]));
        check("8080:80", Ok(&["80/tcp"]));
        check("127.0.0.1:8080:80/tcp", Ok(&["80/tcp"]));
        check("127.0.0.1::80", Ok(&["80/tcp"]));
        check("[::1]:8080:80", Ok(&["80/tcp"]));
        check("80/http", Err("invalid proto: http"));
        check("65536", Err("invalid containerPort: 65536"));
        check("90-80", Err("invalid containerPort: 90-80"));
        check("x", Err("invalid containerPort: x"));
        check("+80", Ok(&["80/tcp"]));
        check("80/", Ok(&["80/tcp"]));
        check("127.0.0.1:80", Err("invalid hostPort: 127.0.0.1"));
        check("localhost:8080:80", Err("invalid IP address: localhost"));
        check("-80", Err("invalid containerPort: -80"));
        check("80:", Err("no port specified: 80:"));
        check("x:80", Err("invalid hostPort: x"));
        check("1-2:80-85", Err("invalid ranges specified for container and host Ports: 80-85 and 1-2"));
    }
}

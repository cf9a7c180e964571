//! EXPOSE's operands: `[ip:][host:]container[-end][/protocol]` comes in, `port/protocol` of the container's side comes out.

/// The highest port.
const PORT_MAX: u32 = 65_535;

/// Reads one operand into the ports that it names.
pub(super) fn parse(word: &str) -> Result<Vec<String>, String> {
    let (address, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let protocol = protocol.to_lowercase();
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(format!("invalid proto: {protocol}"));
    }
    let (host, container) = match address.rsplit_once(':') {
        None => (None, address),
        Some((before, container)) => (Some(before), container),
    };
    let invalid = || format!("invalid containerPort: {container}");
    if container.is_empty() {
        return Err(format!("no port specified: {word}"));
    }
    let (start, end) = range(container).ok_or_else(invalid)?;
    if let Some(host) = host {
        // Only the container's side is kept, but nonsense on the other is refused.
        let host_port = host.rsplit_once(':').map_or(host, |(_, port)| port);
        let is_address = host_port.contains('.');
        if !host_port.is_empty() && !is_address {
            let (first, last) = range(host_port).ok_or_else(|| format!("invalid hostPort: {host_port}"))?;
            if last - first != end - start && start != end {
                return Err(format!(
                    "invalid ranges specified for container and host Ports: {container} and {host_port}"
                ));
            }
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
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| plain && *port <= PORT_MAX)
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
        check("+80", Err("invalid containerPort: +80"));
        check("80:", Err("no port specified: 80:"));
        check("x:80", Err("invalid hostPort: x"));
        check("1-2:80-85", Err("invalid ranges specified for container and host Ports: 80-85 and 1-2"));
    }
}

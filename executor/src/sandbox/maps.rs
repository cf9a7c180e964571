//! Id maps of user namespaces: the text of the Pod's map goes in, the identity map of the same ids comes out.

/// Rewrites the text of `/proc/self/uid_map` or `gid_map` so that every id that is valid here keeps its number in a child
/// namespace. `None` when the text is not a map (`user_namespaces(7)`, "Mapping user and group IDs").
///
/// All ids are mapped, not a guess such as 65536: platforms hand out ranges that start around 10^9.
pub(super) fn identity(map: &str) -> Option<String> {
    let mut lines = Vec::new();
    for line in map.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (inside, _outside, count) = (fields.next()?, fields.next()?, fields.next()?);
        if fields.next().is_some() || [inside, count].iter().any(|field| field.parse::<u32>().is_err()) {
            return None;
        }
        lines.push(format!("{inside} {inside} {count}\n"));
    }
    (!lines.is_empty()).then(|| lines.concat())
}

#[cfg(test)]
mod tests {
    use super::identity;

    #[track_caller]
    fn check(map: &str, expected: Option<&str>) {
        assert_eq!(identity(map).as_deref(), expected, "{map:?}");
    }

    #[test]
    fn every_id_keeps_its_number() {
        check("         0          0 4294967295\n", Some("0 0 4294967295\n"));
        check("0 1000000000 65536\n", Some("0 0 65536\n"));
        check("0 100000 1000\n1000 1000 1\n", Some("0 0 1000\n1000 1000 1\n"));
    }

    #[test]
    fn what_is_no_map_is_refused() {
        check("", None);
        check("0 0\n", None);
        check("0 0 1 2\n", None);
        check("a 0 1\n", None);
    }
}

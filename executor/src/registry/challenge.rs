//! `WWW-Authenticate` headers -> how a registry wants to be spoken to (RFC 9110, 11.6.1; distribution's token
//! specification). Pure, total, and bounded: a hostile header is at worst no challenge.

use std::collections::BTreeMap;

/// The longest header that is read.
const HEADER_BYTES_MAX: usize = 16 << 10;

/// One way to authenticate that Karve knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// User name and password in every request.
    Basic,
    /// A token that the realm gives.
    Bearer {
        /// The URL of the token server.
        realm: String,
        /// The name by which the token server knows the registry.
        service: Option<String>,
        /// What the registry would like the token to allow.
        scope: Option<String>,
    },
}

/// Reads all headers of one response and returns the strongest challenge: Bearer before Basic; of equals, the first.
pub fn parse<'a>(headers: impl IntoIterator<Item = &'a str>) -> Option<Challenge> {
    let short = headers.into_iter().filter(|header| header.len() <= HEADER_BYTES_MAX);
    let mut known: Vec<Challenge> = short.flat_map(parse_one).collect();
    known.sort_by_key(|challenge| matches!(challenge, Challenge::Basic));
    known.into_iter().next()
}

fn parse_one(header: &str) -> Vec<Challenge> {
    let mut scanner = Scanner { rest: header };
    let mut challenges = Vec::new();
    while let Some(scheme) = scanner.scheme() {
        let parameters = scanner.parameters();
        challenges.extend(challenge(scheme, parameters));
    }
    challenges
}

fn challenge(scheme: &str, mut parameters: BTreeMap<String, String>) -> Option<Challenge> {
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut take = |name: &str| parameters.remove(name).filter(|value| !value.is_empty());
    Some(Challenge::Bearer { realm: take("realm")?, service: take("service"), scope: take("scope") })
}

/// Walks over one header; every method consumes at least one byte or ends.
struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    fn skip(&mut self, skipped: &[char]) {
        self.rest = self.rest.trim_start_matches(skipped);
    }

    fn token(&mut self) -> &'a str {
        let end = self.rest.find(|character| !is_token(character)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        token
    }

    /// Takes the next scheme, jumping over what is not one.
    fn scheme(&mut self) -> Option<&'a str> {
        loop {
            self.skip(&[' ', '\t', ',']);
            let token = self.token();
            if !token.is_empty() {
                return Some(token);
            }
            let mut characters = self.rest.chars();
            characters.next()?;
            self.rest = characters.as_str();
        }
    }

    /// Takes `name=value` pairs as far as they reach; a repeated name keeps its first value.
    fn parameters(&mut self) -> BTreeMap<String, String> {
        let mut parameters = BTreeMap::new();
        loop {
            let start = self.rest;
            self.skip(&[' ', '\t', ',']);
            let name = self.token().to_ascii_lowercase();
            self.skip(&[' ', '\t']);
            let Some(rest) = self.rest.strip_prefix('=').filter(|_| !name.is_empty()) else {
                self.rest = start;
                return parameters;
            };
            self.rest = rest;
            self.skip(&[' ', '\t']);
            let value = self.value();
            parameters.entry(name).or_insert(value);
        }
    }

    fn value(&mut self) -> String {
        let Some(quoted) = self.rest.strip_prefix('"') else {
            return self.token().to_owned();
        };
        let mut value = String::new();
        let mut characters = quoted.chars();
        while let Some(character) = characters.next() {
            match character {
                '"' => break,
                '\\' => value.extend(characters.next()),
                character => value.push(character),
            }
        }
        self.rest = characters.as_str();
        value
    }
}

/// Token characters, and those that unquoted URLs and base64 need.
fn is_token(character: char) -> bool {
    character.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/:?@".contains(character)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(header: &str, expected: Option<&Challenge>) {
        assert_eq!(parse([header]).as_ref(), expected, "{header}");
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let [service, scope] = [service, scope].map(|value| value.map(str::to_owned));
        Challenge::Bearer { realm: realm.into(), service, scope }
    }

    #[test]
    fn real_registries_are_understood() {
        check(
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/debian:pull""#,
            Some(&bearer(
                "https://auth.docker.io/token",
                Some("registry.docker.io"),
                Some("repository:library/debian:pull"),
            )),
        );
        check(r#"Basic realm="Registry Realm""#, Some(&Challenge::Basic));
        check(r#"Bearer realm="https://ghcr.io/token""#, Some(&bearer("https://ghcr.io/token", None, None)));
        check(
            "bearer realm=https://r.example/token, service=r",
            Some(&bearer("https://r.example/token", Some("r"), None)),
        );
        check(
            r#"Bearer realm="https://r.example/t", scope="repository:a:pull,push repository:b:pull""#,
            Some(&bearer("https://r.example/t", None, Some("repository:a:pull,push repository:b:pull"))),
        );
    }

    #[test]
    fn bearer_is_preferred_in_whatever_order_it_comes() {
        let both = bearer("https://r.example/t", None, None);
        check(r#"Basic realm="x", Bearer realm="https://r.example/t""#, Some(&both));
        check(r#"Negotiate, Bearer realm="https://r.example/t", Basic realm="x""#, Some(&both));
        assert_eq!(parse([r#"Basic realm="x""#, r#"Bearer realm="https://r.example/t""#]), Some(both));
    }

    #[test]
    fn what_is_no_challenge_is_none() {
        for header in ["", " ", ",", "=", "\"", "Negotiate", "Bearer", r#"Bearer realm="""#, r#"Digest realm="x""#] {
            check(header, None);
        }
        check(&format!("Basic {}", "x".repeat(20_000)), None);
    }

    #[test]
    fn quotes_may_be_escaped_or_missing_at_the_end() {
        check(r#"Bearer realm="a\"b""#, Some(&bearer("a\"b", None, None)));
        check(r#"Bearer realm="a\"#, Some(&bearer("a", None, None)));
        check(r#"Bearer realm="a"#, Some(&bearer("a", None, None)));
    }

    proptest! {
        #[test]
        fn no_header_panics_or_hangs(header in "\\PC{0,200}") {
            let _parsed = parse([header.as_str()]);
        }

        #[test]
        fn hostile_headers_end(header in r#"[Bbaserc =",\\a-z]{0,200}"#) {
            let _parsed = parse([header.as_str()]);
        }

        #[test]
        fn what_is_quoted_is_read_back(realm in "[ -~]{1,40}", service in "[ -~]{1,40}") {
            let quote = |text: &str| text.replace('\\', r"\\").replace('"', "\\\"");
            let header = format!(r#"Bearer realm="{}",service="{}""#, quote(&realm), quote(&service));
            prop_assert_eq!(parse([header.as_str()]), Some(bearer(&realm, Some(&service), None)));
        }
    }
}

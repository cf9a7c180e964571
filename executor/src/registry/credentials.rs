//! Docker `config.json` documents -> who to be for a repository. Pure: it neither reads files nor runs helpers.
//!
//! Several documents are merged; of the entries that match a repository the one with the longest path wins, then the
//! one without wildcards, then the one that came first (kubelet's rules for image pull secrets).

use std::collections::BTreeMap;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::Deserialize;

use crate::{image::reference::Repository, secret::Secret};

/// The largest document that is read: what a Kubernetes Secret can hold.
const DOCUMENT_BYTES_MAX: usize = 1 << 20;

/// The user name by which docker marks a secret as an identity token.
const TOKEN_USER: &str = "<token>";

/// Names of Docker Hub that references write as `docker.io`.
const DOCKER_HUB: [&str; 4] = ["docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"];

/// Tolerates padding that was left out, as other readers of these documents do.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Proves who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A user name and a password.
    Basic {
        /// The user name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A refresh token, to be exchanged for access tokens.
    IdentityToken(Secret),
    /// An access token that is sent as it is.
    RegistryToken(Secret),
}

/// Says what is wrong with a document of credentials, never what is in it.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The document is not a docker configuration.
    #[error("{document} is not a docker config.json: line {line}, column {column}")]
    Json {
        /// Where the document comes from.
        document: String,
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
    },
    /// The document is too large.
    #[error("{document} is larger than {DOCUMENT_BYTES_MAX} bytes")]
    TooLarge {
        /// Where the document comes from.
        document: String,
    },
    /// An `auth` field does not decode.
    #[error("the `auth` of `{entry}` in {document} is not base64 of user:password")]
    Auth {
        /// Where the document comes from.
        document: String,
        /// The entry.
        entry: String,
    },
    /// A helper's name is not one.
    #[error("{document} names the credential helper `{helper}`, which is not a plain name")]
    HelperName {
        /// Where the document comes from.
        document: String,
        /// The name.
        helper: String,
    },
    /// A helper failed.
    #[error("docker-credential-{helper} gave no credentials for `{server}`: {reason}")]
    Helper {
        /// The helper.
        helper: String,
        /// What was asked for.
        server: String,
        /// Why.
        reason: String,
    },
}

/// Where the credential of a repository is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// In a document, under this entry.
    Entry {
        /// The key as it was written.
        entry: &'a str,
        /// The credential.
        credential: &'a Credential,
    },
    /// With a helper program.
    Helper {
        /// The helper's name, without `docker-credential-`.
        helper: &'a str,
        /// What to ask it for.
        server: String,
    },
}

/// The credentials of any number of documents.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    entries: Vec<Entry>,
    helpers: BTreeMap<String, String>,
    store: Option<String>,
}

#[derive(Clone, Debug)]
struct Entry {
    written: String,
    host: String,
    path: Vec<String>,
    credential: Credential,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    auths: BTreeMap<String, Option<Auth>>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default)]
    creds_store: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    #[serde(rename = "auth")]
    pair: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl Credentials {
    /// Reads one document; `name` says in errors where it comes from, such as "the Secret registry-auth".
    ///
    /// Entries without a credential, which docker writes beside a store, are passed over.
    pub fn parse(bytes: &[u8], name: &str) -> Result<Self, CredentialsError> {
        let document = || name.to_owned();
        if bytes.len() > DOCUMENT_BYTES_MAX {
            return Err(CredentialsError::TooLarge { document: document() });
        }
        // serde_json's own message may quote a secret: only the place is reported.
        let parsed: Document = serde_json::from_slice(bytes).map_err(|error| CredentialsError::Json {
            document: document(),
            line: error.line(),
            column: error.column(),
        })?;
        let store = Some(parsed.creds_store).filter(|store| !store.is_empty());
        for helper in parsed.cred_helpers.values().chain(&store) {
            if helper.is_empty() || !helper.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
                return Err(CredentialsError::HelperName { document: document(), helper: helper.clone() });
            }
        }
        let mut entries = Vec::new();
        for (written, auth) in parsed.auths {
            let failed = || CredentialsError::Auth { document: document(), entry: written.clone() };
            if let Some(credential) = auth.unwrap_or_default().credential().map_err(|InvalidAuth| failed())? {
                let (host, path) = normalise(&written);
                entries.push(Entry { written, host, path, credential });
            }
        }
        let helpers = parsed.cred_helpers.into_iter().map(|(host, helper)| (normalise(&host).0, helper)).collect();
        Ok(Self { entries, helpers, store })
    }

    /// Makes one user name and password the credential of a registry, or of the repositories below `host/path`.
    #[must_use]
    pub fn with_basic(mut self, registry: &str, username: &str, password: Secret) -> Self {
        let (host, path) = normalise(registry);
        let credential = Credential::Basic { username: username.to_owned(), password };
        self.entries.push(Entry { written: registry.to_owned(), host, path, credential });
        self
    }

    /// Adds what another document knows; where both know the same, this one wins.
    pub fn merge(&mut self, other: Self) {
        self.entries.extend(other.entries);
        for (host, helper) in other.helpers {
            self.helpers.entry(host).or_insert(helper);
        }
        self.store = self.store.take().or(other.store);
    }

    /// Finds the credential of a repository: its registry's helper, else the best entry, else the default helper.
    pub fn find(&self, repository: &Repository) -> Option<Found<'_>> {
        let registry = repository.registry();
        let server =
            || if registry == "docker.io" { "https://index.docker.io/v1/".into() } else { registry.to_owned() };
        if let Some(helper) = self.helpers.get(registry) {
            return Some(Found::Helper { helper, server: server() });
        }
        let matching = self.entries.iter().filter(|entry| entry.matches(repository));
        let best = matching.enumerate().max_by_key(|(position, entry)| {
            (entry.path.len(), !entry.host.contains('*'), std::cmp::Reverse(*position))
        });
        if let Some((_, Entry { written, credential, .. })) = best {
            return Some(Found::Entry { entry: written, credential });
        }
        self.store.as_deref().map(|helper| Found::Helper { helper, server: server() })
    }

    /// Lists every secret text, for masking output.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.entries.iter().map(|entry| match &entry.credential {
            Credential::Basic { password: secret, .. }
            | Credential::IdentityToken(secret)
            | Credential::RegistryToken(secret) => secret,
        })
    }
}

impl Entry {
    fn matches(&self, repository: &Repository) -> bool {
        let mut name = repository.name().split('/');
        host_matches(&self.host, repository.registry())
            && self.path.iter().all(|component| name.next() == Some(component.as_str()))
    }
}

struct InvalidAuth;

impl Auth {
    fn credential(self) -> Result<Option<Credential>, InvalidAuth> {
        if !self.registrytoken.is_empty() {
            return Ok(Some(Credential::RegistryToken(Secret::new(self.registrytoken))));
        }
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credential::IdentityToken(Secret::new(self.identitytoken))));
        }
        if self.pair.is_empty() {
            return Ok(basic(self.username, self.password));
        }
        let decoded = BASE64.decode(self.pair.trim()).map_err(|_| InvalidAuth)?;
        let decoded = String::from_utf8(decoded).map_err(|_| InvalidAuth)?;
        let (username, password) = decoded.split_once(':').ok_or(InvalidAuth)?;
        // Docker reads passwords up to the zero bytes that old versions padded them with.
        Ok(basic(username.to_owned(), password.trim_end_matches('\0').to_owned()))
    }
}

/// Reads a user name and a secret as docker's documents and helpers mean them; two empty texts are no credential.
pub(super) fn basic(username: String, password: String) -> Option<Credential> {
    match (username.as_str(), password.as_str()) {
        ("", "") => None,
        (TOKEN_USER, _) => Some(Credential::IdentityToken(Secret::new(password))),
        _ => Some(Credential::Basic { username, password: Secret::new(password) }),
    }
}

/// Splits a key into host and path: `https://index.docker.io/v1/` is `docker.io`, `ghcr.io/org` keeps its path.
fn normalise(key: &str) -> (String, Vec<String>) {
    let key = key.trim();
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let mut parts = bare.split('/').filter(|part| !part.is_empty()).map(str::to_owned);
    let host = parts.next().unwrap_or_default().to_ascii_lowercase();
    let host = if DOCKER_HUB.contains(&host.as_str()) { DOCKER_HUB[0].to_owned() } else { host };
    let path: Vec<String> = parts.collect();
    // The API's version that `docker login` writes is no repository.
    let path = if path.len() == 1 && ["v1", "v2"].contains(&path[0].as_str()) { Vec::new() } else { path };
    (host, path)
}

/// Compares label by label; `*` stands for any characters within one label, and ports must be equal.
fn host_matches(pattern: &str, host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    if !pattern.contains('*') {
        return pattern == host;
    }
    let split = |text: &str| -> (Vec<String>, Option<String>) {
        let (name, port) = text.rsplit_once(':').map_or((text, None), |(name, port)| (name, Some(port.to_owned())));
        (name.split('.').map(str::to_owned).collect(), port)
    };
    let ((patterns, pattern_port), (labels, port)) = (split(pattern), split(&host));
    pattern_port == port
        && patterns.len() == labels.len()
        && patterns.iter().zip(&labels).all(|(pattern, label)| label_matches(pattern, label))
}

fn label_matches(pattern: &str, label: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == label;
    };
    let Some(label) = label.strip_prefix(head) else {
        return false;
    };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let last = pieces.pop().unwrap_or_default();
    let Some(mut middle) = label.strip_suffix(last) else {
        return false;
    };
    pieces.iter().all(|piece| match middle.find(piece) {
        Some(start) => {
            middle = &middle[start + piece.len()..];
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Credentials {
        Credentials::parse(text.as_bytes(), "the test").unwrap()
    }

    fn shown(credentials: &Credentials, repository: &str) -> String {
        match credentials.find(&repository.parse().unwrap()) {
            None => "nothing".into(),
            Some(Found::Helper { helper, server }) => format!("helper {helper} {server}"),
            Some(Found::Entry { credential: Credential::Basic { username, password }, .. }) => {
                format!("{username}:{}", password.expose())
            }
            Some(Found::Entry { credential: Credential::IdentityToken(token), .. }) => {
                format!("identity {}", token.expose())
            }
            Some(Found::Entry { credential: Credential::RegistryToken(token), .. }) => {
                format!("token {}", token.expose())
            }
        }
    }

    #[track_caller]
    fn check(document: &str, repository: &str, expected: &str) {
        assert_eq!(shown(&parse(document), repository), expected, "{repository}");
    }

    #[test]
    fn the_longest_path_wins() {
        let document = r#"{"auths":{
            "ghcr.io":{"username":"host","password":"1"},
            "https://ghcr.io/org":{"username":"org","password":"2"},
            "ghcr.io/org/app":{"username":"app","password":"3"}}}"#;
        check(document, "ghcr.io/other/app", "host:1");
        check(document, "ghcr.io/org/tool", "org:2");
        check(document, "ghcr.io/org/app", "app:3");
        check(document, "ghcr.io/org/app/cache", "app:3");
        check(document, "ghcr.io/organisation/app", "host:1");
        check(document, "quay.io/org/app", "nothing");
    }

    #[test]
    fn docker_hub_has_many_names() {
        for key in ["https://index.docker.io/v1/", "docker.io", "registry-1.docker.io", "index.docker.io/v2/"] {
            let document = format!(r#"{{"auths":{{"{key}":{{"auth":"dTpw"}}}}}}"#);
            check(&document, "debian", "u:p");
            check(&document, "org/app", "u:p");
        }
        check(r#"{"auths":{"docker.io/org":{"auth":"dTpw"}}}"#, "debian", "nothing");
        check(r#"{"auths":{"docker.io/org":{"auth":"dTpw"}}}"#, "org/app", "u:p");
    }

    #[test]
    fn every_form_of_secret_is_read() {
        let entry = |fields: &str| format!(r#"{{"auths":{{"r.example:5000":{{{fields}}}}}}}"#);
        let repository = "r.example:5000/app";
        check(&entry(r#""auth":"dTpwOng=""#), repository, "u:p:x");
        check(&entry(r#""auth":"dTpwOng""#), repository, "u:p:x");
        check(&entry(r#""auth":"dTpwAAA=""#), repository, "u:p");
        check(&entry(r#""auth":"dTpw","identitytoken":"t""#), repository, "identity t");
        check(&entry(r#""username":"<token>","password":"t""#), repository, "identity t");
        check(&entry(r#""registrytoken":"t""#), repository, "token t");
        check(&entry(""), repository, "nothing");
        check(&entry(r#""username":"u","password":"p","email":"x@y""#), repository, "u:p");
        check(&entry(r#""auth":"dTpw""#), "r.example/app", "nothing");
        check(r#"{"auths":{"r.example:5000":null}}"#, repository, "nothing");
    }

    #[test]
    fn wildcards_stand_within_one_label() {
        let document = r#"{"auths":{
            "*.dkr.ecr.*.amazonaws.com":{"username":"ecr","password":"1"},
            "123.dkr.ecr.eu-west-1.amazonaws.com":{"username":"exact","password":"2"},
            "*.example:5000":{"username":"port","password":"3"}}}"#;
        check(document, "456.dkr.ecr.us-east-1.amazonaws.com/app", "ecr:1");
        check(document, "123.dkr.ecr.eu-west-1.amazonaws.com/app", "exact:2");
        check(document, "a.b.dkr.ecr.us-east-1.amazonaws.com/app", "nothing");
        check(document, "r.example:5000/app", "port:3");
        check(document, "r.example/app", "nothing");
        assert!(label_matches("a*b*c", "a1b2c") && !label_matches("a*b*c", "acb") && !label_matches("ab*ba", "aba"));
    }

    #[test]
    fn helpers_stand_before_and_the_store_behind_the_entries() {
        let document = r#"{"auths":{"r.example":{"auth":"dTpw"},"h.example":{"auth":"dTpw"}},
            "credHelpers":{"https://h.example":"ecr-login"},"credsStore":"desktop"}"#;
        check(document, "r.example/app", "u:p");
        check(document, "h.example/app", "helper ecr-login h.example");
        check(document, "app", "helper desktop https://index.docker.io/v1/");
    }

    #[test]
    fn of_merged_documents_the_first_wins_among_equals() {
        let mut credentials = parse(r#"{"auths":{"r.example":{"username":"first","password":"1"}}}"#);
        credentials.merge(parse(
            r#"{"auths":{"r.example":{"username":"second","password":"2"},"r.example/b":{"username":"b","password":"3"}}}"#,
        ));
        assert_eq!(shown(&credentials, "r.example/a"), "first:1");
        assert_eq!(shown(&credentials, "r.example/b"), "b:3");
        assert_eq!(shown(&credentials.with_basic("s.example", "s", Secret::new("4".into())), "s.example/a"), "s:4");
    }

    #[test]
    fn errors_name_the_place_and_never_the_secret() {
        for (text, message) in [
            (r#"{"auths":{"r":{"auth":12345}}}"#, "the test is not a docker config.json: line 1, column 27"),
            (r#"{"auths":{"r":{"auth":"geheim!"}}}"#, "the `auth` of `r` in the test is not base64 of user:password"),
            (r#"{"auths":{"r":{"auth":"Z2VoZWlt"}}}"#, "the `auth` of `r` in the test is not base64 of user:password"),
            (r#"{"credsStore":"../x"}"#, "the test names the credential helper `../x`, which is not a plain name"),
        ] {
            assert_eq!(Credentials::parse(text.as_bytes(), "the test").unwrap_err().to_string(), message);
        }
        let shown = format!("{:?}", parse(r#"{"auths":{"r":{"username":"u","password":"geheim"}}}"#));
        assert!(!shown.contains("geheim"), "{shown}");
    }

    proptest! {
        #[test]
        fn a_label_with_a_star_matches_what_was_cut_out(head in "[a-z]{0,4}", middle in "[a-z]{0,4}", tail in "[a-z]{0,4}") {
            let (pattern, label) = (format!("{head}*{tail}"), format!("{head}{middle}{tail}"));
            prop_assert!(label_matches(&pattern, &label));
        }
    }
}

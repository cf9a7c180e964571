//! Who Karve is to a registry: a 401's challenge and the credentials go in, an `Authorization` comes out.
//!
//! ```text
//! request -> 401 + challenge -> Basic, or a token from the realm (one exchange at a time for one scope) -> request again
//! ```
//!
//! What a registry asked for is remembered, so that later requests carry it at once; a token that the registry no longer
//! takes is exchanged anew, once. Credentials go to the realm that their own registry names, never over plain http
//! unless that registry is spoken to so.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderValue, Method, StatusCode, header};
use reqwest::{Response, Url};
use serde::Deserialize;
use tokio::{sync::Mutex as AsyncMutex, time::Instant};

use super::{
    challenge::{self, Challenge},
    credentials::{Credential, Credentials, Found},
    error::RegistryError,
    exchange::{self, said},
    helper,
    retry::RetryPolicy,
    transport::{Attempt, Authorization, Body, Request, Transport, protocol},
};
use crate::{image::reference::Repository, secret::Secret};

/// The largest answer of a token server that is read.
const TOKEN_BYTES_MAX: u64 = 64 << 10;
/// How long a token lives if its server does not say (distribution's token specification).
const TOKEN_SECONDS_DEFAULT: u64 = 60;
/// How long before its end a token is no longer used: a request takes time to arrive.
const TOKEN_SECONDS_LEEWAY: u64 = 5;

/// What is done with a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Reading.
    Pull,
    /// Reading and writing.
    Push,
}

impl Action {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
        }
    }
}

/// What a request needs to be allowed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access<'a> {
    pub(super) repository: &'a Repository,
    pub(super) action: Action,
    /// A second repository of the same registry that is read: the source of a mount.
    pub(super) source: Option<&'a Repository>,
}

impl<'a> Access<'a> {
    pub(super) const fn pull(repository: &'a Repository) -> Self {
        Self { repository, action: Action::Pull, source: None }
    }

    pub(super) const fn push(repository: &'a Repository) -> Self {
        Self { repository, action: Action::Push, source: None }
    }

    /// Writes the scopes in the form of the token specification, one for each repository, in order.
    fn scopes(&self) -> BTreeMap<String, BTreeSet<String>> {
        let actions: &[&str] = match self.action {
            Action::Pull => &["pull"],
            Action::Push => &["pull", "push"],
        };
        let named = |name: &str, actions: &[&str]| {
            (format!("repository:{name}"), actions.iter().map(|action| (*action).to_owned()).collect())
        };
        let mut scopes = BTreeMap::from([named(self.repository.name(), actions)]);
        if let Some(source) = self.source.filter(|source| *source != self.repository) {
            scopes.extend([named(source.name(), &["pull"])]);
        }
        scopes
    }
}

/// Adds what a challenge asks for beyond what is known to be needed.
fn widen(scopes: &mut BTreeMap<String, BTreeSet<String>>, asked: Option<&str>) {
    for scope in asked.unwrap_or_default().split_ascii_whitespace().take(8) {
        if let Some((resource, actions)) = scope.rsplit_once(':') {
            let wanted = scopes.entry(resource.to_owned()).or_default();
            wanted.extend(actions.split(',').map(str::to_owned));
        }
    }
}

fn written(scopes: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let join = |actions: &BTreeSet<String>| actions.iter().map(String::as_str).collect::<Vec<_>>().join(",");
    scopes.iter().map(|(resource, actions)| format!("{resource}:{}", join(actions))).collect()
}

/// How a registry wants to be spoken to.
#[derive(Clone, Debug)]
enum Scheme {
    Basic,
    Bearer { realm: Url, service: Option<String> },
}

#[derive(Clone, Debug)]
struct Token {
    value: Secret,
    expires: Instant,
}

/// A place for the token of one registry and scope; the lock lets one exchange happen at a time.
type Slot = Arc<AsyncMutex<Option<Token>>>;

/// Adds credentials to requests.
#[derive(Debug)]
pub(super) struct Authenticator {
    transport: Transport,
    retry: RetryPolicy,
    credentials: Credentials,
    push_credentials: Option<(Repository, Credentials)>,
    schemes: Mutex<HashMap<String, Scheme>>,
    slots: Mutex<HashMap<(String, String), Slot>>,
}

/// The answer of a token server; two names are in use for the same.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    expires_in: Option<u64>,
}

impl Authenticator {
    pub(super) fn new(
        transport: Transport,
        retry: RetryPolicy,
        credentials: Credentials,
        push_credentials: Option<(Repository, Credentials)>,
    ) -> Self {
        let (schemes, slots) = (Mutex::default(), Mutex::default());
        Self { transport, retry, credentials, push_credentials, schemes, slots }
    }

    pub(super) const fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Sends a request, answering one challenge on the way.
    pub(super) async fn send(&self, access: &Access<'_>, request: &Request) -> Result<Response, Attempt> {
        let registry = access.repository.registry();
        let known = self.schemes.lock().unwrap_or_else(PoisonError::into_inner).get(registry).cloned();
        let first = match &known {
            Some(scheme) => self.authorize(access, scheme, None, None).await?,
            None => None,
        };
        let response = self.transport.send(registry, request, first.as_ref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let headers = response.headers().get_all(header::WWW_AUTHENTICATE);
        let Some(challenge) = challenge::parse(headers.iter().filter_map(|header| header.to_str().ok())) else {
            return Ok(response);
        };
        let (scheme, scope) = self.scheme(registry, request, challenge)?;
        self.schemes.lock().unwrap_or_else(PoisonError::into_inner).insert(registry.to_owned(), scheme.clone());
        let refused = first.as_ref().map(|authorization| &authorization.value);
        match self.authorize(access, &scheme, scope.as_deref(), refused).await? {
            Some(second) if refused != Some(&second.value) => {
                self.transport.send(registry, request, Some(&second)).await
            }
            _ => Ok(response),
        }
    }

    /// Says which credentials an access uses, for errors.
    pub(super) fn describe(&self, repository: &Repository) -> String {
        match self.find(repository) {
            None => "no credentials were given for it".into(),
            Some(Found::Entry { entry, .. }) => format!("the credentials of `{entry}` were refused"),
            Some(Found::Helper { helper, .. }) => format!("the credentials of docker-credential-{helper} were refused"),
        }
    }

    fn scheme(
        &self,
        registry: &str,
        request: &Request,
        challenge: Challenge,
    ) -> Result<(Scheme, Option<String>), RegistryError> {
        let Challenge::Bearer { realm, service, scope } = challenge else {
            return Ok((Scheme::Basic, None));
        };
        let wrong = |reason: &str| protocol(registry, &request.url, format!("a token realm {reason}"));
        let realm = Url::parse(&realm).map_err(|_| wrong("that is no URL"))?;
        let plain = || self.transport.is_plain(registry) || self.transport.is_plain(&super::transport::host_of(&realm));
        match realm.scheme() {
            "https" => {}
            "http" if plain() => {}
            _ => return Err(wrong("without TLS")),
        }
        Ok((Scheme::Bearer { realm, service }, scope))
    }

    fn find(&self, repository: &Repository) -> Option<Found<'_>> {
        let own = self.push_credentials.as_ref().filter(|(target, _)| repository.is_within(target));
        own.and_then(|(_, credentials)| credentials.find(repository)).or_else(|| self.credentials.find(repository))
    }

    async fn credential(&self, repository: &Repository) -> Result<Option<Credential>, RegistryError> {
        Ok(match self.find(repository) {
            None => None,
            Some(Found::Entry { credential, .. }) => Some(credential.clone()),
            Some(Found::Helper { helper, server }) => helper::ask(helper, &server).await?,
        })
    }

    /// Makes the header for a scheme; `refused` is the one that the registry has just turned down.
    async fn authorize(
        &self,
        access: &Access<'_>,
        scheme: &Scheme,
        scope: Option<&str>,
        refused: Option<&HeaderValue>,
    ) -> Result<Option<Authorization>, RegistryError> {
        let registry = access.repository.registry();
        let origin = self.transport.endpoint(registry)?;
        let (realm, service) = match scheme {
            Scheme::Bearer { realm, service } => (realm, service.as_deref()),
            Scheme::Basic => {
                let credential = self.credential(access.repository).await?;
                return Ok(credential.as_ref().and_then(basic).map(|value| Authorization { value, origin }));
            }
        };
        let mut scopes = access.scopes();
        let key = (registry.to_owned(), written(&scopes).join(" "));
        let slot = self.slots.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone();
        let mut held = slot.lock().await;
        if let Some(token) = held.as_ref().filter(|token| token.expires > Instant::now()) {
            // Whoever waited for the lock finds the token that another request has fetched meanwhile.
            let value = bearer(token.value.expose());
            if value.is_some() && value.as_ref() != refused {
                return Ok(value.map(|value| Authorization { value, origin }));
            }
        }
        widen(&mut scopes, scope);
        let token = self.fetch(access, realm, service, &written(&scopes)).await?;
        let value = bearer(token.value.expose());
        *held = Some(token);
        Ok(value.map(|value| Authorization { value, origin }))
    }

    /// Exchanges the credentials, or nothing, for a token.
    async fn fetch(
        &self,
        access: &Access<'_>,
        realm: &Url,
        service: Option<&str>,
        scopes: &[String],
    ) -> Result<Token, RegistryError> {
        let registry = access.repository.registry();
        let credential = self.credential(access.repository).await?;
        if let Some(Credential::RegistryToken(token)) = credential {
            // Its life is not ours to know: it is sent until the registry refuses it.
            return Ok(Token { value: token, expires: Instant::now() + Duration::from_hours(1) });
        }
        let (request, authorization) = token_request(realm, service, scopes, credential.as_ref());
        let answer = exchange::retried(&self.retry, registry, TOKEN_BYTES_MAX, || {
            self.transport.send(registry, &request, authorization.as_ref())
        })
        .await?;
        match answer.status {
            StatusCode::OK => {}
            // Token servers answer 400 to a refresh token that they do not know (RFC 6749, 5.2).
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                return Err(RegistryError::Unauthorized {
                    registry: registry.to_owned(),
                    repository: access.repository.name().to_owned(),
                    action: access.action.name(),
                    credentials: self.describe(access.repository),
                    detail: said(&answer.body),
                });
            }
            status => {
                return Err(RegistryError::Refused {
                    registry: registry.to_owned(),
                    what: "a token".into(),
                    status: status.as_u16(),
                    detail: said(&answer.body),
                });
            }
        }
        let parsed: Answer =
            serde_json::from_slice(&answer.body).map_err(|_| protocol(registry, realm, "what is no token".into()))?;
        let value = if parsed.token.is_empty() { parsed.access_token } else { parsed.token };
        if bearer(&value).is_none() {
            return Err(protocol(registry, realm, "an empty token".into()));
        }
        let seconds = parsed.expires_in.unwrap_or(TOKEN_SECONDS_DEFAULT).min(24 * 3600);
        let life = Duration::from_secs(seconds.saturating_sub(TOKEN_SECONDS_LEEWAY));
        Ok(Token { value: Secret::new(value), expires: Instant::now() + life })
    }
}

/// Writes the request for a token: GET with Basic, or the `OAuth2` POST for identity tokens.
fn token_request(
    realm: &Url,
    service: Option<&str>,
    scopes: &[String],
    credential: Option<&Credential>,
) -> (Request, Option<Authorization>) {
    let mut url = realm.clone();
    if let Some(Credential::IdentityToken(token)) = credential {
        let mut form = realm.clone();
        form.set_query(None);
        form.query_pairs_mut()
            .append_pair("grant_type", "refresh_token")
            .append_pair("client_id", "karve")
            .append_pair("service", service.unwrap_or_default())
            .append_pair("scope", &scopes.join(" "))
            .append_pair("refresh_token", token.expose());
        let form = form.query().unwrap_or_default().as_bytes().to_vec();
        let request = Request::new(Method::POST, url)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Body::Bytes(form));
        return (request, None);
    }
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = service {
            query.append_pair("service", service);
        }
        for scope in scopes {
            query.append_pair("scope", scope);
        }
    }
    let value = credential.and_then(basic);
    let authorization = value.map(|value| Authorization { value, origin: realm.clone() });
    (Request::new(Method::GET, url), authorization)
}

/// Writes the header for a credential that may be sent as it is.
fn basic(credential: &Credential) -> Option<HeaderValue> {
    match credential {
        Credential::Basic { username, password } => {
            let pair = format!("{username}:{}", password.expose());
            sensitive(&format!("Basic {}", STANDARD.encode(pair)))
        }
        Credential::RegistryToken(token) => bearer(token.expose()),
        Credential::IdentityToken(_) => None,
    }
}

fn bearer(token: &str) -> Option<HeaderValue> {
    if token.is_empty() { None } else { sensitive(&format!("Bearer {token}")) }
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(access: &Access<'_>, asked: Option<&str>, expected: &[&str]) {
        let mut scopes = access.scopes();
        widen(&mut scopes, asked);
        assert_eq!(written(&scopes), expected);
    }

    #[test]
    fn scopes_name_every_repository_that_a_request_touches() {
        let [target, source]: [Repository; 2] = ["r.example/b", "r.example/a"].map(|text| text.parse().unwrap());
        check(&Access::pull(&target), None, &["repository:b:pull"]);
        check(&Access::push(&target), None, &["repository:b:pull,push"]);
        let mount = Access { source: Some(&source), ..Access::push(&target) };
        check(&mount, None, &["repository:a:pull", "repository:b:pull,push"]);
        check(&Access { source: Some(&target), ..Access::push(&target) }, None, &["repository:b:pull,push"]);
    }

    #[test]
    fn a_challenge_can_widen_but_not_narrow() {
        let target: Repository = "r.example/b".parse().unwrap();
        check(&Access::push(&target), Some("repository:b:pull"), &["repository:b:pull,push"]);
        check(&Access::pull(&target), Some("repository:b:delete"), &["repository:b:delete,pull"]);
        check(
            &Access::pull(&target),
            Some("registry:catalog:* nonsense"),
            &["registry:catalog:*", "repository:b:pull"],
        );
    }

    #[test]
    fn an_identity_token_is_posted_and_a_password_is_not() {
        let realm = Url::parse("https://auth.example/token?account=x").unwrap();
        let scopes = ["repository:a:pull".to_owned()];
        let identity = Credential::IdentityToken(Secret::new("s&t".into()));
        let (request, authorization) = token_request(&realm, Some("r"), &scopes, Some(&identity));
        assert_eq!(
            (request.method, request.url.as_str(), authorization.is_none()),
            (Method::POST, realm.as_str(), true)
        );
        let Body::Bytes(form) = request.body else { panic!("no form") };
        assert_eq!(
            String::from_utf8(form).unwrap(),
            "grant_type=refresh_token&client_id=karve&service=r&scope=repository%3Aa%3Apull&refresh_token=s%26t"
        );
        let password = Credential::Basic { username: "u".into(), password: Secret::new("p".into()) };
        let (request, authorization) = token_request(&realm, None, &scopes, Some(&password));
        assert_eq!(request.url.as_str(), "https://auth.example/token?account=x&scope=repository%3Aa%3Apull");
        assert_eq!(authorization.unwrap().value, "Basic dTpw");
    }
}

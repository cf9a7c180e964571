//! The connections of a fetch: credentials and certificates go in, an HTTP transport that gives them to the right server
//! alone comes out. A header with credentials forbids redirects; a password that is given on request does not.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use gix::{
    bstr::ByteSlice,
    protocol::{
        credentials::{helper::Action, protocol::Outcome},
        transport::client::blocking_io::http,
    },
    url::Scheme,
};

use crate::{context::git_source::GitCredentials, secret::Secret};

/// How long the server may be silent.
const SILENCE_MAX: Duration = Duration::from_mins(2);

/// How to talk to the server, for as many connections as one fetch makes.
pub(super) struct ConnectionSettings {
    pub(super) url: gix::Url,
    pub(super) credentials: Option<GitCredentials>,
    pub(super) certificates: Vec<reqwest::Certificate>,
}

type Connection<'a, 'b, 'c> =
    gix::remote::Connection<'a, 'b, 'c, Box<dyn gix::protocol::transport::client::blocking_io::Transport + Send>>;

impl ConnectionSettings {
    pub(super) fn apply(&self, connection: &mut Connection<'_, '_, '_>) {
        let certificates = self.certificates.clone();
        let mut backend = http::reqwest::Options {
            configure_client: Some(Box::new(move |builder| {
                Ok(builder.timeout(SILENCE_MAX).tls_certs_merge(certificates.iter().cloned()))
            })),
            configure_request: None,
        };
        let mut identity = None;
        match &self.credentials {
            Some(GitCredentials::Basic { username, password }) if self.url.scheme == Scheme::Https => {
                // Given only when asked for, and only for this server: so that redirects can be followed.
                identity = Some((username.clone(), password.clone()));
            }
            Some(GitCredentials::Basic { username, password }) => {
                let pair = STANDARD.encode(format!("{username}:{}", password.expose()));
                backend.configure_request = Some(authorize(&format!("Basic {pair}")));
            }
            Some(GitCredentials::Bearer(token)) => {
                backend.configure_request = Some(authorize(&format!("Bearer {}", token.expose())));
            }
            Some(GitCredentials::Header(value)) => {
                backend.configure_request = Some(authorize(value.expose()));
            }
            None => {}
        }
        let url = self.url.clone();
        connection.set_credentials(move |action| Ok(answer(action, &url, identity.as_ref())));
        let backend: Arc<Mutex<dyn std::any::Any + Send + Sync>> = Arc::new(Mutex::new(backend));
        let options = http::Options { backend: Some(backend), ..http::Options::default() };
        connection.set_transport_options(Box::new(options));
    }
}

/// Adds an Authorization header to every request; redirects are then refused, so that it goes nowhere else.
fn authorize(value: &str) -> Box<http::reqwest::ConfigureRequestFn> {
    let value = reqwest::header::HeaderValue::from_str(value).map(|mut value| {
        value.set_sensitive(true);
        value
    });
    Box::new(move |request| {
        if let Ok(value) = &value {
            request.headers_mut().insert(reqwest::header::AUTHORIZATION, value.clone());
        }
        Ok(())
    })
}

/// Answers a question for credentials: for the right server only, and without any other source of them.
fn answer(action: Action, url: &gix::Url, identity: Option<&(String, Secret)>) -> Option<Outcome> {
    let Action::Get(context) = action else { return None };
    let asked = gix::url::parse(context.url.as_ref()?.as_bstr()).ok()?;
    let (username, password) = identity?;
    let same_server =
        asked.scheme == url.scheme && asked.host == url.host && asked.port_or_default() == url.port_or_default();
    same_server.then(|| Outcome {
        identity: gix::sec::identity::Account {
            username: username.clone(),
            password: password.expose().clone(),
            oauth_refresh_token: None,
        },
        next: context.into(),
    })
}

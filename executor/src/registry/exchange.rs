//! One small request of the API and its whole answer, tried again while that is worth it; and the words that a registry
//! adds to a refusal. Only for requests whose repetition does no harm.

use std::future::Future;

use http::{HeaderMap, StatusCode, header};
use reqwest::{Response, Url};
use serde::Deserialize;

use super::{
    Registry,
    error::RegistryError,
    retry::{Failure, RetryPolicy},
    token::Access,
    transport::{Attempt, Request, next_chunk},
};

/// As much of a refusal's body as is looked at.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// As much of a refusal's words as is repeated to the user.
const DETAIL_CHARACTERS_MAX: usize = 300;

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    /// Where the answer came from, behind redirects.
    pub(super) url: Url,
}

impl Answer {
    /// Returns a header that is text.
    pub(super) fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Registry {
    /// Sends a request until it has an answer whose status is one of `accepted`.
    pub(super) async fn exchange(
        &self,
        access: &Access<'_>,
        request: &Request,
        what: &str,
        body_bytes_max: u64,
        accepted: &[StatusCode],
    ) -> Result<Answer, RegistryError> {
        let (retry, registry) = (&self.shared.retry, access.repository.registry());
        let send = || self.shared.authenticator.send(access, request);
        let answer = retried(retry, registry, body_bytes_max, send).await?;
        if accepted.contains(&answer.status) {
            return Ok(answer);
        }
        Err(self.refusal(access, what, answer.status, &answer.body))
    }

    /// Turns a final status into the error that names its next step.
    pub(super) fn refusal(&self, access: &Access<'_>, what: &str, status: StatusCode, body: &[u8]) -> RegistryError {
        let registry = access.repository.registry().to_owned();
        let detail = said(body);
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Unauthorized {
                registry,
                repository: access.repository.name().to_owned(),
                action: access.action.name(),
                credentials: self.shared.authenticator.describe(access.repository),
                detail,
            },
            StatusCode::NOT_FOUND => RegistryError::NotFound { what: what.to_owned(), detail },
            status => RegistryError::Refused { registry, what: what.to_owned(), status: status.as_u16(), detail },
        }
    }
}

/// Sends and reads until there is an answer that is not transient. A body beyond the limit is an error where the answer
/// is a success, and cut where it is a refusal.
pub(super) async fn retried<F: Future<Output = Result<Response, Attempt>>>(
    retry: &RetryPolicy,
    registry: &str,
    body_bytes_max: u64,
    mut send: impl FnMut() -> F,
) -> Result<Answer, RegistryError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let attempt = match send().await {
            Ok(response) => read(response, body_bytes_max).await,
            Err(error) => Err(error),
        };
        let (failure, error) = match attempt {
            Ok(answer) => {
                let failure = failure_of(answer.status, &answer.headers);
                if !failure.is_transient() {
                    return Ok(answer);
                }
                let (registry, status) = (registry.to_owned(), answer.status.as_u16());
                (failure, RegistryError::Unavailable { registry, status, detail: said(&answer.body), attempts })
            }
            Err(Attempt::Connection { host, reason }) => {
                (Failure::Connection, RegistryError::Unreachable { registry: host, reason, attempts })
            }
            Err(Attempt::Fatal(error)) => return Err(error),
        };
        if !retry.pause(attempts, failure).await {
            return Err(error);
        }
    }
}

/// Reads what a status and its headers say about another try. `Retry-After` as a date is not used: it would need a clock
/// that agrees with the server's.
pub(super) fn failure_of(status: StatusCode, headers: &HeaderMap) -> Failure {
    let seconds = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    Failure::Status { status: status.as_u16(), retry_after: seconds.map(std::time::Duration::from_secs) }
}

/// Reads an answer to its end.
pub(super) async fn read(mut response: Response, body_bytes_max: u64) -> Result<Answer, Attempt> {
    let (status, url) = (response.status(), response.url().clone());
    let headers = std::mem::take(response.headers_mut());
    let refusal = !status.is_success();
    let limit = if refusal { REFUSAL_BYTES_MAX } else { usize::try_from(body_bytes_max).unwrap_or(usize::MAX) };
    let mut body = Vec::new();
    while let Some(chunk) = next_chunk(&mut response).await? {
        if body.len() + chunk.len() > limit {
            if refusal {
                break;
            }
            return Err(RegistryError::TooLarge { what: url.path().to_owned(), limit_bytes: body_bytes_max }.into());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status, headers, body, url })
}

/// The errors of a registry (distribution-spec, "Error Codes") and of a token server.
#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    errors: Vec<Reason>,
    #[serde(default, alias = "error_description")]
    details: String,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// Returns what a refusal says, with a separator before it, or nothing.
pub(super) fn said(body: &[u8]) -> String {
    let Ok(refusal) = serde_json::from_slice::<Refusal>(body) else {
        return String::new();
    };
    let words = match refusal.errors.first() {
        Some(reason) if reason.message.is_empty() => reason.code.clone(),
        Some(reason) => reason.message.clone(),
        None => refusal.details,
    };
    let words: String = words.chars().filter(|character| !character.is_control()).take(DETAIL_CHARACTERS_MAX).collect();
    if words.is_empty() { words } else { format!(" (it says: {words})") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &str, expected: &str) {
        assert_eq!(said(body.as_bytes()), expected, "{body}");
    }

    #[test]
    fn a_refusal_is_repeated_without_control_characters() {
        check(r#"{"errors":[{"code":"DENIED","message":"quota\u001b[31m"}]}"#, " (it says: quota[31m)");
        check(r#"{"errors":[{"code":"DENIED"}]}"#, " (it says: DENIED)");
        check(r#"{"details":"incorrect username or password"}"#, " (it says: incorrect username or password)");
        check(r#"{"error":"invalid_grant","error_description":"expired"}"#, " (it says: expired)");
        check("<html>502</html>", "");
        check(r#"{"errors":[]}"#, "");
    }
}

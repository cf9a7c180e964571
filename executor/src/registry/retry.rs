//! Whether and when a failed request is tried again: exponential backoff with full jitter, unless the server names a time.
//!
//! [`decide`] is pure; only `RetryPolicy::pause` draws a random number and sleeps. Requests whose repetition could do
//! harm never come here.

use std::time::Duration;

use rand::Rng;

/// Bounds of the repetition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often a request is sent at most.
    pub attempts_max: u32,
    /// The longest first pause; each further one may be twice as long.
    pub base: Duration,
    /// The longest pause that backoff reaches.
    pub backoff_max: Duration,
    /// The longest `Retry-After` that is waited for; a longer one ends the attempts.
    pub retry_after_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts_max: 5,
            base: Duration::from_millis(500),
            backoff_max: Duration::from_secs(15),
            retry_after_max: Duration::from_mins(2),
        }
    }
}

/// A failure, as far as its repetition is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The connection could not be made or broke.
    Connection,
    /// The registry answered, perhaps with the time to come back.
    Status {
        /// The HTTP status.
        status: u16,
        /// `Retry-After`, where it was given in seconds.
        retry_after: Option<Duration>,
    },
}

impl Failure {
    /// Whether the same request may succeed later.
    pub const fn is_transient(self) -> bool {
        match self {
            Self::Connection => true,
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500 | 502..=504),
        }
    }
}

/// Returns how long to wait before the next attempt, or `None` if there is none.
///
/// `attempt` counts from 1 what was sent already; `random` is a number in `0.0..1.0`.
pub fn decide(policy: &RetryPolicy, attempt: u32, failure: Failure, random: f64) -> Option<Duration> {
    if attempt >= policy.attempts_max || !failure.is_transient() {
        return None;
    }
    if let Failure::Status { retry_after: Some(asked), .. } = failure {
        return (asked <= policy.retry_after_max).then_some(asked);
    }
    let doubled = policy.base.saturating_mul(2_u32.saturating_pow(attempt.saturating_sub(1)));
    Some(doubled.min(policy.backoff_max).mul_f64(random.clamp(0.0, 1.0)))
}

impl RetryPolicy {
    /// Waits before the next attempt; `false` if there is none.
    pub(super) async fn pause(&self, attempt: u32, failure: Failure) -> bool {
        let random = rand::rng().random::<f64>();
        let Some(pause) = decide(self, attempt, failure, random) else {
            return false;
        };
        tracing::debug!(attempt, ?failure, ?pause, "trying again");
        tokio::time::sleep(pause).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[track_caller]
    fn check(attempt: u32, failure: Failure, random: f64, expected: Option<Duration>) {
        let policy =
            RetryPolicy { attempts_max: 5, base: SECOND, backoff_max: 5 * SECOND, retry_after_max: 60 * SECOND };
        assert_eq!(decide(&policy, attempt, failure, random), expected, "{attempt} {failure:?} {random}");
    }

    const fn status(status: u16) -> Failure {
        Failure::Status { status, retry_after: None }
    }

    #[test]
    fn pauses_double_up_to_the_bound_and_are_jittered_from_zero() {
        check(1, Failure::Connection, 1.0, Some(SECOND));
        check(2, Failure::Connection, 1.0, Some(2 * SECOND));
        check(3, Failure::Connection, 0.5, Some(2 * SECOND));
        check(4, status(503), 1.0, Some(5 * SECOND));
        check(4, status(503), 0.0, Some(Duration::ZERO));
    }

    #[test]
    fn the_last_attempt_is_the_last() {
        check(5, Failure::Connection, 0.5, None);
        check(u32::MAX, Failure::Connection, 0.5, None);
    }

    #[test]
    fn only_transient_answers_are_tried_again() {
        for transient in [408, 429, 500, 502, 503, 504] {
            check(1, status(transient), 1.0, Some(SECOND));
        }
        for lasting in [400, 401, 403, 404, 405, 413, 416, 501, 505] {
            check(1, status(lasting), 1.0, None);
        }
    }

    #[test]
    fn the_servers_word_wins_as_long_as_it_is_bearable() {
        let after = |seconds| Failure::Status { status: 429, retry_after: Some(Duration::from_secs(seconds)) };
        check(1, after(7), 0.1, Some(7 * SECOND));
        check(1, after(0), 0.9, Some(Duration::ZERO));
        check(1, after(3600), 0.1, None);
        check(5, after(1), 0.1, None);
    }
}

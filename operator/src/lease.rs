//! Leader election over a Lease, by client-go's protocol, so that any client of it may share the Lease.
//!
//! A holder renews every two seconds. Another may take over once it has itself seen the Lease unchanged for as long as the
//! Lease says: clocks of two machines are never compared. Every write carries the resourceVersion that was read, so of two
//! that try at once one fails. A holder that could not renew for ten seconds, less than the fifteen after which another may
//! take over, must end: [`Lease::hold`] returns, and the process exits.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease as LeaseObject, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::time::Instant;

/// How long a Lease holds after it was renewed.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// How long a holder may fail to renew.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// The pause between two tries.
const RETRY_PERIOD: Duration = Duration::from_secs(2);
/// How long one try may take, so that several fit into the deadline.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);

/// What a Lease says of its holder; it is alive if this changes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    holder: String,
    renewed: Option<Timestamp>,
    transitions: i32,
}

/// What one replica knows of the Lease; everything that is decided is decided here.
#[derive(Debug)]
struct View {
    identity: String,
    /// What the Lease said last, and since when by our own clock.
    seen: Option<(Record, Instant)>,
}

/// The Lease and what this replica knows of it.
#[expect(missing_debug_implementations, reason = "a client has nothing to show")]
pub struct Lease {
    api: Api<LeaseObject>,
    name: String,
    view: View,
}

impl Lease {
    /// Returns a view that has seen nothing. The client must not retry by itself, or a renewal outlives its deadline.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, name: name.to_owned(), view: View { identity: identity.to_owned(), seen: None } }
    }

    /// Waits until the Lease is ours.
    pub async fn acquire(&mut self) {
        tracing::info!(lease = self.name, identity = self.view.identity, "waiting for the lease");
        loop {
            match self.try_once().await {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "lease not acquired"),
            }
            tokio::time::sleep(RETRY_PERIOD).await;
        }
        tracing::info!(lease = self.name, identity = self.view.identity, "lease acquired");
    }

    /// Renews the Lease, and returns when it is lost.
    pub async fn hold(&mut self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < RENEW_DEADLINE {
            tokio::time::sleep(RETRY_PERIOD).await;
            let left = RENEW_DEADLINE.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, self.try_once()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => {
                    tracing::error!(lease = self.name, "another replica took the lease");
                    return;
                }
                Ok(Err(error)) => tracing::warn!(%error, "lease not renewed"),
                Err(_) => break,
            }
        }
        tracing::error!(lease = self.name, "the lease could not be renewed in time");
    }

    /// Gives the Lease up, so that the next replica need not wait until it expires.
    pub async fn release(&self) -> kube::Result<()> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else { return Ok(()) };
        if record(&lease).holder != self.view.identity {
            return Ok(());
        }
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(now()));
        self.api.replace(&self.name, &PostParams::default(), &lease).await?;
        tracing::info!(lease = self.name, "lease released");
        Ok(())
    }

    /// Takes or renews the Lease if that is allowed; says whether it is ours.
    async fn try_once(&mut self) -> kube::Result<bool> {
        let attempt = async {
            let found = self.api.get_opt(&self.name).await?;
            let Some(mut lease) = found else {
                let lease = LeaseObject {
                    metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                    spec: Some(self.view.claim(None)),
                };
                return self.api.create(&PostParams::default(), &lease).await.map(Some);
            };
            self.view.see(record(&lease), Instant::now());
            if !self.view.may_take(&lease, Instant::now()) {
                return Ok(None);
            }
            lease.spec = Some(self.view.claim(lease.spec.as_ref()));
            // It carries the resourceVersion that was read.
            self.api.replace(&self.name, &PostParams::default(), &lease).await.map(Some)
        };
        let written = match tokio::time::timeout(REQUEST_TIMEOUT, attempt).await {
            Ok(Err(kube::Error::Api(status))) if status.is_conflict() || status.is_already_exists() => {
                return Ok(false);
            }
            Ok(result) => result?,
            Err(_) => return Err(kube::Error::Service("the API server did not answer in time".into())),
        };
        if let Some(lease) = &written {
            self.view.see(record(lease), Instant::now());
        }
        Ok(written.is_some())
    }
}

impl View {
    /// Takes note of what the Lease says, and of when it first said so.
    fn see(&mut self, record: Record, now: Instant) {
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != record) {
            self.seen = Some((record, now));
        }
    }

    /// Says whether the Lease is ours, free, or has not changed for as long as it says it holds.
    fn may_take(&self, lease: &LeaseObject, now: Instant) -> bool {
        let holder = record(lease).holder;
        if holder.is_empty() || holder == self.identity {
            return true;
        }
        let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
        let duration =
            seconds.and_then(|seconds| u64::try_from(seconds).ok()).map_or(LEASE_DURATION, Duration::from_secs);
        self.seen.as_ref().is_some_and(|(_, since)| now.duration_since(*since) >= duration)
    }

    /// Returns the Lease's content with us as its holder.
    fn claim(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let before = before.cloned().unwrap_or_default();
        let is_renewal = before.holder_identity.as_deref() == Some(&self.identity);
        let transitions = before.lease_transitions.unwrap_or(0);
        let time = MicroTime(now());
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
            acquire_time: before.acquire_time.filter(|_| is_renewal).or_else(|| Some(time.clone())),
            renew_time: Some(time),
            lease_transitions: Some(if is_renewal { transitions } else { transitions.saturating_add(1) }),
            ..LeaseSpec::default()
        }
    }
}

fn record(lease: &LeaseObject) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        renewed: spec.renew_time.map(|time| time.0),
        transitions: spec.lease_transitions.unwrap_or(0),
    }
}

/// Only written into the Lease for people to read, and compared with nothing.
#[expect(clippy::disallowed_methods, reason = "a Lease says when it was renewed")]
fn now() -> Timestamp {
    Timestamp::now()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use k8s_openapi::api::coordination::v1::Lease as LeaseObject;
    use tokio::time::Instant;

    use super::{View, record};

    fn view(identity: &str) -> View {
        View { identity: identity.to_owned(), seen: None }
    }

    fn held_by(holder: &View, before: Option<&LeaseObject>) -> LeaseObject {
        let spec = before.and_then(|lease| lease.spec.as_ref());
        LeaseObject { spec: Some(holder.claim(spec)), ..LeaseObject::default() }
    }

    #[test]
    fn another_may_take_over_only_after_it_has_itself_waited() {
        let (first, mut second) = (view("first"), view("second"));
        let start = Instant::now();
        let lease = held_by(&first, None);
        assert!(first.may_take(&lease, start));
        assert!(!second.may_take(&lease, start), "never seen: may have been renewed a moment ago");
        second.see(record(&lease), start);
        assert!(!second.may_take(&lease, start + Duration::from_secs(14)));
        assert!(second.may_take(&lease, start + Duration::from_secs(15)));
        let renewed = held_by(&first, Some(&lease));
        second.see(record(&renewed), start + Duration::from_secs(14));
        assert!(!second.may_take(&renewed, start + Duration::from_secs(15)));
    }

    #[test]
    fn a_released_lease_is_free_at_once_and_counts_its_holders() {
        let (first, second) = (view("first"), view("second"));
        let mut lease = held_by(&first, None);
        assert_eq!(record(&lease).transitions, 1);
        assert_eq!(record(&held_by(&first, Some(&lease))).transitions, 1);
        lease.spec.as_mut().unwrap().holder_identity = Some(String::new());
        assert!(second.may_take(&lease, Instant::now()));
        let taken = held_by(&second, Some(&lease));
        assert_eq!((record(&taken).holder.as_str(), record(&taken).transitions), ("second", 2));
    }
}

//! What is counted, in the Prometheus text format.

use std::time::Duration;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// The upper bounds, in seconds, that passes are counted under.
const SECONDS_BUCKETS: [f64; 8] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 60.0];

/// Tells passes that failed from those that did not.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

/// Tells transitions apart. Reasons are a closed list, so the number of series is bounded.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    reason: String,
}

/// What is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    reconciles: Family<ResultLabels, Counter>,
    reconcile_seconds: Histogram,
    transitions: Family<ReasonLabels, Counter>,
    /// Pods that were created.
    pub pods_created: Counter,
    /// 1 while this replica leads.
    pub leader: Gauge,
}

impl Metrics {
    /// Returns metrics at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("karve_operator");
        let reconciles = Family::<ResultLabels, Counter>::default();
        let reconcile_seconds = Histogram::new(SECONDS_BUCKETS);
        let transitions = Family::<ReasonLabels, Counter>::default();
        let pods_created = Counter::default();
        let leader = Gauge::default();
        registry.register("reconciles", "Passes over one ImageBuild", reconciles.clone());
        registry.register("reconcile_seconds", "How long a pass took", reconcile_seconds.clone());
        registry.register("transitions", "Transitions of ImageBuilds by reason", transitions.clone());
        registry.register("pods_created", "Build Pods created", pods_created.clone());
        registry.register("leader", "Whether this replica leads", leader.clone());
        Self { registry, reconciles, reconcile_seconds, transitions, pods_created, leader }
    }

    /// Counts a pass.
    pub fn observe_reconcile(&self, succeeded: bool, took: Duration) {
        let result = if succeeded { "ok" } else { "error" };
        self.reconciles.get_or_create(&ResultLabels { result }).inc();
        self.reconcile_seconds.observe(took.as_secs_f64());
    }

    /// Counts a transition.
    pub fn count_notice(&self, reason: &str) {
        self.transitions.get_or_create(&ReasonLabels { reason: reason.to_owned() }).inc();
    }

    /// Returns everything in the text format.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        encode(&mut text, &self.registry).ok();
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

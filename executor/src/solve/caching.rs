//! What the steps of a build share of the cache: what each was made of and what it became, by definition; what was found;
//! what is to be saved; and the account of hits and misses.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use karve_api::{CacheReport, MissReport};
use tokio::sync::OnceCell;

use super::{
    layers::{Layers, StageLayer},
    saves::Saves,
    upload::Uploader,
};
use crate::{
    cache::{
        entry::{Entry, EntryLayer, STEP_TYPE},
        key::Key,
        store::{Cache, Found},
    },
    image::{digest::Digest, manifest::layer_compression},
    options::CacheOptions,
    plan::graph::Operation,
    registry::ImageSource,
};

/// More misses than these are only counted.
const MISSES_MAX: usize = 100;

/// The cache of a build.
#[derive(Debug)]
pub struct Caching {
    pub(super) cache: Arc<Cache>,
    pub(super) saves: Saves,
    pub(super) options: CacheOptions,
    /// Seconds since 1970.
    pub(super) now: i64,
    /// Layers that an entry promises and that cannot be had.
    unusable: Mutex<HashSet<Digest>>,
    /// What each step became. Two steps of one definition are one step.
    results: Mutex<HashMap<Key, Arc<OnceCell<Made>>>>,
    /// Whether a step was not found by its definition.
    is_changed: AtomicBool,
    report: Mutex<CacheReport>,
}

/// What a step became.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub(super) layer: Arc<StageLayer>,
    /// When it was made, in seconds since 1970.
    pub(super) created: i64,
}

/// What was found for a key.
#[derive(Clone, Debug, Default)]
pub(super) enum Lookup {
    /// Nothing, or nothing that can be used.
    #[default]
    Nothing,
    /// An entry that is older than it may be.
    Expired,
    /// An entry, and where its blobs are.
    Entry(Box<Entry>, ImageSource),
}

impl Caching {
    /// `now` is in seconds since 1970.
    pub fn new(cache: Arc<Cache>, layers: &Arc<Layers>, uploader: &Uploader, options: CacheOptions, now: i64) -> Self {
        let saves = Saves::new(Arc::clone(&cache), Arc::clone(layers), Arc::clone(uploader.uploads()));
        let (unusable, results, report) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { cache, saves, options, now, unusable, results, is_changed: false.into(), report }
    }

    /// Whether the layers of an operation are cached.
    pub(super) const fn caches(&self, operation: &Operation) -> bool {
        match operation {
            Operation::Metadata => false,
            Operation::Run(_) => self.options.run_layers,
            Operation::Copy(_) | Operation::Directory { .. } => self.options.copy_layers,
        }
    }

    /// Looks for the entry of a key. One that cannot be used hides none in another place.
    pub(super) async fn find(&self, key: &Key) -> Lookup {
        let mut other = Lookup::Nothing;
        let mut usable = |found| match self.judge(key, found) {
            entry @ Lookup::Entry(..) => Some(entry),
            Lookup::Expired => {
                other = Lookup::Expired;
                None
            }
            Lookup::Nothing => None,
        };
        let found = self.cache.find_usable(&key.tag(), STEP_TYPE, &mut usable).await;
        found.unwrap_or(other)
    }

    fn judge(&self, key: &Key, found: Found) -> Lookup {
        let entry = match Entry::parse(&found.manifest, key) {
            Ok(entry) => entry,
            Err(error) => {
                self.cache.warn(&format!("the cache entry `{}` is not used: {error}", key.tag()));
                return Lookup::Nothing;
            }
        };
        // Found by content it stands on nothing but what it made itself.
        let created = match entry.layers.last() {
            Some(own) if entry.definition != *key => own.created,
            _ => entry.created,
        };
        let oldest = self.now.saturating_sub(self.options.ttl.as_secs().try_into().unwrap_or(i64::MAX));
        // Ages are counted in whole seconds: less than one is no time at all.
        if created < oldest || self.options.ttl.as_secs() == 0 {
            return Lookup::Expired;
        }
        let unusable = self.lock_unusable();
        if entry.layers.iter().any(|layer| unusable.contains(&layer.layer.digest)) {
            return Lookup::Nothing;
        }
        drop(unusable);
        if !is_whole(&entry, &found.source) {
            self.cache.warn(&format!("the cache entry `{}` is not used: some of its blobs are not there", key.tag()));
            return Lookup::Nothing;
        }
        Lookup::Entry(Box::new(entry), found.source)
    }

    /// Makes a layer of an entry a layer of this build.
    pub(super) fn layer(layers: &Layers, layer: &EntryLayer, source: &ImageSource) -> Option<Arc<StageLayer>> {
        let compression = layer_compression(&layer.layer.media_type)?;
        Some(layers.cached(layer, compression, source.clone()))
    }

    /// The place for what the step of this definition becomes.
    pub(super) fn result(&self, key: &Key) -> Arc<OnceCell<Made>> {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(results.entry(key.clone()).or_default())
    }

    /// Says what the step of this definition became, because an entry that is used stands on it.
    pub(super) fn is_made(&self, key: &Key, made: Made) {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        results.insert(key.clone(), Arc::new(OnceCell::new_with(Some(made))));
    }

    /// Remembers that this build is not what the last one was.
    pub(super) fn is_not_all_known(&self) {
        self.is_changed.store(true, Ordering::Relaxed);
    }

    /// Whether a step was not found by its definition.
    pub(super) fn is_changed(&self) -> bool {
        self.is_changed.load(Ordering::Relaxed)
    }

    /// Counts a hit.
    pub(super) fn hit(&self) {
        self.lock_report().hits += 1;
    }

    /// Counts a miss.
    pub(super) fn missed(&self, miss: MissReport) {
        let mut report = self.lock_report();
        report.misses += 1;
        if report.missed.len() < MISSES_MAX {
            report.missed.push(miss);
        }
    }

    /// How often the cache spared a step, and why it did not.
    pub fn report(&self) -> CacheReport {
        self.lock_report().clone()
    }

    /// Begins again without a layer that cannot be had.
    pub(super) fn without(&self, layer: &Digest) {
        self.lock_unusable().insert(layer.clone());
        *self.lock_report() = CacheReport::default();
        self.results.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn lock_report(&self) -> MutexGuard<'_, CacheReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_unusable(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.unusable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether all blobs of an entry are there. A registry has seen to that itself; of a directory, files may have been lost.
fn is_whole(entry: &Entry, source: &ImageSource) -> bool {
    match source {
        ImageSource::Registry(_) => true,
        ImageSource::Layout(layout) => {
            let blobs = entry.layers.iter().flat_map(|layer| [&layer.layer, &layer.index]);
            blobs.into_iter().all(|blob| layout.blob_exists(blob))
        }
    }
}

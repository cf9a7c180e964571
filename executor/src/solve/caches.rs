//! Cache mounts: directories that the steps of a build share and that no layer holds. An identity and a way of sharing come
//! in, a directory comes out, held until the step has ended.
//!
//! They live in the build's work directory and end with it. [`CacheMounts::acquire`] is the only door; what is kept beyond
//! the build (`saved_caches`) comes in through it, and goes out through [`CacheMounts::kept`]. Of the directories of one
//! identity the first is kept: the others are there because it was taken.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, OnceCell};

use crate::{
    cache::mount::Identity,
    image::digest::Digest,
    plan::graph::{Attributes, CacheMount, From, Sharing},
};

/// What makes two cache mounts one cache.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CacheKey {
    id: String,
    from: Option<From>,
    source: String,
    pub(super) attributes: Option<Attributes>,
}

/// The caches of a build.
#[derive(Debug, Default)]
pub(super) struct CacheMounts {
    caches: Mutex<BTreeMap<CacheKey, Vec<Cache>>>,
    released: Notify,
}

/// One directory. A key has several where private mounts met.
#[derive(Debug, Default)]
struct Cache {
    /// The directory, once it is made.
    directory: Arc<OnceCell<CacheDirectory>>,
    users: usize,
    /// Whether those users let others in.
    is_shared: bool,
    /// Whether a step that used it was cut off: it may even be writing still.
    is_torn: bool,
}

/// The directory of a cache.
#[derive(Clone, Debug)]
pub(super) struct CacheDirectory {
    pub(super) path: PathBuf,
    /// How it is kept beyond the build, if it is.
    pub(super) kept: Option<Kept>,
}

/// How a cache is kept beyond the build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// The tag in the cache repository.
    pub(super) tag: String,
    /// What people call it.
    pub(super) name: String,
    /// The index, in a file, of what was in it at first; `None` is nothing.
    pub(super) before: Option<PathBuf>,
}

/// A cache that a step uses. Dropped, it is free for others, and torn unless it was released.
#[derive(Debug)]
pub(super) struct CacheHold {
    caches: Arc<CacheMounts>,
    key: CacheKey,
    position: usize,
    pub(super) path: PathBuf,
    /// Whether a step may be writing to it.
    is_used: bool,
}

impl CacheKey {
    /// The key of a mount. Without `from` a source is a part of the cache, and what is said of a new cache is not meant.
    pub(super) fn of(mount: &CacheMount) -> Self {
        let CacheMount { id, from, source, attributes, .. } = mount;
        let (source, attributes) = match from {
            None if source != "/" => ("/", None),
            _ => (source.as_str(), *attributes),
        };
        Self { id: id.clone(), from: from.clone(), source: source.to_owned(), attributes }
    }

    /// What it is from build to build; `seed` is the content that it begins with.
    pub(super) fn identity<'a>(&'a self, platform: &'a str, seed: Option<&'a Digest>) -> Identity<'a> {
        Identity { platform, id: &self.id, source: &self.source, attributes: self.attributes, seed }
    }
}

impl CacheMounts {
    /// Takes a cache, waiting while others hold one that is locked; `make` makes what a new one begins with, and is told
    /// whether it is the first of its identity.
    ///
    /// A step that takes several takes them in the order of their keys: then no two steps wait for each other.
    pub(super) async fn acquire<E>(
        self: &Arc<Self>,
        key: &CacheKey,
        sharing: Sharing,
        make: impl AsyncFnOnce(bool) -> Result<CacheDirectory, E>,
    ) -> Result<CacheHold, E> {
        let (position, directory) = loop {
            // Made before the look: a release between look and wait is not missed.
            let released = self.released.notified();
            if let Some(taken) = self.take(key, sharing) {
                break taken;
            }
            released.await;
        };
        let (caches, key, path) = (Arc::clone(self), key.clone(), PathBuf::new());
        let mut hold = CacheHold { caches, key, position, path, is_used: false };
        hold.path.clone_from(&directory.get_or_try_init(|| make(position == 0)).await?.path);
        hold.is_used = true;
        Ok(hold)
    }

    /// Forgets what a new attempt of the build cannot use: caches that were torn from steps, and those that began with the
    /// files of a stage, which may become others. The rest is as good as what an earlier build left.
    pub(super) fn begin_again(&self) {
        self.lock().retain(|key, caches| {
            let is_whole = |cache: &Cache| cache.users == 0 && !cache.is_torn;
            !matches!(key.from, Some(From::Stage(_))) && caches.iter().all(is_whole)
        });
    }

    /// Lists what is kept beyond the build, with where it is: what was used, and what every step has ended with that used it.
    pub(super) fn kept(&self) -> Vec<(PathBuf, Kept)> {
        let caches = self.lock();
        let first = caches.values().filter_map(|caches| caches.first());
        let whole = first.filter(|cache| cache.users == 0 && !cache.is_torn);
        whole
            .filter_map(|cache| {
                let CacheDirectory { path, kept } = cache.directory.get()?;
                Some((path.clone(), kept.clone()?))
            })
            .collect()
    }

    /// Takes a cache that may be used now, a new one if there is none; `None` is to wait.
    fn take(&self, key: &CacheKey, sharing: Sharing) -> Option<(usize, Arc<OnceCell<CacheDirectory>>)> {
        let mut caches = self.lock();
        let caches = caches.entry(key.clone()).or_default();
        let is_shared = sharing == Sharing::Shared;
        let joined = caches.iter().position(|cache| is_shared && cache.users > 0 && cache.is_shared);
        let free = || caches.iter().position(|cache| cache.users == 0);
        let position = match joined.or_else(free) {
            Some(position) => position,
            None if sharing == Sharing::Locked && !caches.is_empty() => return None,
            None => {
                caches.push(Cache::default());
                caches.len() - 1
            }
        };
        let cache = caches.get_mut(position)?;
        cache.users += 1;
        cache.is_shared = is_shared;
        Some((position, Arc::clone(&cache.directory)))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<CacheKey, Vec<Cache>>> {
        self.caches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CacheHold {
    /// Gives the cache back after a step that has ended, with all of its processes.
    pub(super) fn release(mut self) {
        self.is_used = false;
    }
}

impl Drop for CacheHold {
    fn drop(&mut self) {
        if let Some(cache) = self.caches.lock().get_mut(&self.key).and_then(|caches| caches.get_mut(self.position)) {
            cache.users -= 1;
            cache.is_torn |= self.is_used;
        }
        self.caches.released.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::FutureExt as _;

    use super::*;

    fn key(id: &str) -> CacheKey {
        CacheKey { id: id.into(), from: None, source: "/".into(), attributes: None }
    }

    /// Takes a cache if that is possible at once; a new one is called by `name`.
    fn take(caches: &Arc<CacheMounts>, id: &str, sharing: Sharing, name: &str) -> Option<CacheHold> {
        let made = async |is_first| Ok::<_, Infallible>(directory(name, is_first));
        caches.acquire(&key(id), sharing, made).now_or_never().map(|Ok(hold)| hold)
    }

    /// A directory that would be kept under its own name.
    fn directory(name: &str, is_first: bool) -> CacheDirectory {
        let kept = is_first.then(|| Kept { tag: name.into(), name: name.into(), before: None });
        CacheDirectory { path: name.into(), kept }
    }

    fn kept(caches: &CacheMounts) -> Vec<String> {
        caches.kept().into_iter().map(|(_, kept)| kept.tag).collect()
    }

    fn name(hold: Option<&CacheHold>) -> Option<&str> {
        hold.and_then(|hold| hold.path.to_str())
    }

    #[test]
    fn r4_shared_is_together_and_private_is_another() {
        let caches = Arc::default();
        let first = take(&caches, "a", Sharing::Shared, "first");
        let second = take(&caches, "a", Sharing::Shared, "second");
        assert_eq!((name(first.as_ref()), name(second.as_ref())), (Some("first"), Some("first")));
        let third = take(&caches, "a", Sharing::Private, "third");
        assert_eq!(name(third.as_ref()), Some("third"));
        assert_eq!(name(take(&caches, "b", Sharing::Private, "other").as_ref()), Some("other"));
        drop((first, second));
        assert_eq!(name(take(&caches, "a", Sharing::Private, "fourth").as_ref()), Some("first"));
    }

    #[test]
    fn r4_shared_does_not_join_what_another_holds_alone() {
        let caches = Arc::default();
        for (sharing, id) in [(Sharing::Private, "a"), (Sharing::Locked, "b")] {
            let first = take(&caches, id, sharing, "first");
            assert_eq!(name(first.as_ref()), Some("first"));
            assert_eq!(name(take(&caches, id, Sharing::Shared, "second").as_ref()), Some("second"));
        }
    }

    #[tokio::test]
    async fn r4_locked_waits_for_the_other() {
        let caches: Arc<CacheMounts> = Arc::default();
        for held in [Sharing::Locked, Sharing::Shared, Sharing::Private] {
            let first = take(&caches, "a", held, "first");
            assert_eq!(name(first.as_ref()), Some("first"));
            assert!(take(&caches, "a", Sharing::Locked, "second").is_none(), "{held:?}");
            let waiting = tokio::spawn({
                let caches = Arc::clone(&caches);
                async move { caches.acquire(&key("a"), Sharing::Locked, async |_| Err(())).await }
            });
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished());
            drop(first);
            assert_eq!(waiting.await.unwrap().unwrap().path, PathBuf::from("first"));
        }
    }

    #[tokio::test]
    async fn r4_what_could_not_be_made_is_made_by_the_next() {
        let caches: Arc<CacheMounts> = Arc::default();
        let failed = caches.acquire(&key("a"), Sharing::Locked, async |_| Err("no room")).await;
        assert_eq!(failed.unwrap_err(), "no room");
        assert_eq!(name(take(&caches, "a", Sharing::Locked, "second").as_ref()), Some("second"));
    }

    #[tokio::test]
    async fn what_is_kept_is_the_first_of_each_identity_and_was_used_to_the_end() {
        let caches: Arc<CacheMounts> = Arc::default();
        let take = |id: &str, name: &str| take(&caches, id, Sharing::Private, name).unwrap();
        let (first, second, torn, busy) =
            (take("a", "first"), take("a", "second"), take("b", "torn"), take("c", "busy"));
        let failed = caches.acquire(&key("d"), Sharing::Locked, async |_| Err(())).await;
        failed.unwrap_err();
        assert_eq!(kept(&caches), Vec::<String>::new());
        first.release();
        second.release();
        drop(torn);
        take("b", "again").release();
        assert_eq!(kept(&caches), ["first"]);
        busy.release();
        assert_eq!(kept(&caches), ["first", "busy"]);
    }

    #[test]
    fn another_attempt_goes_on_with_what_steps_came_to_their_end_with() {
        let caches: Arc<CacheMounts> = Arc::default();
        take(&caches, "whole", Sharing::Locked, "whole").unwrap().release();
        drop(take(&caches, "torn", Sharing::Locked, "torn"));
        let from = |from| CacheKey { from: Some(from), ..key("from") };
        for (from, name) in [(from(From::Stage(0)), "stage"), (from(From::Context), "context")] {
            let made = async |is_first| Ok::<_, Infallible>(directory(name, is_first));
            let Some(Ok(hold)) = caches.acquire(&from, Sharing::Locked, made).now_or_never() else { panic!("{name}") };
            hold.release();
        }
        caches.begin_again();
        assert_eq!(kept(&caches), ["context", "whole"]);
        assert_eq!(name(take(&caches, "torn", Sharing::Locked, "new").as_ref()), Some("new"));
        assert_eq!(name(take(&caches, "whole", Sharing::Locked, "new").as_ref()), Some("whole"));
    }
}

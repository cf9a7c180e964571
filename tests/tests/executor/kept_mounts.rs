//! Cache mounts from build to build: each build is a new process with a new work directory, and only a cache repository or
//! an OCI layout lies between them.

use std::{fs, path::PathBuf};

use karve_api::Reason;
use karve_tests::{layout::hex, registry::Registry};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::build::{Build, Ended};

/// A cache in a directory, and builds that use it. Steps are not cached, so that every one runs.
struct Cache(TempDir);

impl Cache {
    fn new() -> Self {
        Self(TempDir::with_prefix("karve-cache-").unwrap())
    }

    fn layout(&self) -> PathBuf {
        self.0.path().join("layout")
    }

    fn build(&self, dockerfile: &str) -> Build {
        build(dockerfile).flag(&format!("--cache-repo=oci:{}", self.layout().display()))
    }

    fn run(&self, dockerfile: &str) -> Ended {
        self.build(dockerfile).run().succeeded()
    }

    /// The digests of the mounts that are kept.
    fn mounts(&self) -> Vec<String> {
        let Ok(index) = fs::read(self.layout().join("index.json")) else { return Vec::new() };
        let index: Value = serde_json::from_slice(&index).unwrap();
        let name = |manifest: &Value| manifest["annotations"]["org.opencontainers.image.ref.name"].to_string();
        let manifests = index["manifests"].as_array().unwrap().iter();
        let mounts = manifests.filter(|manifest| name(manifest).starts_with("\"mount-"));
        mounts.map(|manifest| manifest["digest"].as_str().unwrap().to_owned()).collect()
    }

    fn blob(&self, digest: &str) -> PathBuf {
        self.layout().join("blobs").join(digest.replace(':', "/"))
    }
}

fn build(dockerfile: &str) -> Build {
    let dockerfile = format!("ARG BASE\nFROM ${{BASE}}\n{dockerfile}");
    Build::new(&[("Dockerfile", &dockerfile)]).flag("--cache-run-layers=false").flag("--cache-copy-layers=false")
}

/// A step that tells what it finds and leaves something, as a compiler does, each time another.
const COMPILE: &str = "RUN --mount=type=cache,target=/root/.cache if [ -e /root/.cache/object ]; then echo warm; else echo cold; \
     (echo zebra''-striped; cat /proc/sys/kernel/random/uuid) > /root/.cache/object; fi > /seen\n";

#[test]
fn a_mount_survives_in_a_directory_and_is_in_no_layer() {
    let cache = Cache::new();
    let first = cache.run(COMPILE);
    assert!(first.stderr.contains("cache mount /root/.cache: saved 51 bytes"), "{}", first.stderr);
    assert_eq!((first.image().text("seen").as_str(), cache.mounts().len()), ("cold\n", 1));
    let second = cache.run(COMPILE);
    assert!(second.stderr.contains("cache mount /root/.cache: restored 51 bytes"), "{}", second.stderr);
    assert!(!second.stderr.contains("saved"), "{}", second.stderr);
    let image = second.image();
    assert_eq!((image.text("seen").as_str(), image.contains("zebra-striped")), ("warm\n", false));
    assert_eq!((1..image.layers()).flat_map(|layer| image.paths(layer)).collect::<Vec<_>>(), ["seen"]);
}

#[test]
fn a_mount_survives_in_a_registry_and_is_sent_once() {
    let registry = Registry::start();
    let run = |dockerfile: &str| {
        let before = registry.log().len();
        let repository = format!("--cache-repo={}/cache", registry.host());
        let insecure = format!("--insecure-registry={}", registry.host());
        let ended = build(dockerfile).flag(&repository).flag(&insecure).run().succeeded();
        let log = registry.log().split_off(before);
        let sent = log.lines().filter(|line| line.contains("\"PUT /v2/cache/manifests/mount-")).count();
        (ended.image().text("seen"), sent)
    };
    assert_eq!(run(COMPILE), ("cold\n".to_owned(), 1));
    assert_eq!(run(COMPILE), ("warm\n".to_owned(), 0));
    let changing = COMPILE.replace("if ", "touch /root/.cache/new; if ");
    assert_eq!(run(&changing), ("warm\n".to_owned(), 1));
    let mounts = registry.tags("cache").into_iter().filter(|tag| tag.starts_with("mount-"));
    assert_eq!(mounts.map(|tag| tag.len()).collect::<Vec<_>>(), ["mount-".len() + 64]);
}

#[test]
fn everything_of_a_file_survives_but_its_nanoseconds() {
    let cache = Cache::new();
    let make = "RUN --mount=type=cache,target=/c,mode=1777,uid=5,gid=6 cd /c && mkdir -p d/empty && echo 1 > d/one && ln d/one two && \
         ln -s d/one link && chown -h 7:8 link && chown 1000:1001 d/one && cp /bin/busybox su && chmod 4751 su && \
         chown 12345:54321 d && mkfifo fifo && touch -d @1000000000 d/one fifo && touch -d @1500000000 su\n";
    let see = "RUN --mount=type=cache,target=/c,mode=1777,uid=5,gid=6 cd /c && \
         stat -c '%n %F %a %u:%g %h %s' . d d/empty d/one two link su fifo > /seen; stat -c '%n %Y' d/one su fifo >> /seen; \
         readlink link >> /seen; cat two >> /seen; cmp su /bin/busybox >> /seen; [ d/one -ef two ] && echo same >> /seen\n";
    let first = cache.run(&format!("{make}{see}")).image().text("seen");
    let second = cache.run(see).image().text("seen");
    assert_eq!(first, second);
    for line in [
        "d/one regular file 644 1000:1001 2 2",
        ". directory 1777 5:6",
        "link symbolic link 777 7:8",
        "su 1500000000",
        "same",
    ] {
        assert!(second.contains(line), "{line}: {second}");
    }
}

#[test]
fn what_is_too_much_goes_by_its_last_use() {
    let cache = Cache::new();
    let fill = "RUN --mount=type=cache,target=/c cd /c && for f in old new used; do head -c 100000 /dev/zero > $f; done; \
         touch -d @1000000000 old used; touch -d @1600000000 new\n";
    cache.run(fill);
    let step = "RUN --mount=type=cache,target=/c ls /c > /seen\n";
    let trimmed = cache.build(step).flag("--cache-mount-max-size=250000").run().succeeded();
    // It was too large to be brought back.
    assert!(trimmed.stderr.contains("begins empty, for what is kept of it is larger"), "{}", trimmed.stderr);
    assert_eq!(trimmed.image().text("seen"), "");

    let cache = Cache::new();
    let fill_too_much = fill.replace("100000", "100001");
    let trimmed = cache.build(&fill_too_much).flag("--cache-mount-max-size=200Ki").run().succeeded();
    assert!(trimmed.stderr.contains("cache mount /c: saved 200 kB"), "{}", trimmed.stderr);
    assert!(trimmed.stderr.contains("100 kB in 1 files, not used for longest"), "{}", trimmed.stderr);
    let look = "RUN --mount=type=cache,target=/c ls /c > /seen\n";
    let seen = cache.run(look).image().text("seen");
    assert_eq!(seen, "new\nused\n");
}

#[test]
fn a_file_that_this_build_read_stays() {
    let cache = Cache::new();
    let fill = "RUN --mount=type=cache,target=/c cd /c && for f in a b c; do head -c 100000 /dev/zero > $f; done; \
         touch -d @1000000000 a; touch -d @1100000000 b c\n";
    cache.run(fill);
    // Reading moves the time of use forward, even where the kernel moves it once a day.
    let read = "RUN --mount=type=cache,target=/c cat /c/a > /dev/null; head -c 100000 /dev/zero > /c/d; \
         stat -c %X /c/a > /read\n";
    let ended = cache.build(read).flag("--cache-mount-max-size=300000").run().succeeded();
    let is_kept = ended.image().text("read").trim() != "1000000000";
    let seen = cache.run("RUN --mount=type=cache,target=/c ls /c > /seen\n").image().text("seen");
    let (expected, gone) = if is_kept { ("a\n", "b\n") } else { ("b\n", "a\n") };
    assert!(seen.contains(expected) && !seen.contains(gone) && seen.contains("d\n"), "{seen}");
}

#[test]
fn each_identity_is_kept_apart_and_a_private_second_is_not_kept() {
    let cache = Cache::new();
    let step = |options: &str, name: &str| {
        format!("RUN --mount=type=cache,target=/c{options} ls /c >> /seen; echo . >> /seen; touch /c/{name}\n")
    };
    let steps = step("", "plain") + &step(",mode=0700", "mode") + &step(",id=other", "other");
    assert_eq!(cache.run(&steps).image().text("seen"), ".\n.\n.\n");
    assert_eq!(cache.mounts().len(), 3);
    assert_eq!(cache.run(&steps).image().text("seen"), "plain\n.\nmode\n.\nother\n.\n");
    let namespaced = cache.build(&step("", "team")).flag("--build-arg=BUILDKIT_CACHE_MOUNT_NS=team");
    assert_eq!(namespaced.run().succeeded().image().text("seen"), ".\n");

    // Two private mounts of one identity at once: the first is what the next build finds.
    let wait = |own: &str, other: &str| {
        format!(
            "RUN --mount=type=cache,target=/p,sharing=private --mount=type=cache,target=/meet \
             touch /meet/{own}; until [ -e /meet/{other} ]; do :; done; touch /p/{own}; touch /seen-{own}\n"
        )
    };
    let stages = format!(
        "{}FROM ${{BASE}} AS second\n{}FROM scratch\nCOPY --from=0 /seen-a /\nCOPY --from=second /seen-b /\n",
        wait("a", "b"),
        wait("b", "a")
    );
    cache.run(&stages);
    let seen = cache.run("RUN --mount=type=cache,target=/p ls /p > /seen\n").image().text("seen");
    assert!(["a\n", "b\n"].contains(&seen.as_str()), "{seen}");
}

#[test]
fn locked_and_shared_mounts_are_restored_once() {
    for sharing in ["locked", "shared", "private"] {
        let cache = Cache::new();
        let mount = format!("--mount=type=cache,target=/c,sharing={sharing}");
        cache.run(&format!("RUN {mount} echo kept > /c/f\n"));
        let twice =
            cache.run(&format!("RUN {mount} cat /c/f > /seen; echo more >> /c/f\nRUN {mount} cat /c/f >> /seen\n"));
        assert_eq!(twice.image().text("seen"), "kept\nkept\nmore\n", "{sharing}");
        assert_eq!(twice.stderr.matches("restored").count(), 1, "{}", twice.stderr);
        let third = cache.run(&format!("RUN {mount},ro cat /c/f > /seen\n")).image().text("seen");
        assert_eq!(third, "kept\nmore\n");
    }
}

#[test]
fn a_mount_that_begins_with_files_is_known_by_their_content() {
    let cache = Cache::new();
    let dockerfile = |seed: &str, name: &str| {
        format!(
            "RUN mkdir /s && echo {seed} > /s/f\nFROM ${{BASE}} AS other\nFROM ${{BASE}} AS {name}\n\
             RUN --mount=type=cache,target=/c,from=0,source=/s cat /c/f > /seen; ls /c >> /seen; touch /c/added\n"
        )
    };
    assert_eq!(cache.run(&dockerfile("seed", "one")).image().text("seen"), "seed\nf\n");
    assert_eq!(cache.run(&dockerfile("seed", "two")).image().text("seen"), "seed\nadded\nf\n");
    assert_eq!(cache.run(&dockerfile("new", "two")).image().text("seen"), "new\nf\n");
    // A mount that is what it began with is nothing to keep.
    let kept = cache.mounts().len();
    cache.run(&dockerfile("third", "two").replace("touch /c/added", "true"));
    assert_eq!(cache.mounts().len(), kept);
}

#[test]
fn nothing_is_kept_where_that_was_not_asked_for() {
    for flag in ["--cache-mounts=false", "--cache=false", "--no-push-cache"] {
        let cache = Cache::new();
        let ended = cache.build(COMPILE).flag(flag).run().succeeded();
        assert!(cache.mounts().is_empty() && !ended.stderr.contains("cache mount"), "{flag}: {}", ended.stderr);
    }
    let cache = Cache::new();
    cache.run(COMPILE);
    let read = |flag| cache.build(COMPILE).flag(flag).run().succeeded().image().text("seen");
    assert_eq!(read("--cache-mounts=false"), "cold\n");
    assert_eq!(read("--cache-ttl=0s"), "cold\n");
    assert_eq!(read("--no-push-cache"), "warm\n");
    let from = build(COMPILE).flag(&format!("--cache-from=oci:{}", cache.layout().display()));
    assert_eq!(from.run().succeeded().image().text("seen"), "warm\n");
}

#[test]
fn a_mount_that_was_emptied_is_empty_the_next_time() {
    let cache = Cache::new();
    cache.run(COMPILE);
    cache.run("RUN --mount=type=cache,target=/root/.cache rm /root/.cache/object\n");
    assert_eq!(cache.run(COMPILE).image().text("seen"), "cold\n");
}

#[test]
fn a_failing_step_leaves_its_mounts_and_one_that_is_cut_off_does_not() {
    let cache = Cache::new();
    let fail = COMPILE.replace("> /seen", "> /seen; false");
    cache.build(&fail).run().failed(Reason::RunFailed, &["exit code: 1"]);
    assert_eq!(cache.run(COMPILE).image().text("seen"), "warm\n");

    // Another stage is in the middle of its work when a step fails.
    let cache = Cache::new();
    let stages = "RUN --mount=type=cache,target=/busy --mount=type=cache,target=/meet touch /busy/half /meet/here; while :; do :; done\n\
         FROM ${BASE} AS failing\n\
         RUN --mount=type=cache,target=/meet --mount=type=cache,target=/done until [ -e /meet/here ]; do :; done; touch /done/x; false\n\
         FROM scratch\nCOPY --from=0 /etc /\nCOPY --from=failing /etc /\n";
    cache.build(stages).run().failed(Reason::RunFailed, &["exit code: 1"]);
    let look = "RUN --mount=type=cache,target=/busy --mount=type=cache,target=/done ls /busy /done > /seen\n";
    assert_eq!(cache.run(look).image().text("seen"), "/busy:\n\n/done:\nx\n");

    let cache = Cache::new();
    let slow = "RUN --mount=type=cache,target=/done touch /done/x\nRUN while :; do :; done\n";
    cache.build(slow).flag("--timeout=3s").run().failed(Reason::Timeout, &[]);
    assert!(cache.mounts().is_empty());
}

/// Puts a file of other bytes into the place of a blob of a manifest, and the manifest that this makes under the old tag: all
/// digests are right.
fn exchange(cache: &Cache, mount: &str, manifest: &Value, number: usize, change: impl Fn(&[u8]) -> Vec<u8>) {
    let store = |bytes: &[u8]| {
        let digest = format!("sha256:{}", hex(&Sha256::digest(bytes)));
        fs::write(cache.blob(&digest), bytes).unwrap();
        (Value::from(digest), Value::from(bytes.len()))
    };
    let mut manifest = manifest.clone();
    let blob = &mut manifest["layers"][number];
    let bytes = fs::read(cache.blob(blob["digest"].as_str().unwrap())).unwrap();
    (blob["digest"], blob["size"]) = store(&change(&bytes));
    let (digest, size) = store(&serde_json::to_vec(&manifest).unwrap());
    let path = cache.layout().join("index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for entry in index["manifests"].as_array_mut().unwrap().iter_mut().filter(|entry| entry["digest"] == mount) {
        (entry["digest"], entry["size"]) = (digest.clone(), size.clone());
    }
    fs::write(path, serde_json::to_vec(&index).unwrap()).unwrap();
}

/// Damages what is kept, and checks that the next build says so and begins empty, and that the one after it is warm again.
#[track_caller]
fn check_damage(words: &str, damage: impl Fn(&Cache, &str, &Value)) {
    let cache = Cache::new();
    cache.run(COMPILE);
    let mount = &cache.mounts()[0];
    let manifest = serde_json::from_slice(&fs::read(cache.blob(mount)).unwrap()).unwrap();
    damage(&cache, mount, &manifest);
    let ended = cache.run(COMPILE);
    assert!(ended.stderr.contains("warning:") && ended.stderr.contains(words), "{}", ended.stderr);
    assert_eq!(ended.image().text("seen"), "cold\n");
    assert_eq!(cache.run(COMPILE).image().text("seen"), "warm\n");
}

#[test]
fn what_is_damaged_is_a_warning_and_begins_empty() {
    let blob = |cache: &Cache, manifest: &Value, number: usize| {
        cache.blob(manifest["layers"][number]["digest"].as_str().unwrap())
    };
    for number in [0, 1] {
        check_damage("begins empty", |cache, _, manifest| {
            let path = blob(cache, manifest, number);
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0xff;
            fs::write(path, bytes).unwrap();
        });
        check_damage("begins empty", |cache, _, manifest| {
            let path = blob(cache, manifest, number);
            let bytes = fs::read(&path).unwrap();
            fs::write(path, &bytes[..bytes.len() - 9]).unwrap();
        });
        check_damage("begins empty", |cache, _, manifest| fs::remove_file(blob(cache, manifest, number)).unwrap());
    }
}

#[test]
fn what_was_unpacked_of_another_archive_is_gone_again() {
    // Its bytes twice over: every file is there, and it is not what the index says.
    check_damage("begins empty: cannot unpack", |cache, mount, manifest| {
        exchange(cache, mount, manifest, 0, |archive| [archive, archive].concat());
    });
    check_damage("begins empty: its index cannot be used", |cache, mount, manifest| {
        exchange(cache, mount, manifest, 1, |_| b"{}".to_vec());
    });
}

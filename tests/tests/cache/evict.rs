//! Chains of steps whose output is never the same twice, and what a cache can lose of them: numbers in, Dockerfiles and
//! damage out, and the check that an image holds one run of each step.

use std::{collections::BTreeMap, fs};

use karve_tests::{facts, layout::Layout};
use proptest::{collection::vec, prelude::*};

use crate::{
    ended::Ended,
    expiry,
    scene::{BUSYBOX, Scene, TAG},
};

/// Makes a token of its own name, and writes down every token that is there: `token NAME`.
pub(crate) const TOKEN: &str = "\
#!/bin/sh -e
mkdir -p /t /seen
head -c 8 /dev/urandom | od -A n -t x1 | tr -d ' \\n' > /t/$1
cd /t
for name in *; do echo \"$name=$(cat $name)\"; done > /seen/$1
";

/// Four stages: two have the files of the first, the last has those of both.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    /// How many steps each stage has.
    steps: [usize; 4],
    /// Whether a stage starts from another one instead of copying its files.
    on_top: [bool; 4],
    /// Whether the last stage also reads another by a mount.
    mounts: bool,
    /// Words of a step that change nothing about what it does, by its name.
    comments: BTreeMap<String, usize>,
}

/// What happens between two builds: something is lost of the cache, and these entries are in another cache, which has a run
/// of its own of everything.
#[derive(Debug, Clone)]
pub(crate) struct Round {
    loss: Loss,
    other: Vec<bool>,
}

#[derive(Debug, Clone)]
enum Loss {
    /// The entries go whose number, counted around, is false.
    Entries(Vec<bool>),
    /// The blobs go whose number, counted around, is false.
    Blobs(Vec<bool>),
    /// The entries whose number, counted around, is false look older than they may be.
    Ages(Vec<bool>),
    /// The entries go, and a step of the stage gets another definition, or its first one again.
    Edit(Vec<bool>, usize, usize),
}

/// Thinks of a chain.
pub(crate) fn chain() -> impl Strategy<Value = Chain> {
    let steps = [1..4_usize, 1..3, 1..3, 1..4];
    (steps, any::<[bool; 4]>(), any::<bool>()).prop_map(|(steps, on_top, mounts)| Chain {
        on_top,
        mounts,
        ..Chain::new(steps)
    })
}

/// Thinks of a round.
pub(crate) fn round() -> impl Strategy<Value = Round> {
    let bits = || vec(any::<bool>(), 1..9);
    let loss = prop_oneof![
        4 => bits().prop_map(Loss::Entries),
        1 => bits().prop_map(Loss::Blobs),
        2 => bits().prop_map(Loss::Ages),
        2 => (bits(), 0..4_usize, 0..3_usize).prop_map(|(bits, stage, step)| Loss::Edit(bits, stage, step)),
    ];
    let other = prop_oneof![1 => Just(vec![false]), 2 => bits()];
    (loss, other).prop_map(|(loss, other)| Round { loss, other })
}

/// Keeps the entries whose number, counted around, is true.
fn keep(cache: &Layout, kept: &[bool]) {
    let mut kept = kept.iter().cycle();
    cache.retain(|_| *kept.next().expect("a cycle never ends"));
}

impl Chain {
    /// Returns a chain with that many steps in each stage.
    pub(crate) fn new(steps: [usize; 4]) -> Self {
        Self { steps, on_top: [false; 4], mounts: false, comments: BTreeMap::new() }
    }

    /// Writes the Dockerfile.
    pub(crate) fn write(&self, scene: &Scene) {
        let (_, base) = BUSYBOX.trim_end().split_once('\n').expect("it has two lines");
        let token = "COPY --chmod=755 token /bin/\n";
        let stage = |number: usize, below: &str, copies: &str| {
            let steps = (0..self.steps[number]).map(|step| {
                let name = format!("{number}-{step}");
                let comment = self.comments.get(&name).copied().unwrap_or_default();
                format!("RUN token {name} # {comment}\n")
            });
            let start = if self.on_top[number] && number > 0 {
                format!("FROM {below} AS s{number}\n")
            } else {
                format!("{base} AS s{number}\n{token}COPY{copies} /t /t\n").replace("COPY /t /t\n", "")
            };
            start + &steps.collect::<String>()
        };
        let more = "COPY --from=s2 /seen /seen\nCOPY --from=s2 /t /t\nCOPY --from=s1 /seen /seen\n";
        let mount = "RUN --mount=from=s2,target=/m cat /m/seen/* > /seen/mounted\n";
        let mount = if self.mounts { mount } else { "" };
        let last = stage(3, "s1", " --from=s1");
        let stages = [stage(0, "", ""), stage(1, "s0", " --from=s0"), stage(2, "s0", " --from=s0"), last];
        scene.write("Dockerfile", &format!("ARG BASE\n{}{more}{mount}", stages.concat()));
    }

    /// Takes something away from both caches, and perhaps edits the Dockerfile.
    pub(crate) fn lose(&mut self, scene: &Scene, other: &Layout, Round { loss, other: others }: &Round) {
        let cache = scene.cache();
        keep(other, others);
        match loss {
            Loss::Entries(kept) => keep(&cache, kept),
            Loss::Blobs(kept) => {
                let mut blobs = cache.blobs();
                blobs.sort();
                for (path, _) in blobs.iter().zip(kept.iter().cycle()).filter(|(_, kept)| !**kept) {
                    fs::remove_file(path).expect("the directory is ours");
                }
            }
            Loss::Ages(young) => {
                let mut young = young.iter().cycle();
                expiry::age(&cache, |_| !*young.next().expect("a cycle never ends"));
            }
            Loss::Edit(kept, stage, step) => {
                keep(&cache, kept);
                *self.comments.entry(format!("{stage}-{}", step % self.steps[*stage])).or_default() ^= 1;
                self.write(scene);
            }
        }
    }

    /// Checks that everything in the image is of one run of each step, and that every step is in it.
    #[track_caller]
    pub(crate) fn check(&self, built: &Ended) {
        let facts = facts::of_layout(&built.layout(), TAG);
        let mut tokens: BTreeMap<String, String> = BTreeMap::new();
        for (path, attributes) in facts.iter().filter(|(path, _)| path.starts_with("/seen/") || path.starts_with("/t/"))
        {
            let content = attributes["content"].trim_matches('"');
            let name = path.rsplit('/').next().unwrap_or_default();
            let lines = if path.starts_with("/t/") { vec![format!("{name}={content}")] } else { lines(content) };
            for line in lines {
                let (name, token) = line.split_once('=').expect("a line is NAME=TOKEN");
                let first = tokens.entry(name.to_owned()).or_insert_with(|| token.to_owned());
                assert_eq!(first, token, "{path} is of another run of step {name}:\n{}", built.stderr);
            }
        }
        assert_eq!(tokens.len(), self.steps.iter().sum::<usize>(), "{tokens:?}");
    }
}

/// Takes the lines of a file apart, whose content is shown as a literal.
fn lines(content: &str) -> Vec<String> {
    content.split("\\n").filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

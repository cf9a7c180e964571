//! A project as data: what a generator thinks of in; a context, a Dockerfile and flags on disk out.

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, symlink},
};

use crate::{bases::Bases, scene::Scene};

/// What is at a path of the context.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    /// Content and mode.
    File(String, u32),
    /// Where it leads.
    Link(String),
}

/// A stage of the Dockerfile.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    /// What it begins from.
    pub(crate) start: Start,
    /// Instructions, in which `{from}` stands for an earlier stage.
    pub(crate) steps: Vec<String>,
}

/// What a stage begins from. What cannot be, such as an earlier stage of the first, is the base image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    Base,
    Scratch,
    Before,
}

/// A project.
#[derive(Debug, Clone)]
pub(crate) struct Project {
    /// By their paths in the context.
    pub(crate) files: BTreeMap<String, Node>,
    /// Patterns of `.dockerignore`.
    pub(crate) ignored: Vec<String>,
    /// Values of `--build-arg`.
    pub(crate) arguments: BTreeMap<String, String>,
    /// Which of the base images.
    pub(crate) base: usize,
    pub(crate) stages: Vec<Stage>,
}

/// One change of a project, as people make them. Numbers choose among what there is.
#[derive(Debug, Clone)]
pub(crate) enum Edit {
    Write(String, Node),
    Delete(usize),
    Rename(usize, String),
    Mode(usize, u32),
    Argument(String, Option<String>),
    Ignore(Vec<String>),
    Base(usize),
    Swap(usize, usize),
    Insert(usize, usize, String),
    Replace(usize, usize, String),
    Remove(usize, usize),
    Start(usize, Start),
}

impl Project {
    /// Makes a change; one that makes no sense changes nothing.
    pub(crate) fn apply(&mut self, edit: &Edit) {
        match edit {
            Edit::Write(path, node) => drop(self.files.insert(path.clone(), node.clone())),
            Edit::Delete(number) => drop(self.name(*number).and_then(|name| self.files.remove(&name))),
            Edit::Rename(number, to) => {
                if let Some(node) = self.name(*number).and_then(|name| self.files.remove(&name)) {
                    self.files.insert(to.clone(), node);
                }
            }
            Edit::Mode(number, new) => {
                if let Some(Node::File(_, mode)) = self.name(*number).and_then(|name| self.files.get_mut(&name)) {
                    *mode = *new;
                }
            }
            Edit::Argument(name, Some(value)) => drop(self.arguments.insert(name.clone(), value.clone())),
            Edit::Argument(name, None) => drop(self.arguments.remove(name)),
            Edit::Ignore(patterns) => self.ignored.clone_from(patterns),
            Edit::Base(number) => self.base = *number,
            Edit::Swap(stage, number) => {
                let steps = self.steps(*stage);
                if steps.len() > 1 {
                    let at = number % (steps.len() - 1);
                    steps.swap(at, at + 1);
                }
            }
            Edit::Insert(stage, number, text) => {
                let steps = self.steps(*stage);
                let at = number % (steps.len() + 1);
                steps.insert(at, text.clone());
            }
            Edit::Replace(stage, number, text) => {
                let steps = self.steps(*stage);
                let count = steps.len().max(1);
                if let Some(step) = steps.get_mut(number % count) {
                    step.clone_from(text);
                }
            }
            Edit::Remove(stage, number) => {
                let steps = self.steps(*stage);
                if !steps.is_empty() {
                    steps.remove(number % steps.len());
                }
            }
            Edit::Start(stage, start) => {
                let count = self.stages.len();
                self.stages[stage % count].start = *start;
            }
        }
    }

    /// Chooses a file that no COPY needs.
    fn name(&self, number: usize) -> Option<String> {
        let names: Vec<&String> = self.files.keys().filter(|name| !name.contains("keep")).collect();
        names.get(number % names.len().max(1)).map(|name| (*name).clone())
    }

    fn steps(&mut self, stage: usize) -> &mut Vec<String> {
        let count = self.stages.len();
        &mut self.stages[stage % count].steps
    }

    /// Writes the project in place of what the scene has.
    pub(crate) fn write(&self, scene: &mut Scene, bases: &Bases) {
        let root = scene.context("");
        fs::remove_dir_all(&root).expect("the directory is ours");
        for (path, node) in &self.files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("a file has a directory")).expect("the directory is ours");
            match node {
                Node::File(content, mode) => {
                    fs::write(&path, content).expect("the directory is ours");
                    fs::set_permissions(&path, Permissions::from_mode(*mode)).expect("the file is ours");
                }
                Node::Link(target) => symlink(target, &path).expect("the directory is ours"),
            }
        }
        scene.write("Dockerfile", &self.dockerfile());
        scene.write(".dockerignore", &self.ignored.join("\n"));
        scene.arguments.clone_from(&self.arguments);
        scene.set("BASE", &bases.reference(self.base));
    }

    /// Writes the Dockerfile. Every stage has `/d/keep`, so that others can copy something.
    fn dockerfile(&self) -> String {
        let mut lines = vec!["ARG BASE\nARG G=global\n".to_owned()];
        let mut shells: Vec<bool> = Vec::new();
        for (number, stage) in self.stages.iter().enumerate() {
            let before = number.checked_sub(1);
            let (start, has_shell) = match (stage.start, before) {
                (Start::Scratch, _) => ("scratch".to_owned(), false),
                (Start::Before, Some(before)) => (format!("s{before}"), shells[before]),
                _ => ("${BASE}".to_owned(), true),
            };
            shells.push(has_shell);
            lines.push(format!("FROM {start} AS s{number}\nCOPY keep /d/\n"));
            for step in &stage.steps {
                let needs_shell = step.starts_with("RUN") || step.contains("=user");
                let needs_stage = step.contains("{from}");
                if (!needs_shell || has_shell) && (!needs_stage || number > 0) {
                    // The stages of an image have no cycles: any earlier one will do.
                    let from = format!("s{}", step.len() % number.max(1));
                    lines.push(step.replace("{from}", &from) + "\n");
                }
            }
        }
        lines.concat()
    }
}

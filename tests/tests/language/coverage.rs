//! docs/dockerfile.md against what is tested: the table of instructions and flags is made from the corpus, every promise
//! has a test that names it, and every test names a promise.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use karve_dockerfile::lint::Rule;
use regex::Regex;

use crate::corpus::{self, Case};

/// The page.
const PAGE: &str = "docs/dockerfile.md";

/// What stands behind a generated part; before it stands its name.
const END: &str = "<!-- end -->\n";

/// The variable of the environment that asks for a new table.
const UPDATE: &str = "KARVE_UPDATE_DOCS";

/// How a use of it looks: a pattern for a whole instruction on one line, without its name.
type Row = (&'static str, &'static str, &'static str, &'static str);

/// Instruction, what of it, the version of `docker/dockerfile` that brought it, and how it looks.
const ROWS: [Row; 84] = [
    ("FROM", "an image", "", r"^(?:--\S+ )?\{\{base\}\}"),
    ("FROM", "a stage", "", r"^[a-z][\w.-]*(?: AS \S+)?$"),
    ("FROM", "`scratch`", "", r"^(?:--\S+ )?scratch"),
    ("FROM", "`AS`", "", r"(?i) as \S+$"),
    ("FROM", "`--platform`", "", r"^--platform="),
    ("ARG", "without a value", "", r"^\w+$"),
    ("ARG", "with a default", "", r"^\w+="),
    ("ARG", "several", "1.1", r"^\S+ \S+"),
    ("ENV", "`NAME=value`", "", r"^\w+="),
    ("ENV", "`NAME value`", "", r"^\w+ "),
    ("LABEL", "`name=value`", "", r"^[^ =]+="),
    ("LABEL", "`name value`", "", r"^[^ =]+ "),
    ("RUN", "shell form", "", r"^[^-\[<]"),
    ("RUN", "exec form", "", r"^(?:--\S+ )*\["),
    ("RUN", "heredoc", "1.4", r"<<"),
    ("RUN", "`--mount=type=bind`", "1.2", r"--mount=(?:type=bind|target=|source=|src=|from=)"),
    ("RUN", "`--mount=type=bind,from`", "1.2", r"--mount=\S*from="),
    ("RUN", "`--mount=type=bind,source`", "1.2", r"--mount=\S*(?:source|src)="),
    ("RUN", "`--mount=type=bind,rw`", "1.2", r"--mount=\S*,(?:rw|readwrite)\b"),
    ("RUN", "`--mount=type=cache`", "1.2", r"--mount=\S*type=cache"),
    ("RUN", "`--mount=type=cache,id`", "1.2", r"--mount=\S*type=cache\S*,id="),
    ("RUN", "`--mount=type=cache,sharing`", "1.2", r"--mount=\S*type=cache\S*,sharing="),
    ("RUN", "`--mount=type=cache,ro`", "1.2", r"--mount=\S*type=cache\S*,(?:ro|readonly)"),
    ("RUN", "`--mount=type=cache,from`", "1.2", r"--mount=\S*type=cache\S*,from="),
    ("RUN", "`--mount=type=cache,mode,uid,gid`", "1.2", r"--mount=\S*type=cache\S*,(?:mode|uid|gid)="),
    ("RUN", "`--mount=type=tmpfs`", "1.2", r"--mount=\S*type=tmpfs"),
    ("RUN", "`--mount=type=tmpfs,size`", "1.2", r"--mount=\S*type=tmpfs\S*,size="),
    ("RUN", "`--mount=type=secret`", "1.2", r"--mount=\S*type=secret"),
    ("RUN", "`--mount=type=secret,env`", "1.10", r"--mount=\S*type=secret\S*,env="),
    ("RUN", "`--mount=type=secret,required`", "1.2", r"--mount=\S*type=secret\S*,required"),
    ("RUN", "`--mount=type=secret,mode,uid,gid`", "1.2", r"--mount=\S*type=secret\S*,(?:mode|uid|gid)="),
    ("RUN", "`--mount=type=ssh`", "1.2", r"--mount=\S*type=ssh"),
    ("RUN", "`--network`", "1.3", r"--network="),
    ("RUN", "`--security`", "1.20", r"--security="),
    ("RUN", "`--device`", "1.27", r"--device="),
    ("COPY", "words", "", r"^[^-\[<]"),
    ("COPY", "JSON form", "", r"^(?:--\S+ )*\["),
    ("COPY", "heredoc", "1.4", r"<<"),
    ("COPY", "wildcards", "", r"[*?]"),
    ("COPY", "`--from`", "", r"--from="),
    ("COPY", "`--chown`", "", r"--chown="),
    ("COPY", "`--chmod`, octal", "1.2", r"--chmod=[0-9]"),
    ("COPY", "`--chmod`, symbolic", "1.14", r"--chmod=[^0-9 ]"),
    ("COPY", "`--link`", "1.4", r"--link"),
    ("COPY", "`--parents`", "1.20", r"--parents"),
    ("COPY", "`--exclude`", "1.19", r"--exclude="),
    ("ADD", "words", "", r"^[^-\[<]"),
    ("ADD", "JSON form", "", r"^(?:--\S+ )*\["),
    ("ADD", "heredoc", "1.4", r"<<"),
    ("ADD", "an archive", "", r"\S+\.(?:tar|tgz|tar\.\w+|txz|tzst)\b"),
    ("ADD", "a URL", "", r"https?://|\{\{\w*(?:http|files)"),
    ("ADD", "a git repository", "1.1", r"\.git\b|\{\{\w*git"),
    ("ADD", "`--keep-git-dir`", "1.1", r"--keep-git-dir"),
    ("ADD", "`--checksum`", "1.6", r"--checksum="),
    ("ADD", "`--unpack`", "1.17", r"--unpack"),
    ("ADD", "`--chown`", "", r"--chown="),
    ("ADD", "`--chmod`", "1.2", r"--chmod="),
    ("ADD", "`--link`", "1.4", r"--link"),
    ("ADD", "`--exclude`", "1.19", r"--exclude="),
    ("WORKDIR", "absolute", "", r"^/"),
    ("WORKDIR", "relative", "", r"^[^/]"),
    ("USER", "a name", "", r"^[a-z]\w*$"),
    ("USER", "numbers", "", r"^\d+"),
    ("USER", "with a group", "", r":"),
    ("EXPOSE", "a port", "", r"^\d+(?:/\w+)?(?: |$)"),
    ("EXPOSE", "a range", "", r"\d-\d"),
    ("VOLUME", "words", "", r"^[^\[]"),
    ("VOLUME", "JSON form", "", r"^\["),
    ("CMD", "shell form", "", r"^[^\[]"),
    ("CMD", "exec form", "", r"^\["),
    ("ENTRYPOINT", "shell form", "", r"^[^\[]"),
    ("ENTRYPOINT", "exec form", "", r"^\["),
    ("SHELL", "JSON form", "", r"^\["),
    ("STOPSIGNAL", "a name or a number", "", r"."),
    ("HEALTHCHECK", "`CMD`", "", r"CMD"),
    ("HEALTHCHECK", "`NONE`", "", r"^NONE"),
    ("HEALTHCHECK", "`--interval`, `--timeout`", "", r"--(?:interval|timeout)="),
    ("HEALTHCHECK", "`--start-period`", "", r"--start-period="),
    ("HEALTHCHECK", "`--start-interval`", "1.6", r"--start-interval="),
    ("HEALTHCHECK", "`--retries`", "", r"--retries="),
    ("ONBUILD", "metadata", "", r"^(?:ENV|LABEL|CMD|USER|ARG|WORKDIR)"),
    ("ONBUILD", "RUN", "", r"^RUN"),
    ("ONBUILD", "COPY, ADD", "", r"^(?:COPY|ADD)"),
    ("MAINTAINER", "a name", "", r"."),
];

/// Every use of an instruction in the corpus, on one line each, with whether the case must fail.
fn uses() -> Vec<(String, String, bool)> {
    let cases: Vec<Case> = corpus::folders().iter().flat_map(|name| corpus::folder(name)).collect();
    let mut uses = Vec::new();
    for case in &cases {
        let fails = case.values("fails").next().is_some();
        let dockerfiles = case.sections.iter().filter(|section| section.path.to_lowercase().contains("dockerfile"));
        for section in dockerfiles {
            for line in section.text.replace("\\\n", " ").lines() {
                let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
                let Some((name, rest)) = line.split_once(' ') else { continue };
                uses.push((name.to_uppercase(), rest.to_owned(), fails));
            }
        }
    }
    uses
}

/// The table as Markdown.
fn table() -> String {
    let uses = uses();
    let mut table = String::from("\n| instruction | what of it | since | builds | fails |\n|---|---|---|---|---|\n");
    for (instruction, what, since, pattern) in ROWS {
        let pattern = Regex::new(pattern).unwrap();
        let count = |failing: bool| {
            let uses = uses
                .iter()
                .filter(|(name, rest, fails)| name == instruction && *fails == failing && pattern.is_match(rest));
            uses.count()
        };
        let (builds, fails) = (count(false), count(true));
        assert!(builds + fails > 0, "no case of the corpus has {instruction} with {what}");
        writeln!(table, "| {instruction} | {what} | {since} | {builds} | {fails} |").unwrap();
    }
    table + "\n"
}

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

#[test]
fn the_table_is_what_the_corpus_tests() {
    let path = project().join(PAGE);
    let page = fs::read_to_string(&path).unwrap();
    let made = with_part(&with_part(&page, "coverage", &table()), "differences", &differences());
    if std::env::var_os(UPDATE).is_some() {
        fs::write(&path, made).unwrap();
    } else {
        assert_eq!(page, made, "{PAGE} is stale: run `make generate`");
    }
}

/// Replaces a generated part of a page.
fn with_part(page: &str, name: &str, text: &str) -> String {
    let start = format!("<!-- generated: {name} -->\n");
    let (before, rest) = page.split_once(&start).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    [before, &start, text, END, after].concat()
}

/// Why Karve builds some cases otherwise than BuildKit, as a list.
fn differences() -> String {
    let cases: Vec<Case> = corpus::folders().iter().flat_map(|name| corpus::folder(name)).collect();
    let reasons = cases.iter().filter_map(|case| Some((case.value("because")?, case.name.as_str())));
    let lines = reasons.collect::<BTreeSet<_>>().into_iter().filter_map(|(reason, name)| {
        let (promise, why) = reason.split_once(": ")?;
        Some(format!("* **{promise}** `{name}`: {why}.\n"))
    });
    format!("\n{}\n", lines.collect::<String>())
}

/// The promises of the page: `K4` and so on.
fn promises() -> BTreeSet<String> {
    let page = fs::read_to_string(project().join(PAGE)).unwrap();
    let promise = Regex::new(r"(?m)^\* \*\*([A-Z]\d+)\*\* ").unwrap();
    promise.captures_iter(&page).map(|found| found[1].to_owned()).collect()
}

/// The promises that functions name, each with a file.
fn named() -> BTreeMap<String, String> {
    let function = Regex::new(r"fn ([pdhvfacrkg]\d+)_\w+\(").unwrap();
    let mut named = BTreeMap::new();
    let mut directories = vec![project().join("executor"), project().join("tests/tests")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let promises = function.captures_iter(&text).map(|found| found[1].to_uppercase());
                named.extend(promises.map(|name| (name, path.display().to_string())));
            }
        }
    }
    named
}

/// The names of lint rules: cases of the corpus name them as they do promises.
fn rules() -> BTreeSet<String> {
    Rule::ALL.iter().map(|rule| rule.name().to_owned()).collect()
}

#[test]
fn every_test_that_names_a_promise_names_one_of_the_page() {
    let promises = promises();
    let unknown: Vec<_> = named().into_iter().filter(|(name, _)| !promises.contains(name)).collect();
    assert!(unknown.is_empty(), "{PAGE} lacks {unknown:?}");
}

#[test]
fn every_promise_and_every_lint_rule_has_a_case() {
    let cases = corpus::folders().iter().flat_map(|name| corpus::folder(name)).collect::<Vec<Case>>();
    let named = cases.iter().flat_map(|case| case.values("criteria")).flat_map(str::split_whitespace);
    let named: BTreeSet<String> = named.map(str::to_owned).collect();
    assert_eq!(named, promises().into_iter().chain(rules()).collect());
    let unique: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(unique.len(), cases.len(), "images are named after cases: two have one name");
}

//! Pathological Dockerfiles: four times the length must not take sixteen times the work.
//!
//! The work is measured in time of this thread on a processor, so that a busy machine does not matter, and only ever
//! compared with itself.
#![expect(clippy::unwrap_used, reason = "a clock that cannot be read is a failed test")]

use std::{fmt::Write as _, fs, time::Duration};

use karve_dockerfile::{
    ast::Kind,
    expand::{Budget, Expander},
    ignore::Patterns,
    lint, parse,
};

/// The shorter of the two lengths.
const SHORT_BYTES: usize = 256 << 10;

/// How much longer the longer one is.
const FACTOR: u32 = 4;

/// What is too little to be measured: the kernel counts in ticks.
const TICK: Duration = Duration::from_millis(5);

/// The longest line that is read.
const LINE_BYTES: usize = 60_000;

/// A kind of file: its name and what it looks like at a length.
type Shape = (&'static str, fn(usize) -> String);

/// Repeats a piece up to a length.
fn fill(piece: &str, bytes: usize) -> String {
    piece.repeat(bytes / piece.len() + 1)
}

/// Fills lines that begin alike.
fn lines(start: &str, piece: &str, bytes: usize) -> String {
    let line = format!("{start}{}\n", fill(piece, LINE_BYTES.min(bytes)));
    fill(&line, bytes)
}

/// Makes one instruction of many lines.
fn continued(start: &str, line: &str, bytes: usize) -> String {
    format!("FROM a\n{start}{}", fill(&format!("{line} \\\n"), bytes))
}

/// Numbers lines.
fn numbered(bytes: usize, line: impl Fn(usize) -> String) -> String {
    let mut text = String::new();
    for number in 0.. {
        text.push_str(&line(number));
        if text.len() > bytes {
            break;
        }
    }
    text
}

const SHAPES: &[Shape] = &[
    ("one line", |bytes| fill("x", bytes)),
    ("empty lines", |bytes| fill("\n", bytes)),
    ("escapes alone", |bytes| format!("FROM a\nRUN {}", fill("\\\n", bytes))),
    ("blank continuations", |bytes| continued("RUN a", " \\\n\n", bytes)),
    ("comments", |bytes| format!("{}FROM a", fill("# a comment\n", bytes))),
    ("comments in a continuation", |bytes| format!("FROM a\nRUN a \\\n{}b", fill("# c\n", bytes))),
    ("check comments", |bytes| format!("FROM a\n{}", fill("# check=skip=A,B,C\n", bytes))),
    ("check comments with instructions", |bytes| format!("FROM a\n{}", fill("# check=skip=all\nUSER x\n", bytes))),
    ("directives", |bytes| fill("# check=skip=a\n", bytes)),
    ("flags", |bytes| continued("RUN ", "--mount=type=tmpfs,target=/x", bytes)),
    ("wrong flags", |bytes| continued("COPY ", "--chwon=1", bytes)),
    ("empty flags", |bytes| continued("COPY ", "--", bytes)),
    ("words of COPY", |bytes| continued("COPY ", "é a b", bytes)),
    ("pairs of ENV", |bytes| continued("ENV ", "a=b c=d", bytes)),
    ("quotes", |bytes| format!("FROM a\n{}", lines("ENV a=", "\"'", bytes))),
    ("escaped quotes", |bytes| format!("FROM a\n{}", lines("ENV a=", "\\\"\\'", bytes))),
    ("brackets", |bytes| format!("FROM a\n{}", lines("RUN ", "[", bytes))),
    ("JSON of strings", |bytes| format!("FROM a\n{}", lines("RUN [\"a\"", ",\"b\"", bytes))),
    ("deep JSON", |bytes| format!("FROM a\n{}", lines("CMD ", "[\"a\",[", bytes))),
    ("JSON document", |bytes| format!("{{{}}}", fill("\"a\":[", bytes))),
    ("heredocs", |bytes| format!("FROM a\n{}", fill("RUN <<A\nb\nA\n", bytes))),
    ("heredocs of one line", |bytes| format!("FROM a\nCOPY {} /\n{}", fill("<<A ", LINE_BYTES), fill("x\n", bytes))),
    ("heredoc words", |bytes| format!("FROM a\n{}", lines("RUN : ", "<<  ", bytes))),
    ("blanks and a heredoc", |bytes| {
        let line = format!("RUN a{}b <<E\nE\n", fill(" ", LINE_BYTES.min(bytes)));
        format!("FROM a\n{}", fill(&line, bytes))
    }),
    ("open heredoc", |bytes| format!("FROM a\nRUN <<A\n{}", fill("b\n", bytes))),
    ("open heredocs", |bytes| format!("FROM a\n{}", fill("COPY <<A /\n", bytes))),
    ("less-than signs", |bytes| format!("FROM a\n{}", lines("RUN ", "<", bytes))),
    ("unknown words", |bytes| format!("FROM a\n{}", fill("RUNN x\n", bytes))),
    ("long unknown words", |bytes| format!("FROM a\n{}", fill(&format!("{}\n", "E".repeat(64)), bytes))),
    ("triggers", |bytes| format!("FROM a\n{}", fill("ONBUILD RUN x\n", bytes))),
    ("a long trigger", |bytes| continued("ONBUILD RUN ", "x", bytes)),
    ("stages", |bytes| numbered(bytes, |number| format!("FROM s{} AS s{number}\n", number.saturating_sub(1)))),
    ("arguments", |bytes| numbered(bytes, |number| format!("ARG a{number}=1\n"))),
    ("casing", |bytes| format!("FROM a\n{}", fill("user x\nUSER x\n", bytes))),
    ("wide characters", |bytes| format!("FROM a\n{}", lines("ENV ", "日", bytes))),
    ("no text", |bytes| fill("\u{0}", bytes)),
];

/// Time that this thread has had on a processor.
fn spent() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// Returns the least of a few measurements.
fn measure(mut work: impl FnMut()) -> Duration {
    let once = || {
        let before = spent();
        work();
        spent().saturating_sub(before)
    };
    std::iter::repeat_with(once).take(3).min().unwrap()
}

/// Compares the work for two lengths.
#[track_caller]
fn check(name: &str, mut work: impl FnMut(usize) -> Duration) {
    let (short, long) = (work(SHORT_BYTES), work(SHORT_BYTES * FACTOR as usize));
    assert!(long < short.max(TICK) * 2 * FACTOR, "{name}: {short:?} becomes {long:?} for {FACTOR} times the length");
}

#[test]
fn parsing_and_linting_take_time_in_proportion_to_the_text() {
    for (name, shape) in SHAPES {
        check(name, |bytes| {
            let text = shape(bytes);
            measure(|| match parse(&text) {
                Err(mistakes) => assert!(!mistakes.render("Dockerfile").is_empty()),
                Ok(dockerfile) => {
                    let Ok(linter) = lint::Linter::new(&dockerfile, None) else { return };
                    lint::file(&dockerfile, &linter);
                    let instructions = dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
                    instructions.for_each(|instruction| lint::instruction(instruction, &linter));
                    assert!(linter.finish().show(&dockerfile).len() <= 2 * lint::WARNINGS_MAX);
                }
            })
        });
    }
}

#[test]
fn expansion_takes_time_in_proportion_to_the_word() {
    let pieces =
        ["$a", "${a}", "${a:-b}", "${a%b}", "${a//a/b}", "\"$a\"", "'$a'", "\\$a", "${", "${a:-", "\"", "${a/", " "];
    for piece in pieces {
        check(piece, |bytes| {
            let word = fill(piece, bytes / 8);
            let lookup = |name: &str| (name == "a").then_some("abab");
            measure(|| {
                let budget = Budget::default();
                let expander = Expander { escape: '\\', lookup: &lookup, budget: &budget };
                drop((expander.word(&word), expander.words(&word), expander.body(&word)));
            })
        });
    }
}

#[test]
fn ignore_patterns_take_time_in_proportion_to_their_text() {
    check("lines", |bytes| {
        // There may be as many lines as this.
        let mut text = String::new();
        for number in 0..bytes / 256 {
            writeln!(text, "**/directory{number}/*.[a-z]").unwrap();
        }
        measure(|| assert!(!Patterns::parse(&text).unwrap().excludes(b"a/b/c/d")))
    });
    check("paths", |bytes| {
        let patterns = Patterns::parse("**/a*b?c[d-f]\n!**/*x\n").unwrap();
        let path = fill("ab/", bytes / 64);
        measure(|| assert!(!patterns.excludes(path.trim_end_matches('/').as_bytes())))
    });
}

#[test]
fn instructions_of_growing_files_are_the_same() {
    let dockerfile = parse(format!("FROM a\n{}", "RUN <<A\nb\nA\n".repeat(100))).unwrap();
    let bodies = dockerfile.stages[0]
        .instructions
        .iter()
        .filter(|each| matches!(&each.kind, Kind::Run(run) if run.heredocs[0].body == "b\n"));
    assert_eq!(bodies.count(), 100);
}

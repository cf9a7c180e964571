//! Thinks of projects and of edits. Most of them build: what COPY needs is always there, and commands may fail in silence.

use std::collections::BTreeMap;

use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::{
    bases::Bases,
    project::{Edit, Node, Project, Stage, Start},
};

/// Files that come and go. Names that are alike, in each other, and with blanks.
const PATHS: [&str; 10] = ["a/x", "a/xx", "a/b/x", "b/x", "b/x y", "b/y", "x", "x y", "a/keep", "b/keep"];

/// What COPY takes from the context.
const SOURCES: [&str; 10] =
    ["a", "a/", "a b", "b/*", "keep a/k*", ".", "a/b* keep", "a/./b*/ b", "[\"b/keep\", \"a/keep\",", "?eep"];

/// Where COPY puts it.
const TARGETS: [&str; 8] = ["/d/", "./", "/d/a/", "/w/e/", "/d/$X/", "${Y:-none}/", "/link/", "/d/a/b/"];

/// Flags of COPY.
const FLAGS: [&str; 10] = [
    "",
    "",
    "--chown=7:8 ",
    "--chown=user ",
    "--chmod=750 ",
    "--link ",
    "--link --chown=9 ",
    "--exclude=**/x* ",
    "--parents ",
    "--chown=$Z:3 ",
];

/// What changes metadata, or only a directory.
const METADATA: [&str; 34] = [
    "ARG X",
    "ARG X=default",
    "ARG Y=$X",
    "ARG Y",
    "ARG Z=5",
    "ARG G",
    "ARG HTTP_PROXY",
    "ENV A=1",
    "ENV A=2",
    "ENV X=env",
    "ENV B=\"1 C=2\"",
    "ENV B=1 C=2",
    "ENV Y=${X}y A=$B",
    "WORKDIR /w",
    "WORKDIR sub",
    "WORKDIR /w/$X",
    "WORKDIR ..",
    "WORKDIR /d/a",
    "USER user",
    "USER 1000:7",
    "USER 0",
    "USER ${Z:-7}",
    "USER root:user",
    "SHELL [\"/bin/sh\", \"-fc\"]",
    "SHELL [\"/bin/sh\", \"-c\"]",
    "SHELL [\"/bin/ash\", \"-xc\"]",
    "LABEL l=$X m=1",
    "LABEL m=2",
    "CMD [\"x\"]",
    "CMD x $Y",
    "EXPOSE 80",
    "ENTRYPOINT x",
    "STOPSIGNAL 9",
    "VOLUME /d",
];

/// Commands that write down what they see.
const LOOKS: [&str; 9] = [
    "RUN find /d /w /link -type f -print0 2>/dev/null | sort -z | xargs -0 -r md5sum > /tmp/sums 2>&1 || true",
    "RUN find / -xdev -path /tmp/tree -prune -o -path /proc -prune -o -path /sys -prune -o -path /dev -prune -o -print0 2>/dev/null | sort -z | xargs -0 stat -c '%n %a %u:%g %F' > /tmp/tree || true",
    "RUN (env | sort > /tmp/env) || true",
    "RUN (id; pwd; umask) > /tmp/who || true",
    "RUN echo \"$X $Y $A $B\" >> /tmp/log * || true",
    "RUN <<EOT\necho $X\ncat /d/* /d/a/* > /tmp/all\ntrue\nEOT",
    "RUN [\"/bin/sh\", \"-c\", \"echo exec $A > /tmp/exec\"]",
    "RUN --mount=target=/m find /m -type f -exec md5sum {} + | sort > /tmp/mounted || true",
    "RUN --mount=from={from},source=/d,target=/m ls -lnR /m | awk '{print $1, $3, $4, $NF}' > /tmp/mounted || true",
];

/// Commands that change what they find.
const CHANGES: [&str; 16] = [
    "RUN rm -rf /d/a || true",
    "RUN rm -rf /d/a; mkdir -p /d/a && echo new > /d/a/new || true",
    "RUN mv /d/a /d/moved || true",
    "RUN mkdir -p /d/a && ln -s a /d/link || true",
    "RUN ln -s /w /link || true",
    "RUN ln /d/keep /tmp/hard || true",
    "RUN chmod -R g-w,o+x /d || true",
    "RUN chown -R 5:6 /d || true",
    "RUN chmod 4755 /d/keep || true",
    "RUN touch /d/keep /d || true",
    "RUN echo $X > /tmp/x || true",
    "RUN echo fixed > /tmp/x || true",
    "RUN true",
    "RUN --mount=source=a,target=/m,rw cp -r /m /tmp/ && rm -rf /m/* || true",
    "RUN --mount=type=cache,target=/c echo > /c/x || true",
    "RUN mknod /tmp/fifo p || true; rm -f /tmp/log /tmp/x || true",
];

/// What a COPY --from takes: every stage has it.
const STAGE_SOURCES: [&str; 4] = ["/d", "/d/", "/d/k* /d/a*", "/d/./keep"];

fn instruction() -> impl Strategy<Value = String> {
    let copy = (select(FLAGS.to_vec()), select(SOURCES.to_vec()), select(TARGETS.to_vec())).prop_map(
        |(flags, sources, target)| {
            let target = if sources.starts_with('[') { format!("\"{target}\"]") } else { target.to_owned() };
            format!("COPY {flags}{sources} {target}")
        },
    );
    let from = (select(FLAGS.to_vec()), select(STAGE_SOURCES.to_vec()), select(TARGETS.to_vec()))
        .prop_map(|(flags, sources, target)| format!("COPY --from={{from}} {flags}{sources} {target}"));
    let heredoc = (select(vec!["EOT", "'EOT'"]), select(vec!["", "$X", "a\\tb", "# no"]), select(TARGETS.to_vec()))
        .prop_map(|(quoted, text, target)| format!("COPY <<{quoted} {target}\nfile {text}\nEOT"));
    prop_oneof![
        4 => copy,
        2 => from,
        1 => heredoc,
        5 => select(METADATA.to_vec()).prop_map(str::to_owned),
        3 => select(LOOKS.to_vec()).prop_map(str::to_owned),
        3 => select(CHANGES.to_vec()).prop_map(str::to_owned),
    ]
}

fn node() -> impl Strategy<Value = Node> {
    let file = ("[a-c]{0,2}", mode()).prop_map(|(content, mode)| Node::File(content, mode));
    let link = select(vec!["keep", "../b", "/etc/passwd", "x"]).prop_map(|target| Node::Link(target.to_owned()));
    prop_oneof![4 => file, 1 => link]
}

fn mode() -> impl Strategy<Value = u32> {
    select(vec![0o644, 0o755, 0o600, 0o4755])
}

fn path() -> impl Strategy<Value = String> {
    // What no COPY can do without is only written, never replaced by a link.
    select(PATHS[..8].to_vec()).prop_map(str::to_owned)
}

fn ignored() -> impl Strategy<Value = Vec<String>> {
    let lists = vec![vec!["Dockerfile"], vec![], vec!["Dockerfile", "**/x*"], vec![".*", "Dockerfile", "**/x", "!a/x"]];
    select(lists).prop_map(|list| list.into_iter().map(str::to_owned).collect())
}

fn argument() -> impl Strategy<Value = (String, Option<String>)> {
    let value = option::weighted(0.8, select(vec!["one", "two", "5", "a b", ""]));
    let name = select(vec!["X", "X", "Y", "Z", "G", "UNDECLARED", "HTTP_PROXY"]);
    // An owner that is no number would fail, and it is in an instruction that looks for one.
    (name, value).prop_map(|(name, value)| {
        let value = if name == "Z" { value.map(|value| value.len().to_string()) } else { value.map(str::to_owned) };
        (name.to_owned(), value)
    })
}

fn start() -> impl Strategy<Value = Start> {
    select(vec![Start::Base, Start::Base, Start::Before, Start::Scratch])
}

/// Thinks of a project.
pub(crate) fn project() -> impl Strategy<Value = Project> {
    let files = vec((path(), node()), 0..6);
    let stage = (start(), vec(instruction(), 1..7)).prop_map(|(start, steps)| Stage { start, steps });
    let arguments = vec(argument(), 0..3);
    (files, ignored(), arguments, 0..Bases::COUNT, vec(stage, 1..4)).prop_map(
        |(files, ignored, arguments, base, stages)| {
            let kept = ["keep", "a/keep", "b/keep"].map(|path| (path.to_owned(), Node::File(path.to_owned(), 0o644)));
            let files: BTreeMap<String, Node> = files.into_iter().chain(kept).collect();
            let arguments = arguments.into_iter().filter_map(|(name, value)| Some((name, value?)));
            Project { files, ignored, arguments: arguments.collect(), base, stages }
        },
    )
}

/// Thinks of an edit.
pub(crate) fn edit() -> impl Strategy<Value = Edit> {
    let at = || (0..3_usize, 0..7_usize);
    let kept = (select(PATHS[8..].to_vec()), "[a-c]{0,2}", mode());
    prop_oneof![
        2 => kept.prop_map(|(path, content, mode)| Edit::Write(path.to_owned(), Node::File(content, mode))),
        3 => (path(), node()).prop_map(|(path, node)| Edit::Write(path, node)),
        1 => (0..9_usize).prop_map(Edit::Delete),
        2 => (0..9_usize, path()).prop_map(|(number, path)| Edit::Rename(number, path)),
        1 => (0..9_usize, mode()).prop_map(|(number, mode)| Edit::Mode(number, mode)),
        2 => argument().prop_map(|(name, value)| Edit::Argument(name, value)),
        1 => ignored().prop_map(Edit::Ignore),
        1 => (0..Bases::COUNT).prop_map(Edit::Base),
        2 => at().prop_map(|(stage, number)| Edit::Swap(stage, number)),
        2 => (at(), instruction()).prop_map(|((stage, number), text)| Edit::Insert(stage, number, text)),
        2 => (at(), instruction()).prop_map(|((stage, number), text)| Edit::Replace(stage, number, text)),
        1 => at().prop_map(|(stage, number)| Edit::Remove(stage, number)),
        1 => (0..3_usize, start()).prop_map(|(stage, start)| Edit::Start(stage, start)),
    ]
}

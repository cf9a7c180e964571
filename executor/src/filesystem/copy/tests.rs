//! What a COPY, an ADD and a WORKDIR do, criterion by criterion.

use proptest::prelude::*;

use super::*;
use crate::{
    filesystem::{
        entry::Xattr,
        notation::{self, path},
    },
    plan::remote::{self, SourceKind},
};

/// The time that copies get here; entries that keep their own have others.
const NOW: i64 = 7;

/// The build context of most cases.
const CONTEXT: &str = "
    f 0644 1:1 /a.txt A @1
    f 0600 1:1 /b.txt B @2
    f 4755 1:1 /tool T @3
    d 0700 1:1 /dir @4
    f 0640 1:1 /dir/f F @5
    h /dir/g -> /dir/f
    l 0777 1:1 /dir/gone -> ../nowhere @6
    d 0750 1:1 /dir/sub
    f 0644 1:1 /dir/sub/s S
    d 0755 1:1 /d2
    f 0644 1:1 /d2/f F2
    l 0777 1:1 /to-dir -> /dir/sub
    l 0777 1:1 /to-file -> dir/../a.txt
    l 0777 1:1 /broken -> nothing
    f 0644 1:1 /we[i]rd W
    f 0644 1:1 /back\\slash K";

/// The image of most cases.
const LOWER: &str = "
    d 0755 0:0 /etc @1
    d 1777 0:0 /tmp @1
    d 0700 5:5 /app @1
    d 0700 5:5 /app/sub @1
    f 0600 5:5 /app/f old @1
    f 0600 5:5 /file old @1
    l 0777 0:0 /app/link -> ../etc
    l 0777 0:0 /dang -> /nowhere/x
    l 0777 0:0 /lnk -> etc
    l 0777 0:0 /loop -> loop";

/// A COPY with the flags that a case sets.
struct Case<'case> {
    context: &'case str,
    lower: &'case str,
    from_context: bool,
    ownership: Option<(u32, u32)>,
    chmod: Option<&'case str>,
    exclude: fn(&TreePath) -> bool,
    parents: bool,
    link: bool,
    archives: BTreeMap<TreePath, Vec<Change>>,
    fetched: BTreeMap<Remote, Fetched>,
}

impl Default for Case<'_> {
    fn default() -> Self {
        Self {
            context: CONTEXT,
            lower: LOWER,
            from_context: true,
            ownership: None,
            chmod: None,
            exclude: |_| false,
            parents: false,
            link: false,
            archives: BTreeMap::new(),
            fetched: BTreeMap::new(),
        }
    }
}

impl Case<'_> {
    fn run(&self, operands: &str) -> Result<CopyPlan, CopyError> {
        let mut words: Vec<&str> = operands.split(' ').collect();
        let destination = words.pop().expect("a destination");
        let sources: Vec<Source> = words
            .into_iter()
            .map(|word| match word.split_once("<<") {
                Some((content, name)) => Source::Inline { name: name.to_owned(), content: content.as_bytes().into() },
                None if word.starts_with("https://") => Source::Remote { text: word.to_owned(), remote: remote(word) },
                None => Source::Path(word.to_owned()),
            })
            .collect();
        let request = CopyRequest {
            sources: &sources,
            destination,
            working_directory: "/w",
            ownership: self.ownership,
            chmod: self.chmod.map(|text| Chmod::parse(text).expect("a valid mode")),
            excluded: &self.exclude,
            parents: self.parents,
            link: self.link,
            archives: &self.archives,
            fetched: &self.fetched,
            from_context: self.from_context,
            mtime: Some(NOW),
        };
        plan(&notation::view(self.lower), &notation::view(self.context), &request)
    }

    /// Checks the layer, warnings and errors of `sources… destination`; a heredoc is written `CONTENT<<NAME`.
    #[track_caller]
    fn check(&self, operands: &str, expected: &str) {
        let text = match self.run(operands) {
            Ok(plan) => {
                let warnings = plan.warnings.iter().map(|warning| format!("warning: {warning}\n"));
                warnings.collect::<String>() + &notation::text(&plan.changes)
            }
            Err(error) => format!("error: {error}\n"),
        };
        assert_eq!(text, lines(expected), "COPY {operands}");
    }
}

fn lines(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).fold(String::new(), |text, line| text + line + "\n")
}

#[track_caller]
fn check(operands: &str, expected: &str) {
    Case::default().check(operands, expected);
}

#[test]
fn k2_destinations_are_relative_to_the_working_directory() {
    check("a.txt /x", "f 0644 0:0 /x A @7");
    check("a.txt x", "d 0755 0:0 /w @7\nf 0644 0:0 /w/x A @7");
    check("a.txt .", "d 0755 0:0 /w @7\nf 0644 0:0 /w/a.txt A @7");
    check("a.txt ../x/", "d 0755 0:0 /x @7\nf 0644 0:0 /x/a.txt A @7");
    check("a.txt /l/m/n", "d 0755 0:0 /l @7\nd 0755 0:0 /l/m @7\nf 0644 0:0 /l/m/n A @7");
    check("a.txt /x/.", "d 0755 0:0 /x @7\nf 0644 0:0 /x/a.txt A @7");
    check("a.txt /etc", "d 0755 0:0 /etc @1\nf 0644 0:0 /etc/a.txt A @7");
    check("a.txt /", "f 0644 0:0 /a.txt A @7");
}

#[test]
fn k2_k10_created_parents_get_the_owner_and_an_octal_mode() {
    let case = Case { ownership: Some((12, 34)), ..Case::default() };
    case.check("a.txt /l/m", "d 0755 12:34 /l @7\nf 0644 12:34 /l/m A @7");
    case.check("a.txt /app/n/", "d 0700 5:5 /app @1\nd 0755 12:34 /app/n @7\nf 0644 12:34 /app/n/a.txt A @7");
    let case = Case { chmod: Some("600"), ..Case::default() };
    case.check("tool /l/m", "d 0600 0:0 /l @7\nf 0600 0:0 /l/m T @7");
    let case = Case { chmod: Some("u=rwX,go=rX"), ..Case::default() };
    case.check("b.txt /l/m", "d 0755 0:0 /l @7\nf 0644 0:0 /l/m B @7");
    case.check(
        "dir /n",
        "d 0755 0:0 /n @7\nf 0644 0:0 /n/f F @7\nh /n/g -> /n/f\nl 0777 0:0 /n/gone -> ../nowhere @7
         d 0755 0:0 /n/sub @7\nf 0644 0:0 /n/sub/s S @7",
    );
}

#[test]
fn k3_several_sources_need_a_trailing_slash() {
    check("a.txt b.txt /x/", "d 0755 0:0 /x @7\nf 0644 0:0 /x/a.txt A @7\nf 0600 0:0 /x/b.txt B @7");
    check("a.txt b.txt .", "d 0755 0:0 /w @7\nf 0644 0:0 /w/a.txt A @7\nf 0600 0:0 /w/b.txt B @7");
    let refusal = |destination: &str| {
        format!(
            "error: several sources need a destination that is a directory and ends with a slash: write `{destination}/`"
        )
    };
    check("a.txt b.txt /x", &refusal("/x"));
    check("a.txt b.txt /etc", &refusal("/etc"));
    check("*.txt /x", &refusal("/x"));
    check("*.txt /etc", "d 0755 0:0 /etc @1\nf 0644 0:0 /etc/a.txt A @7\nf 0600 0:0 /etc/b.txt B @7");
}

#[test]
fn k4_sources_stay_below_the_root_and_literal_ones_must_exist() {
    check("../../a.txt /x", "f 0644 0:0 /x A @7");
    check("/a.txt /x", "f 0644 0:0 /x A @7");
    check("nope /x", "error: \"/nope\": not found: no such file or directory in what is copied from");
    check("dir/nope /x", "error: \"/dir/nope\": not found: no such file or directory in what is copied from");
    check("broken /x", "error: \"/broken\": not found: no such file or directory in what is copied from");
}

#[test]
fn k4_wildcards_match_whole_components() {
    check("[b-z].txt /x", "f 0600 0:0 /x B @7");
    check("?.tx[^y] /x/", "d 0755 0:0 /x @7\nf 0644 0:0 /x/a.txt A @7\nf 0600 0:0 /x/b.txt B @7");
    check("d*/f /x/", "d 0755 0:0 /x @7\nf 0640 0:0 /x/f F @7");
    check("to-dir/* /x", "f 0644 0:0 /x S @7");
    check("we[[]i]rd /x", "f 0644 0:0 /x W @7");
    check("we\\[i]rd /x", "f 0644 0:0 /x W @7");
    check("back\\slash /x", "f 0644 0:0 /x K @7");
    check("a\\.txt /x", "f 0644 0:0 /x A @7");
    check("none* /x", "warning: the wildcard `none*` matches nothing: nothing is copied for it");
    check("a.txt/* /x", "warning: the wildcard `a.txt/*` matches nothing: nothing is copied for it");
    check("a[ /x", "error: `a[` is not a valid pattern: a `[` without `]`, an empty class or a trailing backslash");
}

#[test]
fn k4_a_wildcard_that_matches_directories_merges_their_contents() {
    let case = Case {
        context: "d 0755 0:0 /d1\nf 0644 0:0 /d1/x 1\nd 0755 0:0 /d2\nf 0644 0:0 /d2/y 2\nf 0644 0:0 /dfile 3",
        ..Case::default()
    };
    case.check("d* /o/", "d 0755 0:0 /o @7\nf 0644 0:0 /o/dfile 3 @7\nf 0644 0:0 /o/x 1 @7\nf 0644 0:0 /o/y 2 @7");
}

#[test]
fn k5_a_directory_is_copied_as_its_contents() {
    let expected = "d 0755 0:0 /n @7\nf 0640 0:0 /n/f F @7\nh /n/g -> /n/f\nl 0777 0:0 /n/gone -> ../nowhere @7
                    d 0750 0:0 /n/sub @7\nf 0644 0:0 /n/sub/s S @7";
    for source in ["dir", "dir/", "dir/.", "./dir"] {
        check(&format!("{source} /n"), expected);
        check(&format!("{source} /n/"), expected);
    }
    check("to-dir /n", "d 0755 0:0 /n @7\nf 0644 0:0 /n/s S @7");
}

#[test]
fn k5_existing_directories_keep_their_attributes_only_at_the_top() {
    check(
        "dir /app",
        "d 0700 5:5 /app @7\nf 0640 0:0 /app/f F @7\nh /app/g -> /app/f\nl 0777 0:0 /app/gone -> ../nowhere @7
         d 0750 0:0 /app/sub @7\nf 0644 0:0 /app/sub/s S @7",
    );
    let case = Case { from_context: false, ..Case::default() };
    case.check("to-dir /tmp", "d 1777 0:0 /tmp\nf 0644 1:1 /tmp/s S");
    case.check("d2 /", "f 0644 1:1 /f F2");
}

#[test]
fn k6_the_source_itself_is_followed_and_links_inside_are_not() {
    check("to-file /x/", "d 0755 0:0 /x @7\nf 0644 0:0 /x/to-file A @7");
    check("to-dir/s /x", "f 0644 0:0 /x S @7");
    check("to-d* /x", "d 0755 0:0 /x @7\nf 0644 0:0 /x/s S @7");
    check("to-* /x/", "d 0755 0:0 /x @7\nf 0644 0:0 /x/s S @7\nf 0644 0:0 /x/to-file A @7");
}

#[test]
fn k6_destination_symlinks_are_followed_inside_the_root() {
    check("a.txt /lnk/x", "d 0755 0:0 /etc @1\nf 0644 0:0 /etc/x A @7");
    check("a.txt /lnk", "d 0755 0:0 /etc @1\nf 0644 0:0 /etc/a.txt A @7");
    check("a.txt /dang", "d 0755 0:0 /nowhere @7\nf 0644 0:0 /nowhere/x A @7");
    check("a.txt /dang/", "d 0755 0:0 /nowhere @7\nd 0755 0:0 /nowhere/x @7\nf 0644 0:0 /nowhere/x/a.txt A @7");
    check("d2 /dang", "d 0755 0:0 /nowhere @7\nd 0755 0:0 /nowhere/x @7\nf 0644 0:0 /nowhere/x/f F2 @7");
    check("a.txt /app/link/../x", "d 0700 5:5 /app @1\nf 0644 0:0 /app/x A @7");
    check("a.txt /loop", "error: /loop leads through more than 40 symlinks");
}

#[test]
fn k7_types_that_conflict_are_errors() {
    let case =
        Case { lower: "d 0755 0:0 /d\nd 0755 0:0 /d/a.txt\nf 0644 0:0 /f\nl 0777 0:0 /d/sub -> .", ..Case::default() };
    case.check("a.txt /d", "error: cannot replace to directory /d/a.txt with file");
    case.check("d2 /f", "error: cannot copy to non-directory: /f");
    case.check("dir /d", "error: cannot copy to non-directory: /d/sub");
    case.check("a.txt /f/x", "error: cannot copy to non-directory: /f");
    case.check("a.txt /f/", "error: cannot copy to non-directory: /f");
    case.check("a.txt /f", "f 0644 0:0 /f A @7");
    // A link inside a directory that is merged into is replaced by a file.
    let case = Case { lower: "d 0755 0:0 /d\nl 0777 0:0 /d/f -> ../x\nf 0644 0:0 /x", ..Case::default() };
    case.check("d2 /d", "d 0755 0:0 /d @7\nf 0644 0:0 /d/f F2 @7");
}

#[test]
fn k8_k9_stages_keep_owner_mode_and_time() {
    let stage = Case { from_context: false, ..Case::default() };
    stage.check("tool /x/", "d 0755 0:0 /x @7\nf 4755 1:1 /x/tool T @3");
    stage.check("dir/sub dir/f /x/", "d 0755 0:0 /x\nf 0640 1:1 /x/f F @5\nf 0644 1:1 /x/s S");
    let owned = Case { from_context: false, ownership: Some((2, 3)), ..Case::default() };
    owned.check("tool /x", "f 4755 2:3 /x T @3");
    check("tool /x", "f 4755 0:0 /x T @7");
}

#[test]
fn k9_extended_attributes_are_kept() {
    let mut context = notation::changes("f 0755 1:1 /ping P");
    let capability = Xattr { name: b"security.capability".to_vec(), value: vec![1, 0, 0, 2] };
    if let Action::Put(metadata, _) = &mut context[0].action {
        metadata.xattrs = vec![capability.clone()];
    }
    let mut source = View::empty();
    source.apply(&context).expect("a valid view");
    let sources = [Source::Path("ping".to_owned())];
    let request = CopyRequest {
        sources: &sources,
        destination: "/ping",
        working_directory: "/",
        ownership: Some((2, 2)),
        chmod: None,
        excluded: &|_| false,
        parents: false,
        link: false,
        archives: &BTreeMap::new(),
        fetched: &BTreeMap::new(),
        from_context: true,
        mtime: Some(NOW),
    };
    let plan = plan(&View::empty(), &source, &request).expect("a plan");
    let Action::Put(metadata, _) = &plan.changes[0].action else { panic!("{plan:?}") };
    assert_eq!(metadata.xattrs, [capability]);
}

#[test]
fn k9_hard_links_stay_within_one_copy() {
    check("dir/f dir/g /x/", "d 0755 0:0 /x @7\nf 0640 0:0 /x/f F @7\nf 0640 0:0 /x/g F @7");
    let case =
        Case { context: "f 0644 0:0 /d/a 1\nh /d/b -> /d/a\np 0600 0:0 /d/p\nc 0600 0:0 /d/n 1,3", ..Case::default() };
    case.check(
        "d /x",
        "d 0755 0:0 /x @7\nf 0644 0:0 /x/a 1 @7\nh /x/b -> /x/a\nc 0600 0:0 /x/n 1,3 @7\np 0600 0:0 /x/p @7",
    );
    // The first name is written again by a later source: the second keeps the first content.
    case.check(
        "d 2<<a /x/",
        "d 0755 0:0 /x @7\nf 0644 0:0 /x/a 2 @7\nf 0644 0:0 /x/b 1 @7\nc 0600 0:0 /x/n 1,3 @7\np 0600 0:0 /x/p @7",
    );
}

#[test]
fn k11_link_does_not_see_the_image() {
    let case = Case { link: true, ..Case::default() };
    case.check("a.txt /lnk/x", "d 0755 0:0 /lnk @7\nf 0644 0:0 /lnk/x A @7");
    case.check("a.txt /app", "f 0644 0:0 /app A @7");
    case.check("d2 /app", "d 0755 0:0 /app @7\nf 0644 0:0 /app/f F2 @7");
    let case = Case { link: true, chmod: Some("644"), ..Case::default() };
    case.check("a.txt /lnk/x", "d 0755 0:0 /etc @1\nf 0644 0:0 /etc/x A @7");
}

#[test]
fn k12_parents_keep_the_path_below_the_context_or_the_pivot() {
    let case = Case { parents: true, ..Case::default() };
    case.check(
        "dir/sub/s /p/",
        "d 0755 0:0 /p @7\nd 0700 0:0 /p/dir @7\nd 0750 0:0 /p/dir/sub @7\nf 0644 0:0 /p/dir/sub/s S @7",
    );
    case.check("dir/./sub/s /p", "d 0755 0:0 /p @7\nd 0750 0:0 /p/sub @7\nf 0644 0:0 /p/sub/s S @7");
    case.check(
        "dir/sub /p/",
        "d 0755 0:0 /p @7\nd 0700 0:0 /p/dir @7\nd 0750 0:0 /p/dir/sub @7\nf 0644 0:0 /p/dir/sub/s S @7",
    );
    case.check("./d2/./ /p/", "d 0755 0:0 /p @7\nf 0644 0:0 /p/f F2 @7");
    case.check(
        "**/s /p/",
        "d 0755 0:0 /p @7\nd 0700 0:0 /p/dir @7\nd 0750 0:0 /p/dir/sub @7\nf 0644 0:0 /p/dir/sub/s S @7",
    );
    case.check("d?/* /p/", "d 0755 0:0 /p @7\nd 0755 0:0 /p/d2 @7\nf 0644 0:0 /p/d2/f F2 @7");
    case.check("**/none /p/", "warning: the wildcard `**/none` matches nothing: nothing is copied for it");
    case.check("dir/nope /p/", "error: \"/dir/nope\": not found: no such file or directory in what is copied from");
    case.check("nope/./x /p/", "error: \"/nope/x\": not found: no such file or directory in what is copied from");
    assert_eq!(case.run("./ /p/").map(|plan| plan.changes.len()), Ok(17));
}

#[test]
fn k13_excluded_paths_are_relative_to_the_source() {
    let case = Case { exclude: |relative| *relative == path("f"), ..Case::default() };
    case.check("d2 /n", "d 0755 0:0 /n @7");
    case.check("dir/sub dir/f /n/", "d 0755 0:0 /n @7\nf 0644 0:0 /n/s S @7");
    // An exception below an excluded directory brings the directory.
    let case = Case { exclude: |relative| !relative.starts_with(&path("sub/s")), ..Case::default() };
    case.check("dir /n", "d 0755 0:0 /n @7\nd 0750 0:0 /n/sub @7\nf 0644 0:0 /n/sub/s S @7");
}

#[test]
fn h3_heredocs_are_files_of_root() {
    check("text<<note /x", "f 0644 0:0 /x text @7");
    check("text<<note more<<other /x/", "d 0755 0:0 /x @7\nf 0644 0:0 /x/note text @7\nf 0644 0:0 /x/other more @7");
    let case = Case { ownership: Some((1, 2)), chmod: Some("0700"), from_context: false, ..Case::default() };
    case.check("text<<note /etc", "d 0755 0:0 /etc @1\nf 0700 1:2 /etc/note text @7");
}

/// The source that a URL is.
fn remote(url: &str) -> Remote {
    match remote::kind(url) {
        SourceKind::Git => Remote::Git(remote::repository(url).unwrap()),
        _ => Remote::Url(remote::file(url, None).unwrap()),
    }
}

/// A copy of `https://x/file`, and of a directory of `https://x/y.git`.
fn fetched(entries: Option<&str>, mtime: Option<i64>) -> Case<'static> {
    let Kind::File(content) = notation::file("U") else { panic!() };
    let entries = entries.map(notation::changes);
    let file = Fetched::File { name: "file".into(), mtime: 5, content, entries };
    let tree = "f 0644 1:1 /outside O @1\nd 0755 1:1 /d @1\nf 0755 1:1 /d/run R @2\nl 0777 1:1 /d/l -> run @3";
    let tree = Fetched::Tree { view: notation::view(tree), root: path("/d"), mtime };
    let fetched = [("https://x/file", file), ("https://x/y.git", tree)];
    Case { fetched: fetched.map(|(url, fetched)| (remote(url), fetched)).into(), ..Case::default() }
}

#[test]
fn k15_a_file_from_elsewhere_is_roots_alone_and_has_its_own_time() {
    let case = fetched(None, None);
    case.check("https://x/file /n", "f 0600 0:0 /n U @5");
    case.check("https://x/file /n/", "d 0755 0:0 /n @7\nf 0600 0:0 /n/file U @5");
    case.check("https://x/file /etc", "d 0755 0:0 /etc @1\nf 0600 0:0 /etc/file U @5");
    let sources = "a.txt https://x/file text<<note /n/";
    case.check(
        sources,
        "d 0755 0:0 /n @7\nf 0644 0:0 /n/a.txt A @7\nf 0600 0:0 /n/file U @5\nf 0644 0:0 /n/note text @7",
    );
    let case = Case { ownership: Some((3, 4)), chmod: Some("0755"), ..case };
    case.check("https://x/file /n", "f 0755 3:4 /n U @5");
    let case = Case { exclude: |relative| *relative == path("/file"), ..case };
    case.check("https://x/file /n", "");
    check(
        "https://x/file /n",
        "error: \"/https:/x/file\": not found: no such file or directory in what is copied from",
    );
}

#[test]
fn k15_an_archive_from_elsewhere_is_unpacked_into_the_destination() {
    let case = fetched(Some("f 0640 3:4 /a A @3"), None);
    case.check("https://x/file /n", "d 0755 0:0 /n @7\nf 0640 3:4 /n/a A @3");
}

#[test]
fn k15_a_repository_is_the_contents_of_its_directory() {
    let case = fetched(None, None);
    case.check("https://x/y.git /n", "d 0755 0:0 /n @7\nl 0777 0:0 /n/l -> run @7\nf 0755 0:0 /n/run R @7");
    case.check(
        "https://x/y.git a.txt /app/",
        "d 0700 5:5 /app @7\nf 0644 0:0 /app/a.txt A @7\nl 0777 0:0 /app/l -> run @7\nf 0755 0:0 /app/run R @7",
    );
    case.check("https://x/y.git /file", "error: cannot copy to non-directory: /file");
    let case = Case { exclude: |relative| *relative == path("/l"), ..fetched(None, Some(9)) };
    case.check("https://x/y.git /n", "d 0755 0:0 /n @9\nf 0755 0:0 /n/run R @9");
}

/// Checks what ADD does with `/a.txt`, were it this archive.
#[track_caller]
fn check_archive(archive: &str, ownership: Option<(u32, u32)>, expected: &str) {
    let archives = BTreeMap::from([(path("/a.txt"), notation::changes(archive))]);
    let case = Case { archives, ownership, chmod: Some("0700"), ..Case::default() };
    case.check("a.txt /app", expected);
}

#[test]
fn k14_archive_entries_keep_what_the_archive_says() {
    check_archive(
        "d 0750 3:4 /\nf 4755 3:4 /bin/tool T @3\nh /bin/t -> /bin/tool",
        None,
        "d 0700 5:5 /app @1\nd 0755 0:0 /app/bin @7\nf 4755 3:4 /app/bin/t T @3\nh /app/bin/tool -> /app/bin/t",
    );
    check_archive(
        "d 0750 3:4 /d @2\nf 0644 3:4 /d/x X @3\nf 0644 3:4 /e/y Y @3",
        Some((8, 9)),
        "d 0700 5:5 /app @1\nd 0750 8:9 /app/d @2\nf 0644 8:9 /app/d/x X @3\nd 0755 0:0 /app/e @7\nf 0644 8:9 /app/e/y Y @3",
    );
}

#[test]
fn k14_archive_entries_replace_what_is_there() {
    check_archive("d 0711 3:4 /sub @2", None, "d 0700 5:5 /app @1\nd 0711 3:4 /app/sub @2");
    check_archive("f 0644 3:4 /sub X", None, "d 0700 5:5 /app @1\nf 0644 3:4 /app/sub X");
    check_archive(
        "d 0755 3:4 /f\nf 0644 3:4 /f/x X",
        None,
        "d 0700 5:5 /app @1\nd 0755 3:4 /app/f\nf 0644 3:4 /app/f/x X",
    );
    check_archive("f 0644 3:4 /sub/x X", None, "d 0700 5:5 /app @1\nd 0700 5:5 /app/sub @1\nf 0644 3:4 /app/sub/x X");
    // A directory that the archive only implies may be a symlink; one with an entry replaces it.
    check_archive("f 0644 3:4 /link/x X", None, "d 0755 0:0 /etc @1\nf 0644 3:4 /etc/x X");
    check_archive(
        "d 0755 3:4 /link\nf 0644 3:4 /link/x X",
        None,
        "d 0700 5:5 /app @1\nd 0755 3:4 /app/link\nf 0644 3:4 /app/link/x X",
    );
    check_archive("f 0644 3:4 /f/x X", None, "error: cannot copy to non-directory: /app/f");
    check_archive(
        "h /x -> /y",
        None,
        "error: the archive /a.txt can't be unpacked: hard link /x names /y, which is neither in this layer nor below it",
    );
}

#[test]
fn k14_archives_mix_with_files_and_may_be_behind_wildcards() {
    let archives = BTreeMap::from([(path("/a.txt"), notation::changes("f 0644 3:4 /x X @3\nw /gone"))]);
    let case = Case { archives, ..Case::default() };
    let expected = "warning: the archive's entry for /gone is left out: in a layer its name would be a whiteout
                    d 0755 0:0 /n @7\nf 0600 0:0 /n/b.txt B @7\nf 0644 3:4 /n/x X @3";
    case.check("*.txt /n/", expected);
    case.check("to-file b.txt /n/", expected);
    let sources = ["*.txt", "to-file", "to-dir", "dir"].map(|text| Source::Path(text.to_owned()));
    let candidates = archive_candidates(&notation::view(CONTEXT), &sources);
    assert_eq!(candidates, Ok(vec![path("/a.txt"), path("/b.txt")]));
}

/// A path as long as Linux takes it is 2,000 directories that no entry describes: minutes and gigabytes, were each of them to
/// cost the square of its depth.
#[test]
fn k14_an_archive_of_one_very_deep_path_costs_little() {
    let archives =
        BTreeMap::from([(path("/a.txt"), notation::changes(&format!("f 0644 3:4 {}/x X @3", "/d".repeat(2000))))]);
    let case = Case { archives, ..Case::default() };
    let plan = case.run("a.txt /app").expect("a plan");
    assert_eq!(plan.changes.len(), 2002);
}

#[track_caller]
fn check_directory(text: &str, expected: &str) {
    let answer = match directory(&notation::view(LOWER), text, (12, 34), NOW) {
        Ok(changes) => notation::text(&changes),
        Err(error) => error.to_string() + "\n",
    };
    assert_eq!(answer, lines(expected), "WORKDIR {text}");
}

#[test]
fn c5_workdir_creates_what_is_missing_as_the_user() {
    check_directory("/", "");
    check_directory("/app", "");
    check_directory("/app/./sub/", "");
    check_directory("/a/b", "d 0755 12:34 /a @7\nd 0755 12:34 /a/b @7");
    check_directory("/app/x/../y", "d 0700 5:5 /app @1\nd 0755 12:34 /app/y @7");
    check_directory("/lnk/x", "d 0755 0:0 /etc @1\nd 0755 12:34 /etc/x @7");
    check_directory("/dang", "d 0755 12:34 /nowhere @7\nd 0755 12:34 /nowhere/x @7");
    check_directory("/file", "cannot copy to non-directory: /file");
    check_directory("/file/x", "cannot copy to non-directory: /file");
}

#[test]
fn files_in_layers_are_listed_by_layer() {
    let mut changes = notation::changes("f 0644 0:0 /b\nf 0644 0:0 /a\nf 0644 0:0 /inline\nd 0755 0:0 /d");
    let diff_id = Digest::of(b"layer");
    for change in &mut changes[..2] {
        if let Action::Put(_, Kind::File(content)) = &mut change.action {
            content.location = Location::Layer(diff_id.clone(), change.path.child(b"there"));
        }
    }
    let needed = needed_layers(&changes);
    assert_eq!(needed.keys().collect::<Vec<_>>(), [&diff_id]);
    assert_eq!(needed[&diff_id].keys().collect::<Vec<_>>(), [&path("/a/there"), &path("/b/there")]);
}

/// Lines of a small tree; each entry replaces what is in its way.
fn any_tree() -> impl Strategy<Value = String> {
    let entry =
        ("[ab]", prop::option::of("[abc]"), prop::option::of("[ab]"), 0..4).prop_map(|(first, second, third, kind)| {
            let name = [Some(first), second, third].into_iter().flatten().collect::<Vec<_>>().join("/");
            match kind {
                0 => format!("d 0700 1:2 /{name} @3"),
                1 => format!("l 0777 1:2 /{name} -> ../b @4"),
                _ => format!("f 0640 1:2 /{name} {kind} @5"),
            }
        });
    prop::collection::vec(entry, 0..8).prop_map(|entries| {
        let mut view = View::empty();
        for entry in entries {
            view.apply(&notation::changes(&entry)).expect("an entry alone");
        }
        notation::view_text(&view)
    })
}

proptest! {
    #[test]
    fn the_layer_makes_of_the_image_what_the_copy_made(
        lower in any_tree(), context in any_tree(), source in "[ab*./]{1,4}", destination in "[abc/]{1,4}",
        parents in any::<bool>(), link in any::<bool>(),
    ) {
        let before = notation::view(&lower);
        let case = Case { lower: &lower, context: &context, parents, link, ..Case::default() };
        let Ok(plan) = case.run(&format!("{source} {destination}")) else { return Ok(()) };
        let mut after = before.clone();
        prop_assert_eq!(after.apply(&plan.changes), Ok(()));
        let written: BTreeMap<&TreePath, &Action> =
            plan.changes.iter().map(|change| (&change.path, &change.action)).collect();
        prop_assert!(plan.changes.is_sorted_by(|one, other| one.path < other.path));
        for (path, action) in &written {
            let parent = path.parent().unwrap_or_default();
            prop_assert!(parent.is_root() || written.contains_key(&parent), "{} has no parent", path);
            if let Action::Put(metadata, kind) = action {
                let node = after.get(path).map(|node| (node.metadata(), node.kind()));
                prop_assert_eq!(node, Some((metadata, kind)));
            }
        }
        for (path, node) in before.walk(&TreePath::ROOT).filter(|(path, _)| !written.contains_key(path)) {
            let kept = after.get(&path);
            // Only `--link` may lay a file over a directory.
            prop_assert!(link && kept.is_none() || kept.map(Node::kind) == Some(node.kind()), "{} is lost", path);
            prop_assert!(kept.is_none_or(|kept| kept.metadata() == node.metadata()), "{} has changed", path);
        }
    }
}

//! The grammar by its criteria. `check` shows a file's instructions, `check_error` everything that is said about it.

use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;
use crate::ast::{Command, Pair, Transfer, TransferSource};

/// Shows the instructions of the first stage of a Dockerfile whose FROM is given here.
#[track_caller]
fn kinds(text: &str) -> Vec<Kind> {
    let text = format!("FROM a\n{text}");
    let dockerfile = parse(&text).unwrap_or_else(|diagnostics| panic!("{diagnostics}"));
    dockerfile.stages.into_iter().flat_map(|stage| stage.instructions).map(|instruction| instruction.kind).collect()
}

#[track_caller]
fn kind(text: &str) -> Kind {
    let kinds = kinds(text);
    assert_eq!(kinds.len(), 1, "{kinds:?}");
    kinds.into_iter().next().unwrap()
}

/// The messages, with their places, of a file that begins with `FROM a`.
#[track_caller]
fn check_error(text: &str, expected: &[&str]) {
    let diagnostics = parse(format!("FROM a\n{text}")).unwrap_err();
    let shown: Vec<String> =
        diagnostics.entries.iter().map(|entry| format!("{}:{}: {}", entry.line, entry.column, entry.message)).collect();
    assert_eq!(shown, expected, "{text:?}");
}

#[track_caller]
fn check_shell(text: &str, expected: &str) {
    let Kind::Run(run) = kind(text) else { panic!("{text}") };
    assert_eq!(run.command, Command::Shell(expected.into()), "{text:?}");
}

fn transfer(text: &str) -> Transfer {
    match kind(text) {
        Kind::Copy(transfer) | Kind::Add(transfer) => transfer,
        other => panic!("{other:?}"),
    }
}

fn show_pairs(kind: &Kind) -> Vec<(&str, &str)> {
    let (Kind::Env(pairs) | Kind::Label(pairs)) = kind else { panic!("{kind:?}") };
    pairs.iter().map(|Pair { key, value, .. }| (key.text.as_str(), value.text.as_str())).collect()
}

#[test]
fn p1_a_byte_order_mark_is_stripped_and_crlf_ends_lines() {
    let dockerfile = parse("\u{feff}# escape=`\r\nFROM a\r\nRUN x `\r\ny\r\n").unwrap();
    assert_eq!(dockerfile.escape, '`');
    assert_eq!(dockerfile.stages[0].instructions[0].text, "RUN x y");
}

#[test]
fn p6_a_file_without_instructions_is_refused() {
    for text in ["", "\n\n", "# only\n # comments"] {
        assert_eq!(parse(text).unwrap_err().to_string(), "Dockerfile: file with no instructions");
    }
    let diagnostics = parse("ARG A=1").unwrap_err();
    assert_eq!(diagnostics.to_string(), "Dockerfile: no FROM: there is no stage to build");
}

#[test]
fn p7_names_of_instructions_have_no_case_and_misspelt_ones_are_told() {
    assert!(matches!(kind("run x"), Kind::Run(_)));
    check_error("RUNN x", &["2:1: unknown instruction: RUNN (did you mean RUN?)"]);
    check_error("  frobnicate", &["2:3: unknown instruction: FROBNICATE"]);
}

#[test]
fn p7_several_mistakes_are_named_at_once() {
    let text = "FROM a b\nCOPY --chwon=1 x y\nRUN ok\nENV A\nHEALTHCHECK --retries=-1 --interval=x CMD y\nEXPOSEE 80\n";
    assert_snapshot!(parse(text).unwrap_err().render("Dockerfile"), @r#"
    Dockerfile:1:1: FROM requires either one argument, or three: FROM <source> [AS <name>]
     1 | FROM a b
       | ^^^^
    Dockerfile:2:6: unknown flag: --chwon (did you mean chown?)
     2 | COPY --chwon=1 x y
       |      ^^^^^^^^^
    Dockerfile:4:1: ENV must have two arguments
     4 | ENV A
       | ^^^
    Dockerfile:5:13: --retries cannot be negative (-1)
     5 | HEALTHCHECK --retries=-1 --interval=x CMD y
       |             ^^^^^^^^^^^^
    Dockerfile:5:26: invalid duration `x`
     5 | HEALTHCHECK --retries=-1 --interval=x CMD y
       |                          ^^^^^^^^^^^^
    hint: a duration is a number with a unit, such as `30s`, `1m30s`, `500ms`
    Dockerfile:6:1: unknown instruction: EXPOSEE (did you mean EXPOSE?)
     6 | EXPOSEE 80
       | ^^^^^^^
    "#);
}

#[test]
fn p8_flags_lead_the_operands() {
    let copy = transfer("COPY --from=b --chown=1:2 --chmod=755 --link --parents --exclude=*.o --exclude=x a c");
    assert_eq!(copy.from.unwrap().text, "b");
    assert_eq!(copy.chown.unwrap().text, "1:2");
    assert_eq!(copy.exclude.len(), 2);
    assert!(copy.link && copy.parents);
    check_error("COPY --FROM=b a c", &["2:6: unknown flag: --FROM (did you mean from?)"]);
    check_error("ENV --x=1 A=2", &["2:5: unknown flag: --x"]);
    check_error("COPY --link=2 a b", &["2:6: expecting boolean value for flag --link, not: 2"]);
    check_error("RUN --network x", &["2:5: missing a value on flag: --network"]);
}

#[test]
fn p8_a_flag_on_a_continuation_line_has_its_own_place() {
    check_error("COPY --from=b \\\n  --chwon=1 \\\n a b", &["3:3: unknown flag: --chwon (did you mean chown?)"]);
}

#[test]
fn p9_json_falls_back_to_the_other_form() {
    let exec = |text: &str| Command::Exec(text.split(' ').map(str::to_owned).collect());
    assert_eq!(kind(r#"CMD ["a", "b"]"#), Kind::Cmd(exec("a b")));
    assert_eq!(kind(r#"ENTRYPOINT [ "/e" ]"#), Kind::Entrypoint(exec("/e")));
    check_shell(r#"RUN [ "echo", 'x' ]"#, r#"[ "echo", 'x' ]"#);
    check_shell(r#"RUN ["a""#, r#"["a""#);
    check_error(r#"RUN ["a", 1]"#, &["2:5: when using JSON array syntax, arrays must be comprised of strings only"]);
    let copy = transfer(r#"COPY ["a b", "/c d/"]"#);
    assert_eq!(copy.destination.text, "/c d/");
    assert_eq!(kind(r#"SHELL ["/bin/bash", "-c"]"#), Kind::Shell(vec!["/bin/bash".into(), "-c".into()]));
    check_error("SHELL /bin/bash", &["2:1: SHELL requires the arguments to be in JSON form"]);
}

#[test]
fn p10_env_and_label_have_two_forms() {
    assert_eq!(show_pairs(&kind("ENV A  some words  here")), [("A", "some words  here")]);
    assert_eq!(
        show_pairs(&kind(r#"ENV A=1 B="x y" C=a\ b D="#)),
        [("A", "1"), ("B", r#""x y""#), ("C", r"a\ b"), ("D", "")]
    );
    assert_eq!(show_pairs(&kind(r#"LABEL "a.b"="c""#)), [(r#""a.b""#, r#""c""#)]);
    assert_eq!(show_pairs(&kind("LABEL a=1 \\\n  b=2")), [("a", "1"), ("b", "2")]);
    check_error("ENV A=1 R", &["2:9: can't find = in \"R\"; it must be of the form: name=value"]);
    check_error("ENV a=${X:?must set}", &["2:17: can't find = in \"set}\"; it must be of the form: name=value"]);
    check_error("ENV A", &["2:1: ENV must have two arguments"]);
    check_error("ENV", &["2:1: ENV requires at least one argument"]);
    check_error("ENV =x", &["2:6: ENV names can not be blank"]);
}

#[test]
fn p11_only_arg_comes_before_from() {
    let diagnostics = parse("ARG A=1\nENV B=2\nFROM a").unwrap_err();
    assert_eq!(diagnostics.entries.len(), 1);
    assert_eq!(diagnostics.entries[0].line, 2);
    let dockerfile = parse("ARG A=1 B\nARG C\nFROM a").unwrap();
    let names: Vec<&str> = dockerfile.arguments.iter().map(|argument| argument.name.text.as_str()).collect();
    assert_eq!(names, ["A", "B", "C"]);
}

#[test]
fn d3_a_syntax_line_is_accepted() {
    let dockerfile = parse("# syntax=docker/dockerfile:1\n# check=skip=all\nFROM a").unwrap();
    assert_eq!(dockerfile.directives.syntax.as_deref(), Some("docker/dockerfile:1"));
}

#[test]
fn h1_h2_heredocs_of_copy_are_its_sources() {
    let copy = transfer("COPY <<one <<-\"two\" three /d/\n a\\\none\n\t\tb\n\ttwo\n");
    let [TransferSource::Heredoc(one), TransferSource::Heredoc(two), TransferSource::Path(three)] = &copy.sources[..]
    else {
        panic!("{copy:?}")
    };
    assert_eq!((one.name.as_str(), one.body.as_str(), one.expand), ("one", " a\\\n", true));
    assert_eq!((two.name.as_str(), two.content().as_str(), two.expand), ("two", "b\n", false));
    assert_eq!(three.text, "three");
}

#[test]
fn h2_an_open_heredoc_is_refused() {
    check_error("RUN <<EOF\n a\n EOF", &["2:5: unterminated heredoc: no line is `EOF`"]);
}

#[test]
fn h3_a_destination_is_no_heredoc() {
    check_error("COPY a <<EOF\nEOF", &["2:8: COPY cannot accept a heredoc as a destination"]);
}

#[test]
fn h4_h5_heredocs_of_run_are_taken_wherever_they_stand() {
    let run = |text: &str| match kind(text) {
        Kind::Run(run) => run,
        other => panic!("{other:?}"),
    };
    let sole = run("RUN <<EOF\nset -e\n# not a comment\nEOF");
    assert!(sole.sole_heredoc);
    assert_eq!(sole.heredocs[0].body, "set -e\n# not a comment\n");
    let inner = run("RUN --network=none cat <<A > /x && 3<<B cat\na\nA\nb\nB");
    assert_eq!(inner.heredocs.len(), 2);
    assert!(!inner.sole_heredoc);
    assert_eq!(inner.command, Command::Shell("cat <<A > /x && 3<<B cat".into()));
    assert_eq!(run("RUN [\"cat\", \"<<EOF\"]").heredocs, []);
    assert_eq!(run("RUN echo \"<<EOF\" $((1 << 2))").heredocs, []);
    let spaced = run("RUN << EOF\na\nEOF");
    assert!(spaced.sole_heredoc);
    assert_eq!(run("RUN cat <<  EOF > /x\na\nEOF").heredocs[0].name, "EOF");
}

#[test]
fn h1_lines_of_a_heredoc_with_a_wrong_flag_are_not_instructions() {
    check_error("RUN --mont=x <<EOF\nhello\nEOF", &["2:5: unknown flag: --mont (did you mean mount?)"]);
    check_error("COPY --form=x <<EOF /a\nhello\nEOF", &["2:6: unknown flag: --form (did you mean from?)"]);
}

#[test]
fn f1_from_has_one_or_three_words() {
    let dockerfile = parse("FROM --platform=$BUILDPLATFORM golang:1.22 as Build.1\nFROM scratch").unwrap();
    let stage = &dockerfile.stages[0];
    assert_eq!(stage.platform.as_ref().unwrap().text, "$BUILDPLATFORM");
    assert_eq!((stage.base.text.as_str(), stage.name.as_deref()), ("golang:1.22", Some("build.1")));
    check_error("FROM a AS", &["2:1: FROM requires either one argument, or three: FROM <source> [AS <name>]"]);
    let message = "name can't start with a number or contain symbols";
    check_error("FROM a AS 1b", &[&format!("2:11: invalid name for build stage: \"1b\", {message}")]);
    check_error("FROM a AS b/c", &[&format!("2:11: invalid name for build stage: \"b/c\", {message}")]);
}

#[test]
fn c9_healthcheck_has_types() {
    let test = |text: &str| match kind(text) {
        Kind::Healthcheck(check) => check.test,
        other => panic!("{other:?}"),
    };
    assert_eq!(test("HEALTHCHECK --interval=5s CMD curl -f x || exit 1"), ["CMD-SHELL", "curl -f x || exit 1"]);
    assert_eq!(test(r#"HEALTHCHECK cmd ["a", "b"]"#), ["CMD", "a", "b"]);
    assert_eq!(test("HEALTHCHECK NONE"), ["NONE"]);
    check_error("HEALTHCHECK NONE x", &["2:18: HEALTHCHECK NONE takes no arguments"]);
    check_error("HEALTHCHECK CMD", &["2:13: Missing command after HEALTHCHECK CMD"]);
    check_error("HEALTHCHECK curl", &["2:13: Unknown type \"CURL\" in HEALTHCHECK (try CMD)"]);
}

#[test]
fn c10_onbuild_keeps_the_text_of_its_trigger() {
    assert_eq!(kind("ONBUILD RUN  echo  hi"), Kind::OnBuild("RUN  echo  hi".into()));
    assert_eq!(kind("onbuild copy a b"), Kind::OnBuild("copy a b".into()));
    assert_eq!(kind("ONBUILD COPY <<EOF /x\nhello\nEOF"), Kind::OnBuild("COPY <<EOF /x\nhello\nEOF".into()));
    assert!(parse_trigger("COPY <<EOF /x\nhello\nEOF", '\\').is_ok());
    check_error("ONBUILD ONBUILD RUN x", &["2:9: Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"]);
    check_error("ONBUILD FROM x", &["2:9: FROM isn't allowed as an ONBUILD trigger"]);
    check_error("ONBUILD COPPY a b", &["2:9: unknown instruction: COPPY (did you mean COPY?)"]);
    check_error("ONBUILD", &["2:1: ONBUILD requires at least one argument"]);
}

#[test]
fn operands_that_are_missing_are_told() {
    check_error("COPY", &["2:1: COPY requires at least two arguments"]);
    check_error("SHELL", &["2:1: SHELL requires at least one argument"]);
    check_error("RUN []", &["2:1: RUN requires a command"]);
    check_error("WORKDIR", &["2:1: WORKDIR requires exactly one argument"]);
    check_error("EXPOSE", &["2:1: EXPOSE requires at least one argument"]);
    check_error("ARG =x", &["2:5: ARG names can not be blank"]);
}

#[test]
fn r1_nothing_for_a_shell_is_a_command() {
    check_shell("RUN", "");
    check_shell("RUN --network=none", "");
    assert_eq!(kind("CMD"), Kind::Cmd(Command::Shell(String::new())));
}

#[test]
fn c6_volumes_are_trimmed_and_not_empty() {
    let paths = |text: &str| match kind(text) {
        Kind::Volume(words) => words.into_iter().map(|word| word.text).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(paths(r#"VOLUME [" /a ", "/b c"]"#), ["/a", "/b c"]);
    check_error(r#"VOLUME ["/a", " "]"#, &["2:8: VOLUME specified can not be an empty string"]);
}

#[test]
fn c10_a_mistake_in_a_trigger_has_its_own_place() {
    check_error("ONBUILD  COPY --chwon=1 \\\n a b", &["2:15: unknown flag: --chwon (did you mean chown?)"]);
    check_error("ONBUILD RUN \\\n  --mont=1 x", &["3:3: unknown flag: --mont (did you mean mount?)"]);
    assert_eq!(kind("ONBUILD RUN  a  "), Kind::OnBuild("RUN  a  ".into()));
}

#[test]
fn d2_other_frontends_are_not_taken_for_a_dockerfile() {
    let text = |text: &str| parse(text).unwrap_err().to_string();
    assert_snapshot!(text("// syntax=docker/dockerfile:1\nFROM a"), @r"
    Dockerfile:1:1: unknown instruction: //
     1 | // syntax=docker/dockerfile:1
       | ^^
    hint: a comment begins with `#`
    ");
    assert_snapshot!(text("{\"syntax\": \"docker/mock\"}"), @r#"
    Dockerfile:1:1: the file is JSON for the frontend `docker/mock`, not a Dockerfile
     1 | {"syntax": "docker/mock"}
       | ^
    hint: frontends are not run: write a Dockerfile
    "#);
    assert!(parse("#!/usr/bin/env karve\n# syntax=docker/dockerfile:1\nFROM a").is_ok());
}

#[test]
fn operands_and_flags_are_counted() {
    for (text, words) in [("COPY ", "a "), ("ENV ", "a=b "), ("ARG ", "a "), ("EXPOSE ", "1 "), ("VOLUME ", "/a ")] {
        let text = format!("{text}{}", words.repeat(10_001));
        let name = text.split(' ').next().unwrap();
        check_error(&text, &[&format!("2:1: {name} has more than 10000 operands")]);
    }
    let text = format!("RUN {}x", "--mount=a ".repeat(6_000));
    let text = format!("{text} \\\n y");
    assert!(parse(format!("FROM a\n{text}")).is_ok());
}

#[test]
fn every_instruction_parses() {
    let text = "ADD a /b\nARG A=1\nCMD a\nCOPY a b\nENTRYPOINT [\"a\"]\nENV A=1\nEXPOSE 80 81/udp\n\
                HEALTHCHECK NONE\nLABEL a=b\nMAINTAINER me <me@x>\nONBUILD RUN x\nRUN x\nSHELL [\"x\"]\n\
                STOPSIGNAL 9\nUSER me:us\nVOLUME /a /b\nVOLUME [\"/c d\"]\nWORKDIR /a b\n";
    assert_eq!(kinds(text).len(), 18);
}

#[test]
fn bytes_that_are_not_utf8_are_allowed_in_comments_only() {
    assert!(parse(b"# caf\xe9\nFROM a\n").is_ok());
    let diagnostics = parse(b"FROM a\nRUN caf\xe9\n").unwrap_err();
    let entry = &diagnostics.entries[0];
    assert_eq!((entry.line, entry.column, entry.message.as_str()), (2, 8, "the line is not UTF-8"));
}

#[test]
fn sizes_are_limited() {
    let large = parse(vec![b'#'; DOCKERFILE_BYTES_MAX + 1]).unwrap_err();
    assert!(large.to_string().contains("more than the maximum"));
    let stages = parse("FROM a\n".repeat(STAGES_MAX + 1)).unwrap_err();
    assert_eq!(stages.entries[0].message, format!("more than {STAGES_MAX} stages"));
    let heredoc = parse(format!("FROM a\nRUN <<EOF\n{}", "xxxxxxxxxxxxxxx\n".repeat(300_000))).unwrap_err();
    assert_eq!(heredoc.entries[0].line, 2);
}

/// Each of these has a megabyte of one thing; that the test ends is the point.
#[test]
fn pathological_files_are_read_once() {
    let backslashes = "\\\n".repeat(500_000);
    let long_lines = format!("RUN {}\n", "<<A ".repeat(16_000)).repeat(16);
    let heredocs = "RUN <<A\nA\n".repeat(100_000);
    let braces = format!("ENV A={}\n", "${".repeat(30_000)).repeat(17);
    let words = format!("COPY {}\n", "é ".repeat(21_000)).repeat(16);
    let brackets = "RUN [[[[[[[[[[[[[[[[\n".repeat(50_000);
    for text in [backslashes, long_lines, heredocs, braces, words, brackets] {
        let parsed = parse(format!("FROM a\n{text}"));
        assert!(parsed.is_ok() || parsed.is_err_and(|diagnostics| !diagnostics.entries.is_empty()));
    }
}

proptest! {
    #[test]
    fn parsing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let text = [b"FROM a\n".as_slice(), &bytes].concat();
        prop_assert!(parse(&text).map_or_else(|diagnostics| !diagnostics.render("f").is_empty(), |_| true));
    }

    #[test]
    fn parsing_words_of_the_language_never_panics(
        words in proptest::collection::vec(
            proptest::sample::select(vec![
                "FROM", "RUN", "COPY", "ENV", "ONBUILD", "HEALTHCHECK", "LABEL", "CMD", " ", "\n", "\\\n", "\"", "'",
                "[\"a\"", "]", "--from=", "--", "=", "<<EOF", "<<-'E'", "EOF\n", "\nEOF", "é", "$", "${", "}", "\t", "#", "`",
            ]),
            0..60,
        ),
    ) {
        let text = format!("FROM a\n{}", words.concat());
        match parse(&text) {
            Ok(dockerfile) => prop_assert!(!dockerfile.stages.is_empty()),
            Err(diagnostics) => prop_assert!(diagnostics.render("f").contains("f:")),
        }
    }
}

//! The rules by BuildKit's conditions. Every test gives a Dockerfile and sees everything that is said about it.

use std::collections::BTreeMap;

use karve_dockerfile::{
    ignore::Patterns,
    lint::{Rule, ShownWarning},
    parse,
};

use crate::{
    image::config::ImageConfig,
    plan::{
        Checked,
        graph::{Bases, ImageName, Options},
    },
};

/// A Dockerfile and what surrounds it.
struct Case {
    text: String,
    options: Options,
    bases: Bases,
    unknown: Vec<ImageName>,
}

fn case(text: &str) -> Case {
    let platform = || "linux/amd64".to_owned();
    let options = Options { platform: platform(), build_platform: platform(), ..Options::default() };
    Case { text: text.into(), options, bases: Bases::new(), unknown: Vec::new() }
}

fn name(reference: &str) -> ImageName {
    ImageName { reference: reference.into(), platform: "linux/amd64".into() }
}

impl Case {
    fn base(mut self, reference: &str, change: impl FnOnce(&mut ImageConfig)) -> Self {
        let mut config = ImageConfig { architecture: "amd64".into(), os: "linux".into(), ..ImageConfig::default() };
        change(&mut config);
        self.bases.insert(name(reference), config);
        self
    }

    fn argument(mut self, name: &str, value: &str) -> Self {
        self.options.build_args.insert(name.into(), value.into());
        self
    }

    fn target(mut self, name: &str) -> Self {
        self.options.target = Some(name.into());
        self
    }

    fn ignored(mut self, text: &str) -> Self {
        self.options.ignored = Patterns::parse(text).unwrap();
        self
    }

    fn unknown(mut self, reference: &str) -> Self {
        self.unknown.push(name(reference));
        self
    }

    #[track_caller]
    fn checked(&self) -> (Checked, Vec<String>) {
        let dockerfile = parse(&self.text).unwrap_or_else(|diagnostics| panic!("{diagnostics}"));
        let unknown = self.unknown.iter().cloned().collect();
        let checked = crate::plan::check(&dockerfile, &self.options, &self.bases, &unknown).unwrap();
        let shown = |warning: ShownWarning| {
            let ShownWarning { rule, diagnostic } = warning;
            let rule = rule.map(Rule::name).unwrap_or_default();
            format!("{}:{} {rule}: {}", diagnostic.line, diagnostic.column, diagnostic.message)
        };
        let warnings = checked.lint.show(&dockerfile).into_iter().map(shown).collect();
        (checked, warnings)
    }

    #[track_caller]
    fn says(&self, expected: &[&str]) {
        let (checked, warnings) = self.checked();
        assert_eq!(warnings, expected, "{}", self.text);
        assert!(checked.mistakes.is_none(), "{}", checked.mistakes.unwrap());
        assert_eq!(checked.needs, []);
    }
}

#[test]
fn v7_lint_undefined_var() {
    case("FROM scratch\nENV fooo=1\nCOPY a $foo/b")
        .says(&["3:8 UndefinedVar: Usage of undefined variable '$foo' (did you mean $fooo?)"]);
    // The braces do not hide it, a default does not help, and every instruction with variables is looked at.
    case("FROM scratch\nWORKDIR /${x:-y}").says(&["2:10 UndefinedVar: Usage of undefined variable '$x'"]);
    case("FROM scratch\nLABEL a=$qqqq b=\"$qqqq\"\nUSER $zzzz\nVOLUME /$yyyy\n").says(&[
        "2:9 UndefinedVar: Usage of undefined variable '$qqqq'",
        "2:18 UndefinedVar: Usage of undefined variable '$qqqq'",
        "3:6 UndefinedVar: Usage of undefined variable '$zzzz'",
        "4:9 UndefinedVar: Usage of undefined variable '$yyyy'",
    ]);
    // ARG defines, also without a value, and its defaults see what is before them.
    case("FROM scratch AS a\nARG x\nENV y=$x\nFROM a\nENV z=$x$PATH$y\nARG b=1 c=$b d=$e")
        .says(&["6:16 UndefinedVar: Usage of undefined variable '$e'"]);
    case("FROM scratch\nARG d=$e").argument("d", "1").says(&[]);
    // What a shell or the program expands is not ours.
    case("FROM scratch\nRUN echo $x\nCMD [\"$x\"]\nEXPOSE $port\nSTOPSIGNAL 9\nCOPY <<'E' <<F /\n$x\nE\n\\$x\nF")
        .says(&[]);
    case("FROM scratch\nCOPY <<E /a\n'$x'\nE").says(&["2:6 UndefinedVar: Usage of undefined variable '$x'"]);
    case("FROM scratch\nENV a='$x' b=\\$x").says(&[]);
    case("FROM b\nENV a=$x").base("b", |config| config.config.env.push("x=1".into())).says(&[]);
    // In the whole word when the word goes on in the next line.
    case("FROM scratch\nENV a=\"x\\\n$x\"").says(&["2:7 UndefinedVar: Usage of undefined variable '$x'"]);
}

#[test]
fn an_unknown_base_is_not_guessed_at() {
    case("FROM b AS c\nENV a=$x\nCMD x\nFROM c\nENV a=$y").unknown("b").says(&[]);
    let needs = case("FROM b\nENV a=$x\nMAINTAINER x").checked().0.needs;
    assert_eq!(needs, [name("b")]);
}

#[test]
fn f2_lint_undefined_arg_in_from() {
    let message = "UndefinedArgInFrom: FROM argument";
    case("ARG TAG=1\nFROM scratch AS a\nFROM b:x${TG}")
        .base("b:x", |_| ())
        .says(&[&format!("3:6 {message} 'TG' is not declared (did you mean TAG?)")]);
    case("FROM --platform=${BILDPLATFORM:-linux/amd64} scratch")
        .says(&[&format!("1:6 {message} 'BILDPLATFORM' is not declared (did you mean BUILDPLATFORM?)")]);
    // An ARG without a value is declared.
    case("ARG TAG\nFROM b${TAG:+:}${TAG}").base("b", |_| ()).says(&[]);
}

#[test]
fn f2_lint_invalid_default_arg_in_from() {
    let message = "Default value for ARG b:${TAG} results in empty or invalid base image name";
    case("ARG TAG\nFROM b:${TAG}")
        .argument("TAG", "1")
        .base("b:1", |_| ())
        .says(&[&format!("2:6 InvalidDefaultArgInFrom: {message}")]);
    case("ARG TAG=1\nFROM b:${TAG}").argument("TAG", "2").base("b:2", |_| ()).says(&[]);
    // Karve's own: stages are found in any case, and layouts are images.
    case("FROM scratch AS Base\nFROM Base").says(&["1:17 StageNameCasing: Stage name 'Base' should be lowercase"]);
}

#[test]
fn f8_lint_platforms_of_from() {
    let message = "RedundantTargetPlatform: Setting platform to predefined";
    case("FROM --platform=$TARGETPLATFORM scratch")
        .says(&[&format!("1:6 {message} $TARGETPLATFORM in FROM is redundant as this is the default behavior")]);
    case("FROM --platform=$BUILDPLATFORM scratch").says(&[]);
    let message = "FROM --platform flag should not use constant value \"linux/amd64\"";
    case("FROM --platform=linux/amd64 scratch").says(&[&format!("1:6 FromPlatformFlagConstDisallowed: {message}")]);
    case("FROM --platform=linux/amd64 scratch AS build-amd64").says(&[]);
    case("FROM b").base("b", |config| config.architecture = "arm64".into()).says(&[
        "1:6 InvalidBaseImagePlatform: Base image b was pulled with platform \"linux/arm64\", expected \"linux/amd64\" for current build",
    ]);
}

#[test]
fn c5_lint_workdir_relative_path() {
    let message = "can have unexpected results if the base image changes";
    let first = format!("2:9 WorkdirRelativePath: Relative workdir \"app\" {message}");
    case("FROM scratch\nWORKDIR app\nWORKDIR sub").says(&[&first]);
    case("FROM scratch AS a\nWORKDIR /a\nFROM a\nWORKDIR b").says(&[]);
    case("FROM b\nWORKDIR app").base("b", |config| config.config.working_dir = "/w".into()).says(&[&first]);
}

#[test]
fn c11_lint_multiple_instructions_disallowed() {
    let message = |name| {
        format!(
            "Multiple {name} instructions should not be used in the same stage because only the last one will be used"
        )
    };
    case("FROM scratch AS a\nCMD [\"a\"]\nCMD [\"b\"]\nENTRYPOINT [\"a\"]\nFROM a\nCMD [\"c\"]")
        .says(&[&format!("2:1 MultipleInstructionsDisallowed: {}", message("CMD"))]);
    case("FROM scratch\nHEALTHCHECK NONE\nHEALTHCHECK CMD x\nENTRYPOINT []\nENTRYPOINT [\"y\"]").says(&[
        &format!("2:1 MultipleInstructionsDisallowed: {}", message("HEALTHCHECK")),
        &format!("4:1 MultipleInstructionsDisallowed: {}", message("ENTRYPOINT")),
    ]);
    let skip = "# check=skip=MultipleInstructionsDisallowed";
    case(&format!("FROM scratch\nCMD [\"a\"]\n{skip}\nCMD [\"b\"]")).says(&[]);
    case(&format!("FROM scratch\n{skip}\nCMD [\"a\"]\nCMD [\"b\"]")).says(&[]);
}

#[test]
fn lint_json_args_recommended() {
    let message =
        |name| format!("JSON arguments recommended for {name} to prevent unintended behavior related to OS signals");
    case("FROM scratch\nENTRYPOINT x\nCMD y").says(&[
        &format!("2:1 JSONArgsRecommended: {}", message("ENTRYPOINT")),
        &format!("3:1 JSONArgsRecommended: {}", message("CMD")),
    ]);
    case("FROM scratch\nSHELL [\"/x\"]\nCMD y").says(&[]);
    case("FROM b\nCMD y").base("b", |config| config.config.shell = Some(vec!["/x".into()])).says(&[]);
}

#[test]
fn c3_lint_expose() {
    case("FROM scratch\nARG p=80/Tcp\nEXPOSE $p 81/udp")
        .says(&["3:8 ExposeProtoCasing: Defined protocol '80/Tcp' in EXPOSE instruction should be lowercase"]);
    let message = "EXPOSE instruction should not define an IP address or host-port mapping, found";
    case("FROM scratch\nEXPOSE 127.0.0.1:80:80 8080:80 80").says(&[
        &format!("2:8 ExposeInvalidFormat: {message} '127.0.0.1:80:80'"),
        &format!("2:24 ExposeInvalidFormat: {message} '8080:80'"),
    ]);
}

#[test]
fn k16_lint_copy_ignored_file() {
    let message = |verb, file| format!("Attempting to {verb} file \"{file}\" that is excluded by .dockerignore");
    let text = "FROM scratch\nCOPY a/b c /x/\nADD ./a /\nCOPY --from=0 a /\nADD https://example.com/a /\nCOPY <<a /\na";
    let text = text.replace("COPY --from=0 a /\n", "").replace("ADD https://example.com/a /\n", "");
    case(&text).ignored("a\n").says(&[
        &format!("2:6 CopyIgnoredFile: {}", message("Copy", "a/b")),
        &format!("3:5 CopyIgnoredFile: {}", message("Add", "a")),
    ]);
    case("FROM scratch AS s\nFROM scratch\nCOPY --from=s a /b").ignored("a").says(&[]);
    case("FROM scratch\nCOPY a /b").ignored("*\n!a/b").says(&[]);
    case("FROM scratch\nCOPY . /").ignored("a").says(&[]);
    case("FROM scratch\nCOPY . /").ignored("**").says(&[&format!("2:6 CopyIgnoredFile: {}", message("Copy", "."))]);
}

#[test]
fn f5_all_stages_are_checked_or_those_of_the_target() {
    let text = "FROM scratch AS a\nWORKDIR x\nFROM scratch AS b\nWORKDIR y";
    assert_eq!(case(text).checked().1.len(), 2);
    assert_eq!(case(text).target("b").checked().1.len(), 1);
    assert_eq!(case(text).target("a").checked().1.len(), 1);
}

#[test]
fn c10_a_warning_of_a_trigger_is_at_the_from_that_brings_it() {
    let trigger = |config: &mut ImageConfig| config.config.on_build.push("WORKDIR $undefined".into());
    case("FROM b").base("b", trigger).says(&[
        "1:1 WorkdirRelativePath: Relative workdir \"\" can have unexpected results if the base image changes",
        "1:1 UndefinedVar: Usage of undefined variable '$undefined'",
    ]);
    case("# check=skip=UndefinedVar,WorkdirRelativePath\nFROM b").base("b", trigger).says(&[]);
}

#[test]
fn p7_mistakes_of_unrelated_stages_are_named_together() {
    let text = "FROM Bad:ref: AS a\nUSER x\nFROM scratch AS b\nEXPOSE 80/x\nRUN --network=x y\nFROM a\nCOPY --from=a x y\nFROM scratch\nSTOPSIGNAL nope\nCOPY --from=a x y";
    let (checked, _) = case(text).checked();
    let mistakes: Vec<_> = checked.mistakes.unwrap().entries.iter().map(|entry| (entry.line, entry.column)).collect();
    assert_eq!(mistakes, [(1, 6), (4, 1), (5, 5), (9, 1)]);
}

#[test]
fn d1_the_rules_that_fail_a_build_are_named() {
    let (checked, _) = case("# check=error=true\nFROM scratch\nWORKDIR a\nCMD b").checked();
    assert_eq!(checked.lint.violated.names(), ["JSONArgsRecommended", "WorkdirRelativePath"]);
    let (checked, _) = case("# check=error=true;skip=all\nFROM scratch\nWORKDIR a").checked();
    assert!(checked.lint.violated.is_empty());
    let (checked, _) =
        case("# check=skip=all\nFROM scratch\nWORKDIR a").argument("BUILDKIT_DOCKERFILE_CHECK", "error=true").checked();
    assert_eq!(checked.lint.violated.names(), ["WorkdirRelativePath"]);
}

#[test]
fn f8_a_platform_that_this_machine_does_not_run_is_no_mistake_of_the_file() {
    case("FROM --platform=linux/arm64 scratch AS arm64\nRUN x").says(&[]);
}

#[test]
fn a_lint_rule_never_changes_a_plan() {
    let text = "FROM scratch\nWORKDIR a\nENV x=$y\nCMD z";
    let graph = |text: &str| match crate::plan::build(&parse(text).unwrap(), &case(text).options, &BTreeMap::new()) {
        Ok(crate::plan::graph::Planned::Graph(graph)) => graph,
        other => panic!("{other:?}"),
    };
    let (with, without) = (graph(text), graph(&format!("# check=skip=all\n{text}")));
    assert_eq!((with.lint.warnings.len(), without.lint.warnings.len()), (3, 0));
    assert_eq!(with.stages[0].config, without.stages[0].config);
}

//! The rules by BuildKit's conditions. `check` shows what is said about a file.

use super::*;
use crate::parse;

/// Shows the warnings of a file, as `line:column Rule: message`.
fn warnings(text: &str) -> Vec<String> {
    let dockerfile = parse(text).unwrap_or_else(|diagnostics| panic!("{diagnostics}"));
    let linter = Linter::new(&dockerfile, None).unwrap();
    file(&dockerfile, &linter);
    for stage in &dockerfile.stages {
        stage.instructions.iter().for_each(|each| instruction(each, &linter));
    }
    let shown = |warning: ShownWarning| {
        let rule = warning.rule.map(|rule| format!("{rule}: ")).unwrap_or_default();
        format!("{}:{} {rule}{}", warning.diagnostic.line, warning.diagnostic.column, warning.diagnostic.message)
    };
    linter.finish().show(&dockerfile).into_iter().map(shown).collect()
}

#[track_caller]
fn check(text: &str, expected: &[&str]) {
    assert_eq!(warnings(text), expected, "{text}");
}

#[test]
fn lint_stage_name_casing() {
    check("FROM a AS Build", &["1:11 StageNameCasing: Stage name 'Build' should be lowercase"]);
    check("FROM a AS build", &[]);
}

#[test]
fn lint_from_as_casing() {
    check("FROM a as b", &["1:8 FromAsCasing: 'as' and 'FROM' keywords' casing do not match"]);
    check("from a AS b", &["1:8 FromAsCasing: 'AS' and 'from' keywords' casing do not match"]);
    check("from a as b", &[]);
    // The instruction is told by another rule, and not twice.
    check(
        "From a As b",
        &["1:1 ConsistentInstructionCasing: Command 'From' should match the case of the command majority (uppercase)"],
    );
}

#[test]
fn p5_lint_no_empty_continuation() {
    check("FROM a\nRUN x \\\n\n  y", &["3:1 NoEmptyContinuation: Empty continuation line"]);
    check("FROM a\nRUN x \\\n# comment\n  y\n\nRUN z", &[]);
}

#[test]
fn lint_consistent_instruction_casing() {
    let message = "Command 'run' should match the case of the command majority (uppercase)";
    check("FROM a\nrun x\nCMD [\"y\"]", &[&format!("2:1 ConsistentInstructionCasing: {message}")]);
    let message = "Command 'FROM' should match the case of the command majority (lowercase)";
    check("FROM a\nrun x\nuser y", &[&format!("1:1 ConsistentInstructionCasing: {message}")]);
    let message = "Command 'Run' should match the case of the command majority (uppercase)";
    check("FROM a\nRun x", &[&format!("2:1 ConsistentInstructionCasing: {message}")]);
    // A draw is upper case's, and the ARGs before FROM do not count.
    let message = "Command 'run' should match the case of the command majority (uppercase)";
    check("arg A\nFROM a\nrun x", &[&format!("3:1 ConsistentInstructionCasing: {message}")]);
}

#[test]
fn f7_lint_duplicate_and_reserved_stage_names() {
    check(
        "FROM a AS b\nFROM c AS B",
        &[
            "2:11 StageNameCasing: Stage name 'B' should be lowercase",
            "2:11 DuplicateStageName: Duplicate stage name \"b\", stage names should be unique",
        ],
    );
    for name in ["scratch", "context"] {
        let message = format!("Stage name should not use the same name as reserved stage \"{name}\"");
        check(&format!("FROM a AS {name}"), &[&format!("1:11 ReservedStageName: {message}")]);
    }
}

#[test]
fn c11_lint_maintainer_deprecated() {
    let message = "Maintainer instruction is deprecated in favor of using label";
    check("FROM a\nMAINTAINER me", &[&format!("2:1 MaintainerDeprecated: {message}")]);
}

#[test]
fn p10_lint_legacy_key_value_format() {
    let message = "\"ENV key=value\" should be used instead of legacy \"ENV key value\" format";
    check("FROM a\nENV A b\nENV C=d", &[&format!("2:5 LegacyKeyValueFormat: {message}")]);
    let message = "\"LABEL key=value\" should be used instead of legacy \"LABEL key value\" format";
    check("FROM a\nLABEL a b", &[&format!("2:7 LegacyKeyValueFormat: {message}")]);
}

#[test]
fn lint_secrets_used_in_arg_or_env() {
    let says = |name: &str| {
        warnings(&format!("FROM a\nENV {name}=1")).iter().any(|warning| warning.contains("SecretsUsedInArgOrEnv"))
    };
    for name in ["PASSWORD", "github_token", "AWS_SECRET_ACCESS", "API_KEY", "APIKEY", "AUTH", "DB_PASSWD_1", "_key"] {
        assert!(says(name), "{name}");
    }
    for name in ["PASSWORDS", "MONKEY", "PUBLIC_KEY", "PASSWORD_FILE", "TOKEN_VERSION", "AUTHOR", "KEYBOARD"] {
        assert!(!says(name), "{name}");
    }
    let message = "Do not use ARG or ENV instructions for sensitive data (ARG \"TOKEN\")";
    check("FROM a\nARG A TOKEN", &[&format!("2:7 SecretsUsedInArgOrEnv: {message}")]);
}

#[test]
fn d5_lint_invalid_definition_description_is_experimental() {
    let text = "# bar this is the bar\nARG foo=bar\n# BasE this is the base\nFROM scratch AS base\n\
                # a bad comment\nARG version=latest\n# a bad comment\nARG foo=baz bar=qux\n# of no concern\nCOPY a b\n";
    check(text, &[]);
    let message = |name: &str| format!("InvalidDefinitionDescription: Comment for {name} <description>`");
    check(
        &format!("# check=experimental=InvalidDefinitionDescription\n{text}"),
        &[
            &format!("3:1 {}", message("ARG should follow the format: `# foo")),
            &format!("5:1 {}", message("FROM should follow the format: `# base")),
            &format!("7:1 {}", message("ARG should follow the format: `# version")),
            &format!("9:1 {}", message("ARG should follow the format: `# <arg_key>")),
        ],
    );
    check(
        "# check=experimental=all\n# foo is\nARG foo=bar\n# base is\nFROM a AS base\n# baz is\nARG foo bar baz\n#\nARG x",
        &[],
    );
}

#[test]
fn d5_comments_describe_stages_and_arguments() {
    let dockerfile =
        parse("# version of the base\n# other words\nARG version\n# build compiles it\nFROM a AS build").unwrap();
    let argument = &dockerfile.arguments[0];
    assert_eq!(dockerfile.description(argument.name.span.line, "version"), Some("of the base"));
    assert_eq!(dockerfile.description(dockerfile.stages[0].span.line, "build"), Some("compiles it"));
    assert_eq!(dockerfile.description(dockerfile.stages[0].span.line, "buil"), None);
}

#[test]
fn d4_a_comment_above_an_instruction_concerns_it_alone() {
    check("# check=skip=StageNameCasing\nFROM a AS B", &[]);
    let second = "3:11 StageNameCasing: Stage name 'C' should be lowercase";
    check("FROM a\n# check=skip=StageNameCasing\nFROM a AS B", &[]);
    check("# x\n# check=skip=StageNameCasing a remark\nFROM a AS B\nFROM a AS C", &[&second.replace("3:", "4:")]);
    // Also on the lines that it is continued on, and with a blank line between.
    check("FROM a\n# check=skip=all\n\nENV A=1 \\\n  TOKEN=2", &[]);
    // Everything that a rule says about the instruction, also where BuildKit looks at the directive only.
    check("FROM a AS b\n# check=skip=DuplicateStageName\nFROM a AS b", &[]);
}

#[test]
fn d1_a_misspelt_rule_is_told_and_not_skipped() {
    check(
        "# check=skip=StageNameCasng\nFROM a AS B",
        &[
            "1:9 no lint rule is called \"StageNameCasng\" (did you mean StageNameCasing?)",
            "2:11 StageNameCasing: Stage name 'B' should be lowercase",
        ],
    );
    check(
        "FROM a\n# check=skp=all\nUSER x",
        &["2:3 this comment has no effect: invalid check option \"skp\" (known are skip, error, experimental)"],
    );
}

#[test]
fn d1_a_wrong_directive_is_an_error_with_its_place() {
    let dockerfile = parse("# check=skip\nFROM a").unwrap();
    let problem = Linter::new(&dockerfile, None).unwrap_err();
    assert_eq!((problem.span.line, problem.span.offset), (1, 8));
    assert_eq!(problem.message, "invalid check option \"skip\"");
}

#[test]
fn d3_a_build_argument_replaces_the_directive() {
    let dockerfile = parse("# check=skip=all\nFROM a AS B").unwrap();
    let linter = Linter::new(&dockerfile, Some("error=true")).unwrap();
    file(&dockerfile, &linter);
    assert_eq!(linter.finish().violated.names(), ["StageNameCasing"]);
    let problem = Linter::new(&dockerfile, Some("x")).unwrap_err();
    assert_eq!(problem.message, "BUILDKIT_DOCKERFILE_CHECK: invalid check option \"x\"");
}

#[test]
fn warnings_are_bounded_and_sorted() {
    let text = format!("FROM a AS B\n{}", "ENV TOKEN=1\n".repeat(3_000));
    let dockerfile = parse(text).unwrap();
    let linter = Linter::new(&dockerfile, None).unwrap();
    for each in &dockerfile.stages[0].instructions {
        instruction(each, &linter);
    }
    let findings = linter.finish();
    assert_eq!((findings.warnings.len(), findings.omitted), (WARNINGS_MAX, 2_000));
    assert!(findings.warnings.is_sorted_by_key(|warning| warning.problem.span.line));
}

#[test]
fn a_warning_shows_its_rule_and_line() {
    let dockerfile = parse("FROM a AS Build").unwrap();
    let linter = Linter::new(&dockerfile, None).unwrap();
    file(&dockerfile, &linter);
    insta::assert_snapshot!(linter.finish().show(&dockerfile)[0].render("Dockerfile"), @r"
    Dockerfile:1:11: StageNameCasing: Stage name 'Build' should be lowercase
     1 | FROM a AS Build
       |           ^^^^^
    ");
}

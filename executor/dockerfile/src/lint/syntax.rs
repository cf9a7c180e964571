//! The rules that the text alone can tell: a tree and a linter come in, warnings go to the linter.

use std::collections::BTreeSet;

use super::{Linter, Rule};
use crate::{
    ast::{Argument, Dockerfile, Instruction, Kind, Pair, Stage},
    diagnostic::Span,
};

/// Names that mean something else than a stage.
const RESERVED_STAGE_NAMES: [&str; 2] = ["context", "scratch"];

/// Words that make a variable look like a secret.
const SECRET_WORDS: [&str; 10] =
    ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];

/// Words that make it look harmless all the same.
const HARMLESS_WORDS: [&str; 3] = ["public", "file", "version"];

/// Applies the rules that look at the file as a whole.
pub fn file(dockerfile: &Dockerfile, linter: &Linter) {
    for span in &dockerfile.empty_continuations {
        linter.report(Rule::NoEmptyContinuation, *span, || "Empty continuation line".into());
    }
    let mut names = BTreeSet::new();
    for stage in &dockerfile.stages {
        stage_names(stage, &mut names, linter);
    }
    instruction_casing(dockerfile, linter);
    descriptions(dockerfile, linter);
    for instruction in dockerfile.stages.iter().flat_map(|stage| &stage.instructions) {
        if matches!(instruction.kind, Kind::Maintainer(_)) {
            linter.report(Rule::MaintainerDeprecated, instruction.span, || {
                "Maintainer instruction is deprecated in favor of using label".into()
            });
        }
    }
}

/// Applies the rules that look at one instruction of a stage that is built.
pub fn instruction(instruction: &Instruction, linter: &Linter) {
    match &instruction.kind {
        Kind::Env(pairs) => {
            legacy_format(instruction, pairs, linter);
            for pair in pairs {
                secret("ENV", &pair.key.text, pair.key.span, linter);
            }
        }
        Kind::Label(pairs) => legacy_format(instruction, pairs, linter),
        Kind::Arg(arguments) => {
            for argument in arguments {
                secret("ARG", &argument.name.text, argument.name.span, linter);
            }
        }
        _ => {}
    }
}

fn stage_names<'a>(stage: &'a Stage, names: &mut BTreeSet<&'a str>, linter: &Linter) {
    let (Some(name), Some(alias)) = (&stage.name, &stage.alias) else { return };
    let (written, span) = (&alias.name.text, alias.name.span);
    if *written != written.to_lowercase() {
        linter.report(Rule::StageNameCasing, span, || format!("Stage name '{written}' should be lowercase"));
    }
    if RESERVED_STAGE_NAMES.contains(&name.as_str()) {
        linter.report(Rule::ReservedStageName, span, || {
            format!("Stage name should not use the same name as reserved stage \"{name}\"")
        });
    }
    if !names.insert(name) {
        linter.report(Rule::DuplicateStageName, span, || {
            format!("Duplicate stage name \"{name}\", stage names should be unique")
        });
    }
    // A FROM of mixed casing is told by another rule.
    let (from, keyword) = (&stage.keyword, &alias.keyword.text);
    let agrees = match casing(from) {
        Some(Casing::Lower) => *keyword == keyword.to_lowercase(),
        Some(Casing::Upper) => *keyword == keyword.to_uppercase(),
        None => true,
    };
    if !agrees {
        linter.report(Rule::FromAsCasing, alias.keyword.span, || {
            format!("'{keyword}' and '{from}' keywords' casing do not match")
        });
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Casing {
    Lower,
    Upper,
}

/// The casing of a word that has one.
fn casing(word: &str) -> Option<Casing> {
    if word == word.to_ascii_lowercase() {
        Some(Casing::Lower)
    } else if word == word.to_ascii_uppercase() {
        Some(Casing::Upper)
    } else {
        None
    }
}

/// The casing of the majority decides; upper case wins a draw.
fn instruction_casing(dockerfile: &Dockerfile, linter: &Linter) {
    let keywords = || {
        dockerfile.stages.iter().flat_map(|stage| {
            let own = stage.instructions.iter().map(|instruction| (instruction.keyword.as_str(), instruction.span));
            std::iter::once((stage.keyword.as_str(), stage.span)).chain(own)
        })
    };
    let count = |wanted| keywords().filter(|(word, _)| casing(word) == Some(wanted)).count();
    let majority = if count(Casing::Lower) > count(Casing::Upper) { Casing::Lower } else { Casing::Upper };
    let shown = if majority == Casing::Lower { "lowercase" } else { "uppercase" };
    for (word, span) in keywords().filter(|(word, _)| casing(word) != Some(majority)) {
        linter.report(Rule::ConsistentInstructionCasing, span, || {
            format!("Command '{word}' should match the case of the command majority ({shown})")
        });
    }
}

/// The last comment above an ARG or a named stage describes it.
fn descriptions(dockerfile: &Dockerfile, linter: &Linter) {
    let check = |instruction: &str, span: Span, names: &[&str]| {
        let Some(comment) = dockerfile.comments_above(span.line).last() else { return };
        let first = comment.text.split(' ').next().unwrap_or_default();
        if names.contains(&first) {
            return;
        }
        let name = if let [name] = names { name } else { "<arg_key>" };
        linter.report(Rule::InvalidDefinitionDescription, span, || {
            format!("Comment for {instruction} should follow the format: `# {name} <description>`")
        });
    };
    // The ARGs before the first FROM are no longer grouped by instruction: those under one comment are one group.
    let mut globals = dockerfile.arguments.as_slice();
    while let Some(first) = globals.first() {
        let comment = |argument: &Argument| dockerfile.comments_above(argument.name.span.line).first();
        let length = globals.iter().take_while(|argument| comment(argument) == comment(first)).count();
        let (group, rest) = globals.split_at(length);
        let names: Vec<&str> = group.iter().map(|argument| argument.name.text.as_str()).collect();
        check("ARG", Span { offset: 0, length: 3, ..first.name.span }, &names);
        globals = rest;
    }
    for stage in &dockerfile.stages {
        if let Some(name) = &stage.name {
            check("FROM", stage.span, &[name]);
        }
        for instruction in &stage.instructions {
            if let Kind::Arg(arguments) = &instruction.kind {
                let names: Vec<&str> = arguments.iter().map(|argument| argument.name.text.as_str()).collect();
                check("ARG", instruction.span, &names);
            }
        }
    }
}

fn legacy_format(instruction: &Instruction, pairs: &[Pair], linter: &Linter) {
    let Some(pair) = pairs.iter().find(|pair| pair.legacy) else { return };
    let name = &instruction.keyword;
    linter.report(Rule::LegacyKeyValueFormat, pair.key.span, || {
        format!("\"{name} key=value\" should be used instead of legacy \"{name} key value\" format")
    });
}

fn secret(instruction: &str, name: &str, span: Span, linter: &Linter) {
    let has = |words: &[&str]| name.split('_').any(|part| words.contains(&part.to_ascii_lowercase().as_str()));
    if has(&SECRET_WORDS) && !has(&HARMLESS_WORDS) {
        linter.report(Rule::SecretsUsedInArgOrEnv, span, || {
            format!("Do not use ARG or ENV instructions for sensitive data ({instruction} \"{name}\")")
        });
    }
}

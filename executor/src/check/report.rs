//! What `karve check` says: findings come in, text or JSON comes out. SARIF is in `sarif`.

use karve_dockerfile::{
    ast::{Argument, Dockerfile, Kind},
    diagnostic::{Diagnostic, Diagnostics, Problem, Span},
    lint::{Findings, Rule, RuleSet, ShownWarning},
};
use serde_json::{Value, json};

use super::sarif;
use crate::flags::CheckFormat;

/// Everything that is to be said about a Dockerfile.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its path.
    pub file: String,
    /// What keeps it from being built.
    pub errors: Vec<Diagnostic>,
    /// What probably is not as it was meant.
    pub warnings: Vec<ShownWarning>,
    /// How many more errors and warnings there are.
    pub omitted: usize,
    /// The rules whose warnings are failures.
    pub violated: RuleSet,
    /// What could not be checked, and why.
    pub notes: Vec<String>,
    /// The stages that have a name.
    pub stages: Vec<Named>,
    /// The ARGs, the global ones first.
    pub arguments: Vec<Named>,
}

/// A name of the Dockerfile and the comment above it that describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The name.
    pub name: String,
    /// The comment behind the name.
    pub description: Option<String>,
}

impl Report {
    /// Gathers what was found; without a tree the text could not be read.
    pub fn new(file: String, mistakes: Option<Diagnostics>, lint: &Findings, dockerfile: Option<&Dockerfile>) -> Self {
        let (mut errors, omitted) = mistakes.map(|mistakes| (mistakes.entries, mistakes.omitted)).unwrap_or_default();
        if !lint.violated.is_empty() {
            let message = format!("lint violation found for rules: {}", lint.violated.names().join(", "));
            errors.push(Diagnostic::new("", Problem::new(Span::default(), message)));
        }
        let (stages, arguments) = dockerfile.map(names).unwrap_or_default();
        Self {
            file,
            errors,
            warnings: dockerfile.map(|dockerfile| lint.show(dockerfile)).unwrap_or_default(),
            omitted: omitted + lint.omitted,
            violated: lint.violated,
            notes: Vec::new(),
            stages,
            arguments,
        }
    }

    /// Whether the Dockerfile cannot be built as it is.
    pub fn failed(&self) -> bool {
        !self.errors.is_empty()
    }

    /// Writes it, without a line feed at the end.
    pub fn render(&self, format: CheckFormat) -> String {
        match format {
            CheckFormat::Text => self.text(),
            CheckFormat::Json => format!("{:#}", self.json()),
            CheckFormat::Sarif => format!("{:#}", sarif::document(self)),
        }
    }

    fn text(&self) -> String {
        let mut lines: Vec<String> = self.errors.iter().map(|error| error.render(&self.file, "error: ")).collect();
        lines.extend(self.warnings.iter().map(|warning| {
            let rule = warning.rule.map(|rule| format!("{rule}: ")).unwrap_or_default();
            warning.diagnostic.render(&self.file, &format!("warning: {rule}"))
        }));
        lines.extend(self.notes.iter().map(|note| format!("{}: note: {note}", self.file)));
        let more = if self.omitted > 0 { format!(", and {} more", self.omitted) } else { String::new() };
        let (errors, warnings) = (counted(self.errors.len(), "error"), counted(self.warnings.len(), "warning"));
        lines.push(format!("{}: {errors}, {warnings}{more}", self.file));
        lines.join("\n")
    }

    fn json(&self) -> Value {
        let finding = |diagnostic: &Diagnostic| {
            json!({
                "line": diagnostic.line,
                "column": diagnostic.column,
                "endColumn": diagnostic.end_column,
                "message": diagnostic.message,
                "hint": diagnostic.hint,
                "source": diagnostic.source,
            })
        };
        let warning = |warning: &ShownWarning| {
            let mut value = finding(&warning.diagnostic);
            value["rule"] = json!(warning.rule.map(Rule::name));
            value
        };
        let named = |named: &Named| json!({ "name": named.name, "description": named.description });
        json!({
            "file": self.file,
            "errors": self.errors.iter().map(finding).collect::<Vec<_>>(),
            "warnings": self.warnings.iter().map(warning).collect::<Vec<_>>(),
            "omitted": self.omitted,
            "notes": self.notes,
            "stages": self.stages.iter().map(named).collect::<Vec<_>>(),
            "arguments": self.arguments.iter().map(named).collect::<Vec<_>>(),
        })
    }
}

fn counted(count: usize, noun: &str) -> String {
    match count {
        0 => format!("no {noun}s"),
        1 => format!("1 {noun}"),
        count => format!("{count} {noun}s"),
    }
}

/// The stages and ARGs of a Dockerfile, with what the comments above say about them.
fn names(dockerfile: &Dockerfile) -> (Vec<Named>, Vec<Named>) {
    let named = |line: usize, name: &str| Named {
        name: name.to_owned(),
        description: dockerfile.description(line, name).map(str::to_owned),
    };
    let stages = dockerfile.stages.iter().filter_map(|stage| Some(named(stage.span.line, stage.name.as_deref()?)));
    let own = dockerfile.stages.iter().flat_map(|stage| &stage.instructions).filter_map(|each| match &each.kind {
        Kind::Arg(arguments) => Some(arguments.as_slice()),
        _ => None,
    });
    let mut arguments: Vec<Named> = Vec::new();
    let mut known = std::collections::BTreeSet::new();
    let argument = |argument: &Argument| named(argument.name.span.line, &argument.name.text);
    for found in dockerfile.arguments.iter().chain(own.flatten()).map(argument) {
        if known.insert(found.name.clone()) {
            arguments.push(found);
        }
    }
    (stages.collect(), arguments)
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use karve_dockerfile::{lint, parse};

    use super::*;

    /// Checks what the text alone can tell.
    fn report(text: &str) -> Report {
        let file = "app/Docker file".to_owned();
        let dockerfile = match parse(text) {
            Ok(dockerfile) => dockerfile,
            Err(mistakes) => return Report::new(file, Some(mistakes), &Findings::default(), None),
        };
        let linter = lint::Linter::new(&dockerfile, None).unwrap();
        lint::file(&dockerfile, &linter);
        Report { notes: vec!["something".into()], ..Report::new(file, None, &linter.finish(), Some(&dockerfile)) }
    }

    #[test]
    fn text_is_for_people_and_editors() {
        let text = "# check=error=true\nFROM a AS B\n";
        assert_snapshot!(report(text).render(CheckFormat::Text), @r"
        app/Docker file: error: lint violation found for rules: StageNameCasing
        app/Docker file:2:11: warning: StageNameCasing: Stage name 'B' should be lowercase
         2 | FROM a AS B
           |           ^
        app/Docker file: note: something
        app/Docker file: 1 error, 1 warning
        ");
        assert_snapshot!(report("FROM a\nRUNN b").render(CheckFormat::Text), @r"
        app/Docker file:2:1: error: unknown instruction: RUNN (did you mean RUN?)
         2 | RUNN b
           | ^^^^
        app/Docker file: 1 error, no warnings
        ");
    }

    #[test]
    fn d5_json_has_stages_and_arguments_with_their_descriptions() {
        let report = report("# TAG of the base\nARG TAG\n# build compiles\nFROM a AS build\nARG TAG OTHER");
        let json: Value = serde_json::from_str(&report.render(CheckFormat::Json)).unwrap();
        assert_eq!(json["stages"], json!([{ "name": "build", "description": "compiles" }]));
        let arguments =
            json!([{ "name": "TAG", "description": "of the base" }, { "name": "OTHER", "description": null }]);
        assert_eq!(json["arguments"], arguments);
        assert_eq!((&json["errors"], &json["notes"]), (&json!([]), &json!(["something"])));
    }

    #[test]
    fn sarif_has_rules_levels_and_regions() {
        let text = "FROM a AS B\nFROM é as B # check\n".replace(" # check", "");
        let json: Value = serde_json::from_str(&report(&text).render(CheckFormat::Sarif)).unwrap();
        let run = &json["runs"][0];
        assert_eq!((&json["version"], &run["columnKind"]), (&json!("2.1.0"), &json!("unicodeCodePoints")));
        let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
        for result in run["results"].as_array().unwrap() {
            let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
            assert_eq!(rules[index]["id"], result["ruleId"]);
            assert_eq!(result["level"], "warning");
        }
        let place = &run["results"][1]["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "app/Docker%20file");
        let region = json!({ "startLine": 2, "startColumn": 8, "endLine": 2, "endColumn": 10 });
        assert_eq!((&run["results"][1]["ruleId"], &place["region"]), (&json!("FromAsCasing"), &region));
        let mistakes = report("FROM a\nRUNN b").render(CheckFormat::Sarif);
        let json: Value = serde_json::from_str(&mistakes).unwrap();
        let result = &json["runs"][0]["results"][0];
        assert_eq!((&result["level"], &result["ruleId"]), (&json!("error"), &json!("Mistake")));
    }
}

//! SARIF 2.1.0 (OASIS): what code hosts show beside the lines. A report comes in, the document comes out.

use karve_dockerfile::{
    diagnostic::Diagnostic,
    lint::{Rule, ShownWarning},
};
use serde_json::{Value, json};

use super::Report;

/// Where the schema of the format is.
const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";

/// What is no lint rule, behind those that are: identifiers with descriptions.
const OTHERS: [(&str, &str); 2] = [
    ("Mistake", "What keeps the Dockerfile from being built"),
    ("CheckComment", "`# check=` should name options and rules that exist"),
];

/// Writes the document.
pub(super) fn document(report: &Report) -> Value {
    let lint = Rule::ALL.iter().map(|rule| descriptor(rule.name(), rule.description(), "warning"));
    let others = OTHERS.iter().zip(["error", "warning"]).map(|((id, text), level)| descriptor(id, text, level));
    let mistakes = report.errors.iter().map(|error| result(report, Rule::ALL.len(), "error", error));
    let warnings = report.warnings.iter().map(|warning| self::warning(report, warning));
    let notifications = report.notes.iter().map(|note| json!({ "level": "note", "message": { "text": note } }));
    json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "karve",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": lint.chain(others).collect::<Vec<_>>(),
            } },
            "columnKind": "unicodeCodePoints",
            "invocations": [{
                "executionSuccessful": true,
                "toolExecutionNotifications": notifications.collect::<Vec<_>>(),
            }],
            "results": mistakes.chain(warnings).collect::<Vec<_>>(),
        }],
    })
}

fn descriptor(id: &str, description: &str, level: &str) -> Value {
    json!({
        "id": id,
        "shortDescription": { "text": description },
        "defaultConfiguration": { "level": level },
    })
}

/// A warning whose rule fails the build is an error here too.
fn warning(report: &Report, warning: &ShownWarning) -> Value {
    let position = |rule: Rule| Rule::ALL.iter().position(|known| *known == rule);
    let index = warning.rule.and_then(position).unwrap_or(Rule::ALL.len() + 1);
    let fails = warning.rule.is_some_and(|rule| report.violated.has(rule));
    result(report, index, if fails { "error" } else { "warning" }, &warning.diagnostic)
}

fn result(report: &Report, index: usize, level: &str, diagnostic: &Diagnostic) -> Value {
    let other = index.checked_sub(Rule::ALL.len()).and_then(|index| OTHERS.get(index)).map(|(id, _)| *id);
    let id = Rule::ALL.get(index).map(|rule| rule.name()).or(other);
    let hint = diagnostic.hint.as_deref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    let mut place = json!({ "artifactLocation": { "uri": uri(&report.file) } });
    if diagnostic.line > 0 {
        place["region"] = json!({
            "startLine": diagnostic.line,
            "startColumn": diagnostic.column,
            "endLine": diagnostic.line,
            "endColumn": diagnostic.end_column,
        });
    }
    json!({
        "ruleId": id,
        "ruleIndex": index,
        "level": level,
        "message": { "text": format!("{}{hint}", diagnostic.message) },
        "locations": [{ "physicalLocation": place }],
    })
}

/// Writes a path as a URI (RFC 3986).
fn uri(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    path.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

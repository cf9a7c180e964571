//! One folder of the corpus: cases in; a panic that lists every deviation from what they say out.

use std::collections::BTreeSet;

use karve_tests::{
    compare,
    facts::{self, Facts},
};

use crate::{
    builders::{self, Outcome},
    corpus::{self, Case},
    scene::{Place, Scene},
    tree::fill,
};

/// How much of a builder's output is shown, in lines from its end.
const SHOWN_LINES: usize = 15;

/// Where one builder says that a Dockerfile is wrong: each line that it names.
type Lines = BTreeSet<usize>;

/// Builds all cases of a folder, or those that `KARVE_CASE` names a part of, and panics at the end if any came out otherwise than it says.
#[expect(clippy::disallowed_methods, reason = "cargo hands no more to a test than its name")]
pub(crate) fn folder(name: &str) {
    let wanted = std::env::var("KARVE_CASE").unwrap_or_default();
    let cases = corpus::folder(name);
    let cases: Vec<&Case> = cases.iter().filter(|case| case.name.contains(&wanted)).collect();
    if cases.is_empty() {
        return;
    }
    let scene = Scene::shared();
    let mut problems = Vec::new();
    for case in &cases {
        problems.extend(check(&scene, case).into_iter().map(|line| format!("{} {}: {line}", case.place, case.name)));
    }
    assert!(problems.is_empty(), "{} of {} in {name}:\n{}", problems.len(), cases.len(), problems.join("\n"));
}

/// Builds a case with both builders and returns what is not as it should be.
fn check(scene: &Scene, case: &Case) -> Vec<String> {
    let place = scene.place(case);
    let [ours, theirs] = ["karve", "buildkit"].map(|builder| format!("{builder}/{}", case.name));
    let karve = builders::karve(scene, case, &place, &ours);
    let buildkit = builders::buildkit(scene, case, &place, &theirs);
    let client = scene.registry.client();
    let facts =
        |outcome: &Outcome, repository: &str| outcome.succeeded.then(|| facts::of_registry(client, repository, "1"));
    let (image, judged) = (facts(&karve, &ours), facts(&buildkit, &theirs));
    let mut problems = check_karve(case, &place, &karve, image.as_ref(), judged.as_ref());
    let is_about_warnings = case.place.starts_with("corpus/lint/");
    if is_about_warnings {
        problems.extend(check_warnings("Karve", case, "warns", &karve_warnings(&karve.output, dockerfile(case))));
    }
    problems.extend(check_buildkit(case, &place, &buildkit));
    if is_about_warnings {
        let deviates = case.values("buildkit-warns").next().is_some();
        let key = if deviates { "buildkit-warns" } else { "warns" };
        let lint = builders::buildkit_lint(scene, case, &place);
        problems.extend(check_warnings("BuildKit", case, key, &buildkit_warnings(&lint.stdout, dockerfile(case))));
    }
    problems
}

/// Warnings of the lint rules: line and name of the rule.
type Warnings = BTreeSet<(usize, String)>;

/// Compares what a builder warns of with what a case lists.
fn check_warnings(builder: &str, case: &Case, key: &str, warnings: &Warnings) -> Vec<String> {
    let expected = case.values(key).filter(|value| *value != "none").map(|value| {
        let (line, rule) = value.split_once(' ').expect("warns: LINE RULE");
        (line.parse().expect("warns: LINE RULE"), rule.to_owned())
    });
    let expected: Warnings = expected.collect();
    let unexpected = warnings.difference(&expected);
    let unexpected = unexpected.map(|(line, rule)| format!("{builder} warns of {rule} in line {line}"));
    let missing = expected.difference(warnings);
    unexpected.chain(missing.map(|(line, rule)| format!("{builder} does not warn of {rule} in line {line}"))).collect()
}

/// Reads lines such as `warning: Dockerfile:1:14: FromAsCasing: …`.
fn karve_warnings(output: &str, file: &str) -> Warnings {
    let warnings = output.lines().filter_map(|line| {
        let place = line.strip_prefix("warning: ")?.strip_prefix(file)?.strip_prefix(':')?;
        let rule = place.split(": ").nth(1)?;
        let is_name = rule.starts_with(|first: char| first.is_ascii_uppercase()) && !rule.contains(' ');
        is_name.then_some((leading_number(place)?, rule.to_owned()))
    });
    warnings.collect()
}

/// Reads paragraphs such as `WARNING: FromAsCasing - https://…`, of which a line is `Dockerfile:1`.
fn buildkit_warnings(output: &str, file: &str) -> Warnings {
    let paragraphs = output.split("WARNING: ").skip(1).filter_map(|paragraph| {
        let rule = paragraph.split_whitespace().next()?.to_owned();
        let line = paragraph.lines().find_map(|line| leading_number(line.strip_prefix(file)?.strip_prefix(':')?));
        Some((line.unwrap_or_default(), rule))
    });
    paragraphs.collect()
}

/// Compares what Karve did with what the case says and with BuildKit's image.
fn check_karve(
    case: &Case,
    place: &Place,
    karve: &Outcome,
    image: Option<&Facts>,
    judged: Option<&Facts>,
) -> Vec<String> {
    let expected: Vec<(usize, String)> = case.values("fails").map(|value| failure(value, place)).collect();
    let filled = |key: &str| case.values(key).map(|value| fill(value, &place.names)).collect::<Vec<String>>();
    if !expected.is_empty() {
        return check_failure(karve, &expected, dockerfile(case));
    }
    let Some(image) = image else { return vec![format!("Karve fails:\n{}", end(&karve.output))] };
    let mut problems = Vec::new();
    if let Some(judged) = judged {
        problems.extend(compare::unmatched(
            &compare::differences(("Karve", image), ("BuildKit", judged)),
            &filled("differs"),
        ));
    }
    let known: Vec<String> = image
        .iter()
        .flat_map(|(subject, attributes)| {
            attributes.iter().map(move |(name, value)| format!("{subject} {name}: {value}"))
        })
        .collect();
    problems.extend(filled("expect").iter().filter(|line| !known.contains(line)).map(|line| {
        let subject = line.split(' ').next().unwrap_or_default();
        let similar: Vec<&str> = known.iter().map(String::as_str).filter(|known| known.starts_with(subject)).collect();
        format!("not so: {line}; but {}", similar.join(", "))
    }));
    problems
}

/// Compares BuildKit's end with the case: as Karve's, unless it says otherwise.
fn check_buildkit(case: &Case, place: &Place, buildkit: &Outcome) -> Vec<String> {
    let expected: Vec<(usize, String)> = case.values("fails").map(|value| failure(value, place)).collect();
    let deviation = case.value("buildkit").map(|value| fill(value, &place.names));
    let fails = match deviation.as_deref() {
        None => !expected.is_empty(),
        Some("succeeds") => false,
        Some(_) => true,
    };
    if fails == buildkit.succeeded {
        let should = if fails { "fail" } else { "succeed" };
        return vec![format!("BuildKit should {should}:\n{}", end(&buildkit.output))];
    }
    let said = deviation.as_deref().and_then(|text| text.strip_prefix("fails ")).unwrap_or_default();
    if !buildkit.output.contains(said) {
        return vec![format!("BuildKit does not say `{said}`:\n{}", end(&buildkit.output))];
    }
    let line = named_by_buildkit(&buildkit.output, dockerfile(case));
    let wanted =
        deviation.as_deref().and_then(|text| text.strip_prefix("line ")).map(|line| line.parse().expect("a number"));
    match (line, wanted.or(expected.first().map(|(line, _)| *line))) {
        (Some(line), Some(wanted)) if fails && wanted != 0 && line != wanted => {
            vec![format!("BuildKit names line {line}, not {wanted}:\n{}", end(&buildkit.output))]
        }
        _ => Vec::new(),
    }
}

/// Compares a failure of Karve: exactly these lines are named, and each message is there.
fn check_failure(karve: &Outcome, expected: &[(usize, String)], file: &str) -> Vec<String> {
    if karve.succeeded {
        return vec!["Karve builds it".into()];
    }
    let error = karve.output.rfind("\nerror: ").map_or(karve.output.as_str(), |start| &karve.output[start + 1..]);
    let lines: Lines = expected.iter().map(|(line, _)| *line).filter(|&line| line != 0).collect();
    let named = named_by_karve(error, file);
    let mut problems = Vec::new();
    if named != lines {
        problems.push(format!("Karve names lines {named:?}, not {lines:?}:\n{}", end(error)));
    }
    let missing = expected.iter().filter(|(_, message)| !error.contains(message.as_str()));
    problems.extend(missing.map(|(_, message)| format!("Karve does not say `{message}`:\n{}", end(error))));
    problems
}

/// Reads `LINE MESSAGE`; line 0 is none.
fn failure(value: &str, place: &Place) -> (usize, String) {
    let (line, message) = value.split_once(' ').unwrap_or((value, ""));
    (line.parse().expect("fails: LINE MESSAGE"), fill(message, &place.names))
}

fn dockerfile(case: &Case) -> &str {
    case.value("dockerfile").unwrap_or("Dockerfile")
}

/// Returns the lines of the Dockerfile that an error of Karve names, as `Dockerfile:3`.
fn named_by_karve(error: &str, file: &str) -> Lines {
    let lines = error.lines().map(|line| line.strip_prefix("error: ").unwrap_or(line));
    lines.filter_map(|line| leading_number(line.strip_prefix(file)?.strip_prefix(':')?)).collect()
}

/// Returns the line that BuildKit names, if it does.
fn named_by_buildkit(output: &str, file: &str) -> Option<usize> {
    let parse_error = output.rsplit_once("parse error on line ").and_then(|(_, rest)| leading_number(rest));
    parse_error.or_else(|| {
        let mut places = output.lines().filter_map(|line| leading_number(line.strip_prefix(file)?.strip_prefix(':')?));
        places.next()
    })
}

fn leading_number(text: &str) -> Option<usize> {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

/// Returns the last lines of an output.
fn end(output: &str) -> String {
    let lines: Vec<&str> = output.trim_end().lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..]
        .iter()
        .map(|line| format!("    {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

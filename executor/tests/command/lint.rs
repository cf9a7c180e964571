//! Keeps `docs/lint.md` in step with the table of rules.

use std::fmt::Write;

use karve_dockerfile::lint::Rule;

use crate::generated;

/// The file, from the workspace's root.
const FILE: &str = "docs/lint.md";

/// What is said around the table.
const INTRODUCTION: &str = "\
# Lint rules

Generated from the program by `make generate`; do not edit.

`karve check` and `karve build` warn about what builds, but probably not as it was meant.
The rules, their names and their conditions are those of BuildKit's Dockerfile frontend, so that files written for it mean the same here.

A directive at the top of the Dockerfile says which rules count:

```dockerfile
# check=skip=JSONArgsRecommended,UndefinedVar;error=true
```

`skip=` names rules to leave out, or `all`; `experimental=` names experimental rules to add, or `all`; `error=true` makes `karve check` and `karve build` fail when a rule that counts finds something.
The build argument `BUILDKIT_DOCKERFILE_CHECK` replaces the directive.
A comment of the same form directly above an instruction concerns that instruction alone; a blank after the value begins a remark.

";

fn document() -> String {
    let mut text = format!("{INTRODUCTION}| Rule | What it asks for |\n| --- | --- |\n");
    for rule in Rule::ALL {
        let experimental = if rule.is_experimental() { " (experimental)" } else { "" };
        writeln!(text, "| `{rule}` | {}{experimental} |", rule.description()).unwrap();
    }
    text
}

#[test]
fn the_table_of_lint_rules_is_current() {
    generated::check(FILE, &document());
}

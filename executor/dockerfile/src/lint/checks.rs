//! What `# check=` says: `skip=A,B|all;error=true;experimental=A|all` comes in, the rules that it names come out.

use super::Rule;

/// A set of rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleSet(u32);

impl RuleSet {
    const ALL: Self = Self(u32::MAX);

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the rule is in it.
    pub const fn has(self, rule: Rule) -> bool {
        self.0 & (1 << rule as u32) != 0
    }

    /// Adds a rule.
    #[must_use]
    pub const fn with(self, rule: Rule) -> Self {
        Self(self.0 | 1 << rule as u32)
    }

    /// The rules, sorted by name.
    pub fn names(self) -> Vec<&'static str> {
        let mut names: Vec<_> = Rule::ALL.iter().filter(|rule| self.has(**rule)).map(|rule| rule.name()).collect();
        names.sort_unstable();
        names
    }
}

/// Which rules are wanted, and whether a warning is a failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    skip: RuleSet,
    experimental: RuleSet,
    /// `error=true`.
    pub error: bool,
}

impl Checks {
    /// Reads the options. Returns also the names that no rule has: as in BuildKit they are no mistake.
    pub fn parse(text: &str) -> Result<(Self, Vec<String>), String> {
        let mut checks = Self::default();
        let mut unknown = Vec::new();
        if text.trim().is_empty() {
            return Ok((checks, unknown));
        }
        for option in text.split(';') {
            let (key, value) = option.split_once('=').ok_or_else(|| format!("invalid check option \"{option}\""))?;
            let value = value.trim();
            match key.trim() {
                "skip" => checks.skip = rules(value, &mut unknown),
                "experimental" => checks.experimental = rules(value, &mut unknown),
                "error" => {
                    let wrong = || format!("check option \"{option}\" is neither true nor false");
                    checks.error = boolean(value).ok_or_else(wrong)?;
                }
                other => return Err(format!("invalid check option \"{other}\" (known are skip, error, experimental)")),
            }
        }
        Ok((checks, unknown))
    }

    /// Adds what a comment above an instruction skips and enables.
    #[must_use]
    pub const fn merged(self, own: Self) -> Self {
        Self {
            skip: RuleSet(self.skip.0 | own.skip.0),
            experimental: RuleSet(self.experimental.0 | own.experimental.0),
            error: self.error,
        }
    }

    /// Whether a rule counts. An experimental one counts where it is enabled, and cannot be skipped there.
    pub const fn wants(self, rule: Rule) -> bool {
        if rule.is_experimental() { self.experimental.has(rule) } else { !self.skip.has(rule) }
    }
}

fn rules(value: &str, unknown: &mut Vec<String>) -> RuleSet {
    if value == "all" {
        return RuleSet::ALL;
    }
    let mut set = RuleSet::default();
    for name in value.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match Rule::find(name) {
            Some(rule) => set = set.with(rule),
            None => unknown.push(name.to_owned()),
        }
    }
    set
}

/// Reads what Go's `strconv.ParseBool` reads.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Checks {
        Checks::parse(text).unwrap().0
    }

    #[test]
    fn d1_check_options_skip_fail_and_enable() {
        let checks = parse("skip=UndefinedVar, StageNameCasing;error=true");
        assert!(!checks.wants(Rule::UndefinedVar) && !checks.wants(Rule::StageNameCasing));
        assert!(checks.wants(Rule::FromAsCasing) && checks.error);
        assert!(Rule::ALL.iter().all(|rule| !parse("skip=all").wants(*rule)));
        assert!(!parse("").wants(Rule::InvalidDefinitionDescription));
        assert!(parse("experimental=InvalidDefinitionDescription").wants(Rule::InvalidDefinitionDescription));
        assert!(parse("skip=all;experimental=all").wants(Rule::InvalidDefinitionDescription));
        assert!(!parse("error=F").error);
    }

    #[test]
    fn d1_wrong_check_options_are_named_and_unknown_rules_told() {
        let error = |text| Checks::parse(text).unwrap_err();
        assert_eq!(error("skip"), "invalid check option \"skip\"");
        assert_eq!(error("skp=all"), "invalid check option \"skp\" (known are skip, error, experimental)");
        assert_eq!(error("error=maybe"), "check option \"error=maybe\" is neither true nor false");
        assert_eq!(Checks::parse("skip=UndefinedVar,undefinedvar").unwrap().1, ["undefinedvar"]);
    }

    #[test]
    fn d4_a_comment_adds_to_the_directive() {
        let both = parse("skip=UndefinedVar;error=true").merged(parse("skip=FromAsCasing"));
        assert!(!both.wants(Rule::UndefinedVar) && !both.wants(Rule::FromAsCasing) && both.error);
        assert!(!parse("").merged(parse("error=true")).error);
    }

    #[test]
    fn every_rule_fits_into_a_set() {
        assert_eq!(Rule::ALL.len(), 22);
        let all = Rule::ALL.iter().fold(RuleSet::default(), |set, rule| set.with(*rule));
        assert_eq!(all.names().len(), 22);
    }
}

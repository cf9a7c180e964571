//! `--chmod`: text goes in, permission bits come out.
//!
//! Octal from 0 to 07777, or clauses as chmod(1) has them: `[ugoa…][+-=][rwxXst… or u, g, o]`, several operations in a clause,
//! several clauses with commas. A clause without `ugoa` means `a`: a build has no umask of its own. Refuses everything else.

/// A parsed `--chmod`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chmod(Form);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    Octal(u32),
    Symbolic(Vec<Operation>),
}

/// `--chmod` with a value of neither form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid chmod parameter: '{0}'. it should be octal string and between 0 and 07777, or symbolic")]
pub struct InvalidChmod(String);

/// One of `+rx`, `-w`, `=u`, and the classes that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Operation {
    /// Shifts of the classes: 6 for the owner, 3 for the group, 0 for others.
    classes: Vec<u32>,
    operator: Operator,
    permissions: Permissions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Add,
    Remove,
    Set,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Permissions {
    /// What the letters after the operator say.
    Letters {
        /// Bits of `rwx`, as for others.
        bits: u32,
        /// `X`: execute, where it makes sense.
        execute_if_any: bool,
        /// `s`
        set_id: bool,
        /// `t`
        sticky: bool,
    },
    /// The permissions that the class with this shift has now.
    CopyOf(u32),
}

const OWNER: u32 = 6;
const GROUP: u32 = 3;
const OTHERS: u32 = 0;
const STICKY: u32 = 0o1000;

impl Chmod {
    /// Reads the value of the flag.
    pub fn parse(text: &str) -> Result<Self, InvalidChmod> {
        let invalid = || InvalidChmod(text.chars().take(100).collect());
        if text.starts_with(|first: char| first.is_ascii_digit()) {
            let all_octal = text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
            let mode = u32::from_str_radix(text, 8).ok().filter(|mode| all_octal && *mode <= 0o7777);
            return Ok(Self(Form::Octal(mode.ok_or_else(invalid)?)));
        }
        let mut operations = Vec::new();
        for clause in text.split(',') {
            parse_clause(clause.as_bytes(), &mut operations).ok_or_else(invalid)?;
        }
        Ok(Self(Form::Symbolic(operations)))
    }

    /// Returns the mode if the flag was a number: the directories that a COPY creates on its way get it too.
    pub const fn octal(&self) -> Option<u32> {
        match self.0 {
            Form::Octal(mode) => Some(mode),
            Form::Symbolic(_) => None,
        }
    }

    /// Returns the permission bits that an entry with `mode` gets.
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        match &self.0 {
            Form::Octal(octal) => *octal,
            Form::Symbolic(operations) => {
                operations.iter().fold(mode & 0o7777, |mode, operation| operation.apply(mode, is_directory))
            }
        }
    }
}

/// Reads one clause; `None` where it is malformed.
fn parse_clause(clause: &[u8], operations: &mut Vec<Operation>) -> Option<()> {
    let operator_at = clause.iter().position(|byte| b"+-=".contains(byte))?;
    let (who, mut rest) = clause.split_at(operator_at);
    let mut classes = Vec::new();
    for letter in if who.is_empty() { b"a" } else { who } {
        match letter {
            b'a' => classes.extend([OWNER, GROUP, OTHERS]),
            letter => classes.push(class(*letter)?),
        }
    }
    while let Some((operator, tail)) = rest.split_first() {
        let operator = match operator {
            b'+' => Operator::Add,
            b'-' => Operator::Remove,
            _ => Operator::Set,
        };
        let end = tail.iter().position(|byte| b"+-=".contains(byte)).unwrap_or(tail.len());
        let (letters, next) = tail.split_at(end);
        operations.push(Operation { classes: classes.clone(), operator, permissions: parse_permissions(letters)? });
        rest = next;
    }
    Some(())
}

fn class(letter: u8) -> Option<u32> {
    match letter {
        b'u' => Some(OWNER),
        b'g' => Some(GROUP),
        b'o' => Some(OTHERS),
        _ => None,
    }
}

fn parse_permissions(letters: &[u8]) -> Option<Permissions> {
    if let [letter] = letters
        && let Some(class) = class(*letter)
    {
        return Some(Permissions::CopyOf(class));
    }
    let (mut bits, mut execute_if_any, mut set_id, mut sticky) = (0, false, false, false);
    for letter in letters {
        match letter {
            b'r' => bits |= 0o4,
            b'w' => bits |= 0o2,
            b'x' => bits |= 0o1,
            b'X' => execute_if_any = true,
            b's' => set_id = true,
            b't' => sticky = true,
            _ => return None,
        }
    }
    Some(Permissions::Letters { bits, execute_if_any, set_id, sticky })
}

impl Operation {
    fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        let mut named = 0;
        let mut whole = 0;
        for shift in &self.classes {
            let (set_id_bit, sticky_bit) = match *shift {
                OWNER => (0o4000, 0),
                GROUP => (0o2000, 0),
                _ => (0, STICKY),
            };
            whole |= 0o7 << shift | set_id_bit | sticky_bit;
            named |= match self.permissions {
                Permissions::CopyOf(class) => (mode >> class & 0o7) << shift,
                Permissions::Letters { bits, execute_if_any, set_id, sticky } => {
                    let execute = u32::from(execute_if_any && (is_directory || mode & 0o111 != 0));
                    (bits | execute) << shift
                        | if set_id { set_id_bit } else { 0 }
                        | if sticky { sticky_bit } else { 0 }
                }
            };
        }
        match self.operator {
            Operator::Add => mode | named,
            Operator::Remove => mode & !named,
            Operator::Set => mode & !whole | named,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Checks what becomes of a file of mode 0644, a file of mode 4750 and a directory of mode 0700.
    #[track_caller]
    fn check(text: &str, expected: Option<[u32; 3]>) {
        let modes = Chmod::parse(text)
            .ok()
            .map(|chmod| [chmod.apply(0o644, false), chmod.apply(0o4750, false), chmod.apply(0o700, true)]);
        assert_eq!(modes, expected, "{text}");
    }

    #[test]
    fn octal_is_the_whole_mode() {
        check("755", Some([0o755; 3]));
        check("0", Some([0; 3]));
        check("07777", Some([0o7777; 3]));
        check("0000600", Some([0o600; 3]));
    }

    #[test]
    fn symbolic_clauses_change_the_mode_from_left_to_right() {
        check("u=rwX,go=rX", Some([0o644, 0o755, 0o755]));
        check("+x", Some([0o755, 0o4751, 0o711]));
        check("a-r", Some([0o200, 0o4310, 0o300]));
        check("u+s,g+s,+t", Some([0o7644, 0o7750, 0o7700]));
        check("u-s", Some([0o644, 0o750, 0o700]));
        check("go=", Some([0o600, 0o4700, 0o700]));
        check("g=u", Some([0o664, 0o4770, 0o770]));
        check("u=rw+x-w", Some([0o544, 0o550, 0o500]));
        check("o+X", Some([0o644, 0o4751, 0o701]));
        check("ug+w", Some([0o664, 0o4770, 0o720]));
    }

    #[test]
    fn k10_other_values_are_errors_that_quote_the_value() {
        for text in [
            "",
            "8",
            "10000",
            "0o755",
            "755,u+x",
            "u",
            "u+rwz",
            "x+r",
            "u+r,",
            ",",
            "u+ug",
            "٧",
            "-rwxz",
            "99999999999",
        ] {
            check(text, None);
        }
        let error = Chmod::parse("rwxr").expect_err("no operator");
        assert_eq!(
            error.to_string(),
            "invalid chmod parameter: 'rwxr'. it should be octal string and between 0 and 07777, or symbolic"
        );
    }

    proptest! {
        #[test]
        fn any_text_parses_or_not_and_modes_stay_in_range(text in "[ugoarwxXst+=,0-9-]{0,12}|.{0,8}", mode in 0u32..0o10000) {
            if let Ok(chmod) = Chmod::parse(&text) {
                prop_assert!(chmod.apply(mode, true) <= 0o7777 && chmod.apply(mode, false) <= 0o7777);
            }
        }
    }
}

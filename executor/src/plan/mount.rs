//! `RUN --mount`: a flag's value and the variables come in, a mount comes out. Types that are not run, keys that a type
//! does not have and values that make no sense are refused.

use karve_dockerfile::{
    ast::Word,
    closest,
    diagnostic::{Fault, Problem},
};

use super::{
    arguments::Expansion,
    config::join,
    graph::{Mount, SecretMount},
};

/// Where secrets are without a target.
const SECRETS_DIRECTORY: &str = "/run/secrets";

/// Permission bits of a secret without a mode.
const SECRET_MODE: u32 = 0o400;

/// Types that a Dockerfile may name but that are not run yet.
const UNSUPPORTED_TYPES: [&str; 3] = ["bind", "cache", "ssh"];

/// Keys with their other spellings resolved.
const KEYS: [&str; 14] = [
    "env",
    "from",
    "gid",
    "id",
    "mode",
    "readonly",
    "readwrite",
    "required",
    "sharing",
    "size",
    "source",
    "target",
    "type",
    "uid",
];

/// What a key and its value are.
struct Field {
    key: &'static str,
    /// `None` for a bare word.
    value: Option<String>,
}

/// Reads one mount. Relative targets are below `working_directory`.
pub(super) fn parse(word: &Word, expansion: Expansion<'_>, working_directory: &str) -> Result<Mount, Problem> {
    let problem = |message: String| Problem::new(word.span, message);
    let mut fields = Vec::new();
    for text in split_csv(&word.text).map_err(problem)? {
        fields.push(field(word, &text, expansion)?);
    }
    let kind = take(&mut fields, "type").and_then(|field| field.value).unwrap_or_else(|| "bind".into());
    let allowed: &[&str] = match kind.as_str() {
        "secret" => &["env", "gid", "id", "mode", "readonly", "required", "source", "target", "uid"],
        "tmpfs" => &["readwrite", "size", "target"],
        other => return Err(unsupported(word, other)),
    };
    if let Some(field) = fields.iter().find(|field| !allowed.contains(&field.key)) {
        return Err(problem(format!("unexpected key '{}' for mount type '{kind}'", field.key)));
    }
    if kind == "secret" {
        secret(&mut fields, working_directory).map(Mount::Secret).map_err(problem)
    } else {
        tmpfs(&mut fields, working_directory).map_err(problem)
    }
}

fn unsupported(word: &Word, kind: &str) -> Problem {
    if UNSUPPORTED_TYPES.contains(&kind) {
        let message = format!("RUN --mount=type={kind} is not supported by this version");
        let problem = Problem::new(word.span, message).fault(Fault::Unsupported);
        return problem.hint("supported are type=secret and type=tmpfs");
    }
    let known = UNSUPPORTED_TYPES.into_iter().chain(["secret", "tmpfs"]);
    let suggestion = closest(kind, known).map(|known| format!(" (did you mean {known}?)")).unwrap_or_default();
    Problem::new(word.span, format!("unsupported mount type \"{kind}\"{suggestion}"))
}

/// Reads `key=value`, or a word that stands alone.
fn field(word: &Word, text: &str, expansion: Expansion<'_>) -> Result<Field, Problem> {
    let (key, value) = text.split_once('=').map_or((text, None), |(key, value)| (key, Some(value)));
    let lower = key.to_lowercase();
    let canonical = match lower.as_str() {
        "src" => "source",
        "dst" | "destination" => "target",
        "ro" => "readonly",
        "rw" => "readwrite",
        other => other,
    };
    let Some(key) = KEYS.into_iter().find(|known| *known == canonical) else {
        let suggestion = closest(&lower, KEYS).map(|known| format!(" (did you mean {known}?)")).unwrap_or_default();
        return Err(Problem::new(word.span, format!("unexpected key '{lower}' in '{text}'{suggestion}")));
    };
    let Some(value) = value else {
        if ["readonly", "readwrite", "required"].contains(&key) {
            return Ok(Field { key, value: None });
        }
        return Err(Problem::new(word.span, format!("invalid field '{text}' must be a key=value pair")));
    };
    if key == "from" {
        if value.contains('$') {
            let problem = Problem::new(word.span, "'from' doesn't support variable expansion");
            return Err(problem.hint("define an alias stage instead"));
        }
        return Ok(Field { key, value: Some(value.to_owned()) });
    }
    let value = Word { text: value.to_owned(), span: word.span };
    Ok(Field { key, value: Some(expansion.word(&value)?) })
}

/// Takes a field; the last of a name counts.
fn take(fields: &mut Vec<Field>, key: &str) -> Option<Field> {
    fields.extract_if(.., |field| field.key == key).last()
}

fn text(fields: &mut Vec<Field>, key: &str) -> Option<String> {
    take(fields, key).and_then(|field| field.value)
}

fn switch(fields: &mut Vec<Field>, key: &str) -> Result<bool, String> {
    let Some(field) = take(fields, key) else { return Ok(false) };
    match field.value.as_deref() {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => Err(format!("invalid value for {key}: {other}")),
    }
}

fn number(fields: &mut Vec<Field>, key: &str, radix: u32) -> Result<Option<u32>, String> {
    let Some(value) = text(fields, key) else { return Ok(None) };
    let plain = !value.starts_with('+');
    match u32::from_str_radix(&value, radix) {
        Ok(number) if plain => Ok(Some(number)),
        _ => Err(format!("invalid value {value} for {key}")),
    }
}

fn secret(fields: &mut Vec<Field>, working_directory: &str) -> Result<SecretMount, String> {
    let target = target(fields, working_directory)?;
    let source = text(fields, "source");
    let env = text(fields, "env").filter(|name| !name.is_empty());
    let base_name = || target.as_deref().and_then(|target| target.rsplit('/').find(|part| !part.is_empty()));
    let id = text(fields, "id").or(source).filter(|id| !id.is_empty());
    let id = id.or_else(|| base_name().map(str::to_owned));
    let Some(id) = id else { return Err("one of id, source, target is required for a secret mount".into()) };
    let default_target = || format!("{SECRETS_DIRECTORY}/{}", id.rsplit('/').next().unwrap_or(&id));
    let target = if env.is_some() { target } else { target.or_else(|| Some(default_target())) };
    switch(fields, "readonly")?;
    let mode = number(fields, "mode", 8)?.unwrap_or(SECRET_MODE);
    if mode > 0o7777 {
        return Err(format!("invalid value {mode:o} for mode"));
    }
    Ok(SecretMount {
        target,
        env,
        required: switch(fields, "required")?,
        mode,
        uid: number(fields, "uid", 10)?.unwrap_or_default(),
        gid: number(fields, "gid", 10)?.unwrap_or_default(),
        id,
    })
}

fn tmpfs(fields: &mut Vec<Field>, working_directory: &str) -> Result<Mount, String> {
    let Some(target) = target(fields, working_directory)? else {
        return Err("target is required for a tmpfs mount".into());
    };
    if take(fields, "readwrite").is_some_and(|field| !matches!(field.value.as_deref(), None | Some("true" | "1"))) {
        return Err("a tmpfs mount can't be read-only".into());
    }
    let size =
        text(fields, "size").map(|size| bytes(&size).ok_or(format!("invalid value for size: {size}"))).transpose()?;
    Ok(Mount::Tmpfs { target, size })
}

/// Takes the target as an absolute path.
fn target(fields: &mut Vec<Field>, working_directory: &str) -> Result<Option<String>, String> {
    let Some(target) = text(fields, "target").filter(|target| !target.is_empty()) else { return Ok(None) };
    let absolute = join(working_directory, &target);
    if join("/", absolute.trim_start_matches('/')) == "/" {
        return Err(format!("invalid mount target \"{target}\""));
    }
    Ok(Some(absolute))
}

/// Reads a size such as `64m` or `1GiB`; units are powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    let lower = text.trim().to_lowercase();
    let digits = lower.find(|character: char| !character.is_ascii_digit()).unwrap_or(lower.len());
    let (number, unit) = lower.split_at_checked(digits)?;
    let shift = match unit.trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Splits one line of comma-separated values, whose fields may stand in double quotes.
fn split_csv(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut characters = text.chars().peekable();
    let (mut quoted, mut at_start) = (false, true);
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => field.extend(characters.next()),
            '"' if quoted => quoted = false,
            '"' if at_start => quoted = true,
            '"' => return Err(format!("bare \" in {text}")),
            ',' if !quoted => {
                fields.push(std::mem::take(&mut field));
                at_start = true;
                continue;
            }
            plain => field.push(plain),
        }
        at_start = false;
    }
    if quoted {
        return Err(format!("unterminated \" in {text}"));
    }
    fields.push(field);
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use karve_dockerfile::{diagnostic::Span, expand::Budget};

    fn read(text: &str) -> Result<Mount, String> {
        let variables = [("T".to_owned(), "/t".to_owned())].into();
        let word = Word { text: text.into(), span: Span::default() };
        let expansion = Expansion { variables: &variables, escape: '\\', budget: &Budget::default() };
        parse(&word, expansion, "/job").map_err(|problem| problem.message)
    }

    #[track_caller]
    fn check_error(text: &str, expected: &str) {
        assert_eq!(read(text), Err(expected.to_owned()), "{text}");
    }

    fn default_secret() -> SecretMount {
        SecretMount {
            id: "a".into(),
            target: Some("/run/secrets/a".into()),
            env: None,
            required: false,
            mode: 0o400,
            uid: 0,
            gid: 0,
        }
    }

    #[test]
    fn r6_a_secret_has_defaults() {
        assert_eq!(read("type=secret,id=a"), Ok(Mount::Secret(default_secret())));
        assert_eq!(read("type=secret,source=a"), Ok(Mount::Secret(default_secret())));
        let target = SecretMount { target: Some("/x/a".into()), ..default_secret() };
        assert_eq!(read("type=secret,target=/x/a"), Ok(Mount::Secret(target)));
        let env = SecretMount { target: None, env: Some("A".into()), ..default_secret() };
        assert_eq!(read("type=secret,id=a,env=A"), Ok(Mount::Secret(env)));
        let both = SecretMount { env: Some("A".into()), target: Some("/job/f".into()), ..default_secret() };
        assert_eq!(read("type=secret,id=a,env=A,dst=f"), Ok(Mount::Secret(both)));
        let all = SecretMount { required: true, mode: 0o440, uid: 1, gid: 2, ..default_secret() };
        assert_eq!(read("type=secret,id=a,required,mode=0440,uid=1,gid=2"), Ok(Mount::Secret(all)));
    }

    #[test]
    fn r5_a_tmpfs_has_a_target_and_a_size() {
        assert_eq!(read("type=tmpfs,target=$T"), Ok(Mount::Tmpfs { target: "/t".into(), size: None }));
        let sized = Mount::Tmpfs { target: "/job/t".into(), size: Some(64 << 20) };
        assert_eq!(read("type=tmpfs,dst=t,size=64m"), Ok(sized));
        check_error("type=tmpfs,target=/t,size=x", "invalid value for size: x");
        check_error("type=tmpfs", "target is required for a tmpfs mount");
    }

    #[test]
    fn r2_wrong_fields_are_named() {
        check_error("type=secret,id=a,size=1", "unexpected key 'size' for mount type 'secret'");
        check_error("type=secret,id=a,sise=1", "unexpected key 'sise' in 'sise=1' (did you mean size?)");
        check_error("type=secret,id", "invalid field 'id' must be a key=value pair");
        check_error("type=secret", "one of id, source, target is required for a secret mount");
        check_error("type=tmpfs,target=/", "invalid mount target \"/\"");
        check_error("type=tmpfs,target=/../", "invalid mount target \"/../\"");
        check_error("type=secret,id=a,mode=9", "invalid value 9 for mode");
        check_error("type=secret,id=a,required=maybe", "invalid value for required: maybe");
        check_error("type=secret,from=$X", "'from' doesn't support variable expansion");
        check_error("type=secret,\"id=a", "unterminated \" in type=secret,\"id=a");
    }

    #[test]
    fn r2_fields_may_be_quoted() {
        let secret = SecretMount { id: "a,b".into(), target: Some("/run/secrets/a,b".into()), ..default_secret() };
        assert_eq!(read("type=secret,\"id=a,b\""), Ok(Mount::Secret(secret)));
    }

    #[test]
    fn r2_types_that_are_not_run_are_refused() {
        check_error("target=/x", "RUN --mount=type=bind is not supported by this version");
        check_error("type=cache,target=/x", "RUN --mount=type=cache is not supported by this version");
        check_error("type=ssh", "RUN --mount=type=ssh is not supported by this version");
        check_error("type=secert", "unsupported mount type \"secert\" (did you mean secret?)");
    }
}

//! Credential helpers: a name and a server go in, a credential comes out of `docker-credential-NAME get`.
//!
//! A helper runs only if a document names it; it has a deadline, and its output a limit.

use std::{io, process::Stdio, time::Duration};

use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
    time::timeout,
};

use super::credentials::{Credential, CredentialsError, basic};

/// Helpers of clouds ask a metadata server or a token service; none takes longer than this when it works.
const DEADLINE: Duration = Duration::from_secs(30);
/// The longest answer that is read.
const OUTPUT_BYTES_MAX: u64 = 64 << 10;
/// As much of a helper's complaint as is repeated to the user.
const WORDS_CHARACTERS_MAX: usize = 200;
/// What helpers print, beside exit code 1, where they know no credentials.
const NOT_FOUND: &str = "credentials not found";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks a helper; `None` if it knows no credential for the server.
pub(super) async fn ask(helper: &str, server: &str) -> Result<Option<Credential>, CredentialsError> {
    let failed = |reason: String| CredentialsError::Helper { helper: helper.into(), server: server.into(), reason };
    let (success, output) = timeout(DEADLINE, run(&format!("docker-credential-{helper}"), server))
        .await
        .map_err(|_| failed(format!("no answer within {} seconds", DEADLINE.as_secs())))?
        .map_err(|error| failed(error.to_string()))?;
    judge(success, &output).map_err(failed)
}

/// Reads what a helper printed; the error is its own words, or what is wrong with them.
fn judge(success: bool, output: &[u8]) -> Result<Option<Credential>, String> {
    if success {
        let answer = serde_json::from_slice::<Answer>(output);
        let Answer { username, secret } =
            answer.map_err(|_| "its answer is not the JSON that is expected".to_owned())?;
        return Ok(basic(username, secret));
    }
    let said = String::from_utf8_lossy(output);
    if said.contains(NOT_FOUND) {
        return Ok(None);
    }
    Err(said.trim().chars().filter(|character| !character.is_control()).take(WORDS_CHARACTERS_MAX).collect())
}

async fn run(program: &str, server: &str) -> io::Result<(bool, Vec<u8>)> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that ends without reading its input is judged by its exit code.
        match stdin.write_all(server.as_bytes()).await {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(OUTPUT_BYTES_MAX).read_to_end(&mut output).await?;
    }
    Ok((child.wait().await?.success(), output))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[track_caller]
    fn check(success: bool, output: &str, expected: Result<Option<Credential>, &str>) {
        assert_eq!(judge(success, output.as_bytes()), expected.map_err(str::to_owned), "{output}");
    }

    #[test]
    fn a_helper_gives_a_password_a_token_nothing_or_its_complaint() {
        let password = Credential::Basic { username: "u".into(), password: Secret::new("p".into()) };
        check(true, r#"{"ServerURL":"r.example","Username":"u","Secret":"p"}"#, Ok(Some(password)));
        let token = Credential::IdentityToken(Secret::new("t".into()));
        check(true, r#"{"Username":"<token>","Secret":"t"}"#, Ok(Some(token)));
        check(false, "credentials not found in native keychain\n", Ok(None));
        check(false, " no\u{1b} role\n", Err("no role"));
        check(true, "secret", Err("its answer is not the JSON that is expected"));
    }

    #[tokio::test]
    async fn a_program_is_asked_on_its_standard_input() {
        // `cat get` names a file that does not exist; `echo get` ends without reading.
        assert_eq!(run("echo", "r.example").await.unwrap(), (true, b"get\n".to_vec()));
        assert_eq!(run("cat", "r.example").await.unwrap(), (false, Vec::new()));
        assert!(run("docker-credential-which-nobody-has", "r.example").await.is_err());
    }
}

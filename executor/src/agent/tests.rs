//! Our agent and OpenSSH's own tools: `ssh-keygen` makes keys, asks the agent for signatures and checks them.

use std::process::{Command, Output};

use tempfile::TempDir;

use super::*;
use crate::secret::Secret;

/// Every type of key that `ssh-keygen` makes and we take.
const TYPES: [(&str, &str); 5] =
    [("ed25519", ""), ("rsa", "2048"), ("ecdsa", "256"), ("ecdsa", "384"), ("ecdsa", "521")];

fn openssh(program: &str, socket: Option<&Path>, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).stdin(std::process::Stdio::null()).env_remove("SSH_AUTH_SOCK");
    command.envs(socket.map(|socket| ("SSH_AUTH_SOCK", socket)));
    command.output().expect("OpenSSH is installed (Debian: openssh-client)")
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Makes a key file.
fn key(directory: &TempDir, name: &str, kind: &str, bits: &str, passphrase: &str) -> PathBuf {
    let path = directory.path().join(name);
    let mut arguments = vec!["-q", "-t", kind, "-N", passphrase, "-C", name, "-f", text(&path)];
    if !bits.is_empty() {
        arguments.extend(["-b", bits]);
    }
    let made = openssh("ssh-keygen", None, &arguments);
    assert!(made.status.success(), "{made:?}");
    path
}

/// Opens a socket of an agent in a directory of its own; returns the socket's path too.
fn socket(directory: &TempDir, name: &str, agent: Agent) -> (AgentSocket, PathBuf) {
    let path = directory.path().join(name);
    fs::create_dir(&path).unwrap();
    let socket = AgentSocket::open(Arc::new(agent), &path, Attributes { mode: 0o660, uid: 0, gid: 0 }).unwrap();
    (socket, path.join(AgentSocket::NAME))
}

/// Has `ssh-keygen` sign a file by an agent, and check the signature.
#[track_caller]
fn check_signature(socket: &Path, key: &Path) {
    let file = key.with_extension("data");
    fs::write(&file, "what is signed\n").unwrap();
    let public = key.with_extension("pub");
    let signed = openssh("ssh-keygen", Some(socket), &["-Y", "sign", "-n", "test", "-f", text(&public), text(&file)]);
    assert!(signed.status.success(), "{signed:?}");
    let signature = key.with_extension("data.sig");
    let mut check = Command::new("ssh-keygen");
    check.args(["-Y", "check-novalidate", "-n", "test", "-s", text(&signature)]).stdin(File::open(&file).unwrap());
    let checked = check.output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
    fs::remove_file(signature).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_keys_of_every_type_sign() {
    let directory = tempfile::tempdir().unwrap();
    let keys: Vec<_> =
        TYPES.iter().map(|(kind, bits)| key(&directory, &format!("{kind}{bits}"), kind, bits, "")).collect();
    let agent = Agent::open(&AgentSource::Paths(keys.clone())).unwrap();
    let (_open, socket) = socket(&directory, "agent", agent);
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    tokio::task::spawn_blocking(move || {
        let listed = openssh("ssh-add", Some(&socket), &["-L"]);
        let listed = String::from_utf8(listed.stdout).unwrap();
        let expected: String = keys.iter().map(|key| fs::read_to_string(key.with_extension("pub")).unwrap()).collect();
        assert_eq!(listed, expected);
        // Without the private keys: only the agent can sign.
        for key in &keys {
            fs::remove_file(key).unwrap();
            check_signature(&socket, key);
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_another_agent_is_asked_and_not_changed() {
    let directory = tempfile::tempdir().unwrap();
    let file = key(&directory, "key", "ed25519", "", "");
    let value = Secret::new(fs::read(&file).unwrap());
    let other = AgentSource::Key { variable: "KEY".into(), value };
    let (other, other_path) = socket(&directory, "other", Agent::open(&other).unwrap());
    let agent = Agent::open(&AgentSource::Paths(vec![other_path])).unwrap();
    let (_open, socket) = socket(&directory, "agent", agent);
    tokio::task::spawn_blocking(move || {
        let added = openssh("ssh-add", Some(&socket), &[text(&file)]);
        assert!(!added.status.success(), "{added:?}");
        fs::remove_file(&file).unwrap();
        check_signature(&socket, &file);
        for arguments in [["-D"], ["-x"]] {
            assert!(!openssh("ssh-add", Some(&socket), &arguments).status.success(), "{arguments:?}");
        }
        drop(other);
        assert!(!openssh("ssh-add", Some(&socket), &["-l"]).status.success());
    })
    .await
    .unwrap();
}

#[test]
fn r7_a_key_with_a_passphrase_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = key(&directory, "key", "ed25519", "", "hunter22");
    let error = Agent::open(&AgentSource::Paths(vec![file])).unwrap_err();
    assert!(matches!(error, AgentError::Key { source: KeyError::Encrypted, .. }), "{error:?}");
    let missing = Agent::open(&AgentSource::Paths(vec![directory.path().join("none")])).unwrap_err();
    assert!(matches!(missing, AgentError::Unreadable { .. }), "{missing:?}");
}

#[test]
fn r7_what_is_no_request_is_refused() {
    for message in [&[][..], &[0], &[SIGN_REQUEST], &[SIGN_REQUEST, 0, 0, 0, 9, 1], &[17, 0, 0, 0, 0], &[27]] {
        assert_eq!(Agent::answer(&[], message), [FAILURE], "{message:?}");
    }
    assert_eq!(Agent::answer(&[], &[REQUEST_IDENTITIES]), [IDENTITIES_ANSWER, 0, 0, 0, 0]);
}

#[test]
fn r7_a_key_prints_its_comment_only() {
    let directory = tempfile::tempdir().unwrap();
    let text = fs::read(key(&directory, "comment", "ed25519", "", "")).unwrap();
    assert_eq!(format!("{:?}", PrivateKey::parse(&text).unwrap()), "PrivateKey(comment)");
}

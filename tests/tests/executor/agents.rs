//! `RUN --mount=type=ssh`: a step asks an agent that it sees only through a socket of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use karve_api::Reason;
use tempfile::TempDir;

use crate::build::Build;

/// Sends its standard input to the agent as one message, and prints the answer.
const CLIENT: &str = r#"
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, getenv("SSH_AUTH_SOCK"), sizeof address.sun_path - 1);
    int agent = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(agent, (struct sockaddr *)&address, sizeof address)) return 3;
    char bytes[4096];
    ssize_t length = read(0, bytes, sizeof bytes);
    if (length < 0 || write(agent, bytes, length) != length) return 4;
    shutdown(agent, SHUT_WR);
    while ((length = read(agent, bytes, sizeof bytes)) > 0) write(1, bytes, length);
    return 0;
}
"#;

/// A build whose context has the client, and a key.
struct Scene {
    directory: TempDir,
}

impl Scene {
    fn new() -> Self {
        let directory = TempDir::with_prefix("karve-agent-").unwrap();
        let source = directory.path().join("client.c");
        fs::write(&source, CLIENT).unwrap();
        let mut compiler = Command::new("gcc");
        compiler.args(["-static", "-o"]).arg(directory.path().join("client")).arg(source);
        assert!(compiler.status().unwrap().success());
        Self { directory }
    }

    fn key(&self, name: &str, passphrase: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        let mut generator = Command::new("ssh-keygen");
        generator.args(["-q", "-t", "ed25519", "-C", name, "-N", passphrase, "-f"]).arg(&path);
        assert!(generator.status().unwrap().success());
        path
    }

    /// A build of steps; `ASK` in them asks the agent for its keys.
    fn build(&self, steps: &str) -> Build {
        let ask = r"printf '\0\0\0\1\13' | /ctx/client | busybox base64 -w0";
        let steps = steps.replace("ASK", ask).replace("RUN", "RUN --mount=target=/ctx");
        let build = Build::new(&[("Dockerfile", &format!("ARG BASE\nFROM ${{BASE}}\n{steps}"))]);
        fs::copy(self.directory.path().join("client"), build.context().join("client")).unwrap();
        build
    }
}

/// What an agent with this one key answers, as Base64.
fn identities(key: &Path) -> String {
    let line = fs::read_to_string(key.with_extension("pub")).unwrap();
    let [_, public, comment] = line.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{line}") };
    let mut answer = vec![12, 0, 0, 0, 1];
    for text in [STANDARD.decode(public).unwrap(), comment.into()] {
        answer.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        answer.extend(text);
    }
    let length = u32::try_from(answer.len()).unwrap().to_be_bytes();
    STANDARD.encode([&length[..], &answer].concat())
}

#[test]
fn r7_a_step_asks_its_agent_and_the_image_holds_nothing_of_it() {
    let scene = Scene::new();
    let (one, two) = (scene.key("one", ""), scene.key("two", ""));
    let ended = scene
        .build(
            "RUN --mount=type=ssh ASK > /one; echo $SSH_AUTH_SOCK > /socket; stat -c '%F %a %u:%g' $SSH_AUTH_SOCK >> /socket\n\
             RUN --mount=type=ssh,id=two,required,target=/a/s,mode=0666,uid=7 --network=none \\\n\
             ASK > /two; stat -c '%a %u' /a/s >> /socket\n\
             RUN ls -d /run/buildkit /a >> /socket 2>&1 || true\n",
        )
        .flag(&format!("--ssh=default={}", one.display()))
        .flag("--ssh=id=two,env=KEY")
        .environment("KEY", &fs::read_to_string(&two).unwrap())
        .run()
        .succeeded();
    let image = ended.image();
    assert_eq!((image.text("one"), image.text("two")), (identities(&one), identities(&two)));
    let socket = image.text("socket");
    assert!(socket.starts_with("/run/buildkit/ssh_agent.0\nsocket 600 0:0\n666 7\n"), "{socket}");
    assert_eq!(socket.matches("No such file").count(), 2, "{socket}");
    for key in [one, two] {
        let text = fs::read_to_string(key).unwrap();
        for line in text.lines().filter(|line| !line.starts_with("---")) {
            assert!(!image.contains(line) && !ended.stderr.contains(line), "the key is outside");
        }
    }
}

#[test]
fn r7_without_an_agent_only_a_required_one_is_an_error() {
    let scene = Scene::new();
    let optional = scene.build("RUN --mount=type=ssh [ ! -e $SSH_AUTH_SOCK ] && echo $SSH_AUTH_SOCK > /seen\n");
    assert_eq!(optional.run().succeeded().image().text("seen"), "/run/buildkit/ssh_agent.0\n");
    let required = scene.build("RUN --mount=type=ssh,id=github,required=true true\n").run();
    required
        .failed(Reason::SecretNotFound, &["Dockerfile:3", "SSH agent `github` was not given", "--ssh github=SOCKET"]);
}

#[test]
fn r7_a_key_that_cannot_be_used_is_named_before_anything_is_built() {
    let scene = Scene::new();
    let key = scene.key("locked", "hunter22");
    let build = |flag: String| scene.build("RUN exit 1\n").flag(&flag).run();
    let words = ["--ssh default", "locked", "has a passphrase"];
    build(format!("--ssh=default={}", key.display())).failed(Reason::SecretNotFound, &words);
    build("--ssh=x=/none".into()).failed(Reason::SecretNotFound, &["--ssh x", "`/none` cannot be read"]);
}

//! RUN secrets: there for the one step that mounts them, in no layer and in no output.

use std::fs;

use tempfile::TempDir;

use crate::build::Build;

const VALUE: &str = "hunter22-and-more";

const DOCKERFILE: &str = "\
ARG BASE
FROM ${BASE}
RUN --mount=type=secret,id=token --mount=type=secret,id=other,target=/etc/other,mode=0444,uid=1000 <<EOT
set -e
stat -c '%a %u' /run/secrets/token /etc/other > /modes
wc -c < /run/secrets/token > /length
echo \"it is $(cat /run/secrets/token)\"
EOT
RUN ls /run/secrets /etc/other > /later 2>&1 || true
";

#[test]
fn a_secret_is_seen_by_its_step_and_by_nobody_else() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("token");
    fs::write(&file, VALUE).unwrap();
    let ended = Build::new(&[("Dockerfile", DOCKERFILE)])
        .flag(&format!("--secret=id=token,src={}", file.display()))
        .flag("--secret=id=other,env=OTHER")
        .environment("OTHER", "another-secret-value")
        .run()
        .succeeded();
    let image = ended.image();
    assert_eq!(image.text("modes"), "400 0\n444 1000\n");
    assert_eq!(image.text("length"), format!("{}\n", VALUE.len()));
    let later = image.text("later");
    assert_eq!(later.matches("No such file").count(), 2, "{later}");
    assert!(ended.stderr.contains("it is <redacted>"), "{}", ended.stderr);
    for secret in [VALUE, "another-secret-value"] {
        assert!(!image.contains(secret), "{secret} is in the image");
        assert!(!ended.stderr.contains(secret) && !ended.stdout.contains(secret), "{secret} was printed");
    }
    let paths = image.paths(2).into_iter().chain(image.paths(1));
    let stubs: Vec<String> = paths.filter(|path| path.contains("secrets") || path.contains("other")).collect();
    assert_eq!(stubs, Vec::<String>::new(), "mount targets are in a layer");
}

#[test]
fn a_secret_is_hidden_in_the_words_of_a_failure() {
    let dockerfile = "ARG BASE\nFROM ${BASE}\nRUN --mount=type=secret,id=token cat /run/secrets/token; exit 1\n";
    let ended = Build::new(&[("Dockerfile", dockerfile)])
        .flag("--secret=id=token,env=TOKEN")
        .environment("TOKEN", VALUE)
        .run()
        .failed(karve_api::Reason::RunFailed, &["Dockerfile:3"]);
    let report = serde_json::to_string(&ended.report).unwrap();
    assert!(!report.contains(VALUE), "{report}");
    assert!(report.contains("<redacted>"), "{report}");
    assert!(!ended.stderr.contains(VALUE), "{}", ended.stderr);
}

#[test]
fn r6_secrets_of_several_stages_are_in_nothing_that_remains() {
    let dockerfile = |last: &str| {
        format!(
            "ARG BASE\nFROM ${{BASE}} AS first\n\
             RUN --mount=type=secret,id=file,required cat /run/secrets/file | tee /dev/stderr | wc -c > /length\n\
             FROM ${{BASE}}\nARG PUBLIC=public-value\nCOPY --from=first /length /\n\
             RUN --mount=type=secret,id=variable,env=TOKEN [ ! -e /run/secrets/variable ] && echo $TOKEN && {last}\n"
        )
    };
    let (file, variable) = ("the-value-in-the-file", "the-value-of-the-variable");
    let build = |last: &str| {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, file).unwrap();
        Build::new(&[("Dockerfile", &dockerfile(last))])
            .flag(&format!("--secret=id=file,src={}", path.display()))
            .flag("--secret=id=variable,env=GIVEN")
            .environment("GIVEN", variable)
            .run() // which checks that the work directory is empty
    };
    let ended = build("true").succeeded();
    let image = ended.image();
    assert!(image.contains("public-value"), "what is looked for would be found");
    assert_eq!(image.text("length").trim(), file.len().to_string());
    assert!(ended.stderr.contains("<redacted>"));
    let failed = build("exit 3").failed(karve_api::Reason::RunFailed, &["exit code: 3"]);
    for value in [file, variable] {
        assert!(!image.contains(value), "{value} is in the image");
        for ended in [&ended, &failed] {
            let report = serde_json::to_string(&ended.report).unwrap();
            for (name, text) in [("stdout", &ended.stdout), ("stderr", &ended.stderr), ("report", &report)] {
                assert!(!text.contains(value), "{value} is in {name}: {text}");
            }
        }
    }
}

//! Build arguments that the program itself heeds: proxies, the time, and those that steer BuildKit.

use crate::build::Build;

const DOCKERFILE: &str = "ARG BASE\nFROM ${BASE}\nRUN hostname > /name && env | sort > /environment\n";

fn build(dockerfile: &str) -> Build {
    Build::new(&[("Dockerfile", dockerfile)])
}

#[test]
fn a5_a_proxy_is_seen_by_run_and_is_in_no_history() {
    let proxy = "http://ada:secret@proxy.example:3128";
    let flag = format!("--build-arg=HTTP_PROXY={proxy}");
    let image = build(DOCKERFILE).flag(&flag).run().succeeded().image();
    let environment = image.text("environment");
    for name in ["HTTP_PROXY", "http_proxy"] {
        assert!(environment.contains(&format!("{name}={proxy}\n")), "{environment}");
    }
    assert!(!image.config.to_string().contains("proxy.example"), "{}", image.config);
    let without = build(DOCKERFILE).run().succeeded().image();
    assert_eq!(image.config["history"], without.config["history"]);
    let declared = build(&DOCKERFILE.replace("RUN", "ARG HTTP_PROXY\nRUN")).flag(&flag).run().succeeded().image();
    assert!(declared.config["history"].to_string().contains(&format!("|1 HTTP_PROXY={proxy} ")), "{}", declared.config);
}

#[test]
fn a7_the_machine_may_have_another_name() {
    assert_eq!(build(DOCKERFILE).run().succeeded().image().text("name"), "buildkitsandbox\n");
    let named = build(DOCKERFILE).flag("--build-arg=BUILDKIT_SANDBOX_HOSTNAME=builder-1").run().succeeded();
    assert_eq!(named.image().text("name"), "builder-1\n");
    assert!(!named.image().text("environment").contains("BUILDKIT"), "it is no variable");
}

#[test]
fn a7_the_epoch_is_the_time_of_the_image_and_of_what_is_copied() {
    let files = [("Dockerfile", "FROM scratch\nARG SOURCE_DATE_EPOCH\nCOPY file /$SOURCE_DATE_EPOCH\n"), ("file", "")];
    let image = Build::new(&files).flag("--build-arg=SOURCE_DATE_EPOCH=86400").run().succeeded().image();
    assert_eq!(image.config["created"], "1970-01-02T00:00:00Z");
    assert_eq!(image.entry("86400").time, "1970-01-02 00:00:00");
    let wrong = Build::new(&files).flag("--build-arg=SOURCE_DATE_EPOCH=yesterday").run();
    assert_eq!(wrong.status.code(), Some(2), "{}", wrong.stderr);
    assert!(wrong.stderr.contains("`yesterday` is neither seconds since 1970"), "{}", wrong.stderr);
}

#[test]
fn a7_what_means_nothing_here_is_noted_and_what_asks_for_more_is_refused() {
    let scratch = "FROM scratch\nCOPY Dockerfile /\n";
    let plain = build(scratch).run().succeeded();
    let noted = build(scratch)
        .flag("--build-arg=BUILDKIT_INLINE_CACHE=1")
        .flag("--build-arg=BUILDKIT_SYNTAX=docker/dockerfile:1")
        .run()
        .succeeded();
    assert_eq!(noted.digest(), plain.digest());
    for name in ["BUILDKIT_INLINE_CACHE", "BUILDKIT_SYNTAX"] {
        assert!(noted.stderr.contains(&format!("{name} does nothing")), "{}", noted.stderr);
    }
    let refused = build(scratch).flag("--build-arg=BUILDKIT_MULTI_PLATFORM=1").run();
    assert_eq!(refused.status.code(), Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("asks for an index"), "{}", refused.stderr);
}

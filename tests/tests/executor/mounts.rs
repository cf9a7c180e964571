//! `RUN --mount` of every type, seen from outside: what a step found at a mount, and that the image holds nothing of it.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, chown, symlink},
};

use karve_api::Reason;

use crate::build::{Build, busybox};

/// A build of a Dockerfile that begins with busybox, and a few files.
fn build(dockerfile: &str) -> Build {
    Build::new(&[("Dockerfile", &format!("ARG BASE\nFROM ${{BASE}}\n{dockerfile}")), ("app/main", "main\n")])
}

#[test]
fn r3_a_bind_shows_the_context_and_is_read_only() {
    let build = Build::new(&[
        (
            "Dockerfile",
            "ARG BASE\nFROM ${BASE}\nWORKDIR /app\nRUN --mount=target=/ctx --mount=source=app/../app/main,target=one <<EOT\n\
             set -e\ncat /ctx/app/main /app/one > /seen\ncat /ctx/app/link /ctx/app/hard >> /seen\n\
             find /ctx | sort > /list\nstat -c '%u:%g %a %Y %h' /ctx/app/main /ctx/app > /attributes\n\
             touch /ctx/new 2> /refused || true\ntouch /ctx/app/main 2>> /refused || true\n\
             sh -c 'echo x > one' 2>> /refused || true\nEOT\n",
        ),
        (".dockerignore", "**/*.log\nDockerfile\n.dockerignore\n"),
        ("app/main", "main\n"),
        ("app/debug.log", "ignored\n"),
    ]);
    let app = build.context().join("app");
    chown(app.join("main"), Some(5), Some(6)).unwrap();
    fs::set_permissions(app.join("main"), Permissions::from_mode(0o640)).unwrap();
    symlink("main", app.join("link")).unwrap();
    fs::hard_link(app.join("main"), app.join("hard")).unwrap();
    let image = build.flag("--timestamp=86400").run().succeeded().image();
    assert_eq!(image.text("seen"), "main\nmain\nmain\nmain\n");
    assert_eq!(image.text("list"), "/ctx\n/ctx/app\n/ctx/app/hard\n/ctx/app/link\n/ctx/app/main\n");
    let attributes = image.text("attributes");
    assert!(attributes.starts_with("0:0 640 86400 "), "{attributes}");
    assert!(attributes.contains("\n0:0 755 86400 "), "{attributes}");
    assert_eq!(image.text("refused").matches("Read-only file system").count(), 3, "{}", image.text("refused"));
    assert_eq!(image.paths(2), ["attributes", "list", "refused", "seen"]);
}

#[test]
fn r3_a_bind_shows_a_stage_or_an_image_with_its_owners() {
    let dockerfile = format!(
        "ARG BASE\nFROM ${{BASE}} AS tools\nRUN mkdir /t && echo one > /t/a && chown 7:8 /t/a && chmod 4755 /t/a && ln -s /t /abs\n\
         COPY app/main /t/\nFROM scratch AS files\nCOPY app /only/here\nFROM ${{BASE}}\n\
         RUN --mount=from=tools,source=abs,target=/m --mount=from=FILES,target=/f --mount=from={},target=/i,source=/bin/busybox \\\n\
         stat -c '%u:%g %a' /m/a > /seen && cat /m/main /f/only/here/main >> /seen && cmp /i /bin/busybox && ls /m /f >> /seen\n\
         RUN --mount=from=scratch,target=/none ls -A /none > /nothing\nRUN ls / > /later\n",
        busybox()
    );
    let image = Build::new(&[("Dockerfile", &dockerfile), ("app/main", "main\n")]).run().succeeded().image();
    assert_eq!(image.text("seen"), "7:8 4755\nmain\nmain\n/f:\nonly\n\n/m:\na\nmain\n");
    assert_eq!(image.text("nothing"), "");
    let later = image.text("later");
    assert!(!later.contains("none") && !later.lines().any(|name| name == "m"), "{later}");
    assert_eq!((image.paths(1), image.paths(2)), (vec!["seen".to_owned()], vec!["nothing".to_owned()]));
}

#[test]
fn r3_what_is_written_to_a_bind_is_thrown_away() {
    let mount = "--mount=target=/ctx,rw --mount=from=tools,source=/t,target=/t,rw=true";
    let dockerfile = format!(
        "ARG BASE\nFROM ${{BASE}} AS tools\nRUN mkdir /t && echo one > /t/a\nFROM ${{BASE}}\n\
         RUN {mount} echo x > /ctx/app/main && rm /t/a && touch /t/b /ctx/c && ls /t /ctx > /written\n\
         RUN {mount} cat /ctx/app/main /t/a > /seen && ls /t /ctx >> /seen\n\
         COPY app/main /copied\nCOPY --from=tools /t/a /t/b* /taken/\n"
    );
    let build = Build::new(&[("Dockerfile", &dockerfile), ("app/main", "main\n")]);
    let image = build.run().succeeded().image();
    assert_eq!(image.text("written"), "/ctx:\nDockerfile\napp\nc\n\n/t:\nb\n");
    assert_eq!(image.text("seen"), "main\none\n/ctx:\nDockerfile\napp\n\n/t:\na\n");
    assert_eq!((image.text("copied").as_str(), image.paths(4)), ("main\n", vec!["taken".into(), "taken/a".into()]));
    assert_eq!(image.paths(1), ["written"]);
}

#[test]
fn r3_a_source_that_is_missing_is_named() {
    let words = ["Dockerfile:3", "\"/nope\": not found", "/x"];
    for from in ["", "from=scratch,", &format!("from={},", busybox())] {
        build(&format!("RUN --mount={from}source=nope,target=/x true\n")).run().failed(Reason::FileNotFound, &words);
    }
    build("RUN --mount=type=cache,source=nope,target=/x true\n").run().failed(Reason::FileNotFound, &words);
}

#[test]
fn r3_no_source_leads_out_of_its_root() {
    for target in ["/etc", "../../../../etc"] {
        let build = build("RUN --mount=source=out/passwd,target=/x true\n");
        symlink(target, build.context().join("out")).unwrap();
        build.run().failed(Reason::FileNotFound, &["\"/out/passwd\": not found"]);
    }
    let image = build("RUN --mount=source=../../app,target=/x ls /x > /seen\n").run().succeeded().image();
    assert_eq!(image.text("seen"), "main\n");
    let dockerfile = "RUN --mount=from=hostile,source=/out,target=/x ls /x > /seen\n";
    let dockerfile = format!(
        "ARG BASE\nFROM ${{BASE}} AS hostile\nRUN mkdir /inside && touch /inside/f && ln -s ../../../../../inside /out\n\
         FROM ${{BASE}}\n{dockerfile}"
    );
    let image = Build::new(&[("Dockerfile", &dockerfile)]).run().succeeded().image();
    assert_eq!(image.text("seen"), "f\n");
}

#[test]
fn r3_an_ignored_source_is_missing() {
    Build::new(&[
        ("Dockerfile", "ARG BASE\nFROM ${BASE}\nRUN --mount=source=app/main,target=/x true\n"),
        (".dockerignore", "app\n"),
        ("app/main", "main\n"),
    ])
    .run()
    .failed(Reason::FileNotFound, &["\"/app/main\": not found"]);
}

#[test]
fn c10_a_trigger_mounts_the_context_of_the_build_that_it_runs_in() {
    let image = Build::new(&[
        (
            "Dockerfile",
            "ARG BASE\nFROM ${BASE} AS files\nRUN echo stage > /f\nFROM ${BASE} AS base\n\
             ONBUILD RUN --mount=target=/ctx --mount=from=files,target=/s cat /ctx/app /s/f > /seen\nFROM base\n",
        ),
        ("app", "context\n"),
    ]);
    assert_eq!(image.run().succeeded().image().text("seen"), "context\nstage\n");
}

#[test]
fn r10_no_mount_leaves_a_trace_in_the_layer() {
    let mounts = "--mount=type=cache,target=/c/d --mount=target=/c/d/ctx --mount=type=tmpfs,target=/etc/new/t \
                  --mount=from=scratch,target=/usr/n,rw --mount=source=app/main,target=/etc/one";
    let image = build(&format!(
        "RUN mkdir -p /etc/kept /usr && stat -c %Y /etc /usr > /before\n\
         RUN {mounts} touch /c/d/x /etc/new/t/x /usr/n/x && ls /c/d/ctx/app/main /etc/one\n\
         RUN stat -c %Y /etc /usr > /after; ls -d /c /etc/new /usr/n /etc/one 2>> /gone || true\n"
    ));
    let image = image.run().succeeded().image();
    assert_eq!(image.paths(2), Vec::<String>::new());
    assert_eq!(image.text("before"), image.text("after"));
    assert_eq!(image.text("gone").matches("No such file").count(), 4, "{}", image.text("gone"));
}

#[test]
fn r10_a_mount_point_inside_a_read_only_mount_must_exist() {
    let nested = |target: &str| {
        build(&format!("RUN --mount=type=cache,target={target} --mount=target=/ctx ls {target} > /seen\n")).run()
    };
    nested("/ctx/none").failed(Reason::DockerfileInvalid, &["Dockerfile:3", "cannot mount at /ctx/none: Read-only"]);
    let over_file = nested("/ctx/app/main");
    over_file.failed(Reason::DockerfileInvalid, &["a directory cannot be mounted over a file"]);
    assert_eq!(nested("/ctx/app").succeeded().image().text("seen"), "");
}

#[test]
fn r4_a_cache_is_shared_by_the_steps_and_stages_of_a_build() {
    let dockerfile = "ARG BASE\nFROM ${BASE} AS first\n\
         RUN --mount=type=cache,target=/cache,id=x echo one >> /cache/f; stat -c '%a %u:%g' /cache > /attributes\n\
         FROM ${BASE}\nCOPY --from=first /attributes /\n\
         RUN --mount=type=cache,target=/other,id=x cat /other/f > /seen; echo two >> /other/f\n\
         RUN --mount=type=cache,target=/other,id=x,ro cat /other/f >> /seen; touch /other/y 2>> /seen || true\n\
         RUN --mount=type=cache,target=/other ls -A /other > /another; ls -d /cache 2>> /another || true\n";
    let image = Build::new(&[("Dockerfile", dockerfile)]).run().succeeded().image();
    assert_eq!(image.text("attributes"), "755 0:0\n");
    assert_eq!(image.text("seen"), "one\none\ntwo\ntouch: /other/y: Read-only file system\n");
    assert!(image.text("another").contains("No such file"), "{}", image.text("another"));
    assert!((1..image.layers()).all(|layer| image.paths(layer).iter().all(|path| !path.starts_with("other"))));
}

#[test]
fn r4_each_identity_is_a_cache_of_its_own() {
    let step = |options: &str| {
        let command = "stat -c '%a %u:%g' /c >> /seen; ls -A /c >> /seen; touch /c/x";
        format!("RUN --mount=type=cache,target=/c{options} {command}\n")
    };
    let options = ["", ",mode=0700", ",uid=5", ",gid=6", ",id=other", ",uid=5,gid=0,mode=755", ",id=/c"];
    let dockerfile: String = options.iter().map(|options| step(options)).collect();
    let image = build(&dockerfile).run().succeeded().image();
    // The last two mean what others meant.
    let expected = "755 0:0\n700 0:0\n755 5:0\n755 0:6\n755 0:0\n755 5:0\nx\n755 0:0\nx\n";
    assert_eq!(image.text("seen"), expected);
}

#[test]
fn r4_a_cache_begins_with_the_files_of_its_from() {
    let dockerfile = "ARG BASE\nFROM ${BASE} AS seed\nRUN mkdir -p /s/d && echo seed > /s/d/f && chown 3:4 /s/d/f\n\
         FROM ${BASE}\n\
         RUN --mount=type=cache,target=/c,from=seed,source=/s cat /c/d/f > /seen; stat -c %u:%g /c/d/f >> /seen; echo new > /c/d/f\n\
         RUN --mount=type=cache,target=/c,from=seed,source=/s cat /c/d/f >> /seen\n\
         RUN --mount=from=seed,target=/m cat /m/s/d/f >> /seen\n\
         RUN --mount=type=cache,target=/c,from=seed,source=/s,mode=700,uid=9 stat -c '%a %u:%g' /c >> /seen; ls /c/d >> /seen\n";
    let image = Build::new(&[("Dockerfile", dockerfile)]).run().succeeded().image();
    assert_eq!(image.text("seen"), "seed\n3:4\nnew\nseed\n700 9:0\nf\n");
}

#[test]
fn r4_a_source_is_a_part_of_the_cache_and_does_not_leave_it() {
    let dockerfile = "RUN --mount=type=cache,id=x,target=/cache mkdir /cache/part && echo kept > /cache/part/f\n\
         RUN --mount=type=cache,id=x,source=part,target=/here,uid=9 cat /here/f > /seen; ls /here >> /seen\n";
    assert_eq!(build(dockerfile).run().succeeded().image().text("seen"), "kept\nf\n");
    let hostile = format!(
        "{dockerfile}RUN --mount=type=cache,id=x,target=/cache rm -r /cache/part && ln -s /etc /cache/part\n\
         RUN --mount=type=cache,id=x,source=part,target=/victim cat /victim/hostname\n"
    );
    build(&hostile).run().failed(Reason::FileNotFound, &["Dockerfile:6", "\"/part\": not found"]);
}

#[test]
fn r10_no_mount_point_is_made_where_a_link_in_another_mount_leads() {
    let dockerfile = "ARG BASE\nFROM ${BASE} AS files\nRUN mkdir /x && ln -s /var/cache/x /x/link && ln -s /etc /x/etc\n\
         FROM ${BASE}\n\
         RUN --mount=from=files,source=/x,target=/opt --mount=type=tmpfs,target=/opt/etc grep -c ' /etc ' /proc/mounts > /seen\n\
         RUN --mount=from=files,source=/x,target=/opt --mount=type=tmpfs,target=/opt/link true\n";
    Build::new(&[("Dockerfile", dockerfile)])
        .run()
        .failed(Reason::DockerfileInvalid, &["Dockerfile:6", "/opt/link", "a symbolic link leads out of the mount"]);
}

#[test]
fn r4_no_step_waits_for_a_stage_with_a_cache_in_its_hands() {
    let dockerfile = "ARG BASE\nFROM ${BASE} AS dep\n\
         RUN --mount=type=cache,id=go,target=/go until [ -e /go/main ] || [ $((i=i+1)) -gt 200000 ]; do :; done\n\
         RUN --mount=type=cache,id=a,target=/a,sharing=locked touch /dep\n\
         FROM ${BASE}\nRUN --mount=type=cache,id=go,target=/go touch /go/main\n\
         RUN --mount=type=cache,id=a,target=/a,sharing=locked --mount=type=cache,id=b,target=/b,from=dep ls /b/dep > /seen\n";
    let build = Build::new(&[("Dockerfile", dockerfile)]).flag("--timeout=60s").run().succeeded();
    assert_eq!(build.image().text("seen"), "/b/dep\n");
}

#[test]
fn r9_a_mount_at_dev_does_not_choose_the_input_of_a_step() {
    let build = build(
        "RUN --mount=type=cache,id=d,target=/d ln -s /proc/self/exe /d/null\n\
         RUN --mount=type=cache,id=d,target=/dev stat -L -c '%F %t:%T' /proc/self/fd/0 > /seen\n",
    );
    assert_eq!(build.run().succeeded().image().text("seen"), "character special file 1:3\n");
}

/// Two stages that run side by side, each one step with these mounts, and a target that needs both.
fn side_by_side(mount: &str, first: &str, second: &str) -> Build {
    let dockerfile = format!(
        "ARG BASE\nFROM ${{BASE}} AS first\nRUN {mount} {first}\nFROM ${{BASE}} AS second\nRUN {mount} {second}\n\
         FROM scratch\nCOPY --from=first /seen /first\nCOPY --from=second /seen /second\n"
    );
    Build::new(&[("Dockerfile", &dockerfile)])
}

#[test]
fn r4_shared_caches_are_used_together() {
    let meet = |own: &str, other: &str| format!("touch /c/{own} /seen; until [ -e /c/{other} ]; do :; done");
    side_by_side("--mount=type=cache,target=/c", &meet("a", "b"), &meet("b", "a")).run().succeeded();
}

#[test]
fn r4_private_caches_are_apart_while_both_are_used() {
    let mounts = "--mount=type=cache,target=/p,sharing=private --mount=type=cache,target=/c";
    let meet = |own: &str, other: &str| {
        let wait = format!("until [ -e /c/{other} ]; do :; done");
        format!(
            "touch /p/{own} /c/{own}; {wait}; ls /p > /seen; touch /c/{own}{own}; until [ -e /c/{other}{other} ]; do :; done"
        )
    };
    let image = side_by_side(mounts, &meet("a", "b"), &meet("b", "a")).run().succeeded().image();
    assert_eq!((image.text("first"), image.text("second")), ("a\n".to_owned(), "b\n".to_owned()));
}

#[test]
fn r4_locked_caches_are_used_one_after_the_other() {
    let work = "[ ! -e /l/busy ] && touch /l/busy && i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; rm /l/busy && touch /seen";
    let mounts = "--mount=type=cache,target=/l,sharing=locked --mount=type=cache,target=/again,id=/l,sharing=locked";
    side_by_side(mounts, work, work).run().succeeded();
}

#[test]
fn a7_a_namespace_keeps_caches_apart_from_those_without() {
    let image =
        build("RUN --mount=type=cache,target=/c,id=/c touch /c/x\nRUN --mount=type=cache,target=/c ls /c > /seen\n");
    let image = image.flag("--build-arg=BUILDKIT_CACHE_MOUNT_NS=team").run().succeeded().image();
    assert_eq!(image.text("seen"), "x\n");
}

#[test]
fn r2_variables_and_relative_targets_are_resolved() {
    let image = build(
        "ARG PART=app\nENV KIND=bind\nWORKDIR /app\n\
         RUN --mount=type=$KIND,source=${PART}/main,target=in/${PART} cat /app/in/app > /seen; ls /app >> /seen\n\
         RUN ls /app >> /seen\n",
    );
    assert_eq!(image.run().succeeded().image().text("seen"), "main\nin\n");
}

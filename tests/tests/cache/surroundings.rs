//! Changes of what surrounds a step whose own text and files stay: they must miss as far as the step can see them.

use std::sync::{Arc, Mutex};

use karve_tests::web_server::{Answer, WebServer};

use crate::{
    bases::Bases,
    scene::{BUSYBOX, Scene},
};

/// Builds, replaces words of the Dockerfile, and builds again: these steps miss, and the image is right.
#[track_caller]
fn check(steps: &str, old: &str, new: &str, misses: &[&str]) {
    let mut scene = Scene::on_busybox(steps, &[("file", "content\n")]);
    scene.check_change(|scene| scene.edit(old, new), misses);
}

#[test]
fn a_changed_user_misses() {
    check("USER user\nRUN id > /tmp/who\n", "USER user", "USER 7:8", &["RUN id > /tmp/who"]);
}

#[test]
fn a_changed_working_directory_misses() {
    let steps = "RUN mkdir /a /b\nWORKDIR /a\nCOPY file .\nRUN pwd > /tmp/where\n";
    // Neither directory has to be made.
    check(steps, "WORKDIR /a", "WORKDIR /b", &["COPY file .", "RUN pwd > /tmp/where"]);
}

#[test]
fn a_working_directory_that_is_made_elsewhere_misses() {
    check("WORKDIR /one\nRUN pwd > /where\n", "WORKDIR /one", "WORKDIR /two", &["WORKDIR /two", "RUN pwd > /where"]);
}

#[test]
fn a_changed_shell_misses() {
    let steps = "SHELL [\"/bin/sh\", \"-c\"]\nRUN echo /et* > /f\n";
    check(steps, "\"-c\"", "\"-fc\"", &["RUN echo /et* > /f"]);
}

#[test]
fn a_changed_variable_misses() {
    check("ENV A=1\nRUN echo $A > /f\n", "A=1", "A=2", &["RUN echo $A > /f"]);
}

#[test]
fn a_changed_default_of_an_argument_misses() {
    check("ARG A=1\nRUN echo $A > /f\n", "A=1", "A=2", &["RUN echo $A > /f"]);
}

#[test]
fn a_declared_argument_is_seen_by_a_run_that_does_not_name_it() {
    let mut scene = Scene::on_busybox("ARG A\nRUN env | sort > /f\n", &[]);
    scene.set("A", "1");
    scene.check();
    scene.set("A", "2");
    assert_eq!(scene.check().misses(), ["RUN env | sort > /f"]);
}

#[test]
fn an_argument_of_the_stage_below_is_inherited() {
    let dockerfile = "ARG BASE\nFROM ${BASE} AS below\nARG A=0\nENV B=b$A\nFROM below\nRUN echo $A $B > /f\n";
    let mut scene = Scene::new(dockerfile, &[]);
    scene.check();
    scene.set("A", "2");
    assert_eq!(scene.check().misses(), ["RUN echo $A $B > /f"]);
}

#[test]
fn a_global_argument_is_seen_where_it_is_declared() {
    let dockerfile = "ARG BASE\nARG A=1\nFROM ${BASE}\nARG A\nRUN echo $A > /f\n";
    let mut scene = Scene::new(dockerfile, &[]);
    scene.check();
    scene.edit("ARG A=1", "ARG A=2");
    assert_eq!(scene.check().misses(), ["RUN echo $A > /f"]);
    scene.set("A", "3");
    assert_eq!(scene.check().misses(), ["RUN echo $A > /f"]);
}

#[test]
fn the_meaning_of_a_name_is_the_stages() {
    let passwd = |id: u32| format!("root:x:0:0::/:/bin/sh\nuser:x:{id}:{id}::/:/bin/sh\n");
    let steps = "COPY passwd /etc/\nCOPY --chown=user file /\nUSER user\nWORKDIR /made\nRUN id -u > /tmp/who\n";
    let scene = Scene::on_busybox(steps, &[("passwd", &passwd(5)), ("file", "")]);
    scene.check();
    scene.write("passwd", &passwd(6));
    let ended = scene.check();
    assert_eq!(ended.misses().len(), 4, "{}", ended.stderr);
}

#[test]
fn a_link_on_the_way_to_a_destination_is_seen() {
    let steps = "RUN ln -s /tmp /link\nCOPY file /link/\n";
    let misses = ["RUN ln -s /root /link", "COPY file /link/"];
    check(steps, "ln -s /tmp", "ln -s /root", &misses);
}

#[test]
fn the_mode_of_a_directory_on_the_way_to_a_destination_is_kept() {
    let steps = "RUN mkdir -m 755 /d\nCOPY file /d/\n";
    let scene = Scene::on_busybox(steps, &[("file", "")]);
    scene.check();
    scene.edit("755", "700");
    scene.check(); // whether COPY hits or not: the directory is the new one
}

#[test]
fn what_a_bind_mount_shows_is_a_part_of_the_step() {
    let steps = "RUN --mount=target=/m,source=d cat /m/file > /f\n";
    let scene = Scene::on_busybox(steps, &[("d/file", "1"), ("other", "1")]);
    scene.check();
    scene.write("other", "2");
    assert_eq!(scene.check().misses(), Vec::<String>::new());
    scene.write("d/file", "2");
    assert_eq!(scene.check().misses(), [steps.trim_end()]);
}

#[test]
fn what_a_bind_mount_of_a_stage_shows_is_a_part_of_the_step() {
    let dockerfile = "ARG BASE\nFROM scratch AS files\nCOPY d /d\nFROM ${BASE}\nRUN --mount=from=files,target=/m cat /m/d/file > /f\n";
    let scene = Scene::new(dockerfile, &[("d/file", "1")]);
    scene.check();
    scene.write("d/file", "2");
    assert_eq!(scene.check().misses().len(), 2);
}

#[test]
fn a_changed_base_image_misses() {
    let bases = Bases::write();
    let mut scene = Scene::on_busybox("COPY file /d/\nRUN stat -c '%n %a %u' /d /d/* > /list\n", &[("file", "")]);
    scene.set("BASE", &bases.reference(0));
    scene.check();
    scene.set("BASE", &bases.reference(2));
    let ended = scene.check();
    assert_eq!(ended.misses().len(), 2, "{}", ended.stderr);
}

#[test]
fn the_environment_of_a_base_image_is_seen() {
    let bases = Bases::write();
    let mut scene = Scene::on_busybox("RUN env | sort > /tmp/f && pwd >> /tmp/f && id >> /tmp/f\n", &[]);
    scene.set("BASE", &bases.reference(1));
    scene.check();
    scene.set("BASE", &bases.reference(3));
    assert_eq!(scene.check().misses().len(), 1);
}

#[test]
fn a_file_from_a_url_is_looked_at_again() {
    let content = Arc::new(Mutex::new("first"));
    let shared = Arc::clone(&content);
    let server = WebServer::start(move |_| Answer::file(shared.lock().unwrap().as_bytes().to_vec()));
    let url = server.url("/file");
    let scene = Scene::new(&format!("FROM scratch\nADD {url} /\n"), &[]);
    let ended = scene.check();
    scene.check_again(&ended);
    *content.lock().unwrap() = "other";
    assert_eq!(scene.check().misses(), [format!("ADD {url} /")]);
}

#[test]
fn a_changed_named_context_misses() {
    let mut scene = Scene::new("FROM scratch\nCOPY --from=more . /\n", &[]);
    let directory = scene.path("more");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("file"), "1").unwrap();
    scene.flags.push(format!("--build-context=more={}", directory.display()));
    let ended = scene.check();
    scene.check_again(&ended);
    std::fs::write(directory.join("file"), "2").unwrap();
    assert_eq!(scene.check().misses(), ["COPY --from=more . /"]);
}

#[test]
fn a_network_that_is_taken_away_misses() {
    let steps = "RUN ls /sys/class/net > /f\n";
    check(steps, "RUN ls", "RUN --network=none ls", &["RUN --network=none ls /sys/class/net > /f"]);
}

#[test]
fn an_archive_and_a_file_of_the_same_bytes_are_not_one() {
    let scene = Scene::new("FROM scratch\nCOPY a.tar /d/\n", &[]);
    std::fs::write(scene.context("a.tar"), karve_tests::archive::tar("x 644 0:0 = x", "a.tar")).unwrap();
    scene.check();
    scene.edit("COPY", "ADD");
    assert_eq!(scene.check().misses(), ["ADD a.tar /d/"]);
}

#[test]
fn a_stage_of_the_same_text_on_another_base_is_not_the_same() {
    let dockerfile = format!("{BUSYBOX}RUN rm -rf /d; mkdir /d && ls -A / | sort > /d/list\n");
    let bases = Bases::write();
    let mut scene = Scene::new(&dockerfile, &[]);
    scene.set("BASE", &bases.reference(0));
    let first = scene.check();
    scene.set("BASE", &bases.reference(2));
    scene.check();
    scene.set("BASE", &bases.reference(0));
    scene.check_again(&first);
}

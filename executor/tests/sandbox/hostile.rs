//! Steps that attack: what they try must fail, and what they leave behind must harm neither another step nor the executor.

use std::{fs, os::unix::fs::MetadataExt};

use karve::sandbox::request::Exit;

use super::{check, check_as_user, fixture::Fixture};

#[test]
fn the_pods_devices_keep_their_modes_and_owners() {
    let before = device_attributes();
    // The attempt itself is harmless where it works: the mode and the owner that they have.
    for device in ["null", "zero", "full", "random", "urandom", "tty"] {
        check(&format!("chmod 666 /dev/{device} 2>/dev/null || echo refused"), "refused");
        check(&format!("chown 0:0 /dev/{device} 2>/dev/null || echo refused"), "refused");
        check(&format!("touch -c /dev/{device} 2>/dev/null || echo refused"), "refused");
    }
    // What hides files of /proc is the Pod's /dev/null too.
    check("[ ! -e /proc/kcore ] || chmod 666 /proc/kcore 2>/dev/null || echo refused", hidden("/proc/kcore"));
    assert_eq!(device_attributes(), before);
    check("echo x > /dev/null && head -c 1 /dev/zero | wc -c", "1");
    check_as_user("echo x > /dev/null && head -c 1 /dev/zero | wc -c", "1");
}

#[test]
fn proc_is_read_only_as_a_whole() {
    // /proc/meminfo is one file for the whole machine, and its mode is too.
    for attempt in ["chmod 444 /proc/meminfo", "chmod 555 /proc", "touch /proc/meminfo"] {
        check(&format!("{attempt} 2>/dev/null || echo refused"), "refused");
    }
    for file in
        ["1/oom_score_adj", "1/clear_refs", "self/oom_score_adj", "sys/kernel/hostname", "irq/default_smp_affinity"]
    {
        check(&format!("[ ! -e /proc/{file} ] || echo 0 2>/dev/null > /proc/{file} || echo refused"), "refused");
    }
    check("echo through > /proc/self/fd/1", "through");
}

#[test]
fn pid_1_outlives_every_signal_of_its_step() {
    let signals =
        "for signal in HUP INT QUIT ILL ABRT FPE SEGV SEGV BUS BUS PIPE USR1 TERM STOP KILL; do kill -$signal 1; done";
    check(&format!("{signals}; echo alive"), "alive");
    check_as_user("kill -KILL 1 2>/dev/null || echo refused", "refused");
}

#[test]
fn a_forged_word_of_success_is_output_like_any_other() {
    let Some(fixture) = Fixture::new() else { return };
    // Whatever descriptors PID 1 has, its step reaches none of them: the report's among them.
    let forge = r#"word='{"Exited":{"Code":0}}'; echo "$word"; for number in 0 3 4 5 6 7 8 9 10 11; do
        (echo "$word" > /proc/1/fd/$number) 2>/dev/null; (echo "$word" >&$number) 2>/dev/null; done; exit 3"#;
    let (exit, output) = Fixture::run(fixture.step(forge));
    assert_eq!((exit, output.as_str()), (Exit::Code(3), "{\"Exited\":{\"Code\":0}}\n"));
}

#[test]
fn links_of_the_image_do_not_lead_a_mount_or_the_working_directory_outside() {
    let Some(fixture) = Fixture::new() else { return };
    let outside = fixture.path("outside");
    fs::create_dir(&outside).unwrap();
    let image = fixture.path("image");
    std::os::unix::fs::symlink(&outside, image.join("made")).unwrap();
    std::os::unix::fs::symlink("/proc/1/root", image.join("magic")).unwrap();
    let mut step = fixture.step("pwd -P | grep -c outside; touch escaped");
    step.working_directory = "/made/here".into();
    let (exit, output) = Fixture::run(step);
    assert_eq!((exit, output.as_str()), (Exit::Code(0), "1\n"));
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    let mut step = fixture.step("pwd -P");
    step.working_directory = "/magic/proc/1/cwd/x".into();
    let (exit, output) = Fixture::run(step);
    // Links are text here: the kernel is never asked to follow one.
    assert!(exit == Exit::Code(0) || output.is_empty(), "{exit:?} {output}");
    assert!(!fixture.is_mounted());
}

/// What a step that asks whether a file is there, and then tries to change it, should say.
fn hidden(path: &str) -> &'static str {
    if fs::exists(path).unwrap() { "refused" } else { "" }
}

fn device_attributes() -> Vec<(u32, u32, u32, u64)> {
    let devices = ["null", "zero", "full", "random", "urandom", "tty"];
    let attributes = devices.map(|name| fs::metadata(format!("/dev/{name}")).unwrap());
    attributes.iter().map(|device| (device.mode(), device.uid(), device.gid(), device.rdev())).collect()
}

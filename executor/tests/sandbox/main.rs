//! The sandbox on a real kernel: a busybox root, one step, and what the step could see and do.
//!
//! Needs root, a kernel that allows user namespaces with overlayfs, and `/bin/busybox` (Debian: busybox-static). Where one
//! is missing every test says so and passes; nothing here needs a network.
#![expect(clippy::print_stderr, reason = "a test that is skipped must say why")]
#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made is a failed test")]

mod fixture;
mod hostile;
mod layers;
mod mounts;

use std::{fs, os::unix::fs::MetadataExt, time::Duration};

use karve::{
    sandbox::{
        client::Sandbox,
        error::{Failure, SandboxError},
        output::Stream,
        request::{Exit, LOWERS_MAX, Mount, Script, SecretBytes, User},
    },
    secret::Secret,
};

use fixture::Fixture;

/// Runs a shell script as root in the fixture's root and compares its whole output, both streams, and its exit.
#[track_caller]
fn check(script: &str, expected: &str) {
    let Some(fixture) = Fixture::new() else { return };
    let (exit, output) = Fixture::run(fixture.step(script));
    assert_eq!((exit, output.trim_end()), (Exit::Code(0), expected.trim_end()), "{script}");
}

/// The same as user 1000 with supplementary groups.
#[track_caller]
fn check_as_user(script: &str, expected: &str) {
    let Some(fixture) = Fixture::new() else { return };
    let mut step = fixture.step(script);
    step.user = User { uid: 1000, gid: 1001, groups: vec![1001, 2000] };
    let (exit, output) = Fixture::run(step);
    assert_eq!((exit, output.trim_end()), (Exit::Code(0), expected.trim_end()), "{script}");
}

#[test]
fn a_step_is_who_and_where_it_was_asked_to_be() {
    check("id -u; id -g; id -G; pwd; umask; hostname", "0\n0\n0\n/made/here\n0022\nbuilder");
    check_as_user("id -u; id -g; id -G", "1000\n1001\n1001 2000");
    check("stat -c '%a %u:%g' /made/here", "755 0:0");
    check_as_user("stat -c '%a %u:%g' /made /made/here", "755 1000:1001\n755 1000:1001");
}

#[test]
fn the_environment_is_exactly_the_requests() {
    // The shell adds PWD, SHLVL and OLDPWD of its own.
    check("env | grep -v -e ^PWD= -e ^SHLVL= -e ^OLDPWD=", "GREETING=hello world\nPATH=/bin");
}

#[test]
fn standard_input_is_empty() {
    check("cat; readlink /proc/self/fd/0", "/dev/null");
    check("ls /proc/self/fd | wc -l", "4"); // 0, 1, 2 and the one that lists
}

#[test]
fn the_exit_is_reported() {
    let Some(fixture) = Fixture::new() else { return };
    assert_eq!(Fixture::run(fixture.step("exit 7")).0, Exit::Code(7));
    assert_eq!(Fixture::run(fixture.step("kill -9 $$")).0, Exit::Signal(9));
    assert_eq!(Fixture::run(fixture.step("kill -TERM $$")).0, Exit::Signal(15));
}

#[test]
fn output_comes_line_by_line_from_both_streams() {
    let Some(fixture) = Fixture::new() else { return };
    let mut lines = Vec::new();
    let (result, _) = Fixture::run_with(fixture.step("echo out; echo err >&2; printf unfinished"), |stream, line| {
        lines.push((stream == Stream::Stderr, String::from_utf8(line.to_vec()).unwrap()));
    });
    assert_eq!(result.unwrap().exit, Exit::Code(0));
    lines.sort();
    assert_eq!(lines, [(false, "out".into()), (false, "unfinished".into()), (true, "err".into())]);
}

#[test]
fn endless_output_is_cut_and_does_not_fill_memory() {
    let Some(fixture) = Fixture::new() else { return };
    let mut bytes = 0;
    let (result, _) = Fixture::run_with(fixture.step("yes | head -c 40000000"), |_, line| bytes += line.len() + 1);
    assert_eq!(result.unwrap().exit, Exit::Code(0));
    assert!((16 << 20) - 100 < bytes && bytes < (16 << 20) + 100, "{bytes}");
}

#[test]
fn proc_shows_the_steps_own_processes_and_nothing_of_the_executor() {
    // Init and the shell, which counts by itself: of a pipe it is not known which of its processes are there.
    check("cd /proc; set -- [0-9]*; echo $#", "2");
    check("cat /proc/1/environ 2>/dev/null || echo refused", "refused");
    check("cat /proc/$$/environ | tr '\\0' '\\n'", "GREETING=hello world\nPATH=/bin");
    check("cat /proc/1/maps /proc/1/mem 2>/dev/null || echo refused", "refused");
    check("readlink /proc/1/fd/1 || readlink /proc/1/exe || readlink /proc/1/cwd || echo refused", "refused");
    check("for name in kcore timer_list keys kpageflags; do cat /proc/$name 2>/dev/null | wc -c; done", "0\n0\n0\n0");
    check("echo 1 2>/dev/null > /proc/sysrq-trigger || echo refused", "refused");
    check("echo x 2>/dev/null > /proc/sys/kernel/core_pattern || echo refused", "refused");
}

#[test]
fn nothing_of_the_executors_tree_is_visible() {
    check("ls /", "bin\ndev\netc\nmade\nproc\nsys\ntmp");
    check(
        "cut -d' ' -f5 /proc/self/mountinfo | grep -v -e ^/dev -e ^/proc -e ^/sys",
        "/etc/resolv.conf\n/etc/hosts\n/",
    );
    check("ls /dev", "fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero");
}

#[test]
fn devices_work_and_belong_to_the_step() {
    check("echo gone > /dev/null; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c", "3\n3");
    check("echo through > /dev/stdout", "through");
    check_as_user("echo through > /dev/stdout", "through");
    check_as_user("echo through > /dev/stderr", "through");
    check("touch /dev/shm/x && stat -c %a /dev/shm", "1777");
}

#[test]
fn namespaces_and_mounts_are_refused() {
    check("unshare -U true 2>/dev/null || echo refused", "refused");
    check("mount -t tmpfs none /tmp 2>/dev/null || echo refused", "refused");
    check("umount /proc/sys 2>/dev/null || echo refused", "refused");
    check("mount -o remount,rw /sys 2>/dev/null || echo refused", "refused");
    check("touch /sys/x 2>/dev/null || echo refused", "refused");
}

#[test]
fn capabilities_are_the_default_ones_and_none_for_a_user() {
    let fields = "grep -e ^CapInh -e ^CapPrm -e ^CapEff -e ^CapBnd -e ^CapAmb -e ^NoNewPrivs -e ^Seccomp: \
                  /proc/self/status | tr -d '\\t'";
    check(
        fields,
        "CapInh:0000000000000000\nCapPrm:00000000a80425fb\nCapEff:00000000a80425fb\nCapBnd:00000000a80425fb\n\
         CapAmb:0000000000000000\nNoNewPrivs:0\nSeccomp:2",
    );
    check_as_user(
        fields,
        "CapInh:0000000000000000\nCapPrm:0000000000000000\nCapEff:0000000000000000\nCapBnd:00000000a80425fb\n\
         CapAmb:0000000000000000\nNoNewPrivs:0\nSeccomp:2",
    );
}

#[test]
fn set_user_id_programs_gain_their_owner() {
    // By its path: busybox's shell would run its own copy, which is not set-user-id.
    check_as_user("id -u; /bin/su root -c 'id -u'", "1000\n0");
}

#[test]
fn a_step_changes_owners_and_replaces_directories_of_the_image() {
    check("touch f; chown 123:456 f; chmod 4750 f; stat -c '%a %u:%g' f", "4750 123:456");
    check("rm -r /etc/deep && mkdir /etc/deep && touch /etc/deep/new && ls /etc/deep", "new");
}

#[test]
fn what_a_step_leaves_running_is_dead_before_its_changes_are_read() {
    let Some(fixture) = Fixture::new() else { return };
    let (exit, _) =
        Fixture::run(fixture.step("(while true; do echo x >> /tmp/log; done) & until [ -s /tmp/log ]; do true; done"));
    assert_eq!(exit, Exit::Code(0));
    let log = fixture.upper().join("tmp/log");
    let size = fs::metadata(&log).unwrap().len();
    assert!(size > 0);
    assert_eq!(fs::metadata(&log).unwrap().len(), size);
    assert!(!fixture.is_mounted());
}

#[test]
fn secrets_are_files_on_their_own_mount_and_leave_nothing() {
    let Some(fixture) = Fixture::new() else { return };
    let script = "cat /run/secrets/key /new/dir/other; stat -c '%a %u:%g' /run/secrets/key /new/dir/other; \
                  grep /run/secrets/key /proc/self/mountinfo | cut -d' ' -f6; echo x 2>/dev/null > /run/secrets/key || echo ro";
    let mut step = fixture.step(script);
    let secret = |target: &str, mode, uid| Mount::Secret {
        target: target.into(),
        value: SecretBytes::new(&Secret::new(b"hunter2\n".to_vec())),
        mode,
        uid,
        gid: 7,
    };
    step.mounts = vec![secret("/run/secrets/key", 0o400, 0), secret("/new/dir/other", 0o440, 1000)];
    let (exit, output) = Fixture::run(step);
    let expected = "hunter2\nhunter2\n400 0:7\n440 1000:7\nro,nosuid,nodev,noexec,relatime\nro\n";
    assert_eq!((exit, output.as_str()), (Exit::Code(0), expected));
    assert_eq!(fixture.changes(), ["/made", "/made/here"]);
}

#[test]
fn a_user_cannot_read_a_secret_of_root() {
    let Some(fixture) = Fixture::new() else { return };
    let mut step = fixture.step("cat /run/secrets/key 2>/dev/null || echo refused");
    step.user = User { uid: 1000, gid: 1000, groups: vec![] };
    let value = SecretBytes::new(&Secret::new(b"hunter2".to_vec()));
    step.mounts = vec![Mount::Secret { target: "/run/secrets/key".into(), value, mode: 0o400, uid: 0, gid: 0 }];
    assert_eq!(Fixture::run(step).1, "refused\n");
}

#[test]
fn a_tmpfs_is_empty_open_and_bounded() {
    let Some(fixture) = Fixture::new() else { return };
    let mut step = fixture.step(
        "ls /etc/deep; stat -c %a /etc/deep; head -c 200000 /dev/zero 2>/dev/null > /etc/deep/x; wc -c < /etc/deep/x",
    );
    step.mounts = vec![Mount::Tmpfs { target: "/etc/deep".into(), size: Some(65536), read_only: false }];
    assert_eq!(Fixture::run(step).1, "1777\n65536\n");
}

#[test]
fn without_a_network_there_is_only_a_loopback_that_works() {
    let Some(fixture) = Fixture::new() else { return };
    let mut step = fixture.step("grep -c : /proc/net/dev; ip -o link show up | cut -d: -f2");
    step.network_none = true;
    assert_eq!(Fixture::run(step).1, "1\n lo\n");
}

#[test]
fn a_script_is_run_by_its_interpreter() {
    let Some(fixture) = Fixture::new() else { return };
    let mut step = fixture.step("");
    step.arguments = vec!["/dev/pipes/EOF".into(), "argument".into()];
    step.script = Some(Script { name: "EOF".into(), content: b"#!/bin/sh\necho $0 $1; stat -c %a $0".to_vec() });
    step.user = User { uid: 1000, gid: 1000, groups: vec![] };
    assert_eq!(Fixture::run(step).1, "/dev/pipes/EOF argument\n755\n");
}

#[test]
fn hosts_and_resolver_follow_the_pod_and_cannot_be_changed() {
    check(
        "head -n 1 /etc/hosts; echo x 2>/dev/null >> /etc/resolv.conf || echo refused",
        "127.0.0.1\tlocalhost builder\nrefused",
    );
    let pod = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    check("cat /etc/resolv.conf", &pod);
}

#[test]
fn mount_points_never_land_in_the_changes() {
    let Some(fixture) = Fixture::new() else { return };
    let before = fixture.image_times();
    let (exit, output) = Fixture::run(fixture.step("chmod 700 /etc; touch /tmp/x"));
    assert_eq!((exit, output.as_str()), (Exit::Code(0), ""));
    assert_eq!(fixture.changes(), ["/etc", "/made", "/made/here", "/tmp", "/tmp/x"]);
    assert_eq!(fixture.image_times(), before);
    // chmod copied /etc up: with the times that the image gives it.
    let changed = fs::metadata(fixture.upper().join("etc")).unwrap();
    assert_eq!((changed.mode() & 0o7777, changed.mtime()), (0o700, fixture::MTIME));
}

#[test]
fn a_root_from_scratch_gets_its_mount_points_too() {
    let Some(fixture) = Fixture::new() else { return };
    let mut step = fixture.step("");
    let binary = fixture.upper().join("busybox");
    fs::create_dir_all(fixture.upper()).unwrap();
    fs::copy("/bin/busybox", binary).unwrap();
    step.lowers = Vec::new();
    step.working_directory = "/".into();
    step.arguments = ["/busybox", "ls", "/"].map(String::from).to_vec();
    assert_eq!(Fixture::run(step).1, "busybox\ndev\netc\nproc\nsys\n");
    assert_eq!(fixture.changes(), ["/busybox"]);
}

#[test]
fn many_lower_directories_fit() {
    let Some(fixture) = Fixture::new() else { return };
    let mut step = fixture.step("cat /number; ls / | wc -l");
    let lowers = (0..LOWERS_MAX - 1).map(|number| {
        let lower = fixture.path(&format!("a-directory-with-a-long-name,and:awkward\\signs-{number}"));
        fs::create_dir(&lower).unwrap();
        fs::write(lower.join("number"), format!("{number}\n")).unwrap();
        lower
    });
    step.lowers = lowers.chain(step.lowers).collect();
    assert_eq!(Fixture::run(step).1, "0\n8\n");
}

#[test]
fn a_command_that_cannot_be_run_is_an_error_that_says_why() {
    let Some(fixture) = Fixture::new() else { return };
    let run = |arguments: &[&str]| {
        let mut step = fixture.step("");
        step.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        match Fixture::run_with(step, |_, _| ()).0 {
            Err(SandboxError::Failed(failure)) => failure,
            other => panic!("{arguments:?}: {other:?}"),
        }
    };
    assert_eq!(run(&["nonsense"]), Failure::CommandNotFound { command: "nonsense".into(), path: "PATH=/bin".into() });
    assert_eq!(run(&["/x/y"]), Failure::CommandNotFound { command: "/x/y".into(), path: "the image".into() });
    assert_eq!(
        run(&["/etc/passwd"]).to_string(),
        "command `/etc/passwd` cannot be run: Permission denied (os error 13)"
    );
    assert_eq!(run(&["/etc/deep"]).to_string(), "command `/etc/deep` cannot be run: Permission denied (os error 13)");
    assert_eq!(
        run(&["/bin/lost"]).to_string(),
        "command `/bin/lost` cannot be run: its interpreter or dynamic loader is not in the image"
    );
}

#[test]
fn a_dropped_step_leaves_no_process_and_no_mount() {
    let Some(fixture) = Fixture::new() else { return };
    let step = fixture.step("echo started; sleep 1000 & sleep 1000");
    fixture::make_directories(&step);
    Fixture::runtime().block_on(async {
        let (started, mut waiting) = tokio::sync::mpsc::unbounded_channel();
        let sandbox = Sandbox::with_program(fixture::PROGRAM.into());
        let running = sandbox.step(step, |_, _| started.send(()).unwrap());
        tokio::select! {
            result = running => panic!("{result:?}"),
            _ = waiting.recv() => {}
        }
    });
    // The runtime has ended: the thread that reaps the helper too.
    assert!(fixture::wait_until(Duration::from_secs(10), || !fixture.has_processes()), "processes remain");
    assert!(!fixture.is_mounted());
    fs::remove_dir_all(fixture.path("work")).unwrap();
}

#[test]
fn the_probe_finds_user_namespaces_and_cleans_up() {
    let Some(fixture) = Fixture::new() else { return };
    let directory = fixture.path("probed");
    fs::create_dir(&directory).unwrap();
    let isolation = Fixture::runtime().block_on(Sandbox::with_program(fixture::PROGRAM.into()).probe(&directory));
    assert_eq!(isolation.to_string(), "userns");
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
}

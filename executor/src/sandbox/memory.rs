//! What the kernel tells of its memory limit: how many processes it has killed for want of memory in this container.

use std::fs;

/// The files that may count them: the own cgroup's as version 2 and version 1 have it, where `{}` is the cgroup's path.
/// In a container it is mounted at the root, whatever the path says.
const FILES: [&str; 4] = [
    "/sys/fs/cgroup{}/memory.events",
    "/sys/fs/cgroup/memory.events",
    "/sys/fs/cgroup/memory{}/memory.oom_control",
    "/sys/fs/cgroup/memory/memory.oom_control",
];

/// Returns how many processes of this container the kernel has killed at its memory limit, or `None` if it does not say.
pub fn kills() -> Option<u64> {
    let path = fs::read_to_string("/proc/self/cgroup").map(|text| cgroup(&text).to_owned()).unwrap_or_default();
    FILES.iter().find_map(|file| count(&fs::read_to_string(file.replace("{}", &path)).ok()?))
}

/// Finds the path of the memory cgroup in `/proc/self/cgroup`; version 2 has one line `0::PATH`.
fn cgroup(text: &str) -> &str {
    let path_of = |wanted: &str| {
        text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            controllers.split(',').any(|name| name == wanted).then_some(path)
        })
    };
    let path = path_of("memory").or_else(|| path_of("")).unwrap_or_default();
    if path.contains("..") { "" } else { path }
}

/// Reads the line `oom_kill N`.
fn count(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_read() {
        assert_eq!(count("low 0\nhigh 0\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n"), Some(1));
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), Some(3));
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\n"), None);
        assert_eq!(cgroup("0::/kubepods/pod1/c\n"), "/kubepods/pod1/c");
        assert_eq!(cgroup("3:cpu,cpuacct:/a\n2:memory:/kubepods/b\n0::/\n"), "/kubepods/b");
        assert_eq!(cgroup("0::/../../outside\n"), "");
        assert_eq!(cgroup(""), "");
    }
}

//! Platforms as a Dockerfile writes them: a text comes in, its normal form comes out; and whether one machine can run
//! another's programs.

use crate::image::platform::Platform;

/// Architectures that may stand alone; the operating system is the machine's then.
const ARCHITECTURES: [&str; 16] = [
    "386", "aarch64", "amd64", "arm", "arm64", "armel", "armhf", "i386", "loong64", "mips64le", "ppc64le", "riscv64",
    "s390x", "x86-64", "x86_64", "i686",
];

/// Operating systems that may stand alone; the architecture is the machine's then.
const SYSTEMS: [&str; 4] = ["darwin", "freebsd", "linux", "windows"];

/// Reads a platform; one part of it alone is completed by the machine's other part.
pub fn parse(text: &str, machine: &Platform) -> Option<Platform> {
    let lower = text.to_lowercase();
    if ARCHITECTURES.contains(&lower.as_str()) {
        return format!("{}/{lower}", machine.os).parse().ok();
    }
    if SYSTEMS.contains(&lower.as_str()) {
        return Some(Platform { os: lower, ..machine.clone() });
    }
    text.parse().ok()
}

/// Whether a machine runs the programs of a platform without emulation.
pub(super) fn runs(machine: &Platform, other: &Platform) -> bool {
    let same = machine.architecture == other.architecture;
    let narrower = matches!((&*machine.architecture, &*other.architecture), ("amd64", "386") | ("arm64", "arm"));
    machine.os == other.os && (same || narrower)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f8_platforms_have_a_normal_form() {
        let machine = "linux/amd64".parse().unwrap();
        for (text, expected) in [
            ("linux/amd64", Some("linux/amd64")),
            ("Linux/x86_64", Some("linux/amd64")),
            ("linux/arm64/v8", Some("linux/arm64")),
            ("linux/aarch64", Some("linux/arm64")),
            ("linux/arm", Some("linux/arm/v7")),
            ("linux/armhf", Some("linux/arm/v7")),
            ("linux/arm/v6", Some("linux/arm/v6")),
            ("linux/amd64/v3", Some("linux/amd64/v3")),
            ("arm64", Some("linux/arm64")),
            ("ARM", Some("linux/arm/v7")),
            ("linux", Some("linux/amd64")),
            ("vax", None),
            ("", None),
            ("linux/", None),
            ("a/b/c/d", None),
            ("linux/$X", None),
        ] {
            assert_eq!(parse(text, &machine).map(|platform| platform.to_string()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn f8_a_machine_runs_its_own_platform_and_the_narrower_one() {
        for (machine, other, expected) in [
            ("linux/amd64", "linux/amd64/v2", true),
            ("linux/amd64", "linux/386", true),
            ("linux/arm64", "linux/arm/v7", true),
            ("linux/amd64", "linux/arm64", false),
            ("linux/386", "linux/amd64", false),
            ("linux/amd64", "windows/amd64", false),
        ] {
            assert_eq!(runs(&machine.parse().unwrap(), &other.parse().unwrap()), expected, "{machine} {other}");
        }
    }
}

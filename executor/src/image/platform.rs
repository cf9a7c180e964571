//! Platforms: `linux/arm64/v8` -> operating system, architecture, variant; and which of an index's images runs on one.
//!
//! Names are normalised as container runtimes do it (`x86_64` is `amd64`, `arm` means `arm/v7`, `arm64/v8` is `arm64`).

use std::{env::consts, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// An operating system, an architecture in Go's words, and a variant of it (OCI image-spec, image-index.md, "platform").
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, `arm`, …
    pub architecture: String,
    /// `v7`, where the architecture has variants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// Says that a text names no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a platform of the form os/architecture[/variant], such as linux/arm64")]
pub struct InvalidPlatform(String);

impl Platform {
    /// Names the platform that this program was compiled for.
    pub fn host() -> Self {
        normalise(consts::OS, consts::ARCH, None)
    }

    /// Rates how well an image of the platform `candidate` runs on this one: 0 is exact, more is worse, `None` is not at all.
    ///
    /// A variant runs what was made for a lower one (`arm/v7` runs `arm/v6`; `amd64/v3` runs `amd64`), never a higher one.
    pub fn rate(&self, candidate: &Self) -> Option<u32> {
        let wanted = normalise(&self.os, &self.architecture, self.variant.as_deref());
        let offered = normalise(&candidate.os, &candidate.architecture, candidate.variant.as_deref());
        if (&wanted.os, &wanted.architecture) != (&offered.os, &offered.architecture) {
            return None;
        }
        if wanted.variant == offered.variant {
            return Some(0);
        }
        level(&wanted)?.checked_sub(level(&offered)?)
    }
}

/// The number behind the variant's `v`; an absent variant of a 64-bit architecture is its lowest.
fn level(platform: &Platform) -> Option<u32> {
    match (&platform.variant, platform.architecture.as_str()) {
        (Some(variant), _) => variant.strip_prefix('v')?.split('.').next()?.parse().ok(),
        (None, "amd64") => Some(1),
        (None, "arm64") => Some(8),
        (None, _) => None,
    }
}

fn normalise(os: &str, architecture: &str, variant: Option<&str>) -> Platform {
    let (os, architecture) = (os.to_ascii_lowercase(), architecture.to_ascii_lowercase());
    let variant = variant.filter(|variant| !variant.is_empty()).map(str::to_ascii_lowercase);
    let (architecture, variant) = match (architecture.as_str(), variant.as_deref()) {
        ("x86_64" | "x86-64" | "amd64", None | Some("v1")) => ("amd64", None),
        ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", None | Some("v8" | "8")) => ("arm64", None),
        ("aarch64" | "arm64", variant) => ("arm64", variant),
        ("armhf", _) | ("arm", None | Some("7")) => ("arm", Some("v7")),
        ("armel", _) | ("arm", Some("6")) => ("arm", Some("v6")),
        ("arm", Some("5")) => ("arm", Some("v5")),
        ("i386" | "i686" | "x86", _) => ("386", None),
        ("powerpc64le", variant) => ("ppc64le", variant),
        (architecture, variant) => (architecture, variant),
    };
    let (architecture, variant) = (architecture.to_owned(), variant.map(str::to_owned));
    let os = if os == "macos" { "darwin".into() } else { os };
    Platform { os, architecture, variant }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(formatter, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    fn from_str(text: &str) -> Result<Self, InvalidPlatform> {
        let parts: Vec<&str> = text.splitn(4, '/').collect();
        let plain = |part: &&str| {
            (1..=32).contains(&part.len())
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        };
        match parts.as_slice() {
            [os, architecture] if parts.iter().all(plain) => Ok(normalise(os, architecture, None)),
            [os, architecture, variant] if parts.iter().all(plain) => Ok(normalise(os, architecture, Some(variant))),
            _ => Err(InvalidPlatform(text.chars().take(100).collect())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(wanted: &str, offered: &str, rate: Option<u32>) {
        let [wanted, offered] = [wanted, offered].map(|text| text.parse::<Platform>().unwrap());
        assert_eq!(wanted.rate(&offered), rate, "{wanted} on {offered}");
    }

    #[test]
    fn names_are_normalised() {
        for (text, normal) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("Linux/AMD64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("linux/s390x", "linux/s390x"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), normal);
        }
        for text in ["", "linux", "linux/", "/amd64", "linux/arm/v7/x", "linux/a b", "linux//v7"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_host_has_a_normal_name() {
        assert_eq!(Platform::host().to_string().parse(), Ok(Platform::host()));
    }

    #[test]
    fn variants_run_lower_ones_but_not_higher_ones() {
        check("linux/amd64", "linux/amd64", Some(0));
        check("linux/amd64", "linux/arm64", None);
        check("linux/amd64", "windows/amd64", None);
        check("linux/arm/v7", "linux/arm/v7", Some(0));
        check("linux/arm/v7", "linux/arm/v6", Some(1));
        check("linux/arm/v7", "linux/arm/v5", Some(2));
        check("linux/arm/v6", "linux/arm/v7", None);
        check("linux/arm64", "linux/arm64/v8", Some(0));
        check("linux/arm64/v9", "linux/arm64", Some(1));
        check("linux/amd64/v3", "linux/amd64", Some(2));
        check("linux/amd64", "linux/amd64/v2", None);
    }
}

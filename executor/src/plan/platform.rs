//! Platforms: `os/architecture[/variant]` comes in, its normal form comes out, and whether one machine can run another's
//! programs.

use std::fmt;

/// A platform in its normal form: what a processor means without saying so is not said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Platform {
    pub os: String,
    pub architecture: String,
    /// Empty when there is none.
    pub variant: String,
}

impl Platform {
    /// Reads a platform; `None` when it has not two or three parts.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let lower = text.to_lowercase();
        let parts: Vec<&str> = lower.split('/').collect();
        let plain = |part: &&str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        };
        if !parts.iter().all(plain) {
            return None;
        }
        let (os, architecture, variant) = match parts.as_slice() {
            [os, architecture] => (*os, *architecture, ""),
            [os, architecture, variant] => (*os, *architecture, *variant),
            _ => return None,
        };
        let (architecture, variant) = match (architecture, variant) {
            ("x86_64" | "x86-64" | "amd64", "" | "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", "" | "8" | "v8") => ("arm64", ""),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("i386", _) => ("386", ""),
            other => other,
        };
        Some(Self { os: os.into(), architecture: architecture.into(), variant: variant.into() })
    }

    /// Whether this machine runs the programs of `other` without emulation.
    pub(super) fn runs(&self, other: &Self) -> bool {
        let same = self.architecture == other.architecture;
        let narrower = matches!((&*self.architecture, &*other.architecture), ("amd64", "386") | ("arm64", "arm"));
        self.os == other.os && (same || narrower)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(formatter, "/{}", self.variant) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f8_platforms_have_a_normal_form() {
        for (text, expected) in [
            ("linux/amd64", Some("linux/amd64")),
            ("Linux/x86_64", Some("linux/amd64")),
            ("linux/arm64/v8", Some("linux/arm64")),
            ("linux/arm", Some("linux/arm/v7")),
            ("linux/arm/v6", Some("linux/arm/v6")),
            ("linux/amd64/v3", Some("linux/amd64/v3")),
            ("linux", None),
            ("", None),
            ("linux/", None),
            ("a/b/c/d", None),
            ("linux/$X", None),
        ] {
            assert_eq!(Platform::parse(text).map(|platform| platform.to_string()).as_deref(), expected, "{text}");
        }
    }
}

//! Named contexts (`--build-context NAME=…`): names and what they stand for come in; what replaces a stage or an image of a
//! name on a platform comes out.

use std::collections::BTreeMap;

use crate::image::{platform::Platform, reference::Reference};

/// Names that stand for what every build has.
const RESERVED: [&str; 2] = ["context", "scratch"];

/// Between the name and the platform that an entry is for.
const PLATFORM_SEPARATOR: &str = "::";

/// What stands in for a stage or an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedContext {
    /// An image: a reference, `oci-layout:…`, or `scratch`.
    Image(String),
    /// Files, by their number among the contexts; 0 is the build context itself.
    Files(usize),
}

/// The named contexts of a build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contexts(BTreeMap<String, NamedContext>);

impl Contexts {
    /// Adds a context; the last of a name counts. Fails with the end of a sentence about the name.
    pub fn insert(&mut self, name: &str, context: NamedContext) -> Result<(), String> {
        let (image, platform) = match name.split_once(PLATFORM_SEPARATOR) {
            Some((image, platform)) => (image, Some(platform)),
            None => (name, None),
        };
        if RESERVED.contains(&image.to_ascii_lowercase().as_str()) {
            return Err(format!("has the name `{image}`, which cannot be replaced"));
        }
        let mut key = key(image).ok_or_else(|| format!("has the name `{image}`, which no image can have"))?;
        if let Some(platform) = platform {
            let platform: Platform = platform.parse().map_err(|error| format!("names no platform: {error}"))?;
            key = with_platform(&key, &platform);
        }
        self.0.insert(key, context);
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Finds what replaces a stage or an image: the entry for the platform, else the one for all platforms.
    pub(super) fn find(&self, name: &str, platform: &Platform) -> Option<&NamedContext> {
        if self.is_empty() || RESERVED.contains(&name.to_ascii_lowercase().as_str()) {
            return None;
        }
        let key = key(name)?;
        self.0.get(&with_platform(&key, platform)).or_else(|| self.0.get(&key))
    }
}

/// The one spelling of a name: as an image with registry and tag, so that `alpine` is `docker.io/library/alpine:latest`.
fn key(name: &str) -> Option<String> {
    name.parse::<Reference>().ok().map(|reference| reference.to_string())
}

fn with_platform(key: &str, platform: &Platform) -> String {
    format!("{key}{PLATFORM_SEPARATOR}{platform}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(names: &[&str], wanted: &str, found: Option<usize>) {
        let mut contexts = Contexts::default();
        for (number, name) in names.iter().enumerate() {
            contexts.insert(name, NamedContext::Files(number)).unwrap();
        }
        let platform = "linux/arm64".parse().unwrap();
        assert_eq!(contexts.find(wanted, &platform), found.map(NamedContext::Files).as_ref(), "{names:?} {wanted}");
    }

    #[test]
    fn f7_names_are_compared_as_images() {
        check(&["alpine"], "docker.io/library/alpine:latest", Some(0));
        check(&["docker.io/library/alpine:latest"], "alpine", Some(0));
        check(&["alpine"], "alpine:3", None);
        check(&["alpine:3"], "alpine:3", Some(0));
        check(&["alpine"], "registry.example/alpine", None);
        check(&["base"], "base", Some(0));
        check(&["base", "base"], "base", Some(1));
        check(&["base"], "oci-layout:base", None);
    }

    #[test]
    fn f7_a_platform_wins_over_none() {
        check(&["a", "a::linux/arm64"], "a", Some(1));
        check(&["a", "a::linux/aarch64/v8"], "a", Some(1));
        check(&["a", "a::linux/amd64"], "a", Some(0));
        check(&["a::linux/amd64"], "a", None);
    }

    #[test]
    fn f7_some_names_cannot_be_replaced() {
        let refused = |name: &str| Contexts::default().insert(name, NamedContext::Files(1)).unwrap_err();
        assert_eq!(refused("scratch"), "has the name `scratch`, which cannot be replaced");
        assert_eq!(refused("Context"), "has the name `Context`, which cannot be replaced");
        assert_eq!(refused("Base"), "has the name `Base`, which no image can have");
        assert!(refused("a::x").starts_with("names no platform: `x`"));
    }
}

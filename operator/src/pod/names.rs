//! Names that follow from a build's own, its number and its attempt: of Pods, ConfigMaps, tags and nonces. Equal inputs
//! give equal names, so that an operator that was killed finds again what it made.

use std::fmt::Write;

use sha2::{Digest, Sha256};

/// The longest name that also serves as a label value.
const NAME_LENGTH_MAX: usize = 63;
/// The longest tag that registries accept.
const TAG_LENGTH_MAX: usize = 128;
/// How many hex digits of a hash stand for the part of a name that was cut off.
const SHORT_HASH_LENGTH: usize = 8;
/// How many hex digits a nonce has.
const NONCE_LENGTH: usize = 32;

/// Returns the name of the Pod of one attempt: `<name>-<number>-<attempt>`, at most 63 characters.
pub fn pod_name(build_name: &str, number: i64, attempt: i64) -> String {
    with_suffix(build_name, &format!("-{number}-{attempt}"))
}

/// Returns the name of the ConfigMap with the inline files of one build.
pub fn config_map_name(build_name: &str, number: i64) -> String {
    with_suffix(build_name, &format!("-{number}-files"))
}

/// Returns the tag that only this build sets: `<tag>-<number>-<first four digits of the object's UID>`.
///
/// The UID keeps an object apart from one of the same name that was deleted before. A long tag is shortened.
pub fn build_tag(image: &str, number: i64, uid: &str) -> String {
    let uid: String = uid.chars().filter(char::is_ascii_hexdigit).take(4).collect();
    let suffix = format!("-{number}-{uid}");
    let tag = tag_of(image);
    let kept = tag.len().min(TAG_LENGTH_MAX.saturating_sub(suffix.len()));
    format!("{}{suffix}", &tag[..kept])
}

/// Returns the tag of an image reference, `latest` if it has none. Tags are ASCII by a rule of the schema.
pub fn tag_of(image: &str) -> &str {
    image.strip_prefix(karve_api::repository_of(image)).and_then(|rest| rest.strip_prefix(':')).unwrap_or("latest")
}

/// Returns the word that a report must repeat to be taken for this attempt's.
pub fn nonce(uid: &str, number: i64, attempt: i64) -> String {
    hex_sha256(format!("karve-nonce\0{uid}\0{number}\0{attempt}").as_bytes())[..NONCE_LENGTH].to_owned()
}

/// Returns the SHA-256 of the bytes as 64 lower-case hex digits.
pub fn hex_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

/// Appends a suffix; a name that would be too long is cut and gets a hash of the whole instead.
fn with_suffix(name: &str, suffix: &str) -> String {
    if name.len() + suffix.len() <= NAME_LENGTH_MAX {
        return format!("{name}{suffix}");
    }
    let hash = &hex_sha256(name.as_bytes())[..SHORT_HASH_LENGTH];
    let room = NAME_LENGTH_MAX.saturating_sub(suffix.len() + 1 + SHORT_HASH_LENGTH);
    let kept: String = name.chars().take(room).collect();
    format!("{}-{hash}{suffix}", kept.trim_end_matches(['-', '.']))
}

#[cfg(test)]
mod tests {
    use super::{build_tag, nonce, pod_name, tag_of};

    #[track_caller]
    fn check(name: &str, number: i64, attempt: i64, expected: &str) {
        let pod = pod_name(name, number, attempt);
        assert!(pod.len() <= 63, "{} characters", pod.len());
        assert_eq!(pod, expected);
    }

    #[test]
    fn a_pod_is_named_after_build_number_and_attempt() {
        check("web", 3, 1, "web-3-1");
        check(&"a".repeat(59), 1, 1, &format!("{}-1-1", "a".repeat(59)));
        check(&format!("{}.b", "a".repeat(49)), 10, 100, &format!("{}.b-10-100", "a".repeat(49)));
        check(&format!("{}.{}", "a".repeat(49), "b".repeat(13)), 1, 1, &format!("{}-70b323de-1-1", "a".repeat(49)));
    }

    #[test]
    fn tags_of_builds_never_collide() {
        assert_eq!(build_tag("r.example:5000/web:v1", 3, "ab12-34"), "v1-3-ab12");
        assert_eq!(build_tag("r.example:5000/web", 3, "ab12-34"), "latest-3-ab12");
        assert_eq!(build_tag(&format!("web:{}", "t".repeat(128)), 3, "ab12").len(), 128);
        assert_ne!(nonce("u", 1, 12), nonce("u", 11, 2));
        assert_eq!(tag_of("localhost:5000/web"), "latest");
    }
}

//! Users and groups of an image: `USER` and `--chown` go in as text, numbers come out.
//!
//! The names are those of the image's own `/etc/passwd` and `/etc/group`, which layer indexes carry whole. A name that they do
//! not have is an error: it never becomes root.

use super::{
    path::TreePath,
    view::{ResolveError, View},
};

/// The largest id that may be written as a number, as in every OCI runtime.
const ID_MAX: u32 = i32::MAX as u32;

/// Who a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids: the primary one, then those of `/etc/group` in its order.
    pub groups: Vec<u32>,
    /// Home directory; `/` when `/etc/passwd` does not say.
    pub home: String,
}

/// Says why a user or group can't be determined.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// A name that `/etc/passwd` does not have.
    #[error("unable to find user {0}: no matching entries in /etc/passwd of the image")]
    UnknownUser(String),
    /// A name that `/etc/group` does not have.
    #[error("unable to find group {0}: no matching entries in /etc/group of the image")]
    UnknownGroup(String),
    /// A number that is no id.
    #[error("{0} is out of the range of user and group ids, 0 to {ID_MAX}")]
    OutOfRange(String),
    /// The file is there, but nobody read its content into the view.
    #[error("{path} of the image must be read before names in it can be used: write the numeric id instead")]
    Unread {
        /// The file, symlinks followed.
        path: TreePath,
    },
    /// The file's path leads nowhere.
    #[error(transparent)]
    Unresolved(#[from] ResolveError),
}

/// Determines who a RUN runs as, from `USER` as written: `name`, `uid`, `name:group`, `uid:gid` and mixtures; empty is root.
///
/// Without a group: the primary group of the user and all groups that list the user's name. With one: that group alone. A number
/// that `/etc/passwd` does not have is group 0.
pub fn resolve_user(view: &View, spec: &str) -> Result<User, UserError> {
    let (user, group) = match split(spec) {
        ("", group) => ("0", group),
        named => named,
    };
    let by_number = number(user)?;
    let by_name = by_number.is_none();
    let passwd = read(view, "/etc/passwd", by_name)?;
    let account = accounts(passwd).find(|account| account.name == user.as_bytes() || by_number == Some(account.uid));
    let uid = match (&account, by_number) {
        (Some(account), _) => account.uid,
        (None, Some(uid)) => uid,
        (None, None) => return Err(UserError::UnknownUser(user.to_owned())),
    };
    let home = account.as_ref().map(|account| account.home).filter(|home| !home.is_empty());
    let home = home.unwrap_or("/").to_owned();
    let Some(account) = account.filter(|_| group.is_none()) else {
        let gid = group.map_or(Ok(0), |group| find_group(view, group))?;
        return Ok(User { uid, gid, groups: vec![gid], home });
    };
    let gid = account.gid;
    let member = |group: &Group<'_>| group.members.split(|byte| *byte == b',').any(|name| name == account.name);
    let others = groups(read(view, "/etc/group", by_name)?).filter(member).map(|group| group.gid);
    // The primary group is a supplementary one too, as container runtimes have it: setgid programs do not lose it.
    let groups = std::iter::once(gid).chain(others.filter(|other| *other != gid)).collect();
    Ok(User { uid, gid, groups, home })
}

/// Determines the owner that `--chown` gives: `user`, `uid`, `user:group`, `uid:gid` and mixtures.
///
/// A number alone is user and group; a name alone brings its primary group; nothing before the colon is root.
pub fn resolve_ownership(view: &View, spec: &str) -> Result<(u32, u32), UserError> {
    let (user, group) = match split(spec) {
        ("", group) => ("0", group),
        named => named,
    };
    let (uid, primary) = match number(user)? {
        Some(uid) => (uid, uid),
        None => accounts(read(view, "/etc/passwd", true)?)
            .find(|account| account.name == user.as_bytes())
            .map(|account| (account.uid, account.gid))
            .ok_or_else(|| UserError::UnknownUser(user.to_owned()))?,
    };
    let gid = match group.map(number).transpose()? {
        Some(Some(gid)) => gid,
        Some(None) => named_group(view, group.unwrap_or_default())?,
        None => primary,
    };
    Ok((uid, gid))
}

/// Splits at the first colon; nothing after it is the same as no colon.
fn split(spec: &str) -> (&str, Option<&str>) {
    match spec.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (spec, None),
    }
}

/// Reads digits as an id; `None` for anything else, which is then a name.
fn number(text: &str) -> Result<Option<u32>, UserError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    let id = text.parse().ok().filter(|id| *id <= ID_MAX);
    id.map(Some).ok_or_else(|| UserError::OutOfRange(text.to_owned()))
}

/// A group by name, or by number whether `/etc/group` has it or not.
fn find_group(view: &View, group: &str) -> Result<u32, UserError> {
    match number(group)? {
        Some(gid) => Ok(gid),
        None => named_group(view, group),
    }
}

fn named_group(view: &View, name: &str) -> Result<u32, UserError> {
    groups(read(view, "/etc/group", true)?)
        .find(|group| group.name == name.as_bytes())
        .map(|group| group.gid)
        .ok_or_else(|| UserError::UnknownGroup(name.to_owned()))
}

/// Returns the bytes of a file, symlinks followed, or nothing when it is missing. A file that was not read is an error only if
/// a name depends on it.
fn read<'view>(view: &'view View, path: &str, needed: bool) -> Result<&'view [u8], UserError> {
    let resolved = match view.resolve(path.as_bytes(), &TreePath::ROOT) {
        Ok(resolved) => resolved,
        Err(error) if needed => return Err(error.into()),
        Err(_) => return Ok(&[]),
    };
    match view.read_inline(&resolved.path) {
        Some(bytes) => Ok(bytes),
        None if needed && resolved.node.is_some_and(|node| node.content().is_some()) => {
            Err(UserError::Unread { path: resolved.path })
        }
        None => Ok(&[]),
    }
}

/// A line of `/etc/passwd` (passwd(5)).
struct Account<'text> {
    name: &'text [u8],
    uid: u32,
    gid: u32,
    home: &'text str,
}

/// A line of `/etc/group` (group(5)).
struct Group<'text> {
    name: &'text [u8],
    gid: u32,
    members: &'text [u8],
}

/// Reads the well-formed lines of `/etc/passwd`. A line whose ids are no numbers is left out: it must not become root.
fn accounts(text: &[u8]) -> impl Iterator<Item = Account<'_>> {
    lines(text).filter_map(|fields| {
        let [name, _password, uid, gid, _comment, home, ..] = fields[..] else { return None };
        Some(Account { name, uid: id(uid)?, gid: id(gid)?, home: std::str::from_utf8(home).ok()? })
    })
}

/// Reads the well-formed lines of `/etc/group`.
fn groups(text: &[u8]) -> impl Iterator<Item = Group<'_>> {
    lines(text).filter_map(|fields| {
        let [name, _password, gid, ref rest @ ..] = fields[..] else { return None };
        Some(Group { name, gid: id(gid)?, members: rest.first().copied().unwrap_or_default() })
    })
}

fn lines(text: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    text.split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.starts_with(b"#"))
        .map(|line| line.split(|byte| *byte == b':').collect())
}

fn id(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::filesystem::{
        entry::{Action, Change, Kind, Location, Metadata},
        notation,
    };

    const PASSWD: &str = "# accounts\nroot:x:0:0:root:/root:/bin/sh\nbroken:x:zero:0::/:\nweb:x:33:34:web:/srv:/bin/false\n33x:x:7:7::/h:\nbare:x:9:9:::\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:other\nlog:x:50:web,other\ndocker:x:60:other,web\nsudo:x:70:root\n";

    /// An image with both files, the first behind a symlink.
    fn image() -> View {
        let file = |name: &str, content: &str| Change {
            path: notation::path(name),
            action: Action::Put(Metadata::default(), notation::file(content)),
        };
        let mut view = notation::view("l 0777 0:0 /etc/passwd -> ../usr/passwd");
        view.apply(&[file("/usr/passwd", PASSWD), file("/etc/group", GROUP)]).expect("a valid view");
        view
    }

    #[track_caller]
    fn check_user(view: &View, spec: &str, expected: &str) {
        let user = match resolve_user(view, spec) {
            Ok(user) => format!("{}:{} {:?} {}", user.uid, user.gid, user.groups, user.home),
            Err(error) => error.to_string(),
        };
        assert_eq!(user, expected, "{spec}");
    }

    #[track_caller]
    fn check_owner(view: &View, spec: &str, expected: &str) {
        let owner = match resolve_ownership(view, spec) {
            Ok((uid, gid)) => format!("{uid}:{gid}"),
            Err(error) => error.to_string(),
        };
        assert_eq!(owner, expected, "{spec}");
    }

    #[test]
    fn c4_a_user_brings_groups_and_home() {
        let image = image();
        check_user(&image, "", "0:0 [0, 70] /root");
        check_user(&image, "root", "0:0 [0, 70] /root");
        check_user(&image, "web", "33:34 [34, 50, 60] /srv");
        check_user(&image, "33", "33:34 [34, 50, 60] /srv");
        check_user(&image, "web:", "33:34 [34, 50, 60] /srv");
        check_user(&image, "web:log", "33:50 [50] /srv");
        check_user(&image, "web:1234", "33:1234 [1234] /srv");
        check_user(&image, "12:34", "12:34 [34] /");
        check_user(&image, "1234", "1234:0 [0] /");
        check_user(&image, "1234:log", "1234:50 [50] /");
        check_user(&image, ":log", "0:50 [50] /root");
        check_user(&image, "33x", "7:7 [7] /h");
        check_user(&image, "bare", "9:9 [9] /");
    }

    #[test]
    fn c4_unknown_names_are_errors_that_name_them() {
        let image = image();
        check_user(&image, "nouser", "unable to find user nouser: no matching entries in /etc/passwd of the image");
        check_user(&image, "broken", "unable to find user broken: no matching entries in /etc/passwd of the image");
        check_user(
            &image,
            "web:nogroup",
            "unable to find group nogroup: no matching entries in /etc/group of the image",
        );
        check_user(&image, "4294967295", "4294967295 is out of the range of user and group ids, 0 to 2147483647");
        check_user(&View::empty(), "", "0:0 [0] /");
        check_user(&View::empty(), "1000", "1000:0 [0] /");
        check_user(&View::empty(), "web", "unable to find user web: no matching entries in /etc/passwd of the image");
    }

    #[test]
    fn k8_chown_takes_numbers_and_known_names() {
        let image = image();
        check_owner(&image, "33", "33:33");
        check_owner(&image, "web", "33:34");
        check_owner(&image, "web:log", "33:50");
        check_owner(&image, "web:5", "33:5");
        check_owner(&image, "5:log", "5:50");
        check_owner(&image, "web:", "33:34");
        check_owner(&image, "nouser", "unable to find user nouser: no matching entries in /etc/passwd of the image");
        check_owner(
            &image,
            "1:nogroup",
            "unable to find group nogroup: no matching entries in /etc/group of the image",
        );
        check_owner(&image, ":log", "0:50");
        check_owner(&View::empty(), "10:20", "10:20");
    }

    #[test]
    fn names_in_a_file_that_nobody_read_are_not_unknown() {
        let mut view = notation::view("d 0755 0:0 /etc");
        let mut change = notation::changes("f 0644 0:0 /etc/passwd x");
        if let Action::Put(_, Kind::File(content)) = &mut change[0].action {
            content.location = Location::Context(0, notation::path("passwd"));
        }
        view.apply(&change).expect("a valid view");
        check_user(&view, "5", "5:0 [0] /");
        check_user(
            &view,
            "web",
            "/etc/passwd of the image must be read before names in it can be used: write the numeric id instead",
        );
    }

    proptest! {
        #[test]
        fn hostile_files_and_specs_never_panic(passwd in "[a0:,\n]{0,40}|.{0,20}", spec in "[a0:]{0,6}|.{0,6}") {
            let mut change = notation::changes("f 0644 0:0 /etc/passwd\nf 0644 0:0 /etc/group");
            for change in &mut change {
                if let Action::Put(_, kind) = &mut change.action {
                    *kind = notation::file(&passwd);
                }
            }
            let mut view = View::empty();
            view.apply(&change).expect("a valid view");
            let answers = (resolve_user(&view, &spec).is_ok(), resolve_ownership(&view, &spec).is_ok());
            prop_assert!(!answers.1 || answers.0);
        }
    }
}

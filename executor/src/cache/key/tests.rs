use std::{collections::BTreeMap, sync::Arc};

use super::*;
use crate::plan::graph::{From, Sharing};

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

fn sample_copy() -> Copy {
    Copy {
        from: From::Context,
        sources: vec![Source::Path("a".into())],
        destination: "/to/".into(),
        working_directory: "/work".into(),
        chown: None,
        chmod: None,
        exclude: Vec::new(),
        parents: false,
        link: false,
        unpack: false,
        unpack_remote: false,
    }
}

fn sample_run() -> Run {
    Run {
        arguments: vec!["/bin/sh".into(), "-c".into(), "make".into()],
        environment: [("PATH", "/bin"), ("A", "1")].map(|(name, value)| (name.into(), value.into())).into(),
        proxies: BTreeMap::new(),
        working_directory: "/".into(),
        user: String::new(),
        mounts: Vec::new(),
        network_none: false,
        script: None,
    }
}

fn copy_key(change: impl FnOnce(&mut Copy)) -> Key {
    let mut operation = sample_copy();
    change(&mut operation);
    let inputs = CopyInputs { from: Some((CONTEXT_FILES.into(), digest("files"))), remotes: Vec::new() };
    copy(&operation, inputs, (PARENT, &digest("parent"))).key()
}

fn run_key(change: impl FnOnce(&mut Run)) -> Key {
    let mut operation = sample_run();
    change(&mut operation);
    let mounted = operation.mounts.iter().map(|_| None).collect();
    run(&operation, "linux/amd64/", mounted, (PARENT, &digest("parent"))).key()
}

#[track_caller]
fn all_differ(keys: &[Key]) {
    for (position, one) in keys.iter().enumerate() {
        let other = keys[position + 1..].iter().position(|other| other == one);
        assert_eq!(other, None, "{position} is like another");
    }
}

#[test]
fn whatever_a_copy_says_is_in_its_key() {
    let sources = |texts: &[&str]| -> Vec<Source> { texts.iter().map(|text| Source::Path((*text).into())).collect() };
    let inline =
        |name: &str, content: &str| vec![Source::Inline { name: name.into(), content: Arc::from(content.as_bytes()) }];
    all_differ(&[
        copy_key(|_| {}),
        copy_key(|copy| copy.sources = sources(&["a", "b"])),
        copy_key(|copy| copy.sources = sources(&["a b"])),
        copy_key(|copy| copy.sources = sources(&["ab", ""])),
        copy_key(|copy| copy.sources = inline("a", "one")),
        copy_key(|copy| copy.sources = inline("a", "two")),
        copy_key(|copy| copy.sources = inline("b", "one")),
        copy_key(|copy| copy.destination = "/other/".into()),
        copy_key(|copy| copy.destination = "to/".into()),
        copy_key(|copy| (copy.destination, copy.working_directory) = ("to/".into(), "/elsewhere".into())),
        copy_key(|copy| copy.chown = Some("1".into())),
        copy_key(|copy| copy.chmod = Some("1".into())),
        copy_key(|copy| copy.exclude = vec!["x".into()]),
        copy_key(|copy| copy.exclude = vec!["x".into(), "y".into()]),
        copy_key(|copy| copy.parents = true),
        copy_key(|copy| copy.link = true),
        copy_key(|copy| copy.unpack = true),
        copy_key(|copy| copy.unpack_remote = true),
    ]);
}

#[test]
fn a_copy_to_an_absolute_path_does_not_depend_on_the_working_directory() {
    assert_eq!(copy_key(|copy| copy.working_directory = "/elsewhere".into()), copy_key(|_| {}));
}

#[test]
fn whatever_a_process_sees_is_in_the_key_of_a_run() {
    let variable = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
    let script = |name: &str, content: &str| Some((name.to_owned(), Arc::from(content.as_bytes())));
    all_differ(&[
        run_key(|_| {}),
        run_key(|run| run.arguments = vec!["/bin/sh".into(), "-c make".into()]),
        run_key(|run| run.arguments = vec!["/bin/bash".into(), "-c".into(), "make".into()]),
        run_key(|run| run.environment = variable("A", "1 B=2")),
        run_key(|run| run.environment = variable("A", "1")),
        run_key(|run| run.environment = variable("A=1 B", "2")),
        run_key(|run| run.working_directory = "/src".into()),
        run_key(|run| run.user = "1".into()),
        run_key(|run| run.network_none = true),
        run_key(|run| run.script = script("EOF", "#!/bin/sh")),
        run_key(|run| run.script = script("EOT", "#!/bin/sh")),
        run_key(|run| run.script = script("EOF", "#!/bin/ash")),
    ]);
    let elsewhere = run(&sample_run(), "linux/arm64/", Vec::new(), (PARENT, &digest("parent"))).key();
    let on_another = run(&sample_run(), "linux/amd64/", Vec::new(), (PARENT, &digest("another parent"))).key();
    all_differ(&[run_key(|_| {}), elsewhere, on_another]);
}

#[test]
fn proxies_that_nobody_declares_are_in_no_key() {
    let proxied = run_key(|run| drop(run.proxies.insert("http_proxy".into(), "http://proxy".into())));
    assert_eq!(proxied, run_key(|_| {}));
}

#[test]
fn mounts_count_as_they_are_written_and_as_what_they_show() {
    let cache = |id: &str, sharing| {
        Mount::Cache(CacheMount {
            target: "/cache".into(),
            id: id.into(),
            sharing,
            from: None,
            source: "/".into(),
            attributes: None,
            read_only: false,
        })
    };
    let secret = |id: &str, required| {
        Mount::Secret(SecretMount {
            id: id.into(),
            target: Some("/run/secrets/x".into()),
            env: None,
            required,
            mode: 0o400,
            uid: 0,
            gid: 0,
        })
    };
    let tmpfs = |size| Mount::Tmpfs { target: "/cache".into(), size, read_only: false };
    let with = |mount: Mount| run_key(|run| run.mounts = vec![mount]);
    all_differ(&[
        run_key(|_| {}),
        with(cache("a", Sharing::Shared)),
        with(cache("b", Sharing::Shared)),
        with(secret("x", false)),
        with(secret("y", false)),
        with(tmpfs(None)),
        with(tmpfs(Some(0))),
    ]);
    assert_eq!(with(cache("a", Sharing::Locked)), with(cache("a", Sharing::Shared)));
    assert_eq!(with(secret("x", true)), with(secret("x", false)));

    let bind = Mount::Bind(BindMount {
        target: "/src".into(),
        from: Some(From::Context),
        source: "/".into(),
        read_only: true,
    });
    let bound = Run { mounts: vec![bind], ..sample_run() };
    let showing = |files: &str| {
        run(&bound, "", vec![Some((CONTEXT_FILES.into(), digest(files)))], (PARENT, &digest("parent"))).key()
    };
    all_differ(&[showing("these"), showing("those")]);
}

#[test]
fn kinds_of_steps_never_share_a_key() {
    let parent = digest("parent");
    let workdir = |path: &str, user: &str| directory(path, user, (PARENT, &parent)).key();
    all_differ(&[
        workdir("/a", ""),
        workdir("/a", "b"),
        workdir("/ab", ""),
        layer(parent.clone()).key(),
        base([&parent].into_iter()),
        base([&parent, &parent].into_iter()),
        base([].into_iter()),
        run_key(|_| {}),
        copy_key(|_| {}),
    ]);
}

/// Keys that change without a reason lose everybody's cache: raise `FORMAT` with a reason, and then this.
#[test]
fn the_format_is_pinned() {
    let keys = [copy_key(|_| {}), run_key(|_| {}), layer(digest("changes")).key()].map(|key| key.tag()).join("\n");
    insta::assert_snapshot!(keys, @"
    step-50a4918c1bc7026a7e25cead80c60dfeeeda56ba3970df93c93aa5a7431943e0
    step-170fea527b1a292663e5fb226a25424eb5d0a6e13544733ed2b0b425ecf642de
    step-58db47db92709334ad848ca33d12c7566f0b4a840c6b53519313abd57cd53120
    ");
}

#[test]
fn a_key_reads_as_it_is_written() {
    let key = run_key(|_| {});
    assert_eq!(key.to_string().parse::<Key>().unwrap(), key);
    assert_eq!(key.tag(), format!("step-{}", key.digest().hex()));
}

use karve_dockerfile::{diagnostic::Span, expand::Budget};

use super::*;

fn read(text: &str) -> Result<Mount, String> {
    let variables = [("T".to_owned(), "/t".to_owned())].into();
    let word = Word { text: text.into(), span: Span::default() };
    let around = Around {
        expansion: Expansion { variables: &variables, escape: '\\', budget: &Budget::default() },
        working_directory: "/job",
        cache_namespace: "team",
        agents: 2,
        from: &|word| match word.text.as_str() {
            "base" => Ok(From::Stage(0)),
            other => Err(Problem::new(word.span, format!("no {other}"))),
        },
    };
    parse(&word, &around).map_err(|problem| problem.message)
}

#[track_caller]
fn check_error(text: &str, expected: &str) {
    assert_eq!(read(text), Err(expected.to_owned()), "{text}");
}

fn default_bind() -> BindMount {
    BindMount { target: "/x".into(), from: Some(From::Context), source: "/".into(), read_only: true }
}

#[test]
fn r3_a_bind_is_the_whole_context_and_read_only() {
    assert_eq!(read("target=/x"), Ok(Mount::Bind(default_bind())));
    assert_eq!(read("type=bind,dst=/x"), Ok(Mount::Bind(default_bind())));
    assert_eq!(read("type=BIND,destination=/x,ro=true"), Ok(Mount::Bind(default_bind())));
    let stage = BindMount { from: Some(From::Stage(0)), source: "/a/b".into(), ..default_bind() };
    assert_eq!(read("target=/x,from=base,source=a/./b/"), Ok(Mount::Bind(stage)));
    let nothing = BindMount { from: None, ..default_bind() };
    assert_eq!(read("target=/x,from=scratch"), Ok(Mount::Bind(nothing)));
    check_error("target=/x,from=other", "no other");
}

#[test]
fn r3_a_source_does_not_leave_its_root() {
    for source in ["../../etc", "/../etc", "a/../../etc/", "/etc"] {
        let bind = BindMount { source: "/etc".into(), ..default_bind() };
        assert_eq!(read(&format!("target=/x,source={source}")), Ok(Mount::Bind(bind)), "{source}");
    }
}

#[test]
fn r3_the_last_word_on_writing_counts() {
    for (words, read_only) in [
        ("rw", false),
        ("readwrite=true", false),
        ("rw=1", false),
        ("readonly=false", false),
        ("ro=F", false),
        ("ro", true),
        ("rw=false", true),
        ("rw,ro", true),
        ("ro,rw", false),
        ("ro=T,rw=t", false),
    ] {
        let bind = BindMount { read_only, ..default_bind() };
        assert_eq!(read(&format!("target=/x,{words}")), Ok(Mount::Bind(bind)), "{words}");
    }
    check_error("target=/x,rw=maybe", "invalid value for readwrite: maybe");
}

#[test]
fn r3_without_a_target_the_working_directory_is_meant_as_in_buildkit() {
    let here = BindMount { target: "/job".into(), ..default_bind() };
    for text in ["type=bind", "target=.", "target="] {
        assert_eq!(read(text), Ok(Mount::Bind(here.clone())), "{text}");
    }
}

fn default_cache() -> CacheMount {
    CacheMount {
        target: "/x".into(),
        id: "team//x".into(),
        sharing: Sharing::Shared,
        from: None,
        source: "/".into(),
        attributes: None,
        read_only: false,
    }
}

#[test]
fn r4_a_cache_has_defaults() {
    assert_eq!(read("type=cache,target=/x"), Ok(Mount::Cache(default_cache())));
    assert_eq!(read("type=cache,target=/x,from=scratch,rw"), Ok(Mount::Cache(default_cache())));
    let relative = CacheMount { target: "/job/y".into(), id: "team/y".into(), ..default_cache() };
    assert_eq!(read("type=cache,target=./y/"), Ok(Mount::Cache(relative)));
    let all = CacheMount {
        id: "team/id".into(),
        sharing: Sharing::Locked,
        from: Some(From::Stage(0)),
        source: "/s".into(),
        attributes: Some(Attributes { mode: 0o700, uid: 1, gid: 2 }),
        read_only: true,
        ..default_cache()
    };
    let text = "type=cache,target=/x,id=id,sharing=LOCKED,from=base,source=s,mode=0700,uid=1,gid=2,ro";
    assert_eq!(read(text), Ok(Mount::Cache(all)));
}

#[test]
fn r4_one_attribute_brings_the_others_defaults() {
    for (words, mode, uid, gid) in [("mode=777", 0o777, 0, 0), ("uid=7", 0o755, 7, 0), ("gid=7", 0o755, 0, 7)] {
        let cache = CacheMount { attributes: Some(Attributes { mode, uid, gid }), ..default_cache() };
        assert_eq!(read(&format!("type=cache,target=/x,{words}")), Ok(Mount::Cache(cache)), "{words}");
    }
}

#[test]
fn r4_a_misspelt_sharing_is_explained() {
    check_error("type=cache,target=/x,sharing=lockd", "unsupported sharing value \"lockd\" (did you mean locked?)");
    check_error("target=/x,sharing=locked", "unexpected key 'sharing' for mount type 'bind'");
}

fn default_secret() -> SecretMount {
    SecretMount {
        id: "a".into(),
        target: Some("/run/secrets/a".into()),
        env: None,
        required: false,
        mode: 0o400,
        uid: 0,
        gid: 0,
    }
}

#[test]
fn r6_a_secret_has_defaults() {
    assert_eq!(read("type=secret,id=a"), Ok(Mount::Secret(default_secret())));
    assert_eq!(read("type=secret,source=a"), Ok(Mount::Secret(default_secret())));
    assert_eq!(read("type=secret,id=a,ro"), Ok(Mount::Secret(default_secret())));
    let target = SecretMount { target: Some("/x/a".into()), ..default_secret() };
    assert_eq!(read("type=secret,target=/x/a"), Ok(Mount::Secret(target)));
    let env = SecretMount { target: None, env: Some("A".into()), ..default_secret() };
    assert_eq!(read("type=secret,id=a,env=A"), Ok(Mount::Secret(env)));
    let both = SecretMount { env: Some("A".into()), target: Some("/job/f".into()), ..default_secret() };
    assert_eq!(read("type=secret,id=a,env=A,dst=f"), Ok(Mount::Secret(both)));
    let all = SecretMount { required: true, mode: 0o440, uid: 1, gid: 2, ..default_secret() };
    assert_eq!(read("type=secret,id=a,required,mode=0440,uid=1,gid=2"), Ok(Mount::Secret(all)));
    check_error("type=secret,id=a,source=b", "both source and id can't be set");
}

#[test]
fn r7_an_agent_has_defaults() {
    let agent = SshMount {
        id: "default".into(),
        target: "/run/buildkit/ssh_agent.2".into(),
        required: false,
        mode: 0o600,
        uid: 0,
        gid: 0,
    };
    assert_eq!(read("type=ssh"), Ok(Mount::Ssh(agent.clone())));
    let all = SshMount { id: "a".into(), target: "/job/s".into(), required: true, mode: 0o666, uid: 1, gid: 2 };
    assert_eq!(read("type=ssh,id=a,target=s,required=true,mode=666,uid=1,gid=2"), Ok(Mount::Ssh(all)));
    check_error("type=ssh,source=x", "unexpected key 'source' for mount type 'ssh'");
}

#[test]
fn r5_a_tmpfs_has_a_target_and_a_size() {
    let tmpfs = |target: &str, size, read_only| Ok(Mount::Tmpfs { target: target.into(), size, read_only });
    assert_eq!(read("type=tmpfs,target=$T"), tmpfs("/t", None, false));
    assert_eq!(read("type=tmpfs,dst=t,size=64m"), tmpfs("/job/t", Some(64 << 20), false));
    assert_eq!(read("type=tmpfs,dst=t,size=0,ro"), tmpfs("/job/t", None, true));
    assert_eq!(read("type=tmpfs"), tmpfs("/job", None, false));
    check_error("type=tmpfs,target=/t,size=x", "invalid value for size: x");
}

#[test]
fn r2_wrong_fields_are_named() {
    check_error("type=secret,id=a,size=1", "unexpected key 'size' for mount type 'secret'");
    check_error("type=bind,target=/x,mode=1", "unexpected key 'mode' for mount type 'bind'");
    check_error("type=cache,target=/x,required", "unexpected key 'required' for mount type 'cache'");
    check_error("type=secret,id=a,from=base", "unexpected key 'from' for mount type 'secret'");
    check_error("type=secret,id=a,sise=1", "unexpected key 'sise' in 'sise=1' (did you mean size?)");
    check_error("type=secret,id", "invalid field 'id' must be a key=value pair");
    check_error("type=secret", "one of id, source, target is required for a secret mount");
    check_error("type=tmpfs,target=/", "invalid mount target \"/\"");
    check_error("type=tmpfs,target=/../", "invalid mount target \"/../\"");
    check_error("type=secret,id=a,mode=9", "invalid value 9 for mode");
    check_error("type=cache,target=/x,uid=-1", "invalid value -1 for uid");
    check_error("type=secret,id=a,required=maybe", "invalid value for required: maybe");
    check_error("type=secret,from=$X", "'from' doesn't support variable expansion");
    check_error("type=secret,\"id=a", "unterminated \" in type=secret,\"id=a");
    check_error("type=secert", "unsupported mount type \"secert\" (did you mean secret?)");
}

#[test]
fn r2_fields_may_be_quoted() {
    let secret = SecretMount { id: "a,b".into(), target: Some("/run/secrets/a,b".into()), ..default_secret() };
    assert_eq!(read("type=secret,\"id=a,b\""), Ok(Mount::Secret(secret)));
}

//! What `RUN --mount` asks of the rest of the plan.

use super::*;
use crate::plan::graph::Mount;

fn mounts(stage: &Stage) -> Vec<&Mount> {
    runs(stage).into_iter().flat_map(|run| &run.mounts).collect()
}

#[test]
fn r3_a_mount_makes_its_stage_and_its_image_needed() {
    let text = "FROM scratch AS a\nFROM scratch AS unused\nFROM scratch\n\
                RUN --mount=target=/x,from=A --mount=type=cache,target=/y,from=img:1 --mount=from=0,target=/z x";
    assert_eq!(case(text).needs(), ["img:1 linux/amd64"]);
    let graph = case(text).base("img:1", |_| {}).graph();
    assert_eq!(graph.stages.iter().map(|stage| stage.name.as_str()).collect::<Vec<_>>(), ["a", "2"]);
    let image = From::Image(ImageName { reference: "img:1".into(), platform: "linux/amd64".into() });
    let from: Vec<_> = mounts(&graph.stages[1]).into_iter().map(Mount::from).collect();
    assert_eq!(from, [Some(&From::Stage(0)), Some(&image), Some(&From::Stage(0))]);
}

#[test]
fn f4_the_from_of_a_mount_is_resolved_like_that_of_a_copy() {
    check_error("RUN --mount=from=3,target=/x x", &["2:5: invalid stage index 3"]);
    check_error("RUN --mount=from=0,target=/x x", &["2:5: circular dependency detected on stage: stage-0"]);
    check_error("RUN --mount=from=$X,target=/x x", &["2:5: 'from' doesn't support variable expansion"]);
    let message = "cannot copy from stage \"b\", it needs to be defined before current stage \"a\"";
    case("FROM scratch AS a\nRUN --mount=target=/x,from=b x\nFROM scratch AS b\nFROM a")
        .check_error(&[&format!("2:5: {message}")]);
    let nothing = scratch_stage("RUN --mount=from=scratch,target=/x x");
    assert_eq!(mounts(&nothing)[0].from(), None);
}

#[test]
fn c10_a_trigger_may_mount_stages_and_images() {
    let text = "FROM scratch AS files\nFROM a\n";
    let trigger = |config: &mut ImageConfig| {
        config.config.on_build = vec!["RUN --mount=from=files,target=/x --mount=from=b,target=/y x".into()];
    };
    let known = case(text).base("a", trigger);
    assert_eq!(known.needs(), ["b linux/amd64"]);
    assert_eq!(known.base("b", |_| {}).graph().stages.len(), 2);
    let trigger = "RUN --mount=from=9,target=/x x";
    case("FROM a")
        .base("a", |config| config.config.on_build = vec![trigger.into()])
        .check_error(&[&format!("1:1: ONBUILD trigger \"{trigger}\" of the base: invalid stage index 9")]);
}

#[test]
fn a7_a_namespace_goes_before_the_ids_of_caches() {
    let text = "FROM scratch\nARG ID=deps\nRUN --mount=type=cache,target=/x,id=$ID x";
    let id = |case: Case| match mounts(&case.stage())[0] {
        Mount::Cache(cache) => cache.id.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(id(case(text)), "/deps");
    assert_eq!(id(case(text).build_arg("BUILDKIT_CACHE_MOUNT_NS", "team")), "team/deps");
}

#[test]
fn r7_the_first_agent_of_a_step_is_its_agent_unless_it_has_one() {
    let stage = scratch_stage(
        "RUN --mount=type=ssh --mount=type=ssh,id=b x\nRUN x\nENV SSH_AUTH_SOCK=/s\nRUN --mount=type=ssh x",
    );
    let agents: Vec<_> = runs(&stage).into_iter().map(|run| variable(run, "SSH_AUTH_SOCK")).collect();
    assert_eq!(agents, [Some("/run/buildkit/ssh_agent.0"), None, Some("/s")]);
    let targets: Vec<_> = mounts(&stage)
        .into_iter()
        .map(|mount| match mount {
            Mount::Ssh(agent) => agent.target.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(targets, ["/run/buildkit/ssh_agent.0", "/run/buildkit/ssh_agent.1", "/run/buildkit/ssh_agent.0"]);
    assert_eq!(history(&stage)[0], "RUN /bin/sh -c x # buildkit");
}

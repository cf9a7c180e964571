//! The plan by the language's criteria. Every test gives a Dockerfile, options and the configurations of its bases, and
//! looks at the graph.

use std::collections::BTreeMap;

use insta::assert_snapshot;
use proptest::prelude::*;

use karve_dockerfile::parse;

use super::*;
use crate::plan::{
    graph::{Copy, From, Operation, Run, Source},
    remote::{self, Remote},
};

mod mounts;

/// A build of one Dockerfile, under construction.
struct Case {
    dockerfile: String,
    options: Options,
    bases: Bases,
}

fn case(dockerfile: &str) -> Case {
    let options =
        Options { platform: "linux/amd64".into(), build_platform: "linux/amd64".into(), ..Options::default() };
    Case { dockerfile: dockerfile.into(), options, bases: Bases::new() }
}

impl Case {
    fn build_arg(mut self, name: &str, value: &str) -> Self {
        self.options.build_args.insert(name.into(), value.into());
        self
    }

    fn target(mut self, name: &str) -> Self {
        self.options.target = Some(name.into());
        self
    }

    fn platform(mut self, platform: &str) -> Self {
        self.options.platform = platform.into();
        self
    }

    fn base(mut self, reference: &str, change: impl FnOnce(&mut ImageConfig)) -> Self {
        let mut config = ImageConfig { architecture: "amd64".into(), os: "linux".into(), ..ImageConfig::default() };
        change(&mut config);
        self.bases.insert(ImageName { reference: reference.into(), platform: self.options.platform.clone() }, config);
        self
    }

    fn plan(&self) -> Result<Planned, Diagnostics> {
        build(
            &parse(&self.dockerfile).unwrap_or_else(|diagnostics| panic!("{diagnostics}")),
            &self.options,
            &self.bases,
        )
    }

    #[track_caller]
    fn graph(&self) -> Graph {
        match self.plan() {
            Ok(Planned::Graph(graph)) => graph,
            Ok(Planned::Needs(images)) => panic!("needs {images:?}"),
            Err(diagnostics) => panic!("{diagnostics}"),
        }
    }

    /// The last stage.
    #[track_caller]
    fn stage(&self) -> Stage {
        let graph = self.graph();
        graph.stages.into_iter().nth(graph.target).unwrap()
    }

    #[track_caller]
    fn needs(&self) -> Vec<String> {
        match self.plan() {
            Ok(Planned::Needs(images)) => {
                images.into_iter().map(|need| format!("{} {}", need.image.reference, need.image.platform)).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn check_error(&self, expected: &[&str]) {
        let diagnostics = self.plan().unwrap_err();
        let shown: Vec<String> = diagnostics
            .entries
            .iter()
            .map(|entry| format!("{}:{}: {}", entry.line, entry.column, entry.message))
            .collect();
        assert_eq!(shown, expected, "{}", self.dockerfile);
    }
}

/// Plans `FROM scratch` and the given instructions.
#[track_caller]
fn scratch_stage(text: &str) -> Stage {
    case(&format!("FROM scratch\n{text}")).stage()
}

#[track_caller]
fn check_error(text: &str, expected: &[&str]) {
    case(&format!("FROM scratch\n{text}")).check_error(expected);
}

fn history(stage: &Stage) -> Vec<&str> {
    stage.steps.iter().filter_map(|step| step.history.created_by.as_deref()).collect()
}

fn runs(stage: &Stage) -> Vec<&Run> {
    stage
        .steps
        .iter()
        .filter_map(|step| match &step.operation {
            Operation::Run(run) => Some(run),
            Operation::Metadata | Operation::Directory { .. } | Operation::Copy(_) => None,
        })
        .collect()
}

fn copies(stage: &Stage) -> Vec<&Copy> {
    stage
        .steps
        .iter()
        .filter_map(|step| match &step.operation {
            Operation::Copy(copy) => Some(copy),
            Operation::Metadata | Operation::Directory { .. } | Operation::Run(_) => None,
        })
        .collect()
}

fn variable<'a>(run: &'a Run, name: &str) -> Option<&'a str> {
    run.environment.get(name).or(run.proxies.get(name)).map(String::as_str)
}

/// A stage with every instruction.
fn full_stage() -> Stage {
    scratch_stage(
        "ARG A=1\nENV B=$A C=\"x y\"\nLABEL l=$B\nWORKDIR /w\nUSER me\nCOPY --chown=1:2 --chmod=755 a b /d/\n\
         ADD x.tar .\nRUN echo hi\nRUN [\"/bin/x\", \"y\"]\nEXPOSE 80 443/tcp\nVOLUME /v /x\nSTOPSIGNAL SIGTERM\n\
         SHELL [\"/x\", \"-c\"]\nCMD [\"a\", \"b\"]\nENTRYPOINT e f\n\
         HEALTHCHECK --interval=5m CMD [\"/h\"]\nONBUILD RUN  x\nMAINTAINER me\nCOPY <<EOF /f\nhi\nEOF\n",
    )
}

#[test]
fn every_instruction_has_its_step_and_its_record() {
    let stage = full_stage();
    let shown: Vec<String> = stage
        .steps
        .iter()
        .map(|step| {
            let kind = match &step.operation {
                Operation::Metadata => "-",
                Operation::Directory { .. } => "directory",
                Operation::Copy(_) => "copy",
                Operation::Run(_) => "run",
            };
            assert_eq!(step.history.comment.as_deref(), Some("buildkit.dockerfile.v0"));
            assert_eq!(step.history.empty_layer, kind == "-");
            format!("{} {kind} {}", step.line, step.history.created_by.as_deref().unwrap_or_default())
        })
        .collect();
    assert_snapshot!(shown.join("\n"), @r#"
    2 - ARG A=1
    3 - ENV B=1 C=x y
    4 - LABEL l=1
    5 directory WORKDIR /w
    6 - USER me
    7 copy COPY --chown=1:2 --chmod=755 a b /d/ # buildkit
    8 copy ADD x.tar . # buildkit
    9 run RUN |1 A=1 /bin/sh -c echo hi # buildkit
    10 run RUN |1 A=1 /bin/x y # buildkit
    11 - EXPOSE [443/tcp 80/tcp]
    12 - VOLUME [/v /x]
    13 - STOPSIGNAL SIGTERM
    14 - SHELL [/x -c]
    15 - CMD ["a" "b"]
    16 - ENTRYPOINT ["/x" "-c" "e f"]
    17 - HEALTHCHECK {Test:[CMD /h] Interval:5m0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}
    19 - MAINTAINER me
    20 copy COPY <<EOF /f # buildkit
    "#);
}

#[test]
fn every_instruction_is_in_the_configuration() {
    assert_snapshot!(serde_json::to_string_pretty(&full_stage().config).unwrap(), @r#"
    {
      "author": "me",
      "architecture": "amd64",
      "os": "linux",
      "config": {
        "User": "me",
        "ExposedPorts": {
          "443/tcp": {},
          "80/tcp": {}
        },
        "Env": [
          "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
          "B=1",
          "C=x y"
        ],
        "Entrypoint": [
          "/x",
          "-c",
          "e f"
        ],
        "Cmd": [
          "a",
          "b"
        ],
        "Volumes": {
          "/v": {},
          "/x": {}
        },
        "WorkingDir": "/w",
        "Labels": {
          "l": "1"
        },
        "StopSignal": "SIGTERM",
        "Healthcheck": {
          "Test": [
            "CMD",
            "/h"
          ],
          "Interval": 300000000000
        },
        "OnBuild": [
          "RUN  x"
        ],
        "Shell": [
          "/x",
          "-c"
        ]
      },
      "rootfs": {
        "type": "layers",
        "diff_ids": []
      }
    }
    "#);
}

#[test]
fn v6_substitutions_of_one_instruction_see_what_was_before_it() {
    let stage = scratch_stage("ENV abc=hello\nENV abc=bye def=$abc\nENV ghi=$abc");
    assert_eq!(stage.config.config.env[1..], ["abc=bye", "def=hello", "ghi=bye"]);
    let stage = scratch_stage("ARG A=1 C=${A}2\nENV c=$C");
    assert_eq!(stage.config.config.env[1..], ["c=12"]);
}

#[test]
fn v5_words_of_expose_split_and_others_do_not() {
    let stage = scratch_stage("ENV P=\"80 81/udp\" D=\"/a b\"\nEXPOSE $P\nVOLUME $D");
    assert_eq!(stage.config.config.exposed_ports.keys().collect::<Vec<_>>(), ["80/tcp", "81/udp"]);
    assert_eq!(stage.config.config.volumes.keys().collect::<Vec<_>>(), ["/a b"]);
}

#[test]
fn f2_from_sees_global_arguments_only() {
    let needs = |text: &str| case(text).needs();
    assert_eq!(needs("ARG V=12\nARG I=debian:$V\nFROM $I"), ["debian:12 linux/amd64"]);
    assert_eq!(case("ARG V=12\nFROM debian:$V").build_arg("V", "13").needs(), ["debian:13 linux/amd64"]);
    assert_eq!(needs("FROM --platform=$BUILDPLATFORM a"), ["a linux/amd64"]);
    assert_eq!(needs("FROM --platform=linux/arm64/v8 a"), ["a linux/arm64"]);
    case("FROM scratch\nENV X=a\nFROM $X").check_error(&["3:6: base name ($X) should not be blank"]);
    case("FROM --platform=$NOPE a").check_error(&["1:6: empty platform value from expression $NOPE"]);
    let wrong = case("FROM Bad/IMAGE:x");
    wrong.check_error(&["1:6: invalid image reference \"Bad/IMAGE:x\": a repository is named in lower case"]);
    let hint = wrong.plan().unwrap_err().entries[0].hint.clone();
    assert_eq!(hint.as_deref(), Some("no earlier stage has this name"));
}

#[test]
fn f3_stages_are_found_without_regard_to_case() {
    let graph = case("FROM scratch AS Base\nENV A=1\nFROM BASE\nCOPY --from=bAse a b").graph();
    assert_eq!(graph.stages[1].base, Base::Stage(0));
    assert_eq!(copies(&graph.stages[1])[0].from, From::Stage(0));
}

#[test]
fn f4_from_resolves_numbers_then_stages_then_images() {
    let graph = case("FROM scratch AS a\nFROM scratch\nCOPY --from=0 a b\nCOPY --from=a a b\nCOPY --from=img:1 a b")
        .base("img:1", |_| {})
        .graph();
    let from: Vec<&From> = copies(&graph.stages[1]).into_iter().map(|copy| &copy.from).collect();
    let image = ImageName { reference: "img:1".into(), platform: "linux/amd64".into() };
    assert_eq!(from, [&From::Stage(0), &From::Stage(0), &From::Image(image)]);
    check_error("COPY --from=3 a b", &["2:6: invalid stage index 3"]);
    check_error("COPY --from=$X a b", &["2:6: variable expansion is not supported for --from"]);
    check_error("COPY --from=0 a b", &["2:6: circular dependency detected on stage: stage-0"]);
    check_error("COPY --from=scratch a b", &["2:6: nothing can be copied from `scratch`: it has no files"]);
    let message = "it needs to be defined before current stage \"a\"";
    case("FROM scratch AS a\nCOPY --from=b x y\nFROM scratch AS b\nFROM a")
        .check_error(&[&format!("2:6: cannot copy from stage \"b\", {message}")]);
}

#[test]
fn f5_only_what_the_target_reaches_is_planned() {
    let text = "FROM unused AS u\nRUN x\nFROM scratch AS a\nFROM scratch AS b\nCOPY --from=a x y\nFROM nobody\n";
    let graph = case(text).target("B").graph();
    let names: Vec<&str> = graph.stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!((names, graph.target), (vec!["a", "b"], 1));
    assert_eq!(case(text).target("1").graph().stages.len(), 1);
    assert_eq!(case(text).needs(), ["nobody linux/amd64"]);
    case("FROM scratch AS build")
        .target("biuld")
        .check_error(&["0:0: target stage \"biuld\" could not be found (did you mean build?)"]);
    case("FROM scratch").target("1").check_error(&["0:0: target stage \"1\" could not be found"]);
}

#[test]
fn f6_scratch_and_bases_have_a_path() {
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(scratch_stage("").config.config.env, [path]);
    assert_eq!(scratch_stage("").config.config.working_dir, "/");
    let kept = case("FROM a").base("a", |config| config.config.env = vec!["PATH=/x".into()]).stage();
    assert_eq!(kept.config.config.env, ["PATH=/x"]);
    assert_eq!(case("FROM a").base("a", |_| {}).stage().config.config.env, [path]);
}

#[test]
fn f7_a_later_stage_of_a_name_shadows_an_earlier_one() {
    let graph = case("FROM scratch AS a\nFROM scratch AS a\nENV X=1\nFROM a").graph();
    assert_eq!(graph.stages.len(), 2);
    assert!(graph.stages[1].config.config.env.contains(&"X=1".to_owned()));
}

#[test]
fn f8_platforms_are_passed_on_and_foreign_ones_do_not_run() {
    // BuildKit v0.34.2: nothing is for the platform of the result, whatever its FROM asks for.
    let stage = case("FROM --platform=$BUILDPLATFORM scratch\nCOPY a b").platform("linux/arm64/v8").stage();
    assert_eq!((stage.config.architecture.as_str(), stage.config.variant), ("arm64", None));
    let base =
        case("FROM --platform=$BUILDPLATFORM a\nRUN x\nFROM scratch\nCOPY --from=0 /b /").platform("linux/arm/v7");
    assert_eq!(base.needs(), ["a linux/amd64"]);
    case("FROM scratch\nRUN x").platform("linux/arm64").check_error(&[
        "2:1: RUN for linux/arm64 needs emulation, which is not supported: this machine is linux/amd64",
    ]);
    case("FROM scratch").platform("amd64").check_error(&["0:0: invalid platform \"amd64\""]);
}

#[test]
fn a1_a_global_argument_is_seen_in_a_stage_that_declares_it() {
    let env = |case: Case| case.stage().config.config.env[1..].to_vec();
    assert_eq!(env(case("ARG A=g\nFROM scratch\nENV x=$A")), ["x="]);
    assert_eq!(env(case("ARG A=g\nFROM scratch\nARG A\nENV x=$A")), ["x=g"]);
    assert_eq!(env(case("ARG A=g\nFROM scratch\nARG A=s\nENV x=$A")), ["x=s"]);
    assert_eq!(env(case("ARG A=g\nFROM scratch\nARG A=s\nENV x=$A").build_arg("A", "c")), ["x=c"]);
    assert_eq!(env(case("ARG A=1 B=${A}2\nFROM scratch\nARG B\nENV x=$B")), ["x=12"]);
}

#[test]
fn a2_arguments_reach_the_stages_built_on_theirs() {
    let stage =
        case("FROM scratch AS a\nARG A=1\nFROM a\nRUN x\nFROM scratch\nCOPY --from=1 a b\nRUN x").target("1").stage();
    assert_eq!(variable(runs(&stage)[0], "A"), Some("1"));
    let unset = scratch_stage("ARG A\nARG B=\nRUN x");
    assert_eq!((variable(runs(&unset)[0], "A"), variable(runs(&unset)[0], "B")), (None, Some("")));
}

#[test]
fn a3_an_undeclared_argument_is_not_seen() {
    let stage = case("FROM scratch\nRUN x").build_arg("A", "1").stage();
    assert_eq!(variable(runs(&stage)[0], "A"), None);
}

#[test]
fn a4_the_last_of_arg_and_env_wins_but_the_configuration_keeps_env() {
    let stage =
        case("FROM scratch\nENV A=env\nARG A=arg\nRUN x\nENV B=$A\nENV A=end\nRUN y").build_arg("A", "cli").stage();
    assert_eq!(variable(runs(&stage)[0], "A"), Some("cli"));
    assert_eq!(variable(runs(&stage)[1], "A"), Some("end"));
    assert_eq!(stage.config.config.env[1..], ["A=end", "B=cli"]);
}

#[test]
fn a5_proxies_are_seen_in_both_spellings_and_are_no_history() {
    let stage = case("FROM scratch\nRUN x\nENV http_proxy=own\nRUN y").build_arg("HTTP_PROXY", "p").stage();
    let runs = runs(&stage);
    assert_eq!((variable(runs[0], "http_proxy"), variable(runs[0], "HTTP_PROXY")), (Some("p"), Some("p")));
    assert_eq!(variable(runs[1], "http_proxy"), Some("own"));
    assert_eq!(history(&stage)[0], "RUN /bin/sh -c x # buildkit");
    let declared = case("FROM scratch\nARG HTTP_PROXY\nRUN x").build_arg("HTTP_PROXY", "p").stage();
    assert_eq!(history(&declared), ["ARG HTTP_PROXY=p", "RUN |1 HTTP_PROXY=p /bin/sh -c x # buildkit"]);
}

#[test]
fn a6_platform_arguments_need_a_declaration() {
    let text = "FROM scratch AS last\nARG TARGETARCH TARGETVARIANT BUILDPLATFORM TARGETSTAGE TARGETOS\n\
                LABEL a=$TARGETARCH-$TARGETVARIANT-$BUILDPLATFORM-$TARGETSTAGE-$TARGETOS b=$TARGETPLATFORM";
    let labels = case(text).platform("linux/arm/v7").stage().config.config.labels;
    assert_eq!(labels["a"], "arm-v7-linux/amd64-last-linux");
    assert_eq!(labels["b"], "");
}

#[test]
fn a7_arguments_that_steer_tools_are_no_variables() {
    let stage = case("FROM scratch\nARG BUILDKIT_SBOM_SCAN_STAGE=true SOURCE_DATE_EPOCH\nRUN x")
        .build_arg("SOURCE_DATE_EPOCH", "7")
        .stage();
    assert_eq!(variable(runs(&stage)[0], "BUILDKIT_SBOM_SCAN_STAGE"), None);
    assert_eq!(variable(runs(&stage)[0], "SOURCE_DATE_EPOCH"), Some("7"));
}

#[test]
fn a8_arguments_are_in_the_history_of_later_runs() {
    let stage = case("FROM scratch\nARG A=1\nARG B\nARG A=2\nRUN x").stage();
    assert_eq!(history(&stage)[3], "RUN |2 A=2 B= /bin/sh -c x # buildkit");
    let upon = case("FROM scratch AS a\nARG A=1\nFROM a\nENV A=2\nARG B=3\nRUN x").stage();
    assert_eq!(history(&upon)[2], "RUN |2 A=2 B=3 /bin/sh -c x # buildkit");
}

#[test]
fn c1_variables_are_inherited() {
    let stage = case("FROM a AS s\nENV B=2\nFROM s\nENV A=3")
        .base("a", |config| config.config.env = vec!["PATH=/".into(), "A=1".into()])
        .stage();
    assert_eq!(stage.config.config.env, ["PATH=/", "A=3", "B=2"]);
}

#[test]
fn c2_labels_of_the_command_line_win() {
    let mut case = case("FROM scratch AS a\nLABEL x=1\nFROM a\nLABEL $K=v \"q r\"='s t'");
    case.options.labels = BTreeMap::from([("x".into(), "cli".into())]);
    case.check_error(&["4:7: names can not be blank"]);
    case.dockerfile = case.dockerfile.replace("$K", "k");
    let graph = case.graph();
    assert_eq!(
        graph.stages[1].config.config.labels,
        BTreeMap::from(
            [("k", "v"), ("q r", "s t"), ("x", "cli")].map(|(name, value)| (name.to_owned(), value.to_owned())),
        )
    );
    assert_eq!(graph.stages[0].config.config.labels["x"], "1");
}

#[test]
fn c3_a_port_that_is_none_is_refused() {
    check_error("EXPOSE 99999", &["2:1: invalid containerPort: 99999"]);
}

#[test]
fn c5_workdir_is_joined_and_owned_by_the_user() {
    let stage = scratch_stage("WORKDIR a\nUSER 12:34\nWORKDIR b/\nWORKDIR /q/../r/\nWORKDIR /");
    let directories: Vec<&Operation> = stage.steps.iter().map(|step| &step.operation).collect();
    let directory = |path: &str, user: &str| Operation::Directory { path: path.into(), user: user.into() };
    assert_eq!(directories[0], &directory("/a", ""));
    assert_eq!(directories[2], &directory("/a/b", "12:34"));
    assert_eq!(directories[3], &directory("/q/../r/", "12:34"));
    assert_eq!(directories[4], &Operation::Metadata);
    assert_eq!(stage.config.config.working_dir, "/");
}

#[test]
fn c6_an_empty_volume_is_refused() {
    check_error("VOLUME $none", &["2:1: VOLUME specified can not be an empty string"]);
}

#[test]
fn c7_shell_is_used_by_what_follows_and_inherited() {
    let stage = case("FROM scratch AS a\nSHELL [\"/b\", \"-c\"]\nFROM a\nRUN x\nCMD y").stage();
    assert_eq!(runs(&stage)[0].arguments, ["/b", "-c", "x"]);
    assert_eq!(stage.config.config.cmd.as_deref().unwrap(), ["/b", "-c", "y"]);
    check_error("STOPSIGNAL NOPE", &["2:1: invalid signal: NOPE"]);
}

#[test]
fn c8_entrypoint_resets_an_inherited_cmd_only() {
    let with_cmd = |text: &str| {
        let base = |config: &mut ImageConfig| config.config.cmd = Some(vec!["base".into()]);
        case(&format!("FROM a\n{text}")).base("a", base).stage().config.config
    };
    assert_eq!(with_cmd("ENTRYPOINT [\"e\"]").cmd, None);
    assert_eq!(with_cmd("CMD [\"c\"]\nENTRYPOINT [\"e\"]").cmd, Some(vec!["c".into()]));
    assert_eq!(with_cmd("ENTRYPOINT [\"e\"]\nCMD [\"c\"]").cmd, Some(vec!["c".into()]));
    assert_eq!(with_cmd("USER x").cmd, Some(vec!["base".into()]));
    assert!(!with_cmd("CMD x").extra.contains_key("ArgsEscaped"));
}

#[test]
fn c10_triggers_run_right_after_from_and_are_gone() {
    let stage = case("FROM a\nENV B=2")
        .base("a", |config| config.config.on_build = vec!["ENV A=1".into(), "RUN  echo  hi".into()])
        .stage();
    assert_eq!(history(&stage), ["ENV A=1", "RUN /bin/sh -c echo  hi # buildkit", "ENV B=2"]);
    assert_eq!(stage.steps.iter().map(|step| step.line).collect::<Vec<_>>(), [1, 1, 2]);
    assert!(stage.config.config.on_build.is_empty());
    let local = case("FROM scratch AS a\nONBUILD COPY <<EOF /x\nhi\nEOF\nFROM a\nFROM 1x").target("1").graph();
    assert_eq!(local.stages[0].config.config.on_build, ["COPY <<EOF /x\nhi\nEOF"]);
    assert_eq!(history(&local.stages[0]), Vec::<String>::new());
    assert_eq!(history(&local.stages[1]), ["COPY <<EOF /x # buildkit"]);
    assert_eq!(local.stages[1].steps[0].line, 5);
}

#[test]
fn c10_triggers_may_need_more_stages_and_images() {
    let text = "FROM scratch AS files\nFROM a\n";
    let trigger = |config: &mut ImageConfig| {
        config.config.on_build = vec!["COPY --from=files x y".into(), "COPY --from=b x y".into()];
    };
    assert_eq!(case(text).needs(), ["a linux/amd64"]);
    let known = case(text).base("a", trigger);
    assert_eq!(known.needs(), ["b linux/amd64"]);
    assert_eq!(known.base("b", |_| {}).graph().stages.len(), 2);
}

#[test]
fn c10_a_wrong_trigger_is_named_at_its_from() {
    let wrong = |trigger: &str, expected: &str| {
        let trigger = trigger.to_owned();
        case("FROM a").base("a", |config| config.config.on_build = vec![trigger]).check_error(&[expected]);
    };
    wrong("RUNN x", "1:1: ONBUILD trigger \"RUNN x\" of the base: unknown instruction: RUNN (did you mean RUN?)");
    wrong("EXPOSE x", "1:1: ONBUILD trigger \"EXPOSE x\" of the base: invalid containerPort: x");
    wrong("COPY --from=9 a b", "1:1: ONBUILD trigger \"COPY --from=9 a b\" of the base: invalid stage index 9");
}

#[test]
fn c10_a_trigger_is_a_step_at_its_from() {
    let stage =
        case("# a comment\nFROM a\n").base("a", |config| config.config.on_build = vec!["copy x y".into()]).stage();
    let step = &stage.steps[0];
    assert_eq!((step.line, step.text.as_str()), (2, "ONBUILD COPY x y"));
    assert_eq!(history(&stage), ["COPY x y # buildkit"]);
}

#[test]
fn c8_a_shell_without_words_is_started_all_the_same() {
    let config = scratch_stage("CMD\nENTRYPOINT").config.config;
    let shell = Some(vec!["/bin/sh".to_owned(), "-c".to_owned(), String::new()]);
    assert_eq!((config.cmd, config.entrypoint), (shell.clone(), shell));
    let config = scratch_stage("CMD []\nENTRYPOINT []").config.config;
    assert_eq!((config.cmd, config.entrypoint), (None, None));
}

#[test]
fn c3_the_history_has_ports_in_the_order_of_their_words() {
    let stage = scratch_stage("EXPOSE [::1]:1:2 127.0.0.1:8080:80 9000:90");
    assert_eq!(history(&stage), ["EXPOSE [80/tcp 90/tcp 2/tcp]"]);
}

#[test]
fn f8_an_image_is_of_the_platform_that_was_asked_for() {
    let built = |asked: bool| {
        let mut case = case("FROM a").platform("linux/arm64").base("a", |_| {});
        case.options.platform_asked = asked;
        case.stage().config.architecture
    };
    assert_eq!((built(false).as_str(), built(true).as_str()), ("amd64", "arm64"));
}

#[test]
fn f8_scratch_is_of_the_results_platform() {
    let stage = case("FROM --platform=linux/arm64 scratch").stage();
    assert_eq!(stage.config.architecture, "amd64");
}

#[test]
fn c12_the_bases_history_and_layers_stay_and_extra_fields_too() {
    let stage = case("FROM a\nCMD x")
        .base("a", |config| {
            config.created = Some("2020-01-01T00:00:00Z".into());
            config.config.extra.insert("ArgsEscaped".into(), true.into());
        })
        .stage();
    assert_eq!(stage.config.created.as_deref(), Some("2020-01-01T00:00:00Z"));
    assert!(stage.config.config.extra.contains_key("ArgsEscaped"));
}

#[test]
fn h3_heredocs_are_copied_after_the_files() {
    let stage = scratch_stage("COPY <<a b <<c d /x/\na\nc");
    assert_eq!(history(&stage), ["COPY b d <<a <<c /x/ # buildkit"]);
}

#[test]
fn h3_bodies_of_copy_are_expanded_unless_quoted() {
    let body = |text: &str| {
        let stage = scratch_stage(text);
        match &copies(&stage)[0].sources[0] {
            Source::Inline { content, .. } => String::from_utf8(content.to_vec()).unwrap(),
            Source::Path(text) | Source::Remote { text, .. } => panic!("{text}"),
        }
    };
    assert_eq!(body("ENV V=val\nCOPY <<E /x\n$V \"q\" \\$V \\\\ \\x\nE"), "val \"q\" $V \\ x\n");
    assert_eq!(body("ENV V=val\nCOPY <<'E' /x\n$V \\$V\nE"), "$V \\$V\n");
    assert_eq!(body("COPY <<-E /x\n\t\ta\n\tE"), "a\n");
}

#[test]
fn h4_a_sole_heredoc_is_a_script_or_the_shells_text() {
    let stage = scratch_stage("RUN <<EOF\nset -e\n$x\nEOF\nRUN <<S\n#!/usr/bin/env python\nprint()\nS");
    let [shell, script] = runs(&stage)[..] else { panic!() };
    assert_eq!(shell.arguments, ["/bin/sh", "-c", "set -e\n$x\n"]);
    assert_eq!(stage.steps[0].text, "RUN <<EOF (set -e…)");
    assert_eq!(script.arguments, ["/dev/pipes/S"]);
    let (name, content) = script.script.as_ref().unwrap();
    assert_eq!((name.as_str(), &content[..]), ("S", b"#!/usr/bin/env python\nprint()\n".as_slice()));
    assert_eq!(history(&stage)[1], "RUN /bin/sh -c /dev/pipes/S # buildkit");
}

#[test]
fn h5_other_heredocs_are_the_shells_business() {
    let stage = scratch_stage("RUN cat <<-A > /x && 3<<B cat\n\ta\n\tA\nb\nB");
    assert_eq!(runs(&stage)[0].arguments[2], "cat <<-A > /x && 3<<B cat\n\ta\nA\nb\nB");
}

#[test]
fn r1_the_exec_form_and_the_text_of_run_are_not_expanded() {
    let stage = scratch_stage("ENV A=1\nRUN echo $A ${A:?}\nRUN [\"echo\", \"$A\"]\nCMD echo $A");
    assert_eq!(runs(&stage)[0].arguments, ["/bin/sh", "-c", "echo $A ${A:?}"]);
    assert_eq!(runs(&stage)[1].arguments, ["echo", "$A"]);
    assert_eq!(stage.config.config.cmd.as_deref().unwrap()[2], "echo $A");
}

#[test]
fn r1_what_the_kernel_would_refuse_is_refused_here() {
    let message = "an argument of this command has 200000 bytes, more than the 131071 that Linux takes";
    check_error(&format!("RUN <<E\n{}E", "xxxx\n".repeat(40_000)), &[&format!("2:1: {message}")]);
    let message = "the variable A with its name has 140002 bytes, more than the 131071 that Linux takes";
    let text = format!("ENV A={}\nENV A=$A$A$A$A\nRUN x", "x".repeat(35_000));
    check_error(&text, &[&format!("4:1: {message}")]);
}

#[test]
fn a_plan_does_not_outgrow_the_memory() {
    let text = format!("ENV A={0} B={0}\n{1}", "x".repeat(30_000), "RUN x\n".repeat(9_000));
    let diagnostics = case(&format!("FROM scratch\n{text}")).plan().unwrap_err();
    assert!(diagnostics.entries[0].message.ends_with("bytes to expand"));
}

#[test]
fn r8_networks_and_privileges() {
    let stage = scratch_stage("RUN --network=none --security=sandbox x\nRUN --network=default x");
    assert_eq!(runs(&stage).iter().map(|run| run.network_none).collect::<Vec<_>>(), [true, false]);
    check_error("RUN --network=host x", &["2:5: RUN --network=host is not allowed"]);
    check_error("RUN --network=nome x", &["2:5: invalid network mode \"nome\" (did you mean none?)"]);
    let insecure = "2:5: RUN --security=insecure is not allowed: steps run without privileges";
    check_error("RUN --security=insecure x", &[insecure]);
    check_error("RUN --device=gpu x", &["2:5: RUN --device is not supported by this version"]);
}

#[test]
fn k3_several_sources_need_a_directory() {
    check_error(
        "COPY a b /c",
        &["2:10: with more than one source, the destination of COPY must be a directory and end with /: \"/c\""],
    );
    for text in ["COPY a b /c/", "COPY a b .", "COPY a b ./", "COPY a /c"] {
        assert_eq!(copies(&scratch_stage(text)).len(), 1, "{text}");
    }
}

#[test]
fn k10_a_wrong_mode_is_refused() {
    check_error(
        "COPY --chmod=999 a b",
        &["2:6: invalid chmod parameter: '999'. it should be octal string and between 0 and 07777, or symbolic"],
    );
}

#[test]
fn k14_add_unpacks_unless_told_not_to() {
    let stage = scratch_stage("ADD a b\nADD --unpack=false a b\nADD --unpack a b\nCOPY a b");
    assert_eq!(copies(&stage).iter().map(|copy| copy.unpack).collect::<Vec<_>>(), [true, false, true, false]);
}

#[test]
fn k15_add_takes_urls_and_repositories_and_copy_does_not() {
    check_error("COPY https://x/y /z", &["2:6: source can't be a URL for COPY"]);
    check_error("COPY git@host:x.git /z", &["2:6: source can't be a git ref for COPY"]);
    check_error("COPY https://x/y.git /z", &["2:6: source can't be a git ref for COPY"]);
    check_error("ADD ftp://x/y /z", &["2:5: ADD of a URL that is neither https:// nor http:// is not supported"]);
    let git = "2:5: ADD of a Git repository over ssh:// or git:// is not supported";
    check_error("ADD git@host:x.git /z", &[git]);
    check_error("ADD ssh://git@host/x.git /z", &[git]);
    check_error("ADD https://x/y.git?depth=1 /z", &["2:5: unexpected query \"depth\""]);
    let stage = scratch_stage("ARG H=https://x\nADD --keep-git-dir --unpack a $H/b?c=d $H/e.git#v1:sub /z/");
    let copy = copies(&stage)[0];
    let mut repository = remote::repository("https://x/e.git#v1:sub").unwrap();
    repository.keep_git_directory = true;
    let remote = |text: &str, remote| Source::Remote { text: text.into(), remote };
    assert_eq!(
        copy.sources,
        [
            Source::Path("a".into()),
            remote("https://x/b?c=d", Remote::Url(remote::file("https://x/b?c=d", None).unwrap())),
            remote("https://x/e.git#v1:sub", Remote::Git(repository)),
        ]
    );
    assert_eq!((copy.unpack, copy.unpack_remote), (true, true));
    assert_eq!(history(&stage)[1], "ADD a https://x/b?c=d https://x/e.git#v1:sub /z/ # buildkit");
    let stage = scratch_stage("ADD https://x/b /");
    assert_eq!((copies(&stage)[0].unpack, copies(&stage)[0].unpack_remote), (true, false));
}

#[test]
fn k15_a_checksum_is_for_one_source_from_elsewhere() {
    let zeros = "0".repeat(64);
    let stage = scratch_stage(&format!("ARG S={zeros}\nADD --checksum=sha256:$S https://x/y /z"));
    let checksum = format!("sha256:{zeros}").parse().unwrap();
    let Source::Remote { remote, .. } = &copies(&stage)[0].sources[0] else { panic!("{stage:?}") };
    assert_eq!(*remote, Remote::Url(remote::file("https://x/y", Some(checksum)).unwrap()));
    let flag = format!("ADD --checksum=sha256:{zeros}");
    check_error(&format!("{flag} a /z"), &["2:5: checksum requires HTTP(S) or Git sources"]);
    check_error(
        &format!("{flag} https://x/a https://x/b /z/"),
        &["2:5: checksum can't be specified for multiple sources"],
    );
    let invalid = "is not a checksum such as sha256:e3b0c442… (sha256, sha384 or sha512, and all digits in lower case)";
    check_error("ADD --checksum=abc https://x/a /z", &[&format!("2:5: `abc` {invalid}")]);
    check_error(
        "ADD --checksum=xyz https://x/a.git /z",
        &["2:5: invalid checksum \"xyz\" for a Git source, expected the digits of a commit"],
    );
    check_error("ADD --checksum=abc https://x/a.git?commit=def /z", &["2:5: checksum mismatch \"abc\" != \"def\""]);
}

#[test]
fn copies_carry_their_flags_expanded() {
    let stage = scratch_stage(
        "ENV U=1:2 D=/dest/\nWORKDIR /w\nCOPY --chown=$U --chmod=u=rwX --link --parents --exclude=*.o \"a$U\" $D",
    );
    let copy = copies(&stage)[0];
    assert_eq!(copy.sources, [Source::Path("a1:2".into())]);
    assert_eq!((copy.destination.as_str(), copy.working_directory.as_str()), ("/dest/", "/w"));
    assert_eq!((copy.chown.as_deref(), copy.chmod.as_deref()), (Some("1:2"), Some("u=rwX")));
    assert_eq!(copy.exclude, ["*.o"]);
    assert!(copy.link && copy.parents && !copy.unpack);
}

#[test]
fn references_of_every_form_are_taken() {
    for reference in [
        "debian",
        "debian:12-slim",
        "localhost:5000/a/b:c",
        "10.0.0.1:5000/a@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "a/b:1@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "registry.some-namespace.svc:5000/x__y/z",
        "oci-layout:/some/where",
    ] {
        assert_eq!(case(&format!("FROM {reference}")).needs(), [format!("{reference} linux/amd64")]);
    }
}

#[test]
fn mistakes_of_all_stages_are_told_at_once() {
    let text = "FROM scratch AS a\nEXPOSE x\nFROM a\nVOLUME $E\nENV A=\"${B:?needed}\"\n";
    let diagnostics = case(text).plan().unwrap_err();
    assert_snapshot!(diagnostics.render("Dockerfile"), @r#"
    Dockerfile:2:1: invalid containerPort: x
     2 | EXPOSE x
       | ^^^^^^
    Dockerfile:4:1: VOLUME specified can not be an empty string
     4 | VOLUME $E
       | ^^^^^^
    Dockerfile:5:7: failed to process "\"${B:?needed}\"": B: needed
     5 | ENV A="${B:?needed}"
       |       ^^^^^^^^^^^^^^
    "#);
}

#[test]
fn images_are_asked_for_all_at_once() {
    let text = "FROM a:1 AS x\nFROM oci-layout:/p:t\nCOPY --from=x a b\nCOPY --from=c a b\n";
    assert_eq!(case(text).needs(), ["a:1 linux/amd64", "c linux/amd64", "oci-layout:/p:t linux/amd64"]);
}

proptest! {
    #[test]
    fn planning_never_panics(
        lines in proptest::collection::vec(
            proptest::sample::select(vec![
                "FROM scratch", "FROM scratch AS a", "FROM a", "FROM b AS c", "ARG X=1", "ENV X=$X$X$X y=${X%1*}",
                "COPY --from=a x y", "COPY --from=0 x y", "COPY --from=b x y", "COPY . .", "RUN x", "WORKDIR $X",
                "ONBUILD COPY --from=0 a b", "ONBUILD ENV Z=1", "EXPOSE $X", "CMD a", "ENTRYPOINT b", "LABEL $X=1",
            ]),
            0..20,
        ),
    ) {
        let text = format!("FROM scratch\n{}", lines.join("\n"));
        let case = case(&text).base("b", |config| config.config.on_build = vec!["COPY --from=a x y".into()]);
        if let Ok(Planned::Graph(graph)) = case.plan() {
            prop_assert!(graph.target < graph.stages.len());
            for (index, stage) in graph.stages.iter().enumerate() {
                prop_assert!(!matches!(stage.base, Base::Stage(base) if base >= index));
                for copy in copies(stage) {
                    prop_assert!(!matches!(copy.from, From::Stage(from) if from >= index));
                }
            }
        }
    }
}

mod contexts;

#[test]
fn what_the_history_repeats_is_bounded() {
    let large = "x".repeat(1 << 20);
    let arguments = case(&format!("FROM scratch\n{}", "ARG B\n".repeat(200))).build_arg("B", &large);
    let ports = case(&format!("FROM scratch\n{}", "EXPOSE 1-65535 1-65535/udp\n".repeat(200)));
    let paths = case(&format!("FROM scratch\n{}", format!("WORKDIR {}\n", "y".repeat(1_000)).repeat(2_000)));
    for case in [arguments, ports, paths] {
        let message = case.plan().unwrap_err().to_string();
        assert!(message.contains("take more than"), "{message}");
    }
}

#[test]
fn f6_a_stage_may_be_called_scratch() {
    let graph = case("FROM scratch AS scratch\nENV a=b\nFROM scratch\n").graph();
    assert_eq!(graph.stages[graph.target].config.config.env.last().map(String::as_str), Some("a=b"));
}

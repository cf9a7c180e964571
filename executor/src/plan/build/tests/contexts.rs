//! Named contexts: what they replace, and what they do not.

use super::*;
use crate::plan::contexts::NamedContext;

impl Case {
    fn context(mut self, name: &str, context: NamedContext) -> Self {
        self.options.contexts.insert(name, context).unwrap();
        self
    }

    fn image(self, name: &str, reference: &str) -> Self {
        self.context(name, NamedContext::Image(reference.into()))
    }

    fn files(self, name: &str) -> Self {
        self.context(name, NamedContext::Files(1))
    }
}

fn image(reference: &str) -> ImageName {
    ImageName { reference: reference.into(), platform: "linux/amd64".into() }
}

#[test]
fn f7_a_named_image_replaces_an_image_of_that_name() {
    let wanted = case("FROM alpine:3\nCOPY --from=docker.io/library/tools /a /").image("alpine:3", "mirror.example/a");
    assert_eq!(
        wanted.image("tools", "oci-layout:/t:1").needs(),
        ["mirror.example/a linux/amd64", "oci-layout:/t:1 linux/amd64"]
    );
    assert_eq!(case("FROM alpine").image("alpine:3", "x").needs(), ["alpine linux/amd64"]);
}

#[test]
fn f7_the_entry_for_the_platform_wins() {
    let both = |platform: &str| {
        let case = case(&format!("FROM --platform={platform} a")).image("a", "any").image("a::linux/arm64", "arm");
        case.needs()
    };
    assert_eq!(both("linux/arm64/v8"), ["arm linux/arm64"]);
    assert_eq!(both("linux/s390x"), ["any linux/s390x"]);
}

#[test]
fn f7_a_named_image_replaces_a_stage_with_all_that_it_needs() {
    let text = "FROM golang AS build\nRUN make\nCOPY --from=other /x /\nFROM build\nENV A=1\nCOPY --from=build /b /";
    let replaced = case(text).image("build", "built:1");
    assert_eq!(replaced.needs(), ["built:1 linux/amd64"]);
    let replaced = replaced.base("built:1", |config| {
        config.config.env = vec!["FROM=image".into()];
        config.config.on_build = vec!["COPY a b".into()];
    });
    let graph = replaced.graph();
    assert_eq!((graph.stages.len(), &graph.stages[0].base), (2, &Base::Image(image("built:1"))));
    assert_eq!(graph.stages[0].steps, []);
    let last = &graph.stages[1];
    assert_eq!(last.config.config.env[0], "FROM=image");
    // The triggers of the image run where a stage starts from it, and are gone then.
    assert_eq!((last.steps[0].line, last.steps[0].text.as_str()), (4, "ONBUILD COPY a b"));
    assert_eq!(copies(last).iter().map(|copy| copy.from.clone()).collect::<Vec<_>>(), [From::Context, From::Stage(0)]);
    assert!(last.config.config.on_build.is_empty());
    let target = case(text).image("build", "built:1").base("built:1", |_| ()).target("build").stage();
    assert_eq!((target.base, target.steps.len()), (Base::Image(image("built:1")), 0));
}

#[test]
fn f7_named_files_replace_what_from_flags_name() {
    let text = "FROM golang AS assets\nRUN make\nFROM scratch\n\
                COPY --from=assets /a /\nCOPY --from=0 /a /\nCOPY --from=docker.io/library/assets:latest /a /";
    let stage = case(text).files("assets").stage();
    assert!(copies(&stage).iter().all(|copy| copy.from == From::Named(1)), "{stage:?}");
    assert_eq!(case(text).files("assets").graph().stages.len(), 1);
}

#[test]
fn f7_files_are_no_base() {
    let message = "the named context `a` holds files: a stage starts from an image or from another stage";
    case("FROM a").files("a").check_error(&[&format!("1:6: {message}")]);
    case("FROM x AS a\nFROM a").files("a").check_error(&[&format!("2:6: {message}")]);
    case("FROM x AS a").files("a").check_error(&[&format!("1:6: {message}")]);
}

#[test]
fn f7_a_named_context_may_be_nothing() {
    let graph = case("FROM debian AS build\nRUN x\nFROM build\nCOPY a b").image("build", "scratch").graph();
    assert_eq!(graph.stages[0].base, Base::Scratch);
    assert_eq!(case("FROM debian").image("debian", "scratch").stage().base, Base::Scratch);
}

#[test]
fn f7_the_order_is_index_then_stage_then_context_then_image() {
    let text = "FROM scratch AS a\nFROM scratch\nCOPY --from=a /x /\nCOPY --from=0 /x /\nCOPY --from=b /x /";
    let stage = case(text).files("b").stage();
    let from: Vec<From> = copies(&stage).iter().map(|copy| copy.from.clone()).collect();
    assert_eq!(from, [From::Stage(0), From::Stage(0), From::Named(1)]);
}

#[test]
fn f8_images_behind_from_flags_are_for_the_platform_of_the_result() {
    // BuildKit v0.34.2, whatever the platform of the stage is.
    let case = case("FROM --platform=linux/amd64 a\nCOPY --from=b /x /").platform("linux/arm64");
    assert_eq!(case.needs(), ["a linux/amd64", "b linux/arm64"]);
}

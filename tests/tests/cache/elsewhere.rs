//! What ADD fetches: a server that still has what it had is asked, and not made to send it again.

use std::sync::{Arc, Mutex};

use karve_tests::web_server::{Answer, WebServer};

use crate::scene::Scene;

/// A web server with one file, and a project that adds it.
struct Site {
    /// The content, and its `ETag` if it has one.
    file: Arc<Mutex<(&'static str, Option<&'static str>)>>,
    server: WebServer,
    scene: Scene,
}

impl Site {
    fn new(content: &'static str, etag: Option<&'static str>) -> Self {
        let file = Arc::new(Mutex::new((content, etag)));
        let answered = Arc::clone(&file);
        let server = WebServer::start(move |_| {
            let (content, etag) = *answered.lock().unwrap();
            let answer = Answer::file(content);
            etag.iter().fold(answer, |answer, etag| answer.field("ETag", etag))
        });
        let scene = Scene::on_busybox(&format!("ADD {} /added\nRUN cat /added > /made\n", server.url("/file")), &[]);
        Self { file, server, scene }
    }

    /// Builds, compares with a build without a cache, and returns how many steps missed, and what the first of the two
    /// builds asked for.
    #[track_caller]
    fn check(&self) -> (usize, Vec<String>) {
        let seen = self.server.requests().len();
        let ended = self.scene.build();
        let methods = self.server.requests().split_off(seen).into_iter().map(|request| request.method).collect();
        self.scene.compare(&ended, &self.scene.build_with(crate::scene::CLEAN));
        (ended.misses().len(), methods)
    }

    fn put(&self, content: &'static str, etag: Option<&'static str>) {
        *self.file.lock().unwrap() = (content, etag);
    }
}

fn methods(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_file_that_its_server_still_has_is_not_fetched_again() {
    let site = Site::new("one", Some("\"1\""));
    assert_eq!(site.check(), (2, methods(&["GET"])));
    // Nothing has to be made of it, so nobody needs its bytes, but those who write the layout: they are in the cache.
    assert_eq!(site.check(), (0, methods(&["HEAD"])));
}

#[test]
fn what_another_cache_knows_of_a_file_is_copied_to_the_own_one() {
    let mut site = Site::new("one", Some("\"1\""));
    let from = format!("oci:{}", site.scene.path("from").display());
    site.scene.build_with(&[&format!("--cache-repo={from}")]);
    site.scene.flags.push(format!("--cache-from={from}"));
    assert_eq!(site.check(), (0, methods(&["HEAD"])));
    site.scene.flags.pop();
    assert_eq!(site.check(), (0, methods(&["HEAD"])));
}

#[test]
fn a_file_that_changed_misses() {
    let site = Site::new("one", Some("\"1\""));
    site.check();
    site.put("two", Some("\"2\""));
    assert_eq!(site.check(), (2, methods(&["HEAD", "GET"])));
    site.put("one", Some("\"1\""));
    // The cache remembers what the URL had the last time, and the steps of both.
    assert_eq!(site.check(), (0, methods(&["HEAD", "GET"])));
}

#[test]
fn a_file_whose_server_names_nothing_is_fetched_to_be_compared() {
    for etag in [None, Some("W/\"1\"")] {
        let site = Site::new("one", etag);
        site.check();
        assert_eq!(site.check(), (0, methods(&["GET"])));
        site.put("two", etag);
        assert_eq!(site.check(), (2, methods(&["GET"])));
    }
}

#[test]
fn a_file_that_changes_between_question_and_fetch_is_not_taken_for_the_old_one() {
    let site = Site::new("one", Some("\"1\""));
    site.check();
    // It says that it has the old one, and sends another.
    site.put("two", Some("\"1\""));
    site.scene.edit("/added\nRUN", "/elsewhere\nRUN");
    site.scene.edit("cat /added", "cat /elsewhere");
    let ended = site.scene.start(&[&site.scene.cache_flag()]).end();
    assert!(!ended.status.success(), "{}", ended.stderr);
    assert!(ended.stderr.contains("/file"), "{}", ended.stderr);
}

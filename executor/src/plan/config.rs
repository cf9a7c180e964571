//! Instructions that change the configuration only: expanded operands come in, the configuration and the text for the
//! history come out.

use std::collections::BTreeMap;

use karve_dockerfile::{ast::Healthcheck, expand::Budget};

use super::{golang, port, signal, stage::State};
use crate::image::config::{self, Empty, ImageConfig};

/// `PATH` where an image has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How many ports one EXPOSE may name: all of every protocol.
const PORTS_MAX: usize = 3 * 65_536;

/// About what a port takes in memory.
const PORT_BYTES: usize = 64;

/// SHELL where an image has none.
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// Sets a variable of the configuration: in place, or at the end.
pub(super) fn set_env(config: &mut ImageConfig, name: &str, value: &str) {
    let entry = format!("{name}={value}");
    let same =
        |known: &&mut String| known.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('='));
    match config.config.env.iter_mut().find(same) {
        Some(known) => *known = entry,
        None => config.config.env.push(entry),
    }
}

/// Sets many variables, in the order given. With as many as there may be, each must not be looked for among all.
fn set_many(config: &mut ImageConfig, pairs: &[(String, String)]) {
    let name = |entry: &String| entry.split_once('=').map_or(entry.as_str(), |(name, _)| name).to_owned();
    let known = config.config.env.iter().map(name);
    let mut positions: BTreeMap<String, usize> = known.enumerate().map(|(position, name)| (name, position)).collect();
    let env = &mut config.config.env;
    for (name, value) in pairs {
        let entry = format!("{name}={value}");
        if let Some(known) = positions.get(name).and_then(|position| env.get_mut(*position)) {
            *known = entry;
        } else {
            positions.insert(name.clone(), env.len());
            env.push(entry);
        }
    }
}

/// Makes sure that there is a `PATH`.
pub(super) fn default_path(config: &mut ImageConfig) {
    if !config.config.env.iter().any(|entry| entry.starts_with("PATH=")) {
        set_env(config, "PATH", DEFAULT_PATH);
    }
}

/// Returns SHELL, or its default.
pub(super) fn shell(config: &ImageConfig) -> Vec<String> {
    let default = || DEFAULT_SHELL.map(str::to_owned).to_vec();
    config.config.shell.clone().filter(|shell| !shell.is_empty()).unwrap_or_else(default)
}

/// Returns the working directory, absolute.
pub(super) fn working_directory(config: &ImageConfig) -> String {
    join("/", &config.config.working_dir)
}

/// Returns `path` itself if it is absolute, else the normal form of `path` below `base`.
pub(super) fn join(base: &str, path: &str) -> String {
    if path.starts_with('/') {
        return path.to_owned();
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

impl State {
    /// ENV.
    pub(super) fn env(&mut self, pairs: Vec<(String, String)>) -> String {
        let mut text = "ENV".to_owned();
        if let [(name, value)] = pairs.as_slice() {
            set_env(&mut self.config, name, value);
        } else {
            set_many(&mut self.config, &pairs);
        }
        for (name, value) in pairs {
            push_pair(&mut text, &name, &value);
            self.environment.insert(name, value);
        }
        text
    }

    /// LABEL.
    pub(super) fn label(&mut self, pairs: Vec<(String, String)>) -> String {
        let mut text = "LABEL".to_owned();
        for (name, value) in pairs {
            push_pair(&mut text, &name, &value);
            self.config.config.labels.insert(name, value);
        }
        text
    }

    /// EXPOSE. A few words may be many ports, and many instructions may repeat them: they count against the budget.
    pub(super) fn expose(&mut self, words: &[String], budget: &Budget) -> Result<String, String> {
        // The words are sorted, not what they mean: the history of BuildKit has it so.
        let mut words: Vec<&String> = words.iter().collect();
        words.sort();
        let mut ports = Vec::new();
        for word in words {
            budget.keep(0)?;
            let more = port::parse(word)?;
            budget.keep(more.len() * PORT_BYTES)?;
            ports.extend(more);
            if ports.len() > PORTS_MAX {
                return Err(format!("more than {PORTS_MAX} ports"));
            }
        }
        let text = format!("EXPOSE {}", golang::list(&ports));
        self.config.config.exposed_ports.extend(ports.into_iter().map(|port| (port, Empty {})));
        Ok(text)
    }

    /// VOLUME.
    pub(super) fn volume(&mut self, paths: Vec<String>) -> Result<String, String> {
        if paths.iter().any(|path| path.trim().is_empty()) {
            return Err("VOLUME specified can not be an empty string".into());
        }
        let text = format!("VOLUME {}", golang::list(&paths));
        self.config.config.volumes.extend(paths.into_iter().map(|path| (path, Empty {})));
        Ok(text)
    }

    /// USER.
    pub(super) fn user(&mut self, user: String) -> String {
        let text = format!("USER {user}");
        self.config.config.user = user;
        text
    }

    /// STOPSIGNAL.
    pub(super) fn stop_signal(&mut self, name: String) -> Result<String, String> {
        if !signal::is_signal(&name) {
            return Err(format!("invalid signal: {name}"));
        }
        let text = format!("STOPSIGNAL {name}");
        self.config.config.stop_signal = name;
        Ok(text)
    }

    /// SHELL.
    pub(super) fn shell(&mut self, shell: &[String]) -> String {
        self.config.config.shell = Some(shell.to_vec());
        format!("SHELL {}", golang::list(shell))
    }

    /// CMD.
    pub(super) fn cmd(&mut self, arguments: Vec<String>) -> String {
        let text = format!("CMD {}", golang::quote_all(&arguments));
        self.config.config.cmd = Some(arguments).filter(|arguments| !arguments.is_empty());
        self.command_set = true;
        text
    }

    /// ENTRYPOINT: a CMD that was inherited was meant for another program.
    pub(super) fn entrypoint(&mut self, arguments: Vec<String>) -> String {
        let text = format!("ENTRYPOINT {}", golang::quote_all(&arguments));
        self.config.config.entrypoint = Some(arguments).filter(|arguments| !arguments.is_empty());
        if !self.command_set {
            self.config.config.cmd = None;
        }
        text
    }

    /// HEALTHCHECK.
    pub(super) fn healthcheck(&mut self, check: &Healthcheck) -> String {
        let text = format!(
            "HEALTHCHECK {{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
            golang::list(&check.test),
            golang::duration(check.interval),
            golang::duration(check.timeout),
            golang::duration(check.start_period),
            golang::duration(check.start_interval),
            check.retries,
        );
        self.config.config.healthcheck = Some(config::Healthcheck {
            test: check.test.clone(),
            interval: check.interval,
            timeout: check.timeout,
            start_period: check.start_period,
            start_interval: check.start_interval,
            retries: check.retries,
        });
        text
    }

    /// MAINTAINER.
    pub(super) fn maintainer(&mut self, name: &str) -> String {
        self.config.author = Some(name.to_owned());
        format!("MAINTAINER {name}")
    }
}

fn push_pair(text: &mut String, name: &str, value: &str) {
    text.push(' ');
    text.push_str(name);
    text.push('=');
    text.push_str(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c5_absolute_paths_stay_as_written_and_relative_ones_are_joined() {
        for (base, path, expected) in [
            ("/a", "b", "/a/b"),
            ("/a/", "../c", "/c"),
            ("/a", "/q/../r/", "/q/../r/"),
            ("/a", "", "/a"),
            ("/", "../..", "/"),
            ("/q/../r/", "x", "/r/x"),
        ] {
            assert_eq!(join(base, path), expected, "{base} {path}");
        }
    }

    #[test]
    fn c1_variables_are_overwritten_in_place() {
        let mut config = ImageConfig::default();
        for (name, value) in [("A", "1"), ("AB", "2"), ("A", "3")] {
            set_env(&mut config, name, value);
        }
        assert_eq!(config.config.env, ["A=3", "AB=2"]);
        set_many(&mut config, &[("AB", "4"), ("C", "5"), ("C", "6"), ("A", "7")].map(|(a, b)| (a.into(), b.into())));
        assert_eq!(config.config.env, ["A=7", "AB=4", "C=6"]);
    }
}

//! What people see while a build runs: events come in, lines go out to the writer that the program gave.
//!
//! On a terminal a step shows when it starts and, with its time, when it ends; in a Pod every event is one line and a
//! step's own output carries the step in front. Every line passes through [`Masks`] first.

use std::{
    collections::VecDeque,
    error::Error,
    fmt,
    io::Write,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::json;

use crate::secret::Secret;

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people; with colour when the writer is a terminal.
    Text {
        /// Whether escape sequences are understood.
        colour: bool,
    },
    /// One JSON object a line.
    Json,
}

/// The values that must not appear in any output.
#[derive(Debug, Default)]
pub struct Masks(Vec<Secret>);

/// Values shorter than this are not masked: replacing every `a` would hide the output and reveal the secret.
const MASKED_LENGTH_MIN: usize = 4;

/// Lines of a failing step's output that go into the error and the report.
const TAIL_LINES: usize = 20;

/// The longest line that the tail keeps, in bytes.
const TAIL_LINE_BYTES_MAX: usize = 400;

impl Masks {
    /// Takes the values to hide; each line of a longer value is hidden by itself too.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let mut parts: Vec<String> = values
            .into_iter()
            .flat_map(|value| value.lines().chain([value.trim()]))
            .map(str::trim)
            .filter(|part| part.len() >= MASKED_LENGTH_MIN)
            .map(str::to_owned)
            .collect();
        parts.sort_by_key(|part| std::cmp::Reverse(part.len()));
        parts.dedup();
        Self(parts.into_iter().map(Secret::new).collect())
    }

    /// Replaces every hidden value in a text.
    pub fn apply(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, value| {
            if text.contains(value.expose()) { text.replace(value.expose(), "<redacted>") } else { text }
        })
    }
}

/// Writes the events of one build.
pub struct Progress {
    format: Format,
    masks: Masks,
    started: Instant,
    writer: Mutex<Box<dyn Write + Send>>,
}

impl fmt::Debug for Progress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Progress").field("format", &self.format).finish_non_exhaustive()
    }
}

/// The name of a step in the output: the stage, the step's number in it and how many there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepName {
    /// The stage's name.
    pub stage: String,
    /// From 1.
    pub number: usize,
    /// Steps of the stage.
    pub count: usize,
}

impl fmt::Display for StepName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "[{} {}/{}]", self.stage, self.number, self.count)
    }
}

impl Progress {
    /// Starts the clock.
    pub fn new(format: Format, masks: Masks, writer: Box<dyn Write + Send>) -> Self {
        Self { format, masks, started: Instant::now(), writer: Mutex::new(writer) }
    }

    /// Hides secrets in a text that leaves the program another way.
    pub fn mask(&self, text: &str) -> String {
        self.masks.apply(text)
    }

    /// Tells the time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Says that a step begins.
    pub fn step_started(&self, step: &StepName, instruction: &str) {
        self.event("step", Some(step), instruction, None);
    }

    /// Passes one line of a step's output on.
    pub fn output(&self, step: &StepName, line: &str) {
        self.event("output", Some(step), line, None);
    }

    /// Says that a step ended well.
    pub fn step_finished(&self, step: &StepName, result: &str, duration: Duration) {
        self.event("done", Some(step), result, Some(duration));
    }

    /// Says why a step was not found in the cache.
    pub fn step_missed(&self, step: &StepName, why: &str) {
        self.event("miss", Some(step), why, None);
    }

    /// Says something that is good to know.
    pub fn note(&self, text: &str) {
        self.event("note", None, text, None);
    }

    /// Says something that the reader should change.
    pub fn warning(&self, text: &str) {
        self.event("warning", None, text, None);
    }

    /// Writes one line as it is: the report at the end of the log.
    pub fn raw(&self, line: &str) {
        self.write(&self.masks.apply(line));
    }

    fn event(&self, kind: &str, step: Option<&StepName>, text: &str, duration: Option<Duration>) {
        let text = self.masks.apply(text);
        let line = match self.format {
            Format::Json => json!({
                "event": kind,
                "stage": step.map(|step| &step.stage),
                "step": step.map(|step| step.number),
                "text": text,
                "seconds": duration.map(|duration| duration.as_secs_f64()),
                "elapsed": self.started.elapsed().as_secs_f64(),
            })
            .to_string(),
            Format::Text { colour } => text_line(kind, step, &text, duration, colour),
        };
        self.write(&line);
    }

    /// A log that cannot be written must not fail the build: the error is dropped on purpose.
    fn write(&self, line: &str) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        drop(writeln!(writer, "{line}").and_then(|()| writer.flush()));
    }
}

/// Tells an error with its causes, outermost first; a cause that the text before it repeats is left out.
pub fn explain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

fn text_line(kind: &str, step: Option<&StepName>, text: &str, duration: Option<Duration>, colour: bool) -> String {
    let paint = |code: &str, text: &str| if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() };
    let name = step.map(|step| paint("36", &step.to_string())).unwrap_or_default();
    let seconds = duration.map(|duration| format!("{:.1}s", duration.as_secs_f64())).unwrap_or_default();
    match kind {
        "step" => format!("{name} {}", paint("1", text)),
        "output" => format!("{name} | {text}"),
        "miss" => format!("{name} miss: {text}"),
        "done" => format!("{name} {} {text} {seconds}", paint("32", "done")),
        "warning" => format!("{} {text}", paint("33", "warning:")),
        _ => text.to_owned(),
    }
}

/// The last lines of an output, for the error that explains a failed step.
#[derive(Debug, Default)]
pub struct Tail(VecDeque<String>);

impl Tail {
    /// Adds a line and forgets the oldest beyond 20; a long line is cut.
    pub fn push(&mut self, line: &str) {
        if self.0.len() == TAIL_LINES {
            self.0.pop_front();
        }
        let end = (0..=TAIL_LINE_BYTES_MAX.min(line.len())).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
        self.0.push_back(line[..end].to_owned());
    }

    /// Returns the lines, oldest first.
    pub fn lines(&self) -> Vec<String> {
        self.0.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_hidden_whole_and_line_by_line() {
        let masks = Masks::new(["hunter22\nsecond-line\n", "abc"]);
        assert_eq!(masks.apply("x hunter22 y second-line abc"), "x <redacted> y <redacted> abc");
        assert_eq!(masks.apply("hunter22\nsecond-line"), "<redacted>");
        assert!(!format!("{masks:?}").contains("hunter"));
    }

    #[test]
    fn the_tail_keeps_the_last_lines() {
        let mut tail = Tail::default();
        for number in 0..50 {
            tail.push(&format!("{number}{}", "é".repeat(300)));
        }
        let lines = tail.lines();
        assert_eq!((lines.len(), lines[0].starts_with("30"), lines[0].len() <= TAIL_LINE_BYTES_MAX), (20, true, true));
    }
}

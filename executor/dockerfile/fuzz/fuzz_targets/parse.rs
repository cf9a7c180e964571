//! Any bytes parse or are refused; every place lies in the text; what was read can be read again.

#![no_main]

use karve_dockerfile::{
    ast::{Dockerfile, Kind, TransferSource, Word},
    diagnostic::Span,
    lint, parse, parse_trigger,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let dockerfile = match parse(bytes) {
        Ok(dockerfile) => dockerfile,
        Err(mistakes) => {
            assert!(!mistakes.entries.is_empty());
            assert!(!mistakes.render("Dockerfile").is_empty());
            return;
        }
    };
    let lines: Vec<&str> = dockerfile.source.split('\n').collect();
    spans(&dockerfile, &mut |span: Span| {
        let line = lines[span.line - 1];
        assert!(span.offset + span.length <= line.len() + 1, "{span:?} in {line:?}");
        assert!(line.is_char_boundary(span.offset.min(line.len())), "{span:?} in {line:?}");
    });
    if let Ok(linter) = lint::Linter::new(&dockerfile, None) {
        lint::file(&dockerfile, &linter);
        for instruction in dockerfile.stages.iter().flat_map(|stage| &stage.instructions) {
            lint::instruction(instruction, &linter);
        }
        for warning in linter.finish().show(&dockerfile) {
            assert!(!warning.render("Dockerfile").is_empty());
        }
    }
    // A second byte order mark would be stripped from what is left.
    if !dockerfile.source.starts_with('\u{feff}') {
        assert_eq!(parse(dockerfile.source.as_bytes()).as_ref(), Ok(&dockerfile), "the text is read otherwise again");
    }
});

/// Visits the places of a tree, and reads its triggers again.
fn spans(dockerfile: &Dockerfile, visit: &mut impl FnMut(Span)) {
    let word = |word: &Word, visit: &mut dyn FnMut(Span)| visit(word.span);
    for argument in &dockerfile.arguments {
        word(&argument.name, visit);
    }
    for comment in dockerfile.comments.iter().flat_map(|comments| &comments.lines) {
        word(comment, visit);
    }
    for stage in &dockerfile.stages {
        visit(stage.span);
        word(&stage.base, visit);
        for instruction in &stage.instructions {
            visit(instruction.span);
            match &instruction.kind {
                Kind::Env(pairs) | Kind::Label(pairs) => {
                    pairs.iter().flat_map(|pair| [&pair.key, &pair.value]).for_each(|each| word(each, visit));
                }
                Kind::Expose(words) | Kind::Volume(words) => words.iter().for_each(|each| word(each, visit)),
                Kind::Copy(transfer) | Kind::Add(transfer) => {
                    word(&transfer.destination, visit);
                    for source in &transfer.sources {
                        match source {
                            TransferSource::Path(path) => word(path, visit),
                            TransferSource::Heredoc(heredoc) => visit(heredoc.span),
                        }
                    }
                }
                Kind::Run(run) => run.mounts.iter().for_each(|each| word(each, visit)),
                Kind::OnBuild(text) => {
                    assert!(parse_trigger(text, dockerfile.escape).is_ok(), "{text:?} is no trigger any more");
                }
                _ => {}
            }
        }
    }
}

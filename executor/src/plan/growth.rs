//! Pathological Dockerfiles, planned: four times the length must not take sixteen times the work. Work is time of this
//! thread on a processor, so that a busy machine does not matter, and only ever compared with itself.

use std::{collections::BTreeSet, fs, time::Duration};

use karve_dockerfile::parse;

use super::graph::{Bases, Options};

/// The shorter of the two lengths.
const SHORT_BYTES: usize = 64 << 10;

/// How much longer the longer one is.
const FACTOR: u32 = 4;

/// What is too little to be measured: the kernel counts in ticks.
const TICK: Duration = Duration::from_millis(5);

/// A kind of file: its name and what it looks like at a length.
type Shape = (&'static str, fn(usize) -> String);

/// Repeats a numbered line up to a length.
fn lines(bytes: usize, line: impl Fn(usize) -> String) -> String {
    let mut text = String::new();
    for number in 0.. {
        text.push_str(&line(number));
        if text.len() > bytes {
            break;
        }
    }
    text
}

const SHAPES: &[Shape] =
    &[
        ("stages upon stages", |bytes| {
            let name = |number: usize| if number == 0 { "scratch".to_owned() } else { format!("s{}", number - 1) };
            // Each stage begins with a copy of what is below: variables would multiply, up to what the budget allows.
            lines(bytes / 16, |number| format!("FROM {} AS s{number}\nUSER x\n", name(number)))
        }),
        ("stages that copy from all others", |bytes| {
            lines(bytes / 16, |number| format!("FROM scratch AS s{number}\nCOPY --from={} a /b\n", number / 2))
                .replacen("COPY --from=0 a /b\n", "", 2)
        }),
        ("variables that double", |bytes| format!("FROM scratch\nENV a=x\n{}", "ENV a=$a$a\n".repeat(bytes / 44))),
        ("undefined variables", |bytes| {
            format!("FROM scratch\n{}", lines(bytes / 2, |number| format!("LABEL a=$x{number}\n")))
        }),
        ("similar undefined variables", |bytes| {
            let known = lines(bytes / 4, |number| format!("ENV variable_{number}=1\n"));
            format!("FROM scratch\n{known}{}", lines(bytes / 4, |number| format!("LABEL a=$variables_{number}\n")))
        }),
        ("declared arguments", |bytes| {
            let known = (0..2_000).map(|number| format!("a{number}")).collect::<Vec<_>>().join(" ");
            format!("FROM scratch\n{}", format!("ARG {known}\n").repeat(bytes / known.len() + 1))
        }),
        ("variables again and again", |bytes| {
            let known = (0..2_000).map(|number| format!("a{number}=1")).collect::<Vec<_>>().join(" ");
            format!("FROM scratch\n{}", format!("ENV {known}\n").repeat(bytes / known.len() + 1))
        }),
        ("ports", |bytes| format!("FROM scratch\n{}", "EXPOSE 1-9 8:80/TCP\n".repeat(bytes / 44))),
        ("ranges of ports", |bytes| format!("FROM scratch\n{}", "EXPOSE 1-65535 1-65535/udp\n".repeat(bytes / 1_000))),
        ("nested defaults", |bytes| {
            format!("FROM scratch\n{}", format!("LABEL a={}\n", "${a:-".repeat(60)).repeat(bytes / 310))
        }),
        ("wrong instructions", |bytes| format!("FROM scratch\n{}", "STOPSIGNAL x\nEXPOSE x\n".repeat(bytes / 88))),
    ];

/// Time that this thread has had on a processor.
fn spent() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

#[test]
fn planning_takes_time_in_proportion_to_the_text() {
    let platform = || "linux/amd64".to_owned();
    let options = Options { platform: platform(), build_platform: platform(), ..Options::default() };
    let mut slow = Vec::new();
    for (name, shape) in SHAPES {
        let work = |bytes| {
            let dockerfile = parse(shape(bytes)).unwrap_or_else(|mistakes| panic!("{name}: {mistakes}"));
            let once = || {
                let before = spent();
                let checked = super::check(&dockerfile, &options, &Bases::new(), &BTreeSet::new());
                assert!(checked.is_ok_and(|checked| checked.needs.is_empty()));
                spent().saturating_sub(before)
            };
            std::iter::repeat_with(once).take(2).min().unwrap()
        };
        let (short, long) = (work(SHORT_BYTES), work(SHORT_BYTES * FACTOR as usize));
        if long >= short.max(TICK) * 2 * FACTOR {
            slow.push(format!("{name}: {short:?} becomes {long:?} for {FACTOR} times the length"));
        }
    }
    assert!(slow.is_empty(), "{slow:#?}");
}

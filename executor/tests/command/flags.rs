//! Keeps `docs/flags.md` in step with the command line's definition.

use std::fmt::Write;

use crate::generated;

/// The file, from the workspace's root.
const FILE: &str = "docs/flags.md";

/// Prints a command's flags as a table; what the help does not show is left out.
fn table(command: &clap::Command) -> String {
    let mut text = String::from("| Flag | Meaning |\n| --- | --- |\n");
    for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
        let long = argument.get_long_and_visible_aliases().unwrap_or_default();
        let short = argument.get_short_and_visible_aliases().unwrap_or_default();
        let value = argument.get_value_names().unwrap_or_default().join(" ");
        let optional = argument.get_num_args().is_some_and(|count| count.min_values() == 0);
        let mut names: Vec<String> = long.iter().map(|name| format!("`--{name}`")).collect();
        names.extend(short.iter().map(|name| format!("`-{name}`")));
        match long.first() {
            None => names.push(format!("`[{value}]`")),
            Some(name) if optional => names[0] = format!("`--{name}[={value}]`"),
            Some(name) if argument.get_action().takes_values() => names[0] = format!("`--{name} {value}`"),
            Some(_) => {}
        }
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let default = argument.get_default_values().first();
        let default = default.map(|value| format!(" [default: {}]", value.display())).unwrap_or_default();
        writeln!(text, "| {} | {}{default} |", names.join(", "), help.replace('|', "\\|").replace('\n', " ")).unwrap();
    }
    text
}

fn document() -> String {
    let mut text = String::from(
        "# Flags of `karve`\n\nGenerated from the program by `make generate`; do not edit.\n\
         Flags without a command mean `karve build`.\n",
    );
    let program = karve::flags::command();
    write!(text, "\n## All commands\n\n{}", table(&program)).unwrap();
    let (first, others): (Vec<_>, Vec<_>) =
        program.get_subcommands().partition(|command| command.get_name() == "build");
    for command in first.into_iter().chain(others) {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        write!(text, "\n## `karve {}`\n\n{about}.\n\n{}", command.get_name(), table(command)).unwrap();
    }
    text
}

#[test]
fn the_table_of_flags_is_current() {
    generated::check(FILE, &document());
}

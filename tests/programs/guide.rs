//! The guide is checked: each page has all that the guide promises, every test and file that it names is there, every
//! command that it gives can be run.
#![warn(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Corrections of the post for which no kernel fact can be tested, each identified by a few of its words.
const WITHOUT_A_TEST: [&str; 5] = [
    // An opinion, twice.
    "pipes are \"not used in the industry\". Each `|`",
    "pipes are \"not used in the industry\", and then",
    // What is called a system call: a definition, not a behaviour.
    "in its picture, that user space reaches the kernel",
    // A typing error.
    "the publisher notifies \"all publishers\"",
    // What a program's "secondary storage" is: a definition, too.
    "mapping \"changes the secondary storage of the program\"",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files below `folder` with this ending.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path(), ending));
        } else if entry.path().extension().is_some_and(|extension| extension == ending) {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// Each page: its file name and its text.
fn pages() -> Vec<(String, String)> {
    let pages: Vec<_> = files(&root().join("src/guide"), "md")
        .iter()
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), read(path)))
        .collect();
    assert!(pages.len() >= 10, "{} pages", pages.len());
    pages
}

/// A page's fenced blocks with the given language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(opened) = line.strip_prefix("```") {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            if opened == language {
                found.push(block.join("\n"));
            }
        }
    }
    found
}

/// What is outside the fenced blocks.
fn prose(page: &str) -> String {
    let mut fenced = false;
    let lines = page.lines().filter(|line| {
        let fence = line.starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What is between backticks, each with what follows it.
fn spans(text: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, behind)) = rest.split_once('`') {
        let Some((span, after)) = behind.split_once('`') else { break };
        found.push((span, after));
        rest = after;
    }
    found
}

fn is_name(span: &str) -> bool {
    span.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// Every test function of `tests/`, with the files that have one of that name.
fn tests() -> BTreeMap<String, Vec<PathBuf>> {
    let mut found: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for file in files(&root().join("tests"), "rs") {
        let text = read(&file);
        for (_, behind) in text.match_indices("#[test]\n").map(|(at, mark)| text.split_at(at + mark.len())) {
            let signature = behind.lines().find(|line| line.trim_start().starts_with("fn ")).unwrap_or("");
            let name: String =
                signature.trim_start()[3..].chars().take_while(|&c| c != '(' && c != '<').collect();
            found.entry(name).or_default().push(file.strip_prefix(root()).unwrap().to_owned());
        }
    }
    found
}

#[test]
fn each_page_has_what_the_guide_promises() {
    let index = read(root().join("src/guide.rs"));
    for (name, page) in pages() {
        assert!(index.contains(&format!("guide/{name}")), "src/guide.rs does not include {name}");
        for (what, has) in [
            ("what the kernel keeps", page.to_lowercase().contains("the kernel keeps")),
            ("how long it lives", ["how long", "lives until"].iter().any(|words| page.contains(words))),
            ("the system calls beside this crate's", {
                let heads = page.lines().filter(|line| line.starts_with("| "));
                heads
                    .into_iter()
                    .any(|head| ["in C |", "system call |", "made with |"].iter().any(|c| head.contains(c)))
                    && page.contains("here")
            }),
            ("a picture", blocks(&page, "text").iter().any(|block| block.contains(['─', '►']))),
            ("a snippet", !blocks(&page, "rust").is_empty()),
            ("what to run", page.contains("\n# Run it\n")),
            ("what one will see", !blocks(&page, "console").is_empty()),
        ] {
            assert!(has, "{name} lacks {what}");
        }
        assert!(
            !page.contains("```rust,ignore") && !page.contains("```ignore"),
            "{name}: a snippet is not tested"
        );
    }
}

#[test]
fn every_test_that_is_named_exists_and_in_that_file() {
    let tests = tests();
    let mut words = BTreeSet::new();
    for file in files(&root().join("src"), "rs") {
        words.extend(read(file).split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_owned));
    }
    let mut named = 0;
    for (name, page) in pages() {
        let prose = prose(&page).replace("\n> ", " ").replace('\n', " ");
        for (span, after) in spans(&prose) {
            if span.contains('*') || span.ends_with('/') {
                continue;
            }
            if ["tests/", "examples/", "docs/", "src/"].iter().any(|folder| span.starts_with(folder)) {
                assert!(root().join(span).exists(), "{name} names {span}, which is not there");
            }
            if !is_name(span) || span.matches('_').count() < 2 {
                continue;
            }
            let Some(homes) = tests.get(span) else {
                assert!(
                    words.contains(span),
                    "{name} names `{span}`, which is neither a test nor known in src/"
                );
                continue;
            };
            named += 1;
            if let Some(file) = after.strip_prefix(" in `").and_then(|rest| rest.split('`').next()) {
                assert!(
                    homes.iter().any(|home| home == Path::new(file)),
                    "{span} is in {homes:?}, not in {file}"
                );
            }
        }
    }
    assert!(named > 40, "only {named} tests were recognised");
}

#[test]
fn every_correction_of_the_post_names_its_proof() {
    let tests = tests();
    let (mut corrections, mut excused) = (0, BTreeSet::new());
    for (name, page) in pages() {
        for paragraph in page.split("\n\n").filter(|paragraph| paragraph.starts_with("> **The post says")) {
            corrections += 1;
            let text = paragraph.replace("\n> ", " ");
            if let Some(words) = WITHOUT_A_TEST.iter().find(|words| text.contains(**words)) {
                excused.insert(*words);
                continue;
            }
            assert!(
                spans(&text).iter().any(|(span, _)| tests.contains_key(*span)),
                "{name}: no test stands behind this: {text}"
            );
        }
    }
    assert!(corrections >= 20, "only {corrections} corrections were recognised");
    assert_eq!(excused, BTreeSet::from(WITHOUT_A_TEST), "an excuse that nobody needs any more");
}

/// Each `cargo run … --example NAME -- ARGUMENTS` of a text.
fn commands(text: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for line in text.lines().filter(|line| line.contains("cargo run")) {
        let Some((_, behind)) = line.split_once("--example ") else { continue };
        let command = behind.split(['`', '#', '|', '<', '>', '&', '\\']).next().unwrap();
        let mut words = command.split_whitespace().map(str::to_owned);
        let name = words.next().unwrap();
        // What follows a second `--` is another program's.
        let arguments = words.skip_while(|word| word == "--").take_while(|word| word != "--").collect();
        found.push((name, arguments));
    }
    found
}

#[test]
fn every_command_can_be_run() {
    let mut texts = pages();
    for path in ["README.md", "docs/examples.md", "docs/multiplexing.md"] {
        texts.push((path.into(), read(root().join(path))));
    }
    let examples = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples");
    let mut helps: BTreeMap<Vec<String>, String> = BTreeMap::new();
    for (place, text) in texts {
        let commands = commands(&text);
        assert!(!commands.is_empty(), "{place} gives no command");
        for (example, arguments) in commands {
            let sources = root().join("examples");
            assert!(
                sources.join(format!("{example}.rs")).exists()
                    || sources.join(&example).join("main.rs").exists(),
                "{place}: there is no example {example}"
            );
            let program = examples.join(&example);
            assert!(
                program.exists(),
                "{program:?} is not built; run `cargo test`, or `cargo build --examples` first"
            );
            let flags: Vec<&str> = arguments
                .iter()
                .filter(|argument| argument.starts_with("--"))
                .map(|flag| flag.split('=').next().unwrap())
                .collect();
            if flags.is_empty() {
                continue;
            }
            // The first word may be a subcommand, with options of its own.
            for start in [&arguments[..0], &arguments[..1]] {
                helps.entry([std::slice::from_ref(&example), start].concat()).or_insert_with(|| {
                    let run = Command::new(&program).args(start).arg("--help").stdin(Stdio::null()).output();
                    String::from_utf8(run.unwrap().stdout).unwrap()
                });
            }
            let known: String =
                helps.iter().filter(|(of, _)| of[0] == example).map(|(_, help)| help.as_str()).collect();
            for flag in flags {
                let words = known.split(|c: char| !c.is_alphanumeric() && c != '-');
                assert!(
                    words.into_iter().any(|word| word == flag),
                    "{place}: {example} does not know {flag}; it says\n{known}"
                );
            }
        }
    }
}

#[test]
fn every_file_that_is_linked_exists() {
    let mut texts = files(&root().join("docs"), "md");
    texts.push(root().join("README.md"));
    for path in texts {
        let text = prose(&read(&path));
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let target = link.split('#').next().unwrap();
            if !target.contains("://") && !target.is_empty() {
                let file = path.parent().unwrap().join(target);
                assert!(file.exists(), "{} links to {target}, which is not there", path.display());
            }
        }
    }
}

#[test]
fn the_c_beside_it_compiles() {
    const HEADERS: &str = "#include <stdio.h>\n#include <string.h>\n#include <sys/socket.h>\n\
        #include <sys/un.h>\n#include <unistd.h>\n";
    let mut compiled = 0;
    for (name, page) in pages() {
        for block in blocks(&page, "c") {
            let compiler = Command::new("cc")
                .args(["-x", "c", "-fsyntax-only", "-Wall", "-Werror", "-"])
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn();
            let Ok(mut compiler) = compiler else {
                return crate::support::skip("cc is not installed");
            };
            let source = format!("{HEADERS}int main(void) {{\n{block}\n}}\n");
            compiler.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
            let output = compiler.wait_with_output().unwrap();
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            compiled += 1;
        }
    }
    assert!(compiled > 0, "the guide has no C");
}

//! The layers ("floors") of `src/`: each folder imports only from the folders above it in `FLOORS`, and names the
//! module that defines the thing. Files import each other in one circle only, which is in `set/`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// From the kernel up. A folder may import from those before it, and from itself.
const FLOORS: [&str; 14] = [
    "sys", "types", "bytes", "net", "queue", "signals", "pipe", "children", "shm", "poll", "observe", "set",
    "client", "sources",
];
/// Above all of them.
const TOP: &str = "reactor";
/// Files that import each other, at most.
const KNOT_MAX: usize = 8;

/// Floors that could import from more than they should: what each may import besides the standard library and crates.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("sys", &[]),
    ("types", &[]),
    ("bytes", &["sys", "types"]),
    ("net", &["sys", "types", "bytes"]),
    ("queue", &["sys", "types"]),
    ("signals", &["sys", "types"]),
    ("pipe", &["sys", "types", "bytes", "net", "signals"]),
    ("children", &["sys", "types", "bytes", "signals", "pipe"]),
    ("shm", &["sys", "types", "bytes", "queue"]),
    ("poll", &["sys", "types"]),
    ("observe", &["sys", "types", "net", "signals", "poll"]),
];

struct File {
    /// `set/call.rs`
    name: String,
    /// `["set", "call"]`
    module: Vec<String>,
    /// Paths that begin with `crate::`, without that.
    imports: Vec<Vec<String>>,
}

impl File {
    fn floor(&self) -> &str {
        &self.module[0]
    }
}

fn sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn files() -> Vec<File> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&src, &mut paths);
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        let name = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
        if name == "lib.rs" || name == "guide.rs" {
            continue;
        }
        let module: Vec<String> = name.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        let text = without_comments(&fs::read_to_string(&path).unwrap());
        let imports = crate_paths(&text, &module);
        files.push(File { name, module, imports });
    }
    files
}

fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Every path that begins with `crate::`, or with `super::` in a `use`, as names from the root of the crate.
fn crate_paths(text: &str, module: &[String]) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for (start, _) in text.match_indices("crate::") {
        expand(&text[start + "crate::".len()..], Vec::new(), &mut paths);
    }
    for (start, _) in text.match_indices("use super::") {
        let parent = module[..module.len() - 1].to_vec();
        let rest = &text[start + "use super::".len()..];
        if !rest.starts_with('*') {
            expand(rest, parent, &mut paths);
        }
    }
    paths
}

/// Expands a path, or the tree of a `use`, at the beginning of `text`; returns what comes after it.
fn expand<'a>(mut text: &'a str, mut prefix: Vec<String>, paths: &mut Vec<Vec<String>>) -> &'a str {
    loop {
        text = text.trim_start();
        if let Some(inner) = text.strip_prefix('{') {
            text = inner;
            loop {
                text = expand(text, prefix.clone(), paths).trim_start();
                match text.strip_prefix(',') {
                    Some(rest) => text = rest,
                    None => return text.strip_prefix('}').unwrap_or(text),
                }
            }
        }
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        if end == 0 {
            return text;
        }
        let name = &text[..end];
        text = &text[end..];
        if name != "self" {
            prefix.push(name.to_owned());
        }
        match text.strip_prefix("::") {
            Some(rest) if !rest.starts_with('<') => text = rest,
            _ => {
                paths.push(prefix);
                let text = text.trim_start();
                // `name as other`
                return match text.strip_prefix("as ") {
                    Some(other) => {
                        let other = other.trim_start();
                        &other
                            [other.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(other.len())..]
                    }
                    None => text,
                };
            }
        }
    }
}

fn rank(floor: &str) -> Option<usize> {
    FLOORS.iter().chain([&TOP]).position(|&known| known == floor)
}

#[test]
fn no_import_goes_up() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for file in files() {
        let Some(own) = rank(file.floor()) else { panic!("{} is on no floor", file.name) };
        let may_import =
            MAY_IMPORT.iter().find(|(floor, _)| *floor == file.floor()).map(|(_, others)| others);
        for path in &file.imports {
            seen += 1;
            let floor = path[0].as_str();
            let allowed = match (rank(floor), may_import) {
                (None, _) => false,
                _ if floor == file.floor() => true,
                (_, Some(others)) => others.contains(&floor),
                (Some(other), None) => other < own,
            };
            if !allowed {
                wrong.push(format!("{} imports crate::{}", file.name, path.join("::")));
            }
        }
    }
    assert!(seen > 300, "the test sees the imports: {seen}");
    assert!(wrong.is_empty(), "upward, or not by the defining module:\n{}", wrong.join("\n"));
}

/// The files that a path can mean: the longest module of its names that is a file.
fn target(path: &[String], modules: &BTreeMap<Vec<String>, String>) -> Option<String> {
    (1..=path.len()).rev().find_map(|length| modules.get(&path[..length]).cloned())
}

#[test]
fn one_small_knot_and_no_other_circle() {
    let files = files();
    let modules: BTreeMap<Vec<String>, String> =
        files.iter().map(|file| (file.module.clone(), file.name.clone())).collect();
    let mut arrows: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for file in &files {
        let targets = file.imports.iter().filter_map(|path| target(path, &modules));
        arrows.insert(&file.name, targets.filter(|target| *target != file.name).collect());
    }
    let reaches = |from: &str| {
        let (mut found, mut next) = (BTreeSet::new(), vec![from.to_owned()]);
        while let Some(name) = next.pop() {
            for target in &arrows[name.as_str()] {
                if found.insert(target.clone()) {
                    next.push(target.clone());
                }
            }
        }
        found
    };
    let reached: BTreeMap<&str, BTreeSet<String>> =
        files.iter().map(|file| (file.name.as_str(), reaches(&file.name))).collect();
    let knots: BTreeSet<Vec<&str>> = files
        .iter()
        .filter(|file| reached[file.name.as_str()].contains(&file.name))
        .map(|file| {
            let own = file.name.as_str();
            reached
                .iter()
                .filter(|(other, reaches)| reached[own].contains(**other) && reaches.contains(own))
                .map(|(other, _)| *other)
                .collect()
        })
        .collect();
    for knot in &knots {
        assert!(
            knot.len() <= KNOT_MAX && knot.iter().all(|name| name.starts_with("set/")),
            "{} files import each other: {knot:#?}",
            knot.len()
        );
    }
    assert!(knots.len() <= 1, "more than one circle: {knots:#?}");
}

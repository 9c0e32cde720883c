//! Who may name what: the arrows of ARCHITECTURE.md, read out of the source. Test code is free.

use std::fs;
use std::path::{Path, PathBuf};

/// Each module of ours with those that it may import. `cli` and the crate's root may import all.
const IMPORTS: &[(&str, &[&str])] = &[
    ("media", &[]),
    ("job", &["media"]),
    ("segment", &["media"]),
    ("protocol", &["job"]),
    ("ladder", &["media", "job", "protocol"]),
    ("chunks", &[]),
    ("ipc", &["job", "media", "chunks"]),
    ("worker", &["job", "ipc", "media"]),
    ("config", &[]),
    ("allocator", &[]),
    ("patience", &[]),
    ("telemetry", &["config", "protocol"]),
    ("pool", &["job", "ipc", "telemetry", "media", "patience"]),
    ("session", &["media", "segment", "job", "ladder", "pool", "telemetry", "protocol", "config"]),
    ("cloud", &["config"]),
    ("rollout", &["cloud"]),
    (
        "server",
        &[
            "session",
            "pool",
            "telemetry",
            "protocol",
            "config",
            "job",
            "media",
            "cloud",
            "rollout",
            "patience",
            "chunks",
        ],
    ),
];

#[test]
fn modules_import_downward_only() {
    none_of(|file| {
        let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == file.module) else {
            let known = matches!(file.module.as_str(), "cli" | "main" | "lib");
            return if known { vec![] } else { vec![(1, "a module that tests/architecture.rs doesn't know".into())] };
        };
        let mut found = Vec::new();
        for (line, path) in &file.paths {
            let target = match path[0].as_str() {
                "crate" => path.get(1),
                "super" if path.iter().take_while(|s| *s == "super").count() >= file.depth => {
                    found.push((*line, "reaches the crate's root by `super`: write `crate::`".into()));
                    None
                }
                _ => None,
            };
            if let Some(target) = target.filter(|t| **t != file.module && !allowed.contains(&t.as_str())) {
                found.push((*line, format!("`{}` must not import `{target}`", file.module)));
            }
        }
        found
    });
}

#[test]
fn only_the_worker_names_gstreamer() {
    none_of(|file| {
        let named = file.paths.iter().filter(|(_, path)| path[0].starts_with("gstreamer"));
        named.filter(|_| file.module != "worker").map(|(line, path)| (*line, path.join("::"))).collect()
    });
}

#[test]
fn only_the_edge_reads_the_environment() {
    none_of(|file| {
        let reads = file.paths.iter().filter(|(_, path)| {
            path.windows(2).any(|w| w[0] == "env" && (w[1].starts_with("var") || w[1] == "set_var" || w[1] == "*"))
        });
        let edge = matches!(file.module.as_str(), "config" | "cli");
        reads.filter(|_| !edge).map(|(line, path)| (*line, path.join("::"))).collect()
    });
}

#[test]
fn media_has_no_io_no_clock_no_runtime() {
    const STD: [&str; 6] = ["fs", "net", "process", "thread", "env", "os"];
    none_of(|file| {
        let banned = file.paths.iter().filter(|(_, path)| {
            path[0].starts_with("tokio")
                || path.iter().any(|s| s == "Instant" || s == "SystemTime")
                || path[0] == "std" && path.get(1).is_some_and(|s| STD.contains(&s.as_str()))
        });
        banned.filter(|_| file.module == "media").map(|(line, path)| (*line, path.join("::"))).collect()
    });
}

#[test]
fn the_page_has_the_same_table() {
    let page = fs::read_to_string("ARCHITECTURE.md").unwrap();
    for (name, allowed) in IMPORTS {
        let heads = [format!("| `src/{name}/` |"), format!("| `src/{name}.rs` |")];
        let row = page.lines().find(|line| heads.iter().any(|head| line.starts_with(head)));
        let row = row.unwrap_or_else(|| panic!("{name} is not on the page"));
        let cell = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        let listed: Vec<&str> = cell.split(", ").filter(|name| *name != "–").collect();
        assert_eq!(listed, *allowed, "{name}");
    }
}

/// Fails with every place that `offences` finds.
#[test]
fn no_file_of_tests_is_left_out() {
    let mut roots = String::new();
    for root in ["suite", "long"] {
        roots += &fs::read_to_string(format!("tests/{root}.rs")).expect("a crate of tests");
    }
    for file in fs::read_dir("tests").expect("the tests").map(|entry| entry.expect("an entry").path()) {
        let name = file.file_stem().and_then(|stem| stem.to_str()).expect("a name").to_owned();
        let is_module =
            file.extension().is_some_and(|extension| extension == "rs") && name != "suite" && name != "long";
        assert!(!is_module || roots.contains(&format!("\nmod {name};")), "tests/{name}.rs is in neither crate");
    }
}

fn none_of(offences: impl Fn(&File) -> Vec<(usize, String)>) {
    let files = sources(Path::new("src"));
    assert!(files.len() > 10, "the sources are not where this test looks");
    let mut found = Vec::new();
    for file in &files {
        for (line, what) in offences(file) {
            found.push(format!("{}:{line}: {what}", file.path.display()));
        }
    }
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// A source file without its comments, strings and tests.
struct File {
    path: PathBuf,
    /// The top-level module that it is part of.
    module: String,
    /// How many `super` lead to the crate's root.
    depth: usize,
    /// Each path in the code with its line; brace groups are spread out.
    paths: Vec<(usize, Vec<String>)>,
}

fn sources(directory: &Path) -> Vec<File> {
    let mut files = Vec::new();
    let mut tests = Vec::new();
    for path in walk(directory) {
        let text = fs::read_to_string(&path).unwrap();
        let tokens = tokens(&text);
        let home = if path.ends_with("mod.rs") { path.parent().unwrap().into() } else { path.with_extension("") };
        let (code, test_modules) = without_tests(tokens);
        tests.extend(test_modules.into_iter().map(|name| home.join(name)));
        let inside: Vec<String> =
            home.strip_prefix(directory).unwrap().iter().map(|s| s.to_string_lossy().into_owned()).collect();
        files.push(File { module: inside[0].clone(), depth: inside.len(), paths: paths(&code), path });
    }
    files.retain(|file| !tests.iter().any(|test| file.path.with_extension("").starts_with(test)));
    files
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    let mut found = Vec::new();
    for path in entries {
        if path.is_dir() {
            found.extend(walk(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

type Token = (usize, String);

/// Words, `::`, and single signs, each with its line; comments and literals left out.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut tokens = Vec::new();
    let (mut i, mut line) = (0, 1);
    while i < chars.len() {
        let start = i;
        match at(i) {
            '/' if at(i + 1) == '/' => i += chars[i..].iter().take_while(|c| **c != '\n').count(),
            '/' if at(i + 1) == '*' => {
                i += 2;
                while i < chars.len() && !(at(i) == '*' && at(i + 1) == '/') {
                    i += 1;
                }
                i += 2;
            }
            'r' if at(i + 1) == '"' || at(i + 1) == '#' && matches!(at(i + 2), '"' | '#') => {
                let hashes = chars[i + 1..].iter().take_while(|c| **c == '#').count();
                i += hashes + 2;
                while i < chars.len() && !(at(i) == '"' && (1..=hashes).all(|n| at(i + n) == '#')) {
                    i += 1;
                }
                i += hashes + 1;
            }
            '"' => {
                i += 1;
                while i < chars.len() && at(i) != '"' {
                    i += if at(i) == '\\' { 2 } else { 1 };
                }
                i += 1;
            }
            '\'' if at(i + 1) == '\\' => {
                i += 3;
                while i < chars.len() && at(i) != '\'' {
                    i += 1;
                }
                i += 1;
            }
            '\'' if at(i + 2) == '\'' => i += 3,
            ':' if at(i + 1) == ':' => {
                tokens.push((line, "::".into()));
                i += 2;
            }
            c if c.is_alphabetic() || c == '_' => {
                i += chars[i..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').count();
                // b"…" and br"…" end up as literals on the next round.
                if at(i) != '"' {
                    tokens.push((line, chars[start..i].iter().collect()));
                }
            }
            c => {
                if !c.is_whitespace() {
                    tokens.push((line, c.to_string()));
                }
                i += 1;
            }
        }
        line += chars[start..i.min(chars.len())].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

/// The code without its `#[cfg(test)] mod name { … }`, and the names of `#[cfg(test)] mod name;`.
fn without_tests(tokens: Vec<Token>) -> (Vec<Token>, Vec<String>) {
    let mark = ["#", "[", "cfg", "(", "test", ")", "]"];
    let word = |i: usize| tokens.get(i).map_or("", |t: &Token| t.1.as_str());
    let (mut code, mut names) = (Vec::new(), Vec::new());
    let mut i = 0;
    while i < tokens.len() {
        let marked = (0..mark.len()).all(|n| word(i + n) == mark[n]);
        let Some(name) = (i + mark.len()..i + mark.len() + 6).find(|&n| word(n) == "mod").filter(|_| marked) else {
            code.push(tokens[i].clone());
            i += 1;
            continue;
        };
        i = name + 2;
        if word(i) == ";" {
            names.push(word(name + 1).into());
            continue;
        }
        let mut open = 0;
        while i < tokens.len() {
            open += usize::from(word(i) == "{");
            if word(i) == "}" {
                open -= 1;
            }
            i += 1;
            if open == 0 {
                break;
            }
        }
    }
    (code, names)
}

fn paths(tokens: &[Token]) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        if is_word(&tokens[i].1) && (i == 0 || tokens[i - 1].1 != "::") {
            i = path(tokens, i, &[], &mut found);
        } else {
            i += 1;
        }
    }
    found
}

/// Reads one path, or all that a brace group makes of it; gives the place behind it.
fn path(tokens: &[Token], mut i: usize, prefix: &[String], found: &mut Vec<(usize, Vec<String>)>) -> usize {
    let word = |i: usize| tokens.get(i).map_or("", |t| t.1.as_str());
    let line = tokens[i].0;
    let mut segments = prefix.to_vec();
    loop {
        if word(i) == "{" {
            i += 1;
            while i < tokens.len() && word(i) != "}" {
                i = if is_word(word(i)) || word(i) == "*" { path(tokens, i, &segments, found) } else { i + 1 };
            }
            return i + 1;
        }
        segments.push(word(i).into());
        i += 1;
        if word(i) != "::" || !(is_word(word(i + 1)) || ["{", "*"].contains(&word(i + 1))) {
            break;
        }
        i += 1;
    }
    found.push((line, segments));
    if word(i) == "as" { i + 2 } else { i }
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

#[test]
fn the_reader_sees_through_braces_comments_strings_and_tests() {
    let text = r##"
        use crate::{media::{self, Ticks}, pool as p}; // crate::no
        /* crate::no */ fn f<'a>(c: &'a str) { let _ = ("crate::no", r#"crate::no"#, '"', '\'', crate::job::Job {}); }
        #[cfg(test)]
        mod tests { use crate::no; fn g() { if true {} } }
        #[cfg(test)] mod more;
        use std::env;
    "##;
    let (code, tests) = without_tests(tokens(text));
    assert_eq!(tests, ["more"]);
    let found: Vec<String> =
        paths(&code).into_iter().map(|(_, path)| path.join("::")).filter(|path| path.contains("::")).collect();
    assert_eq!(found, ["crate::media::self", "crate::media::Ticks", "crate::pool", "crate::job::Job", "std::env"]);
}

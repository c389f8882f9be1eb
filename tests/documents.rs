//! The documents speak of files, functions and other documents that exist.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README, CHANGELOG and all of doc/, with their texts.
fn documents() -> Vec<(PathBuf, String)> {
    let mut paths = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    paths.extend(fs::read_dir(root().join("doc")).unwrap().map(|entry| entry.unwrap().path()));
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// What stands between single backticks.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// A source file by the name that the documents give it: from the root, or from src/.
fn source(name: &str) -> Option<PathBuf> {
    [root().join(name), root().join("src").join(name)].into_iter().find(|path| path.is_file())
}

#[test]
fn links_between_documents_lead_somewhere() {
    for (path, text) in documents() {
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap();
            if !file.is_empty() && !file.contains("://") {
                assert!(path.parent().unwrap().join(file).exists(), "{}: {target}", path.display());
            }
        }
    }
}

#[test]
fn the_description_of_the_house_names_files_and_functions_that_are_there() {
    let text = fs::read_to_string(root().join("doc/architecture.md")).unwrap();
    for word in code(&text).filter(|word| word.ends_with(".rs")) {
        assert!(source(word).is_some(), "there is no {word}");
    }
    let mut functions = 0;
    for section in text.split("\n## ").filter(|s| s.starts_with("The way of a Set") || s.starts_with("Epochs")) {
        for item in items(section) {
            let files: String = code(&item).filter_map(source).map(|path| fs::read_to_string(path).unwrap()).collect();
            let is_name = |word: &&str| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            for word in code(&item).filter(is_name) {
                let defined = [format!("fn {word}("), format!("fn {word}<")].iter().any(|f| files.contains(f));
                assert!(defined, "no function {word} in the files named in: {item}");
                functions += 1;
            }
        }
    }
    assert!(functions > 30, "{functions}");
}

/// All files under `dir` with this ending.
fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let inside = |path: PathBuf| if path.is_dir() { files(&path, ending) } else { vec![path] };
    let all = fs::read_dir(dir).unwrap().flat_map(|entry| inside(entry.unwrap().path()));
    all.filter(|path| path.to_string_lossy().ends_with(ending)).collect()
}

#[test]
fn sections_that_the_code_cites_are_there() {
    let mut citations = 0;
    for path in files(&root().join("src"), ".rs") {
        // Comments as they read, without the marks at the beginning of their lines.
        let text = fs::read_to_string(&path).unwrap();
        let text: Vec<&str> =
            text.lines().map(|line| line.trim_start().trim_start_matches(['/', '!']).trim()).collect();
        let text = text.join(" ").replace('`', "");
        for rest in text.split("doc/").skip(1) {
            let Some((name, rest)) = rest.split_once(".md, \"") else { continue };
            let (Some(title), false) = (rest.split('"').next(), name.contains(' ')) else { continue };
            let document = fs::read_to_string(root().join(format!("doc/{name}.md"))).unwrap();
            let there = |line: &str| line.trim_start_matches('#').trim() == title && line.starts_with('#');
            assert!(document.lines().any(there), "{}: doc/{name}.md has no section {title:?}", path.display());
            citations += 1;
        }
    }
    assert!(citations > 20, "{citations}");
}

/// Paragraphs and the items of numbered lists.
fn items(section: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    for line in section.lines() {
        if line.is_empty() || line.starts_with(|c: char| c.is_ascii_digit()) {
            items.push(String::new());
        }
        let item = items.last_mut().expect("there is one from the start");
        item.push_str(line);
        item.push('\n');
    }
    items
}

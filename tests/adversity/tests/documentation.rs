//! docs/reliability.md names tests that exist.

use std::collections::BTreeSet;
use std::path::Path;

/// The names of the functions marked `#[test]` below a folder.
fn tests_in(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_in(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            for part in text.split("#[test]\nfn ").skip(1) {
                names.extend(part.split('(').next().map(str::to_owned));
            }
        }
    }
}

#[test]
fn what_docs_reliability_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let (mut here, mut elsewhere) = (BTreeSet::new(), BTreeSet::new());
    tests_in(&root.join("tests/adversity/tests"), &mut here);
    tests_in(&root.join("tests/cluster/tests"), &mut elsewhere);
    let page = std::fs::read_to_string(root.join("docs/reliability.md")).unwrap();
    let named: BTreeSet<String> = page
        .lines()
        .filter(|line| line.starts_with("| "))
        .filter_map(|line| line.split('|').nth(2))
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect();
    assert!(named.len() > 30, "{named:?}");
    let missing: Vec<&String> =
        named.iter().filter(|name| !here.contains(*name) && !elsewhere.contains(*name)).collect();
    assert!(missing.is_empty(), "no such tests: {missing:?}");
}

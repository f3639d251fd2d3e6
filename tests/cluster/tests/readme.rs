//! Every SQL block of README.md works as it stands, in order, against a fresh server, and prints what is shown.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use cluster_tests::Server;

/// A block fenced as ```sql, and the ```text that shows what it prints.
#[derive(Debug, PartialEq)]
struct Block {
    /// The line on which it begins.
    line: usize,
    sql: String,
    shown: String,
}

fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut fence = None;
    let mut follows = false;
    for (number, line) in markdown.lines().enumerate() {
        match (fence, line.trim()) {
            (Some(_), "```") => (follows, fence) = (fence == Some("```sql"), None),
            (Some(kind), _) => {
                let text = match (kind, blocks.last_mut()) {
                    ("```sql", Some(block)) => &mut block.sql,
                    ("```text", Some(block)) if follows => &mut block.shown,
                    _ => continue,
                };
                text.push_str(line);
                text.push('\n');
            }
            (None, "") => {}
            (None, opening) if opening.starts_with("```") => {
                fence = Some(opening);
                follows &= opening == "```text";
                if opening == "```sql" {
                    let (sql, shown) = (String::new(), String::new());
                    blocks.push(Block { line: number + 2, sql, shown });
                }
            }
            (None, _) => follows = false,
        }
    }
    assert!(fence.is_none(), "the last block has no end");
    blocks
}

/// A line without what is another each time, and without how it is laid out.
fn words(line: &str) -> Vec<&str> {
    line.split(|c: char| c.is_whitespace() || "\",:{}()|".contains(c))
        .filter(|word| word.contains(char::is_alphanumeric))
        .map(|word| if word.starts_with(|c: char| c.is_ascii_digit()) { "#" } else { word })
        .collect()
}

#[test]
fn every_sql_block_of_the_readme_prints_what_it_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let blocks = blocks(&readme);
    assert!(blocks.iter().any(|block| !block.shown.is_empty()), "no blocks in {}", path.display());

    let server = Server::builder().start();
    let mut psql = server
        .client("psql")
        .args(["--no-psqlrc", "--set=ON_ERROR_STOP=1", "--dbname=postgres"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut script = String::new();
    for Block { line, sql, .. } in &blocks {
        script.push_str(&format!("\\echo {MARK}\n\\warn README.md line {line}\n{sql}\n"));
    }
    let mut input = psql.stdin.take().unwrap();
    // In a thread: psql stops reading while nobody takes what it prints.
    let writer = std::thread::spawn(move || input.write_all(script.as_bytes()));
    let output = psql.wait_with_output().unwrap();
    let written = writer.join().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}\n{errors}");
    written.unwrap();
    assert!(!errors.contains("ERROR:"), "{errors}");

    for (block, printed) in blocks.iter().zip(printed.split(MARK).skip(1)) {
        let lines: BTreeSet<Vec<&str>> = printed.lines().map(words).collect();
        for line in block.shown.lines() {
            let line_is_there = lines.contains(&words(line));
            assert!(line_is_there, "README.md line {}: {line}\n{printed}", block.line);
        }
    }
}

/// Between what blocks print.
const MARK: &str = "=== next block ===";

#[test]
fn blocks_are_told_from_other_text() {
    let markdown = "# x\n```sql\nSELECT 1;\n```\n\n```text\n 1\n```\ntext\n```sh\nmake demo\n```\n\n```text\n2\n```\n```sql\nSELECT 2;\nSELECT 3;\n```\nNo:\n```text\n3\n```\n";
    let block =
        |line, sql: &str, shown: &str| Block { line, sql: sql.to_owned(), shown: shown.to_owned() };
    assert_eq!(
        blocks(markdown),
        [block(3, "SELECT 1;\n", " 1\n"), block(18, "SELECT 2;\nSELECT 3;\n", "")]
    );
}

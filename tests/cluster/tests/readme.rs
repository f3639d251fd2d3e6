//! Every SQL block of README.md works as it stands, in order, against a fresh server.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use cluster_tests::Server;

/// The blocks fenced as ```sql, each with the line on which it begins.
fn sql_blocks(markdown: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in markdown.lines().enumerate() {
        match &mut open {
            Some(_) if line.trim() == "```" => blocks.extend(open.take()),
            Some((_, block)) => {
                block.push_str(line);
                block.push('\n');
            }
            None if line.trim() == "```sql" => open = Some((number + 2, String::new())),
            None => {}
        }
    }
    assert!(open.is_none(), "the last block has no end");
    blocks
}

#[test]
fn every_sql_block_of_the_readme_works() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let blocks = sql_blocks(&readme);
    assert!(!blocks.is_empty(), "no ```sql block in {}", path.display());

    let server = Server::builder().start();
    let mut psql = server
        .client("psql")
        .args(["--no-psqlrc", "--echo-queries", "--set=ON_ERROR_STOP=1", "--dbname=postgres"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut script = String::new();
    for (line, block) in &blocks {
        script.push_str(&format!("\\warn README.md line {line}\n{block}\n"));
    }
    let mut input = psql.stdin.take().unwrap();
    // In a thread: psql stops reading while nobody takes what it prints.
    let writer = std::thread::spawn(move || input.write_all(script.as_bytes()));
    let output = psql.wait_with_output().unwrap();
    let written = writer.join().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{errors}", String::from_utf8_lossy(&output.stdout));
    written.unwrap();
    assert!(!errors.contains("ERROR:"), "{errors}");
}

#[test]
fn blocks_are_told_from_other_text() {
    let markdown = "# x\n```sql\nSELECT 1;\n```\ntext\n```sh\nmake demo\n```\n```sql\nSELECT 2;\nSELECT 3;\n```\n";
    assert_eq!(
        sql_blocks(markdown),
        [(3, "SELECT 1;\n".to_owned()), (10, "SELECT 2;\nSELECT 3;\n".to_owned())]
    );
}

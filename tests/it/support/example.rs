//! Examples, run as programs.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The program of an example. `cargo test` builds examples beside the tests; `cargo test --test` does not.
pub fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().expect("a test has a binary");
    let example = tests.ancestors().nth(2).expect("it is in a folder").join("examples").join(name);
    let build = format!("run `cargo build --example {name}` first");
    let built = modified(&example).expect(&build);
    let sources = std::fs::read_to_string(example.with_extension("d")).expect(&build);
    let newer = sources.split_whitespace().find(|source| modified(Path::new(source)) > Some(built));
    assert_eq!(newer, None, "{build}: this is newer");
    example
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|file| file.modified()).ok()
}

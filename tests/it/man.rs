//! What packages take from the binary: manual pages and completions.

use crate::harness::cli::{good, run};
use clap::CommandFactory;
use postrider::cli::args::Cli;
use std::fs;
use tempfile::TempDir;

fn verbs() -> Vec<String> {
    let command = Cli::command();
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set()).map(|verb| verb.get_name().to_owned());
    let verbs: Vec<_> = verbs.collect();
    assert!(verbs.len() > 10, "{verbs:?}");
    verbs
}

#[tokio::test]
async fn there_is_a_page_for_each_verb_and_the_first_one_names_all() {
    let folder = TempDir::new().unwrap();
    let pages = folder.path().join("a/man1");
    good(folder.path(), &["man", pages.to_str().unwrap()]).await;
    let page = |name: &str| fs::read_to_string(pages.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let first = page("postrider.1");
    for verb in verbs() {
        // In a page a hyphen is written with a backslash.
        assert!(first.contains(&format!("postrider\\-{verb}(1)")), "{verb} in {first}");
        assert!(page(&format!("postrider-{verb}.1")).contains(".TH"), "{verb}");
    }
    assert!(page("postrider-serve.1").contains("public\\-url"));
    assert!(page("postrider-agents-revoke.1").contains(".TH"));
    for hidden in ["postrider-man.1", "postrider-help.1", "postrider-agents-help.1"] {
        assert!(!pages.join(hidden).exists(), "{hidden}");
    }
}

#[tokio::test]
async fn pages_that_cannot_be_written_are_told() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let ended = run(folder.path(), &["man", file.to_str().unwrap()]).await;
    assert_eq!(ended.code, Some(125));
    assert!(ended.stderr.contains(file.to_str().unwrap()), "{}", ended.stderr);
}

#[tokio::test]
async fn completions_of_each_shell_name_each_verb() {
    let folder = TempDir::new().unwrap();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = good(folder.path(), &["completions", shell]).await.out();
        for verb in verbs() {
            assert!(script.contains(&verb), "{verb} for {shell}");
        }
    }
}

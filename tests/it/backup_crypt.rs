//! Encrypted backups: whoever has the identity, and nobody else.

use crate::harness::cli::{good, run};
use crate::harness::eventually::eventually;
use crate::harness::process::{Process, postrider};
use crate::harness::raw_agent::Identity;
use crate::harness::server::TestServer;
use age::secrecy::ExposeSecret;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A new identity in a file, as `age-keygen` writes it, and its recipient.
fn identity(folder: &Path, name: &str) -> (PathBuf, String) {
    let (identity, file) = (age::x25519::Identity::generate(), folder.join(name));
    let recipient = identity.to_public().to_string();
    std::fs::write(&file, format!("# public key: {recipient}\n{}\n", identity.to_string().expose_secret())).unwrap();
    (file, recipient)
}

#[tokio::test]
async fn an_encrypted_backup_opens_with_its_identity_and_nothing_is_touched_without() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let [(key, recipient), (second_key, second), (other_key, _)] =
        ["key.txt", "second.txt", "other.txt"].map(|name| identity(folder.path(), name));
    let server = TestServer::start().await;
    Identity::enroll(&server.api, "very-private-name").await;
    let (plain, sealed) = (path("plain"), path("sealed.age"));
    good(server.data.path(), &["backup", text(&plain)]).await;
    let recipients = ["--recipient", &recipient, "--recipient", &second];
    let made =
        good(server.data.path(), &[&["backup", text(&sealed), "--json"], &recipients[..]].concat()).await.objects();
    assert_eq!(made[0]["encrypted"], true);
    let bytes = std::fs::read(&sealed).unwrap();
    let header = String::from_utf8_lossy(&bytes[..bytes.len().min(700)]);
    assert!(header.starts_with("age-encryption.org/v1\n"), "{header}");
    assert_eq!(header.matches("-> X25519 ").count(), 3, "theirs and the one that it was read back with: {header}");

    let to = path("restored");
    let refused = async |args: &[&str], words: &str| {
        let ended = run(&to, &[&["restore"], args].concat()).await;
        assert_eq!(ended.code, Some(125), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains(words), "{args:?}: {}", ended.stderr);
        assert!(!to.exists() && !path("restored.restoring").exists(), "{args:?}");
    };
    refused(&[text(&sealed)], "--identity FILE").await;
    refused(&[text(&sealed), "--identity", text(&other_key)], "for another identity").await;
    refused(&[text(&sealed), "--identity", text(&path("none"))], "No such file").await;
    refused(&[text(&sealed), "--identity", text(&plain)], "AGE-SECRET-KEY-1").await;
    refused(&[text(&plain), "--identity", text(&key)], "is not encrypted").await;
    std::fs::write(path("empty.txt"), "# nothing\n").unwrap();
    refused(&[text(&sealed), "--identity", text(&path("empty.txt"))], "there is none in it").await;
    let last = bytes.len() - 1;
    for place in [60, bytes.len() / 3, bytes.len() / 2, last] {
        let mut flipped = bytes.clone();
        flipped[place] ^= 1;
        std::fs::write(path("flipped"), flipped).unwrap();
        let ended = run(&to, &["restore", text(&path("flipped")), "--identity", text(&key)]).await;
        assert!(ended.code == Some(125) && !to.exists(), "{place}: {ended:?}");
    }
    for length in [100, bytes.len() / 2, last] {
        std::fs::write(path("cut"), &bytes[..length]).unwrap();
        refused(&[text(&path("cut")), "--identity", text(&key)], "is damaged").await;
    }
    std::fs::write(path("longer"), [bytes.as_slice(), b"more"].concat()).unwrap();
    refused(&[text(&path("longer")), "--identity", text(&key)], "is damaged").await;
    for (number, key) in [key, second_key].iter().enumerate() {
        let to = path(&format!("restored-{number}"));
        let said = good(&to, &["restore", text(&sealed), "--identity", text(key), "--json"]).await.objects();
        assert_eq!(said[0]["manifest"]["rows"]["agents"], 1);
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_no_recipient_is_told_before_anything_is_made() {
    let folder = TempDir::new().unwrap();
    let server = TestServer::start().await;
    let file = folder.path().join("one.age");
    let wrong = run(server.data.path(), &["backup", text(&file), "--recipient", "ssh-ed25519 AAAA"]).await;
    assert_eq!(wrong.code, Some(125));
    assert!(wrong.stderr.contains("is no recipient") && !file.exists(), "{}", wrong.stderr);
    server.stop().await;
    let mut serve = postrider();
    serve.arg("serve").arg("--data").arg(folder.path().join("server")).args(["--listen", "127.0.0.1:0"]);
    serve.arg("--backup-to").arg(folder.path()).args(["--backup-recipient", "age1nonsense"]);
    let mut refused = Process::spawn(serve, folder.path().join("log"));
    assert_eq!(refused.ended().await, Some(1));
    assert!(refused.printed().contains("\"age1nonsense\" is no recipient"), "{}", refused.printed());
}

#[tokio::test]
async fn the_clock_makes_encrypted_ones_too() {
    let folder = TempDir::new().unwrap();
    let (to, (key, recipient)) = (folder.path().join("to"), identity(folder.path(), "key.txt"));
    std::fs::create_dir(&to).unwrap();
    let server = TestServer::start_with(|config| {
        config.backup_to = Some(to.clone());
        config.backup_recipient = vec![recipient];
    })
    .await;
    let file = eventually("one is made", || async {
        let mut names = std::fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().path());
        names.find(|path| path.extension().is_some_and(|end| end == "age"))
    })
    .await;
    good(&folder.path().join("restored"), &["restore", text(&file), "--identity", text(&key)]).await;
    server.stop().await;
}

//! What `postrider upgrade` refuses, having changed nothing.

use crate::harness::small_disk::SmallDisk;
use crate::harness::upgrading::{FIRST, UpgradeHost, build};
use minisign::KeyPair;
use std::fs::{self, File};

/// The upgrade is refused with these words, and the server goes on as it was.
async fn refused(host: &UpgradeHost, args: &[&str], words: &[&str]) {
    let ended = host.upgrade(args).await;
    assert_eq!(ended.code, Some(125), "{ended:?}");
    for words in words {
        assert!(ended.stderr.contains(words), "{words:?} is not in {}", ended.stderr);
    }
    goes_on(host).await;
}

async fn goes_on(host: &UpgradeHost) {
    assert_eq!(host.link("current").as_deref(), Some(FIRST));
    assert_eq!(host.api().await.get("/readyz").await["status"], "ok");
    assert!(host.history().await.is_empty());
    assert!(!host.path("releases/upgrade.json").exists());
}

#[tokio::test]
async fn what_is_not_signed_by_the_configured_key_is_not_taken() {
    let host = UpgradeHost::start("nothing-0").await;
    let good = build("nothing-1");
    let file = host.unsigned(&good);
    let name = file.to_str().unwrap();
    refused(&host, &[name], &["new.minisig is not there", "what is not signed is not taken"]).await;
    host.sign(&file, &KeyPair::generate_unencrypted_keypair().unwrap());
    refused(&host, &[name], &["another key than the configured one"]).await;
    host.sign(&file, host.key());
    File::options().write(true).open(&file).unwrap().set_len(good.len() as u64 - 1).unwrap();
    refused(&host, &[name], &["is not what was signed: it is truncated"]).await;
    fs::write(host.path("new.minisig"), "nonsense").unwrap();
    refused(&host, &[name], &["no signature of minisign"]).await;
    refused(&host, &["/nonexistent/postrider"], &["/nonexistent/postrider"]).await;
    host.configure("");
    host.sign(&host.unsigned(&good), host.key());
    refused(&host, &[name], &["no key is configured", "release_key in", "postrider.toml"]).await;
}

#[tokio::test]
async fn an_executable_that_cannot_run_here_is_not_taken() {
    let host = UpgradeHost::start("nothing-0").await;
    let mut foreign = build("nothing-1");
    // e_machine of ELF.
    foreign[18..20].copy_from_slice(&if cfg!(target_arch = "aarch64") { 62u16 } else { 183 }.to_le_bytes());
    let file = host.unsigned(&foreign);
    host.sign(&file, host.key());
    let other = if cfg!(target_arch = "aarch64") { "linux-x86_64" } else { "linux-aarch64" };
    refused(&host, &[file.to_str().unwrap()], &[&format!("is for {other}, this host is linux-")]).await;
    // The right header and nothing behind it.
    let file = host.unsigned(&build("nothing-1")[..4096]);
    host.sign(&file, host.key());
    refused(&host, &[file.to_str().unwrap()], &["does not run here"]).await;
    let file = host.unsigned(b"#!/bin/sh\necho postrider 9.9.9\n");
    host.sign(&file, host.key());
    refused(&host, &[file.to_str().unwrap()], &["no executable that this program knows"]).await;
}

#[tokio::test]
async fn a_migration_that_fails_half_way_is_found_in_the_rehearsal() {
    let host = UpgradeHost::start("nothing-0").await;
    let file = host.signed("migration");
    let words = ["the new release would not start here, nothing was changed", "WRONG", "nonsense"];
    refused(&host, &[file.to_str().unwrap()], &words).await;
}

#[tokio::test]
async fn one_upgrade_at_a_time() {
    let host = UpgradeHost::start("nothing-0").await;
    let file = host.signed("nothing-1");
    let lock = File::options().create(true).append(true).open(host.path("releases/lock")).unwrap();
    lock.lock().unwrap();
    refused(&host, &[file.to_str().unwrap()], &["another upgrade is under way here"]).await;
    refused(&host, &["--rollback"], &["another upgrade is under way here"]).await;
    // The unit's look before a start leaves it alone.
    assert_eq!(host.upgrade(&["--recover"]).await.code, Some(0));
    drop(lock);
    assert_eq!(host.upgrade(&[file.to_str().unwrap()]).await.code, Some(0));
}

#[tokio::test]
async fn without_a_token_for_the_check_nothing_is_changed() {
    let host = UpgradeHost::start("nothing-0").await;
    let token = host.data().join("owner.token");
    let aside = host.path("token");
    let file = host.signed("nothing-1");
    let _ = host.api().await;
    fs::rename(&token, &aside).unwrap();
    let ended = host.upgrade(&[file.to_str().unwrap()]).await;
    assert_eq!(ended.code, Some(125), "{ended:?}");
    assert!(ended.stderr.contains("needs an owner's token"), "{}", ended.stderr);
    assert_eq!(host.link("current").as_deref(), Some(FIRST));
    let ended = host.upgrade(&[file.to_str().unwrap(), "--token-file", aside.to_str().unwrap()]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[tokio::test]
async fn a_full_disk_changes_nothing() {
    let host = UpgradeHost::start("nothing-0").await;
    let file = host.signed("nothing-1");
    let size = fs::metadata(&file).unwrap().len();
    // Where the backups go.
    let Some(disk) = SmallDisk::mount(1) else { return };
    fs::write(disk.path().join("filler"), vec![7; 1 << 20]).unwrap_or_default();
    let full = disk.path().to_str().unwrap();
    let mut command = host.command(&[file.to_str().unwrap()]);
    let args: Vec<_> = command.get_args().map(|arg| arg.to_owned()).collect();
    let args = args.iter().map(|arg| if *arg == *host.path("backups") { full.into() } else { arg.clone() });
    let mut other = std::process::Command::new(command.get_program());
    other.args(args);
    std::mem::swap(&mut command, &mut other);
    let ended = crate::harness::cli::run_with(command, b"").await;
    assert_eq!(ended.code, Some(125), "{ended:?}");
    assert!(ended.stderr.contains("the backup before the upgrade failed"), "{}", ended.stderr);
    goes_on(&host).await;
    drop(disk);
    // Where the releases are: there is room for the one that runs, and half of another.
    let Some(disk) = SmallDisk::mount(u32::try_from(size * 3 / 2 / (1 << 20)).unwrap()) else { return };
    let releases = host.path("releases");
    fs::create_dir(disk.path().join(FIRST)).unwrap();
    fs::copy(host.program(FIRST), disk.path().join(FIRST).join("postrider")).unwrap();
    std::os::unix::fs::symlink(FIRST, disk.path().join("current")).unwrap();
    fs::rename(&releases, host.path("aside")).unwrap();
    std::os::unix::fs::symlink(disk.path(), &releases).unwrap();
    refused(&host, &[file.to_str().unwrap()], &["No space left", "make room"]).await;
    fs::remove_file(&releases).unwrap();
    fs::rename(host.path("aside"), &releases).unwrap();
}

//! Whether what was fetched is what was offered, and may run here. All of it blocks.

use crate::protocol::upgrade::Offer;
use crate::release::{Platform, ReleaseKey, SIGNATURE_SUFFIX};
use crate::secret::hex;
use crate::version::Version;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long an executable may take to say its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(20);

/// Whether the offer may be taken at all, before anything is fetched.
///
/// # Errors
/// Why not, in a sentence.
pub fn may_take(offer: &Offer, here: Option<Platform>) -> Result<(), String> {
    let platform: Platform = offer.platform.parse().map_err(|error| format!("{error}"))?;
    match here {
        Some(here) if here == platform => {}
        Some(here) => return Err(format!("the release is for {platform}, and this host is {here}")),
        None => return Err("no release is for hosts of this kind".to_owned()),
    }
    let version: Version = offer.version.parse().map_err(|error| format!("{error}"))?;
    if version.precedence(&Version::own()).is_lt() && !offer.downgrade {
        return Err(format!("the release is {version}, older than what runs ({}): it is no upgrade", Version::own()));
    }
    Ok(())
}

/// Whether this file is the offered release, by the signature of the offer, which is written beside it.
///
/// # Errors
/// Why not, in a sentence.
pub fn verify(path: &Path, offer: &Offer, key: &ReleaseKey) -> Result<(), String> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(SIGNATURE_SUFFIX);
    let told = |error: &dyn std::fmt::Display| format!("the release is refused: {error}");
    std::fs::write(&beside, &offer.signature).map_err(|error| told(&error))?;
    let verified = key.verify(path);
    // Where it came from is of no use to anybody any more.
    let _ = std::fs::remove_file(&beside);
    let release = verified.map_err(|error| told(&error))?;
    if release.bytes != offer.bytes || hex(&release.sha256) != offer.sha256 {
        return Err(told(&"it is signed, but is another one than was offered"));
    }
    if release.platform.as_str() != offer.platform {
        return Err(told(&format!("it is for {}, and was offered for {}", release.platform, offer.platform)));
    }
    match Version::of_file(path).map_err(|error| told(&error))? {
        Some(version) if version.to_string() == offer.version => Ok(()),
        Some(version) => Err(told(&format!("it is {version}, and was offered as {}", offer.version))),
        None => Err(told(&"it does not say its version")),
    }
}

/// Whether it starts on this host at all: what a missing library or a folder without the right to execute would keep from it
/// is found while the old one still serves.
///
/// # Errors
/// Why not, in a sentence.
pub fn runs_here(path: &Path) -> Result<(), String> {
    let told = |why: String| format!("the release does not run on this host: {why}");
    let mut command = Command::new(path);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| told(error.to_string()))?;
    let until = Instant::now() + VERSION_TIMEOUT;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(told(format!("it did not say its version within {} s", VERSION_TIMEOUT.as_secs())));
            }
            Err(error) => return Err(told(error.to_string())),
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    let _ = child.stderr.take().map(|stderr| stderr.take(512).read_to_string(&mut said));
    Err(told(format!("it ended with {status}: {}", said.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ids::RolloutId;
    use crate::secret::sha256;
    use minisign::KeyPair;

    fn elf(machine: u8, version: &str) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(18, 0);
        bytes.extend([machine, 0]);
        bytes.resize(5000, 7);
        bytes.extend(format!("\x16postrider-version={version}\x16").into_bytes());
        bytes
    }

    fn offer(bytes: &[u8], pair: &KeyPair, version: &str) -> Offer {
        Offer {
            rollout: RolloutId::new(),
            attempt: 1,
            version: version.into(),
            platform: "linux-aarch64".into(),
            sha256: hex(&sha256(bytes)),
            bytes: bytes.len() as u64,
            signature: minisign::sign(None, &pair.sk, bytes, None, None).unwrap().into_string(),
            downgrade: false,
        }
    }

    #[test]
    fn only_what_was_offered_and_signed_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("release");
        let [ours, theirs] = [0; 2].map(|_| KeyPair::generate_unencrypted_keypair().unwrap());
        let key: ReleaseKey = ours.pk.to_base64().parse().unwrap();
        let good = elf(183, "1.2.3");
        let judge = |bytes: &[u8], offer: &Offer| {
            std::fs::write(&path, bytes).unwrap();
            verify(&path, offer, &key)
        };
        let offered = offer(&good, &ours, "1.2.3");
        assert_eq!(judge(&good, &offered), Ok(()));
        assert!(!folder.path().join("release.minisig").exists());
        let wrong = |bytes: &[u8], offer: &Offer, why: &str| {
            let told = judge(bytes, offer).unwrap_err();
            assert!(told.contains(why), "{told}");
        };
        wrong(&good[..good.len() - 1], &offered, "is not what was signed");
        wrong(&[&good[..], b"x"].concat(), &offered, "is not what was signed");
        wrong(&good, &offer(&good, &theirs, "1.2.3"), "another key");
        wrong(&good, &Offer { signature: String::new(), ..offered.clone() }, "no signature of minisign");
        wrong(&good, &Offer { sha256: "0".repeat(64), ..offered }, "another one than was offered");
        wrong(&good, &offer(&good, &ours, "1.2.4"), "it is 1.2.3, and was offered as 1.2.4");
        let pc = elf(62, "1.2.3");
        wrong(&pc, &offer(&pc, &ours, "1.2.3"), "it is for linux-x86_64, and was offered for linux-aarch64");
        let text = b"#!/bin/sh\n";
        wrong(text, &offer(text, &ours, "1.2.3"), "no executable");
    }

    #[test]
    fn what_is_for_another_platform_or_older_is_refused_before_it_is_fetched() {
        let pair = KeyPair::generate_unencrypted_keypair().unwrap();
        let here = Some(Platform::LinuxAarch64);
        let of = |version: &str| offer(b"", &pair, version);
        assert_eq!(may_take(&of("999.0.0"), here), Ok(()));
        assert_eq!(may_take(&of(env!("CARGO_PKG_VERSION")), here), Ok(()));
        assert!(
            may_take(&of("999.0.0"), Some(Platform::LinuxX86_64)).unwrap_err().contains("this host is linux-x86_64")
        );
        assert!(may_take(&of("999.0.0"), None).is_err());
        assert!(may_take(&of("0.0.1"), here).unwrap_err().contains("older than what runs"));
        assert_eq!(may_take(&Offer { downgrade: true, ..of("0.0.1") }, here), Ok(()));
        assert!(may_take(&of("new"), here).is_err());
    }

    #[test]
    #[cfg(unix)]
    fn what_does_not_start_here_is_told() {
        assert_eq!(runs_here(Path::new("/bin/true")), Ok(()));
        assert!(runs_here(Path::new("/bin/false")).unwrap_err().contains("exit status: 1"));
        assert!(runs_here(Path::new("/nowhere")).unwrap_err().contains("does not run on this host"));
    }
}

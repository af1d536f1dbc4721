//! Where a journal lies: what changes when its data folder is copied to another host or another place, or the host's
//! disk is cloned. A journal that finds itself in another place does not pass for the one that the server knows.

use crate::secret::{hex, sha256};
use std::path::Path;

/// What names a host, beside the file itself. The first survives a clone of the disk if nobody takes care; the second
/// does not survive a clone of a virtual machine, and only root reads it.
const HOST_FILES: [&str; 2] = ["/etc/machine-id", "/sys/class/dmi/id/product_uuid"];

/// The place of this file, as a hash: host and number of the file. What cannot be read counts as empty. Boots, names
/// and addresses do not count: they change by themselves.
pub fn place(path: &Path) -> String {
    let host: Vec<String> =
        HOST_FILES.iter().map(|path| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()).collect();
    hex(&sha256(format!("{}\n{}", host.join("\n"), file_number(path)).as_bytes()))
}

#[cfg(unix)]
fn file_number(path: &Path) -> u64 {
    std::fs::metadata(path).map(|metadata| std::os::unix::fs::MetadataExt::ino(&metadata)).unwrap_or_default()
}

#[cfg(not(unix))]
fn file_number(_path: &Path) -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn a_copy_lies_in_another_place_and_a_rewritten_file_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let [original, copy] = ["a", "b"].map(|name| folder.path().join(name));
        std::fs::write(&original, "one").unwrap();
        std::fs::copy(&original, &copy).unwrap();
        let before = place(&original);
        assert_ne!(before, place(&copy));
        std::fs::write(&original, "two").unwrap();
        assert_eq!(before, place(&original));
    }
}

//! A small file system of its own, where we may mount one, that a test can fill.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A mounted tmpfs.
pub struct SmallDisk(TempDir);

impl SmallDisk {
    /// Of so many MiB; none, and a word about it: we may not.
    pub fn mount(mebibytes: u32) -> Option<Self> {
        let disk = Self(TempDir::new().unwrap());
        let mounted = disk.set(&format!("size={mebibytes}m"));
        if !mounted {
            eprintln!("skipped: mounting a small file system needs root");
        }
        mounted.then_some(disk)
    }

    fn set(&self, options: &str) -> bool {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(self.path());
        command.output().is_ok_and(|output| output.status.success())
    }

    /// Mounts it anew with other options.
    pub fn remount(&self, options: &str) {
        assert!(self.set(&format!("remount,{options}")), "{options}");
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The file that [`fill`](Self::fill) makes: without it there is room again.
    pub fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Fills it to the last page but for `left` bytes.
    pub fn fill(&self, left: u64) {
        let mut filler = File::options().create(true).append(true).open(self.filler()).unwrap();
        while filler.write_all(&[0; 4096]).is_ok() {}
        let length = filler.metadata().unwrap().len();
        filler.set_len(length - left).unwrap();
    }

    /// Makes room again.
    pub fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).output();
    }
}

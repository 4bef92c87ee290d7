//! A small disk of its own that can be full.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system in memory, gone when dropped.
pub(super) struct Disk(PathBuf);

impl Disk {
    /// Of so many MiB, on a new folder.
    pub(super) fn mount(path: &Path, mebibytes: u32) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let size = format!("size={mebibytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).status().unwrap();
        assert!(mounted.success(), "only root can mount a small disk");
        Self(path.to_path_buf())
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Leaves no room.
    pub(super) fn fill(&self) {
        self.fill_but(0);
    }

    /// Leaves room for so many KiB.
    pub(super) fn fill_but(&self, kibibytes: u64) {
        let reserve = self.0.join("reserve");
        std::fs::write(&reserve, vec![0; 1_024 * kibibytes as usize]).unwrap();
        let mut ballast = File::create(self.ballast()).unwrap();
        // Pages at a time: not even the last one is left.
        while ballast.write_all(&[0; 4_096]).is_ok() {}
        std::fs::remove_file(reserve).unwrap();
    }

    /// Gives the room back.
    pub(super) fn empty(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A process that was just killed may hold a file for a moment more.
        drop(Command::new("umount").arg("--lazy").arg(&self.0).status());
    }
}

//! What a verb with children of its own leaves in its temporary folder.

use super::eventually::eventually;
use std::path::{Path, PathBuf};

/// The processes that name `folder` in their arguments: a server and agents, and what they run. Their ids and arguments.
pub fn children(folder: &Path) -> Vec<(String, String)> {
    let folder = folder.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| {
        let line = std::fs::read(process.path().join("cmdline")).ok()?;
        Some((process.file_name().into_string().ok()?, String::from_utf8_lossy(&line).replace('\0', " ")))
    });
    lines.filter(|(_, line)| line.contains(folder)).collect()
}

/// The id of the server among them.
pub fn server_in(folder: &Path) -> Option<String> {
    children(folder).into_iter().find(|(_, line)| line.contains(" serve ")).map(|(id, _)| id)
}

/// Waits until there are so many.
pub async fn until_children(folder: &Path, count: usize) {
    let what = format!("{count} processes in {}", folder.display());
    eventually(&what, || async { (children(folder).len() == count).then_some(()) }).await;
}

/// What lies in the folder.
pub fn left_in(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Nothing lies or runs there any more.
pub async fn nothing_left(folder: &Path) {
    assert_eq!(left_in(folder), Vec::<PathBuf>::new());
    until_children(folder, 0).await;
}

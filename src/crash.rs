//! Points at which a test ends this process as `kill -9` would, where nothing is flushed and nothing is dropped; and ways in which
//! a test breaks a build.
//!
//! `POSTRIDER_CRASH_AT=agent.accepted` names the point, `agent.accepted:5` its fifth pass. A build is broken by the last line of
//! its own file, `postrider-break=NAME`. Debug builds only: in a release build a point is nothing and nothing is broken, so that
//! no environment variable can end a server that is in use.

/// The process ends here if the environment says so.
#[cfg(all(debug_assertions, unix))]
pub fn point(name: &str) {
    use nix::sys::signal::{Signal, kill};
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static WANTED: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static PASSES: AtomicU32 = AtomicU32::new(0);
    let wanted = WANTED.get_or_init(|| std::env::var("POSTRIDER_CRASH_AT").ok().map(|text| parse(&text)));
    if let Some((point, pass)) = wanted
        && point == name
        && PASSES.fetch_add(1, Ordering::Relaxed) + 1 == *pass
    {
        let _ = kill(nix::unistd::getpid(), Signal::SIGKILL);
    }
}

/// Whether a test broke this build in that way.
#[cfg(all(debug_assertions, unix))]
pub fn is_broken(name: &str) -> bool {
    use std::sync::OnceLock;

    static BROKEN: OnceLock<Option<String>> = OnceLock::new();
    BROKEN
        .get_or_init(|| last_line().and_then(|line| Some(line.strip_prefix("postrider-break=")?.to_owned())))
        .as_deref()
        == Some(name)
}

/// What a test says in the environment; in a release build nobody says anything.
pub fn said(variable: &str) -> Option<String> {
    if cfg!(all(debug_assertions, unix)) { std::env::var(variable).ok() } else { None }
}

/// A place where a test has this process fail: `POSTRIDER_FAULT=trial.panic` panics in the place `trial`, `trial.mute` stays
/// there until the process is asked to stop. Debug builds only.
pub async fn fault(place: &str, stop: &tokio_util::sync::CancellationToken) {
    match said("POSTRIDER_FAULT").as_deref().and_then(|text| text.strip_prefix(place)) {
        Some(".panic") => panic!("a fault that a test asked for"),
        Some(".mute") => stop.cancelled().await,
        _ => {}
    }
}

/// Nothing.
#[cfg(not(all(debug_assertions, unix)))]
#[inline(always)]
pub fn point(_name: &str) {}

/// It is not.
#[cfg(not(all(debug_assertions, unix)))]
#[inline(always)]
pub fn is_broken(_name: &str) -> bool {
    false
}

/// The last line of our own file, if it has one.
#[cfg(all(debug_assertions, unix))]
fn last_line() -> Option<String> {
    use std::io::{Read, Seek, SeekFrom};

    let mut file = std::fs::File::open(std::env::current_exe().ok()?).ok()?;
    file.seek(SeekFrom::End(-80)).ok()?;
    let mut end = Vec::new();
    file.read_to_end(&mut end).ok()?;
    let end = String::from_utf8_lossy(&end).into_owned();
    end.strip_suffix('\n')?.rsplit('\n').next().map(str::to_owned)
}

#[cfg(all(debug_assertions, unix))]
fn parse(text: &str) -> (String, u32) {
    let (point, pass) = text.split_once(':').unwrap_or((text, "1"));
    (point.to_owned(), pass.parse().unwrap_or(1))
}

#[cfg(all(test, debug_assertions, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_point_has_a_name_and_may_have_a_pass() {
        assert_eq!(parse("agent.accepted"), ("agent.accepted".to_owned(), 1));
        assert_eq!(parse("agent.accepted:5"), ("agent.accepted".to_owned(), 5));
        assert!(!is_broken("start"));
    }
}

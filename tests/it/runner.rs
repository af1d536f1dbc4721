//! Commands on real processes, through the real supervising child.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postrider::agent::runner::control::{Cause, Launch, Order, Report, Supervisor, Word};
use postrider::agent::runner::drain::End;
use postrider::agent::runner::hand_over;
use postrider::agent::runner::process::{Orders, Process};
use postrider::agent::runner::report::outcome;
use postrider::agent::spool::Spool;
use postrider::protocol::ids::DeliveryId;
use postrider::protocol::outcome::Outcome;
use postrider::protocol::output::Stream;
use postrider::protocol::secret_env::SecretEnv;
use postrider::protocol::spec::{Shell, Spec};
use postrider::protocol::state::State;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// The real binary's supervising verb.
pub fn supervisor() -> Supervisor {
    Supervisor { program: PathBuf::from(env!("CARGO_BIN_EXE_postrider")), args: vec!["supervise".to_owned()] }
}

fn line(command: &str) -> Spec {
    serde_json::from_value(serde_json::json!({
        "v": 1, "command": command, "timeout_ms": 60_000, "not_after_ms": i64::MAX,
    }))
    .unwrap()
}

/// A command under way.
struct Running {
    folder: tempfile::TempDir,
    spec: Spec,
    spool: Arc<Spool>,
    orders: Orders,
    ended: oneshot::Receiver<(End, Option<Process>)>,
}

fn start(spec: Spec) -> Running {
    start_with_grace(spec, 60_000)
}

fn start_with_grace(spec: Spec, grace_ms: u64) -> Running {
    start_on(Process::prepare(&supervisor()).unwrap(), spec, grace_ms)
}

fn start_on(process: Process, spec: Spec, grace_ms: u64) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let spool = Arc::new(Spool::new(folder.path(), DeliveryId::new(), spec.output_bytes_max));
    let (sender, ended) = oneshot::channel();
    let (teller, told) = oneshot::channel();
    let (orders, output) = (process.orders().unwrap(), Arc::clone(&spool));
    let launch = Launch { grace_ms, ..Launch::new(spec.clone(), SecretEnv::default()) };
    std::thread::spawn(move || process.run(launch, &output, || (), teller, sender));
    told.blocking_recv().unwrap();
    Running { folder, spec, spool, orders, ended }
}

impl Running {
    fn end(self) -> Ended {
        let (end, process) = self.ended.blocking_recv().unwrap();
        self.spool.settle();
        let outcome = outcome(end, &self.spec, &self.spool);
        Ended { _folder: self.folder, outcome, spool: self.spool, process }
    }

    /// Waits until standard output holds a whole line, and gives it.
    fn first_line(&self) -> String {
        eventually(|| {
            let (_, length) = self.spool.available(Stream::Stdout, 0)?;
            let bytes = self.spool.read(Stream::Stdout, 0, usize::try_from(length).unwrap()).unwrap();
            String::from_utf8_lossy(&bytes).split_once('\n').map(|(line, _)| line.to_owned())
        })
    }
}

struct Ended {
    _folder: tempfile::TempDir,
    outcome: Outcome,
    spool: Arc<Spool>,
    /// The supervising child, if it takes another command.
    process: Option<Process>,
}

impl Ended {
    fn bytes(&self, stream: Stream) -> Vec<u8> {
        let (mut from, mut all) = (0, Vec::new());
        while let Some((offset, length)) = self.spool.available(stream, from) {
            all.extend(self.spool.read(stream, offset, usize::try_from(length).unwrap()).unwrap());
            from = offset + length;
        }
        all
    }

    fn stdout(&self) -> String {
        String::from_utf8(self.bytes(Stream::Stdout)).unwrap()
    }

    fn reason(&self) -> &str {
        self.outcome.reason.as_deref().unwrap_or("")
    }
}

fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..6000 {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it did not happen within a minute");
}

fn is_gone(pid: i32) -> bool {
    // A zombie whose parent has not looked yet has ended too.
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.is_empty() || state.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
}

#[test]
fn exit_codes_and_signals_are_the_processs_own() {
    let good = start(line("echo out; echo err >&2")).end();
    assert_eq!((good.outcome.state, good.outcome.exit_code), (State::Succeeded, Some(0)));
    assert_eq!((good.stdout().as_str(), good.bytes(Stream::Stderr)), ("out\n", b"err\n".to_vec()));
    assert!(good.outcome.duration_ms.is_some() && good.outcome.reason.is_none());
    let bad = start(line("exit 7")).end();
    assert_eq!((bad.outcome.state, bad.outcome.exit_code), (State::Failed, Some(7)));
    let killed = start(line("kill -9 $$")).end();
    assert_eq!((killed.outcome.state, killed.outcome.exit_code, killed.outcome.signal), (State::Failed, None, Some(9)));
}

#[test]
fn an_end_by_a_signal_without_a_name_is_an_end() {
    let ended = start(line("kill -40 $$")).end();
    assert_eq!((ended.outcome.state, ended.outcome.exit_code), (State::Failed, None));
}

#[test]
fn orphans_are_reaped_while_the_command_runs() {
    let orphans = "i=0; while [ $i -lt 100 ]; do (true &); i=$((i + 1)); done";
    let reaped = "until [ $(wc -w < /proc/$PPID/task/$PPID/children) -eq 1 ]; do sleep 0.01; done";
    assert_eq!(start(line(&format!("{orphans}; {reaped}"))).end().outcome.state, State::Succeeded);
}

#[test]
fn a_process_gets_exactly_what_is_specified() {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = line("pwd; echo \"$A\"; cat; ls -l /proc/self/fd | grep -c socket");
    spec.cwd = Some(folder.path().to_str().unwrap().to_owned());
    spec.env.insert("A".into(), "x y".into());
    spec.stdin = Some("from stdin\n".into());
    let ended = start(spec).end();
    assert_eq!(ended.stdout(), format!("{}\nx y\nfrom stdin\n0\n", folder.path().display()));
    let mut spec = line("x");
    spec.command = None;
    spec.argv = Some(["printf", "%s|", "a b", "", "$HOME"].map(str::to_owned).to_vec());
    assert_eq!(start(spec).end().stdout(), "a b||$HOME|");
    assert_eq!(start(line("cat; exec sleep 0")).end().outcome.state, State::Succeeded);
}

#[test]
fn signals_are_as_the_command_expects_them() {
    // Neither blocked nor ignored, though the supervising child ignores the one and blocks the other.
    let ended = start(line("grep -E '^Sig(Blk|Ign)' /proc/self/status")).end();
    for text in ended.stdout().lines() {
        let mask = u64::from_str_radix(text.split_whitespace().nth(1).unwrap(), 16).unwrap();
        for signal in [Signal::SIGPIPE, Signal::SIGTERM, Signal::SIGCHLD] {
            assert_eq!(mask & (1 << (signal as i32 - 1)), 0, "{signal}: {text}");
        }
    }
}

#[test]
fn more_text_than_a_pipe_holds_arrives_whole() {
    let mut spec = line("sleep 0.1; wc -c");
    spec.stdin = Some("x".repeat(200_000));
    assert_eq!(start(spec).end().stdout().trim(), "200000");
    let mut spec = line("wc -c");
    spec.stdin = Some(String::new());
    assert_eq!(start(spec).end().stdout().trim(), "0");
}

#[test]
fn unread_stdin_does_no_harm() {
    let mut spec = line("true");
    spec.stdin = Some("x".repeat(200_000));
    assert_eq!(start(spec).end().outcome.state, State::Succeeded);
}

#[test]
fn what_cannot_be_started_says_why() {
    let mut spec = line("true");
    spec.cwd = Some("/no/such/folder".into());
    let ended = start(spec).end();
    assert_eq!(ended.outcome.state, State::Failed);
    assert_eq!(ended.reason(), "the working folder /no/such/folder does not exist");
    let mut spec = line("x");
    spec.command = None;
    spec.argv = Some(vec!["no-such-program".into()]);
    assert_eq!(start(spec).end().reason(), "the program no-such-program does not exist");
    let mut spec = line("x");
    spec.shell = Some(Shell::Cmd);
    assert_eq!(start(spec).end().reason(), "the shell cmd is not installed");
    let mut spec = line("x");
    spec.command = None;
    spec.argv = Some(vec!["/etc/passwd".into()]);
    assert!(start(spec).end().reason().starts_with("the program /etc/passwd may not be executed"));
}

#[test]
fn the_timeout_kills_children_that_left_the_session() {
    let mut spec = line("setsid sh -c 'echo $$; exec sleep 600' & wait");
    spec.timeout_ms = 500;
    let running = start(spec);
    let grandchild: i32 = running.first_line().parse().unwrap();
    let ended = running.end();
    assert_eq!(ended.outcome.state, State::TimedOut);
    assert_eq!(ended.reason(), "killed with all its processes after 0.5 s");
    assert!(is_gone(grandchild));
}

#[test]
fn orphans_of_orphans_die_at_cancel() {
    let command = "(setsid sh -c '(setsid sh -c \"trap : TERM; echo \\$\\$; while :; do sleep 600; done\" &) ; exit' &) ; sleep 600";
    let running = start(line(command));
    let orphan: i32 = running.first_line().parse().unwrap();
    running.orders.end(Cause::Cancel, Duration::from_millis(100)).unwrap();
    let ended = running.end();
    assert_eq!(ended.outcome.state, State::Cancelled);
    assert!(is_gone(orphan));
}

#[test]
fn a_command_that_ignores_the_polite_signal_is_killed() {
    let running = start(line("trap '' TERM; echo $$; while :; do sleep 600; done"));
    let pid: i32 = running.first_line().parse().unwrap();
    running.orders.end(Cause::Cancel, Duration::from_millis(100)).unwrap();
    let ended = running.end();
    assert_eq!((ended.outcome.state, ended.outcome.signal), (State::Cancelled, Some(9)));
    assert!(is_gone(pid));
}

#[test]
fn the_polite_signal_leaves_time_to_clean_up_and_speak() {
    // Said by what is born last: a child born after the signal would not have it.
    let running = start(line("trap 'echo cleaned; exit 3' TERM; sh -c 'echo ready; exec sleep 600' & wait"));
    assert_eq!(running.first_line(), "ready");
    running.orders.end(Cause::Cancel, Duration::from_secs(60)).unwrap();
    let ended = running.end();
    assert_eq!((ended.outcome.state, ended.outcome.exit_code), (State::Cancelled, None));
    assert_eq!(ended.stdout(), "ready\ncleaned\n");
}

#[test]
fn a_stopped_process_is_ended_too() {
    let running = start(line("echo $$; kill -STOP $$; sleep 600"));
    let pid: i32 = running.first_line().parse().unwrap();
    running.orders.end(Cause::Stop, Duration::from_millis(100)).unwrap();
    assert_eq!(running.end().outcome.state, State::Interrupted);
    assert!(is_gone(pid));
}

#[test]
fn a_background_process_that_holds_the_output_is_left_running() {
    let running = start(line("sleep 600 & echo $!"));
    let ended = running.end();
    assert_eq!((ended.outcome.state, ended.outcome.exit_code), (State::Succeeded, Some(0)));
    assert_eq!(ended.reason(), "a background process kept the output open; it was left running");
    let background: i32 = ended.stdout().trim().parse().unwrap();
    assert!(!is_gone(background));
    kill(Pid::from_raw(background), Signal::SIGKILL).unwrap();
}

#[test]
fn binary_output_comes_as_it_is() {
    let ended = start(line("head -c 100000 /dev/urandom | tee /dev/stderr")).end();
    assert_eq!(ended.bytes(Stream::Stdout), ended.bytes(Stream::Stderr));
    assert_eq!(ended.outcome.stdout.bytes, 100_000);
}

#[test]
fn a_hundred_megabytes_keep_their_beginning_and_their_end() {
    let running = start(line("echo first; head -c 100000000 /dev/zero; echo last"));
    let folder = running.folder.path().to_owned();
    let ended = running.end();
    assert_eq!(ended.outcome.state, State::Succeeded);
    let (summary, limit) = (ended.outcome.stdout, 1024 * 1024);
    assert_eq!((summary.bytes, summary.dropped), (100_000_011, 100_000_011 - limit));
    let kept = ended.bytes(Stream::Stdout);
    assert!(kept.starts_with(b"first\n\0") && kept.ends_with(b"\0last\n") && kept.len() as u64 == limit);
    assert!(size(&folder) <= limit);
}

fn size(folder: &Path) -> u64 {
    std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

/// A supervising child to which a test is the agent.
fn by_hand(theirs: UnixStream) -> Child {
    let mut command = Command::new(supervisor().program);
    command.arg("supervise").stdin(Stdio::from(OwnedFd::from(theirs))).spawn().unwrap()
}

#[test]
fn a_command_dies_with_its_agent() {
    let (agent, theirs) = UnixStream::pair().unwrap();
    let mut supervising = by_hand(theirs);
    let spec = line("trap '' TERM; setsid sleep 600 & echo $$ $!; while :; do sleep 600; done");
    let launch = Word::Launch(Box::new(Launch::new(spec, SecretEnv::default())));
    let (stdout, its_stdout) = std::io::pipe().unwrap();
    let words = serde_json::to_string(&launch).unwrap() + "\n";
    hand_over::send(&agent, words.as_bytes(), [its_stdout.as_fd(), its_stdout.as_fd()]).unwrap();
    drop(its_stdout);
    let mut pids = String::new();
    BufReader::new(stdout).read_line(&mut pids).unwrap();
    // What a crash of the agent does.
    drop(agent);
    supervising.wait().unwrap();
    for pid in pids.split_whitespace() {
        assert!(is_gone(pid.parse().unwrap()));
    }
}

#[test]
fn an_order_that_comes_in_one_breath_with_the_launch_is_obeyed() {
    let (agent, theirs) = UnixStream::pair().unwrap();
    let mut supervising = by_hand(theirs);
    let launch = Launch { grace_ms: 60_000, ..Launch::new(line("sleep 600"), SecretEnv::default()) };
    // One for another run is not for this one.
    let late = Order { run: 7, end: Cause::Timeout, grace_ms: 0 };
    let order = Order { run: 0, end: Cause::Cancel, grace_ms: 60_000 };
    let words = [Word::End(late), Word::Launch(Box::new(launch)), Word::End(late), Word::End(order)];
    let words = words.map(|word| serde_json::to_string(&word).unwrap() + "\n").concat();
    let nothing = std::fs::File::options().write(true).open("/dev/null").unwrap();
    hand_over::send(&agent, words.as_bytes(), [nothing.as_fd(), nothing.as_fd()]).unwrap();
    let reports: Vec<String> = BufReader::new(&agent).lines().map(Result::unwrap).collect();
    let ended = serde_json::from_str(&reports[1]).unwrap();
    assert!(matches!(ended, Report::Ended { cause: Some(Cause::Cancel), signal: Some(15), .. }), "{ended:?}");
    supervising.wait().unwrap();
}

#[test]
fn a_supervising_child_takes_one_command_after_another_and_mixes_nothing_up() {
    let mut process = Process::prepare(&supervisor()).unwrap();
    let (mut parents, mut files, mut late) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for round in 0..5 {
        let mut spec = line(&format!("cat; echo $PPID; echo {round} >&2; ls /proc/self/fd | wc -w; exit {round}"));
        spec.stdin = Some("x".repeat(round * 1000) + "\n");
        late.push(process.orders().unwrap());
        let ended = start_on(process, spec, 60_000).end();
        assert_eq!(ended.outcome.exit_code, Some(i32::try_from(round).unwrap()), "{:?}", ended.outcome);
        let stdout = ended.stdout();
        let lines: Vec<_> = stdout.lines().collect();
        assert_eq!(lines[0].len(), round * 1000);
        assert_eq!(ended.bytes(Stream::Stderr), format!("{round}\n").into_bytes());
        parents.insert(lines[1].to_owned());
        files.insert(lines[2].to_owned());
        process = ended.process.expect("nothing is left of it");
    }
    assert_eq!((parents.len(), files.len()), (1, 1), "one child, and no file more in a later command: {files:?}");
    // What comes too late for one ends no other.
    let running = start_on(process, line("echo here; sleep 0.2; trap '' TERM; echo done"), 60_000);
    running.first_line();
    for orders in late {
        orders.end(Cause::Cancel, Duration::ZERO).unwrap();
    }
    let ended = running.end();
    assert_eq!((ended.outcome.state, ended.stdout().as_str()), (State::Succeeded, "here\ndone\n"));
}

#[test]
fn a_supervising_child_of_which_something_is_left_takes_nothing_more() {
    let background = start(line("sleep 600 >/dev/null 2>&1 & echo $!")).end();
    assert!(background.process.is_none());
    kill(Pid::from_raw(background.stdout().trim().parse().unwrap()), Signal::SIGKILL).unwrap();
    let timed_out = start(Spec { timeout_ms: 50, ..line("sleep 600") }).end();
    assert_eq!(timed_out.outcome.state, State::TimedOut);
    assert!(timed_out.process.is_none());
    assert!(start(line("exit 3")).end().process.is_some());
}

#[test]
fn signals_reach_each_command_of_a_supervising_child() {
    let first = start(line("true")).end();
    let second = start_on(first.process.unwrap(), line("kill -TERM $$; echo alive"), 60_000).end();
    assert_eq!((second.outcome.signal, second.stdout().as_str()), (Some(15), ""));
}

#[test]
fn a_command_whose_supervising_child_is_killed_dies_too() {
    let running = start(line("echo $$; while :; do sleep 600; done"));
    let pid: i32 = running.first_line().parse().unwrap();
    let supervising = Pid::from_raw(parent_of(pid));
    // It does not care for signals that stop services.
    kill(supervising, Signal::SIGTERM).unwrap();
    kill(supervising, Signal::SIGKILL).unwrap();
    let ended = running.end();
    assert_eq!(ended.outcome.state, State::Interrupted);
    assert_eq!(ended.reason(), "its supervising process died; the command may or may not have completed");
    eventually(|| is_gone(pid).then_some(()));
}

fn parent_of(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().parse().unwrap()
}

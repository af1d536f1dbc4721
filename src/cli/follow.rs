//! Following a command to its end: live output, what is waited for, the outcome.
//!
//! Following only watches: leaving it (Ctrl-C, a closed terminal) changes nothing for the command.

use super::client::ApiClient;
use super::error::{About, CliError};
use super::feed::{Feed, News};
use super::out;
use super::printer::Printer;
use super::text::clean;
use super::waiting;
use crate::clock::Clock;
use crate::protocol::http::{AgentResponse, CommandResponse, DeliveryResponse, OutputEvent, TransitionEvent};
use crate::protocol::ids::{AgentId, CommandId};
use crate::protocol::output::Stream;
use crate::protocol::state::State;
use crate::tasks::Tasks;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Silence after which it is said what is waited for.
const QUIET: Duration = Duration::from_secs(2);
/// How often that is looked up again. Each look-up reads the whole command, so large ones are read less often.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
const LOOK_AGAIN_LARGE: Duration = Duration::from_secs(60);
const LARGE: usize = 200;
/// Agents that are asked about for one status line.
const LOOK_AGENTS_MAX: usize = 3;

/// What to show.
#[derive(Clone, Copy, Debug, Default)]
pub struct Show {
    /// Events as JSON, one a line, instead of output.
    pub json: bool,
    /// Output of this agent only.
    pub agent: Option<AgentId>,
    /// Output of this stream only.
    pub stream: Option<Stream>,
}

/// How following ended.
#[derive(Debug)]
pub enum Followed {
    /// The command has ended.
    Ended(Box<CommandResponse>),
    /// The person left; the command goes on.
    Left,
}

/// An event as `--json` prints it.
#[derive(Serialize)]
struct JsonEvent<'a, T> {
    event: &'a str,
    data: &'a T,
}

/// Follows `command` until it has ended or `leave` is cancelled.
///
/// # Errors
/// [`CliError::GaveUp`], [`CliError::StdoutClosed`], or the server's answer to being asked for the events.
pub async fn follow(
    client: &ApiClient,
    tasks: &Tasks,
    command: CommandResponse,
    show: Show,
    leave: &CancellationToken,
) -> Result<Followed, CliError> {
    let feed = Feed::start(client, command.id, None, tasks);
    let mut follower = Follower {
        client,
        tasks,
        printer: Printer::new(&command.deliveries),
        feed,
        show,
        command,
        clock: Clock::system(),
        said: None,
        silent_ends: 0,
    };
    let followed = follower.watch(leave).await;
    follower.printer.clear_status();
    followed
}

struct Follower<'a> {
    client: &'a ApiClient,
    tasks: &'a Tasks,
    printer: Printer,
    feed: Feed,
    show: Show,
    /// As of the latest news.
    command: CommandResponse,
    clock: Clock,
    /// What was said last without a status line.
    said: Option<String>,
    /// How often the command had ended and the stream had not said so.
    silent_ends: u32,
}

enum Step {
    News(Option<News>),
    Looked(Option<Looked>),
    Leave,
}

/// Where the command stands, looked up because nothing came for a while.
struct Looked {
    command: CommandResponse,
    /// Those of the first deliveries that have not ended, as far as they could be asked about.
    agents: Vec<AgentResponse>,
}

impl Follower<'_> {
    async fn watch(&mut self, leave: &CancellationToken) -> Result<Followed, CliError> {
        let (client, id) = (self.client, self.command.id);
        let mut look_at = Instant::now() + QUIET;
        if self.command.awaits_approval() && !self.show.json {
            self.say(&waiting::approval(id));
        }
        loop {
            let step = tokio::select! {
                biased;
                () = leave.cancelled() => Step::Leave,
                news = self.feed.next() => Step::News(news),
                // News end it, half done or not: it only reads.
                looked = look(client, id, look_at) => Step::Looked(looked),
            };
            let ended = match step {
                Step::Leave => {
                    self.printer.end_all()?;
                    return Ok(Followed::Left);
                }
                Step::News(Some(news)) => {
                    look_at = Instant::now() + QUIET;
                    self.handle(news)?
                }
                Step::News(None) => {
                    return Err(CliError::Answer {
                        url: client.url().to_string(),
                        message: "the events ended before the command".to_owned(),
                    });
                }
                Step::Looked(looked) => {
                    let is_large = self.command.deliveries.len() > LARGE;
                    look_at = Instant::now() + if is_large { LOOK_AGAIN_LARGE } else { LOOK_AGAIN };
                    // An unreachable server is the feed's to tell.
                    looked.and_then(|looked| self.compare(looked))
                }
            };
            if let Some(command) = ended {
                self.printer.end_all()?;
                return Ok(Followed::Ended(command));
            }
        }
    }

    fn handle(&mut self, news: News) -> Result<Option<Box<CommandResponse>>, CliError> {
        match news {
            News::Transition(event) => self.transition(&event)?,
            News::Output(event) => self.output(&event)?,
            News::End(command) => return Ok(Some(command)),
            News::Lost(how) => self.printer.note(&format!("postrider: {how}; the command goes on, connecting again")),
            News::Back => self.printer.note("postrider: connected again"),
            News::Failed(error) => return Err(error),
        }
        Ok(None)
    }

    fn transition(&mut self, event: &TransitionEvent) -> Result<(), CliError> {
        if self.show.json {
            return out::json(&JsonEvent { event: "transition", data: event });
        }
        let Ok(state) = event.transition.event.parse::<State>() else {
            if event.transition.event == "approved" {
                self.approved(event);
            }
            return Ok(());
        };
        if let Some(delivery) = self.command.deliveries.iter_mut().find(|delivery| delivery.id == event.delivery) {
            delivery.state = state;
            if state == State::Running {
                delivery.started_ms = Some(event.transition.at_ms);
            }
        }
        if state.is_terminal() {
            self.printer.end(event.delivery)?;
        }
        Ok(())
    }

    /// Every delivery tells of the approval; it is said once.
    fn approved(&mut self, event: &TransitionEvent) {
        let by = event.transition.cause.clone().unwrap_or_default();
        for delivery in self.command.deliveries.iter_mut().filter(|delivery| delivery.id == event.delivery) {
            delivery.held = false;
        }
        if let Some(approval) = self.command.approval.as_mut().filter(|approval| approval.approved_by.is_none()) {
            self.printer.note(&format!("postrider: approved by {}", clean(&by)));
            (approval.approved_by, approval.approved_ms) = (Some(by), Some(event.transition.at_ms));
        }
    }

    fn output(&mut self, event: &OutputEvent) -> Result<(), CliError> {
        let other_agent = self.show.agent.is_some_and(|agent| agent != event.agent_id);
        if other_agent || self.show.stream.is_some_and(|stream| stream != event.stream) {
            return Ok(());
        }
        if self.show.json {
            return out::json(&JsonEvent { event: "output", data: event });
        }
        let bytes = STANDARD.decode(&event.data).map_err(|error| CliError::Answer {
            url: self.client.url().to_string(),
            message: format!("event output: {error}"),
        })?;
        self.printer.output(event.delivery, event.stream, event.offset, &bytes)
    }

    /// Holds what was looked up against what the stream said. The command, when it has ended and the stream keeps
    /// silent about it.
    fn compare(&mut self, looked: Looked) -> Option<Box<CommandResponse>> {
        self.command = looked.command;
        if self.command.deliveries.iter().any(|delivery| !delivery.state.is_terminal()) {
            self.tell_waiting(&looked.agents);
            return None;
        }
        self.silent_ends += 1;
        if self.silent_ends > 1 {
            return Some(Box::new(self.command.clone()));
        }
        // A connection can be dead in our direction only: read it all on another one. Output that was printed is not
        // printed again; events as JSON would be.
        if !self.show.json {
            self.feed = Feed::start(self.client, self.command.id, None, self.tasks);
        }
        None
    }

    fn tell_waiting(&mut self, agents: &[AgentResponse]) {
        let waiting: Vec<_> = self.command.deliveries.iter().filter(|d| !d.state.is_terminal()).collect();
        let is_live = waiting.iter().any(|delivery| delivery.state == State::Running);
        // A single agent's command that runs without output needs no comment, like at home.
        if self.show.json || (is_live && !(self.printer.is_prefixed() && self.printer.has_status_line())) {
            return;
        }
        if waiting.iter().all(|delivery| delivery.held) {
            return self.say(&waiting::approval(self.command.id));
        }
        let now_ms = self.clock.now_ms();
        let sentence = |delivery: &&DeliveryResponse| {
            let agent = agents.iter().find(|agent| agent.id == delivery.agent_id);
            let sentence = waiting::sentence(delivery, agent, self.command.not_after_ms, now_ms)?;
            Some((delivery.agent_name.clone(), sentence))
        };
        let sentences: Vec<_> = waiting.iter().take(LOOK_AGENTS_MAX).filter_map(sentence).collect();
        let more = waiting.len().saturating_sub(LOOK_AGENTS_MAX);
        let Some(text) = waiting::summary(&sentences, more) else { return };
        if self.printer.has_status_line() {
            self.printer.status(&text);
            return;
        }
        self.say(&format!("waiting for {text}"));
    }

    /// Says it in a line of its own, if it was not said last.
    fn say(&mut self, text: &str) {
        // The part that counts down would make each line a new one.
        let gist = text.split(';').next().unwrap_or_default().to_owned();
        if self.said.as_ref() != Some(&gist) {
            self.printer.note(&format!("postrider: {text}"));
            self.said = Some(gist);
        }
    }
}

async fn look(client: &ApiClient, id: CommandId, at: Instant) -> Option<Looked> {
    sleep_until(at).await;
    let command: CommandResponse = client.get(&format!("/api/commands/{id}"), About::Commands).await.ok()?;
    let mut agents = Vec::new();
    for delivery in command.deliveries.iter().filter(|delivery| !delivery.state.is_terminal()).take(LOOK_AGENTS_MAX) {
        agents.extend(client.get::<AgentResponse>(&format!("/api/agents/{}", delivery.agent_id), About::Agents).await);
    }
    Some(Looked { command, agents })
}

//! A command's events as news: reads the stream, and when it breaks comes back to where it was.
//!
//! Runs as a task of its own, so that whoever follows can do other things meanwhile. The queue between the two is
//! short: a slow terminal slows the stream down instead of filling memory.

use super::client::{ApiClient, EventBody, is_worth_repeating};
use super::error::{About, CliError};
use super::sse::{SseEvent, SseParser};
use crate::backoff::Backoff;
use crate::protocol::http::{CommandResponse, OutputEvent, TransitionEvent};
use crate::protocol::ids::CommandId;
use crate::tasks::Tasks;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// News that wait to be shown. One output event has at most 8 KiB.
const NEWS_MAX: usize = 64;
/// How long an unreachable server is waited for before following is given up.
pub const UNREACHABLE_MAX: Duration = Duration::from_secs(600);
const WAIT_FIRST: Duration = Duration::from_millis(250);
const WAIT_MAX: Duration = Duration::from_secs(10);

/// What a feed brings.
#[derive(Debug)]
pub enum News {
    /// Something happened to a delivery.
    Transition(Box<TransitionEvent>),
    /// Output came.
    Output(OutputEvent),
    /// Every delivery has ended. Nothing follows.
    End(Box<CommandResponse>),
    /// The stream broke; it is being opened again. Said once until `Back`.
    Lost(String),
    /// The stream is there again.
    Back,
    /// It is in vain. Nothing follows.
    Failed(CliError),
}

/// A running feed. Dropping it ends it.
#[derive(Debug)]
pub struct Feed {
    news: mpsc::Receiver<News>,
    _stop: DropGuard,
}

impl Feed {
    /// Starts to read the events of a command, from the first one or after `last_id`.
    pub fn start(client: &ApiClient, id: CommandId, last_id: Option<String>, tasks: &Tasks) -> Self {
        let (sender, news) = mpsc::channel(NEWS_MAX);
        let stop = CancellationToken::new();
        let reader = Reader { client: client.clone(), id, last_id, news: sender, lost_at: None };
        let ended = stop.clone();
        tasks.spawn("feed", async move {
            tokio::select! {
                () = ended.cancelled() => {}
                _gone = reader.read() => {}
            }
        });
        Self { news, _stop: stop.drop_guard() }
    }

    /// The next news; none: after `End` or `Failed`. May be dropped while it waits.
    pub async fn next(&mut self) -> Option<News> {
        self.news.recv().await
    }
}

struct Reader {
    client: ApiClient,
    id: CommandId,
    last_id: Option<String>,
    news: mpsc::Sender<News>,
    lost_at: Option<Instant>,
}

/// Why reading stopped: nobody listens any more, or the last news were sent.
struct Gone;

impl Reader {
    async fn read(mut self) -> Gone {
        let mut backoff = Backoff::new(WAIT_FIRST, WAIT_MAX);
        let path = format!("/api/commands/{}/events", self.id);
        loop {
            let opened = self.client.events(&path, self.last_id.as_deref(), About::Commands).await;
            let mut at_least = None;
            let broken = match opened {
                Ok(body) => {
                    if self.lost_at.take().is_some() && self.send(News::Back).await.is_err() {
                        return Gone;
                    }
                    let before = self.last_id.clone();
                    let broken = match self.read_events(body).await {
                        Ok(broken) => broken,
                        Err(gone) => return gone,
                    };
                    // A server that only ever accepts and hangs up must not be asked in a tight loop.
                    if before != self.last_id {
                        backoff.reset();
                    }
                    broken
                }
                Err(error) => match is_worth_repeating(&error) {
                    Some(wait) => {
                        at_least = wait;
                        error.to_string()
                    }
                    None => return self.send(News::Failed(error)).await.err().unwrap_or(Gone),
                },
            };
            match self.lost_at {
                None => {
                    self.lost_at = Some(Instant::now());
                    if self.send(News::Lost(broken)).await.is_err() {
                        return Gone;
                    }
                }
                Some(since) if since.elapsed() > UNREACHABLE_MAX => {
                    let gave_up = CliError::GaveUp { after: UNREACHABLE_MAX, id: self.id.to_string() };
                    return self.send(News::Failed(gave_up)).await.err().unwrap_or(Gone);
                }
                Some(_) => {}
            }
            tokio::time::sleep(backoff.next(at_least)).await;
        }
    }

    /// Reads until the stream breaks (how), or there is no more to read.
    async fn read_events(&mut self, mut body: EventBody) -> Result<String, Gone> {
        let mut parser = SseParser::default();
        let mut events = Vec::new();
        loop {
            let bytes = match body.next().await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => return Ok("the server ended the connection".to_owned()),
                Err(error) => return Ok(format!("the connection broke: {error}")),
            };
            if let Err(error) = parser.push(&bytes, &mut events) {
                return Ok(error.to_string());
            }
            for event in events.drain(..) {
                let id = event.id.clone();
                if let Some(news) = self.understand(&event) {
                    let is_last = matches!(news, News::End(_) | News::Failed(_));
                    self.send(news).await?;
                    if is_last {
                        return Err(Gone);
                    }
                }
                if id.is_some() {
                    self.last_id = id;
                }
            }
        }
    }

    /// None: an event that this build does not know.
    fn understand(&self, event: &SseEvent) -> Option<News> {
        let news = match event.name.as_str() {
            "transition" => parse(&event.data).map(|event| News::Transition(Box::new(event))),
            "output" => parse(&event.data).map(News::Output),
            "end" => parse(&event.data).map(|command| News::End(Box::new(command))),
            _ => return None,
        };
        Some(news.unwrap_or_else(|message| {
            let message = format!("event {}: {message}", event.name);
            News::Failed(CliError::Answer { url: self.client.url().to_string(), message })
        }))
    }

    async fn send(&self, news: News) -> Result<(), Gone> {
        self.news.send(news).await.map_err(|_| Gone)
    }
}

fn parse<T: DeserializeOwned>(data: &str) -> Result<T, String> {
    serde_json::from_str(data).map_err(|error| error.to_string())
}

//! Sessions: the server's side of the agents' connections, as `server/session` does it, against the real store.

use super::links::{Link, ToAgent, ToServer};
use super::rows::Look;
use super::world::{World, output_byte};
use crate::harness::claim::look;
use postrider::protocol::close::CloseReason;
use postrider::protocol::ids::DeliveryId;
use postrider::protocol::output::{OutputFrame, Stream};
use postrider::store::error::StoreError;
use postrider::store::output::AppendOutput;
use postrider::store::progress::{Accept, Finish, Progress, Report, Start};
use postrider::store::session::{BeginSession, EndSession, Ready, SessionBegun};

/// Small, so that it is often full.
const WINDOW: usize = 3;
/// Connections of an agent that are remembered: the server may still hear of the older ones.
const LINKS_MAX: usize = 4;

impl World {
    pub fn connect(&mut self, agent: usize) {
        let agent = &mut self.agents[agent];
        agent.connect();
        let spare = agent.links.len().saturating_sub(LINKS_MAX);
        agent.links.drain(..spare);
    }

    /// Everything that a session's begin needs of an agent, in one place.
    fn hello(&self, agent: usize, link: &Link) -> BeginSession {
        BeginSession {
            agent_seq: self.enrolled[agent].seq,
            version: "model".to_owned(),
            os: "test".to_owned(),
            challenge: link.number.into(),
            last_epoch: link.last_epoch,
            journal: link.journal.clone(),
            ability: None,
        }
    }

    /// Takes the hello of the connection that the agent uses, or one that it has left since.
    pub fn begin(&mut self, agent: usize, late: bool) {
        let own = self.agents[agent].link;
        let waits = |link: &Link| link.epoch.is_none() && !link.over && (Some(link.number) != own) == late;
        let Some(at) = self.agents[agent].links.iter().position(waits) else { return };
        let hello = self.hello(agent, &self.agents[agent].links[at]);
        let (journal, number) = (hello.journal.clone(), self.agents[agent].links[at].number);
        let answer = self.write(hello);
        if self.enrolled[agent].revoked {
            assert!(matches!(answer, Err(StoreError::NotFound { .. })), "{answer:?}");
            self.agents[agent].links.remove(at);
            return;
        }
        if number <= self.enrolled[agent].challenge {
            assert!(matches!(answer, Err(StoreError::Fenced)), "{answer:?}");
            self.agents[agent].links.remove(at);
            return;
        }
        let SessionBegun { epoch, verdicts, clash } = answer.unwrap();
        let row = &mut self.enrolled[agent];
        row.epoch += 1;
        row.challenge = number;
        assert!(!clash, "these agents have one journal each");
        assert_eq!(epoch, self.enrolled[agent].epoch, "each session has the next epoch");
        let kept: Vec<bool> = verdicts.iter().map(|verdict| verdict.keep).collect();
        assert_eq!(kept, self.rows.begin(agent, &journal, clash, self.now_ms), "{journal:?}");
        let verdicts = verdicts.iter().map(|verdict| (verdict.delivery, verdict.keep, verdict.stdout_from)).collect();
        let link = &mut self.agents[agent].links[at];
        link.epoch = Some(epoch);
        link.down.send(ToAgent::Welcome { epoch, server_ms: self.now_ms, verdicts });
    }

    /// The newest session's connection, or one of an older session.
    fn session(&self, agent: usize, older: bool) -> Option<usize> {
        let newest = self.enrolled[agent].epoch;
        let stands = |link: &Link| !link.over && link.epoch.is_some_and(|epoch| (epoch < newest) == older);
        self.agents[agent].links.iter().position(stands)
    }

    pub fn look(&mut self, agent: usize, older: bool) -> bool {
        let Some(at) = self.session(agent, older) else { return false };
        let link = &self.agents[agent].links[at];
        let claim = look(self.now_ms, self.enrolled[agent].seq, link.epoch.unwrap(), WINDOW, &link.in_flight);
        let answer = self.write(claim);
        if self.enrolled[agent].revoked {
            assert!(matches!(answer, Err(StoreError::NotFound { .. })), "{answer:?}");
            return false;
        }
        if older {
            assert!(matches!(answer, Err(StoreError::Fenced)), "{answer:?}");
            return false;
        }
        let claimed = answer.unwrap();
        let ready = self.enrolled[agent].ready_epoch == self.enrolled[agent].epoch;
        let link = &mut self.agents[agent].links[at];
        let found = Look {
            rows: claimed.rows.iter().map(|row| row.id).collect(),
            more: claimed.more,
            cancels: claimed.cancels.clone(),
        };
        let expected = match ready {
            true => self.rows.look(agent, WINDOW, &link.in_flight, self.now_ms),
            false => Look::default(),
        };
        assert_eq!(found, expected);
        for row in &claimed.rows {
            let expected = self.rows.get(row.id).unwrap();
            assert_eq!(row.attempt, expected.attempt, "{}", row.id);
            link.in_flight.insert(row.id);
            link.down.send(ToAgent::Dispatch { delivery: row.id, not_after_ms: expected.not_after_ms });
        }
        for delivery in claimed.cancels {
            if link.cancelled.insert(delivery) {
                link.down.send(ToAgent::Cancel(delivery));
            }
        }
        !claimed.rows.is_empty()
    }

    /// The server reads a frame of a session. False: there was none.
    pub fn read(&mut self, agent: usize, older: bool) -> bool {
        let Some(at) = self.session(agent, older) else { return false };
        let link = &mut self.agents[agent].links[at];
        let Some(frame) = link.up.receive() else { return false };
        let (agent_seq, epoch) = (self.enrolled[agent].seq, link.epoch.unwrap());
        let report = |delivery| Report { agent_seq, epoch, delivery };
        let answer = match &frame {
            ToServer::Ready => self.write(Ready { agent_seq, epoch, pin: None }).map(|()| Progress::Done),
            ToServer::Accepted(delivery) => self.write(Accept(report(*delivery))),
            ToServer::Started(delivery) => self.write(Start(report(*delivery))),
            ToServer::Output(delivery, offset, length) => {
                let bytes = (0..*length).map(|index| output_byte(*offset + index as u64)).collect();
                let frame = OutputFrame { delivery: *delivery, stream: Stream::Stdout, offset: *offset, bytes };
                self.write(AppendOutput { agent_seq, epoch, frame })
            }
            ToServer::Finished(delivery, outcome) => {
                self.write(Finish { report: report(*delivery), outcome: outcome.clone() })
            }
        };
        if older {
            assert!(matches!(answer, Err(StoreError::Fenced)), "{frame:?} of epoch {epoch}: {answer:?}");
            return true;
        }
        let now_ms = self.now_ms;
        let (delivery, expected) = match &frame {
            ToServer::Ready => {
                answer.unwrap();
                self.enrolled[agent].ready_epoch = epoch;
                return true;
            }
            ToServer::Accepted(delivery) => (*delivery, self.rows.accept(agent, *delivery, now_ms)),
            ToServer::Started(delivery) => (*delivery, self.rows.start(agent, *delivery, now_ms)),
            ToServer::Output(delivery, ..) => (*delivery, self.rows.output(agent, *delivery)),
            ToServer::Finished(delivery, outcome) => (*delivery, self.rows.finish(agent, *delivery, outcome.state)),
        };
        assert_eq!(answer.unwrap(), expected, "{frame:?}");
        self.answer(agent, at, &frame, delivery, expected);
        true
    }

    /// What the session's writer makes of a stored report.
    fn answer(&mut self, agent: usize, at: usize, frame: &ToServer, delivery: DeliveryId, progress: Progress) {
        let link = &mut self.agents[agent].links[at];
        match (frame, progress) {
            (ToServer::Finished(..), Progress::Done) => {
                link.in_flight.remove(&delivery);
                link.down.send(ToAgent::Stored(delivery));
            }
            (ToServer::Accepted(_), Progress::Done) => drop(link.in_flight.remove(&delivery)),
            (_, Progress::Done) => {}
            (_, Progress::Ended) => {
                link.in_flight.remove(&delivery);
                link.down.send(ToAgent::Cancel(delivery));
            }
            // Its history was removed: the next hello tells the agent.
            (_, Progress::Unknown) => assert!(self.rows.get(delivery).is_none(), "{frame:?}"),
            (_, Progress::NotDispatched | Progress::Unexpected) => panic!("{frame:?} is met with {progress:?}"),
        }
    }

    pub fn end(&mut self, agent: usize, older: bool) {
        let Some(at) = self.session(agent, older) else { return };
        let epoch = self.agents[agent].links[at].epoch.unwrap();
        let reason = CloseReason::ConnectionLost;
        let end = EndSession { agent_seq: self.enrolled[agent].seq, epoch, proven_ms: self.now_ms, reason };
        self.write(end).unwrap();
        self.agents[agent].links[at].leave();
    }

    /// A while without faults, for one agent: its connection works, what can move moves.
    pub fn settle(&mut self, agent: usize, rounds: usize) {
        let own = self.agents[agent].link;
        let newest = self.enrolled[agent].epoch;
        let whole = |link: &Link| Some(link.number) == own && link.epoch == Some(newest) && link.is_whole();
        if !self.agents[agent].links.iter().any(whole) {
            self.connect(agent);
            self.begin(agent, false);
        }
        for round in 0..rounds {
            let mut moved = self.look(agent, false);
            while self.agents[agent].read() {
                moved = true;
            }
            moved |= self.agents[agent].start();
            moved |= self.agents[agent].end(u8::try_from(round % 4).unwrap());
            while self.read(agent, false) {
                moved = true;
            }
            if !moved {
                return;
            }
        }
    }
}

//! An agent's host.

use crate::agent::credential::Credential;
use crate::agent::data::CREDENTIAL_FILE;
use crate::ballast::free_bytes;
use crate::http_client::{HttpClient, HttpClientError};
use crate::server::check::{Finding, Verdict};
use bytes::Bytes;
use hyper::Method;
use std::path::Path;
use std::time::Duration;

/// Largest answer that is read, in bytes: what comes is a line or a problem document.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Below so much free room output and journal are in danger.
const FREE_BYTES_MIN: u64 = 64 * MIB;
const MIB: u64 = 1024 * 1024;

/// Its identity, its disk, the way to its server.
pub async fn look(data: &Path) -> Vec<Finding> {
    let path = data.join(CREDENTIAL_FILE);
    let identity = |verdict, text: String| Finding::new(verdict, "identity", text);
    let credential = match Credential::read(&path) {
        Ok(Some(credential)) => credential,
        Ok(None) => {
            let text = format!(
                "{} is not there: the agent has not enrolled; `postrider agent --join STRING` does",
                path.display()
            );
            return vec![identity(Verdict::Wrong, text)];
        }
        Err(error) => return vec![identity(Verdict::Wrong, error.to_string())],
    };
    let mut found = Vec::new();
    found.push(match credential.agent_id {
        Some(id) => identity(Verdict::Good, format!("{} ({id}) of the server {}", credential.name, credential.url)),
        None => identity(
            Verdict::Wrong,
            format!(
                "the enrollment as {} was begun and not finished: start the agent with a join string",
                credential.name
            ),
        ),
    });
    found.push(disk(data));
    found.push(way(&credential).await);
    found
}

fn disk(data: &Path) -> Finding {
    match free_bytes(data) {
        None => Finding::new(Verdict::Note, "disk", format!("how much room {} has cannot be told", data.display())),
        Some(free) if free < FREE_BYTES_MIN => {
            let text = format!(
                "{} MiB are free at {}: make room, or commands wait and output is lost",
                free / MIB,
                data.display()
            );
            Finding::new(Verdict::Wrong, "disk", text)
        }
        Some(free) => Finding::new(Verdict::Good, "disk", format!("{} MiB are free at {}", free / MIB, data.display())),
    }
}

/// Whether the server answers, and is the one that it must be.
async fn way(credential: &Credential) -> Finding {
    let asked = async {
        let mut connection = HttpClient::connect(&credential.url, &credential.trust).await?;
        connection.send(Method::GET, "/healthz", &[], Bytes::new(), Duration::ZERO, ANSWER_BYTES_MAX).await
    };
    match asked.await {
        // Without a token it says no more than that.
        Ok(answer) if answer.status.is_success() || answer.status.as_u16() == 401 => Finding::new(
            Verdict::Good,
            "server",
            format!("{} answers, and is the server that this agent enrolled with", credential.url),
        ),
        Ok(answer) => {
            let text =
                format!("{} answers with status {}: is something else listening there?", credential.url, answer.status);
            Finding::new(Verdict::Wrong, "server", text)
        }
        Err(error @ HttpClientError::Tls { .. }) => Finding::new(Verdict::Wrong, "server", error.to_string()),
        Err(error) => {
            let text = format!("{error}: look at this host's network and firewall, and whether the server runs");
            Finding::new(Verdict::Wrong, "server", text)
        }
    }
}

//! `GET /install/{join}`: the script that installs an agent: `install.sh` with this server's settings before it.
//!
//! It was fetched over a connection to a server that was known, so what it says of executables holds: their hashes.

use super::holder;
use super::line::Anchor;
use crate::http_client::ServerUrl;
use crate::protocol::ids::{RequestId, ServerId};
use crate::release::Platform;
use crate::secret::hex;
use crate::server::call::Call;
use crate::server::error::ApiError;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use std::fmt::Write as _;
use warp::reply::Response;

/// What does the work, in POSIX shell.
const BODY: &str = include_str!("install.sh");
/// What it leaves on the host to undo it.
const UNINSTALL: &str = include_str!("uninstall.sh");
/// The agent's unit, as the package has it.
const UNIT: &str = include_str!("../../../packaging/postrider-agent.service");
/// Where the package has the executable.
const PACKAGED: &str = "/usr/bin/postrider";
/// Where the script puts it.
const INSTALLED: &str = "/usr/local/bin/postrider";
/// A page that only the package brings.
const MANUAL: &str = "Documentation=man:postrider-agent(1)\n";
/// Platforms that the script knows.
const PLATFORMS: [Platform; 2] = [Platform::LinuxX86_64, Platform::LinuxAarch64];
/// Neither text nor anything that a browser would run.
const SCRIPT_TYPE: &str = "application/x-sh";

/// An executable's hash and length, or why there is none.
type Promise = Result<([u8; 32], u64), String>;

/// What differs from script to script.
struct Settings<'a> {
    /// The server's address in the join string.
    url: &'a ServerUrl,
    join: &'a str,
    server_id: ServerId,
    /// By whom the server is known; none: by its public certificate.
    anchor: Option<Anchor>,
    executables: Vec<(Platform, Promise)>,
}

/// `GET /install/{join}`.
///
/// # Errors
/// 403, 422, 429.
pub async fn script(call: Call, text: &str) -> Result<Response, ApiError> {
    call.query(&[])?;
    let join = holder::join(&call, text).await?;
    let url = ServerUrl::parse(&join.url).map_err(|error| ApiError::field("join", error))?;
    let mut executables = Vec::new();
    for platform in PLATFORMS {
        let found = call.app.executables.find(platform).await;
        let found = found.map(|executable| (executable.sha256, executable.bytes));
        executables.push((platform, found.map_err(|error| error.detail().to_owned())));
    }
    tracing::info!(peer = %call.connection.peer, "an install script is handed out");
    let anchor = call.connection.pin.and_then(|pin| Anchor::of(&call.app, pin, &url));
    let server_id = join.server_id;
    Ok(answer(compose(&Settings { url: &url, join: text.trim(), server_id, anchor, executables })))
}

fn answer(text: String) -> Response {
    let mut response = Response::new(text.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(SCRIPT_TYPE));
    response
}

/// An error for whoever may hand it to a shell: there it says why, and ends.
pub fn refusal(error: ApiError, request_id: RequestId) -> Response {
    let said = quoted(&format!("postrider: {} ({}, request {request_id})", error.detail(), error.code()));
    let mut response = error.into_response(request_id);
    *response.body_mut() = format!("echo {said} >&2\nexit 1\n").into();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(SCRIPT_TYPE));
    response
}

/// A word of the shell that is this text, whatever is in it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The unit for what the script puts where.
fn unit() -> String {
    UNIT.replace(PACKAGED, INSTALLED).replace(MANUAL, "")
}

fn compose(settings: &Settings<'_>) -> String {
    let Settings { url, join, server_id, anchor, executables } = settings;
    let mut text = String::from(
        "#!/bin/sh\n# Installs the agent of postrider on this host. Made for one join string: keep it to yourself.\n",
    );
    let mut set = |name: &str, value: &str| {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "{name}={}", quoted(value));
    };
    set("shown", &url.to_string());
    set("join", join);
    set("server_id", &server_id.to_string());
    match anchor {
        Some(anchor) => {
            set("url", &anchor.url);
            set("authority", &anchor.pem.join("\n"));
            set("connect_to", &anchor.connect_to);
        }
        None => {
            set("url", &url.to_string());
            set("authority", "");
            set("connect_to", "");
        }
    }
    set("unit", unit().trim_end());
    set("uninstall", UNINSTALL.trim_end());
    text.push_str("executable() {\n    case $1 in\n");
    for (platform, found) in executables {
        let arm = match found {
            Ok((sha256, bytes)) => format!("sha256={} bytes={bytes}", hex(sha256)),
            Err(why) => format!("die {}", quoted(why)),
        };
        let _ = writeln!(text, "    {platform}) {arm} ;;");
    }
    text.push_str("    *) die \"postrider is not built for $1\" ;;\n    esac\n}\n");
    text + BODY
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn whatever_is_in_a_text_is_one_word_to_a_shell() {
        for text in ["a b", "it's", "$(touch /x) `x` \\ \"", "'", "line\nline", "", "-n"] {
            let output = Command::new("sh").args(["-c", &format!("printf %s {}", quoted(text))]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
        }
    }

    #[test]
    fn the_unit_starts_what_the_script_installs() {
        assert!(UNIT.contains(&format!("ExecStart={PACKAGED} agent")));
        assert!(UNIT.contains(MANUAL) && !unit().contains(PACKAGED) && !unit().contains(MANUAL));
        assert!(BODY.ends_with("\nmain \"$@\"\n"), "what was cut off runs nothing");
    }
}

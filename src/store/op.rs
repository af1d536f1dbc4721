//! The operations on the database, as data.
//!
//! They are an enum and not closures over a connection, so that a group can be applied again after a failure and
//! another engine could apply the same group. Each operation is a struct in its own file with one `apply`.

use super::agents::{ApproveAgent, RevokeAgent, StoreFacts};
use super::approval::ApproveCommand;
use super::audit::Refuse;
use super::authorities::{CreateAuthority, RetireAuthority};
use super::cancel::{Cancel, Cancelled};
use super::commit::Touched;
use super::enqueue::{Enqueue, Enqueued};
use super::enroll::{Enroll, Enrolled};
use super::error::StoreError;
use super::joins::{CreateJoin, RevokeJoin};
use super::logins::{CloseLogin, OpenLogin, UseToken};
use super::outbox::{Claim, Claimed, Nudge, Withdraw};
use super::output::AppendOutput;
use super::progress::{Accept, Finish, Progress, Start};
use super::reap::{Reap, Reaped};
use super::retain::Retain;
use super::rollout::{ChangeRollout, StartRollout, UpgradeTold};
use super::rollout_turn::{RolloutStep, RolloutTurn};
use super::session::{BeginSession, EndSession, Ready, SessionBegun};
use super::tokens::{CreateToken, RevokeToken};
use super::totp::{ClearTotp, ProveTotp, SetTotp};
use crate::clock::Moment;
use crate::protocol::access::{JoinResponse, TokenResponse};
use crate::protocol::http::{AgentResponse, CommandResponse};
use crate::protocol::ids::RolloutId;
use rusqlite::Connection;

/// What an operation works with.
pub struct Apply<'a> {
    /// The write connection, inside a transaction.
    pub conn: &'a Connection,
    /// The time of this group, in Unix milliseconds.
    pub now_ms: i64,
    /// The same, with a clock that nobody can set.
    pub now: Moment,
    /// Whom to wake after the commit, and what to count.
    pub touched: &'a mut Touched,
    /// Why submissions are refused at present, if they are.
    pub quota: Option<&'a str>,
}

/// A typed operation.
pub trait Operation: Sized + Send {
    /// What it answers.
    type Answer: Send + 'static;
    /// As one of the enum.
    fn into_op(self) -> Op;
    /// Takes the answer out of the enum. None never happens: each operation makes its own kind of answer.
    fn answer(done: Done) -> Option<Self::Answer>;
}

macro_rules! operations {
    ($($(#[$doc:meta])* $op:ident => $answer:ty),+ $(,)?) => {
        /// One operation.
        #[derive(Clone, Debug)]
        #[allow(clippy::large_enum_variant)] // Frame-sized; boxing each would cost more than the moves.
        pub enum Op { $($(#[$doc])* $op($op)),+ }

        /// What one operation answered.
        #[derive(Debug)]
        #[allow(clippy::large_enum_variant)]
        pub enum Done { $($(#[$doc])* $op($answer)),+ }

        impl Op {
            /// Applies it inside the caller's transaction.
            ///
            /// # Errors
            /// The operation's own; the caller undoes what it wrote.
            pub fn apply(&self, apply: &mut Apply<'_>) -> Result<Done, StoreError> {
                match self { $(Op::$op(op) => op.apply(apply).map(Done::$op)),+ }
            }
        }

        $(impl Operation for $op {
            type Answer = $answer;
            fn into_op(self) -> Op { Op::$op(self) }
            fn answer(done: Done) -> Option<$answer> {
                match done { Done::$op(answer) => Some(answer), _ => None }
            }
        })+
    };
}

operations! {
    /// A submission.
    Enqueue => Enqueued,
    /// A second person approves a held command.
    ApproveCommand => CommandResponse,
    /// A request to cancel.
    Cancel => Cancelled,
    /// An agent authenticated.
    BeginSession => SessionBegun,
    /// Its journal has the session's epoch.
    Ready => (),
    /// Its session ended.
    EndSession => (),
    /// A writer looks at its outbox.
    Claim => Claimed,
    /// A parked claim looks again.
    Nudge => (),
    /// What a writer found cannot go out.
    Withdraw => (),
    /// The agent journaled a delivery.
    Accept => Progress,
    /// The agent started it.
    Start => Progress,
    /// A piece of output.
    AppendOutput => Progress,
    /// It ended.
    Finish => Progress,
    /// Host inventory.
    StoreFacts => (),
    /// A rollout is started.
    StartRollout => RolloutId,
    /// It is paused, resumed or stopped.
    ChangeRollout => RolloutId,
    /// Its next step.
    RolloutTurn => RolloutStep,
    /// An agent reports what became of an offer.
    UpgradeTold => (),
    /// What time ends.
    Reap => Reaped,
    /// History over its limits.
    Retain => u64,
    /// A join string is made.
    CreateJoin => JoinResponse,
    /// A join string is revoked.
    RevokeJoin => (),
    /// An agent enrolls.
    Enroll => Enrolled,
    /// An agent that waits is let in.
    ApproveAgent => AgentResponse,
    /// An agent is revoked.
    RevokeAgent => AgentResponse,
    /// A token is made.
    CreateToken => TokenResponse,
    /// A token is revoked.
    RevokeToken => (),
    /// An authority is made.
    CreateAuthority => (),
    /// An authority is retired.
    RetireAuthority => (),
    /// A token was used.
    UseToken => (),
    /// An operator logs in with a token.
    OpenLogin => bool,
    /// An operator logs out.
    CloseLogin => (),
    /// A token gets a secret for one-time passwords.
    SetTotp => (),
    /// Its owner shows that they have it.
    ProveTotp => bool,
    /// One-time passwords are asked for no longer.
    ClearTotp => (),
    /// Somebody was refused something.
    Refuse => (),
    /// Asks whether another process changed the database.
    LookOutside => bool,
    /// Shows that the committing thread lives.
    Beat => (),
    /// The last operation.
    Close => (),
}

/// Ends the committing thread after its group. What is queued behind it is answered [`StoreError::Closed`].
#[derive(Clone, Debug)]
pub struct Close;

impl Close {
    fn apply(&self, apply: &mut Apply<'_>) -> Result<(), StoreError> {
        apply.touched.close = true;
        Ok(())
    }
}

/// Shows that the committing thread gets transactions through: it writes nothing, and costs no fsync.
#[derive(Clone, Debug)]
pub struct Beat;

impl Beat {
    #[allow(clippy::unnecessary_wraps)] // Like the others.
    fn apply(&self, _: &mut Apply<'_>) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Asks whether another process changed the database since the last time; the first time nobody knows, which is a yes.
#[derive(Clone, Debug)]
pub struct LookOutside;

impl LookOutside {
    fn apply(&self, apply: &mut Apply<'_>) -> Result<bool, StoreError> {
        // Changes only by commits of other connections (https://sqlite.org/pragma.html#pragma_data_version).
        let version: i64 = apply.conn.pragma_query_value(None, "data_version", |row| row.get(0))?;
        let seen = apply.touched.data_version.replace(version);
        Ok(seen != Some(version))
    }
}

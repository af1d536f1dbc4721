//! What can happen, and how often.

use proptest::prelude::*;

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    /// What happens.
    pub steps: Vec<Step>,
    /// How it ends: everything heals, or no agent is heard of again.
    pub agents_come_back: bool,
}

/// One thing that happens. Numbers choose among what there is, whatever their size.
#[derive(Clone, Debug)]
pub enum Step {
    /// A submission to the agents of this bit mask.
    Enqueue { targets: u8, ttl_minutes: i64, timeout_minutes: i64 },
    /// The same to be approved by a second person.
    EnqueueHeld { targets: u8, ttl_minutes: i64, timeout_minutes: i64 },
    /// The submitter tries to approve a command, then a second person does.
    Approve(u8),
    /// Somebody cancels a command.
    Cancel(u8),
    /// The writer of the newest session looks at its outbox.
    Look(u8),
    /// The writer of an older session does.
    OldLook(u8),
    /// The agent gives up its connection and says hello on a new one.
    Connect(u8),
    /// The server takes the newest hello.
    Begin(u8),
    /// The server takes a hello that has waited while the agent said another one elsewhere.
    LateBegin(u8),
    /// The connection breaks; so many frames are still on their way in each direction.
    Cut { agent: u8, down: u8, up: u8 },
    /// The server ends a session.
    End { agent: u8, older: bool },
    /// The agent comes back at once: connection, hello, welcome, ready.
    Reconnect(u8),
    /// The agent reads some frames.
    AgentReads { agent: u8, frames: u8 },
    /// The server reads some frames of the newest session.
    ServerReads { agent: u8, frames: u8 },
    /// The server reads a frame of an older session.
    OldReads(u8),
    /// A slot is free on the agent.
    Starts(u8),
    /// The process writes.
    Prints(u8),
    /// A process ends.
    Ends { agent: u8, how: u8 },
    /// The agent says again what waits for a slot.
    Repeats(u8),
    /// The agent is killed and starts again.
    AgentDies(u8),
    /// Time goes by, for everybody.
    Pass(i64),
    /// The server's wall clock is set.
    Jump(i64),
    /// The reaper's turn.
    Reap,
    /// Retention's turn.
    Retain,
    /// An owner revokes the agent.
    Revoke(u8),
    /// The server is killed and starts again.
    ServerDies,
    /// A while without faults, for one agent.
    Settle(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let any_one = any::<u8>();
    // Most happens to one agent, or nothing would get far.
    let one = || prop_oneof![5 => Just(0_u8), 2 => Just(1), 1 => Just(2)];
    prop_oneof![
        10 => (prop_oneof![3 => Just(1_u8), 2 => 1..8_u8], prop_oneof![1 => Just(1), 1 => Just(10), 3 => Just(600)], prop_oneof![Just(1), Just(20)])
            .prop_map(|(targets, ttl_minutes, timeout_minutes)| Step::Enqueue { targets, ttl_minutes, timeout_minutes }),
        3 => (1..8_u8, prop_oneof![1 => Just(10), 3 => Just(600)])
            .prop_map(|(targets, ttl_minutes)| Step::EnqueueHeld { targets, ttl_minutes, timeout_minutes: 1 }),
        6 => any_one.prop_map(Step::Approve),
        5 => any_one.prop_map(Step::Cancel),
        14 => one().prop_map(Step::Look),
        2 => one().prop_map(Step::OldLook),
        6 => one().prop_map(Step::Connect),
        8 => one().prop_map(Step::Begin),
        3 => one().prop_map(Step::LateBegin),
        3 => (one(), 0..3_u8, 0..3_u8).prop_map(|(agent, down, up)| Step::Cut { agent, down, up }),
        2 => (one(), any::<bool>()).prop_map(|(agent, older)| Step::End { agent, older }),
        5 => one().prop_map(Step::Reconnect),
        14 => (one(), 1..4_u8).prop_map(|(agent, frames)| Step::AgentReads { agent, frames }),
        12 => (one(), 1..4_u8).prop_map(|(agent, frames)| Step::ServerReads { agent, frames }),
        4 => one().prop_map(Step::OldReads),
        8 => one().prop_map(Step::Starts),
        4 => one().prop_map(Step::Prints),
        6 => (one(), any_one).prop_map(|(agent, how)| Step::Ends { agent, how }),
        2 => one().prop_map(Step::Repeats),
        4 => one().prop_map(Step::AgentDies),
        4 => prop_oneof![3 => 1..3_i64, 3 => 5..70_i64, 1 => 500..2000_i64].prop_map(Step::Pass),
        2 => prop_oneof![-800..-1_i64, 1..800_i64].prop_map(Step::Jump),
        5 => Just(Step::Reap),
        2 => Just(Step::Retain),
        1 => one().prop_map(Step::Revoke),
        2 => Just(Step::ServerDies),
        2 => one().prop_map(Step::Settle),
    ]
}

/// A usual piece of work, so that agents often hold something when things go wrong.
fn work() -> impl Strategy<Value = Vec<Step>> {
    (1..6_usize, 0..4_u8, 0..4_u8, 0..2_usize).prop_map(|(commands, down, up, starts)| {
        let mut steps = vec![Step::Enqueue { targets: 1, ttl_minutes: 600, timeout_minutes: 20 }; commands];
        steps.extend([Step::Reconnect(0), Step::Look(0)]);
        steps.push(Step::AgentReads { agent: 0, frames: down });
        steps.extend(vec![Step::Starts(0); starts]);
        steps.push(Step::ServerReads { agent: 0, frames: up });
        steps
    })
}

/// Cases of 20 to 100 turns, most of which are one step.
pub fn cases() -> impl Strategy<Value = Case> {
    let turn = prop_oneof![19 => step().prop_map(|step| vec![step]), 1 => work()];
    (prop::collection::vec(turn, 20..100), any::<bool>())
        .prop_map(|(turns, agents_come_back)| Case { steps: turns.concat(), agents_come_back })
}

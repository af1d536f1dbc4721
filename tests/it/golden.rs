//! Frames as they stood at some time, byte for byte: whoever has them still sends and reads them.

use postrider::protocol::frame::{AgentFrame, ServerFrame, decode, encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// Before agents knew of upgrades.
const AGENT_FIRST: &[&str] = &[
    r#"{"type":"hello","agent_id":"01a20aa3-2685-760f-bdcd-74f6f125ad41","signature":"Gv0x","version":"0.1.0","os":"linux","boot_id":"5d0d2f0c","last_epoch":6,"journal":[{"delivery":"01a20aa3-4262-7490-b56c-b4b7729b9e8a","state":"running"}]}"#,
    r#"{"type":"ready"}"#,
    r#"{"type":"accepted","delivery":"01a20aa3-4262-7490-b56c-b4b7729b9e8a"}"#,
    r#"{"type":"started","delivery":"01a20aa3-4262-7490-b56c-b4b7729b9e8a"}"#,
    r#"{"type":"finished","delivery":"01a20aa3-4262-7490-b56c-b4b7729b9e8a","outcome":{"state":"succeeded","exit_code":0,"duration_ms":3,"stdout":{"bytes":62,"dropped":0},"stderr":{"bytes":0,"dropped":0}}}"#,
    r#"{"type":"facts","facts":{"cpu_count":2,"hostname":"web-1","os":"linux","reboot_needed":false}}"#,
    r#"{"type":"error","code":"agent_storage","message":"the disk is full"}"#,
];
const SERVER_FIRST: &[&str] = &[
    r#"{"type":"challenge","nonce":"wYpOjJ","server_id":"01a20aa3-23b9-7579-8150-6da949a34437"}"#,
    r#"{"type":"welcome","epoch":7,"server_time_ms":1795472660191,"ping_interval_ms":8000,"pong_timeout_ms":10000,"window":32,"fetch_token":"AaIKoy","journal":[{"delivery":"01a20aa3-4262-7490-b56c-b4b7729b9e8a","keep":true,"stdout_from":8167,"stderr_from":0}]}"#,
    r#"{"type":"dispatch","delivery":"01a20aa3-4262-7490-b56c-b4b7729b9e8a","attempt":1,"spec":"{\"v\":1}","spec_sha256":"0c5a"}"#,
    r#"{"type":"cancel","delivery":"01a20aa3-4262-7490-b56c-b4b7729b9e8a"}"#,
    r#"{"type":"stored","delivery":"01a20aa3-4262-7490-b56c-b4b7729b9e8a"}"#,
    r#"{"type":"error","code":"unknown_delivery","message":"delivery 01a2 is not known for this agent"}"#,
];

/// Since agents know of upgrades.
const AGENT_UPGRADES: &[&str] = &[
    r#"{"type":"hello","agent_id":"01a20aa3-2685-760f-bdcd-74f6f125ad41","signature":"Gv0x","version":"0.1.0","os":"linux","boot_id":"5d0d2f0c","last_epoch":6,"journal":[],"upgrade":{"platform":"linux-x86_64"}}"#,
    r#"{"type":"hello","agent_id":"01a20aa3-2685-760f-bdcd-74f6f125ad41","signature":"Gv0x","version":"0.1.0","os":"linux","boot_id":"5d0d2f0c","last_epoch":6,"journal":[],"upgrade":{"platform":"linux-x86_64","release":"0c5a","last":{"rollout":"01a20aa3-2685-760f-bdcd-74f6f125ad41","attempt":1,"state":"rolled_back","reason":"it ended","again":true}}}"#,
    r#"{"type":"upgrading","rollout":"01a20aa3-2685-760f-bdcd-74f6f125ad41","attempt":1,"state":"taken"}"#,
];
const SERVER_UPGRADES: &[&str] = &[
    r#"{"type":"welcome","epoch":7,"server_time_ms":1795472660191,"ping_interval_ms":8000,"pong_timeout_ms":10000,"window":32,"fetch_token":"AaIKoy","release_key":"RWQ","journal":[]}"#,
    r#"{"type":"upgrade","rollout":"01a20aa3-2685-760f-bdcd-74f6f125ad41","attempt":1,"version":"0.2.0","platform":"linux-x86_64","sha256":"0c5a","bytes":20971520,"signature":"untrusted comment: …\nRU…\n"}"#,
    r#"{"type":"upgrade","rollout":"01a20aa3-2685-760f-bdcd-74f6f125ad41","attempt":2,"version":"0.1.9","platform":"linux-x86_64","sha256":"0c5a","bytes":20971520,"signature":"untrusted comment: …\nRU…\n","downgrade":true}"#,
];

fn stays<T: Serialize + DeserializeOwned + Debug>(frames: &[&str]) {
    for frame in frames {
        let read: T = decode(frame).unwrap_or_else(|error| panic!("{frame}: {error}"));
        assert_eq!(encode(&read), *frame);
    }
}

#[test]
fn frames_of_every_time_are_read_and_written_as_they_were() {
    stays::<AgentFrame>(AGENT_FIRST);
    stays::<ServerFrame>(SERVER_FIRST);
    stays::<AgentFrame>(AGENT_UPGRADES);
    stays::<ServerFrame>(SERVER_UPGRADES);
}

#[test]
fn an_older_hello_says_nothing_of_upgrades() {
    let AgentFrame::Hello(hello) = decode(AGENT_FIRST[0]).unwrap() else { panic!("it is a hello") };
    assert_eq!(hello.upgrade, None);
}

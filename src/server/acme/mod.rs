//! A public certificate by ACME (RFC 8555), for browsers and other clients that hold no pin.
//!
//! [`config`] is what was asked for, [`keep`] the task that has a good certificate shown at all times, [`order`] one
//! order with its checks (tls-alpn-01, [`challenge`]), [`ca_http`] the way to the CA, [`stored`] the files, [`held`] a
//! certificate that can be shown, [`validity`] how long it is good, [`error`] what goes wrong and what to do.

pub mod ca_http;
pub mod challenge;
pub mod config;
pub mod error;
pub mod held;
pub mod keep;
pub mod order;
pub mod stored;
pub mod validity;

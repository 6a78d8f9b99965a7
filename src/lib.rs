//! pullgate: an OCI pull gateway.
//!
//! It stands between container runtimes and upstream registries, lets through what the policy
//! permits, keeps every verified byte once, and writes down what it refused.
//!
//! The rooms import one way only; `tests/it/house.rs` holds the table.

pub mod audit;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod console;
pub mod content;
pub mod files;
pub mod gate;
pub mod identity;
pub mod oci;
pub mod policy;
pub mod pull;
pub mod review;
pub mod server;
pub mod settings;
pub mod sink;
pub mod telemetry;
pub mod upstream;

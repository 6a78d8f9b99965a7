//! The integration tests: one binary, real sockets, no network but the machine's own.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod browser;
mod clients;
mod corpora;
mod door;

mod fake_registry;
mod house;
mod monitoring;
mod support;

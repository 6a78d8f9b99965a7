//! The integration tests: one binary, real sockets, no network.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod fake_registry;
mod house;
mod support;

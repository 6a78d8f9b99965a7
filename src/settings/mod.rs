//! Files into typed values: strict parsing, the wrong line shown, changes noticed.
//!
//! Only `cli` imports this room; it hands each other room that room's own settings type.

pub mod diagnostic;
pub mod files;
pub mod gateway;
pub mod policy;
pub mod value;
pub mod watch;

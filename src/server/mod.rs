//! The door: TLS, limits, and the only translation of errors to HTTP.

pub mod certificates;

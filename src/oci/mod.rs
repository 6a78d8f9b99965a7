//! The language of the OCI distribution spec: pure values, no I/O.

mod digest;
mod fault;

pub use digest::{Algorithm, Digest, DigestError, Hasher};
pub use fault::Fault;

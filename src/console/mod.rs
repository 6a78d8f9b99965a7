//! Review pages: what the record says, for people in a browser and for programs.
//!
//! It reads the record and judges nothing. What it shows was chosen by others (names, tags, paths, the
//! words of a policy), so every value is escaped: against markup by maud, against characters that
//! reorder or hide text by [`crate::audit::printable`].

mod page;
mod redacted;

pub use page::{PAGE_SECURITY, notice};
pub use redacted::Redacted;

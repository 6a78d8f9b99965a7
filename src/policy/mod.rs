//! May they? A pure function of caller, ask, facts and time.

mod code;
mod decision;
mod facts;

pub use code::{Code, Verdict};
pub use decision::{Check, Decision, Outcome, Permit, Reason, Refusal, Target, Trace};
pub use facts::{Facts, Fresh, Image, Known, Lack, Need, Root, Roots, TagFact};

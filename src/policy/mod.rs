//! May they? A pure function of caller, ask, facts and time.
//!
//! [`Policy::decide`] is asked again and again until it permits, refuses or fails; each time it lacks
//! a fact it says which, and nothing may be fetched without such a [`Need`].

mod changes;
mod code;
mod companion;
mod compiled;
mod content;
mod coverage;
mod decide;
mod decision;
mod diff;
mod exceptions;
mod explain;
mod facts;
mod lint;
mod offline;
mod pattern;
mod recalls;
mod recorded;
mod refusal;
mod replay;
mod rules;
mod samples;
mod suggest;
#[cfg(test)]
mod tests;

pub use code::{Code, Softenable, Verdict};
pub use compiled::{Policy, Source};
pub use content::{CHILDREN_MAX, NESTED_MAX};
pub use coverage::{Coverage, Rule, RuleKind};
pub use decision::{Check, Decision, Outcome, Permit, Reason, Refusal, Target, Trace};
pub use diff::{Difference, Judged, Witness};
pub use explain::{Explanation, Owned};
pub use facts::{
    Content, Facts, Fresh, Image, Known, Lack, Need, Recalled, Root, Roots, Seen, Sight, TagFact, Unseen,
};
pub use lint::{Finding, Level, Lint, Surroundings};
pub use offline::{Offline, TestResult};
pub use pattern::{Match, Pattern};
pub use recorded::{Asked, Count, Recorded, Span};
pub use replay::{Changed, Replay, Replayed, Unjudged};
pub use rules::{
    AgeClock, AgeRule, Artifacts, BaseRule, Digests, Exception, Given, Help, HoldFirst, IndexRule, Invalid,
    Item, LabelRule, Leaves, Mode, Modes, Moved, Pin, PlatformRule, PolicyTest, Recall, Rules, SizeRule,
    SourceRule, UserRule, Written,
};

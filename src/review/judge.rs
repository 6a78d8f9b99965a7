//! What the room needs of the policy file, without reading files or their format itself.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;

use crate::policy::{Facts, Need, Policy, Rules, Surroundings};

/// The policy file as it is now, and the reader of its format. `cli` provides it.
pub trait Judge: Debug + Send + Sync {
    /// The policy file now: what patches are made against.
    ///
    /// # Errors
    /// It cannot be read: why, and what to do.
    fn read(&self) -> Result<PolicyFile, String>;

    /// The policy that a text is.
    ///
    /// # Errors
    /// What is wrong with it, with file and line.
    fn compile(&self, text: &str) -> Result<Compiled, String>;

    /// What lint compares the policy with.
    fn surroundings(&self) -> Surroundings;

    /// Fills in a fact that a decision lacks from what the gateway holds, asking nobody; whether it holds
    /// all of it.
    fn gather<'a>(&'a self, need: &'a Need, facts: &'a mut Facts) -> Gathered<'a>;
}

/// Whether a fact is held in full, or why the catalog failed.
pub type Gathered<'a> = Pin<Box<dyn Future<Output = Result<bool, String>> + Send + 'a>>;

/// The policy file.
#[derive(Clone, Debug)]
pub struct PolicyFile {
    /// Its path as the gateway's configuration names it.
    pub path: String,
    /// What it says.
    pub text: String,
}

/// A policy and the rules it was made of.
#[derive(Debug)]
pub struct Compiled {
    /// The policy.
    pub policy: Policy,
    /// What the file says, before `[require]` was merged into the sources.
    pub rules: Rules,
}

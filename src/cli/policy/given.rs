//! What the commands on the record begin with.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::cli::Failure;
use crate::clock::Clock;
use crate::policy::Policy;
use crate::settings::{gateway, policy};

/// The policy and the data folder that a command on the record is about, and the time it runs at.
pub(super) struct Given {
    pub(super) policy: Policy,
    pub(super) folder: PathBuf,
    pub(super) now: Timestamp,
}

/// Reads a policy file and where the record is.
pub(super) fn given(policy: &Path, config: &Path) -> Result<Given, Failure> {
    let policy = policy::load(policy).map_err(Failure::unjudged)?;
    let settings = gateway::load(config).map_err(Failure::unjudged)?;
    Ok(Given { policy, folder: settings.storage.path, now: Clock::system().now() })
}

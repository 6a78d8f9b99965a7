//! The closed words of events.

/// What a reviewer or an administrator did.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Action {
    /// Took note of a group of blocked pulls: somebody is looking into it.
    Acknowledge,
    /// Made a patch for the policy file out of a group.
    Patch,
    /// Put a group back to new.
    Reopen,
    /// Said that a group is dealt with.
    Resolve,
}

impl Action {
    /// The closed word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acknowledge => "acknowledge",
            Self::Patch => "patch",
            Self::Reopen => "reopen",
            Self::Resolve => "resolve",
        }
    }

    /// The action of a word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Acknowledge, Self::Patch, Self::Reopen, Self::Resolve]
            .into_iter()
            .find(|action| action.as_str() == word)
    }
}

/// What happened to an exception.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ExceptionResult {
    /// It stands in the policy that was adopted, new or changed.
    Created,
    /// Its time is over.
    Expired,
    /// It no longer stands in the policy.
    Removed,
    /// A pull met it.
    Used,
}

impl ExceptionResult {
    /// The closed word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Expired => "expired",
            Self::Removed => "removed",
            Self::Used => "used",
        }
    }
}

/// What happened to a recall.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum RecallResult {
    /// It stands in the policy that was adopted and did not before.
    Created,
    /// It stands there with other words or names.
    Changed,
    /// It no longer stands in the policy.
    Removed,
}

impl RecallResult {
    /// The closed word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Created => "created",
            Self::Removed => "removed",
        }
    }
}

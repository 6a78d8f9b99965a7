//! How text stands in GitHub's workflow commands: none can end its command or begin another.

/// The value of a workflow command.
pub(super) fn value(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// A property of a workflow command.
pub(super) fn property(text: &str) -> String {
    value(text).replace(':', "%3A").replace(',', "%2C")
}

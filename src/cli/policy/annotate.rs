//! What continuous integration reads: GitHub's workflow commands and JUnit's XML.

use std::fmt::Write as _;
use std::path::Path;

use crate::cli::annotation::{property, value};

/// One line that GitHub shows beside the line of the file it is about.
///
/// `level` is `error` or `warning`; `at` is `policy.toml:41`, of which the line counts.
pub(super) fn github(level: &str, file: &Path, at: &str, title: &str, message: &str) -> String {
    let mut command = format!("::{level} file={}", property(&file.display().to_string()));
    if let Some(line) = line(at) {
        let _ = write!(command, ",line={line}");
    }
    let _ = write!(command, ",title={}::{}", property(title), value(message));
    command
}

/// The line of `policy.toml:41`.
pub(super) fn line(at: &str) -> Option<usize> {
    at.rsplit_once(':')?.1.parse().ok()
}

/// Text as it may stand in an XML 1.0 attribute or element; characters that XML cannot hold at all
/// become U+FFFD.
pub(super) fn xml(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&apos;"),
            // In attributes a bare one would be read as a space.
            '\t' | '\n' | '\r' => {
                let _ = write!(safe, "&#{};", u32::from(character));
            }
            '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => safe.push('\u{fffd}'),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_cannot_start_a_second_command_or_end_its_properties() {
        let said = github("error", Path::new("a,b:c.toml"), "c.toml:7", "x::y", "100%\n::error::owned\r");
        assert_eq!(said, "::error file=a%2Cb%3Ac.toml,line=7,title=x%3A%3Ay::100%25%0A::error::owned%0D");
        assert_eq!(github("warning", Path::new("p"), "nowhere", "t", "m"), "::warning file=p,title=t::m");
    }

    #[test]
    fn text_cannot_leave_its_xml_attribute() {
        assert_eq!(xml("a<b>&\"'\n\u{1b}[2J\u{0}"), "a&lt;b&gt;&amp;&quot;&apos;&#10;\u{fffd}[2J\u{fffd}");
    }
}

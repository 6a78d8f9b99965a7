//! Examples of what a pattern means: names and tags that it matches.

use super::{Match, Pattern};
use crate::oci::{Name, Tag};

/// A few tags that the pattern admits, the plainest first; the literal itself where it is one.
pub(super) fn tags(pattern: &Pattern) -> Vec<Tag> {
    if let Some(tag) = pattern.literal() {
        return vec![tag];
    }
    const FILLINGS: [(&str, &str); 4] = [("1", "x"), ("1", ""), ("20", "1-y"), ("3", "bookworm")];
    let mut tags = Vec::new();
    for (digits, run) in FILLINGS {
        let mut text = String::new();
        for character in pattern.as_str().chars() {
            match character {
                '#' => text.push_str(digits),
                '*' => text.push_str(run),
                other => text.push(other),
            }
        }
        if let Ok(tag) = text.parse::<Tag>()
            && pattern.admits(&tag)
            && !text.ends_with(['-', '.', '_'])
            && !tags.contains(&tag)
        {
            tags.push(tag);
        }
    }
    tags
}

/// Names that the pattern matches: one for each depth that means something.
pub(super) fn names(pattern: &Match) -> Vec<Name> {
    let text = pattern.to_string();
    let shallow = text.replace("**", "example").replace('*', "example");
    let deep = text.replace("**", "example/deep").replace('*', "example");
    let mut names = Vec::new();
    for text in [shallow, deep] {
        if let Ok(name) = text.parse::<Name>()
            && pattern.matches(&name)
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_from_a_pattern_is_matched_by_it() {
        for (written, first) in [
            ("#.#.#", "1.1.1"),
            ("v#.#.#-*", "v1.1.1-x"),
            ("0.8.0-pg16", "0.8.0-pg16"),
            ("*", "x"),
            ("##", "11"),
        ] {
            let pattern = Pattern::parse(written).unwrap();
            let made = tags(&pattern);
            assert_eq!(made.first().map(Tag::as_str), Some(first), "{written}");
            assert!(made.iter().all(|tag| pattern.admits(tag)), "{written}");
        }
        let pattern = Match::parse("ghcr.io/acme/**").unwrap();
        let made: Vec<String> = names(&pattern).iter().map(ToString::to_string).collect();
        assert_eq!(made, ["ghcr.io/acme/example", "ghcr.io/acme/example/deep"]);
        assert_eq!(names(&Match::parse("docker.io/library/*").unwrap()).len(), 1);
    }
}

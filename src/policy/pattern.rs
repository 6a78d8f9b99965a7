//! The two small pattern languages of the policy file: tags and repositories.

use std::fmt;
use std::sync::Arc;

use crate::oci::{DOCKER_HUB, Name, Registry, Repository, Tag};

/// States of the automaton live in one `u128`, so a pattern with wildcards has at most this many steps.
const STEPS_MAX: usize = 127;

/// A tag pattern: `#` is one or more ASCII digits, `*` any run of characters, also an empty one; the
/// rest is literal. Matching takes time linear in the tag and allocates nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pattern {
    text: Arc<str>,
    steps: Box<[Step]>,
    literal: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// Any run of characters.
    Any,
    /// This character.
    Byte(u8),
    /// One digit.
    Digit,
    /// Any run of digits.
    Digits,
}

impl Pattern {
    /// Reads a pattern; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("an empty pattern matches no tag".to_owned());
        }
        let literal = !text.contains(['#', '*']);
        if literal && text.parse::<Tag>().is_err() {
            return Err(format!("{text:?} is no tag, so nothing can match it"));
        }
        let mut steps = Vec::new();
        for byte in text.bytes() {
            match byte {
                b'#' => steps.extend([Step::Digit, Step::Digits]),
                b'*' => steps.push(Step::Any),
                b'.' | b'-' | b'_' => steps.push(Step::Byte(byte)),
                _ if byte.is_ascii_alphanumeric() => steps.push(Step::Byte(byte)),
                _ => {
                    return Err(format!(
                        "{text:?} holds a character that no tag can contain; patterns are made of letters, digits, . _ - and the wildcards # (digits) and * (anything)"
                    ));
                }
            }
        }
        if !literal && steps.len() > STEPS_MAX {
            return Err(format!("{text:?} is longer than a pattern may be ({STEPS_MAX} characters)"));
        }
        Ok(Self { text: text.into(), steps: steps.into(), literal })
    }

    /// The pattern as it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The one tag that a pattern without wildcards means.
    pub fn literal(&self) -> Option<Tag> {
        if self.literal { self.text.parse().ok() } else { None }
    }

    /// Whether it has no wildcards.
    pub fn is_literal(&self) -> bool {
        self.literal
    }

    /// Whether it matches the whole tag, letter case included: how `allow` is read.
    pub fn admits(&self, tag: &Tag) -> bool {
        self.matches(tag.as_str().as_bytes(), |step, byte| step == byte)
    }

    /// Whether it matches the whole tag or one of its words (split at `-`, `_`, `.`), whatever the
    /// letter case: how `deny` is read.
    pub fn denies(&self, tag: &Tag) -> bool {
        let same = |step: u8, byte: u8| step.eq_ignore_ascii_case(&byte);
        let tag = tag.as_str().as_bytes();
        self.matches(tag, same)
            || tag
                .split(|byte| matches!(byte, b'-' | b'_' | b'.'))
                .any(|word| !word.is_empty() && self.matches(word, same))
    }

    fn matches(&self, text: &[u8], same: impl Fn(u8, u8) -> bool) -> bool {
        if self.literal {
            return self.steps.len() == text.len()
                && self
                    .steps
                    .iter()
                    .zip(text)
                    .all(|(step, byte)| matches!(step, Step::Byte(wanted) if same(*wanted, *byte)));
        }
        let mut states = self.skip(1);
        for byte in text {
            let mut next = 0;
            for (at, step) in self.steps.iter().enumerate() {
                if states >> at & 1 == 0 {
                    continue;
                }
                next |= match step {
                    Step::Any => 1 << at,
                    Step::Byte(wanted) if same(*wanted, *byte) => 1 << (at + 1),
                    Step::Digit if byte.is_ascii_digit() => 1 << (at + 1),
                    Step::Digits if byte.is_ascii_digit() => 1 << at,
                    _ => 0,
                };
            }
            states = self.skip(next);
            if states == 0 {
                return false;
            }
        }
        states >> self.steps.len() & 1 == 1
    }

    /// Runs may be empty: whoever stands before one stands behind it as well.
    fn skip(&self, mut states: u128) -> u128 {
        for (at, step) in self.steps.iter().enumerate() {
            if matches!(step, Step::Any | Step::Digits) {
                states |= (states >> at & 1) << (at + 1);
            }
        }
        states
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Which repositories a source owns: a literal registry, then segments that are literal, `*` (one
/// whole segment) or, at the end, `**` (one or more).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Match {
    registry: Registry,
    segments: Box<[Segment]>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Segment {
    Literal(Box<str>),
    One,
    Rest,
}

impl Match {
    /// Reads `registry/segment/…`; the error says what is wrong with it. On Docker Hub a single
    /// segment means `library/…`, as in every name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (first, rest) = text.split_once('/').unwrap_or((text, ""));
        if first.contains('*') {
            return Err(format!("the registry of {text:?} must be literal: a wildcard cannot stand in it"));
        }
        if !Registry::looks_like_one(first) {
            return Err(format!("{text:?} names no registry; write docker.io/{text} if you mean Docker Hub"));
        }
        let registry: Registry = first.parse().map_err(|error: crate::oci::NameError| error.to_string())?;
        if rest.is_empty() {
            return Err(format!(
                "{text:?} names no repository; write {registry}/** for everything in that registry"
            ));
        }
        let mut segments = Vec::new();
        for segment in rest.split('/') {
            if matches!(segments.last(), Some(Segment::Rest)) {
                return Err(format!("`**` stands for all further segments of {text:?}: it must come last"));
            }
            segments.push(match segment {
                "*" => Segment::One,
                "**" => Segment::Rest,
                _ if segment.contains('*') => {
                    return Err(format!(
                        "`*` in {text:?} stands for one whole segment; it cannot be a part of {segment:?}"
                    ));
                }
                _ => {
                    let sound: Repository =
                        segment.parse().map_err(|error: crate::oci::NameError| error.to_string())?;
                    Segment::Literal(sound.as_str().into())
                }
            });
        }
        if registry.as_str() == DOCKER_HUB
            && matches!(segments.as_slice(), [Segment::Literal(_) | Segment::One])
        {
            segments.insert(0, Segment::Literal("library".into()));
        }
        Ok(Self { registry, segments: segments.into() })
    }

    /// Its registry.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Whether it owns this repository.
    pub fn matches(&self, name: &Name) -> bool {
        if *name.registry() != self.registry {
            return false;
        }
        let mut found = name.repository().as_str().split('/');
        for segment in &self.segments {
            let Some(part) = found.next() else { return false };
            match segment {
                Segment::Literal(wanted) if **wanted != *part => return false,
                Segment::Literal(_) | Segment::One => {}
                Segment::Rest => return true,
            }
        }
        found.next().is_none()
    }

    /// How specific it is: more literal segments first, then more segments.
    pub(super) fn specificity(&self) -> (usize, usize) {
        let literal = self.segments.iter().filter(|segment| matches!(segment, Segment::Literal(_))).count();
        (literal, self.segments.len())
    }

    /// Whether one name can match both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        fn both(a: &[Segment], b: &[Segment]) -> bool {
            match (a, b) {
                ([], []) => true,
                ([], _) | (_, []) => false,
                ([Segment::Rest], _) | (_, [Segment::Rest]) => true,
                ([Segment::Literal(x), ..], [Segment::Literal(y), ..]) if x != y => false,
                ([_, a @ ..], [_, b @ ..]) => both(a, b),
            }
        }
        self.registry == other.registry && both(&self.segments, &other.segments)
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.registry.as_str())?;
        for segment in &self.segments {
            f.write_str("/")?;
            f.write_str(match segment {
                Segment::Literal(text) => text,
                Segment::One => "*",
                Segment::Rest => "**",
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).expect(text)
    }

    fn tag(text: &str) -> Tag {
        text.parse().expect(text)
    }

    #[test]
    fn a_hash_is_one_or_more_digits_and_a_star_any_run() {
        for (written, yes, no) in [
            ("#.#.#", vec!["3.11.9", "10.0.123"], vec!["3.11", "3.11.9-x", "v3.11.9", "3.11.9.1", "3.x.9"]),
            ("v#.#.#-*", vec!["v1.2.3-", "v1.2.3-rc1"], vec!["v1.2.3", "1.2.3-x"]),
            ("#.#-*-bookworm", vec!["3.11-slim-bookworm"], vec!["3.11-bookworm", "3.11-slim-bookworm-x"]),
            ("*", vec!["a", "1.2.3", "latest"], vec![]),
            ("##", vec!["10", "123"], vec!["1"]),
            ("#*", vec!["1", "1a", "12"], vec!["a1"]),
        ] {
            let pattern = pattern(written);
            for text in yes {
                assert!(pattern.admits(&tag(text)), "{written} should match {text}");
            }
            for text in no {
                assert!(!pattern.admits(&tag(text)), "{written} should not match {text}");
            }
        }
    }

    #[test]
    fn allow_minds_letter_case_and_deny_does_not() {
        assert!(!pattern("v#").admits(&tag("V1")));
        assert!(pattern("latest").denies(&tag("LATEST")));
        assert!(pattern("RC*").denies(&tag("1.2.3-rc1")));
    }

    #[test]
    fn deny_reads_the_words_of_a_tag_but_not_their_parts() {
        let latest = pattern("latest");
        for text in ["latest", "1.2.3-latest", "latest_1", "a.Latest.b"] {
            assert!(latest.denies(&tag(text)), "{text}");
        }
        for text in ["latest1", "thelatest", "1.2.3"] {
            assert!(!latest.denies(&tag(text)), "{text}");
        }
        assert!(pattern("rc*").denies(&tag("3.14-rc-trixie")));
        assert!(!pattern("rc*").denies(&tag("1.2.3-arc")));
    }

    #[test]
    fn a_pattern_that_no_tag_can_match_is_an_error() {
        for text in ["", "a b", "a/b", "é", "-x", "a:b", &"#".repeat(64)] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
        let long = "a".repeat(128);
        assert!(pattern(&long).admits(&tag(&long)));
    }

    #[test]
    fn a_segment_wildcard_stands_for_a_whole_segment() {
        let owns = |written: &str, name: &str| {
            Match::parse(written).expect(written).matches(&name.parse().expect(name))
        };
        assert!(owns("docker.io/library/*", "python"));
        assert!(owns("docker.io/*", "python"));
        assert!(owns("index.docker.io/python", "docker.io/library/python"));
        assert!(!owns("docker.io/library/*", "docker.io/library/evil/x"));
        assert!(!owns("docker.io/library/*", "docker.io.evil.com/library/python"));
        assert!(owns("ghcr.io/**", "ghcr.io/a"));
        assert!(owns("ghcr.io/**", "ghcr.io/a/b/c"));
        assert!(!owns("ghcr.io/a/**", "ghcr.io/a"));
        assert!(!owns("gcr.io/distroless/*", "gcr.io/distroless-evil/static"));
        assert!(owns("localhost:5000/*/x", "localhost:5000/a/x"));
    }

    #[test]
    fn a_match_that_could_surprise_is_an_error() {
        for text in [
            "*.gcr.io/x",
            "**",
            "python",
            "library/*",
            "ghcr.io",
            "ghcr.io/",
            "ghcr.io/**/x",
            "ghcr.io/py*",
            "ghcr.io/***",
            "ghcr.io/A",
            "ghcr.io//x",
            "ghcr.io/../x",
        ] {
            assert!(Match::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn overlap_is_seen_between_any_two_shapes() {
        let overlap = |a: &str, b: &str| {
            let (a, b) = (Match::parse(a).expect(a), Match::parse(b).expect(b));
            assert_eq!(a.overlaps(&b), b.overlaps(&a));
            a.overlaps(&b)
        };
        assert!(overlap("ghcr.io/*/x", "ghcr.io/y/*"));
        assert!(!overlap("ghcr.io/*/x", "ghcr.io/*/y"));
        assert!(overlap("ghcr.io/a/*", "ghcr.io/a/**"));
        assert!(!overlap("ghcr.io/a", "ghcr.io/a/**"));
        assert!(!overlap("ghcr.io/*", "quay.io/*"));
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_it_generates(parts in prop::collection::vec(("[a-z.]{0,4}", "[0-9]{1,4}", "[a-z0-9.-]{0,6}"), 1..5)) {
            let (mut written, mut text) = ("v".to_owned(), "v".to_owned());
            for (literal, digits, any) in parts {
                written.push_str(&literal);
                written.push_str("#-*");
                text.push_str(&literal);
                text.push_str(&digits);
                text.push('-');
                text.push_str(&any);
            }
            prop_assert!(pattern(&written).admits(&tag(&text)), "{} {}", written, text);
        }

        #[test]
        fn reading_any_text_as_a_pattern_never_panics(text in ".{0,200}", tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}") {
            let tag: Tag = tag.parse().expect("a tag");
            if let Ok(pattern) = Pattern::parse(&text) {
                prop_assert!(!pattern.admits(&tag) || pattern.denies(&tag), "deny reads at least what allow reads");
            }
            let _ = Match::parse(&text);
        }
    }
}

//! What to pull instead: the allowed tag nearest to a refused one.

use std::cmp::{Ordering, Reverse};

use super::companion::Companion;
use super::compiled::Owner;
use super::{Policy, Source};
use crate::identity::{Caller, Class};
use crate::oci::{Name, Tag};

impl Policy {
    /// The allowed tag nearest to one that was refused, of those `held` and those the policy itself
    /// names (literal patterns and pins). Nothing is asked of any upstream.
    ///
    /// Nearest: the same variant of the same first number, then most leading words in common (words end
    /// at `-`, `_`, `.`), then the least distance where the versions part, then most trailing words, then
    /// the nearest number of words, then the highest version.
    pub fn suggest<'a>(
        &self,
        caller: &Caller,
        name: &Name,
        asked: &Tag,
        held: impl Iterator<Item = &'a Tag>,
    ) -> Option<Tag> {
        let source = self.suggests(caller, name)?;
        let pinned = self.pins_of(name).iter().filter_map(|pin| pin.tag.as_ref());
        let fits = |tag: &Tag| tag != asked && self.is_offered(source, name, tag);
        let held = held.filter(|tag| fits(tag)).max_by(|a, b| order(asked, a, b));
        let named =
            source.literals.iter().chain(pinned).filter(|tag| fits(tag)).max_by(|a, b| order(asked, a, b));
        match (held, named) {
            (Some(held), Some(named)) if order(asked, held, named).is_lt() => Some(named.clone()),
            (held, named) => held.or(named).cloned(),
        }
    }

    /// Of tags that are held here, the one to pull instead of something that the tag rules allow and
    /// another check refuses: the nearest to `asked`, or the highest where no tag was asked for.
    pub fn suggest_held<'a>(
        &self,
        caller: &Caller,
        name: &Name,
        asked: Option<&Tag>,
        held: impl Iterator<Item = &'a Tag>,
    ) -> Option<Tag> {
        let source = self.suggests(caller, name)?;
        let held = held.filter(|tag| Some(*tag) != asked && self.is_offered(source, name, tag));
        let nearest = held.max_by(|a, b| match asked {
            Some(asked) => order(asked, a, b),
            None => natural(a.as_str(), b.as_str()),
        });
        nearest.cloned()
    }

    /// The rules by which this caller may be told what there is.
    fn suggests(&self, caller: &Caller, name: &Name) -> Option<&Source> {
        let (Owner::Source(source) | Owner::Unlisted(source)) = self.owner(name) else { return None };
        (caller.class != Class::Unknown && source.serves(&caller.class)).then_some(source)
    }

    fn is_offered(&self, source: &Source, name: &Name, tag: &Tag) -> bool {
        Companion::of(tag).is_none()
            && self.recalls.tag(name, tag).is_none()
            && self.passes(source, name, tag)
    }
}

fn order(asked: &Tag, a: &Tag, b: &Tag) -> Ordering {
    nearness(asked, a).cmp(&nearness(asked, b)).then_with(|| natural(a.as_str(), b.as_str()))
}

type Nearness = (bool, usize, Reverse<u64>, usize, Reverse<usize>);

fn nearness(asked: &Tag, tag: &Tag) -> Nearness {
    let split = |tag: &'_ Tag| -> Vec<String> {
        tag.as_str().split(['-', '_', '.']).map(str::to_ascii_lowercase).collect()
    };
    // What follows the version: `slim-bookworm` of 3.11-slim-bookworm.
    let variant = |tag: &'_ Tag| tag.as_str().split_once(['-', '_']).map(|(_, variant)| variant.to_owned());
    let same_variant = variant(asked).is_some() && variant(asked) == variant(tag);
    let (asked, tag) = (split(asked), split(tag));
    let leading = asked.iter().zip(&tag).take_while(|(a, b)| a == b).count();
    let trailing = asked.iter().rev().zip(tag.iter().rev()).take_while(|(a, b)| a == b).count();
    let number = |words: &[String]| words.get(leading)?.trim_start_matches('v').parse::<u64>().ok();
    let distance = match (number(&asked), number(&tag)) {
        (Some(a), Some(b)) => a.abs_diff(b),
        _ => u64::MAX,
    };
    let length = asked.len().abs_diff(tag.len());
    (same_variant && leading > 0, leading, Reverse(distance), trailing, Reverse(length))
}

/// Orders as people read versions: runs of digits by value, the rest by letter.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        let (Some(x), Some(y)) = (a.first(), b.first()) else { return a.len().cmp(&b.len()) };
        let order = if x.is_ascii_digit() && y.is_ascii_digit() {
            let (left, rest_a) = digits(a);
            let (right, rest_b) = digits(b);
            (a, b) = (rest_a, rest_b);
            left.len().cmp(&right.len()).then_with(|| left.cmp(right))
        } else {
            (a, b) = (a.get(1..).unwrap_or_default(), b.get(1..).unwrap_or_default());
            x.cmp(y)
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// A leading number without its zeros, and what follows it.
fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    let zeros = number.iter().position(|byte| *byte != b'0').unwrap_or(number.len());
    (number.get(zeros..).unwrap_or_default(), rest)
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use super::{natural, order};
    use crate::oci::Tag;

    #[test]
    fn the_nearest_is_of_the_same_variant_and_the_least_distance_away() {
        let nearest = |asked: &str, held: &[&str]| {
            let asked: Tag = asked.parse().unwrap();
            let held: Vec<Tag> = held.iter().map(|tag| tag.parse().unwrap()).collect();
            held.iter().max_by(|a, b| order(&asked, a, b)).unwrap().to_string()
        };
        for (asked, held, expected) in [
            ("1.2.5", &["1.2.3", "1.2.9", "1.3.0", "2.0.0"][..], "1.2.3"),
            ("1.2.5-alpine", &["1.2.5-slim", "1.2.4-alpine", "9.0.0-alpine"], "1.2.4-alpine"),
            ("1.2.5-alpine", &["1.2.5-slim", "9.0.0-alpine"], "1.2.5-slim"),
            ("v1.4.0", &["v1.2.0", "v1.5.0", "v2.4.0"], "v1.5.0"),
            ("3.11", &["3.11-slim-bookworm", "3.12-slim-bookworm", "2.0.0"], "3.11-slim-bookworm"),
            ("latest", &["1.9.0", "1.10.0"], "1.10.0"),
            ("1.5", &["1.4.0", "1.6.0"], "1.6.0"),
            ("18446744073709551616.0", &["1.0", "2.0"], "2.0"),
        ] {
            assert_eq!(nearest(asked, held), expected, "{asked}");
        }
    }

    #[test]
    fn versions_are_ordered_as_people_read_them() {
        for (a, b) in [("3.9", "3.11"), ("3.11", "3.11.1"), ("1.2.3-a", "1.2.3-b"), ("09", "10")] {
            assert_eq!(natural(a, b), Ordering::Less, "{a} {b}");
            assert_eq!(natural(b, a), Ordering::Greater, "{b} {a}");
        }
        assert_eq!(natural("1.02", "1.2"), Ordering::Equal);
    }
}

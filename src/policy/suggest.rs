//! What to pull instead: the allowed tag nearest to a refused one.

use super::Policy;
use super::companion::Companion;
use super::compiled::Owner;
use crate::identity::{Caller, Class};
use crate::oci::{Name, Tag};

impl Policy {
    /// The allowed tag nearest to one that was refused, of those `held` and those the policy itself
    /// names (literal patterns and pins). Nothing is asked of any upstream.
    ///
    /// Nearest: most leading words in common (words end at `-`, `_`, `.`), then most trailing ones,
    /// then the nearest number of words, then the highest version.
    pub fn suggest<'a>(
        &self,
        caller: &Caller,
        name: &Name,
        asked: &Tag,
        held: impl Iterator<Item = &'a Tag>,
    ) -> Option<Tag> {
        let (Owner::Source(source) | Owner::Unlisted(source)) = self.owner(name) else { return None };
        if caller.class == Class::Unknown || !source.serves(&caller.class) {
            return None;
        }
        let pinned = self.pins_of(name).iter().filter_map(|pin| pin.tag.as_ref());
        let fits = |tag: &Tag| tag != asked && Companion::of(tag).is_none() && self.passes(source, name, tag);
        let order = |a: &Tag, b: &Tag| {
            nearness(asked, a).cmp(&nearness(asked, b)).then_with(|| natural(a.as_str(), b.as_str()))
        };
        let held = held.filter(|tag| fits(tag)).max_by(|a, b| order(a, b));
        let named = source.literals.iter().chain(pinned).filter(|tag| fits(tag)).max_by(|a, b| order(a, b));
        match (held, named) {
            (Some(held), Some(named)) if order(held, named).is_lt() => Some(named.clone()),
            (held, named) => held.or(named).cloned(),
        }
    }
}

fn nearness(asked: &Tag, tag: &Tag) -> (usize, usize, std::cmp::Reverse<usize>) {
    let split = |tag: &'_ Tag| -> Vec<String> {
        tag.as_str().split(['-', '_', '.']).map(str::to_ascii_lowercase).collect()
    };
    let (asked, tag) = (split(asked), split(tag));
    let leading = asked.iter().zip(&tag).take_while(|(a, b)| a == b).count();
    let trailing = asked.iter().rev().zip(tag.iter().rev()).take_while(|(a, b)| a == b).count();
    (leading, trailing, std::cmp::Reverse(asked.len().abs_diff(tag.len())))
}

/// Orders as people read versions: runs of digits by value, the rest by letter.
fn natural(a: &str, b: &str) -> std::cmp::Ordering {
    use std::cmp::Ordering;
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

    use super::natural;

    #[test]
    fn versions_are_ordered_as_people_read_them() {
        for (a, b) in [("3.9", "3.11"), ("3.11", "3.11.1"), ("1.2.3-a", "1.2.3-b"), ("09", "10")] {
            assert_eq!(natural(a, b), Ordering::Less, "{a} {b}");
            assert_eq!(natural(b, a), Ordering::Greater, "{b} {a}");
        }
        assert_eq!(natural("1.02", "1.2"), Ordering::Equal);
    }
}

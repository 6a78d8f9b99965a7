//! What was found, before it has a place.

use std::collections::BTreeMap;
use std::ops::Range;

use super::variables::{self, Dialect};
use super::yaml::View;
use super::{Image, Kind, Obstacle, Place, Reading, Unjudged, Why};

/// So much of a text that is no reference is quoted.
const QUOTED_MAX: usize = 200;
/// So many references one file may hold.
const COUNT_MAX: usize = 20_000;

/// References by the bytes they stand in and what they say, each once: an anchor may be used many times.
#[derive(Debug, Default)]
pub(super) struct Findings(BTreeMap<(usize, usize, String), Finding>);

#[derive(Debug)]
struct Finding {
    kind: Kind,
    outcome: Result<Result<usize, Obstacle>, Why>,
}

impl Findings {
    /// An image, and the offset at which a digest may be inserted.
    pub(super) fn image(
        &mut self,
        kind: Kind,
        range: Range<usize>,
        text: String,
        pin: Result<usize, Obstacle>,
    ) {
        self.add(range, text, Finding { kind, outcome: Ok(pin) });
    }

    /// Something that names an image and does not say which.
    pub(super) fn unjudged(&mut self, kind: Kind, range: Range<usize>, text: &str, why: Why) {
        let mut quoted: String = text.chars().take(QUOTED_MAX).collect();
        if quoted.len() < text.len() {
            quoted.push('…');
        }
        self.add(range, quoted, Finding { kind, outcome: Err(why) });
    }

    fn add(&mut self, range: Range<usize>, text: String, finding: Finding) {
        if !self.is_full() {
            self.0.entry((range.start, range.end, text)).or_insert(finding);
        }
    }

    /// Whether there may be more than are kept.
    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= COUNT_MAX
    }

    /// A scalar that is a reference as a whole, or after `prefix` (`docker://`; without it, it names none).
    pub(super) fn scalar(&mut self, kind: Kind, view: View<'_>, prefix: &str) {
        let Some(whole) = view.text() else { return };
        let Some(text) = whole.strip_prefix(prefix) else { return };
        if text.trim().is_empty() {
            return;
        }
        let (range, literal) = view.content();
        let range = if literal { range.start + prefix.len()..range.end } else { range };
        if view.is_template() {
            return self.unjudged(kind, range.clone(), view.source(range), Why::Template);
        }
        if text.contains("${{") {
            return self.unjudged(kind, range, text, Why::Expression);
        }
        match variables::fill(text, Dialect::Compose, &|_| None) {
            Err(why) => self.unjudged(kind, range, text, why),
            Ok(filled) => {
                let pin = if text.contains('$') {
                    Err(Obstacle::Variables)
                } else if view.is_aliased() {
                    Err(Obstacle::Alias)
                } else if view.in_template() {
                    Err(Obstacle::Template)
                } else if literal {
                    Ok(range.end)
                } else {
                    Err(Obstacle::Pieces)
                };
                self.image(kind, range, filled, pin);
            }
        }
    }

    /// Everything in the order of the file.
    pub(super) fn sorted(self, place: &dyn Fn(Range<usize>) -> Place, shift: usize) -> Reading {
        let mut reading = Reading::default();
        for ((start, end, text), Finding { kind, outcome }) in self.0 {
            let place = place(start..end);
            match outcome {
                Ok(pin) => {
                    let pin = pin.map(|at| at + shift);
                    reading.images.push(Image { kind, place, text, pin });
                }
                Err(why) => reading.unjudged.push(Unjudged { kind, place, text, why }),
            }
        }
        reading
    }

    /// Takes over what was found in a text inside this one.
    pub(super) fn nest(
        &mut self,
        inner: Findings,
        place: &dyn Fn(usize) -> Option<usize>,
        whole: Range<usize>,
    ) {
        for ((start, end, text), mut finding) in inner.0 {
            let range = place(start).zip(place(end)).map(|(start, end)| start..end);
            if let Ok(pin) = &mut finding.outcome {
                *pin = pin.and_then(|at| place(at).ok_or(Obstacle::Pieces));
            }
            self.add(range.unwrap_or_else(|| whole.clone()), text, finding);
        }
    }
}

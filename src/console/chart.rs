//! Bars over time, drawn here and described in words.

use jiff::Timestamp;
use maud::{Markup, html};

use super::listing::stamp;

const WIDTH: usize = 720;
const HEIGHT: usize = 150;
/// Room for the labels, left and below.
const LEFT: usize = 48;
const BELOW: usize = 20;

/// A row of bars.
#[derive(Debug)]
pub(super) struct Chart<'a> {
    /// Its name within the page's addresses.
    pub(super) id: &'a str,
    pub(super) title: &'a str,
    /// The class of its bars' colour.
    pub(super) class: &'a str,
    pub(super) bars: &'a [(Timestamp, u64)],
    /// Whether the bars are days.
    pub(super) days: bool,
}

impl Chart<'_> {
    pub(super) fn markup(&self) -> Markup {
        let most = self.bars.iter().map(|(_, count)| *count).max().unwrap_or_default();
        let (top, plot) = (nice(most), HEIGHT - BELOW - 8);
        let room = WIDTH - LEFT;
        let count = self.bars.len().max(1);
        let height = |value: u64| {
            let scaled = u128::from(value) * plot as u128 / u128::from(top.max(1));
            usize::try_from(scaled).unwrap_or(plot).max(usize::from(value > 0) * 2)
        };
        let base = HEIGHT - BELOW;
        let (title_id, words_id) = (format!("{}-title", self.id), format!("{}-words", self.id));
        html! {
            svg.chart viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-labelledby={ (title_id) " " (words_id) } {
                title id=(title_id) { (self.title) }
                desc id=(words_id) { (self.words(most)) }
                line.axis x1=(LEFT) y1=(base) x2=(WIDTH) y2=(base) {}
                line.axis x1=(LEFT) y1=(base - plot) x2=(WIDTH) y2=(base - plot) {}
                text x=(LEFT - 6) y=(base - plot + 4) text-anchor="end" { (top) }
                text x=(LEFT - 6) y=(base + 4) text-anchor="end" { "0" }
                @for (place, (at, value)) in self.bars.iter().enumerate() {
                    @let x = LEFT + room * place / count;
                    @let end = LEFT + room * (place + 1) / count;
                    @let tall = height(*value);
                    @if *value > 0 {
                        rect class=(self.class) x=(x) y=(base - tall) width=((end - x).saturating_sub(1).max(1)) height=(tall) {
                            title { (self.label(*at)) ": " (value) }
                        }
                    }
                }
                @if let (Some((first, _)), Some((last, _))) = (self.bars.first(), self.bars.last()) {
                    text x=(LEFT) y=(HEIGHT - 5) { (self.label(*first)) }
                    text x=(WIDTH) y=(HEIGHT - 5) text-anchor="end" { (self.label(*last)) }
                }
            }
        }
    }

    fn words(&self, most: u64) -> String {
        let total: u64 = self.bars.iter().map(|(_, count)| count).sum();
        let unit = if self.days { "day" } else { "hour" };
        let Some((at, _)) = self.bars.iter().find(|(_, count)| *count == most && most > 0) else {
            return format!("None in {} {unit}s.", self.bars.len());
        };
        format!(
            "{total} in {} {unit}s, at most {most} in one {unit}, at {}.",
            self.bars.len(),
            self.label(*at)
        )
    }

    fn label(&self, at: Timestamp) -> String {
        let text = stamp(at).replace('T', " ");
        text.get(..if self.days { 10 } else { 16 }).unwrap_or(&text).to_owned()
    }
}

/// The end of a scale that this fits on: 1, 2 or 5 and noughts.
fn nice(most: u64) -> u64 {
    let mut step: u64 = 1;
    loop {
        for factor in [1, 2, 5] {
            let end = step.saturating_mul(factor);
            if end >= most || end == u64::MAX {
                return end;
            }
        }
        step = step.saturating_mul(10);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_of_any_numbers_is_drawn_within_its_frame() {
        for (most, end) in [(0, 1), (1, 1), (3, 5), (6, 10), (101, 200), (u64::MAX, u64::MAX)] {
            assert_eq!(nice(most), end);
        }
        let bars =
            [(Timestamp::UNIX_EPOCH, 0), (Timestamp::UNIX_EPOCH, u64::MAX / 2), (Timestamp::UNIX_EPOCH, 1)];
        for bars in [&bars[..], &[]] {
            let chart = Chart { id: "x", title: "Pulls", class: "allow", bars, days: true };
            let drawn = chart.markup().into_string();
            assert!(drawn.contains("<title id=\"x-title\">Pulls</title>"), "{drawn}");
            assert!(!drawn.contains("style"), "{drawn}");
        }
    }
}

//! `{{ … }}` of Go templates, blanked out so that what surrounds it can be read as YAML.

use std::ops::Range;

/// A text of the same length in which actions are placeholders or blank.
#[derive(Debug)]
pub(super) struct Mask {
    text: String,
    actions: Vec<Range<usize>>,
}

impl Mask {
    /// Nothing when the text holds no actions. `${{ … }}` is a workflow's expression and stays.
    pub(super) fn new(text: &str) -> Option<Self> {
        let actions = actions(text);
        if actions.is_empty() {
            return None;
        }
        let mut bytes = text.as_bytes().to_vec();
        for (action, alone) in actions.iter().zip(alone(text, &actions)) {
            let filler = if alone { b' ' } else { b'x' };
            for byte in bytes.get_mut(action.clone()).unwrap_or_default() {
                if !matches!(byte, b'\n' | b'\r') {
                    *byte = filler;
                }
            }
        }
        Some(Self { text: String::from_utf8(bytes).ok()?, actions })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Where the first action is.
    pub(super) fn first(&self) -> usize {
        self.actions.first().map_or(0, |action| action.start)
    }

    /// Whether part of this range was an action.
    pub(super) fn touches(&self, range: &Range<usize>) -> bool {
        let next = self.actions.partition_point(|action| action.end <= range.start);
        self.actions.get(next).is_some_and(|action| action.start < range.end)
    }
}

fn actions(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(start) = text.get(from..).and_then(|rest| rest.find("{{")).map(|at| from + at) {
        if text.get(..start).is_some_and(|before| before.ends_with('$')) {
            from = start + 2;
            continue;
        }
        let Some(end) = text.get(start..).and_then(|rest| rest.find("}}")).map(|at| start + at + 2) else {
            break;
        };
        found.push(start..end);
        from = end;
    }
    found
}

/// For each action whether nothing but actions stands on its lines: control flow, or whole blocks.
fn alone(text: &str, actions: &[Range<usize>]) -> Vec<bool> {
    // The lines on which something else stands, in order.
    let mut others: Vec<usize> = Vec::new();
    let mut starts = vec![0];
    let mut next = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte == b'\n' {
            starts.push(at + 1);
        }
        while actions.get(next).is_some_and(|action| action.end <= at) {
            next += 1;
        }
        let inside = actions.get(next).is_some_and(|action| action.contains(&at));
        if !inside && !byte.is_ascii_whitespace() && others.last() != Some(&(starts.len() - 1)) {
            others.push(starts.len() - 1);
        }
    }
    let line = |at: usize| starts.partition_point(|start| *start <= at).saturating_sub(1);
    let shared = |action: &Range<usize>| {
        let first = others.partition_point(|other| *other < line(action.start));
        others.get(first).is_some_and(|other| *other <= line(action.end.saturating_sub(1)))
    };
    actions.iter().map(|action| !shared(action)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_lines_become_blank_and_values_become_words() {
        let text =
            "{{- if .a }}\nimage: \"{{ .é }}:1\" # {{/* no */}}\n  {{ end }} {{ end }}\r\nb: ${{ c }}\n";
        let mask = Mask::new(text).unwrap();
        assert_eq!(
            mask.text(),
            "            \nimage: \"xxxxxxxxx:1\" # xxxxxxxxxxxx\n                     \r\nb: ${{ c }}\n"
        );
        assert!(mask.touches(&(20..23)) && !mask.touches(&(13..18)));
        assert_eq!(mask.first(), 0);
    }

    #[test]
    fn what_is_no_action_stays() {
        for text in ["a: {b: {c: 1}}", "a: '{{'", "a: ${{ b }}"] {
            assert!(Mask::new(text).is_none(), "{text}");
        }
    }
}

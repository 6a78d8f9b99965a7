//! What the person sees: what, why, what to do, where to ask (policy.md, "What the person sees").

use super::{Help, Refusal};

/// The most characters of a refusal's message: kubelet events and terminals cut longer ones.
const SENTENCE_MAX: usize = 300;
/// The most characters of a reason phrase that old containerd versions still show whole.
const PHRASE_MAX: usize = 120;
/// What remains readable of a reference that is cut.
const REFERENCE_MIN: usize = 32;
/// What remains readable of a reason that is cut.
const TEXT_MIN: usize = 48;

impl Refusal {
    /// The message of the error envelope: it begins with `blocked by policy` and the id, stands
    /// alone, has at most 300 characters and no control characters.
    ///
    /// Where it would be longer the reference's middle is cut, then the reason's end, then the
    /// remedy's; never the id or the link. `remedy` is a phrase (`try 3.11-slim-bookworm`) and
    /// replaces the policy's own.
    pub fn sentence(&self, id: &str, reference: &str, remedy: Option<&str>, help: &Help) -> String {
        let first = self.reasons.first();
        let text = first.map_or(self.code.as_str(), |reason| reason.text.as_str());
        let remedy = remedy.or_else(|| first.and_then(|reason| reason.remedy.as_deref()));
        let head = format!("blocked by policy {id}: ");
        let mut tail = String::new();
        if let Some(url) = &help.url {
            tail.push_str(". Why: ");
            tail.push_str(&url.replace("{id}", id));
        }
        let contact = help.contact.as_ref().map(|contact| {
            if help.url.is_some() { format!("  {contact}") } else { format!(". Ask {contact}") }
        });
        if let Some(contact) = contact
            && len(&head) + len(&tail) + len(&contact) + REFERENCE_MIN + TEXT_MIN + 2 <= SENTENCE_MAX
        {
            tail.push_str(&contact);
        }
        let room = SENTENCE_MAX.saturating_sub(len(&head) + len(&tail) + len(": "));
        let remedy = remedy.map(|remedy| format!("; {remedy}")).unwrap_or_default();
        let reference =
            cut_middle(reference, room.saturating_sub(len(text) + len(&remedy)).max(REFERENCE_MIN));
        let room = room.saturating_sub(len(&reference));
        let text = cut_end(text, room.saturating_sub(len(&remedy)).max(TEXT_MIN).min(room));
        let remedy = cut_end(&remedy, room.saturating_sub(len(&text)));
        clean(&format!("{head}{reference}: {text}{remedy}{tail}"))
    }

    /// The reason phrase of HTTP/1.1, the one text that reaches the user of an old containerd: the
    /// sentence's beginning in at most 120 printable ASCII characters.
    pub fn phrase(&self, id: &str, reference: &str) -> String {
        let text = self.reasons.first().map_or(self.code.as_str(), |reason| reason.text.as_str());
        let head = format!("blocked by policy {id}: ");
        let room = PHRASE_MAX.saturating_sub(len(&head) + len(": "));
        let reference = cut_middle(reference, room.saturating_sub(len(text)).max(REFERENCE_MIN));
        let text = cut_end(text, room.saturating_sub(len(&reference)));
        let phrase = format!("{head}{reference}: {text}");
        let mut ascii = String::with_capacity(PHRASE_MAX);
        for character in phrase.chars() {
            ascii.push(match character {
                ' '..='~' => character,
                '…' => '~',
                _ => '?',
            });
        }
        ascii.truncate(PHRASE_MAX);
        ascii
    }
}

fn len(text: &str) -> usize {
    text.chars().count()
}

fn cut_end(text: &str, max: usize) -> String {
    if len(text) <= max {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(max.saturating_sub(1)).collect();
    if max > 0 {
        short.push('…');
    }
    short
}

/// Keeps more of the end: the tag or digest says more than the registry.
fn cut_middle(text: &str, max: usize) -> String {
    let length = len(text);
    if length <= max {
        return text.to_owned();
    }
    let kept = max.saturating_sub(1);
    let start = kept / 2;
    let end = length - (kept - start);
    let mut short: String = text.chars().take(start).collect();
    short.push('…');
    short.extend(text.chars().skip(end));
    short
}

fn clean(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::{Code, Reason};

    const ID: &str = "01JD9Z3KAAAAAAAAAAAAAAAAAA";

    fn refusal(text: &str, remedy: Option<&str>) -> Refusal {
        let reason = Reason::new(Code::TagNotAllowed, text, remedy.map(str::to_owned));
        Refusal { code: reason.code, reasons: vec![reason], fault: None, until: None }
    }

    fn help() -> Help {
        Help {
            contact: Some("#platform-security".to_owned()),
            url: Some("https://pullgate.example/d/{id}".to_owned()),
        }
    }

    #[test]
    fn the_sentence_says_what_why_what_to_do_and_where_to_ask() {
        let refusal = refusal("tag \"3.11\" is not pinned (allowed: #.#.#, …)", Some("ask"));
        let said =
            refusal.sentence(ID, "docker.io/library/python:3.11", Some("try 3.11-slim-bookworm"), &help());
        assert_eq!(
            said,
            format!(
                "blocked by policy {ID}: docker.io/library/python:3.11: tag \"3.11\" is not pinned (allowed: #.#.#, …); try 3.11-slim-bookworm. Why: https://pullgate.example/d/{ID}  #platform-security"
            )
        );
        let said = refusal.sentence(ID, "docker.io/library/python:3.11", None, &Help::default());
        assert!(said.ends_with("; ask"), "{said}");
    }

    #[test]
    fn a_long_reference_is_cut_in_its_middle() {
        let reference = format!("registry.example/{}:1.2.3", "a/".repeat(120));
        let said = refusal("no", None).sentence(ID, &reference, None, &help());
        assert!(said.contains("registry.example/a/") && said.contains("/:1.2.3: no"), "{said}");
        assert!(said.contains('…') && said.chars().count() <= SENTENCE_MAX, "{said}");
    }

    proptest! {
        #[test]
        fn whatever_is_said_the_limits_hold_and_id_and_link_stay(
            reference in ".{0,400}", text in ".{0,400}", remedy in prop::option::of(".{0,300}"), contact in "[ -~]{0,60}"
        ) {
            let help = Help { contact: Some(contact), url: Some(format!("https://{}/{{id}}", "x".repeat(80))) };
            let refusal = refusal(&text, None);
            let said = refusal.sentence(ID, &reference, remedy.as_deref(), &help);
            let begin = format!("blocked by policy {ID}: ");
            let link = format!("/{ID}");
            prop_assert!(said.chars().count() <= SENTENCE_MAX, "{}", said.chars().count());
            prop_assert!(said.starts_with(&begin) && said.contains(&link));
            prop_assert!(!said.contains(char::is_control));
            let phrase = refusal.phrase(ID, &reference);
            prop_assert!(phrase.len() <= PHRASE_MAX && phrase.starts_with(&begin));
            prop_assert!(phrase.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        }
    }
}

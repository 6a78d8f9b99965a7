//! Pages: no script, no link, no image, one style known by its hash.

use std::sync::LazyLock;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::redacted::{FOLDED, Redacted, Shown};
use crate::audit::printable;

/// The reader's own colours, light or dark, whatever contrast they chose.
const STYLE: &str = "\
:root{color-scheme:light dark}
body{font:1rem/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;overflow-wrap:anywhere}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1rem}dt{font-weight:bold}dd{margin:0}
code{font-family:ui-monospace,monospace;font-size:.95em;white-space:pre-wrap}
blockquote{margin:0;padding:.5rem 1rem;border-left:.25rem solid}
table{border-collapse:collapse;width:100%}caption{text-align:left}
th,td{text-align:left;vertical-align:top;padding:.25rem .75rem .25rem 0;border-bottom:1px solid}
";

/// The `Content-Security-Policy` of every page: nothing may be loaded, sent or framed.
pub static PAGE_SECURITY: LazyLock<String> = LazyLock::new(|| {
    use base64::Engine as _;
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, STYLE.as_bytes());
    let hash = base64::engine::general_purpose::STANDARD.encode(hash);
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
});

/// A page of one sentence: what is not there, or not now.
pub fn notice(title: &str, sentence: &str) -> String {
    layout(title, &html! { p { (shown(sentence)) } }).into_string()
}

impl Redacted {
    /// As a page in HTML, to be sent with [`PAGE_SECURITY`].
    pub fn page(&self) -> String {
        let Shown { id, time, code, message, image, reasons, checks, more_checks, policy, contact } =
            self.shown();
        let body = html! {
            dl {
                @if let Some(image) = image { dt { "Image" } dd { code { (shown(image)) } } }
                dt { "When" } dd { time datetime=(time) { (time) } }
                @if let Some(policy) = policy { dt { "Policy" } dd { (shown(&policy)) } }
                dt { "Id" } dd { code { (shown(id)) } }
            }
            @if self.is_folded() { p { (FOLDED) } }
            h2 { "Why" }
            @if let Some(message) = message {
                p { "The client was told:" }
                blockquote { (shown(message)) }
            }
            @if reasons.is_empty() {
                @if let Some(code) = code { p { "Reason: " code { (shown(code)) } } }
            } @else {
                ul {
                    @for reason in reasons {
                        li {
                            code { (shown(&reason.code)) } ": " (shown(&reason.text))
                            @if let Some(remedy) = &reason.remedy {
                                br; strong { "What to do: " } (shown(remedy))
                            }
                        }
                    }
                }
            }
            @if !checks.is_empty() {
                h2 { "What was checked" }
                table {
                    caption { "Every check of this decision, those that passed too" }
                    thead { tr {
                        @for title in ["Check", "Result", "Found", "Required", "Rule"] { th scope="col" { (title) } }
                    } }
                    tbody {
                        @for check in checks {
                            tr {
                                th scope="row" { code { (shown(&check.id)) } }
                                td { (shown(&check.result)) }
                                td { (cell(check.observed.as_deref())) }
                                td { (cell(check.expected.as_deref())) }
                                td { (check.at.as_deref().map(shown).unwrap_or_default()) }
                            }
                        }
                    }
                }
                @if more_checks > 0 { p { "And " (more_checks) " more." } }
            }
            h2 { "Where to ask" }
            p {
                @if let Some(contact) = contact { (shown(contact)) ". " }
                "Quote the id; the whole record of this decision is found by it."
            }
        };
        let title = match image {
            Some(image) => format!("{}: {}", self.headline(), printable(image)),
            None => self.headline().to_owned(),
        };
        layout_titled(&title, self.headline(), &body).into_string()
    }
}

/// What a check compared; some compare names of clients, which are nobody else's business.
fn cell(text: Option<&str>) -> Markup {
    match text {
        Some(text) => html! { code { (shown(text)) } },
        None => html! { "not shown" },
    }
}

/// Text without characters that reorder or hide others; maud escapes it when it is put in.
fn shown(text: &str) -> String {
    printable(text).into_owned()
}

fn layout(title: &str, body: &Markup) -> Markup {
    layout_titled(title, title, body)
}

fn layout_titled(title: &str, heading: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="robots" content="noindex";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { main { h1 { (heading) } (body) } }
        }
    }
}

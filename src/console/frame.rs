//! What is around each page: where one is, where one can go, as whom.

use std::sync::{Arc, LazyLock};

use http::StatusCode;
use maud::{DOCTYPE, Markup, html};

use super::answer::{Answer, Media};
use super::shown;

/// Colours that follow the reader's own choice of light and dark, each with a contrast of 4.5 or more.
const STYLE: &str = include_str!("style.css");
const ICON: &str = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 32 32\"><rect width=\"32\" height=\"32\" rx=\"7\" fill=\"#0b57a4\"/><path d=\"M7 25V12a9 9 0 0 1 18 0v13h-4V12a5 5 0 0 0-10 0v13z\" fill=\"#fff\"/><path d=\"M14 18h4v7h-4z\" fill=\"#fff\"/></svg>";

/// Where the icon is.
pub(super) const ICON_PATH: &str = "/icon.svg";
/// Where the stylesheet is: another one has another path, so that it can be kept for good.
pub(super) static STYLE_PATH: LazyLock<String> = LazyLock::new(|| {
    let hash = crate::oci::Digest::sha256(STYLE.as_bytes()).hex();
    format!("/style-{}.css", hash.get(..16).unwrap_or(&hash))
});

/// The `Content-Security-Policy` of the console's pages: its own style and icon, its own forms, no script.
pub const CONSOLE_SECURITY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; \
                                    base-uri 'none'; frame-ancestors 'none'";

/// Who looks.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// Their name in the record.
    pub name: Arc<str>,
    /// What they may do.
    pub role: Role,
    /// What forms carry to show that they are of a page that this visitor saw.
    pub form: String,
    /// Whether they logged in with a form, and can log out.
    pub leaves: bool,
}

/// What a visitor may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Read, and say what becomes of blocked pulls.
    Reviewer,
    /// Read.
    Viewer,
}

impl Role {
    /// The word of the settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reviewer => "reviewer",
            Self::Viewer => "viewer",
        }
    }
}

/// The parts of the console.
const PARTS: [(&str, &str); 8] = [
    ("/", "Overview"),
    ("/inbox", "Inbox"),
    ("/log", "Log"),
    ("/drift", "Drift"),
    ("/recalls", "Recalls"),
    ("/exceptions", "Exceptions"),
    ("/clients", "Clients"),
    ("/upstreams", "Upstreams"),
];

/// A page of the console; `part` is the path of the part it belongs to.
pub(super) fn page(visitor: &Visitor, part: &str, title: &str, body: &Markup) -> Answer {
    let top = html! {
        nav.main aria-label="Console" {
            ul {
                @for (path, name) in PARTS {
                    li { a href=(path) aria-current=[(path == part).then_some("page")] { (name) } }
                }
            }
        }
        form role="search" action="/search" method="get" {
            input type="search" name="q" aria-label="Search" placeholder="Id, digest, tag or client" maxlength="300";
            button { "Search" }
        }
        div.who {
            span { (shown(&visitor.name)) " (" (visitor.role.as_str()) ")" }
            @if visitor.leaves {
                form action="/logout" method="post" {
                    (form_token(visitor))
                    button.plain { "Log out" }
                }
            }
        }
    };
    Answer::of(Media::Html, document(title, &top, body).into_string())
}

/// The field that shows that a form is of a page which this visitor saw.
pub(super) fn form_token(visitor: &Visitor) -> Markup {
    html! { input type="hidden" name="csrf" value=(visitor.form); }
}

fn document(title: &str, top: &Markup, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="robots" content="noindex";
                title { (shown(title)) " · pullgate" }
                link rel="stylesheet" href=(*STYLE_PATH);
                link rel="icon" type="image/svg+xml" href=(ICON_PATH);
            }
            body {
                a.skip href="#main" { "Skip to content" }
                header.top { div { a.brand href="/" { "pullgate" } (top) } }
                main #main tabindex="-1" { (body) }
                footer { "pullgate " (env!("CARGO_PKG_VERSION")) ". All times are UTC." }
            }
        }
    }
}

/// A page of one sentence, for whoever is nobody yet.
pub fn outside(status: StatusCode, title: &str, sentence: &str) -> Answer {
    let body = html! { h1 { (title) } p { (shown(sentence)) } };
    Answer::of(Media::Html, document(title, &html! {}, &body).into_string()).with_status(status)
}

/// The page on which a browser's user shows a token. `to` is where they wanted to go; `form` is the
/// form's token; `problem` says what was wrong with the last attempt.
pub fn login(status: StatusCode, form: &str, to: &str, problem: Option<&str>) -> Answer {
    let body = html! {
        div.login.card {
            h1 { "Log in" }
            @if let Some(problem) = problem { p.notice role="alert" { (shown(problem)) } }
            form action="/login" method="post" {
                input type="hidden" name="csrf" value=(form);
                input type="hidden" name="to" value=(to);
                label { "Token" input type="password" name="token" required autocomplete="current-password" maxlength="1024"; }
                div.buttons { button.first { "Log in" } }
            }
            p.soft { "The token of an [[admin.user]] in pullgate.toml. Every attempt is put on record." }
        }
    };
    Answer::of(Media::Html, document("Log in", &html! {}, &body).into_string()).with_status(status)
}

/// A page that leads on by itself. Browsers do not send a session's cookie when a link of another site,
/// a chat or a ticket, is followed; from here on they do.
pub fn onward(to: &str) -> Answer {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="refresh" content={ "0; url=" (to) };
                title { "One moment · pullgate" }
            }
            body { main { h1 { "One moment" } p { a href=(to) { "Go on" } } } }
        }
    };
    Answer::of(Media::Html, markup.into_string())
}

/// The stylesheet or the icon, for everybody.
pub fn asset(path: &str) -> Option<Answer> {
    match path {
        ICON_PATH => Some(Answer::of(Media::Svg, ICON.to_owned())),
        path if path == *STYLE_PATH => Some(Answer::of(Media::Css, STYLE.to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_console_needs_a_script_or_a_style_of_its_own() {
        assert!(
            !CONSOLE_SECURITY.contains("script-src") && CONSOLE_SECURITY.starts_with("default-src 'none'")
        );
        let visitor = Visitor { name: "a<b".into(), role: Role::Viewer, form: "x".to_owned(), leaves: true };
        let page = page(&visitor, "/inbox", "Inbox", &html! {}).body;
        for wanted in [
            "<html lang=\"en\">",
            "Skip to content",
            "a&lt;b (viewer)",
            "aria-current=\"page\"",
            "<title>Inbox · pullgate",
        ] {
            assert!(page.contains(wanted), "no {wanted} in {page}");
        }
        assert!(!page.contains("style=") && !page.contains("<script") && !page.contains(" on"), "{page}");
        assert!(asset(&STYLE_PATH).is_some() && asset("/style-x.css").is_none());
    }
}

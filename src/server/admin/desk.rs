//! The console over HTTP: who is let in, which forms count, in what headers pages go out.

use std::sync::Arc;
use std::time::Duration;

use http::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName,
    HeaderValue, LOCATION, REFERRER_POLICY, RETRY_AFTER, SET_COOKIE, VARY, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde_json::json;
use tokio::sync::Semaphore;

use super::super::listener::Peer;
use super::super::reply::{self, Body, Reply};
use super::access::{Access, Known, Verdict};
use super::is_read;
use crate::console::{self, Answer, CONSOLE_SECURITY, Console, Fields, Media};

/// Pages made at once; further ones wait for their turn.
const PAGES: usize = 6;
/// How long a page may take, the wait for its turn included.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the body of a form may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);
/// The largest form.
const BODY_MAX: usize = 64 << 10;

/// Where the console is asked.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    access: Arc<Access>,
    console: Console,
    turns: Arc<Semaphore>,
}

impl Desk {
    pub(super) fn new(access: Access, console: Console) -> Self {
        Self { access: Arc::new(access), console, turns: Arc::new(Semaphore::new(PAGES)) }
    }

    pub(super) async fn keep(&self, stop: impl Future<Output = ()>) {
        self.access.attempts.keep(stop).await;
    }

    /// Whether a program may read what is for every user.
    pub(super) async fn admit_program(&self, request: &Request<Incoming>, peer: &Peer) -> Result<(), Reply> {
        if !self.access.has_users() {
            // Away from loopback whoever reaches the listener may ask, by whatever name.
            let open = self.access.closed().is_some();
            let foreign = !self.access.is_called_rightly(request) || Access::is_foreign(request);
            return if open || !foreign { Ok(()) } else { Err(send(misdirected())) };
        }
        match self.access.identify(request, peer).await {
            Verdict::Known(_) => Ok(()),
            verdict => Err(turned(&verdict)),
        }
    }

    pub(super) async fn answer(&self, request: Request<Incoming>, peer: &Peer) -> Reply {
        if let Some(why) = self.access.closed() {
            let sentence =
                format!("{why}. Here are /livez, /readyz, /metrics and /api/v1/tags/REGISTRY/REPOSITORY.");
            return send(console::outside(StatusCode::NOT_FOUND, "No console here", &sentence));
        }
        if !self.access.is_called_rightly(&request) {
            return send(misdirected());
        }
        if self.access.is_passed_on(&request) {
            return send(console::outside(
                StatusCode::FORBIDDEN,
                "Passed on by a proxy",
                "Where no [[admin.user]] is named, whoever is on this machine may review. This request was passed \
                 on for somebody else: name users in pullgate.toml, and let the proxy pass their proof on.",
            ));
        }
        let path = request.uri().path();
        if let Some(asset) = console::asset(path).filter(|_| is_read(request.method())) {
            let mut reply = send(asset);
            let cache = "public, max-age=31536000, immutable";
            reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(cache));
            return reply;
        }
        match path {
            "/login" if self.access.has_users() => return self.log_in(request, peer).await,
            _ if is_read(request.method()) => {}
            _ if request.method() == Method::POST => return self.act(request, peer).await,
            _ => {
                let sentence = "Pages are read with GET and forms are sent with POST.";
                let mut reply =
                    send(console::outside(StatusCode::METHOD_NOT_ALLOWED, "No such method", sentence));
                reply.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
                return reply;
            }
        }
        let verdict = self.access.identify(&request, peer).await;
        let Verdict::Known(Known { visitor, .. }) = verdict else { return self.ask_who(&request, &verdict) };
        let uri = request.uri();
        let (path, query) = (uri.path(), uri.query().unwrap_or_default());
        let page = async {
            let _turn = self.turns.acquire().await;
            self.console.get(&visitor, path, query).await
        };
        match tokio::time::timeout(PATIENCE, page).await {
            Ok(answer) => send(answer),
            Err(_) => later(send(Console::late(&visitor, query)), 10),
        }
    }

    /// A form of the console's own pages.
    async fn act(&self, request: Request<Incoming>, peer: &Peer) -> Reply {
        let verdict = self.access.identify(&request, peer).await;
        let known = match verdict {
            Verdict::Known(known) => known,
            Verdict::Stranger if wants_page(request.headers()) => {
                let to = own_path(request.uri().path());
                let problem = "Your session is over. Nothing was done; log in and repeat it.";
                let form = self.access.login_form();
                return send(console::login(StatusCode::UNAUTHORIZED, &form, &to, Some(problem)));
            }
            verdict => return turned(&verdict),
        };
        let foreign = Access::is_foreign(&request);
        let (head, body) = request.into_parts();
        let fields = match read_form(&head.headers, body).await {
            Ok(fields) => fields,
            Err(reply) => return reply,
        };
        if foreign || !self.access.meant(&known, fields.of("csrf").unwrap_or_default()) {
            return send(Console::unmeant(&known.visitor));
        }
        let path = head.uri.path();
        if path == "/logout" {
            return go("/login", Some(self.access.log_out(&head.headers)));
        }
        let done = async {
            let _turn = self.turns.acquire().await;
            self.console.post(&known.visitor, path, &fields).await
        };
        match tokio::time::timeout(PATIENCE, done).await {
            Ok(answer) => send(answer),
            Err(_) => later(send(Console::late(&known.visitor, "")), 10),
        }
    }

    async fn log_in(&self, request: Request<Incoming>, peer: &Peer) -> Reply {
        let form = self.access.login_form();
        if is_read(request.method()) {
            let query = request.uri().query().unwrap_or_default();
            let to = url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "to");
            let to = to.map_or_else(|| "/".to_owned(), |(_, to)| own_path(&to));
            return send(console::login(StatusCode::OK, &form, &to, None));
        }
        if request.method() != Method::POST {
            return send(console::login(StatusCode::METHOD_NOT_ALLOWED, &form, "/", None));
        }
        let foreign = Access::is_foreign(&request);
        let (head, body) = request.into_parts();
        let fields = match read_form(&head.headers, body).await {
            Ok(fields) => fields,
            Err(reply) => return reply,
        };
        let to = own_path(fields.of("to").unwrap_or("/"));
        if foreign || !self.access.is_form(fields.of("csrf").unwrap_or_default(), &form) {
            let problem = "The form was from before the gateway's last start, or of another page. Try again.";
            return send(console::login(StatusCode::FORBIDDEN, &form, &to, Some(problem)));
        }
        match self.access.log_in(fields.of("token").unwrap_or_default(), peer).await {
            Ok(cookie) => go(&to, Some(cookie)),
            Err(Verdict::Throttled(seconds)) => {
                let problem =
                    format!("Too many wrong tokens came from your address. Try again in {seconds} seconds.");
                let page = console::login(StatusCode::TOO_MANY_REQUESTS, &form, &to, Some(&problem));
                later(send(page), seconds)
            }
            Err(_) => {
                let problem = "This token belongs to nobody here.";
                send(console::login(StatusCode::UNAUTHORIZED, &form, &to, Some(problem)))
            }
        }
    }

    /// Sends a browser to the form; tells a program what is missing.
    fn ask_who(&self, request: &Request<Incoming>, verdict: &Verdict) -> Reply {
        let headers = request.headers();
        let uri = request.uri();
        let here = own_path(uri.path_and_query().map_or("/", |here| here.as_str()));
        if !wants_page(headers) || !matches!(verdict, Verdict::Stranger) {
            return turned(verdict);
        }
        // The cookie of a session stays away when a link of another site is followed. From a page of ours
        // it comes along.
        if headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site" || site == "same-site") {
            return send(console::onward(&here));
        }
        let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("to", &here).finish();
        go(&format!("/login?{query}"), None)
    }
}

/// Whether somebody looks at the answer in a browser.
fn wants_page(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

/// A path of this listener's own, whatever a link made of it.
fn own_path(text: &str) -> String {
    let fits = text.starts_with('/')
        && !text.starts_with("//")
        && text.len() <= 4096
        && text.bytes().all(|byte| {
            byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'"' | b'\'' | b';' | b'<' | b'>')
        });
    if fits { text.to_owned() } else { "/".to_owned() }
}

async fn read_form(headers: &HeaderMap, body: Incoming) -> Result<Fields, Reply> {
    let refuse = |status, sentence| send(console::outside(status, "Not done", sentence));
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        let sentence = "A form is sent as application/x-www-form-urlencoded.";
        return Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, sentence));
    }
    match tokio::time::timeout(BODY_TIME, Limited::new(body, BODY_MAX).collect()).await {
        Ok(Ok(body)) => Ok(Fields::read(&body.to_bytes())),
        Ok(Err(_)) => Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, "A form has at most 64 KiB.")),
        Err(_) => Err(refuse(StatusCode::REQUEST_TIMEOUT, "The form took too long to arrive.")),
    }
}

/// What a program hears that is not let in.
fn turned(verdict: &Verdict) -> Reply {
    let (status, text) = match verdict {
        Verdict::Throttled(_) => {
            (StatusCode::TOO_MANY_REQUESTS, "too many wrong tokens came from your address; try again later")
        }
        Verdict::Wrong => (StatusCode::UNAUTHORIZED, "this token belongs to nobody here"),
        _ => (
            StatusCode::UNAUTHORIZED,
            "send Authorization: Bearer with the token of an [[admin.user]], or log in at /login",
        ),
    };
    let mut reply = reply::reply(status, Body::whole(format!("{:#}\n", json!({ "error": text }))));
    set_strict(reply.headers_mut(), "application/json");
    if status == StatusCode::UNAUTHORIZED {
        let realm = HeaderValue::from_static("Bearer realm=\"pullgate console\"");
        reply.headers_mut().insert(WWW_AUTHENTICATE, realm);
    }
    match verdict {
        Verdict::Throttled(seconds) => later(reply, *seconds),
        _ => reply,
    }
}

fn go(to: &str, cookie: Option<String>) -> Reply {
    let mut reply = reply::reply(StatusCode::SEE_OTHER, Body::empty());
    set_strict(reply.headers_mut(), Media::Html.as_str());
    reply.headers_mut().insert(LOCATION, reply::header_text(to));
    if let Some(cookie) = cookie {
        reply.headers_mut().insert(SET_COOKIE, reply::header_text(&cookie));
    }
    reply
}

fn later(mut reply: Reply, seconds: u64) -> Reply {
    reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    reply
}

fn send(answer: Answer) -> Reply {
    let Answer { status, media, body, location, file_name } = answer;
    let mut reply = reply::reply(status, Body::whole(body));
    let headers = reply.headers_mut();
    set_strict(headers, media.as_str());
    if let Some(location) = location {
        headers.insert(LOCATION, reply::header_text(&location));
    }
    if let Some(name) = file_name {
        // Its letters are the console's own.
        let name: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' })
            .collect();
        let value = format!("attachment; filename=\"{name}\"");
        headers.insert(CONTENT_DISPOSITION, reply::header_text(&value));
    }
    reply
}

/// The headers without which a page of hostile words would be a way in.
fn set_strict(headers: &mut HeaderMap, media_type: &'static str) {
    let mut set = |name: HeaderName, value: &'static str| {
        headers.insert(name, HeaderValue::from_static(value));
    };
    set(CONTENT_TYPE, media_type);
    set(CONTENT_SECURITY_POLICY, CONSOLE_SECURITY);
    set(CACHE_CONTROL, "no-store, private");
    // With no-referrer browsers would send forms with "Origin: null".
    set(REFERRER_POLICY, "same-origin");
    set(VARY, "Accept, Authorization, Cookie");
    set(X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(X_FRAME_OPTIONS, "DENY");
}

fn misdirected() -> Answer {
    console::outside(
        StatusCode::MISDIRECTED_REQUEST,
        "Called by a foreign name",
        "This address was reached by a name that is not its own, as happens when a web page of somebody else's is \
         at work. If the name is yours, add it to [admin] hosts in pullgate.toml.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_in_leads_nowhere_but_here() {
        assert_eq!(own_path("/inbox?state=new&text=a%20b"), "/inbox?state=new&text=a%20b");
        for text in [
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "",
            "/a b",
            "/a\r\nx: y",
            "/;url=x",
            "/\"",
        ] {
            assert_eq!(own_path(text), "/", "{text:?}");
        }
    }
}

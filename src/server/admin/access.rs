//! Who may use the console: from where, as whom, and whether they mean it.
//!
//! Any web page can make a browser send requests to an address of its user's network, loopback
//! included. So names other than those of this listener are turned away (DNS rebinding), and whatever
//! changes something needs a token out of a page of the console (CSRF), also where nobody logs in.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use http::header::{AUTHORIZATION, COOKIE, HOST, HeaderMap, HeaderName, ORIGIN};
use http::uri::Authority;
use http::{Request, Uri};

use super::super::listener::Peer;
use super::attempts::{Attempts, Wait};
use super::sessions::{LIFE, Sessions};
use crate::audit::Log;
use crate::clock::Clock;
use crate::console::{Role, Visitor};
use crate::identity::bearer;
use crate::oci::Digest;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// One `[[admin.user]]`.
#[derive(Clone, Debug)]
pub struct UserSettings {
    /// Its name in the record.
    pub name: Arc<str>,
    /// What it may do.
    pub role: Role,
    /// The sha256 hashes of its tokens.
    pub tokens: Vec<[u8; 32]>,
    /// The SANs of its certificates.
    pub certificates: Vec<String>,
}

/// `[admin]`, as far as it says who may use the console.
#[derive(Clone, Debug)]
pub struct AccessSettings {
    /// Where the listener is.
    pub address: SocketAddr,
    /// Names by which browsers may call it.
    pub hosts: Vec<String>,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Who may use it; nobody: whoever reaches it, where that is on loopback.
    pub users: Vec<UserSettings>,
}

impl AccessSettings {
    /// Why there is no console on this listener, if there is none.
    pub fn closed(&self) -> Option<String> {
        let public = !self.address.ip().to_canonical().is_loopback();
        let lacks = match (self.users.is_empty(), self.tls) {
            _ if !public => return None,
            (false, true) => return None,
            (true, true) => "an [[admin.user]]",
            (false, false) => "[admin] tls",
            (true, false) => "[admin] tls and an [[admin.user]]",
        };
        Some(format!(
            "the console is off: [admin] address {} is no loopback address, and there it needs {lacks} \
             (docs/console.md)",
            self.address
        ))
    }
}

/// The users, and who of them is logged in.
#[derive(Debug)]
pub(super) struct Access {
    settings: AccessSettings,
    sessions: Sessions,
    pub(super) attempts: Attempts,
    /// Makes the tokens of forms; drawn at each start.
    key: hmac::Key,
    clock: Clock,
}

/// What a request comes to.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is from this visitor.
    Known(Known),
    /// It shows nothing that proves anybody.
    Stranger,
    /// It shows something that proves nobody: 401.
    Wrong,
    /// From this address came too much of that: 429, and how many seconds to wait.
    Throttled(u64),
}

/// Who asks, and how they proved it.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) visitor: Visitor,
    /// Whether a browser proves it with each request, whoever made it send that.
    ambient: bool,
}

impl Access {
    pub(super) fn new(
        settings: AccessSettings,
        log: Log,
        clock: Clock,
    ) -> Result<Self, aws_lc_rs::error::Unspecified> {
        let mut random = [0; 32];
        aws_lc_rs::rand::fill(&mut random)?;
        Ok(Self {
            settings,
            sessions: Sessions::default(),
            attempts: Attempts::new(log, clock.clone()),
            key: hmac::Key::new(hmac::HMAC_SHA256, &random),
            clock,
        })
    }

    pub(super) fn closed(&self) -> Option<String> {
        self.settings.closed()
    }

    pub(super) fn has_users(&self) -> bool {
        !self.settings.users.is_empty()
    }

    /// Whether a request calls the listener by a name that is its own.
    pub(super) fn is_called_rightly<B>(&self, request: &Request<B>) -> bool {
        let Some(host) = host_of(request.uri(), request.headers()) else { return false };
        let name = host.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let own = self.settings.address.ip().to_canonical();
        match name.parse::<IpAddr>().map(|address| address.to_canonical()) {
            // No name to be bound to another address.
            Ok(address) => {
                address.is_loopback() || address == own || own.is_unspecified() || self.lists(&name)
            }
            Err(_) => name == "localhost" || name.ends_with(".localhost") || self.lists(&name),
        }
    }

    fn lists(&self, name: &str) -> bool {
        self.settings.hosts.iter().any(|host| host == name)
    }

    /// Whether somebody between passed it on, where nobody logs in: then it is not known who reaches this
    /// listener, and being on this machine proves nothing.
    pub(super) fn is_passed_on<B>(&self, request: &Request<B>) -> bool {
        let told = |name: &str| name == "forwarded" || name == "via" || name.starts_with("x-forwarded-");
        !self.has_users() && request.headers().keys().any(|name| told(name.as_str()))
    }

    /// Whether a browser sent it on behalf of another site's page, as far as it says.
    pub(super) fn is_foreign<B>(request: &Request<B>) -> bool {
        let headers = request.headers();
        let site = headers.get_all(SEC_FETCH_SITE).iter().any(|site| site != "same-origin" && site != "none");
        let host = host_of(request.uri(), headers);
        let origin = headers.get_all(ORIGIN).iter().any(|origin| {
            let origin: Option<Uri> = origin.to_str().ok().and_then(|origin| origin.parse().ok());
            let origin = origin.as_ref().and_then(|origin| Some((origin.scheme_str()?, origin.authority()?)));
            match (origin, &host) {
                (Some((scheme, origin)), Some(host)) => {
                    let usual = if scheme == "https" { 443 } else { 80 };
                    let port = |authority: &Authority| authority.port_u16().unwrap_or(usual);
                    !origin.host().eq_ignore_ascii_case(host.host()) || port(origin) != port(host)
                }
                _ => true,
            }
        });
        site || origin
    }

    /// Who sends it.
    pub(super) async fn identify<B>(&self, request: &Request<B>, peer: &Peer) -> Verdict {
        if !self.has_users() {
            let visitor = Visitor {
                name: "local".into(),
                role: Role::Reviewer,
                form: self.form("local"),
                leaves: false,
            };
            return Verdict::Known(Known { visitor, ambient: true });
        }
        let address = peer.address.ip().to_canonical();
        let headers = request.headers();
        if let Some(token) = headers.get(AUTHORIZATION).and_then(|value| bearer(value.as_bytes())) {
            return match self.by_token(token, address).await {
                Ok(user) => self.known(user, "", false),
                Err(verdict) => verdict,
            };
        }
        let shown = &peer.certificate_names;
        let by_certificate = self.settings.users.iter().position(|user| {
            user.certificates.iter().any(|name| shown.iter().any(|shown| shown.eq_ignore_ascii_case(name)))
        });
        if let Some(user) = by_certificate {
            if let Some(user) = self.settings.users.get(user) {
                self.attempts.granted(address, &user.name).await;
            }
            return self.known(user, "certificate", false);
        }
        let session = self.session_of(headers);
        let user = session.and_then(|id| Some((self.sessions.user(id, self.clock.now())?, id)));
        user.map_or(Verdict::Stranger, |(user, id)| self.known(user, id, true))
    }

    /// Which user has this token.
    async fn by_token(&self, token: &[u8], address: IpAddr) -> Result<usize, Verdict> {
        let wait = self.attempts.wait(address);
        if let Some(Wait { seconds, shared: false }) = wait {
            return Err(Verdict::Throttled(seconds));
        }
        let shown = Digest::sha256(token);
        let mut found = None;
        // All are compared, each in constant time.
        for (place, user) in self.settings.users.iter().enumerate() {
            for hash in &user.tokens {
                if verify_slices_are_equal(shown.bytes(), hash).is_ok() {
                    found = Some((place, &user.name));
                }
            }
        }
        match found {
            Some((place, name)) => {
                self.attempts.granted(address, name).await;
                Ok(place)
            }
            // What many addresses share must not keep out who has a token and comes from none of them.
            None => match wait {
                Some(Wait { seconds, .. }) => Err(Verdict::Throttled(seconds)),
                None => {
                    self.attempts.refused(address).await;
                    Err(Verdict::Wrong)
                }
            },
        }
    }

    fn known(&self, user: usize, proof: &str, leaves: bool) -> Verdict {
        let Some(user) = self.settings.users.get(user) else { return Verdict::Stranger };
        let visitor = Visitor {
            name: user.name.clone(),
            role: user.role,
            form: self.form(&format!("{proof} {}", user.name)),
            leaves,
        };
        Verdict::Known(Known { visitor, ambient: !proof.is_empty() })
    }

    /// Begins a session for whoever has this token. The answer is the cookie.
    pub(super) async fn log_in(&self, token: &str, peer: &Peer) -> Result<String, Verdict> {
        let address = peer.address.ip().to_canonical();
        let user = self.by_token(token.trim().as_bytes(), address).await?;
        let id = self.sessions.begin(user, self.clock.now()).ok_or(Verdict::Throttled(1))?;
        Ok(self.cookie(&id, LIFE.as_secs()))
    }

    /// Ends the session of a request. The answer is the cookie that forgets it.
    pub(super) fn log_out(&self, headers: &HeaderMap) -> String {
        if let Some(id) = self.session_of(headers) {
            self.sessions.end(id);
        }
        self.cookie("", 0)
    }

    /// The token of the form of whoever is not logged in.
    pub(super) fn login_form(&self) -> String {
        self.form("login")
    }

    /// Whether a form was made for this visitor; a program that shows its token with each request needs
    /// none.
    pub(super) fn meant(&self, known: &Known, form: &str) -> bool {
        !known.ambient || self.is_form(form, &known.visitor.form)
    }

    /// Whether a form's token is the one that was wanted.
    pub(super) fn is_form(&self, form: &str, wanted: &str) -> bool {
        verify_slices_are_equal(form.as_bytes(), wanted.as_bytes()).is_ok()
    }

    fn form(&self, session: &str) -> String {
        use base64::Engine as _;
        let tag = hmac::sign(&self.key, session.as_bytes());
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(tag)
    }

    fn cookie_name(&self) -> &'static str {
        // The prefix keeps other hosts of the domain from setting it; browsers want TLS for it.
        if self.settings.tls { "__Host-pullgate" } else { "pullgate" }
    }

    fn cookie(&self, id: &str, seconds: i64) -> String {
        let secure = if self.settings.tls { "; Secure" } else { "" };
        let name = self.cookie_name();
        format!("{name}={id}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}")
    }

    fn session_of<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        let mut cookies = headers
            .get_all(COOKIE)
            .iter()
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(';'))
            .filter_map(|cookie| cookie.trim().split_once('='));
        cookies.find(|(name, _)| *name == self.cookie_name()).map(|(_, id)| id)
    }
}

/// By which name the listener is called; none where that is unclear.
fn host_of(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().map(|host| host.to_str().ok()?.parse::<Authority>().ok());
    if hosts.next().is_some() {
        return None;
    }
    let host = match (uri.authority(), host) {
        (Some(authority), None) => authority.clone(),
        (None, Some(host)) => host?,
        (Some(authority), Some(Some(host))) if authority == &host => host,
        _ => return None,
    };
    (!host.as_str().contains('@')).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(address: &str, tls: bool, users: usize) -> AccessSettings {
        let user = UserSettings {
            name: "eva".into(),
            role: Role::Viewer,
            tokens: vec![[0; 32]],
            certificates: Vec::new(),
        };
        AccessSettings {
            address: address.parse().unwrap(),
            hosts: vec!["console.example.com".to_owned()],
            tls,
            users: vec![user; users],
        }
    }

    #[test]
    fn off_loopback_a_console_needs_users_and_tls() {
        for (address, tls, users, open) in [
            ("127.0.0.1:1", false, 0, true),
            ("[::1]:1", false, 0, true),
            ("127.0.0.1:1", false, 1, true),
            ("0.0.0.0:1", false, 0, false),
            ("0.0.0.0:1", true, 0, false),
            ("10.0.0.1:1", false, 1, false),
            ("10.0.0.1:1", true, 1, true),
            ("[::]:1", true, 1, true),
        ] {
            assert_eq!(settings(address, tls, users).closed().is_none(), open, "{address} {tls} {users}");
        }
    }

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[tokio::test]
    async fn only_its_own_names_call_it_rightly() {
        let folder = tempfile::tempdir().unwrap();
        let log = crate::audit::Settings {
            path: folder.path().to_owned(),
            max_size: 16 << 20,
            on_full: crate::audit::OnFull::Serve,
            refusals_per_minute: 60,
        };
        let log = Log::open(log, Clock::system()).await.unwrap();
        let access = |address| Access::new(settings(address, true, 1), log.clone(), Clock::system()).unwrap();
        let loopback = access("127.0.0.1:9443");
        for host in [
            "localhost",
            "LOCALHOST:9443",
            "127.0.0.1:9443",
            "[::1]:9443",
            "console.example.com",
            "a.localhost",
        ] {
            assert!(loopback.is_called_rightly(&request("/", &[("host", host)])), "{host}");
        }
        for host in
            ["evil.example", "console.example.com.evil.example", "10.0.0.1", "", "x@localhost", "local host"]
        {
            assert!(!loopback.is_called_rightly(&request("/", &[("host", host)])), "{host}");
        }
        assert!(!loopback.is_called_rightly(&request("/", &[])));
        assert!(
            !loopback.is_called_rightly(&request("/", &[("host", "localhost"), ("host", "evil.example")]))
        );
        assert!(!loopback.is_called_rightly(&request("http://evil.example/", &[("host", "localhost")])));
        assert!(loopback.is_called_rightly(&request("http://localhost/", &[])), "as HTTP/2 says it");
        let all = access("0.0.0.0:9443");
        assert!(all.is_called_rightly(&request("/", &[("host", "10.0.0.1:9443")])));
        assert!(!all.is_called_rightly(&request("/", &[("host", "evil.example")])));
        log.close().await;
    }

    #[test]
    fn other_sites_are_told_by_what_browsers_say_of_them() {
        let is_foreign = |headers: &[(&str, &str)]| Access::is_foreign(&request("/", headers));
        let host = ("host", "localhost:9443");
        for headers in [
            &[host][..],
            &[host, ("origin", "http://localhost:9443")],
            &[host, ("origin", "https://localhost:9443"), ("sec-fetch-site", "same-origin")],
            &[("host", "localhost"), ("origin", "https://localhost:443")],
            &[host, ("sec-fetch-site", "none")],
        ] {
            assert!(!is_foreign(headers), "{headers:?}");
        }
        for headers in [
            &[host, ("origin", "null")][..],
            &[host, ("origin", "http://localhost:8080")],
            &[host, ("origin", "http://evil.example")],
            &[host, ("origin", "garbage")],
            &[host, ("sec-fetch-site", "cross-site")],
            &[host, ("sec-fetch-site", "same-site")],
            &[("origin", "http://localhost")],
        ] {
            assert!(is_foreign(headers), "{headers:?}");
        }
    }
}

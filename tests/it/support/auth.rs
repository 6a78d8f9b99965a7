//! Who may ask the fake registry: Basic, or Bearer by the docker token specification.

use std::collections::HashMap;
use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode, header};
use serde_json::json;

use super::log::Request;
use super::server::Reply;

/// What the registry asks of a client.
#[derive(Clone, Default)]
pub(crate) enum Auth {
    /// User name and password with each request.
    Basic(String, String),
    /// A token with each request.
    Bearer(Bearer),
    /// Nothing.
    #[default]
    Open,
}

impl Auth {
    pub(crate) fn basic(username: &str, password: &str) -> Self {
        Self::Basic(username.into(), password.into())
    }
}

/// Tokens: who gets one, where, and for how long it claims to be good.
#[derive(Clone, Default)]
pub(crate) struct Bearer {
    /// Tokens are given to whoever asks without credentials.
    pub(crate) anonymous: bool,
    /// `expires_in` of a token reply, in seconds; only announced, [`Tokens::revoke`] ends tokens.
    pub(crate) expires_in: Option<u64>,
    /// The refresh token taken by POST.
    pub(crate) identity: Option<String>,
    /// The user name and password taken by GET (as Basic) and by POST.
    pub(crate) login: Option<(String, String)>,
    pub(crate) realm: Realm,
}

impl Bearer {
    /// Anybody gets a token.
    pub(crate) fn anonymous() -> Self {
        Self { anonymous: true, ..Self::default() }
    }

    /// An identity token is exchanged for access tokens, by POST.
    pub(crate) fn identity(token: &str) -> Self {
        Self { identity: Some(token.into()), ..Self::default() }
    }

    /// User name and password are exchanged for tokens.
    pub(crate) fn login(username: &str, password: &str) -> Self {
        Self { login: Some((username.into(), password.into())), ..Self::default() }
    }
}

/// Where the challenge sends clients for their token.
#[derive(Clone, Default)]
pub(crate) enum Realm {
    /// To this URL, whatever is there.
    At(String),
    /// To the registry itself.
    #[default]
    Own,
    /// To a server of its own, on another port, under this host name.
    Separate(String),
}

/// The service name in challenges and token requests.
pub(crate) const SERVICE: &str = "fake registry";

/// The tokens given out, and the scopes of each.
#[derive(Default)]
pub(crate) struct Tokens {
    issued: Mutex<HashMap<String, Vec<String>>>,
    count: Mutex<usize>,
}

impl Tokens {
    /// From now on no token given out so far is good.
    pub(crate) fn revoke(&self) {
        self.issued.lock().unwrap().clear();
    }

    /// Answers the token endpoint.
    pub(crate) fn endpoint(&self, bearer: &Bearer, request: &Request) -> Reply {
        let granted = match request.method {
            Method::GET => match request.authorization() {
                None => bearer.anonymous,
                Some(sent) => bearer.login.as_ref().is_some_and(|(name, word)| sent == basic(name, word)),
            },
            Method::POST => form_grants(bearer, request),
            _ => return Reply::error(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "GET or POST"),
        };
        if !granted {
            return Reply::error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "no token for these credentials");
        }
        let post = request.method == Method::POST;
        let scopes = if post { request.fields("scope") } else { request.parameters("scope") };
        let token = self.issue(scopes.join(" ").split(' ').map(str::to_owned).collect());
        let mut reply = if post { json!({"access_token": token}) } else { json!({"token": token}) };
        if let Some(seconds) = bearer.expires_in {
            reply["expires_in"] = seconds.into();
        }
        if let Some(identity) =
            bearer.identity.as_deref().filter(|_| request.fields("access_type") == ["offline"])
        {
            reply["refresh_token"] = identity.into();
        }
        Reply::json(reply.to_string())
    }

    fn issue(&self, scopes: Vec<String>) -> String {
        let mut count = self.count.lock().unwrap();
        *count += 1;
        let token = format!("token-{count}");
        self.issued.lock().unwrap().insert(token.clone(), scopes);
        token
    }

    fn holds(&self, token: &str, scope: Option<&str>) -> bool {
        let issued = self.issued.lock().unwrap();
        let scopes = issued.get(token);
        scopes.is_some_and(|scopes| scope.is_none_or(|scope| scopes.iter().any(|held| held == scope)))
    }
}

fn form_grants(bearer: &Bearer, request: &Request) -> bool {
    let field = |name| request.fields(name).pop();
    match field("grant_type").as_deref() {
        Some("password") => {
            bearer.login.is_some() && bearer.login == field("username").zip(field("password"))
        }
        Some("refresh_token") => bearer.identity.is_some() && bearer.identity == field("refresh_token"),
        _ => false,
    }
}

/// The challenge to this request, unless what it carries suffices. `realm` is the token endpoint's URL.
pub(crate) fn challenge(
    auth: &Auth,
    tokens: &Tokens,
    realm: &str,
    request: &Request,
    repository: Option<&str>,
) -> Option<Reply> {
    let sent = request.authorization();
    let (admitted, challenge) = match auth {
        Auth::Open => return None,
        Auth::Basic(name, word) => {
            (sent == Some(basic(name, word).as_str()), r#"Basic realm="fake registry""#.to_owned())
        }
        Auth::Bearer(_) => {
            let scope = repository.map(|repository| format!("repository:{repository}:pull"));
            let token = sent.and_then(|sent| sent.strip_prefix("Bearer "));
            let mut challenge = format!(r#"Bearer realm="{realm}",service="{SERVICE}""#);
            if let Some(scope) = &scope {
                challenge.push_str(&format!(r#",scope="{scope}""#));
            }
            if token.is_some() {
                challenge.push_str(r#",error="invalid_token""#);
            }
            (token.is_some_and(|token| tokens.holds(token, scope.as_deref())), challenge)
        }
    };
    let refusal = Reply::error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "authentication required");
    (!admitted).then(|| refusal.header(header::WWW_AUTHENTICATE, &challenge))
}

/// The `Authorization` header of this user.
pub(crate) fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}

//! A registry in the test's own process: content that can be pushed, moved and taken away, a CDN and a
//! token server beside it.

use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use pullgate::oci::Digest;

use super::auth::{Auth, Bearer, Realm, Tokens};
use super::content::{Content, Repository};
use super::distribution::{self, Distribution};
use super::image::Fixture;
use super::server::Server;
use super::tls::Ca;

/// How a registry behaves when nothing fails.
#[derive(Clone)]
pub(crate) struct RegistryOptions {
    pub(crate) auth: Auth,
    /// HTTP/1.1 alone; otherwise HTTP/2 is offered as well.
    pub(crate) http1_only: bool,
    /// Further host names in the certificates, besides `localhost` and `127.0.0.1`.
    pub(crate) names: Vec<String>,
    /// The longest page of a tag list, also when the client names no `n`.
    pub(crate) page: Option<usize>,
    pub(crate) redirect: Redirect,
    /// Without it `/referrers/` is 404, and [`Registry::push_referrer`] keeps the tag-schema index.
    pub(crate) referrers_api: bool,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            auth: Auth::Open,
            http1_only: false,
            names: Vec::new(),
            page: None,
            redirect: Redirect::None,
            referrers_api: true,
        }
    }
}

/// Where blobs are found.
#[derive(Clone, Default)]
pub(crate) enum Redirect {
    /// 307 to a second server, under this host name; see [`Registry::cdn`].
    Cdn(String),
    /// 307 to the same URL, for ever.
    Loop,
    /// In the registry.
    #[default]
    None,
    /// 307 to this URL, whatever is there.
    To(String),
}

/// A running registry. Faults and the log are those of [`Server`].
pub(crate) struct Registry {
    ca: Ca,
    cdn: Server,
    content: Arc<Content>,
    options: RegistryOptions,
    server: Server,
    token_server: Server,
    tokens: Arc<Tokens>,
}

impl Registry {
    /// Starts it on loopback, on free ports, with a CA of its own. Needs a runtime.
    pub(crate) fn start(options: RegistryOptions) -> Self {
        let ca = Ca::new();
        let content = Arc::new(Content::default());
        let tokens = Arc::new(Tokens::default());

        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        names.extend(options.names.iter().cloned());
        if let Redirect::Cdn(host) = &options.redirect {
            names.push(host.clone());
        }
        if let Auth::Bearer(Bearer { realm: Realm::Separate(host), .. }) = &options.auth {
            names.push(host.clone());
        }
        let acceptor = || ca.acceptor(&names, options.http1_only);

        let cdn = Server::start(acceptor(), distribution::cdn(Arc::clone(&content)));
        let issuer = distribution::issuer(options.auth.clone(), Arc::clone(&tokens));
        let token_server = Server::start(acceptor(), issuer);
        let location = match &options.redirect {
            Redirect::Cdn(host) => Redirect::Cdn(cdn.url(host)),
            other => other.clone(),
        };
        let realm = match &options.auth {
            Auth::Bearer(Bearer { realm: Realm::At(url), .. }) => Some(url.clone()),
            Auth::Bearer(Bearer { realm: Realm::Separate(host), .. }) => {
                Some(format!("{}/token", token_server.url(host)))
            }
            _ => None,
        };
        let distribution = Distribution {
            auth: options.auth.clone(),
            content: Arc::clone(&content),
            location,
            page: options.page,
            realm,
            referrers_api: options.referrers_api,
            tokens: Arc::clone(&tokens),
        };
        let server = Server::start(acceptor(), Box::new(move |request| distribution.answer(request)));
        Self { ca, cdn, content, options, server, token_server, tokens }
    }

    /// One without any options.
    pub(crate) fn plain() -> Self {
        Self::start(RegistryOptions::default())
    }

    /// The root certificate that all its servers' certificates lead to.
    pub(crate) fn ca_pem(&self) -> &str {
        self.ca.pem()
    }

    /// `https://localhost:PORT`.
    pub(crate) fn endpoint(&self) -> String {
        self.url("localhost")
    }

    /// The server that blobs are redirected to; it answers 400 to an `Authorization` header, as S3 does.
    pub(crate) fn cdn(&self) -> &Server {
        &self.cdn
    }

    /// The server of [`Realm::Separate`].
    pub(crate) fn token_server(&self) -> &Server {
        &self.token_server
    }

    /// How many tokens were asked for, here and there, with success or without.
    pub(crate) fn token_requests(&self) -> usize {
        self.hits("*", "/token") + self.token_server.hits("*", "/token")
    }

    /// From now on no token given out so far is good.
    pub(crate) fn revoke_tokens(&self) {
        self.tokens.revoke();
    }

    /// Adds a blob to a repository.
    pub(crate) fn push_blob(&self, repository: &str, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::sha256(&bytes);
        self.content.change(repository, |repository| repository.blobs.insert(digest, bytes));
        digest
    }

    /// Adds a manifest, whatever its bytes are, and points the tag at it.
    pub(crate) fn push_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: impl Into<Bytes>,
    ) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::sha256(&bytes);
        self.content.change(repository, |repository| {
            repository.manifests.insert(digest, (media_type.to_owned(), bytes));
            if let Some(tag) = tag {
                repository.tags.insert(tag.to_owned(), digest);
            }
        });
        digest
    }

    /// Adds a manifest with a `subject` and its blobs; without the referrers API the fallback tag
    /// `sha256-<hex>` lists it, as a client would see to.
    pub(crate) fn push_referrer(&self, repository: &str, referrer: &Fixture) -> Digest {
        let digest = referrer.push(self, repository, None);
        if !self.options.referrers_api {
            let subject = referrer.subject().expect("a referrer has a subject");
            let index = self.content.read(repository, |repository| repository.referrers(&subject, None));
            let tag = format!("sha256-{}", subject.hex());
            self.push_manifest(repository, Some(&tag), Repository::INDEX, index.unwrap_or_default());
        }
        digest
    }

    /// Takes a tag away; its manifest stays.
    pub(crate) fn delete_tag(&self, repository: &str, tag: &str) {
        let deleted = self.content.change(repository, |repository| repository.tags.remove(tag));
        assert!(deleted.is_some(), "{repository}:{tag} was not there");
    }

    /// Points a tag at a manifest that is there already.
    pub(crate) fn move_tag(&self, repository: &str, tag: &str, digest: Digest) {
        self.content.change(repository, |repository| {
            assert!(repository.manifests.contains_key(&digest), "{digest} was not pushed");
            repository.tags.insert(tag.to_owned(), digest);
        });
    }

    /// Takes everything away.
    pub(crate) fn clear(&self) {
        self.content.clear();
    }
}

impl Deref for Registry {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

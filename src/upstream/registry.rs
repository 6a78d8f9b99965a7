//! The distribution spec's questions, put to one endpoint.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use reqwest::Method;
use reqwest::header::{
    ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LINK, RANGE,
};
use serde::de::{Deserialize, DeserializeOwned, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;
use tokio::time::Instant;
use url::Url;

use super::endpoint::{BODY_TIMEOUT, Call, Endpoint};
use super::health::{Class, Record};
use super::transport::{Reply, cause, read_body};
use super::{BlobStream, Fetched};
use crate::oci::{Descriptor, Digest, Fault, MANIFEST_ACCEPT, MANIFEST_MAX, Name, Tag};

const DIGEST: &str = "docker-content-digest";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// HEAD is not implemented, or not here.
const NO_HEAD: &[u16] = &[400, 405, 406, 501];
/// What registries answer, besides 404, that do not know the referrers endpoint.
const NO_REFERRERS: &[u16] = &[400, 405, 406, 501];
const PAGE: &str = "1000";
const PAGES_MAX: usize = 1000;
const PAGE_MAX: usize = 8 << 20;
/// All pages of one list together.
const LIST_MAX: usize = 32 << 20;
const TAGS_MAX: usize = 100_000;
const REFERRERS_MAX: usize = 10_000;
const LIST_TIMEOUT: Duration = Duration::from_secs(120);

impl Endpoint {
    fn ask(&self, class: Class, method: Method, name: &Name, rest: &str) -> Call {
        let mut headers = HeaderMap::new();
        if rest.starts_with("manifests/") {
            headers.insert(ACCEPT, HeaderValue::from_static(MANIFEST_ACCEPT));
        }
        Call {
            class,
            method,
            url: self.url(name, rest),
            headers,
            what: format!("{}/{rest}", name.repository()),
            repository: self.scope(name),
            also: &[],
        }
    }

    pub(super) async fn resolve(&self, name: &Name, tag: &Tag) -> Result<Digest, Fault> {
        let rest = format!("manifests/{tag}");
        let mut head = self.ask(Class::Head, Method::HEAD, name, &rest);
        head.also = NO_HEAD;
        let reply = self.call(&head).await?;
        if reply.response.status().is_success()
            && let Some(Ok(digest)) = digest(reply.response.headers())
        {
            return Ok(digest);
        }
        let reply = self.call(&self.ask(Class::Manifest, Method::GET, name, &rest)).await?;
        let claimed = digest(reply.response.headers());
        let body = self.read(reply, MANIFEST_MAX).await?;
        match claimed {
            Some(Ok(claimed)) if Digest::of(claimed.algorithm(), &body) == claimed => Ok(claimed),
            Some(Ok(claimed)) => {
                let text =
                    format!("{name}:{tag} came with {claimed}, but its bytes are {}", Digest::sha256(&body));
                Err(Fault::Invalid(text.into()))
            }
            // A digest by an algorithm that nobody here computes is as good as none.
            Some(Err(())) | None => Ok(Digest::sha256(&body)),
        }
    }

    pub(super) async fn manifest(&self, name: &Name, digest: &Digest) -> Result<Fetched, Fault> {
        let call = self.ask(Class::Manifest, Method::GET, name, &format!("manifests/{digest}"));
        self.fetch(&call).await
    }

    async fn fetch(&self, call: &Call) -> Result<Fetched, Fault> {
        let reply = self.call(call).await?;
        let media_type = header(&reply, &CONTENT_TYPE).map(str::to_owned);
        let bytes = self.read(reply, MANIFEST_MAX).await?;
        Ok(Fetched { bytes, media_type })
    }

    /// Reads a body whole. It is not asked for again when it breaks: the caller may.
    async fn read(&self, reply: Reply, max: usize) -> Result<Bytes, Fault> {
        let body =
            read_body(reply, max, Instant::now() + BODY_TIMEOUT).await.map_err(|failure| failure.fault);
        if body.is_err() {
            self.record.outcome(&body);
        }
        body
    }

    /// That it is there, and its length where the upstream tells.
    pub(super) async fn manifest_size(&self, name: &Name, digest: &Digest) -> Result<Option<u64>, Fault> {
        self.size(name, &format!("manifests/{digest}"), Class::Manifest).await
    }

    /// That it is there, and its length where the upstream tells.
    pub(super) async fn blob_size(&self, name: &Name, digest: &Digest) -> Result<Option<u64>, Fault> {
        let rest = format!("blobs/{digest}");
        match self.size(name, &rest, Class::Blob).await {
            // A redirect may be signed for GET alone, and the store behind it then denies the HEAD.
            Err(Fault::Denied(_)) => {
                let reply = self.call(&self.ask(Class::Blob, Method::GET, name, &rest)).await?;
                Ok(length(&reply))
            }
            other => other,
        }
    }

    async fn size(&self, name: &Name, rest: &str, get: Class) -> Result<Option<u64>, Fault> {
        let mut head = self.ask(Class::Head, Method::HEAD, name, rest);
        head.also = NO_HEAD;
        let mut reply = self.call(&head).await?;
        if !reply.response.status().is_success() {
            // Only the header of the GET is read; dropping the reply ends the transfer.
            reply = self.call(&self.ask(get, Method::GET, name, rest)).await?;
        }
        Ok(length(&reply))
    }

    pub(super) async fn blob(&self, name: &Name, digest: &Digest, offset: u64) -> Result<BlobStream, Fault> {
        let rest = format!("blobs/{digest}");
        if offset > 0 {
            let mut call = self.ask(Class::Blob, Method::GET, name, &rest);
            call.also = &[416];
            if let Ok(range) = HeaderValue::try_from(format!("bytes={offset}-")) {
                call.headers.insert(RANGE, range);
            }
            let reply = self.call(&call).await?;
            match reply.response.status().as_u16() {
                200 => return Ok(self.stream(reply, 0)),
                206 if is_rest(&reply, offset) => return Ok(self.stream(reply, offset)),
                // Another part than was asked for, or none: whole, then.
                _ => {}
            }
        }
        let reply = self.call(&self.ask(Class::Blob, Method::GET, name, &rest)).await?;
        if reply.response.status().as_u16() == 206 {
            let text = format!("{} sent a part of {digest}, where all was asked for", reply.host);
            return Err(Fault::Invalid(text.into()));
        }
        Ok(self.stream(reply, 0))
    }

    fn stream(&self, reply: Reply, start: u64) -> BlobStream {
        let left = length(&reply);
        let told = content_range(&reply).and_then(|(_, _, total)| total);
        let total = told.or(left.and_then(|left| left.checked_add(start)));
        let left = total.map(|total| total.saturating_sub(start));
        let (host, record) = (reply.host, Arc::clone(&self.record));
        let body = Box::pin(reply.response.bytes_stream());
        BlobStream { start, total, body: Box::pin(Body { body, left, host, record, ended: false }) }
    }

    pub(super) async fn tags(&self, name: &Name) -> Result<Vec<Tag>, Fault> {
        #[derive(serde::Deserialize)]
        struct List {
            #[serde(default)]
            tags: Option<Entries<String, { TAGS_MAX + 1 }>>,
        }
        let mut tags: Vec<Tag> = Vec::new();
        let read = |body: &[u8]| {
            let list: List = serde_json::from_slice(body).ok()?;
            let found = list.tags.map(|entries| entries.0).unwrap_or_default();
            // What is no tag by the spec could not be asked for either.
            tags.extend(found.iter().filter_map(|text| text.parse::<Tag>().ok()));
            Some(tags.len() <= TAGS_MAX)
        };
        let mut first = self.ask(Class::List, Method::GET, name, "tags/list");
        first.url.query_pairs_mut().append_pair("n", PAGE);
        self.pages(first, read).await?;
        Ok(tags)
    }

    /// Follows `Link` from page to page. `read` takes each body; `None`: it is not readable, `false`:
    /// there is too much of it.
    async fn pages(&self, mut call: Call, mut read: impl FnMut(&[u8]) -> Option<bool>) -> Result<(), Fault> {
        let what = call.what.clone();
        let invalid = |problem: &str| Fault::Invalid(format!("{}: {what} {problem}", self.registry()).into());
        let mut left = LIST_MAX;
        let walk = async {
            for _ in 0..PAGES_MAX {
                let reply = self.call(&call).await?;
                let next = next_page(&call.url, reply.response.headers());
                let body = self.read(reply, PAGE_MAX).await?;
                left = left
                    .checked_sub(body.len())
                    .ok_or_else(|| invalid("is longer than the gateway reads"))?;
                match read(&body) {
                    None => return Err(invalid("is no readable list")),
                    Some(false) => return Err(invalid("is longer than the gateway reads")),
                    Some(true) => {}
                }
                match next {
                    None => return Ok(()),
                    Some(Err(())) => return Err(invalid("continues on another host, which is not followed")),
                    Some(Ok(url)) if url == call.url => return Err(invalid("continues with itself")),
                    Some(Ok(url)) => call.url = url,
                }
            }
            Err(invalid("has more pages than the gateway reads"))
        };
        match tokio::time::timeout(LIST_TIMEOUT, walk).await {
            Ok(outcome) => outcome,
            Err(_) => {
                Err(Fault::Unreachable(format!("{}: {what} did not end in time", self.registry()).into()))
            }
        }
    }

    /// What refers to the digest; nothing is [`Fault::Absent`].
    pub(super) async fn referrers(&self, name: &Name, digest: &Digest) -> Result<Vec<Descriptor>, Fault> {
        let mut found: Vec<Descriptor> = Vec::new();
        let mut call = self.ask(Class::List, Method::GET, name, &format!("referrers/{digest}"));
        call.headers.insert(ACCEPT, HeaderValue::from_static(OCI_INDEX));
        // Their bodies are no index, which is why they end up in the fallback below.
        call.also = NO_REFERRERS;
        let answered = self.pages(call, |body| {
            found.extend(read_index(body)?);
            Some(found.len() <= REFERRERS_MAX)
        });
        match answered.await {
            Ok(()) if found.is_empty() => {
                return Err(Fault::Absent(format!("nothing refers to {digest} in {name}").into()));
            }
            Ok(()) => return Ok(found),
            Err(Fault::Absent(_)) => {}
            Err(Fault::Invalid(_)) if found.is_empty() => {}
            Err(fault) => return Err(fault),
        }
        // The tag schema: algorithm and hash, cut to 32 and 64 characters.
        let hex = digest.hex();
        let tag = format!("manifests/{}-{}", digest.algorithm().as_str(), hex.get(..64).unwrap_or(&hex));
        let fetched = self.fetch(&self.ask(Class::Manifest, Method::GET, name, &tag)).await?;
        read_index(&fetched.bytes)
            .ok_or_else(|| Fault::Invalid(format!("{name}: {tag} is no index of referrers").into()))
    }
}

fn header<'a>(reply: &'a Reply, name: &reqwest::header::HeaderName) -> Option<&'a str> {
    reply.response.headers().get(name)?.to_str().ok()
}

/// `Content-Length`, which a reply to HEAD has, too.
fn length(reply: &Reply) -> Option<u64> {
    header(reply, &CONTENT_LENGTH)?.trim().parse().ok()
}

/// `Docker-Content-Digest`; `Err`: there is one that cannot be used.
fn digest(headers: &HeaderMap) -> Option<Result<Digest, ()>> {
    let value = headers.get(DIGEST)?;
    Some(value.to_str().ok().and_then(|text| text.trim().parse().ok()).ok_or(()))
}

/// `bytes 5-9/10`: first, last, total.
fn content_range(reply: &Reply) -> Option<(u64, u64, Option<u64>)> {
    let (span, total) = header(reply, &CONTENT_RANGE)?.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = span.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((first.parse().ok()?, last.parse().ok()?, total))
}

/// Whether a 206 holds everything from the offset to the end.
fn is_rest(reply: &Reply, offset: u64) -> bool {
    content_range(reply).is_some_and(|(first, last, total)| {
        first == offset && total.is_some_and(|total| last.checked_add(1) == Some(total))
    })
}

/// The `rel="next"` of `Link` (RFC 8288); `Err`: it leads to another origin.
fn next_page(from: &Url, headers: &HeaderMap) -> Option<Result<Url, ()>> {
    let links = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    let target =
        links.flat_map(|text| text.split(",<").flat_map(|part| part.split(", <"))).find_map(|link| {
            let (target, parameters) = link.trim_start().trim_start_matches('<').split_once('>')?;
            let next = parameters.split(';').any(|parameter| {
                parameter.split_once('=').is_some_and(|(key, value)| {
                    key.trim().eq_ignore_ascii_case("rel")
                        && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
                })
            });
            next.then_some(target)
        })?;
    let url = from.join(target).ok().filter(|url| url.origin() == from.origin());
    Some(url.filter(|url| url.username().is_empty() && url.password().is_none()).ok_or(()))
}

/// The entries of an index; single ones that cannot be read are left out.
fn read_index(body: &[u8]) -> Option<Vec<Descriptor>> {
    #[derive(serde::Deserialize)]
    struct Index {
        manifests: Option<Entries<Descriptor, { REFERRERS_MAX + 1 }>>,
    }
    let index: Index = serde_json::from_slice(body).ok()?;
    Some(index.manifests?.0)
}

/// The entries of a list that can be read, at most `MAX`: what holds a million empty ones is not
/// turned into a million values first.
struct Entries<T, const MAX: usize>(Vec<T>);

impl<'de, T: DeserializeOwned, const MAX: usize> Deserialize<'de> for Entries<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit<T, const MAX: usize>(PhantomData<T>);

        impl<'de, T: DeserializeOwned, const MAX: usize> Visitor<'de> for Visit<T, MAX> {
            type Value = Entries<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(raw) = list.next_element::<&RawValue>()? {
                    if entries.len() < MAX
                        && let Ok(entry) = serde_json::from_str(raw.get())
                    {
                        entries.push(entry);
                    }
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_seq(Visit(PhantomData))
    }
}

/// A body that knows how long it must be: neither cut nor overlong ones end as if they were whole.
struct Body<S> {
    body: Pin<Box<S>>,
    left: Option<u64>,
    host: String,
    record: Arc<Record>,
    ended: bool,
}

impl<S: Stream<Item = reqwest::Result<Bytes>>> Stream for Body<S> {
    type Item = Result<Bytes, Fault>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let fault = match std::task::ready!(self.body.as_mut().poll_next(context)) {
            Some(Ok(piece)) => {
                let len = piece.len() as u64;
                match self.left {
                    Some(left) if len > left => {
                        Fault::Invalid(format!("{} sent more than it announced", self.host).into())
                    }
                    left => {
                        self.left = left.map(|left| left - len);
                        return Poll::Ready(Some(Ok(piece)));
                    }
                }
            }
            None if self.left.is_none_or(|left| left == 0) => {
                self.ended = true;
                return Poll::Ready(None);
            }
            None => Fault::Unreachable(format!("{} cut the transfer short", self.host).into()),
            Some(Err(error)) => {
                Fault::Unreachable(format!("{}: the transfer broke: {}", self.host, cause(&error)).into())
            }
        };
        self.ended = true;
        let outcome = Err(fault);
        self.record.outcome(&outcome);
        Poll::Ready(Some(outcome))
    }
}

//! What a fake server saw and sent, and how a test waits for it.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Version, header};
use tokio::sync::watch;

use super::PATIENCE;

/// One request as it arrived, and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) path: String,
    /// The query, still encoded; empty when there is none.
    pub(crate) query: String,
    pub(crate) version: Version,
    /// The host and port the client asked for (`Host` or `:authority`).
    pub(crate) authority: String,
    pub(crate) headers: HeaderMap,
    /// The request's body; token requests by POST have one.
    pub(crate) body: Bytes,
    /// `None` until answered: a delayed or hung request has none.
    pub(crate) status: Option<StatusCode>,
    /// Body bytes handed to the connection so far.
    pub(crate) sent: u64,
    /// The answer is over: complete, cut, or the client went away.
    pub(crate) ended: bool,
}

impl Request {
    /// The first value of a header.
    pub(crate) fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// All values of a header, in order.
    pub(crate) fn values(&self, name: impl header::AsHeaderName) -> Vec<&str> {
        self.headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect()
    }

    /// The `Authorization` header, if one came.
    pub(crate) fn authorization(&self) -> Option<&str> {
        self.header(header::AUTHORIZATION)
    }

    /// All decoded values of a query parameter.
    pub(crate) fn parameters(&self, name: &str) -> Vec<String> {
        pairs(self.query.as_bytes(), name)
    }

    /// All decoded values of a field of the form in the body.
    pub(crate) fn fields(&self, name: &str) -> Vec<String> {
        pairs(&self.body, name)
    }

    fn is(&self, method: &str, path: &str) -> bool {
        (method == "*" || self.method == method) && self.path.contains(path)
    }
}

fn pairs(encoded: &[u8], name: &str) -> Vec<String> {
    url::form_urlencoded::parse(encoded)
        .filter(|(key, _)| key == name)
        .map(|(_, value)| Cow::into_owned(value))
        .collect()
}

/// Everything since the start or the last reset, in order of arrival.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) requests: Vec<Request>,
    /// TCP connections accepted.
    pub(crate) connections: usize,
    /// The number of the first request in `requests`: requests of before a reset may still be running.
    first: usize,
}

impl Log {
    /// The requests with this method (`*`: any) whose path contains this text.
    pub(crate) fn matching<'log>(
        &'log self,
        method: &'log str,
        path: &'log str,
    ) -> impl Iterator<Item = &'log Request> {
        self.requests.iter().filter(move |request| request.is(method, path))
    }

    /// How many there are of them.
    pub(crate) fn hits(&self, method: &str, path: &str) -> usize {
        self.matching(method, path).count()
    }

    /// The body bytes sent for all paths containing this text.
    pub(crate) fn bytes_sent(&self, path: &str) -> u64 {
        self.matching("*", path).map(|request| request.sent).sum()
    }
}

/// The log with its writers and waiters.
pub(crate) struct Book(watch::Sender<Log>);

impl Book {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Log::default()))
    }

    pub(crate) fn connected(&self) {
        self.0.send_modify(|log| log.connections += 1);
    }

    /// Enters a request; the entry follows it to its end.
    pub(crate) fn enter(&self, request: Request) -> Entry {
        let mut number = 0;
        self.0.send_modify(|log| {
            number = log.first + log.requests.len();
            log.requests.push(request);
        });
        Entry { log: self.0.clone(), number }
    }

    pub(crate) fn reset(&self) {
        self.0.send_modify(|log| {
            log.first += log.requests.len();
            log.requests.clear();
            log.connections = 0;
        });
    }

    pub(crate) fn read<T>(&self, look: impl FnOnce(&Log) -> T) -> T {
        look(&self.0.borrow())
    }

    /// Returns when the condition holds, now or after any later event; fails the test after [`PATIENCE`].
    pub(crate) async fn wait_for(&self, condition: impl FnMut(&Log) -> bool) {
        let mut reader = self.0.subscribe();
        let held = tokio::time::timeout(PATIENCE, reader.wait_for(condition)).await.is_ok();
        assert!(held, "waited in vain; the log holds {:#?}", self.0.borrow());
    }
}

/// A request on its way.
pub(crate) struct Entry {
    log: watch::Sender<Log>,
    number: usize,
}

impl Entry {
    pub(crate) fn answered(&self, status: StatusCode) {
        self.change(|request| request.status = Some(status));
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.change(|request| request.sent += bytes as u64);
    }

    fn change(&self, change: impl FnOnce(&mut Request)) {
        self.log.send_modify(|log| {
            // A reset forgets requests that are still being answered.
            let index = self.number.checked_sub(log.first);
            if let Some(request) = index.and_then(|index| log.requests.get_mut(index)) {
                change(request);
            }
        });
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.change(|request| request.ended = true);
    }
}

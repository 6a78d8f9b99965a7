//! A bare HTTP client: no redirects, no proxy, no retries, and no trust but in the given CA.

use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, ClientBuilder, Method, Response};

/// A client that trusts this CA; HTTP/2 where it is offered.
pub(crate) fn client(ca_pem: &str) -> Client {
    builder(ca_pem).build().unwrap()
}

/// The same, HTTP/1.1 alone.
pub(crate) fn client_http1(ca_pem: &str) -> Client {
    builder(ca_pem).http1_only().build().unwrap()
}

fn builder(ca_pem: &str) -> ClientBuilder {
    // Whoever comes first installs it; there is one provider only.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let ca = Certificate::from_pem(ca_pem.as_bytes()).unwrap();
    Client::builder().tls_certs_only([ca]).redirect(Policy::none()).no_proxy().retry(reqwest::retry::never())
}

/// Sends a bodiless request with these headers and returns the answer's head.
pub(crate) async fn send(client: &Client, method: &str, url: String, headers: &[(&str, &str)]) -> Response {
    let mut request = client.request(Method::from_bytes(method.as_bytes()).unwrap(), url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

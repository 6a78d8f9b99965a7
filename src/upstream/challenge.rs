//! `WWW-Authenticate`: what a registry wants to see before it answers (RFC 9110, section 11.6.1).

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// One challenge that the gateway can answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Challenge {
    Basic,
    Bearer(Bearer),
}

/// Where tokens are given, and for what service (distribution-spec's token authentication).
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Bearer {
    pub(super) realm: String,
    pub(super) service: Option<String>,
    pub(super) scope: Option<String>,
}

/// The strongest challenge in these headers: Bearer where it is offered with a realm, else Basic.
pub(super) fn read(headers: &HeaderMap) -> Option<Challenge> {
    let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    let all: Vec<Challenge> = values.flat_map(parse).collect();
    let bearer = all.iter().find(|challenge| matches!(challenge, Challenge::Bearer(_)));
    bearer.or_else(|| all.first()).cloned()
}

/// Several challenges may share one header, parted by the same comma as their parameters: a word
/// without `=` begins the next one.
fn parse(text: &str) -> Vec<Challenge> {
    let mut found: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find(|c: char| !is_token(c)).unwrap_or(rest.len());
        let (Some(word), Some(after)) = (rest.get(..end), rest.get(end..)) else { break };
        if word.is_empty() {
            break;
        }
        match after.trim_start().strip_prefix('=') {
            // `=` straight after a first word would be token68, which neither scheme here uses.
            Some(value) if !found.is_empty() => {
                let (value, after) = read_value(value.trim_start());
                if let Some((_, parameters)) = found.last_mut() {
                    parameters.push((word.to_ascii_lowercase(), value));
                }
                rest = after;
            }
            Some(_) => break,
            None => {
                found.push((word.to_ascii_lowercase(), Vec::new()));
                rest = after;
            }
        }
    }
    found.into_iter().filter_map(|(scheme, parameters)| understand(&scheme, &parameters)).collect()
}

fn understand(scheme: &str, parameters: &[(String, String)]) -> Option<Challenge> {
    let value = |name: &str| {
        let found = parameters.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
    };
    match scheme {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer(Bearer {
            realm: value("realm")?,
            service: value("service"),
            scope: value("scope"),
        })),
        _ => None,
    }
}

/// A token or a quoted string, and what follows it. A string that never ends takes the rest.
fn read_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        let (value, rest) = text.split_at_checked(end).unwrap_or((text, ""));
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, quoted.get(at + 1..).unwrap_or_default()),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

fn is_token(character: char) -> bool {
    character.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(WWW_AUTHENTICATE, line.parse().unwrap());
        }
        read(&headers)
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        let [service, scope] = [service, scope].map(|text| text.map(str::to_owned));
        Some(Challenge::Bearer(Bearer { realm: realm.to_owned(), service, scope }))
    }

    #[test]
    fn the_challenges_registries_send_are_read() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/x:pull""#;
        let expected = bearer(
            "https://auth.docker.io/token",
            Some("registry.docker.io"),
            Some("repository:library/x:pull"),
        );
        assert_eq!(of(&[hub]), expected);
        assert_eq!(of(&["bearer REALM=https://a/t , service = s"]), bearer("https://a/t", Some("s"), None));
        assert_eq!(of(&[r#"Basic realm="x, y=z""#]), Some(Challenge::Basic));
        assert_eq!(of(&["Basic"]), Some(Challenge::Basic));
    }

    #[test]
    fn bearer_wins_among_several_in_one_header_or_many() {
        let expected = bearer("https://a/t", None, None);
        assert_eq!(of(&[r#"Basic realm="x", Bearer realm="https://a/t""#]), expected);
        assert_eq!(of(&[r#"Bearer realm="https://a/t", Basic realm="x""#]), expected);
        assert_eq!(of(&["Negotiate", r#"Basic realm="x""#, r#"Bearer realm="https://a/t""#]), expected);
    }

    #[test]
    fn escapes_and_commas_stay_within_their_quotes() {
        assert_eq!(
            of(&[r#"Bearer realm="https://a/t,\"b\"",service="a b""#]),
            bearer(r#"https://a/t,"b""#, Some("a b"), None)
        );
    }

    #[test]
    fn what_is_no_challenge_is_none_and_never_a_panic() {
        for line in [
            "",
            ",",
            "=",
            "\"",
            "Bearer",
            "Bearer realm=",
            "Bearer service=\"x\"",
            "Digest realm=\"x\"",
            "=x Basic",
        ] {
            assert_eq!(of(&[line]), None, "{line}");
        }
        assert_eq!(of(&[r#"Bearer realm="https://a/t"#]), bearer("https://a/t", None, None));
        assert_eq!(of(&[]), None);
    }
}

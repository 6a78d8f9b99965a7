//! Words that clients chose: cut to a bound before they are stored, escaped before they are shown.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// Longest `User-Agent`, certificate name and `ns` kept, in characters.
pub(crate) const SHORT: usize = 256;
/// Longest reference, path, check value and sentence kept, in characters.
pub(crate) const LONG: usize = 1024;

/// At most `limit` characters; where some were cut off, the last one kept is `…`.
pub(crate) fn clip(text: &str, limit: usize) -> Cow<'_, str> {
    if text.len() <= limit || text.char_indices().nth(limit).is_none() {
        return Cow::Borrowed(text);
    }
    let end = text.char_indices().nth(limit.saturating_sub(1)).map_or(0, |(end, _)| end);
    Cow::Owned(format!("{}…", text.get(..end).unwrap_or_default()))
}

/// Whether showing it could move the cursor, colour the terminal, reorder or hide other text.
fn is_treacherous(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The text as it may be printed to a terminal: control characters, line ends, direction marks and
/// invisible characters as `\xNN` or `\u{…}`, a backslash doubled so that nothing is ambiguous.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(|character| character == '\\' || is_treacherous(character)) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if character == '\\' {
            safe.push_str(r"\\");
        } else if !is_treacherous(character) {
            safe.push(character);
        } else if u32::from(character) < 0x100 {
            let _ = write!(safe, "\\x{:02x}", u32::from(character));
        } else {
            let _ = write!(safe, "\\u{{{:x}}}", u32::from(character));
        }
    }
    Cow::Owned(safe)
}

/// JSON as it may be printed to a terminal: what JSON itself leaves bare (DEL, C1 controls, direction
/// marks) as `\uNNNN`, which means the same to every parser.
pub fn printable_json(json: String) -> String {
    if !json.contains(is_treacherous) {
        return json;
    }
    let mut safe = String::with_capacity(json.len() + 32);
    for character in json.chars() {
        if is_treacherous(character) {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                let _ = write!(safe, "\\u{unit:04x}");
            }
        } else {
            safe.push(character);
        }
    }
    safe
}

/// Which kind of client a `User-Agent` belongs to.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Runtime {
    /// `docker buildx`, buildkitd.
    Buildkit,
    /// containerd and what embeds it (ctr, nerdctl, k3s).
    Containerd,
    /// crane and other users of go-containerregistry.
    Crane,
    /// CRI-O.
    CriO,
    /// dockerd.
    Docker,
    /// Anything else, or nothing.
    Other,
    /// podman, buildah and other users of containers/image.
    Podman,
    /// skopeo.
    Skopeo,
}

impl Runtime {
    /// Told from the first product of the `User-Agent`, which every one of them sends.
    pub fn of(user_agent: Option<&str>) -> Self {
        const PRODUCTS: [(&str, Runtime); 11] = [
            ("buildah", Runtime::Podman),
            ("buildkit", Runtime::Buildkit),
            ("containerd", Runtime::Containerd),
            ("containers/", Runtime::Podman),
            ("crane", Runtime::Crane),
            ("cri-o", Runtime::CriO),
            ("docker", Runtime::Docker),
            ("go-containerregistry", Runtime::Crane),
            ("libpod", Runtime::Podman),
            ("podman", Runtime::Podman),
            ("skopeo", Runtime::Skopeo),
        ];
        let Some(agent) = user_agent else { return Self::Other };
        PRODUCTS
            .iter()
            .find(|(product, _)| {
                agent.get(..product.len()).is_some_and(|start| start.eq_ignore_ascii_case(product))
            })
            .map_or(Self::Other, |(_, runtime)| *runtime)
    }

    /// The closed word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Buildkit => "buildkit",
            Self::Containerd => "containerd",
            Self::Crane => "crane",
            Self::CriO => "cri-o",
            Self::Docker => "docker",
            Self::Other => "other",
            Self::Podman => "podman",
            Self::Skopeo => "skopeo",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_are_told_from_what_the_clients_really_send() {
        for (agent, runtime) in [
            ("containerd/1.6.20~ds1", Runtime::Containerd),
            (
                "docker/20.10.24 go/go1.19 git-commit/5d6db84 UpstreamClient(Docker-Client/20)",
                Runtime::Docker,
            ),
            ("containers/5.23.1 (github.com/containers/image)", Runtime::Podman),
            ("libpod/4.3.1", Runtime::Podman),
            ("skopeo/1.9.3", Runtime::Skopeo),
            ("cri-o/1.30.0 go/go1.22 os/linux arch/amd64", Runtime::CriO),
            ("go-containerregistry/v0.20.2", Runtime::Crane),
            ("buildkit/v0.12", Runtime::Buildkit),
            ("curl/8.5.0", Runtime::Other),
            ("ö", Runtime::Other),
        ] {
            assert_eq!(Runtime::of(Some(agent)), runtime, "{agent}");
        }
        assert_eq!(Runtime::of(None), Runtime::Other);
    }

    #[test]
    fn nothing_a_client_chose_can_move_the_cursor() {
        assert_eq!(printable("a\x1b[2Jb\nc\\d\u{9b}\u{202e}"), r"a\x1b[2Jb\x0ac\\d\x9b\u{202e}");
        assert_eq!(printable("plain ü"), "plain ü");
        let json = printable_json("{\"a\":\"\u{9b}\u{202e}\u{e0001}\"}".to_owned());
        assert_eq!(json, r#"{"a":"\u009b\u202e\udb40\udc01"}"#);
        let back: serde_json::Value = serde_json::from_str(&json).expect("still JSON");
        assert_eq!(back["a"], "\u{9b}\u{202e}\u{e0001}");
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        assert_eq!(clip("äöü", 2), "ä…");
        assert_eq!(clip("äöü", 3), "äöü");
    }
}

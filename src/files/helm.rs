//! Values of Helm charts, by what charts usually do with them.

use super::finding::Findings;
use super::yaml::View;
use super::{Kind, Obstacle, Why};

/// Keys whose value is an image, whatever it is called besides: `image`, `sidecarImage`.
fn is_image(key: &str) -> bool {
    key == "image" || key.ends_with("Image")
}

/// Every `image` at any depth: a reference, or `{registry, repository, tag, digest}`.
pub(super) fn values(root: View<'_>, findings: &mut Findings) {
    let mut seen = std::collections::HashSet::new();
    let mut waiting = vec![root];
    while let Some(view) = waiting.pop() {
        if !seen.insert(view.id()) {
            continue;
        }
        waiting.extend(view.items());
        for (key, value) in view.entries() {
            if key.text().is_some_and(is_image) {
                if value.text().is_some_and(|text| !text.contains("://")) {
                    findings.scalar(Kind::Helm, value, "");
                }
                assembled(Kind::Helm, value, findings);
            }
            waiting.push(value);
        }
    }
}

/// `{registry, repository, tag, digest}`.
pub(super) fn assembled(kind: Kind, view: View<'_>, findings: &mut Findings) {
    let Some(repository) = view.get("repository") else { return };
    let Some(name) = repository.text().filter(|name| !name.is_empty()) else { return };
    let part = |key| view.get(key).filter(|part| part.text().is_some_and(|text| !text.is_empty()));
    let (registry, tag, digest) = (part("registry"), part("tag"), part("digest"));
    let (range, _) = repository.content();
    let mut text = String::new();
    if let Some(registry) = registry.and_then(View::text) {
        text.push_str(registry.trim_end_matches('/'));
        text.push('/');
    }
    text.push_str(name);
    for (part, before) in [(tag, ':'), (digest, '@')] {
        if let Some(part) = part.and_then(View::text) {
            text.push(before);
            text.push_str(part);
        }
    }
    let parts = [Some(repository), registry, tag, digest];
    if parts.into_iter().flatten().any(View::is_template) {
        findings.unjudged(kind, range, &text, Why::Template);
    } else if text.contains('$') {
        findings.unjudged(kind, range, &text, Why::Variable(text.clone()));
    } else if tag.is_none() && digest.is_none() && !name.contains([':', '@']) {
        findings.unjudged(kind, range, &text, Why::Tag);
    } else {
        findings.image(kind, range, text, Err(Obstacle::Assembled));
    }
}

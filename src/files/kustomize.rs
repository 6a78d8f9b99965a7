//! Kustomizations: what `images` puts in the place of others.

use super::finding::Findings;
use super::yaml::View;
use super::{Kind, Obstacle, Why};

/// `images: [{name, newName, newTag, digest}]`.
pub(super) fn read(root: View<'_>, findings: &mut Findings) {
    for image in root.all("images").into_iter().flat_map(View::items) {
        let named = image.get("newName").or_else(|| image.get("name"));
        let Some((view, name)) = named.and_then(|view| Some((view, view.text()?))) else { continue };
        let (range, _) = view.content();
        let mut text = name.to_owned();
        for (key, before) in [("newTag", ':'), ("digest", '@')] {
            if let Some(part) = image.word(key) {
                text.push(before);
                text.push_str(part);
            }
        }
        let template = ["newName", "name", "newTag", "digest"]
            .iter()
            .filter_map(|key| image.get(key))
            .any(View::is_template);
        if template {
            findings.unjudged(Kind::Kustomize, range, &text, Why::Template);
        } else if text == name && image.get("newName").is_some() {
            findings.unjudged(Kind::Kustomize, range, &text, Why::Tag);
        } else if text != name {
            findings.image(Kind::Kustomize, range, text, Err(Obstacle::Assembled));
        }
    }
}

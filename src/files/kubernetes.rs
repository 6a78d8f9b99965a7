//! Kubernetes objects: container specs at any depth, image volumes, and what custom resources call images.

use std::collections::HashSet;

use super::finding::Findings;
use super::yaml::View;
use super::{Kind, helm};

/// Where a node stands.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Role {
    /// A list of containers.
    Containers,
    /// A container.
    Container,
    /// A list of volumes.
    Volumes,
    /// A volume.
    Volume,
    /// Anything else.
    Other,
}

/// Finds the images of one object, or of a list of them.
pub(super) fn read(root: View<'_>, findings: &mut Findings) {
    let mut seen = HashSet::new();
    let mut waiting = vec![(root, Role::Other, false)];
    while let Some((view, role, custom)) = waiting.pop() {
        let custom = view.word("apiVersion").map_or(custom, is_custom);
        // Schemas and embedded files speak of images without naming any.
        let data = matches!(view.word("kind"), Some("ConfigMap" | "CustomResourceDefinition" | "Secret"));
        if data && view.get("apiVersion").is_some() || !seen.insert((view.id(), role, custom)) {
            continue;
        }
        let inner = match role {
            Role::Containers => Role::Container,
            Role::Volumes => Role::Volume,
            Role::Container | Role::Other | Role::Volume => Role::Other,
        };
        waiting.extend(view.items().map(|item| (item, inner, custom)));
        for image in if view.is_mapping() { view.all("image") } else { Vec::new() } {
            if role == Role::Container || (custom && image.text().is_some_and(is_reference)) {
                findings.scalar(Kind::Kubernetes, image, "");
            }
            if role == Role::Volume {
                for reference in image.all("reference") {
                    findings.scalar(Kind::Kubernetes, reference, "");
                }
            }
            if custom {
                helm::assembled(Kind::Kubernetes, image, findings);
            }
        }
        for (key, value) in view.entries() {
            let role = match key.text() {
                Some("containers" | "ephemeralContainers" | "initContainers") => Role::Containers,
                Some("sidecars" | "steps") if custom => Role::Containers,
                Some("container" | "script") if custom => Role::Container,
                Some("volumes") => Role::Volumes,
                _ => Role::Other,
            };
            waiting.push((value, role, custom));
        }
    }
}

/// Whether a kind is none of Kubernetes' own.
fn is_custom(version: &str) -> bool {
    match version.split_once('/') {
        None => false,
        Some((group, _)) => group.contains('.') && !group.ends_with(".k8s.io"),
    }
}

/// Whether a text under a key `image` of an unknown schema can only be a reference: `logo.png`, paths and
/// addresses of pictures are none.
fn is_reference(text: &str) -> bool {
    let path = text.starts_with(['/', '.']) || text.contains("://") || text.contains(char::is_whitespace);
    let picture = [".gif", ".jpg", ".png", ".svg", ".webp"].iter().any(|end| text.ends_with(end));
    !path && !picture && text.contains([':', '/', '@'])
}

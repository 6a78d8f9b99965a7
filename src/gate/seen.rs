//! What a record says of an image beyond what was asked for.

use crate::audit;
use crate::oci::{Ask, Digest, What};
use crate::policy::{Facts, Known};

use super::Rules;

/// What is asked for, what it leads to, and what leads to it: that joins a child's request to the
/// pull of its index, and a tag to its digest in the record of a refusal too.
pub(super) fn image(ask: &Ask, facts: &Facts, rules: &Rules) -> audit::Image {
    let mut image = audit::Image::asked(ask);
    if let Known::Is(roots) = &facts.roots {
        image.roots = roots.roots.iter().map(|root| root.digest).collect();
    }
    if let What::Tag(tag) = &ask.what {
        let pinned = rules.policy().pin_of(&ask.name, tag).map(|pin| pin.digest);
        let (locked, current) = match &facts.tag {
            Known::Is(fact) => (fact.lock, fact.current),
            Known::Failed(_) | Known::Unasked => (None, None),
        };
        let held = pinned.or(locked);
        image.digest = current.or(held);
        image.previous = held;
        image.state = state(ask, pinned, locked);
    }
    describe(&mut image, facts);
    image
}

/// Adds what is known of the content that the image turned out to be.
pub(super) fn describe(image: &mut audit::Image, facts: &Facts) {
    // What is served may be the lock itself after all.
    image.previous = image.previous.filter(|previous| image.digest != Some(*previous));
    let Some(digest) = &image.digest else { return };
    if let Known::Is(known) = &facts.image
        && known.manifest.digest == *digest
    {
        image.size = Some(known.manifest.size);
        image.media_type = Some(known.manifest.media_type.as_str().into());
    }
    let Some(Known::Is(content)) = facts.contents.get(digest) else { return };
    image.first_seen = content.first_seen;
    if let Known::Is(config) = &content.config {
        image.created = config.created;
        image.platform = (!config.platform.os.is_empty()).then(|| config.platform.to_string());
    }
}

/// One hash of what a tag's decision rests on besides the policy file: who repeats the decision with
/// the same file and the same state comes to the same answer.
fn state(ask: &Ask, pinned: Option<Digest>, locked: Option<Digest>) -> Option<String> {
    if pinned.is_none() && locked.is_none() {
        return None;
    }
    let line = |digest: Option<Digest>| digest.map_or_else(String::new, |digest| digest.to_string());
    let text = format!("{}\npin {}\nlock {}\n", ask.reference(), line(pinned), line(locked));
    Some(Digest::sha256(text.as_bytes()).hex())
}

//! Keys as the clients' decoder takes them.
//!
//! Most clients are written in Go, whose `encoding/json` takes a key in any case for the field it knows:
//! `"URLs"` sends them elsewhere as `"urls"` does, and of `"layers"` and `"Layers"` they believe the last.
//! A manifest that spells a key otherwise is therefore read as another one there than here.

use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

/// Every key that clients look for in a manifest, its descriptors and their platforms.
const KEYS: [&str; 19] = [
    "annotations",
    "architecture",
    "artifactType",
    "blobs",
    "config",
    "data",
    "digest",
    "layers",
    "manifests",
    "mediaType",
    "os",
    "os.features",
    "os.version",
    "platform",
    "schemaVersion",
    "size",
    "subject",
    "urls",
    "variant",
];

/// Proof that the keys of a manifest are spelt as the image-spec spells them, so that all readers find
/// the same. Free text (annotations) and unknown keys are not looked into.
pub(super) struct Spelt;

impl<'de> Deserialize<'de> for Spelt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Spelt;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a manifest")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Spelt, A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if let Some(known) = KEYS.iter().find(|known| **known != key && same_to_go(known, &key)) {
                return Err(Error::custom(format!("it spells {known} as {:?}", super::name::quote(&key))));
            }
            match key.as_str() {
                "blobs" | "config" | "layers" | "manifests" | "platform" | "subject" => {
                    map.next_value::<Spelt>()?;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Spelt)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Spelt, A::Error> {
        while seq.next_element::<Spelt>()?.is_some() {}
        Ok(Spelt)
    }

    fn visit_unit<E: Error>(self) -> Result<Spelt, E> {
        Ok(Spelt)
    }
}

/// The keys of one table of an image config, and the tables within it that are looked into.
#[derive(Clone, Copy)]
pub(super) struct Level {
    keys: &'static [&'static str],
    inner: &'static [(&'static str, Level)],
}

/// Every key of an image config that a rule depends on. (Docker's own older keys beside them are read
/// by nobody who runs an image.)
pub(super) const CONFIG: Level = Level {
    keys: &["architecture", "config", "created", "os", "os.version", "rootfs", "variant"],
    inner: &[
        ("config", Level { keys: &["Labels", "User"], inner: &[] }),
        ("rootfs", Level { keys: &["diff_ids", "type"], inner: &[] }),
    ],
};

/// The same proof for a config as [`Spelt`] is for a manifest.
impl<'de> DeserializeSeed<'de> for Level {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an image config")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if let Some(known) = self.keys.iter().find(|known| **known != key && same_to_go(known, &key)) {
                return Err(Error::custom(format!("it spells {known} as {:?}", super::name::quote(&key))));
            }
            match self.inner.iter().find(|(inner, _)| *inner == key) {
                Some((_, level)) => map.next_value_seed(*level)?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}

/// Unicode simple folding, as far as it reaches ASCII: two further letters fold to `s` and `k`.
fn same_to_go(known: &str, key: &str) -> bool {
    let fold = |c: char| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    key.chars().map(fold).eq(known.chars().map(fold))
}

//! What a manifest must be like, whoever asks for it: the checks of one manifest and of one image.
//! How those of an index's images come together is for [`super::decide`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::companion;
use super::decide::short;
use super::rules::{
    AgeClock, AgeRule, Artifacts, BaseRule, IndexRule, LabelRule, Leaves, PlatformRule, SizeRule, UserRule,
    Written,
};
use super::{Code, Content, Known, Reason};
use crate::oci::{Digest, Fault, ImageConfig, Kind, Manifest, Name, Platform, Role};

/// The most manifests an index may list.
pub const CHILDREN_MAX: usize = 1000;
/// The most indexes that may lie below one another.
const DEPTH_MAX: u8 = 2;
/// The most indexes that an index may list: each has to be read before it is judged.
pub const NESTED_MAX: usize = 16;
/// The most manifests of an index that are looked into.
pub(super) const JUDGED_MAX: usize = 128;
/// The largest uid of Linux that is one to every tool.
const UID_MAX: u32 = 2_147_483_647;
/// How far ahead of the gateway's clock a date may be.
const AHEAD: Duration = Duration::from_secs(24 * 3600);

const CREATED: &str = "org.opencontainers.image.created";
const BASE_DIGEST: &str = "org.opencontainers.image.base.digest";
const BASE_NAME: &str = "org.opencontainers.image.base.name";

/// One content check that ran.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub(super) id: &'static str,
    pub(super) observed: String,
    pub(super) expected: String,
    pub(super) at: Option<Arc<str>>,
    pub(super) refusal: Option<Reason>,
    /// Why facts are unavailable, where they are.
    pub(super) fault: Option<Fault>,
    /// When a check that passes will fail, by time alone.
    pub(super) until: Option<Timestamp>,
}

impl Finding {
    pub(super) fn new(id: &'static str, observed: impl Into<String>, expected: impl Into<String>) -> Self {
        Self {
            id,
            observed: observed.into(),
            expected: expected.into(),
            at: None,
            refusal: None,
            fault: None,
            until: None,
        }
    }

    pub(super) fn at(mut self, at: &Arc<str>) -> Self {
        self.at = Some(at.clone());
        self
    }

    pub(super) fn refused(mut self, code: Code, text: impl Into<String>, remedy: &str) -> Self {
        self.refusal = Some(Reason::new(code, text, Some(remedy.to_owned())));
        self
    }

    /// What cannot be found out is not served.
    pub(super) fn unavailable(what: &str, fault: &Fault) -> Self {
        let text = format!("{what} cannot be looked into: {fault}");
        let mut finding = Self::new("facts", fault.to_string(), "facts that can be had").refused(
            Code::FactsUnavailable,
            text,
            if fault.is_transient() {
                "try again later"
            } else {
                "have the image repaired or published anew"
            },
        );
        finding.fault = Some(fault.clone());
        finding
    }
}

/// The content rules of one source.
#[derive(Debug)]
pub(super) struct ContentRules {
    age: Option<Written<AgeRule>>,
    artifacts: Option<Written<Artifacts>>,
    base: Option<Written<BaseRule>>,
    pub(super) index: IndexRule,
    labels: Option<Written<Vec<LabelRule>>>,
    pub(super) platforms: Option<Written<Vec<PlatformRule>>>,
    size: Option<Written<SizeRule>>,
    user: Option<Written<UserRule>>,
}

impl ContentRules {
    pub(super) fn merge(own: &Leaves, require: &Leaves) -> Self {
        fn leaf<T: Clone>(own: &Option<Written<T>>, require: &Option<Written<T>>) -> Option<Written<T>> {
            own.as_ref().or(require.as_ref()).cloned()
        }
        Self {
            age: leaf(&own.age, &require.age),
            artifacts: leaf(&own.artifacts, &require.artifacts)
                .filter(|artifacts| artifacts.value != Artifacts::Allow),
            base: leaf(&own.base, &require.base),
            index: leaf(&own.index, &require.index).map_or(IndexRule::default(), |index| index.value),
            labels: leaf(&own.labels, &require.labels).filter(|labels| !labels.value.is_empty()),
            platforms: leaf(&own.platforms, &require.platforms)
                .filter(|platforms| !platforms.value.is_empty()),
            size: leaf(&own.size, &require.size),
            user: leaf(&own.user, &require.user),
        }
    }

    /// Whether images must be looked into.
    pub(super) fn look_inside(&self) -> bool {
        !self.needs().is_empty()
    }

    /// The checks that take facts, in table order.
    pub(super) fn needs(&self) -> Vec<&'static str> {
        let needs = [
            ("platform", self.platforms.is_some()),
            ("size", self.size.is_some()),
            ("label", self.labels.is_some()),
            ("age", self.age.is_some()),
            ("user", self.user.is_some()),
            ("artifact", self.artifacts.is_some()),
            ("base", self.base.is_some()),
        ];
        needs.into_iter().filter(|(_, asked)| *asked).map(|(id, _)| id).collect()
    }

    /// Every rule as `key`, words: what a difference of two policies compares.
    pub(super) fn describe(&self) -> BTreeMap<&'static str, String> {
        let mut told = BTreeMap::new();
        if let Some(age) = &self.age {
            told.insert("age", age.value.to_string());
        }
        if let Some(artifacts) = &self.artifacts {
            told.insert("artifacts", artifacts.value.to_string());
        }
        if let Some(base) = &self.base {
            told.insert("base", base.value.to_string());
        }
        if self.index != IndexRule::default() {
            told.insert("index", self.index.as_str().to_owned());
        }
        if let Some(labels) = &self.labels {
            told.insert("labels", words(&labels.value));
        }
        if let Some(platforms) = &self.platforms {
            told.insert("platforms", words(&platforms.value));
        }
        if let Some(size) = &self.size {
            told.insert("size", size.value.to_string());
        }
        if let Some(user) = &self.user {
            told.insert("user", user.value.to_string());
        }
        told
    }

    /// Whether an index's manifest for this platform is one that is judged.
    pub(super) fn covers(&self, claimed: Option<&Platform>) -> bool {
        match (claimed, &self.platforms) {
            // Clients look into what claims nothing, and so must we.
            (None, _) => true,
            (Some(claimed), _) if claimed.is_unknown() => false,
            (Some(claimed), Some(platforms)) => platforms.value.iter().any(|rule| rule.matches(claimed)),
            (Some(_), None) => true,
        }
    }

    /// All checks of one image or artifact. `index` is the index it was reached through.
    pub(super) fn judge(&self, content: &Content, index: Option<&Manifest>, now: Timestamp) -> Vec<Finding> {
        let manifest = &*content.manifest;
        let config = match &content.config {
            Known::Failed(fault) => {
                let what = format!("the config of {}", short(&manifest.digest));
                return vec![Finding::unavailable(&what, fault)];
            }
            Known::Is(config) => Some(config),
            Known::Unasked => None,
        };
        let Some(config) = config.filter(|config| is_image(manifest, config)) else {
            return self.artifacts.iter().map(|rule| artifact(rule, manifest)).collect();
        };
        let mut findings = Vec::new();
        findings.extend(self.platforms.as_ref().map(|rule| platform(rule, config)));
        findings.extend(self.size.as_ref().map(|rule| size(rule, manifest)));
        findings.extend(self.labels.as_ref().map(|rule| labels(rule, config)));
        findings.extend(self.age.as_ref().map(|rule| age(rule, content, config, index, now)));
        findings.extend(self.user.as_ref().map(|rule| user(rule, config)));
        findings.extend(self.base.as_ref().map(|rule| base(rule, manifest)));
        findings
    }

    /// The finding on an index that carries images for other platforms only.
    pub(super) fn nothing_judged(&self, index: &Manifest) -> Option<Finding> {
        let rule = self.platforms.as_ref()?;
        let real = |platform: &&Platform| !platform.is_unknown();
        let carried: Vec<String> = index
            .children()
            .filter_map(|child| child.platform.as_ref())
            .filter(real)
            .take(8)
            .map(ToString::to_string)
            .collect();
        if carried.is_empty() {
            return None;
        }
        let carried = carried.join(", ");
        let finding = Finding::new("platform", carried.clone(), words(&rule.value)).at(&rule.at);
        Some(finding.refused(
            Code::PlatformNotAllowed,
            format!("it runs on {carried} only (allowed: {})", words(&rule.value)),
            "use an image that is built for an allowed platform",
        ))
    }

    /// A content that passes every rule, to stand in where a test supposes nothing.
    pub(super) fn compliant(&self, mut config: ImageConfig, now: Timestamp, given: &[&str]) -> ImageConfig {
        let free = |id: &str| !given.contains(&id);
        if let Some(rule) = self.platforms.as_ref().and_then(|rule| rule.value.first())
            && free("platform")
        {
            config.platform = Platform {
                architecture: rule.architecture.to_string(),
                os: rule.os.to_string(),
                variant: rule.variant.as_ref().map(ToString::to_string),
                os_version: None,
            };
        }
        if let Some(rule) = &self.labels
            && free("label")
        {
            config.labels =
                rule.value.iter().map(|rule| (rule.key.to_string(), rule.value.replace('*', "x"))).collect();
        }
        if free("age") {
            config.created = Some(now);
        }
        if let Some(rule) = &self.user
            && free("user")
        {
            config.user = rule.value.min_uid.to_string();
        }
        config
    }

    /// The annotations that a base rule asks for.
    pub(super) fn compliant_base(&self) -> BTreeMap<String, String> {
        let Some(rule) = &self.base else { return BTreeMap::new() };
        let digest = rule.value.digests.first().copied().unwrap_or_else(|| Digest::sha256(b""));
        let name = rule.value.names.first().map(|name| name.to_string().replace("**", "x").replace('*', "x"));
        [(BASE_DIGEST.to_owned(), digest.to_string())]
            .into_iter()
            .chain(name.map(|name| (BASE_NAME.to_owned(), name)))
            .collect()
    }
}

/// Whether a runtime would run it: it has an image's config, and is not one of the small things that
/// borrow that type for want of another and say that they run nowhere, as attestations in an index do.
/// One that says nothing of where it runs is one: some runtimes take that for their own platform.
fn is_image(manifest: &Manifest, config: &ImageConfig) -> bool {
    !(config.platform.is_unknown()
        && companion::excess(manifest).is_none()
        && manifest.edges.iter().any(|(role, _)| *role == Role::Layer))
}

/// The checks that need the manifest alone, and how many indexes lie below one another in it.
pub(super) fn judge_manifest(manifest: &Manifest, depth: u8, at: &Arc<str>) -> Vec<Finding> {
    let mut findings = vec![media(manifest).at(at)];
    findings.extend((manifest.kind == Kind::Index).then(|| index(manifest, depth).at(at)));
    findings
}

fn media(manifest: &Manifest) -> Finding {
    let foreign = manifest.edges.iter().find(|(_, edge)| !edge.urls.is_empty());
    let observed = if foreign.is_some() {
        format!("{} with urls", manifest.media_type)
    } else {
        manifest.media_type.clone()
    };
    let finding = Finding::new("media", observed, "not schema 1, no descriptors with urls");
    if manifest.kind == Kind::Schema1 {
        return finding.refused(
            Code::MediaRefused,
            "it is a Docker schema 1 image, whose layers no digest protects",
            "push it again with a current client, or use a newer tag",
        );
    }
    match foreign {
        None => finding,
        Some((_, edge)) => finding.refused(
            Code::MediaRefused,
            format!("it sends clients elsewhere for {} (a foreign layer)", short(&edge.digest)),
            "use an image whose layers are all in its registry",
        ),
    }
}

fn index(manifest: &Manifest, depth: u8) -> Finding {
    let children = manifest.children().count();
    let nested = manifest.children().filter(|child| child.is_index()).count();
    let observed = match nested {
        0 => format!("{children} manifests"),
        _ => format!("{children} manifests, {nested} of them indexes, {depth} deep"),
    };
    let finding = Finding::new("index", observed, "at most 1000 manifests, 16 indexes, 2 deep");
    let excess = if children > CHILDREN_MAX {
        format!("its index lists {children} manifests; at most {CHILDREN_MAX} are accepted")
    } else if nested > NESTED_MAX {
        format!("its index lists {nested} other indexes; at most {NESTED_MAX} are accepted")
    } else if depth > DEPTH_MAX {
        "its index lists indexes of indexes; an index of indexes of manifests is accepted".to_owned()
    } else {
        return finding;
    };
    finding.refused(Code::IndexTooLarge, excess, "name the manifest of your platform by digest")
}

fn artifact(rule: &Written<Artifacts>, manifest: &Manifest) -> Finding {
    let config = manifest.edges.iter().find(|(role, _)| *role == Role::Config);
    let kind = manifest
        .artifact_type
        .as_deref()
        .or_else(|| config.map(|(_, config)| config.media_type.as_str()))
        .unwrap_or(&manifest.media_type);
    let finding = Finding::new("artifact", kind, rule.value.to_string()).at(&rule.at);
    if rule.value.allows(kind) {
        return finding;
    }
    finding.refused(
        Code::ArtifactNotAllowed,
        format!("it is no image but {kind} (artifacts: {})", rule.value),
        "have this type added to `artifacts` if it is needed",
    )
}

fn platform(rule: &Written<Vec<PlatformRule>>, config: &ImageConfig) -> Finding {
    let expected = words(&rule.value);
    let found = config.platform.to_string();
    let finding = Finding::new("platform", found.clone(), expected.clone()).at(&rule.at);
    if rule.value.iter().any(|rule| rule.matches(&config.platform)) {
        return finding;
    }
    finding.refused(
        Code::PlatformNotAllowed,
        format!("it runs on {found} (allowed: {expected})"),
        "use an image that is built for an allowed platform",
    )
}

fn size(rule: &Written<SizeRule>, manifest: &Manifest) -> Finding {
    let layers =
        || manifest.edges.iter().filter(|(role, _)| *role == Role::Layer).map(|(_, layer)| layer.size);
    let total = manifest.blobs().fold(0_u64, |sum, blob| sum.saturating_add(blob.size));
    let (largest, count) = (layers().max().unwrap_or_default(), layers().count());
    let observed = format!("{total} bytes in {count} layers, the largest {largest}");
    let finding = Finding::new("size", observed, rule.value.to_string()).at(&rule.at);
    let SizeRule { max, layer, layers } = rule.value;
    let text = if let Some(max) = max.filter(|max| total > *max) {
        format!("it has {total} bytes; at most {max} are allowed")
    } else if let Some(layer) = layer.filter(|layer| largest > *layer) {
        format!("a layer has {largest} bytes; at most {layer} are allowed")
    } else if let Some(layers) = layers.filter(|layers| count > *layers) {
        format!("it has {count} layers; at most {layers} are allowed")
    } else {
        return finding;
    };
    finding.refused(Code::Size, text, "use a smaller image")
}

fn labels(rule: &Written<Vec<LabelRule>>, config: &ImageConfig) -> Finding {
    let wrong = rule
        .value
        .iter()
        .find(|rule| config.labels.get(&*rule.key).is_none_or(|value| !glob(&rule.value, value)));
    let observed: Vec<String> = rule
        .value
        .iter()
        .map(|rule| match config.labels.get(&*rule.key) {
            Some(value) => format!("{}={}", rule.key, clip(value)),
            None => format!("no {}", rule.key),
        })
        .collect();
    let finding = Finding::new("label", observed.join(", "), words(&rule.value)).at(&rule.at);
    let Some(wrong) = wrong else { return finding };
    let text = match config.labels.get(&*wrong.key) {
        Some(value) => format!("its label {} is {:?}, not {}", wrong.key, clip(value), wrong.value),
        None => format!("it has no label {}", wrong.key),
    };
    finding.refused(Code::Label, text, "build it with the labels that the policy asks for")
}

fn age(
    rule: &Written<AgeRule>,
    content: &Content,
    config: &ImageConfig,
    index: Option<&Manifest>,
    now: Timestamp,
) -> Finding {
    let AgeRule { max, clocks, ignore_before } = &rule.value;
    let annotated = || {
        let written = |manifest: &Manifest| manifest.annotations.get(CREATED)?.parse::<Timestamp>().ok();
        written(&content.manifest).or_else(|| index.and_then(written))
    };
    let latest = now.checked_add(AHEAD).unwrap_or(Timestamp::MAX);
    let told = clocks.iter().find_map(|clock| {
        let date = match clock {
            AgeClock::Annotation => annotated(),
            AgeClock::Config => config.created,
            AgeClock::FirstSeen => content.first_seen,
        };
        Some((*clock, date.filter(|date| date >= ignore_before && *date <= latest)?))
    });
    let expected = rule.value.to_string();
    let Some((clock, date)) = told else {
        return Finding::new("age", "unknown", expected).at(&rule.at).refused(
            Code::Age,
            format!("its age is unknown: no date by {} that can be believed", clock_words(clocks)),
            "use an image that says when it was built",
        );
    };
    let day = date.strftime("%Y-%m-%d").to_string();
    let finding = Finding::new("age", format!("{day} ({})", clock.as_str()), expected).at(&rule.at);
    let end = date.checked_add(*max).unwrap_or(Timestamp::MAX);
    if now <= end {
        return Finding { until: Some(end), ..finding };
    }
    let days = now.duration_since(date).as_secs() / 86_400;
    finding.refused(
        Code::Age,
        format!("it is {days} days old ({day} by {}); at most {} are allowed", clock.as_str(), span(*max)),
        "use a newer build of it",
    )
}

fn user(rule: &Written<UserRule>, config: &ImageConfig) -> Finding {
    let UserRule { min_uid, names } = &rule.value;
    let who = config.user.split(':').next().unwrap_or_default();
    let shown = if config.user.is_empty() { "root (no user is set)".to_owned() } else { clip(&config.user) };
    let finding = Finding::new("user", shown.clone(), rule.value.to_string()).at(&rule.at);
    if who.is_empty() {
        let shown = if config.user.is_empty() { shown } else { format!("{shown:?}, which is root") };
        return finding.refused(
            Code::UserMinUid,
            format!("it runs as {shown}; uids from {min_uid} on are allowed"),
            "set USER to such a uid in its Dockerfile",
        );
    }
    match uid(who) {
        Some(uid) if uid >= *min_uid => finding,
        Some(uid) => finding.refused(
            Code::UserMinUid,
            format!("it runs as uid {uid}; uids from {min_uid} on are allowed"),
            "set USER to such a uid in its Dockerfile",
        ),
        None if names.iter().any(|name| **name == *who) => finding,
        None => finding.refused(
            Code::UserNamed,
            format!("it runs as {:?}, whose uid cannot be told without unpacking it", clip(who)),
            "set USER to a number in its Dockerfile",
        ),
    }
}

/// A uid as every tool reads it: decimal, without sign or leading zero, at most 2147483647.
fn uid(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|uid| plain && *uid <= UID_MAX)
}

fn base(rule: &Written<BaseRule>, manifest: &Manifest) -> Finding {
    let BaseRule { digests, names } = &rule.value;
    let digest = manifest.annotations.get(BASE_DIGEST).map(|text| (text, text.parse::<Digest>().ok()));
    let name = manifest.annotations.get(BASE_NAME);
    let observed = format!(
        "{}@{}",
        name.map_or_else(|| "?".to_owned(), |name| clip(name)),
        digest.as_ref().map_or_else(|| "?".to_owned(), |(text, _)| clip(text))
    );
    let finding = Finding::new("base", observed, rule.value.to_string()).at(&rule.at);
    let text = match (digest, name) {
        (None, _) => format!("it does not say what it was built on ({BASE_DIGEST})"),
        (Some((text, None)), _) => format!("its base {:?} is no digest", clip(text)),
        (Some((_, Some(digest))), _) if !digests.is_empty() && !digests.contains(&digest) => {
            format!("it was built on {}, which is not an approved base", short(&digest))
        }
        (Some(_), None) if !names.is_empty() => {
            format!("it does not say which image it was built on ({BASE_NAME})")
        }
        (Some(_), Some(name)) if !names.is_empty() && !is_any_of(name, names) => {
            format!("it was built on {}, which is not an approved base", clip(name))
        }
        _ => return finding,
    };
    finding.refused(Code::BaseNotAllowed, text, "build it on an approved base image")
}

fn is_any_of(name: &str, names: &[super::Match]) -> bool {
    let parsed: Option<Name> = name.parse::<crate::oci::Reference>().ok().map(|reference| reference.name);
    parsed.is_some_and(|parsed| names.iter().any(|pattern| pattern.matches(&parsed)))
}

/// Whether a text is a pattern's, in which `*` stands for any run of characters.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    rest.ends_with(last)
}

/// Text from elsewhere, as far as a log or a refusal shows it.
fn clip(text: &str) -> String {
    let mut short: String = text.chars().take(80).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

pub(super) fn words<T: std::fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn clock_words(clocks: &[AgeClock]) -> String {
    clocks.iter().map(|clock| clock.as_str()).collect::<Vec<_>>().join(", ")
}

/// A duration as people write it.
pub(super) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 86_400, seconds % 86_400) {
        (days, 0) if days > 0 => format!("{days}d"),
        _ if seconds.is_multiple_of(3600) && seconds > 0 => format!("{}h", seconds / 3600),
        _ if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        _ => format!("{seconds}s"),
    }
}

impl Artifacts {
    fn allows(&self, kind: &str) -> bool {
        match self {
            Self::Allow => true,
            Self::Deny => false,
            Self::Types(types) => types.iter().any(|allowed| allowed.eq_ignore_ascii_case(kind)),
        }
    }
}

impl PlatformRule {
    /// Whether an image for this platform runs where the rule says, in the words runtimes compare.
    pub(super) fn matches(&self, found: &Platform) -> bool {
        let (architecture, variant) = normal(&found.architecture, found.variant.as_deref());
        let (wanted, wanted_variant) = normal(&self.architecture, self.variant.as_deref());
        self.os.eq_ignore_ascii_case(&found.os)
            && wanted == architecture
            && (self.variant.is_none() || wanted_variant == variant)
    }
}

/// As containerd brings platforms into one form.
fn normal(architecture: &str, variant: Option<&str>) -> (String, Option<String>) {
    let architecture = architecture.to_ascii_lowercase();
    let variant = variant.map(str::to_ascii_lowercase).filter(|variant| !variant.is_empty());
    let own = |text: &str| text.to_owned();
    match (architecture.as_str(), variant.as_deref()) {
        ("i386", _) => (own("386"), None),
        ("x86_64" | "x86-64" | "amd64", variant) => (own("amd64"), variant.filter(|v| *v != "v1").map(own)),
        ("aarch64" | "arm64", None | Some("8" | "v8")) => (own("arm64"), None),
        ("armhf", _) | ("arm", None | Some("7")) => (own("arm"), Some(own("v7"))),
        ("armel", _) => (own("arm"), Some(own("v6"))),
        ("aarch64", variant) => (own("arm64"), variant.map(own)),
        _ => (architecture, variant),
    }
}

impl std::fmt::Display for AgeRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let from = self.ignore_before.strftime("%Y-%m-%d");
        write!(f, "at most {} by {}, dates from {from} on", span(self.max), clock_words(&self.clocks))
    }
}

impl std::fmt::Display for Artifacts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Allow => f.write_str("allow"),
            Self::Deny => f.write_str("deny"),
            Self::Types(types) => f.write_str(&types.join(", ")),
        }
    }
}

impl std::fmt::Display for BaseRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.names.iter().map(ToString::to_string);
        let all: Vec<String> = names.chain(self.digests.iter().map(short)).collect();
        f.write_str(if all.is_empty() { "a base digest" } else { "built on " })?;
        f.write_str(&all.join(", "))
    }
}

impl std::fmt::Display for LabelRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &*self.value {
            "*" => f.write_str(&self.key),
            value => write!(f, "{}={value}", self.key),
        }
    }
}

impl std::fmt::Display for PlatformRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl std::fmt::Display for SizeRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.max.map(|max| format!("at most {max} bytes")));
        parts.extend(self.layer.map(|layer| format!("layers of at most {layer} bytes")));
        parts.extend(self.layers.map(|layers| format!("at most {layers} layers")));
        f.write_str(&parts.join(", "))
    }
}

impl std::fmt::Display for UserRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "uid {} to {UID_MAX}", self.min_uid)?;
        if self.names.is_empty() { Ok(()) } else { write!(f, ", or {}", self.names.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_is_what_every_tool_reads_as_the_same_number() {
        for (text, read) in [("0", Some(0)), ("10001", Some(10_001)), ("2147483647", Some(UID_MAX))] {
            assert_eq!(uid(text), read, "{text}");
        }
        for text in [
            "2147483648",
            "4294967296",
            "4294967297",
            "-1",
            "+1",
            "01",
            "1 ",
            " 1",
            "1e3",
            "0x1",
            "",
            "١",
            "app",
        ] {
            assert_eq!(uid(text), None, "{text}");
        }
    }

    #[test]
    fn a_star_in_a_label_stands_for_any_run() {
        for (pattern, text) in
            [("*", ""), ("a*", "abc"), ("*c", "abc"), ("a*c", "ac"), ("a*b*c", "axbxc"), ("x", "x")]
        {
            assert!(glob(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in
            [("a*", "ba"), ("a*c", "acb"), ("a*b*c", "ac"), ("x", "xy"), ("", "x"), ("a*a", "a")]
        {
            assert!(!glob(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn platforms_are_compared_as_runtimes_compare_them() {
        let rule = |text: &str| {
            let mut parts = text.split('/').map(Arc::from);
            PlatformRule {
                os: parts.next().unwrap(),
                architecture: parts.next().unwrap(),
                variant: parts.next(),
            }
        };
        let platform = |text: &str| {
            let mut parts = text.split('/').map(str::to_owned);
            let (os, architecture) = (parts.next().unwrap(), parts.next().unwrap());
            Platform { os, architecture, variant: parts.next(), os_version: None }
        };
        for (written, found) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/amd64", "linux/x86_64"),
            ("linux/arm64", "linux/arm64/v8"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm/v7", "linux/arm"),
            ("linux/arm", "linux/arm/v6"),
            ("linux/arm64", "Linux/AARCH64"),
        ] {
            assert!(rule(written).matches(&platform(found)), "{written} {found}");
        }
        for (written, found) in [
            ("linux/amd64", "windows/amd64"),
            ("linux/amd64", "linux/arm64"),
            ("linux/arm/v7", "linux/arm/v6"),
        ] {
            assert!(!rule(written).matches(&platform(found)), "{written} {found}");
        }
    }
}

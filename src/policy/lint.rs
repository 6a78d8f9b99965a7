//! What is allowed to be written and was probably not meant.

mod loosened;

use std::collections::HashSet;
use std::sync::Arc;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::compiled::Owner;
use super::{AgeClock, Exception, Policy, Rules, Source, SourceRule};
use crate::oci::Registry;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Level {
    /// The policy does not do what it says.
    Error,
    /// It does, and that may surprise.
    Warning,
}

impl Level {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// The kinds of findings: the word is the docs anchor too (`docs/policy.md#lint-multi_tenant_host`).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(missing_docs, reason = "docs/policy.md explains each under the word as_str gives")]
pub enum Lint {
    AgeOn1970,
    AllowDenied,
    ClientUnknown,
    Conflict,
    ExceptionExpiring,
    MultiTenantHost,
    NarrowerDropsCheck,
    NoVersionTags,
    PinDenied,
    RequireLoosened,
    Schema,
    SourceWithoutTest,
    UpstreamCredentialsOpen,
    UserOnOfficial,
}

impl Lint {
    /// Every kind.
    pub const ALL: [Self; 14] = [
        Self::AgeOn1970,
        Self::AllowDenied,
        Self::ClientUnknown,
        Self::Conflict,
        Self::ExceptionExpiring,
        Self::MultiTenantHost,
        Self::NarrowerDropsCheck,
        Self::NoVersionTags,
        Self::PinDenied,
        Self::RequireLoosened,
        Self::Schema,
        Self::SourceWithoutTest,
        Self::UpstreamCredentialsOpen,
        Self::UserOnOfficial,
    ];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AgeOn1970 => "age_on_1970",
            Self::AllowDenied => "allow_denied",
            Self::ClientUnknown => "client_unknown",
            Self::Conflict => "conflict",
            Self::ExceptionExpiring => "exception_expiring",
            Self::MultiTenantHost => "multi_tenant_host",
            Self::NarrowerDropsCheck => "narrower_drops_check",
            Self::NoVersionTags => "no_version_tags",
            Self::PinDenied => "pin_denied",
            Self::RequireLoosened => "require_loosened",
            Self::Schema => "schema",
            Self::SourceWithoutTest => "source_without_test",
            Self::UpstreamCredentialsOpen => "upstream_credentials_open",
            Self::UserOnOfficial => "user_on_official",
        }
    }

    /// The kind that a word names.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|lint| lint.as_str() == word)
    }

    /// How bad it is.
    pub fn level(self) -> Level {
        match self {
            Self::ClientUnknown | Self::Conflict | Self::Schema => Level::Error,
            Self::AgeOn1970
            | Self::AllowDenied
            | Self::ExceptionExpiring
            | Self::MultiTenantHost
            | Self::NarrowerDropsCheck
            | Self::NoVersionTags
            | Self::PinDenied
            | Self::RequireLoosened
            | Self::SourceWithoutTest
            | Self::UpstreamCredentialsOpen
            | Self::UserOnOfficial => Level::Warning,
        }
    }

    /// Why it matters.
    pub fn why(self) -> &'static str {
        match self {
            Self::AgeOn1970 => "reproducible builds are stamped 1970, whenever they were built",
            Self::AllowDenied => "deny beats allow, so this entry allows nothing",
            Self::ClientUnknown => "no [[client]] of the gateway has that name, so nobody is meant",
            Self::Conflict => "the gateway does not load a policy that contradicts itself",
            Self::ExceptionExpiring => "from then on the pull is refused again",
            Self::MultiTenantHost => "anybody can publish there under a name of their own",
            Self::NarrowerDropsCheck => {
                "a narrower source replaces the broader one and starts again from [require]"
            }
            Self::NoVersionTags => "images there carry no version tags, so no tag can ever match",
            Self::PinDenied => "deny beats a pin, so the tag stays refused",
            Self::RequireLoosened => "[require] reads as what holds everywhere, and here it does not",
            Self::Schema => "the gateway does not load such a file; the former policy goes on",
            Self::SourceWithoutTest => "a change that breaks it is found by whoever pulls next",
            Self::UpstreamCredentialsOpen => {
                "whoever reaches the gateway pulls private images with the gateway's credentials"
            }
            Self::UserOnOfficial => "official images start as root and drop it themselves",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// Its kind.
    pub lint: Lint,
    /// Where: `policy.toml:41`.
    pub at: Arc<str>,
    /// What was found.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

/// What `pullgate.toml` says that a policy leans on.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The names of its `[[client]]` tables.
    pub clients: Vec<Arc<str>>,
    /// The registries it has credentials for.
    pub credentials: Vec<Registry>,
}

/// Registries where anybody can have a name.
const MULTI_TENANT: [&str; 10] = [
    "codeberg.org",
    "docker.io",
    "docker.pkg.github.com",
    "gcr.io",
    "ghcr.io",
    "public.ecr.aws",
    "quay.io",
    "registry.gitlab.com",
    "registry.heroku.com",
    "ttl.sh",
];

/// Publishers without version tags, and the tags they have instead.
const UNVERSIONED: [(&str, &str, [&str; 4]); 2] = [
    ("gcr.io", "distroless/", ["latest", "nonroot", "debug", "debug-nonroot"]),
    ("cgr.dev", "chainguard/", ["latest", "latest-dev", "latest-fips", "latest-dev-fips"]),
];

impl Policy {
    /// What in this policy was probably not meant, in file order. `rules` are those it was made of;
    /// without `surroundings` nothing is said about clients and credentials.
    pub fn findings(
        &self,
        rules: &Rules,
        surroundings: Option<&Surroundings>,
        now: Timestamp,
    ) -> Vec<Finding> {
        let mut findings = Vec::new();
        let tested: HashSet<&str> =
            rules.tests.iter().filter_map(|test| Some(self.owner_of(&test.pull.name)?.id())).collect();
        for rule in &rules.sources {
            let Some(source) = self.sources().find(|source| source.id() == &*rule.id) else { continue };
            findings.extend(multi_tenant(rule));
            findings.extend(unversioned(rule, source));
            findings.extend(user_on_official(rules, rule));
            findings.extend(age_on_1970(rules, rule));
            findings.extend(allow_denied(source));
            loosened::of_require(rules, rule, source, &mut findings);
            loosened::of_broader(rules, rule, &mut findings);
            if !tested.contains(&*rule.id) {
                findings.push(Finding {
                    lint: Lint::SourceWithoutTest,
                    at: rule.at.clone(),
                    what: format!("no [[test]] pulls anything of the source {}", rule.id),
                    remedy: "write one [[test]] of what it allows and one of what it refuses".to_owned(),
                });
            }
            if let Some(surroundings) = surroundings {
                findings.extend(credentials_open(rule, source, surroundings));
                if let Some(clients) = &rule.leaves.clients {
                    findings.extend(unknown_clients(&clients.value, &clients.at, surroundings));
                }
            }
        }
        findings.extend(rules.exceptions.iter().filter_map(|exception| expiring(exception, now)));
        for pin in &rules.pins {
            if let (Some(tag), Some(source)) = (&pin.tag, self.owner_of(&pin.name))
                && let Some(pattern) = source.denied(tag)
            {
                findings.push(Finding {
                    lint: Lint::PinDenied,
                    at: pin.at.clone(),
                    what: format!(
                        "{}:{tag} is pinned, and {pattern} ({}) denies it",
                        pin.name, source.deny.at
                    ),
                    remedy: format!(
                        "pin {} without a tag, or give its source a deny list of its own",
                        pin.name
                    ),
                });
            }
        }
        if let Some(surroundings) = surroundings {
            if let Some(clients) = &rules.require.clients {
                findings.extend(unknown_clients(&clients.value, &clients.at, surroundings));
            }
            for test in &rules.tests {
                findings.extend(unknown_clients(test.client.as_slice(), &test.at, surroundings));
            }
        }
        findings.sort_by_key(|finding| (line(&finding.at), finding.lint));
        findings.dedup();
        findings
    }

    pub(super) fn owner_of(&self, name: &crate::oci::Name) -> Option<&Source> {
        match self.owner(name) {
            Owner::Source(source) => Some(source),
            Owner::None | Owner::Unlisted(_) => None,
        }
    }
}

/// The line of `policy.toml:41`.
fn line(at: &str) -> usize {
    at.rsplit(':').next().and_then(|line| line.parse().ok()).unwrap_or(0)
}

fn multi_tenant(rule: &SourceRule) -> Option<Finding> {
    let pattern = rule.pattern.to_string();
    let (registry, rest) = pattern.split_once('/')?;
    let shared = MULTI_TENANT.contains(&registry) || registry.ends_with("-docker.pkg.dev");
    (shared && rest.starts_with('*')).then(|| Finding {
        lint: Lint::MultiTenantHost,
        at: rule.at.clone(),
        what: format!("{pattern} trusts every publisher of {registry}"),
        remedy: format!("narrow it to those you mean: {registry}/<organisation>/**"),
    })
}

fn unversioned(rule: &SourceRule, source: &Source) -> Option<Finding> {
    let pattern = rule.pattern.to_string();
    let (registry, rest) = pattern.split_once('/')?;
    let (_, publisher, tags) =
        UNVERSIONED.iter().find(|(host, publisher, _)| *host == registry && rest.starts_with(publisher))?;
    let published = |tag: &&str| tag.parse().is_ok_and(|tag| source.allowed(&tag).is_some());
    let literal = source.allow().iter().any(super::Pattern::is_literal);
    if source.allow().is_empty() || literal || tags.iter().any(published) {
        return None;
    }
    Some(Finding {
        lint: Lint::NoVersionTags,
        at: source.allow.at.clone(),
        what: format!(
            "{registry}/{publisher}… publishes {}, and none of {} matches them",
            tags.join(", "),
            source.allow_words
        ),
        remedy: "write tags = { allow = [] } and digests = \"any\", and pull by digest; or pin the digests"
            .to_owned(),
    })
}

fn user_on_official(rules: &Rules, rule: &SourceRule) -> Option<Finding> {
    let user = rule.leaves.user.as_ref().or(rules.require.user.as_ref())?;
    let official = rule.pattern.to_string().starts_with("docker.io/library/");
    (official && user.value.min_uid > 0).then(|| Finding {
        lint: Lint::UserOnOfficial,
        at: user.at.clone(),
        what: format!("`user` refuses nearly every official image, which the source {} owns", rule.id),
        remedy: "ask it of your own images, built on these; for these write user = { min_uid = 0 }"
            .to_owned(),
    })
}

fn age_on_1970(rules: &Rules, rule: &SourceRule) -> Option<Finding> {
    let age = rule.leaves.age.as_ref().or(rules.require.age.as_ref())?;
    let pattern = rule.pattern.to_string();
    let stamped =
        UNVERSIONED.iter().any(|(host, publisher, _)| pattern.starts_with(&format!("{host}/{publisher}")));
    let counted = age.value.ignore_before <= Timestamp::UNIX_EPOCH;
    let unknown = !age.value.clocks.contains(&AgeClock::FirstSeen);
    let what = match (counted, unknown) {
        (true, _) => "`ignore_before` lets dates of 1970 count, so such images are always too old",
        (false, true) if stamped => "no clock knows the age of these images, so they are refused",
        _ => return None,
    };
    Some(Finding {
        lint: Lint::AgeOn1970,
        at: age.at.clone(),
        what: format!("the source {}: {what}", rule.id),
        remedy: "end `clock` with \"first_seen\", and leave `ignore_before` at 2000-01-01".to_owned(),
    })
}

fn expiring(exception: &Exception, now: Timestamp) -> Option<Finding> {
    let end = exception.expires.tomorrow().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp();
    let soon = SignedDuration::from_hours(24 * 14);
    let what = match end.duration_since(now) {
        left if left <= SignedDuration::ZERO => format!("expired on {}", exception.expires),
        left if left <= soon => format!("expires on {}", exception.expires),
        _ => return None,
    };
    Some(Finding {
        lint: Lint::ExceptionExpiring,
        at: exception.at.clone(),
        what: format!("the exception {} for {} {what}", exception.id, exception.image),
        remedy: format!("remove it, or have it approved again ({})", exception.ticket),
    })
}

fn allow_denied(source: &Source) -> Option<Finding> {
    let dead: Vec<String> = source
        .allow()
        .iter()
        .filter_map(super::Pattern::literal)
        .filter_map(|tag| Some(format!("{tag} (deny: {})", source.denied(&tag)?)))
        .collect();
    (!dead.is_empty()).then(|| Finding {
        lint: Lint::AllowDenied,
        at: source.allow.at.clone(),
        what: format!("the source {} allows what it denies: {}", source.id(), dead.join(", ")),
        remedy: "remove it from tags.allow, or write a tags.deny for this source that lacks the pattern"
            .to_owned(),
    })
}

fn credentials_open(rule: &SourceRule, source: &Source, surroundings: &Surroundings) -> Option<Finding> {
    let registry = rule.pattern.registry();
    (surroundings.credentials.contains(registry) && source.clients().is_none()).then(|| Finding {
        lint: Lint::UpstreamCredentialsOpen,
        at: rule.at.clone(),
        what: format!(
            "the gateway has credentials for {registry}, and the source {} serves everybody",
            rule.id
        ),
        remedy: "name those who may with clients = [\"…\"]".to_owned(),
    })
}

fn unknown_clients(names: &[Arc<str>], at: &Arc<str>, surroundings: &Surroundings) -> Option<Finding> {
    let unknown: Vec<&str> =
        names.iter().filter(|name| !surroundings.clients.contains(name)).map(|name| &**name).collect();
    (!unknown.is_empty()).then(|| {
        let known: Vec<&str> = surroundings.clients.iter().map(|name| &**name).collect();
        Finding {
            lint: Lint::ClientUnknown,
            at: at.clone(),
            what: format!("unknown client {}", unknown.join(", ")),
            remedy: if known.is_empty() {
                "write a [[client]] table of that name into pullgate.toml".to_owned()
            } else {
                format!("correct the name (known: {}), or write its [[client]] table", known.join(", "))
            },
        }
    })
}

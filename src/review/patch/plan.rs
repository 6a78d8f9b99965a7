//! What each outcome writes into the policy file, and against which refusals it helps.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use toml::de::{DeTable, DeValue};

use super::sheet::{Sheet, list, quoted};
use super::{Outcome, OutcomeKind, PatchError};
use crate::oci::{Algorithm, Digest, Reference, Tag};
use crate::policy::{Code, Leaves, Policy, Rules, Softenable, Source};

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Tables to add, in this order.
    pub(super) tables: Vec<(&'static str, Fields)>,
    /// The pattern to add to what this source allows.
    pub(super) allow: Option<(String, String)>,
    /// What its test supposes.
    pub(super) facts: Option<String>,
    /// When its test is judged.
    pub(super) at: Option<String>,
    /// What to know before it is applied.
    pub(super) warnings: Vec<String>,
}

pub(super) type Fields = Vec<(&'static str, String)>;

/// What a plan is made for.
pub(super) struct Case<'a> {
    pub(super) reference: &'a Reference,
    /// What the latest decision resolved to.
    pub(super) digest: Option<Digest>,
    /// Everything it was refused for, *the* reason first.
    pub(super) codes: &'a [Code],
    pub(super) policy: &'a Policy,
    pub(super) rules: &'a Rules,
    pub(super) now: Timestamp,
}

fn unavailable<T>(why: impl Into<String>, instead: impl Into<String>) -> Result<T, PatchError> {
    Err(PatchError::Unavailable { why: why.into(), instead: instead.into() })
}

/// Whether an outcome may help against a code, whatever the policy says.
pub(super) fn helps(kind: OutcomeKind, code: Code) -> Result<(), PatchError> {
    let words = |why: &str, instead: &str| unavailable(format!("{code}: {why}"), instead);
    match code {
        Code::NameInvalid | Code::NameConflict | Code::MethodUnsupported => {
            return words(
                "the request itself is wrong, no policy makes it right",
                "correct the reference where it is used",
            );
        }
        Code::Recall if kind == OutcomeKind::Recall => {
            return words("it is recalled already", "change the [[recall]] that is there");
        }
        Code::SourceUnknown if kind == OutcomeKind::Recall => {
            return words("nothing of it can be pulled, recalled or not", "leave it as it is");
        }
        _ => {}
    }
    if kind == OutcomeKind::Recall {
        return Ok(());
    }
    match code {
        Code::ClientUnknown => words(
            "the gateway does not know who asked",
            "add a [[client]] to the gateway's configuration, or correct the client's token",
        ),
        Code::ClientNotAllowed => {
            words("its source serves other clients", "add the client to `clients` of that [[source]]")
        }
        Code::ClientRate => {
            words("the client asked too often", "raise [limits] requests, or let it ask less")
        }
        Code::Recall => words(
            "a recall beats everything",
            "pull what replaces it, or take the [[recall]] out under a new revision",
        ),
        Code::ClosureOutside | Code::PossessionMissing => words(
            "nothing that is permitted leads to it in that repository",
            "pull the image that contains it, and review what that is refused for",
        ),
        Code::FactsUnavailable => {
            words("the facts could not be had", "see to the upstream, and pull it again")
        }
        Code::SourceUnknown => match kind {
            OutcomeKind::Allow => Ok(()),
            OutcomeKind::Except | OutcomeKind::Pin | OutcomeKind::Recall => words(
                "no source owns the repository, which cannot be waived",
                "allow it, which adds a [[source]]",
            ),
        },
        Code::TagDenied => match kind {
            OutcomeKind::Except => Ok(()),
            OutcomeKind::Allow | OutcomeKind::Pin | OutcomeKind::Recall => words(
                "deny beats allow and pin",
                "name an exact version, pull it by a digest that is pinned without its tag, or waive it for a while",
            ),
        },
        Code::TagNotAllowed => Ok(()),
        Code::DigestUnknown | Code::DigestNotListed => match kind {
            OutcomeKind::Allow => {
                words("no tag stands for it", "pin the digest, or allow the tag that leads to it")
            }
            OutcomeKind::Except | OutcomeKind::Pin | OutcomeKind::Recall => Ok(()),
        },
        Code::TagMoved | Code::Hold => match kind {
            OutcomeKind::Allow => {
                words("its tag is allowed already", "pin the digest after review, or waive it for a while")
            }
            OutcomeKind::Except | OutcomeKind::Pin | OutcomeKind::Recall => Ok(()),
        },
        _ => match kind {
            OutcomeKind::Except => Ok(()),
            OutcomeKind::Allow | OutcomeKind::Pin | OutcomeKind::Recall => words(
                "what is in the image is judged, whoever names it",
                "have it rebuilt, change the rule of its source, or waive it for a while",
            ),
        },
    }
}

impl Case<'_> {
    pub(super) fn plan(&self, outcome: &Outcome) -> Result<Plan, PatchError> {
        for code in self.codes {
            helps(outcome.kind(), *code)?;
        }
        match outcome {
            Outcome::Allow { pattern } => self.allow(pattern.as_deref()),
            Outcome::Except { .. } => self.except(outcome),
            Outcome::Pin { digest } => self.pin(*digest),
            Outcome::Recall { id, reason, replace } => self.recall(id.as_deref(), reason, replace.as_deref()),
        }
    }

    fn allow(&self, pattern: Option<&str>) -> Result<Plan, PatchError> {
        let name = &self.reference.name;
        let mut plan = Plan::default();
        let pattern = match (&self.reference.tag, self.reference.digest) {
            (Some(tag), None) => Some(fitting(pattern, tag)?),
            _ => None,
        };
        if let Some(source) = self.policy.source_of(name) {
            let Some(pattern) = pattern else {
                return unavailable(
                    "no tag stands for it",
                    "pin the digest, or allow the tag that leads to it",
                );
            };
            let place = source.pattern().map(ToString::to_string).unwrap_or_default();
            if place != name.to_string() {
                plan.warnings.push(format!(
                    "{pattern} is then allowed in every repository of source {} ({place}); a pin allows the tag in this one alone",
                    source.id()
                ));
            }
            plan.allow = Some((source.id().to_owned(), pattern));
            return Ok(plan);
        }
        let mut fields = vec![("id", quoted(&self.source_id())), ("match", quoted(&name.to_string()))];
        match pattern {
            Some(pattern) => fields.push(("tags", format!("{{ allow = {} }}", list([pattern])))),
            None => {
                fields.push(("tags", "{ allow = [] }".to_owned()));
                fields.push(("digests", quoted("listed")));
            }
        }
        plan.tables.push(("source", fields));
        if let Some(digest) = self.reference.digest {
            plan.tables.push((
                "pin",
                vec![("image", quoted(&name.to_string())), ("digest", quoted(&digest.to_string()))],
            ));
        }
        Ok(plan)
    }

    /// A name for a new source that no other has.
    fn source_id(&self) -> String {
        let repository = self.reference.name.repository().as_str();
        let mut id: String = repository
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' })
            .collect();
        id.truncate(56);
        let taken = |id: &str| id == "unlisted" || self.rules.sources.iter().any(|source| &*source.id == id);
        let mut numbered = id.clone();
        let mut number = 2;
        while taken(&numbered) {
            numbered = format!("{id}-{number}");
            number += 1;
        }
        numbered
    }

    fn pin(&self, digest: Option<Digest>) -> Result<Plan, PatchError> {
        let Some(digest) = self.reference.digest.or(digest).or(self.digest) else {
            return Err(PatchError::Input(
                "the gateway did not look up where the tag leads; enter the digest that somebody reviewed"
                    .to_owned(),
            ));
        };
        let image = Reference { digest: None, ..self.reference.clone() };
        let image = match &image.tag {
            Some(_) => image.to_string(),
            None => image.name.to_string(),
        };
        let fields = vec![("image", quoted(&image)), ("digest", quoted(&digest.to_string()))];
        Ok(Plan { tables: vec![("pin", fields)], ..Plan::default() })
    }

    fn except(&self, outcome: &Outcome) -> Result<Plan, PatchError> {
        let Outcome::Except { until, ticket, requested_by, approved_by, reason } = outcome else {
            return Ok(Plan::default());
        };
        let mut waive: Vec<Softenable> = Vec::new();
        for code in self.codes {
            let narrowest = Softenable::ALL
                .into_iter()
                .filter(|check| check.codes().contains(code))
                .min_by_key(|check| check.codes().len());
            let Some(check) = narrowest else {
                return unavailable(format!("{code} cannot be waived by anybody"), "choose another outcome");
            };
            if !waive.contains(&check) {
                waive.push(check);
            }
        }
        waive.sort();
        for (what, text) in [
            ("ticket", ticket),
            ("reason", reason),
            ("requested by", requested_by),
            ("approved by", approved_by),
        ] {
            if text.trim().is_empty() {
                return Err(PatchError::Input(format!(
                    "`{what}` is missing: an exception says who, why and where it was decided"
                )));
            }
        }
        let today = self.now.to_zoned(TimeZone::UTC).date();
        let id = self.free_id("EX", |id| self.rules.exceptions.iter().any(|other| &*other.id == id));
        let fields = vec![
            ("id", quoted(&id)),
            ("image", quoted(&self.reference.to_string())),
            ("waive", list(waive.iter().map(|check| check.as_str()))),
            ("reason", quoted(reason)),
            ("ticket", quoted(ticket)),
            ("requested_by", quoted(requested_by)),
            ("approved_by", quoted(approved_by)),
            ("approved", today.to_string()),
            ("expires", until.to_string()),
        ];
        let facts = self.source().and_then(|(source, leaves)| self.facts(source, leaves));
        Ok(Plan {
            tables: vec![("exception", fields)],
            facts,
            at: Some(today.to_string()),
            ..Plan::default()
        })
    }

    fn recall(&self, id: Option<&str>, reason: &str, replace: Option<&str>) -> Result<Plan, PatchError> {
        if reason.trim().is_empty() {
            return Err(PatchError::Input("`reason` is missing: refusals show it".to_owned()));
        }
        let id = match id {
            Some(id) => id.to_owned(),
            None => self.free_id("RC", |id| self.rules.recalls.iter().any(|other| &*other.id == id)),
        };
        let mut fields = vec![("id", quoted(&id)), ("reason", quoted(reason))];
        match (self.reference.digest, &self.reference.tag) {
            (Some(digest), _) if digest.algorithm() != Algorithm::Sha256 => {
                return unavailable(format!("{digest} is no sha256"), "recall it by the sha256 of its bytes");
            }
            (Some(digest), _) => fields.push(("digests", list([digest.to_string()]))),
            (None, Some(_)) => fields.push(("images", list([self.reference.to_string()]))),
            (None, None) => fields.push(("images", list([self.reference.name.to_string()]))),
        }
        if let Some(replace) = replace {
            fields.push(("replace", quoted(replace)));
        }
        let warnings = vec!["containers that run already are not stopped, and not seen here".to_owned()];
        Ok(Plan { tables: vec![("recall", fields)], warnings, ..Plan::default() })
    }

    fn free_id(&self, prefix: &str, taken: impl Fn(&str) -> bool) -> String {
        let day = self.now.strftime("%Y%m%d");
        let mut number = 1;
        loop {
            let id = format!("{prefix}-{day}-{number}");
            if !taken(&id) {
                return id;
            }
            number += 1;
        }
    }

    fn source(&self) -> Option<(&Source, &Leaves)> {
        let source = self.policy.source_of(&self.reference.name)?;
        let rule = self.rules.sources.iter().find(|rule| &*rule.id == source.id())?;
        Some((source, &rule.leaves))
    }

    /// What a test supposes so that it fails without the exception.
    fn facts(&self, source: &Source, own: &Leaves) -> Option<String> {
        let code = self.codes.first()?;
        let require = &self.rules.require;
        let day = |time: Timestamp| time.to_zoned(TimeZone::UTC).date().to_string();
        let before = |duration| self.now.checked_sub(SignedDuration::try_from(duration).ok()?).ok();
        let fact = match code {
            Code::Age => {
                let rule = own.age.as_ref().or(require.age.as_ref())?;
                let old = before(rule.value.max)?.checked_sub(SignedDuration::from_hours(72)).ok()?;
                format!("created = {}", quoted(&day(old)))
            }
            Code::ArtifactNotAllowed => format!("artifact = {}", quoted("application/vnd.example.other")),
            Code::Hold => {
                source.hold()?;
                format!("first_seen = {}", quoted(&day(self.now)))
            }
            Code::Label => "labels = {}".to_owned(),
            Code::PlatformNotAllowed => {
                let listed = &own.platforms.as_ref().or(require.platforms.as_ref())?.value;
                let other =
                    [("linux", "s390x"), ("linux", "riscv64"), ("windows", "amd64"), ("plan9", "386")]
                        .into_iter()
                        .find(|(os, arch)| {
                            !listed.iter().any(|rule| &*rule.os == *os && &*rule.architecture == *arch)
                        })?;
                format!("platform = {}", quoted(&format!("{}/{}", other.0, other.1)))
            }
            Code::Size => {
                let max = own.size.as_ref().or(require.size.as_ref())?.value.max?;
                format!("size = {}", quoted(&format!("{}B", max.saturating_add(1))))
            }
            Code::TagMoved => {
                let digest = |digit: &str| quoted(&format!("sha256:{}", digit.repeat(64)));
                format!("locked = {}, digest = {}", digest("1"), digest("2"))
            }
            Code::UserMinUid => format!("user = {}", quoted("0")),
            Code::UserNamed => format!("user = {}", quoted("app")),
            _ => return None,
        };
        Some(format!("{{ {fact} }}"))
    }
}

/// The pattern that is to allow a tag.
fn fitting(pattern: Option<&str>, tag: &Tag) -> Result<String, PatchError> {
    let Some(text) = pattern.map(str::trim).filter(|text| !text.is_empty()) else {
        return Ok(tag.to_string());
    };
    let pattern = crate::policy::Pattern::parse(text).map_err(PatchError::Input)?;
    if pattern.admits(tag) {
        Ok(text.to_owned())
    } else {
        Err(PatchError::Input(format!(
            "{text} does not match {tag}; # is a run of digits, * any run of characters"
        )))
    }
}

/// Adds a pattern to what a source allows: to its own list, or to a copy of the one it inherits.
pub(super) fn allow_more(
    sheet: &mut Sheet<'_>,
    text: &str,
    rules: &Rules,
    source: &Source,
    pattern: &str,
) -> Option<()> {
    let at = rules.sources.iter().position(|rule| &*rule.id == source.id())?;
    let document = DeTable::parse(text).ok()?;
    let table = get(document.get_ref(), "source")?.as_array()?.get(at)?.get_ref().as_table()?;
    let inherited = || {
        let patterns = source.allow().iter().map(|pattern| pattern.as_str().to_owned());
        format!("allow = {}", list(patterns.chain([pattern.to_owned()])))
    };
    let beside =
        table.iter().find(|(key, _)| key.get_ref() == "match").map(|(_, value)| value.span().start)?;
    let beside = text.get(..beside)?.matches('\n').count();
    let Some((_, tags)) = table.iter().find(|(key, _)| key.get_ref() == "tags") else {
        let line = sheet.line(beside)?;
        let width = line.find('=').unwrap_or_default().saturating_sub(1);
        sheet.insert(beside + 1, vec![format!("{:width$} = {{ {} }}", "tags", inherited())]);
        return Some(());
    };
    let found = tags.get_ref().as_table()?;
    if let Some((_, allow)) = found.iter().find(|(key, _)| key.get_ref() == "allow") {
        let patterns = allow.get_ref().as_array()?;
        return match patterns.iter().last() {
            Some(last) => sheet.insert_at(last.span().end, &format!(", {}", quoted(pattern))),
            None => sheet.insert_at(allow.span().start + 1, &quoted(pattern)),
        };
    }
    let span = tags.span();
    if text.get(span.start..)?.starts_with('{') {
        let comma = if found.is_empty() { " " } else { "," };
        return sheet.insert_at(span.start + 1, &format!(" {}{comma}", inherited()));
    }
    // Written as a table of its own, or as dotted keys.
    let header = rules.sources.get(at)?.at.rsplit(':').next()?.parse::<usize>().ok()?.checked_sub(1)?;
    let own = (header..sheet.end("source", header))
        .find(|at| sheet.line(*at).is_some_and(|line| line.trim() == "[source.tags]"));
    match own {
        Some(own) => sheet.insert(own + 1, vec![inherited()]),
        None => sheet.insert(beside + 1, vec![format!("tags.{}", inherited())]),
    }
    Some(())
}

fn get<'v, 't>(table: &'v DeTable<'t>, key: &str) -> Option<&'v DeValue<'t>> {
    table.iter().find(|(found, _)| found.get_ref() == key).map(|(_, value)| value.get_ref())
}

//! Outcomes of a review that are differences to the policy file. Nobody edits the file here: a patch is
//! shown, and somebody applies it where the file is kept.

mod plan;
mod sheet;

use jiff::Timestamp;
use jiff::civil::Date;

use self::plan::{Case, Plan};
use self::sheet::Sheet;
use super::judge::{Compiled, Judge};
use super::values::{Group, GroupKind};
use crate::oci::{Digest, Reference};
use crate::policy::{Code, Given, Level, PolicyTest, Verdict};

/// What shall become of a group of blocked pulls.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The reference is allowed from now on.
    Allow {
        /// The pattern that allows its tag; the literal tag when absent.
        pattern: Option<String>,
    },
    /// Checks that it fails are waived until a date.
    Except {
        /// The last day, in UTC; at most 90 days from now.
        until: Date,
        /// Where that was decided.
        ticket: String,
        /// Who asked.
        requested_by: String,
        /// Who agreed; somebody else.
        approved_by: String,
        /// Why.
        reason: String,
    },
    /// A person vouches for a digest.
    Pin {
        /// Which; what the group's latest decision resolved to when absent.
        digest: Option<Digest>,
    },
    /// It is withdrawn, whatever else is written.
    Recall {
        /// Its name in logs and refusals; made from the date when absent.
        id: Option<String>,
        /// Why.
        reason: String,
        /// What to pull instead.
        replace: Option<String>,
    },
}

impl Outcome {
    /// Which it is.
    pub fn kind(&self) -> OutcomeKind {
        match self {
            Self::Allow { .. } => OutcomeKind::Allow,
            Self::Except { .. } => OutcomeKind::Except,
            Self::Pin { .. } => OutcomeKind::Pin,
            Self::Recall { .. } => OutcomeKind::Recall,
        }
    }
}

/// Which outcome, without its details.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum OutcomeKind {
    /// See [`Outcome::Allow`].
    Allow,
    /// See [`Outcome::Except`].
    Except,
    /// See [`Outcome::Pin`].
    Pin,
    /// See [`Outcome::Recall`].
    Recall,
}

impl OutcomeKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Allow, Self::Except, Self::Pin, Self::Recall];

    /// The closed word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Except => "except",
            Self::Pin => "pin",
            Self::Recall => "recall",
        }
    }

    /// The kind of a word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// A change of the policy file that was tried: it loads, lint finds no new error, its test passes, and
/// what was refused gets the verdict that the outcome promises.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Patch {
    /// The file it is for.
    pub file: String,
    /// The unified difference to the file as it is, for `git apply`; its `[[test]]` is in it.
    pub diff: String,
    /// The `[[test]]` that goes with it.
    pub test: String,
    /// What the file says then.
    pub text: String,
    /// What the policy says differently then, a sentence each.
    pub changes: Vec<String>,
    /// What else it opens, what it leaves open, and what lint finds that it did not before.
    pub warnings: Vec<String>,
}

/// Why there is no patch.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PatchError {
    /// Something entered does not fit.
    #[error("{0}")]
    Input(String),
    /// The policy file cannot be used as it is.
    #[error("the policy file cannot be patched: {0}")]
    Policy(String),
    /// This outcome does not help against this refusal.
    #[error("{why}; {instead}")]
    Unavailable {
        /// Why not.
        why: String,
        /// What to do instead.
        instead: String,
    },
}

/// Which outcomes may help against the group's refusal, and why the others cannot. Whether one does
/// takes the policy file: [`propose`].
pub fn outcomes(group: &Group) -> Vec<(OutcomeKind, Result<(), PatchError>)> {
    let may = |kind| {
        pulled(group)?;
        codes(group).into_iter().try_for_each(|code| plan::helps(kind, code))
    };
    OutcomeKind::ALL.into_iter().map(|kind| (kind, may(kind))).collect()
}

/// The patch that brings an outcome about. It reads the policy file and judges: call it where blocking
/// is allowed.
///
/// # Errors
/// The outcome does not help, or what was entered does not fit: why, and what to do instead.
pub fn propose(
    judge: &dyn Judge,
    group: &Group,
    outcome: &Outcome,
    now: Timestamp,
) -> Result<Patch, PatchError> {
    let reference = pulled(group)?;
    let file = judge.read().map_err(PatchError::Policy)?;
    let old = judge.compile(&file.text).map_err(PatchError::Policy)?;
    let codes = codes(group);
    let digest = group.digest.as_deref().and_then(|digest| digest.parse().ok());
    let Compiled { policy, rules } = &old;
    let case = Case { reference: &reference, digest, codes: &codes, policy, rules, now };
    let plan = case.plan(outcome)?;
    let draft =
        Draft { judge, text: &file.text, old: &old, plan: &plan, reference: &reference, outcome, now };
    let tried = draft.best()?;
    let mut warnings = plan.warnings.clone();
    if outcome.kind() == OutcomeKind::Except && draft.wants(policy.run(&tried.test, now).offline.verdict) {
        warnings.push(
            "its test passes without it too: what the check found takes facts that no test can suppose"
                .to_owned(),
        );
    }
    let surroundings = judge.surroundings();
    let before = policy.findings(rules, Some(&surroundings), now);
    for finding in tried.new.policy.findings(&tried.new.rules, Some(&surroundings), now) {
        if before.iter().any(|known| known.lint == finding.lint && known.what == finding.what) {
            continue;
        }
        let words = format!("{}: {}; {}", finding.lint.as_str(), finding.what, finding.remedy);
        if finding.lint.level() == Level::Error {
            return Err(PatchError::Policy(words));
        }
        warnings.push(words);
    }
    warnings.extend(draft.broken(&tried.new));
    Ok(Patch {
        diff: tried.sheet.diff(&file.path),
        test: tried.words,
        text: tried.sheet.text(),
        changes: policy.changes(&tried.new.policy),
        file: file.path.clone(),
        warnings,
    })
}

/// A plan to be tried on the file.
struct Draft<'a> {
    judge: &'a dyn Judge,
    text: &'a str,
    old: &'a Compiled,
    plan: &'a Plan,
    reference: &'a Reference,
    outcome: &'a Outcome,
    now: Timestamp,
}

/// How that came out.
struct Tried<'a> {
    sheet: Sheet<'a>,
    new: Compiled,
    test: PolicyTest,
    words: String,
}

impl<'a> Draft<'a> {
    /// The plan with a test that shows the most: one that the file fails as it is, where there is one.
    fn best(&self) -> Result<Tried<'a>, PatchError> {
        let expected: &[Verdict] = match self.outcome.kind() {
            OutcomeKind::Recall => &[Verdict::Deny],
            OutcomeKind::Allow | OutcomeKind::Except | OutcomeKind::Pin => &[Verdict::Allow, Verdict::Warn],
        };
        let supposed = self.plan.facts.as_deref().map(Some).into_iter().chain([None]);
        let mut failure = None;
        for facts in supposed {
            for expect in expected {
                let tried = self.attempt(facts, *expect)?;
                let result = tried.new.policy.run(&tried.test, self.now);
                let before = self.old.policy.run(&tried.test, self.now).offline.verdict;
                if !result.differences.is_empty() {
                    let reasons = result.offline.reasons.iter();
                    let reasons: Vec<String> =
                        reasons.map(|reason| format!("{}: {}", reason.code, reason.text)).collect();
                    failure.get_or_insert((result.offline.verdict, reasons.join("; ")));
                } else if facts.is_none() || !self.wants(before) {
                    return Ok(tried);
                }
            }
        }
        let (verdict, reasons) = failure.unwrap_or((Verdict::Deny, String::new()));
        Err(PatchError::Unavailable {
            why: format!("it would still be {}: {reasons}", word(verdict)),
            instead: "choose another outcome, or change the rule that is named".to_owned(),
        })
    }

    fn wants(&self, verdict: Verdict) -> bool {
        match self.outcome.kind() {
            OutcomeKind::Recall => verdict == Verdict::Deny,
            OutcomeKind::Allow | OutcomeKind::Except | OutcomeKind::Pin => verdict < Verdict::Hold,
        }
    }

    fn attempt(&self, facts: Option<&str>, expect: Verdict) -> Result<Tried<'a>, PatchError> {
        let mut sheet = Sheet::new(self.text);
        if let Some((id, pattern)) = &self.plan.allow {
            let source = self.old.policy.sources().find(|source| source.id() == id);
            let added = source
                .and_then(|source| plan::allow_more(&mut sheet, self.text, &self.old.rules, source, pattern));
            added.ok_or_else(|| PatchError::Unavailable {
                why: format!("the way source {id} is written leaves no place to add to"),
                instead: format!("add {pattern} to its tags.allow by hand"),
            })?;
        }
        for (kind, fields) in &self.plan.tables {
            sheet.add_table(kind, fields);
        }
        let fields = self.test(facts, expect);
        match self.contradicted(expect) {
            Some(header) => sheet.rewrite_table("test", header, &fields),
            None => sheet.add_table("test", &fields),
        }
        let text = sheet.text();
        let new = self.judge.compile(&text).map_err(|error| PatchError::Unavailable {
            why: format!("the file with it would not load: {error}"),
            instead: "correct what was entered, or change the file by hand".to_owned(),
        })?;
        let own = sheet::written(&fields);
        let lines: Vec<&str> = text.lines().collect();
        let header = lines.windows(own.len()).position(|window| window.iter().zip(&own).all(|(a, b)| a == b));
        let is_own = |test: &&PolicyTest| header.is_some_and(|header| line_of(&test.at) == Some(header));
        let test = new.policy.tests().iter().find(is_own).cloned();
        let test = test.ok_or_else(|| PatchError::Policy("its test is not found in the file".to_owned()))?;
        let words = format!("[[test]]\n{}\n", own.join("\n"));
        Ok(Tried { sheet, new, test, words })
    }

    fn test(&self, facts: Option<&str>, expect: Verdict) -> plan::Fields {
        let mut fields = vec![("pull", sheet::quoted(&self.reference.to_string()))];
        if let Some(facts) = facts {
            fields.push(("facts", facts.to_owned()));
        }
        if let Some(at) = &self.plan.at {
            fields.push(("at", at.clone()));
        }
        fields.push(("expect", sheet::quoted(expect.as_str())));
        if self.outcome.kind() == OutcomeKind::Recall {
            fields.push(("because", sheet::list([Code::Recall.as_str()])));
        }
        fields
    }

    /// The line of a test that says something else about the same pull, from 0: it is written anew.
    fn contradicted(&self, expect: Verdict) -> Option<usize> {
        let recall = self.outcome.kind() == OutcomeKind::Recall;
        let plain = |test: &&PolicyTest| {
            test.pull == *self.reference
                && test.facts == Given::default()
                && test.client.is_none()
                && test.time.is_none()
                && (test.expect != expect || recall && !test.because.contains(&Code::Recall))
        };
        line_of(&self.old.policy.tests().iter().find(plain)?.at)?.checked_sub(1)
    }

    /// The tests of the file that pass now and would not.
    fn broken(&self, new: &Compiled) -> Vec<String> {
        let old = self.old.policy.tests();
        let passed = |test: &PolicyTest| {
            old.iter()
                .any(|known| same(known, test) && self.old.policy.run(known, self.now).differences.is_empty())
        };
        let failed = new.policy.tests().iter().filter_map(|test| {
            let differences = new.policy.run(test, self.now).differences;
            (!differences.is_empty() && passed(test)).then(|| {
                format!(
                    "the [[test]] of {} ({}) no longer passes: {}",
                    test.pull,
                    test.at,
                    differences.join("; ")
                )
            })
        });
        failed.collect()
    }
}

/// The number in `policy.toml:41`, which is the index of the line below.
fn line_of(at: &str) -> Option<usize> {
    at.rsplit(':').next()?.parse().ok()
}

/// What was pulled, as far as a policy file can name it.
fn pulled(group: &Group) -> Result<Reference, PatchError> {
    let unavailable = |why: &str, instead: &str| PatchError::Unavailable {
        why: why.to_owned(),
        instead: instead.to_owned(),
    };
    if matches!(group.kind, GroupKind::Flood | GroupKind::Others) {
        return Err(unavailable(
            "many names stand together here",
            "review them one by one, or see to the client that asks for them",
        ));
    }
    let reference: Reference = group
        .subject
        .reference
        .parse()
        .map_err(|_| unavailable("the name cannot be read", "correct the reference where it is used"))?;
    if group.tag.is_none() && reference.digest.is_none() {
        return Err(unavailable(
            "tags were listed, nothing was pulled",
            "review the pulls of that repository",
        ));
    }
    Ok(reference)
}

fn codes(group: &Group) -> Vec<Code> {
    let mut codes: Vec<Code> = group.reasons.iter().filter_map(|word| Code::parse(word)).collect();
    if codes.is_empty() {
        codes.extend(group.subject.reason);
    }
    codes
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow | Verdict::Warn => "served",
        Verdict::Hold => "held",
        Verdict::Deny => "refused",
    }
}

fn same(one: &PolicyTest, other: &PolicyTest) -> bool {
    one.pull == other.pull && one.facts == other.facts && one.client == other.client && one.time == other.time
}

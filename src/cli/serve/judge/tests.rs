use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use jiff::Timestamp;
use tempfile::TempDir;

use super::*;
use crate::audit::Subject;
use crate::clock::Clock;
use crate::oci::Reference;
use crate::policy::{Code, Given, Verdict};
use crate::review::{
    Group, GroupKind, Outcome, OutcomeKind, Patch, PatchError, State, forecast, outcomes, propose,
};

const SHIPPED: &str = include_str!("../../../../config/policy.toml");
const NOW: &str = "2026-11-23T10:00:00Z";
const DIGEST: &str = "sha256:3333333333333333333333333333333333333333333333333333333333333333";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

/// A policy file, and what reads it.
struct Fixture {
    folder: TempDir,
    judge: Arc<FileJudge>,
    text: String,
}

impl Fixture {
    async fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy.toml");
        std::fs::write(&file, text).unwrap();
        let catalog = Catalog::open(folder.path(), 64 << 20, Clock::system()).await.unwrap();
        let mut settings = Gateway::default();
        settings.policy.file = file;
        let judge = Arc::new(FileJudge::new(&settings, catalog));
        Self { folder, judge, text: text.to_owned() }
    }

    fn propose(&self, group: &Group, outcome: &Outcome) -> Result<Patch, PatchError> {
        propose(&*self.judge, group, outcome, now())
    }

    /// The patch, applied by git to the file as it is; what the file says then.
    fn applied(&self, patch: &Patch) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(patch.file.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &self.text).unwrap();
        std::fs::write(folder.path().join("change.diff"), &patch.diff).unwrap();
        let output = Command::new("git")
            .args(["apply", "--unsafe-paths", "--whitespace=nowarn", "change.diff"])
            .env("GIT_CEILING_DIRECTORIES", folder.path().parent().unwrap())
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), patch.diff);
        std::fs::read_to_string(path).unwrap()
    }
}

fn group(reference: &str, codes: &[Code]) -> Group {
    let parsed: Option<Reference> = reference.parse().ok();
    let tag = parsed.as_ref().and_then(|reference| reference.tag.as_ref());
    Group {
        key: "0".repeat(32),
        kind: GroupKind::Refused,
        subject: Subject { reference: reference.to_owned(), reason: codes.first().copied() },
        reason: codes.first().map(|code| code.as_str()).unwrap_or_default().to_owned(),
        reasons: codes.iter().map(|code| code.as_str().to_owned()).collect(),
        verdict: "deny".to_owned(),
        registry: None,
        repository: None,
        tag: tag.map(ToString::to_string),
        digest: None,
        source: None,
        count: 1,
        first: now(),
        last: now(),
        clients: 1,
        latest: String::new(),
        latest_message: String::new(),
        remedy: None,
        sample: Vec::new(),
        state: State::New,
        note: None,
        by: None,
        changed: None,
        resolved_before: false,
        since_change: 0,
    }
}

fn outcome(kind: OutcomeKind) -> Outcome {
    match kind {
        OutcomeKind::Allow => Outcome::Allow { pattern: None },
        OutcomeKind::Except => Outcome::Except {
            until: "2027-01-31".parse().unwrap(),
            ticket: "SEC-1".to_owned(),
            requested_by: "team@example.com".to_owned(),
            approved_by: "security@example.com".to_owned(),
            reason: "being \"rebuilt\" \\ now".to_owned(),
        },
        OutcomeKind::Pin => Outcome::Pin { digest: Some(DIGEST.parse().unwrap()) },
        OutcomeKind::Recall => Outcome::Recall { id: None, reason: "CVE-2026-1".to_owned(), replace: None },
    }
}

#[tokio::test]
async fn every_outcome_that_is_offered_is_a_patch_that_applies_passes_its_test_and_does_what_it_says() {
    use OutcomeKind::{Allow, Except, Pin, Recall};
    let listed = SHIPPED.replace("digests = \"any\"\n", "digests = \"listed\"\n");
    let keeps = SHIPPED.replace(
        "moved = \"keep\"                            #",
        "moved = \"deny\"                            #",
    );
    assert!(listed != SHIPPED && keeps != SHIPPED);
    let digest = |repository: &str| format!("{repository}@{DIGEST}");
    let python = digest("docker.io/library/python");
    let pgvector = digest("docker.io/pgvector/pgvector");
    let distroless = digest("gcr.io/distroless/static-debian12");
    let unknown = digest("quay.io/prometheus/node-exporter");
    let nbedr = "ghcr.io/makercorn/nbedr:v1.0.0";
    let cases: [(&str, &str, &[Code], &[OutcomeKind]); 24] = [
        (SHIPPED, "docker.io/library/python:3.11", &[Code::TagNotAllowed], &[Allow, Except, Pin, Recall]),
        (
            SHIPPED,
            "gcr.io/distroless/static-debian12:nonroot",
            &[Code::TagNotAllowed],
            &[Allow, Except, Pin, Recall],
        ),
        (
            SHIPPED,
            "docker.io/pgvector/pgvector:0.8.2-pg16",
            &[Code::TagNotAllowed],
            &[Allow, Except, Pin, Recall],
        ),
        (
            SHIPPED,
            "ghcr.io/makercorn/nbedr:main-1",
            &[Code::TagDenied, Code::TagNotAllowed],
            &[Except, Recall],
        ),
        (SHIPPED, "docker.io/library/python:latest", &[Code::TagDenied], &[Except, Recall]),
        (SHIPPED, "quay.io/prometheus/node-exporter:v1.9.0", &[Code::SourceUnknown], &[Allow]),
        (SHIPPED, "docker.io/bitnami/redis:7.2", &[Code::SourceUnknown], &[Allow]),
        (SHIPPED, &unknown, &[Code::SourceUnknown], &[Allow]),
        (SHIPPED, &pgvector, &[Code::DigestUnknown], &[Except, Pin, Recall]),
        (&listed, &distroless, &[Code::DigestNotListed], &[Except, Pin, Recall]),
        (&keeps, nbedr, &[Code::TagMoved], &[Except, Pin, Recall]),
        (SHIPPED, &python, &[Code::Hold], &[Except, Pin, Recall]),
        (SHIPPED, "docker.io/library/python:3.11.9", &[Code::Age], &[Except, Recall]),
        (SHIPPED, nbedr, &[Code::UserMinUid], &[Except, Recall]),
        (SHIPPED, nbedr, &[Code::UserNamed], &[Except, Recall]),
        (SHIPPED, nbedr, &[Code::PlatformNotAllowed], &[Except, Recall]),
        (SHIPPED, nbedr, &[Code::MediaRefused], &[Except, Recall]),
        (SHIPPED, nbedr, &[Code::Recall], &[]),
        (SHIPPED, nbedr, &[Code::ClientNotAllowed], &[Recall]),
        (SHIPPED, nbedr, &[Code::ClientRate], &[Recall]),
        (SHIPPED, nbedr, &[Code::FactsUnavailable], &[Recall]),
        (SHIPPED, nbedr, &[Code::UserMinUid, Code::FactsUnavailable], &[Recall]),
        (SHIPPED, &python, &[Code::ClosureOutside], &[Recall]),
        (SHIPPED, "docker.io/library/python:3.11", &[Code::NameConflict], &[]),
    ];
    for (text, reference, codes, expected) in cases {
        let fixture = Fixture::new(text).await;
        let group = group(reference, codes);
        let offered: Vec<OutcomeKind> =
            outcomes(&group).into_iter().filter(|(_, may)| may.is_ok()).map(|(kind, _)| kind).collect();
        assert_eq!(offered, expected, "{reference} {codes:?}");
        for kind in OutcomeKind::ALL {
            let proposed = fixture.propose(&group, &outcome(kind));
            if !expected.contains(&kind) {
                let error = proposed.unwrap_err();
                assert!(matches!(error, PatchError::Unavailable { .. }), "{reference} {kind:?}: {error}");
                continue;
            }
            let patch = proposed.unwrap_or_else(|error| panic!("{reference} {codes:?} {kind:?}: {error}"));
            assert_eq!(fixture.applied(&patch), patch.text);
            let removed: Vec<&str> =
                patch.diff.lines().filter(|line| line.starts_with('-') && !line.starts_with("---")).collect();
            assert!(removed.len() <= 4, "{removed:#?}");
            let policy = fixture.judge.compile(&patch.text).unwrap().policy;
            assert!(patch.text.contains(patch.test.lines().last().unwrap()));
            let parsed: Reference = reference.parse().unwrap();
            let verdict = policy.offline(None, &parsed, &Given::default(), now()).verdict;
            let refused = kind == Recall;
            assert_eq!(verdict == Verdict::Deny, refused, "{reference} {kind:?}\n{}", patch.diff);
            for test in policy.tests() {
                let failed_before = |policy: &crate::policy::Policy| {
                    let same = policy
                        .tests()
                        .iter()
                        .find(|other| other.pull == test.pull && other.facts == test.facts);
                    same.is_some_and(|test| !policy.run(test, now()).differences.is_empty())
                };
                let failed = !policy.run(test, now()).differences.is_empty()
                    && !failed_before(&fixture.judge.compile(text).unwrap().policy);
                let told = patch.warnings.iter().any(|warning| warning.contains(&format!("({})", test.at)));
                assert_eq!(failed, told, "{}: {:#?}\n{}", test.at, patch.warnings, patch.diff);
            }
            assert!(!patch.changes.is_empty(), "{reference} {kind:?}");
        }
    }
}

#[tokio::test]
async fn patches_stand_where_a_person_would_write_them() {
    let fixture = Fixture::new(SHIPPED).await;
    let diff = |reference: &str, code, kind| {
        let patch = fixture.propose(&group(reference, &[code]), &outcome(kind)).unwrap();
        let lines = patch.diff.lines().skip(2).filter(|line| line.starts_with(['+', '-']));
        lines.map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        diff("docker.io/pgvector/pgvector:0.8.2-pg16", Code::TagNotAllowed, OutcomeKind::Allow),
        [
            "-tags  = { allow = [\"0.8.0-pg16\", \"0.8.1-pg16\"] }",
            "+tags  = { allow = [\"0.8.0-pg16\", \"0.8.1-pg16\", \"0.8.2-pg16\"] }",
            "+",
            "+[[test]]",
            "+pull   = \"docker.io/pgvector/pgvector:0.8.2-pg16\"",
            "+expect = \"allow\"",
        ]
    );
    // The test that said the opposite is written anew instead of a second one beside it.
    let pinned = diff("docker.io/library/python:3.11", Code::TagNotAllowed, OutcomeKind::Pin);
    assert_eq!(
        pinned,
        [
            "+",
            "+[[pin]]",
            "+image  = \"docker.io/library/python:3.11\"",
            &format!("+digest = \"{DIGEST}\""),
            "-pull    = \"docker.io/library/python:3.11\"",
            "-expect  = \"deny\"",
            "-because = [\"tag.not_allowed\"]",
            "+pull   = \"docker.io/library/python:3.11\"",
            "+expect = \"allow\"",
        ]
    );
    let excepted = diff("ghcr.io/makercorn/nbedr:v1.0.0", Code::UserNamed, OutcomeKind::Except);
    for line in [
        "+waive        = [\"user.named\"]",
        "+approved     = 2026-11-23",
        "+expires      = 2027-01-31",
        "+facts  = { user = \"app\" }",
        "+at     = 2026-11-23",
    ] {
        assert!(excepted.iter().any(|found| found == line), "{line}: {excepted:#?}");
    }
}

#[tokio::test]
async fn what_else_a_patch_opens_is_said() {
    let fixture = Fixture::new(SHIPPED).await;
    let python = group("docker.io/library/python:3.11", &[Code::TagNotAllowed]);
    let patch = fixture.propose(&python, &Outcome::Allow { pattern: Some("#.#".to_owned()) }).unwrap();
    assert!(patch.warnings[0].contains("every repository of source docker-official"), "{:?}", patch.warnings);
    assert!(patch.changes[0].starts_with("source docker-official: tags.allow: "), "{:?}", patch.changes);
    let wide = fixture.propose(&python, &Outcome::Allow { pattern: Some("*".to_owned()) }).unwrap();
    let broken = "the [[test]] of docker.io/library/python:3.11 ";
    assert!(!wide.warnings.iter().any(|warning| warning.starts_with(broken)), "{:?}", wide.warnings);
    let held = group(&format!("docker.io/library/python@sha256:{}", "2".repeat(64)), &[Code::Hold]);
    let pinned = fixture.propose(&held, &Outcome::Pin { digest: None }).unwrap();
    let told =
        pinned.warnings.iter().any(|warning| warning.contains("no longer passes: expected hold, got allow"));
    assert!(told, "{:?}", pinned.warnings);
    let error = fixture.propose(&python, &Outcome::Allow { pattern: Some("v#".to_owned()) }).unwrap_err();
    assert_eq!(error.to_string(), "v# does not match 3.11; # is a run of digits, * any run of characters");
    let error = fixture.propose(&python, &Outcome::Pin { digest: None }).unwrap_err();
    assert!(matches!(error, PatchError::Input(_)), "{error}");
    let same = Outcome::Except {
        until: "2027-01-31".parse().unwrap(),
        ticket: "SEC-1".to_owned(),
        requested_by: "a@example.com".to_owned(),
        approved_by: "A@example.com ".to_owned(),
        reason: "x".to_owned(),
    };
    let error = fixture.propose(&python, &same).unwrap_err();
    assert!(error.to_string().contains("asked for the exception and approved it"), "{error}");
    let Outcome::Except { ticket, requested_by, reason, .. } = same else { panic!("an exception") };
    let until = "2027-06-01".parse().unwrap();
    let long = Outcome::Except { until, ticket, requested_by, approved_by: "b".to_owned(), reason };
    let error = fixture.propose(&python, &long).unwrap_err();
    assert!(error.to_string().contains("90 days"), "{error}");
    let hostile = Outcome::Recall { id: None, reason: "x\"]\n[[source]]".to_owned(), replace: None };
    let error = fixture.propose(&python, &hostile).unwrap_err();
    assert!(error.to_string().contains("printable"), "{error}");
    let flood = Group { kind: GroupKind::Flood, ..python.clone() };
    assert!(outcomes(&flood).iter().all(|(_, may)| may.is_err()));
    let unreadable = group("docker.io/Library/python:\n3", &[Code::TagNotAllowed]);
    assert!(outcomes(&unreadable).iter().all(|(_, may)| may.is_err()));
    let listing = Group { tag: None, ..group("docker.io/library/python", &[Code::SourceUnknown]) };
    assert!(outcomes(&listing).iter().all(|(_, may)| may.is_err()));
    std::fs::write(fixture.folder.path().join("policy.toml"), "nonsense").unwrap();
    assert!(matches!(fixture.propose(&python, &outcome(OutcomeKind::Pin)), Err(PatchError::Policy(_))));
}

#[tokio::test]
async fn files_are_patched_however_they_are_written() {
    let head = "name = \"t\"\nrevision = \"1\"\n";
    let source = "[[source]]\nid = \"a\"\nmatch = \"ghcr.io/a/b\"\n";
    let python = group("ghcr.io/a/b:9", &[Code::TagNotAllowed]);
    for tags in [
        "",
        "tags = {}",
        "tags = { moved = \"keep\" }",
        "tags.moved = \"keep\"",
        "tags.allow = [\n  \"1\", # one\n  \"2\",\n]",
        "tags.allow = []",
        "[source.tags]\nallow = ['1']",
        "[source.tags]\nmoved = \"keep\" # stays",
        "user = { min_uid = 1 }\n\n# about the next\n[[source]]\nid = \"c\"\nmatch = \"ghcr.io/c/d\"",
    ] {
        for end in ["\n", ""] {
            for ending in ["\n", "\r\n"] {
                let text = format!("{head}{source}{tags}{end}").replace('\n', ending);
                let fixture = Fixture::new(&text).await;
                for kind in [OutcomeKind::Allow, OutcomeKind::Pin, OutcomeKind::Except] {
                    let patch = fixture.propose(&python, &outcome(kind));
                    let patch = patch.unwrap_or_else(|error| panic!("{tags:?} {kind:?}: {error}"));
                    assert_eq!(fixture.applied(&patch), patch.text, "{tags:?} {kind:?}");
                    assert_eq!(patch.text.contains("\r\n"), text.contains("\r\n"));
                    assert!(!patch.text.replace("\r\n", "").contains('\r'));
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forecast_tells_what_the_patch_changes_and_not_what_the_policy_does_anyway() {
    let folder = crate::review::record::tests::folder(&[
        ("python:3.11", Some("ci"), Some(Code::TagNotAllowed), 5),
        ("python:3.11", None, Some(Code::TagNotAllowed), 2),
        ("python:3.11.9", None, None, 4),
        ("python:3.12.1", Some("ci"), Some(Code::TagNotAllowed), 3),
        ("quay.io/a/b:1", None, Some(Code::SourceUnknown), 1),
    ])
    .await;
    let fixture = Fixture::new(SHIPPED).await;
    let python = group("docker.io/library/python:3.11", &[Code::TagNotAllowed]);
    let patch = fixture.propose(&python, &outcome(OutcomeKind::Allow)).unwrap();
    let reader = crate::audit::Reader::open(folder.path()).await.unwrap();
    let judge: Arc<dyn Judge> = fixture.judge.clone();
    let told =
        async |after: &str| forecast(judge.clone(), reader.clone(), after.to_owned(), now()).await.unwrap();
    let allowed = told(&patch.text).await;
    assert_eq!(
        (allowed.allowed.count.references, allowed.allowed.count.pulls, allowed.allowed.clients),
        (1, 7, 2)
    );
    assert_eq!(allowed.allowed.examples, [("docker.io/library/python:3.11".to_owned(), 7)]);
    assert_eq!(allowed.refused.count.pulls, 0);
    assert!(!allowed.cut);
    let served = group("docker.io/library/python:3.11.9", &[Code::Age]);
    let patch = fixture.propose(&served, &outcome(OutcomeKind::Recall)).unwrap();
    let recalled = told(&patch.text).await;
    assert_eq!(
        (recalled.allowed.count.pulls, recalled.refused.count.pulls, recalled.refused.clients),
        (0, 4, 1)
    );
    let all = |forecast: &crate::review::Forecast| {
        [forecast.allowed.count, forecast.refused.count, forecast.unchanged, forecast.unjudged]
            .iter()
            .map(|count| count.pulls)
            .sum::<u64>()
    };
    assert_eq!((all(&allowed), all(&recalled)), (15, 15));
    assert!(forecast(judge, reader, "nonsense".to_owned(), now()).await.is_err());
    assert!(Path::new(&patch.file).ends_with("policy.toml"));
}

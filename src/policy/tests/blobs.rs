//! Pulls of blobs: closure and possession.

use super::*;
use crate::oci::Archive;

fn ask() -> What {
    What::Blob(digest("blob"))
}

fn known() -> Policy {
    policy(rules(allows(&["1.0"])))
}

fn facts(roots: Vec<Root>) -> Facts {
    let target = Some(descriptor("blob", LAYER, 77));
    Facts { roots: super::roots(target, roots), listed: is(()), ..Facts::default() }
}

fn blob(decision: &Decision) -> (Digest, u64) {
    match permit(decision).target() {
        Target::Blob { digest, size } => (*digest, *size),
        other => panic!("no blob: {other:?}"),
    }
}

#[test]
fn a_blob_of_a_permitted_image_is_permitted_once_the_repository_is_known_to_hold_it() {
    assert_eq!(need(&decide(&known(), ask(), &Facts::default())), &Lack::Roots(digest("blob")));
    let mut facts = facts(vec![root("bad", &["latest"], 0), root("img", &["1.0"], 0)]);
    assert_eq!(
        need(&decide(&known(), ask(), &facts)),
        &Lack::Possession { digest: digest("blob"), size: 77 }
    );
    facts.possession = is(true);
    assert_eq!(blob(&decide(&known(), ask(), &facts)), (digest("blob"), 77));
    facts.possession = is(false);
    assert_eq!(refused(&decide(&known(), ask(), &facts)), [Code::PossessionMissing]);
    facts.possession = Known::Failed(unreachable());
    assert_eq!(fault(&decide(&known(), ask(), &facts)), &unreachable());
}

#[test]
fn a_blob_outside_every_permitted_image_is_refused_after_one_sweep() {
    let mut facts = facts(vec![root("bad", &["latest"], 0)]);
    facts.listed = Known::Unasked;
    assert_eq!(need(&decide(&known(), ask(), &facts)), &Lack::Listed(vec![tag("1.0")]));
    facts.listed = is(());
    assert_eq!(refused(&decide(&known(), ask(), &facts)), [Code::ClosureOutside]);
    facts.listed = Known::Failed(unreachable());
    assert_eq!(refused(&decide(&known(), ask(), &facts)), [Code::FactsUnavailable]);
}

#[test]
fn a_blob_that_the_upstream_does_not_have_is_absent() {
    let facts = Facts { roots: Known::Failed(Fault::Absent("blob".into())), ..Facts::default() };
    assert!(matches!(fault(&decide(&known(), ask(), &facts)), Fault::Absent(_)));
}

#[test]
fn under_any_every_manifest_of_the_repository_leads_to_its_blobs() {
    let policy = policy(rules(allows(&["#.#"])));
    let mut facts = facts(vec![root("bad", &["latest"], 0)]);
    facts.possession = is(true);
    assert_eq!(blob(&decide(&policy, ask(), &facts)), (digest("blob"), 77));
    facts.roots = roots(None, vec![]);
    assert_eq!(refused(&decide(&policy, ask(), &facts)), [Code::ClosureOutside]);
}

#[test]
fn a_blob_of_a_repository_that_nothing_can_be_pulled_from_is_refused_before_anything_is_asked() {
    let policy = policy(rules(allows(&[])));
    assert_eq!(refused(&decide(&policy, ask(), &Facts::default())), [Code::ClosureOutside]);
}

#[test]
fn a_companion_has_small_blobs_and_no_layers() {
    let facts = |media: &str, size| Facts {
        roots: roots(Some(descriptor("blob", media, size)), vec![root("img", &["1.0"], 1)]),
        listed: is(()),
        possession: is(true),
        archive: is(None),
        ..Facts::default()
    };
    let json = "application/vnd.in-toto+json";
    assert_eq!(blob(&decide(&known(), ask(), &facts(json, 32 << 20))), (digest("blob"), 32 << 20));
    let unknown = Facts { archive: Known::Unasked, ..facts(json, 5) };
    let wanted = Lack::Archive { digest: digest("blob"), size: 5 };
    assert_eq!(need(&decide(&known(), ask(), &unknown)), &wanted);
    let archive = Facts { archive: is(Some(Archive::Zstd)), ..facts(json, 5) };
    let decision = decide(&known(), ask(), &archive);
    assert_eq!(refused(&decision), [Code::ClosureOutside], "an archive that calls itself text");
    for facts in [facts(json, (32 << 20) + 1), facts(LAYER, 5), facts(&LAYER.to_uppercase(), 5)] {
        assert_eq!(refused(&decide(&known(), ask(), &facts)), [Code::ClosureOutside]);
    }
}

#[test]
fn a_blob_is_as_long_as_the_root_that_permits_it_says() {
    let part = |seed: &str, tags: &[&str], parts: &[(u8, u64)]| {
        let mut root = root(seed, tags, 0);
        root.parts = parts.iter().map(|(levels, size)| (*levels, descriptor("blob", LAYER, *size))).collect();
        root
    };
    let size = |policy: &Policy, size, roots: Vec<Root>| {
        let roots = is(Roots { size, roots });
        let facts = Facts { roots, listed: is(()), possession: is(true), ..Facts::default() };
        blob(&decide(policy, ask(), &facts)).1
    };
    let any = policy(rules(allows(&["#.#"])));
    let (hostile, good) = (part("bad", &[], &[(0, 5)]), part("img", &["1.0"], &[(1, 9), (0, 77)]));
    for roots in [vec![hostile.clone(), good.clone()], vec![good.clone(), hostile]] {
        assert_eq!(size(&known(), None, roots.clone()), 77, "the other permits nothing");
        assert_eq!(size(&any, None, roots.clone()), 77, "a tag leads to it");
        assert_eq!(size(&any, Some(5), roots), 5, "what is known to be true comes first");
    }
    let tagged = part("bad", &["2.0"], &[(0, 5)]);
    for roots in [vec![tagged.clone(), good.clone()], vec![good, tagged]] {
        assert_eq!(size(&any, Some(77), roots), 77);
    }
    let both = part("index", &["1.0"], &[(0, 5), (0, 77)]);
    assert_eq!(size(&known(), Some(77), vec![both]), 77, "two children of one index");
}

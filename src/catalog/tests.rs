use super::*;
use crate::oci::Digest;

async fn catalog(folder: &Path) -> Catalog {
    Catalog::open(folder, quota(0), Clock::manual(Timestamp::UNIX_EPOCH)).await.unwrap()
}

fn descriptor(media_type: &str, bytes: &[u8]) -> String {
    format!(r#"{{"mediaType":"{media_type}","size":{},"digest":"{}"}}"#, bytes.len(), Digest::sha256(bytes))
}

fn image(layer: &[u8], subject: Option<&Manifest>) -> (Manifest, Bytes) {
    let subject = subject.map_or(String::new(), |subject| {
        format!(r#","subject":{{"mediaType":"x/y","size":{},"digest":"{}"}}"#, subject.size, subject.digest)
    });
    let text = format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[{}]{subject}}}"#,
        descriptor("application/vnd.oci.image.config.v1+json", b"{}"),
        descriptor("application/vnd.oci.image.layer.v1.tar", layer)
    );
    (Manifest::parse(text.as_bytes(), None, None).unwrap(), text.into())
}

fn index(children: &[&Manifest]) -> (Manifest, Bytes) {
    let children: Vec<String> = children
        .iter()
        .map(|child| {
            format!(
                r#"{{"mediaType":"{}","size":{},"digest":"{}"}}"#,
                child.media_type, child.size, child.digest
            )
        })
        .collect();
    let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, children.join(","));
    (Manifest::parse(text.as_bytes(), None, None).unwrap(), text.into())
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_layer_has_its_image_and_its_index_above_it_in_that_repository_only() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = catalog(folder.path()).await;
    let python = name("python");
    let (child, child_bytes) = image(b"layer", None);
    let (parent, parent_bytes) = index(&[&child]);
    let (child_digest, parent_digest) = (child.digest, parent.digest);
    catalog.keep_manifest(&python, parent, parent_bytes).await.unwrap();
    assert_eq!(catalog.unexpanded(&python, 9).await.unwrap(), [child_digest]);
    assert!(catalog.lineage(&python, &Digest::sha256(b"layer")).await.unwrap().is_empty());

    catalog.keep_manifest(&python, child, child_bytes).await.unwrap();
    assert!(catalog.unexpanded(&python, 9).await.unwrap().is_empty());
    let tag: Tag = "3.11.9".parse().unwrap();
    catalog.saw_tag(&python, &tag, Some(&parent_digest)).await.unwrap();

    let lineage = catalog.lineage(&python, &Digest::sha256(b"layer")).await.unwrap();
    assert!(lineage.iter().all(|root| root.parts.iter().map(|(_, part)| part.size).eq([5])));
    let found: Vec<_> = lineage.iter().map(|root| (root.digest, root.tags.clone(), root.levels)).collect();
    assert_eq!(found, [(child_digest, vec![], 0), (parent_digest, vec![tag], 0)]);
    assert_eq!(catalog.lineage(&name("postgres"), &Digest::sha256(b"layer")).await.unwrap(), []);
}

#[tokio::test]
async fn barren_children_make_room_for_the_others_until_their_time_is_up() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Timestamp::UNIX_EPOCH);
    let catalog = Catalog::open(folder.path(), quota(0), clock.clone()).await.unwrap();
    let python = name("python");
    let (one, _) = image(b"1", None);
    let (two, _) = image(b"2", None);
    let (both, bytes) = index(&[&one, &two]);
    catalog.keep_manifest(&python, both, bytes).await.unwrap();
    let first = catalog.unexpanded(&python, 1).await.unwrap();
    let until = Timestamp::from_second(60).unwrap();
    catalog.keep_barren(&python, &first[0], until).await.unwrap();
    let second = catalog.unexpanded(&python, 9).await.unwrap();
    assert_eq!(second.len(), 1);
    assert_ne!(first, second);
    clock.advance(std::time::Duration::from_secs(60));
    assert_eq!(catalog.unexpanded(&python, 9).await.unwrap().len(), 2);
}

#[tokio::test]
async fn each_root_describes_a_layer_as_the_manifests_below_it_do() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = catalog(folder.path()).await;
    let (python, layer) = (name("python"), Digest::sha256(b"layer"));
    let (good, good_bytes) = image(b"layer", None);
    let text = String::from_utf8(good_bytes.to_vec()).unwrap();
    let lie = text.replace(r#""size":5"#, r#""size":7"#);
    let bad = Manifest::parse(lie.as_bytes(), None, None).unwrap();
    let worse = text.replace(r#""size":5"#, r#""size":9"#).replace(
        "}]}",
        &format!(r#"}}],"subject":{{"mediaType":"x/y","size":{},"digest":"{}"}}}}"#, good.size, good.digest),
    );
    let companion = Manifest::parse(worse.as_bytes(), None, None).unwrap();
    let (both, both_bytes) = index(&[&good, &bad]);
    let digests = [good.digest, bad.digest, companion.digest, both.digest];
    for (manifest, bytes) in
        [(good, good_bytes), (bad, lie.into()), (companion, worse.into()), (both, both_bytes)]
    {
        catalog.keep_manifest(&python, manifest, bytes).await.unwrap();
    }
    for tag in ["1", "2"] {
        catalog.lock_tag(&python, &tag.parse().unwrap(), &digests[3], false).await.unwrap();
    }
    let lineage = catalog.lineage(&python, &layer).await.unwrap();
    let parts = |digest: &Digest| {
        let root = lineage.iter().find(|root| root.digest == *digest).unwrap();
        let mut parts: Vec<_> = root.parts.iter().map(|(levels, part)| (*levels, part.size)).collect();
        parts.sort_unstable();
        (root.tags.len(), root.levels, parts)
    };
    let [good, bad, companion, both] = digests;
    assert_eq!(parts(&good), (0, 0, vec![(0, 5), (1, 9)]));
    assert_eq!(parts(&bad), (0, 0, vec![(0, 7)]));
    assert_eq!(parts(&companion), (0, 0, vec![(0, 9)]));
    assert_eq!(parts(&both), (2, 0, vec![(0, 5), (0, 7), (1, 9)]));
    assert_eq!(lineage.len(), 4, "each ancestor once");
}

#[tokio::test]
async fn an_index_of_indexes_leads_down_to_its_layers_and_a_third_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = catalog(folder.path()).await;
    let python = name("python");
    let (child, child_bytes) = image(b"layer", None);
    let (one, one_bytes) = index(&[&child]);
    let (two, two_bytes) = index(&[&one]);
    let (three, three_bytes) = index(&[&two]);
    let digests = [child.digest, one.digest, two.digest];
    for (manifest, bytes) in [(child, child_bytes), (one, one_bytes), (two, two_bytes), (three, three_bytes)]
    {
        catalog.keep_manifest(&python, manifest, bytes).await.unwrap();
    }
    for digest in [Digest::sha256(b"layer"), digests[0]] {
        let lineage = catalog.lineage(&python, &digest).await.unwrap();
        assert_eq!(lineage.iter().map(|root| root.digest).collect::<Vec<_>>(), digests);
    }
}

#[tokio::test]
async fn a_companion_has_its_subject_above_it_one_level_up() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = catalog(folder.path()).await;
    let repository = name("ghcr.io/a/b");
    let (subject, bytes) = image(b"layer", None);
    let (signature, signature_bytes) = image(b"signature", Some(&subject));
    let subject_digest = subject.digest;
    catalog.keep_manifest(&repository, subject, bytes).await.unwrap();
    catalog.keep_manifest(&repository, signature, signature_bytes).await.unwrap();
    let lineage = catalog.lineage(&repository, &Digest::sha256(b"signature")).await.unwrap();
    assert!(lineage.iter().any(|root| root.digest == subject_digest && root.levels == 1));
}

#[tokio::test]
async fn the_first_lock_stands_and_everybody_is_told_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = catalog(folder.path()).await;
    let (python, tag) = (name("python"), "3.11.9".parse::<Tag>().unwrap());
    let (one, two) = (Digest::sha256(b"1"), Digest::sha256(b"2"));
    assert_eq!(catalog.lock_tag(&python, &tag, &one, false).await.unwrap(), one);
    assert_eq!(catalog.lock_tag(&python, &tag, &two, false).await.unwrap(), one);
    assert_eq!(catalog.lock_tag(&python, &tag, &two, true).await.unwrap(), two);
    assert_eq!(catalog.served_tags(&python).await.unwrap(), [tag]);
}

#[tokio::test]
async fn a_drift_is_told_until_it_is_on_record_and_then_never_again() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = catalog(folder.path()).await;
    let (python, tag) = (name("python"), "3.11.9".parse::<Tag>().unwrap());
    let (one, two) = (Digest::sha256(b"1"), Digest::sha256(b"2"));
    assert_eq!(catalog.saw_tag(&python, &tag, Some(&one)).await.unwrap(), None);
    catalog.lock_tag(&python, &tag, &one, false).await.unwrap();
    assert_eq!(catalog.saw_tag(&python, &tag, Some(&one)).await.unwrap(), None);
    let moved = catalog.saw_tag(&python, &tag, Some(&two)).await.unwrap().unwrap();
    assert_eq!((moved.old, moved.new), (one, Some(two)));
    assert_eq!(catalog.unrecorded_drifts().await.unwrap(), vec![moved.clone()]);
    catalog.drift_recorded(&moved).await.unwrap();
    assert_eq!(catalog.saw_tag(&python, &tag, Some(&two)).await.unwrap(), None);
    assert!(catalog.unrecorded_drifts().await.unwrap().is_empty());
    let gone = catalog.saw_tag(&python, &tag, None).await.unwrap().unwrap();
    assert_eq!(gone.new, None);
}

#[tokio::test]
async fn under_a_lock_a_digest_that_was_only_seen_upstream_is_led_to_by_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = catalog(folder.path()).await;
    let (python, tag) = (name("python"), "3.11.9".parse::<Tag>().unwrap());
    let (old, old_bytes) = image(b"old", None);
    let (new, new_bytes) = image(b"new", None);
    let (old_digest, new_digest) = (old.digest, new.digest);
    catalog.keep_manifest(&python, old, old_bytes).await.unwrap();
    catalog.keep_manifest(&python, new, new_bytes).await.unwrap();
    catalog.lock_tag(&python, &tag, &old_digest, false).await.unwrap();
    catalog.saw_tag(&python, &tag, Some(&new_digest)).await.unwrap();
    let tags = |lineage: Vec<Ancestor>| lineage.into_iter().flat_map(|root| root.tags).collect::<Vec<_>>();
    assert_eq!(tags(catalog.lineage(&python, &old_digest).await.unwrap()), [tag]);
    assert!(tags(catalog.lineage(&python, &new_digest).await.unwrap()).is_empty());
}

#[tokio::test]
async fn possession_belongs_to_one_repository_and_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let digest = Digest::sha256(b"layer");
    let before = catalog(folder.path()).await;
    let version = before.version(&name("python"));
    let seen = version.load(Ordering::Acquire);
    before.possess(&name("python"), &digest).await.unwrap();
    assert!(version.load(Ordering::Acquire) > seen, "decisions made before are made anew");
    drop(before);
    let after = catalog(folder.path()).await;
    assert!(after.possesses(&name("python"), &digest).await.unwrap());
    assert!(!after.possesses(&name("ghcr.io/evil/python"), &digest).await.unwrap());
}

#[tokio::test]
async fn a_manifest_that_was_edited_on_disk_is_not_served() {
    let folder = tempfile::tempdir().unwrap();
    let (manifest, bytes) = image(b"layer", None);
    let digest = manifest.digest;
    let before = catalog(folder.path()).await;
    before.keep_manifest(&name("python"), manifest, bytes).await.unwrap();
    let mut writer = before.writer().await.unwrap();
    sqlx::query("UPDATE manifest SET bytes = x'7b7d'").execute(&mut *writer).await.unwrap();
    drop(writer);
    drop(before);
    assert!(matches!(catalog(folder.path()).await.manifest(&digest).await, Err(Error::Corrupt(_))));
}

#[tokio::test]
async fn a_full_catalog_says_so_and_goes_on_with_what_it_knows() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Timestamp::UNIX_EPOCH);
    let catalog = Catalog::open(folder.path(), 400 << 10, clock).await.unwrap();
    let (python, tag) = (name("python"), "3.11.9".parse::<Tag>().unwrap());
    let (first, bytes) = image(b"first", None);
    let digest = first.digest;
    catalog.keep_manifest(&python, first, bytes).await.unwrap();
    catalog.lock_tag(&python, &tag, &digest, false).await.unwrap();
    let mut kept = 0;
    let full = loop {
        let text = format!(r#"{{"schemaVersion":2,"manifests":[],"annotations":{{"a":"{kept:020000}"}}}}"#);
        let manifest = Manifest::parse(text.as_bytes(), None, None).unwrap();
        match catalog.keep_manifest(&python, manifest, text.into()).await {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, Error::Full), "{full:?}");
    assert!((5..20).contains(&kept), "{kept}");
    let size = std::fs::metadata(folder.path().join("catalog.db")).unwrap().len();
    assert!(size <= 400 << 10, "{size}");
    assert_eq!(catalog.tag(&python, &tag).await.unwrap().unwrap().locked, Some(digest));
    assert_eq!(catalog.saw_tag(&python, &tag, Some(&digest)).await.unwrap(), None);
    assert_eq!(catalog.lock_tag(&python, &tag, &digest, false).await.unwrap(), digest);
    assert!(catalog.manifest(&digest).await.unwrap().is_some());
    assert!(!catalog.lineage(&python, &Digest::sha256(b"first")).await.unwrap().is_empty());
}

//! What holds for any facts.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::oci::Archive;

const SEEDS: [&str; 4] = ["d", "e", "f", "img"];
const TAGS: [&str; 5] = ["1.0", "latest", "x", "2.0-rc1", "odd"];

fn any_fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        Just(Fault::Absent("a".into())),
        Just(Fault::Denied("d".into())),
        Just(Fault::Invalid("i".into())),
        Just(unreachable()),
    ]
}

fn known<T: std::fmt::Debug + 'static>(value: impl Strategy<Value = T> + 'static) -> BoxedStrategy<Known<T>>
where
    Known<T>: Clone,
{
    prop_oneof![
        1 => Just(()).prop_map(|()| Known::Unasked),
        1 => any_fault().prop_map(Known::Failed),
        6 => value.prop_map(is),
    ]
    .boxed()
}

fn any_digest() -> impl Strategy<Value = Digest> {
    prop::sample::select(&SEEDS[..]).prop_map(digest)
}

fn any_tag() -> impl Strategy<Value = Tag> {
    prop_oneof![
        4 => prop::sample::select(&TAGS[..]).prop_map(tag),
        1 => any_digest().prop_map(|digest| tag(&format!("sha256-{}.sig", digest.hex()))),
    ]
}

fn any_edge() -> impl Strategy<Value = (Role, Descriptor)> {
    let media = prop::sample::select(&[LAYER, MANIFEST, "application/json"][..]);
    let role = prop::sample::select(&[Role::Config, Role::Layer, Role::Child][..]);
    (role, media, prop_oneof![Just(5_u64), Just(40 << 20), Just(u64::MAX)], any::<bool>()).prop_map(
        |(role, media, size, foreign)| {
            let mut edge = edge(role, "edge", media, size);
            if foreign {
                edge.1.urls.push("https://elsewhere.example".to_owned());
            }
            edge
        },
    )
}

fn any_facts() -> impl Strategy<Value = Facts> {
    let image = (any_digest(), prop::collection::vec(any_edge(), 0..3), any::<bool>(), 0..4_u8).prop_map(
        |(digest, edges, old, depth)| {
            let mut manifest = manifest(digest, edges);
            if old {
                manifest.kind = Kind::Schema1;
            }
            Image { manifest: Arc::new(manifest), depth }
        },
    );
    let part = (0..5_u8, any_edge().prop_map(|(_, edge)| edge));
    let parts = prop::collection::vec(part, 0..3);
    let root = (any_digest(), prop::collection::vec(any_tag(), 0..3), 0..5_u8, parts).prop_map(
        |(digest, tags, levels, mut parts)| {
            for (level, _) in &mut parts {
                *level = levels.max(*level);
            }
            Root { digest, tags, levels, parts }
        },
    );
    let size = prop::option::of(prop_oneof![Just(5_u64), Just(40 << 20)]);
    let roots = (size, prop::collection::vec(root, 0..4)).prop_map(|(size, roots)| Roots { size, roots });
    let fact = (prop::option::of(any_digest()), prop::option::of(any_digest()), any::<bool>())
        .prop_map(|(lock, current, stale)| TagFact { lock, current, stale });
    let seen = (any_time(), any::<bool>(), any::<bool>(), any_tag(), any_time(), any::<bool>()).prop_map(
        |(since, first, served, tag, last, current)| {
            let sight = Sight { tag, first, served, since, last, current };
            Seen { first: Some(since), sights: if current { vec![sight] } else { Vec::new() } }
        },
    );
    let bindings = prop::collection::btree_map(Just("EX-1".into()), any_digest(), 0..2);
    let recalled =
        (prop::collection::vec(any_digest(), 0..2), any_digest()).prop_map(|(above, tagged)| Recalled {
            above: SEEDS.iter().map(|seed| (digest(seed), above.clone())).collect(),
            tagged: [(tagged, tag("1.0"))].into(),
        });
    let rest = (
        known(bindings),
        prop::collection::btree_map(any_digest(), known(any_content()), 0..4),
        known(recalled),
        prop::collection::btree_map(any_digest(), known(seen), 0..4),
        known(any_unseen()),
        known(prop::sample::select(&[None, Some(Archive::Gzip)][..])),
    );
    (known(image), known(Just(())), known(any::<bool>()), known(roots), known(fact), rest).prop_map(
        |(image, listed, possession, roots, tag, (bindings, contents, recalled, seen, unseen, archive))| {
            Facts {
                archive,
                bindings,
                contents,
                image,
                listed,
                possession,
                recalled,
                roots,
                seen,
                tag,
                unseen,
            }
        },
    )
}

fn any_unseen() -> impl Strategy<Value = Unseen> {
    (prop::option::of(any_time()), prop::option::of(any_fault()))
        .prop_map(|(until, unanswered)| Unseen { until, unanswered })
}

fn any_time() -> impl Strategy<Value = Timestamp> {
    (0..100_i64).prop_map(|hours| Timestamp::from_second(now().as_second() - hours * 3600).unwrap())
}

fn any_content() -> impl Strategy<Value = Content> {
    let config = (
        prop::sample::select(&["", "0", "10001", "root", "4294967296"][..]),
        prop::sample::select(&["linux", "windows", "unknown", ""][..]),
        prop::option::of(any_time()),
        any_digest(),
    )
        .prop_map(|(user, os, created, diff_id)| ImageConfig {
            platform: Platform {
                architecture: "amd64".to_owned(),
                os: os.to_owned(),
                variant: None,
                os_version: None,
            },
            created,
            user: user.to_owned(),
            labels: BTreeMap::new(),
            diff_ids: vec![diff_id],
        });
    let edges = prop::collection::vec(any_edge(), 0..3);
    (any_digest(), edges, known(config), any_digest(), any_time()).prop_map(
        |(named, edges, config, sha256, first_seen)| Content {
            manifest: Arc::new(manifest(named, edges)),
            sha256,
            first_seen: Some(first_seen),
            config,
        },
    )
}

/// Content rules, held or softened.
fn any_content_rules() -> impl Strategy<Value = Leaves> {
    let mode = any_mode();
    (prop::array::uniform6(any::<bool>()), prop::sample::select(&IndexRule::ALL[..]), mode).prop_map(
        |([user, platforms, age, size, hold, first], index, mode)| Leaves {
            age: age.then(|| {
                let ignore_before = Timestamp::UNIX_EPOCH;
                let max = Duration::from_secs(48 * 3600);
                written(AgeRule { max, clocks: AgeClock::ALL.to_vec(), ignore_before })
            }),
            hold: hold.then(|| written(Duration::from_secs(24 * 3600))),
            hold_first: first.then(|| written(HoldFirst::Serve)),
            index: Some(written(index)),
            modes: Modes::default().with(Softenable::User, mode).with(Softenable::Hold, mode),
            platforms: platforms.then(|| {
                written(vec![PlatformRule {
                    os: "linux".into(),
                    architecture: "amd64".into(),
                    variant: None,
                }])
            }),
            size: size.then(|| written(SizeRule { max: Some(1 << 20), ..SizeRule::default() })),
            user: user.then(|| written(UserRule { min_uid: 10_001, names: Vec::new() })),
            ..Leaves::default()
        },
    )
}

fn any_exception() -> impl Strategy<Value = Exception> {
    let image = prop_oneof![
        Just("r.io/a/x:1.0".to_owned()),
        Just("r.io/a/x:latest".to_owned()),
        any_digest().prop_map(|digest| format!("r.io/a/x@{digest}")),
    ];
    (image, prop::sample::subsequence(Softenable::ALL.to_vec(), 1..4)).prop_map(|(image, waive)| Exception {
        id: "EX-1".into(),
        image: image.parse().unwrap(),
        waive,
        reason: "r".into(),
        ticket: "T".into(),
        requested_by: "a".into(),
        approved_by: "b".into(),
        approved: "2026-11-01".parse().unwrap(),
        expires: "2026-12-01".parse().unwrap(),
        at: "policy.toml:3".into(),
    })
}

fn any_recall() -> impl Strategy<Value = Recall> {
    let digests = || prop::collection::vec(any_digest(), 0..2);
    let tag = prop::option::of(any_tag());
    (digests(), digests(), digests(), prop::option::of(tag)).prop_map(|(digests, layers, diff_ids, image)| {
        let mut recall = recall("RC-1");
        recall.digests = digests;
        recall.layers = layers;
        recall.diff_ids = diff_ids;
        recall.images = image.into_iter().map(|tag| (name("r.io/a/x"), tag)).collect();
        if recall.digests.is_empty() && recall.layers.is_empty() && recall.diff_ids.is_empty() {
            recall.images.push((name("r.io/a/x"), Some(self::tag("x"))));
        }
        recall
    })
}

fn any_what() -> impl Strategy<Value = What> {
    prop_oneof![
        any_digest().prop_map(What::Blob),
        any_digest().prop_map(What::Digest),
        any_digest().prop_map(What::Referrers),
        any_tag().prop_map(What::Tag),
        Just(What::Tags),
    ]
}

fn any_mode() -> impl Strategy<Value = Mode> {
    prop_oneof![3 => Just(Mode::Enforce), 1 => Just(Mode::Warn), 1 => Just(Mode::Observe)]
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let allow = prop::sample::subsequence(vec!["1.0", "#.#", "*", "latest", "#.#-*"], 0..=4);
    let leaves = (
        allow,
        prop::option::of(prop::sample::select(&Digests::ALL[..])),
        prop::option::of(prop::sample::select(&Moved::ALL[..])),
        [any_mode(), any_mode(), any_mode(), any_mode()],
    )
        .prop_map(|(allow, digests, moved, [digest, media, tag, tag_moved])| Leaves {
            digests: digests.map(written),
            moved: moved.map(written),
            modes: Modes::default()
                .with(Softenable::Digest, digest)
                .with(Softenable::Media, media)
                .with(Softenable::Tag, tag)
                .with(Softenable::TagMoved, tag_moved),
            ..allows(&allow)
        });
    let more = (
        any_content_rules(),
        prop::option::of(any_exception()),
        prop::option::of(any_recall()),
        any::<bool>(),
    );
    (leaves, any_mode(), any::<bool>(), more).prop_map(
        |(leaves, mode, pinned, (content, exception, recall, judged))| {
            let mut rules = rules(leaves);
            rules.mode = mode;
            if judged {
                let own = &rules.sources[0].leaves;
                rules.require = Leaves { deny: rules.require.deny.clone(), ..content };
                assert!(own.user.is_none());
            }
            rules.exceptions = exception.into_iter().collect();
            rules.recalls = recall
                .into_iter()
                .map(|mut recall| {
                    recall.id = "RC-0".into();
                    recall
                })
                .collect();
            if pinned {
                rules.pins = vec![pin("r.io/a/x", Some("odd"), digest("e"))];
            }
            rules
        },
    )
}

/// Everything a decision says, in one text.
fn said(decision: &Decision) -> String {
    format!("{decision:?}")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn the_same_arguments_get_the_same_answer_whatever_the_facts(
        rules in any_rules(), what in any_what(), facts in any_facts()
    ) {
        let policy = policy(rules);
        prop_assert_eq!(said(&decide(&policy, what.clone(), &facts)), said(&decide(&policy, what, &facts)));
    }

    #[test]
    fn one_more_deny_pattern_never_allows_more(
        rules in any_rules(), what in any_what(), facts in any_facts(),
        pattern in prop::sample::select(&["1.0", "*", "odd", "x", "#.#", "sha256"][..])
    ) {
        let mut stricter = rules.clone();
        let mut deny = rules.require.deny.clone().unwrap();
        deny.value.push(Pattern::parse(pattern).unwrap());
        stricter.require.deny = Some(deny);
        // Where nothing leads to a digest and that check is softened, it is judged by itself: that what
        // led to it cannot be looked into is no hindrance any more.
        let softened = rules.sources[0].leaves.modes.of(Code::DigestUnknown) != Some(Mode::Enforce);
        let (loose, strict) = (policy(rules), policy(stricter));
        let (loose, strict) = (decide(&loose, what.clone(), &facts), decide(&strict, what, &facts));
        if let Outcome::Permit(_) = strict.outcome {
            let refuses = match &loose.outcome {
                Outcome::Refuse(refusal) => !softened || refusal.code != Code::FactsUnavailable,
                _ => false,
            };
            prop_assert!(!refuses, "{:?}\n{:?}", strict, loose);
        }
    }

    #[test]
    fn one_more_recall_never_allows_more(
        rules in any_rules(), what in any_what(), facts in any_facts(), recall in any_recall()
    ) {
        let mut stricter = rules.clone();
        stricter.recalls.push(recall);
        let (loose, strict) = (policy(rules), policy(stricter));
        let (loose, strict) = (decide(&loose, what.clone(), &facts), decide(&strict, what, &facts));
        if let Outcome::Permit(permitted) = &strict.outcome {
            let Outcome::Permit(before) = &loose.outcome else {
                prop_assert!(!matches!(loose.outcome, Outcome::Refuse(_)), "{:?}\n{:?}", strict, loose);
                return Ok(());
            };
            prop_assert_eq!(format!("{:?}", permitted.target()), format!("{:?}", before.target()));
            prop_assert_eq!(permitted.lock(), before.lock(), "a recall never moves a lock");
        }
    }

    #[test]
    fn no_exception_lifts_what_nobody_may_waive(
        rules in any_rules(), what in any_what(), facts in any_facts(), exception in any_exception()
    ) {
        let mut excepted = rules.clone();
        excepted.exceptions = vec![exception];
        let (strict, excepted) = (policy(Rules { exceptions: Vec::new(), ..rules }), policy(excepted));
        let asked = what.clone();
        let (strict, excepted) = (decide(&strict, what.clone(), &facts), decide(&excepted, what, &facts));
        if let (Outcome::Refuse(refusal), Outcome::Permit(_)) = (&strict.outcome, &excepted.outcome) {
            // Of a blob this code sums up why each image that holds it is refused, waivable reasons too.
            let summed = |code: Code| matches!(asked, What::Blob(_)) && code == Code::ClosureOutside;
            let waivable = |code: Code| {
                summed(code) || Softenable::ALL.iter().any(|check| check.codes().contains(&code))
            };
            prop_assert!(refusal.reasons.iter().all(|reason| waivable(reason.code)), "{:?}", refusal);
        }
    }

    #[test]
    fn what_is_permitted_was_judged(rules in any_rules(), what in any_what(), facts in any_facts()) {
        let waived = rules.exceptions.iter().any(|exception| exception.waive.contains(&Softenable::Media));
        let mode = rules.sources[0].leaves.modes.of(Code::MediaRefused);
        let enforced = rules.mode == Mode::Enforce && mode == Some(Mode::Enforce) && !waived;
        let decision = decide(&policy(rules), what.clone(), &facts);
        if let Outcome::Permit(permit) = &decision.outcome {
            match permit.target() {
                Target::Manifest(manifest) => {
                    prop_assert!(!enforced || manifest.kind != Kind::Schema1);
                    let deep = matches!(&facts.image, Known::Is(image) if image.depth > 2);
                    prop_assert!(!enforced || manifest.kind != Kind::Index || !deep);
                    if let What::Digest(asked) = what {
                        prop_assert_eq!(manifest.digest, asked);
                    }
                }
                Target::Blob { digest, size } => {
                    prop_assert!(matches!(&facts.possession, Known::Is(is) if **is));
                    let Known::Is(roots) = &facts.roots else { panic!("permitted without roots") };
                    let sizes: Vec<u64> =
                        roots.roots.iter().flat_map(|root| &root.parts).map(|(_, part)| part.size).collect();
                    prop_assert!(sizes.contains(size), "{} is in no descriptor", size);
                    prop_assert_eq!(What::Blob(*digest), what);
                }
                Target::Referrers(subject) => prop_assert_eq!(What::Referrers(*subject), what),
                Target::Tags => prop_assert_eq!(What::Tags, what),
            }
            prop_assert!(permit.lock().is_none() || decision.verdict == Verdict::Allow);
        }
    }

    #[test]
    fn gathering_what_is_needed_always_ends(
        rules in any_rules(), what in any_what(), world in any_facts()
    ) {
        let policy = policy(rules);
        let mut facts = Facts::default();
        let mut turns = 0;
        let decision = loop {
            let decision = decide(&policy, what.clone(), &facts);
            let Outcome::Need(need) = &decision.outcome else { break decision };
            turns += 1;
            prop_assert!(turns <= 14, "still needs {:?}", need.lack());
            match need.lack() {
                Lack::Image(digest) => facts.image = image_under(*digest, &world),
                Lack::Archive { .. } => facts.archive = answered(&world.archive, || None),
                Lack::Bindings => facts.bindings = answered(&world.bindings, BTreeMap::new),
                Lack::Contents(digests) => {
                    for digest in digests {
                        let known = match world.contents.get(digest) {
                            Some(Known::Is(content)) => {
                                let mut manifest = Manifest::clone(&content.manifest);
                                manifest.digest = *digest;
                                is(Content { manifest: Arc::new(manifest), ..Content::clone(content) })
                            }
                            Some(known @ Known::Failed(_)) => known.clone(),
                            Some(Known::Unasked) | None => Known::Failed(Fault::Absent("c".into())),
                        };
                        facts.contents.insert(*digest, known);
                    }
                }
                Lack::Recalled { digests, .. } => {
                    let mut recalled = match (&facts.recalled, &world.recalled) {
                        (Known::Is(recalled), _) | (_, Known::Is(recalled)) => Recalled::clone(recalled),
                        _ => Recalled::default(),
                    };
                    for digest in digests {
                        recalled.above.entry(*digest).or_default();
                    }
                    facts.recalled = is(recalled);
                }
                Lack::Unseen { .. } => {
                    facts.unseen = answered(&world.unseen, Unseen::default);
                    facts.recalled = Known::Unasked;
                }
                Lack::Seen(digest) => {
                    let known = world.seen.get(digest).map_or_else(|| is(Seen::default()), |known| {
                        answered(known, Seen::default)
                    });
                    facts.seen.insert(*digest, known);
                }
                Lack::Listed(_) => {
                    facts.listed = answered(&world.listed, || ());
                    facts.roots = Known::Unasked;
                }
                Lack::Possession { .. } => facts.possession = answered(&world.possession, || true),
                Lack::Roots(_) => facts.roots = answered(&world.roots, Roots::default),
                Lack::Tag { .. } => {
                    facts.tag = answered(&world.tag, || TagFact { lock: None, current: None, stale: false });
                }
            }
        };
        prop_assert!(!matches!(decision.outcome, Outcome::Need(_)));
    }
}

fn answered<T>(known: &Known<T>, otherwise: impl FnOnce() -> T) -> Known<T> {
    match known {
        Known::Failed(fault) => Known::Failed(fault.clone()),
        Known::Is(value) => Known::Is(value.clone()),
        Known::Unasked => is(otherwise()),
    }
}

fn image_under(digest: Digest, world: &Facts) -> Known<Image> {
    match &world.image {
        Known::Failed(fault) => Known::Failed(fault.clone()),
        Known::Is(image) => {
            let mut manifest = Manifest::clone(&image.manifest);
            manifest.digest = digest;
            of(manifest)
        }
        Known::Unasked => of(manifest(digest, vec![])),
    }
}

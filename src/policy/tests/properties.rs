//! What holds for any facts.

use proptest::prelude::*;

use super::*;

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
    (known(image), known(Just(())), known(any::<bool>()), known(roots), known(fact))
        .prop_map(|(image, listed, possession, roots, tag)| Facts { image, listed, possession, roots, tag })
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
            modes: Modes {
                digest: Some(digest),
                media: Some(media),
                tag: Some(tag),
                tag_moved: Some(tag_moved),
            },
            ..allows(&allow)
        });
    (leaves, any_mode(), any::<bool>()).prop_map(|(leaves, mode, pinned)| {
        let mut rules = rules(leaves);
        rules.mode = mode;
        if pinned {
            rules.pins = vec![pin("r.io/a/x", Some("odd"), digest("e"))];
        }
        rules
    })
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
        let (loose, strict) = (policy(rules), policy(stricter));
        let (loose, strict) = (decide(&loose, what.clone(), &facts), decide(&strict, what, &facts));
        if let Outcome::Permit(_) = strict.outcome {
            let refuses = matches!(loose.outcome, Outcome::Refuse(_));
            prop_assert!(!refuses, "{:?}\n{:?}", strict, loose);
        }
    }

    #[test]
    fn what_is_permitted_was_judged(rules in any_rules(), what in any_what(), facts in any_facts()) {
        let enforced = rules.mode == Mode::Enforce && rules.sources[0].leaves.modes.media == Some(Mode::Enforce);
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
            prop_assert!(turns <= 8, "still needs {:?}", need.lack());
            match need.lack() {
                Lack::Image(digest) => facts.image = image_under(*digest, &world),
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

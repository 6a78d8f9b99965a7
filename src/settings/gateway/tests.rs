use super::*;

fn read(text: &str) -> Result<Gateway, FileError> {
    parse(Path::new("pullgate.toml"), text)
}

fn refused(text: &str) -> (String, String) {
    let error = read(text).expect_err(text);
    let help = miette::Diagnostic::help(&error).map(|help| help.to_string()).unwrap_or_default();
    (error.to_string(), help)
}

#[test]
fn an_empty_file_means_the_defaults() {
    assert_eq!(read("").unwrap(), Gateway::default());
    assert_eq!(Gateway::default().storage.max_size, 53_687_091_200);
}

#[test]
fn the_shipped_file_says_nothing_but_the_defaults() {
    assert_eq!(read(include_str!("../../../config/pullgate.toml")).unwrap(), Gateway::default());
}

#[test]
fn the_contract_of_the_shipped_file_with_every_comment_opened_is_understood() {
    let shipped = include_str!("../../../config/pullgate.toml");
    let opened: String = shipped
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            // A commented-out table or key, not prose.
            Some(rest)
                if rest.starts_with("[[")
                    || rest.split_once(" = ").is_some_and(|(key, _)| !key.trim_end().contains(' ')) =>
            {
                format!("{rest}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let gateway = read(&opened).unwrap();
    assert_eq!(gateway.upstreams.len(), 1);
    assert_eq!(gateway.clients.len(), 1);
    assert!(gateway.listen.client_ca.is_some());
    let upstream = &gateway.upstreams[0];
    assert!(
        matches!(&upstream.origin, Origin::Endpoint(url) if url.as_str() == "https://registry-1.docker.io/")
    );
    assert!(matches!(&upstream.auth, Some(Auth::Password { username, .. }) if username == "ci"));
    assert_eq!(gateway.clients[0].tokens.as_ref().unwrap().len(), 1);
    assert_eq!(gateway.sinks.len(), 3);
}

#[test]
fn every_key_with_its_listed_default_reads_as_the_default() {
    for key in KEYS {
        let Some(default) =
            key.default.filter(|_| !["sink.", "upstream."].iter().any(|table| key.path.starts_with(table)))
        else {
            continue;
        };
        let text = format!("{} = {default}\n", key.path);
        assert_eq!(read(&text).expect(&text), Gateway::default(), "{text}");
    }
}

#[test]
fn every_key_is_in_the_list_and_every_listed_key_is_understood() {
    // serde names the fields it knows when it meets one it does not: the two lists must be one.
    let fields = |text: &str| {
        let error = toml::from_str::<Gateway>(text).expect_err(text).message().to_owned();
        let mut names: Vec<String> = error.split('`').skip(3).step_by(2).map(str::to_owned).collect();
        names.sort();
        names
    };
    let listed = |parent: &str| {
        let mut names: Vec<String> = KEYS
            .iter()
            .filter_map(|key| match parent {
                "" => Some(key.path),
                parent => key.path.strip_prefix(parent)?.strip_prefix('.'),
            })
            .filter_map(|path| path.split('.').next())
            .map(str::to_owned)
            .collect();
        names.sort();
        names.dedup();
        names
    };
    assert_eq!(fields("nonsense = 1"), listed(""));
    for table in ["listen", "admin", "storage", "audit", "policy", "cache", "deny", "limits", "listen.tls"] {
        let text = format!("[{table}]\nnonsense = 1\n");
        // With one or two fields serde words it differently, yet still in backticks.
        assert_eq!(fields(&text), listed(table), "{table}");
    }
    assert_eq!(fields("[[upstream]]\nnonsense = 1"), listed("upstream"));
    assert_eq!(fields("[[upstream]]\nauth = { nonsense = 1 }"), listed("upstream.auth"));
    assert_eq!(fields("[[client]]\nnonsense = 1"), listed("client"));
    assert_eq!(fields("[[sink]]\nnonsense = 1"), listed("sink"));
}

#[test]
fn the_documentation_names_every_key_with_its_type_default_and_version_and_no_other() {
    let page = include_str!("../../../docs/configuration.md");
    let mut rows = Vec::new();
    let section = page.split("<!-- keys -->").nth(1).expect("docs/configuration.md has <!-- keys --> marks");
    for line in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 5, "{line}");
        assert!(cells[4].len() > 10, "a meaning is missing: {line}");
        rows.push((
            cells[0].trim_matches('`').to_owned(),
            cells[1].to_owned(),
            cells[2].trim_matches('`').to_owned(),
            cells[3].to_owned(),
        ));
    }
    let listed: Vec<_> = KEYS
        .iter()
        .map(|key| {
            let default = key.default.unwrap_or("–").to_owned();
            (key.path.to_owned(), key.kind.to_owned(), default, key.since.to_owned())
        })
        .collect();
    assert_eq!(rows, listed);
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_what_was_meant() {
    let (line, help) = refused("default_registry = \"docker.io\"\n\n[listen]\nadress = \"0.0.0.0:1\"\n");
    assert_eq!(line, "pullgate.toml:4: unknown key `listen.adress`");
    assert_eq!(help, "did you mean `address`?");
    let (line, help) = refused("tag_ttl = \"15m\"");
    assert_eq!(line, "pullgate.toml:1: unknown key `tag_ttl`");
    assert_eq!(help, "did you mean `cache.tag_ttl`?");
    let (line, help) = refused("[[upstream]]\nregistry = \"ghcr.io\"\nendpoit = \"https://ghcr.io\"");
    assert_eq!(line, "pullgate.toml:3: unknown key `upstream.endpoit`");
    assert_eq!(help, "did you mean `endpoint`?");
}

#[test]
fn all_unknown_keys_are_told_at_once() {
    let error = read("[deny]\nnss = \"firm\"\n[limits]\ndrian = \"1s\"\n").unwrap_err();
    assert_eq!(error.problems().len(), 2);
    assert_eq!(error.to_string(), "pullgate.toml:2: unknown key `deny.nss` (and 1 more)");
}

#[test]
fn what_is_reserved_or_not_built_yet_is_an_error_that_says_so() {
    for (text, key) in [
        ("sealed = true", "sealed = true"),
        ("[[admin.user]]\nname = \"x\"", "admin.user"),
        ("[admin]\ntls = {}", "admin.tls"),
        ("[[sink]]\nkind = \"syslog\"", "sink"),
        ("[canary]", "canary"),
        ("[connect]", "connect"),
        ("[[alert]]", "alert"),
        ("[prefetch]", "prefetch"),
        ("[shadow]", "shadow"),
    ] {
        let (line, _) = refused(text);
        assert!(line.ends_with(&format!(": {key} is not supported by this version; remove it")), "{line}");
    }
    assert!(read("sealed = false").is_ok());
}

#[test]
fn a_wrong_value_is_refused_with_its_key_and_what_is_expected() {
    for (text, wanted) in [
        ("[listen]\naddress = \"8443\"", "listen.address: \"8443\" is no listening address"),
        ("[listen]\naddress = 8443", "listen.address: invalid type"),
        ("[listen]\nhosts = [\"https://x\"]", "listen.hosts: \"https://x\" is neither a host name"),
        ("[listen]\nhosts = []", "listen.hosts: a certificate needs at least one name"),
        ("[listen]\ntrusted_proxies = [\"ten\"]", "listen.trusted_proxies: \"ten\" is no address range"),
        ("[listen]\ntls = { key = \"\" }", "listen.tls.key: an empty path"),
        ("[storage]\nmax_size = \"50 gigs\"", "storage.max_size: \"50 gigs\" is no size"),
        ("[storage]\nmax_size = -1", "storage.max_size: a size cannot be negative"),
        (
            "[audit]\non_full = \"drop\"",
            "audit.on_full: unknown variant `drop`, expected `refuse` or `serve`",
        ),
        ("[cache]\ntag_ttl = \"soon\"", "cache.tag_ttl: \"soon\" is no duration"),
        ("[limits]\nrefusals = \"60\"", "limits.refusals: \"60\" is no rate"),
        ("[limits]\nhandshake = \"0s\"", "limits.handshake: a time limit of zero"),
        ("[limits]\nconnections = 0", "limits.connections: none could connect"),
        ("[limits]\nconnections_per_address = 0", "limits.connections_per_address: none could connect"),
        ("[limits]\nheader_bytes = \"1GiB\"", "limits.header_bytes: out of range"),
        ("[admin]\naddress = \"0.0.0.0:8443\"", "admin.address: the pull listener has this address"),
        ("default_registry = \"Docker Hub\"", "default_registry: malformed registry"),
        ("[deny]\nns = \"soft\"", "deny.ns: unknown variant `soft`"),
    ] {
        let (line, _) = refused(text);
        assert!(line.contains(wanted), "{line}\nwanted {wanted}");
        assert!(line.starts_with("pullgate.toml:"), "{line}");
    }
}

#[test]
fn broken_toml_is_refused_at_its_line() {
    let (line, _) = refused("a = 1\nb = \n");
    assert!(line.starts_with("pullgate.toml:2: "), "{line}");
    let (line, _) = refused("[listen]\n[listen]\n");
    assert!(line.starts_with("pullgate.toml:2: "), "{line}");
}

fn upstream(keys: &str) -> Result<Upstream, String> {
    let text = format!("[[upstream]]\n{keys}\n");
    read(&text).map(|gateway| gateway.upstreams[0].clone()).map_err(|error| error.to_string())
}

#[test]
fn an_upstream_is_an_endpoint_or_a_folder_or_the_registry_itself() {
    let origin = |keys: &str| upstream(keys).map(|upstream| upstream.origin);
    assert_eq!(origin("registry = \"ghcr.io\""), Ok(Origin::Registry));
    assert_eq!(origin("registry = \"ghcr.io\"\nlayout = \"images\""), Ok(Origin::Layout("images".into())));
    let both = origin("registry = \"ghcr.io\"\nlayout = \"images\"\nendpoint = \"https://x\"");
    assert_eq!(
        both.unwrap_err().split(": ").nth(2).unwrap(),
        "upstream ghcr.io has both `endpoint` and `layout`; keep one"
    );
    assert!(
        origin("registry = \"ghcr.io\"\nlayout = \"images\"\nca = \"x\"")
            .unwrap_err()
            .contains("belong to an endpoint")
    );
    assert!(origin("endpoint = \"https://x\"").unwrap_err().contains("missing field `registry`"));
}

#[test]
fn an_endpoint_is_https_and_carries_no_credentials() {
    for (url, wanted) in [
        ("http://registry.example.com", "https:// only; there is no insecure switch"),
        ("https://user:pass@registry.example.com", "credentials do not belong into an endpoint"),
        ("https://registry.example.com?x=1", "no query"),
        ("registry.example.com", "malformed endpoint"),
    ] {
        let line = upstream(&format!("registry = \"ghcr.io\"\nendpoint = \"{url}\"")).unwrap_err();
        assert!(line.contains(wanted), "{line}");
        assert!(line.starts_with("pullgate.toml:3: "), "{line}");
    }
}

#[test]
fn credentials_have_one_of_four_shapes_and_never_stand_in_the_file() {
    let auth = |keys: &str| {
        upstream(&format!("registry = \"ghcr.io\"\nauth = {{ {keys} }}"))
            .map(|upstream| upstream.auth.unwrap())
    };
    let password = |password| Auth::Password { username: "ci".into(), password };
    assert_eq!(
        auth("username = \"ci\", password_file = \"/run/secrets/hub\""),
        Ok(password(SecretFrom::File("/run/secrets/hub".into())))
    );
    assert_eq!(
        auth("username = \"ci\", password_env = \"HUB\""),
        Ok(password(SecretFrom::Env("HUB".into())))
    );
    assert_eq!(auth("docker_config = \"c.json\""), Ok(Auth::DockerConfig("c.json".into())));
    assert_eq!(auth("identity_token_file = \"t\""), Ok(Auth::IdentityTokenFile("t".into())));
    for keys in [
        "",
        "username = \"ci\"",
        "password_env = \"HUB\"",
        "username = \"ci\", password_env = \"A\", password_file = \"b\"",
        "username = \"ci\", password_env = \"A\", docker_config = \"b\"",
        "username = \"c:i\", password_env = \"A\"",
    ] {
        assert!(auth(keys).unwrap_err().contains("`auth`"), "{keys}");
    }

    let error =
        read("[[upstream]]\nregistry = \"ghcr.io\"\nauth = { username = \"ci\", password = \"hunter2\" }")
            .unwrap_err();
    let line = error.to_string();
    let shown = format!("{line} {:?}", miette::Report::new(error));
    assert!(shown.contains("a secret is never written here"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn several_upstreams_of_one_registry_keep_their_order() {
    let text = "[[upstream]]\nregistry = \"docker.io\"\nendpoint = \"https://b.example\"\n\
                [[upstream]]\nregistry = \"index.docker.io\"\nendpoint = \"https://a.example\"\n";
    let gateway = read(text).unwrap();
    let hosts: Vec<_> = gateway
        .upstreams
        .iter()
        .map(|upstream| match &upstream.origin {
            Origin::Endpoint(url) => (upstream.registry.as_str(), url.host_str().unwrap()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(hosts, [("docker.io", "b.example"), ("docker.io", "a.example")]);
}

#[test]
fn hosts_may_have_a_wildcard_only_above_a_domain() {
    let hosts = |host: &str| upstream(&format!("registry = \"ghcr.io\"\nblob_hosts = [\"{host}\"]"));
    for host in ["*.cloudflarestorage.com", "cdn.example.com:8443", "10.0.0.1"] {
        assert_eq!(hosts(host).unwrap().blob_hosts.unwrap(), [host]);
    }
    for host in ["*", "*.com", "a.*.com", "https://x.example", "x.example/path", "x:0", ""] {
        assert!(hosts(host).is_err(), "{host}");
    }
}

#[test]
fn a_client_must_be_somebody() {
    let client = |keys: &str| read(&format!("[[client]]\n{keys}\n")).map_err(|error| error.to_string());
    let hash = "a".repeat(64);
    let gateway =
        client(&format!("name = \"ci\"\nranges = [\"10.20.1.0/16\", \"::1\"]\ntoken_sha256 = [\"{hash}\"]"))
            .unwrap();
    let ranges: Vec<_> = gateway.clients[0].ranges.iter().flatten().map(ToString::to_string).collect();
    assert_eq!(ranges, ["10.20.0.0/16", "::1/128"]);
    for (keys, wanted) in [
        ("name = \"ci\"", "would be everyone"),
        ("name = \"ci\"\nranges = []", "would be nobody"),
        ("name = \"\"\nranges = [\"::1\"]", "1 to 64"),
        ("ranges = [\"::1\"]", "missing field `name`"),
        ("name = \"ci\"\ntoken_sha256 = [\"secret\"]", "64 hex digits"),
    ] {
        let line = client(keys).unwrap_err();
        assert!(line.contains(wanted), "{line}");
    }
}

#[test]
fn a_missing_file_says_how_to_get_one() {
    let error = load(Path::new("/nonexistent/pullgate.toml")).unwrap_err();
    assert!(error.to_string().starts_with("cannot read /nonexistent/pullgate.toml: "));
    assert!(miette::Diagnostic::help(&error).unwrap().to_string().contains("pullgate init"));
}

#[test]
fn no_text_makes_it_panic() {
    let shipped = include_str!("../../../config/pullgate.toml");
    for (head, tail) in (0..shipped.len()).step_by(7).filter_map(|cut| shipped.split_at_checked(cut)) {
        let _ = read(head);
        let _ = read(tail);
    }
    for text in
        ["\u{0}", "[[]]", "upstream = 1", "client = [1]", "listen = []", "[listen]\ntls = 1", "é = \"ü\""]
    {
        assert!(read(text).is_err(), "{text}");
    }
}

//! The fuzz targets on a stable compiler: every stored input, then a bounded run of mutations of them.
//!
//! The run is the same each time. `PULLGATE_FUZZ_SEED` makes another one, `PULLGATE_FUZZ_ROUNDS` a longer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

#[expect(unreachable_pub, reason = "in the fuzz crate the same file is the library")]
#[path = "../../fuzz/targets.rs"]
mod targets;

const SEED: u64 = 2026;
/// No input grows beyond this many bytes.
const LENGTH_MAX: usize = 8 << 10;

/// What random bytes would take too long to spell.
const WORDS: &[&str] = &[
    "..",
    "%2e",
    "%2F",
    "%3A",
    "%3a",
    "/",
    "//",
    ":",
    ":443",
    "@",
    "?",
    "&",
    "?ns=",
    "&ns=",
    "ns=docker.io",
    "docker.io",
    "docker.io.evil.com",
    "registry-1.docker.io",
    "ghcr.io",
    "localhost",
    "library",
    "quay.io",
    "127.0.0.1",
    "0x7f.1",
    "2130706433",
    "[::1]",
    "[::ffff:10.0.0.1]",
    "manifests",
    "blobs",
    "uploads",
    "tags/list",
    "referrers",
    "latest",
    "sha256:",
    "sha512:",
    "sha256-",
    ".sig",
    "n=",
    "last=",
    "é",
    "\u{17f}",
    "\u{212a}",
    "\u{0}",
    "\r\n",
    "\n",
    "\"",
    "'",
    "\\u0000",
    "{",
    "}",
    "[",
    "]",
    "{}",
    "[]",
    "null",
    "true",
    "-1",
    "1e9",
    "18446744073709551616",
    "\"manifests\":[],",
    "\"layers\":[],",
    "\"Layers\":[],",
    "\"urls\":[\"http://x\"],",
    "\"URLs\":[\"http://x\"],",
    "\"mediaType\":\"\",",
    "\"size\":",
    "\"schemaVersion\":1,",
    "Content-Type: \n",
    "[[source]]\n",
    "[[pin]]\n",
    "[[test]]\n",
    "[require.tags]\n",
    "[[upstream]]\n",
    "[[client]]\n",
    "match = ",
    "allow = ",
    "deny = ",
    "clients = ",
    "mode = \"warn\"\n",
    "unlisted = [\"localhost\"]\n",
    "digests = \"known\"\n",
    "\"**\"",
    "*",
    "#",
    "#.#.#",
    "https://",
    "http://",
    "\"\"\"",
    "= 1",
    ".",
    "-",
    "_",
    "__",
    "9999-99-99",
    "image: ",
    "containers:\n- ",
    "- ",
    "<<: *a\n",
    "&a ",
    "*a",
    "!!str ",
    "|\n  ",
    ">-\n  ",
    "---\n",
    "${A:-b}",
    "$$",
    "{{ a }}",
    "${{ a }}",
    "\n{{- if a }}\n",
    "FROM ",
    "COPY --from=",
    "RUN --mount=from=",
    "ARG A=b\n",
    "RUN <<A\n",
    "\\\n",
    "# syntax=",
    "# escape=`\n",
    "\u{feff}",
    "\t",
];

#[test]
fn any_request_line_is_refused_or_has_one_meaning() {
    hold("request", targets::request, 30_000);
}

#[test]
fn any_reference_is_refused_or_has_one_normal_form() {
    hold("reference", targets::reference, 40_000);
}

#[test]
fn any_manifest_is_refused_or_read_as_every_client_reads_it() {
    hold("manifest", targets::manifest, 10_000);
}

#[test]
fn any_policy_file_is_refused_or_lets_through_only_what_it_names() {
    hold("policy", targets::policy, 1_000);
}

#[test]
fn any_file_that_names_images_is_read_in_place_and_pinned_without_a_change_of_meaning() {
    hold("files", targets::files, 15_000);
}

#[test]
fn any_settings_file_is_refused_or_safe() {
    hold("gateway", targets::gateway, 1_500);
}

/// Runs a target over its corpus, and then over `rounds` mutations of it.
fn hold(target: &str, body: fn(&[u8]), rounds: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut corpus = Vec::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        corpus.push((path.clone(), std::fs::read(&path).unwrap()));
    }
    // A folder lists its files in any order; the run must not hang on it.
    corpus.sort();
    assert!(!corpus.is_empty(), "{} is empty", folder.display());
    for (path, input) in &corpus {
        attempt(body, input, || path.display().to_string());
    }
    let seed = setting("PULLGATE_FUZZ_SEED").unwrap_or(SEED);
    let rounds = setting("PULLGATE_FUZZ_ROUNDS").map_or(rounds, |rounds| usize::try_from(rounds).unwrap());
    let inputs: Vec<Vec<u8>> = corpus.into_iter().map(|(_, input)| input).collect();
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..rounds {
        let input = mutate(&mut random, &inputs);
        attempt(body, &input, || {
            format!("round {round} of PULLGATE_FUZZ_SEED={seed}, to be kept in fuzz/corpus/{target}")
        });
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect(name))
}

/// The panic itself was printed; this says what made it.
fn attempt(body: fn(&[u8]), input: &[u8], what: impl Fn() -> String) {
    if catch_unwind(AssertUnwindSafe(|| body(input))).is_err() {
        panic!("{}: b\"{}\"", what(), input.escape_ascii());
    }
}

/// One of the inputs, changed in a few places.
fn mutate(random: &mut fastrand::Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut input = corpus[random.usize(..corpus.len())].clone();
    for _ in 0..random.usize(1..=4) {
        let at = random.usize(..=input.len());
        let end = (at + random.usize(..16)).min(input.len());
        match random.u8(..8) {
            0 => drop(input.drain(at..end)),
            1 => drop(input.splice(at..at, input[at..end].to_vec())),
            2 => drop(input.splice(at..at, [random.u8(0x20..0x7f)])),
            3 if at < input.len() => input[at] = random.u8(..),
            4 if at < input.len() => input[at] ^= 0x20,
            5 => {
                // Whole lines move together: tables into other tables, keys twice.
                let other = &corpus[random.usize(..corpus.len())];
                let lines: Vec<&[u8]> = other.split_inclusive(|byte| *byte == b'\n').collect();
                let line = lines.get(random.usize(..lines.len().max(1))).copied().unwrap_or_default();
                let start = input[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |found| found + 1);
                drop(input.splice(start..start, line.iter().copied()));
            }
            6 => {
                let word = WORDS[random.usize(..WORDS.len())];
                drop(input.splice(at..end, word.bytes()));
            }
            _ => {
                let word = WORDS[random.usize(..WORDS.len())];
                drop(input.splice(at..at, word.bytes()));
            }
        }
    }
    input.truncate(LENGTH_MAX);
    input
}

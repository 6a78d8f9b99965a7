//! `pullgate log verify`: is the record what was written?

use std::io::Write;
use std::path::{Path, PathBuf};

use super::super::{Exit, Failure};
use crate::audit::{self, Checkpoint, Evidence, Finding, Proof, VerifierKey, printable};
use crate::settings::gateway;

/// Proves that the log is what was written: nothing edited, removed, moved or made anew.
///
/// Reads the whole log and changes nothing, whether the gateway runs or not. What was signed is proven;
/// whether something is missing at the end only a later checkpoint tells, one that was kept elsewhere.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pullgate log verify                                  with the key that lies beside the log
  pullgate log verify --key /etc/pullgate/audit.pub    with a key that was kept elsewhere
  pullgate log verify --key audit.pub --checkpoint siem/checkpoints.ndjson
                                                       is all there that was signed by then?

Exit status: 0 it is what was written, 1 it is not, 2 the log, the key or a checkpoint cannot be read.")]
pub(super) struct Arguments {
    /// The gateway's configuration; its [storage] path is where the log is
    #[arg(long, value_name = "FILE", default_value = "config/pullgate.toml")]
    config: PathBuf,

    /// A checkpoint kept elsewhere: a signed note, or events of which some are checkpoints, one a line
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,

    /// Whose signatures count: a verifier key, or a file of them, one a line
    #[arg(long, value_name = "VKEY|FILE")]
    key: Vec<String>,

    /// The result as one JSON object
    #[arg(long)]
    json: bool,
}

/// Something given on the command line that cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("cannot read {}: {error}", path.display())]
    File { path: PathBuf, error: std::io::Error },
    #[error("--key {path}: {detail}")]
    Key { path: String, detail: String },
    #[error("{} holds no checkpoint: expected a signed note, or events of which some are checkpoints", .0.display())]
    NoCheckpoint(PathBuf),
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(Unusable::File { path: path.to_owned(), error }))
}

fn evidence(arguments: &Arguments) -> Result<Evidence, Failure> {
    let mut evidence = Evidence::default();
    for key in &arguments.key {
        // A verifier key has pluses, which a file may have too.
        match key.parse::<VerifierKey>() {
            Ok(key) => evidence.keys.push(key),
            Err(detail) if !Path::new(key).exists() => {
                return Err(Failure::usage(Unusable::Key { path: key.clone(), detail }));
            }
            Err(_) => {
                let wrong = |detail| Failure::usage(Unusable::Key { path: key.clone(), detail });
                let keys = VerifierKey::all_in(&read(Path::new(key))?).map_err(wrong)?;
                if keys.is_empty() {
                    return Err(wrong("the file holds no verifier key".to_owned()));
                }
                evidence.keys.extend(keys);
            }
        }
    }
    for path in &arguments.checkpoint {
        let notes = Checkpoint::notes_in(&read(path)?);
        if notes.is_empty() {
            return Err(Failure::usage(Unusable::NoCheckpoint(path.clone())));
        }
        evidence.notes.extend(notes);
    }
    Ok(evidence)
}

/// Runs the command: the result to standard output, remarks to standard error.
pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<Exit, Failure> {
    let settings = gateway::load(&arguments.config).map_err(Failure::unjudged)?;
    let evidence = evidence(arguments)?;
    let proof = super::super::block_on(audit::verify(&settings.storage.path, &evidence))??;
    if arguments.json {
        writeln!(out, "{}", json(&proof))?;
    } else {
        out.write_all(words(&proof).as_bytes())?;
    }
    out.flush()?;
    if !arguments.json && evidence.keys.is_empty() {
        // Where standard error is gone, nobody is left to tell.
        let _ = writeln!(
            anstream::stderr(),
            "the key was taken from beside the log: whoever can rewrite both proves nothing to you. Keep audit.pub \
             elsewhere and give it as --key"
        );
    }
    Ok(if proof.finding.is_none() { Exit::Done } else { Exit::No })
}

fn words(proof: &Proof) -> String {
    if let Some(Finding { seq, id, fault, text }) = &proof.finding {
        let id = id.as_deref().map(|id| format!(" ({})", printable(id))).unwrap_or_default();
        return format!(
            "THE LOG IS NOT WHAT WAS WRITTEN\nfirst bad place: {seq}{id}: {}: {}\nup to there {} events were as \
             they should be\n",
            fault.as_str(),
            printable(text),
            proof.events,
        );
    }
    let mut lines = format!(
        "the log is what was written: {} events, {} valid checkpoints\n",
        proof.events, proof.checkpoints
    );
    lines.push_str(&match (proof.proven, proof.unproven) {
        (0, _) => "no checkpoint signs it: nothing proves yet that it is complete\n".to_owned(),
        (proven, 0) => format!("proven complete up to {proven}, its end\n"),
        (proven, unproven) => format!(
            "proven complete up to {proven}; {unproven} later events are linked but not signed: a later checkpoint \
             (--checkpoint) tells whether some are missing\n"
        ),
    });
    if proof.removed > 0 {
        lines.push_str(&format!(
            "{} places were emptied by retention, which vouches for each\n",
            proof.removed
        ));
    }
    if proof.unchained > 0 {
        lines.push_str(&format!(
            "{} events are from before there was a chain: nothing proves them\n",
            proof.unchained
        ));
    }
    if proof.incomparable > 0 {
        lines.push_str(&format!(
            "{} checkpoints given cover places that retention emptied: they could not be compared\n",
            proof.incomparable
        ));
    }
    lines
}

fn json(proof: &Proof) -> serde_json::Value {
    let finding = proof.finding.as_ref().map(|Finding { seq, id, fault, text }| {
        serde_json::json!({"seq": seq, "id": id, "fault": fault.as_str(), "text": text})
    });
    serde_json::json!({
        "ok": finding.is_none(),
        "events": proof.events,
        "checkpoints": proof.checkpoints,
        "proven": proof.proven,
        "unproven": proof.unproven,
        "last": proof.last,
        "removed": proof.removed,
        "unchained": proof.unchained,
        "incomparable": proof.incomparable,
        "finding": finding,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::audit::{Actor, Event, Filter, Kind, Log, OnFull, Settings};
    use crate::clock::Clock;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    struct Place {
        folder: tempfile::TempDir,
        note: String,
        key: String,
    }

    impl Place {
        /// A log of two signed events.
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let settings = Settings {
                path: folder.path().to_owned(),
                max_size: 64 << 20,
                on_full: OnFull::Serve,
                refusals_per_minute: 60,
            };
            let log = Log::open(settings, Clock::system()).await.unwrap();
            for note in ["one", "two"] {
                let event = Event::Admin {
                    action: audit::Action::Acknowledge,
                    actor: Actor { name: "ann".to_owned(), via: "console".to_owned() },
                    subject: None,
                    note: Some(note.to_owned()),
                };
                log.record(event).await.unwrap();
            }
            log.checkpoint().await;
            let filter = Filter { kinds: vec![Kind::Checkpoint], ..Filter::default() };
            let entry = log.reader().entries(filter).next().await.unwrap().unwrap();
            let (note, key) =
                (entry.text(&["checkpoint", "note"]).unwrap().to_owned(), log.key().to_string());
            log.close().await;
            let config = format!("[storage]\npath = \"{}\"\n", folder.path().display());
            std::fs::write(folder.path().join("pullgate.toml"), config).unwrap();
            Self { folder, note, key }
        }

        fn path(&self, name: &str) -> String {
            self.folder.path().join(name).display().to_string()
        }

        /// On a thread of its own: the command makes its own runtime.
        fn run(&self, words: &[&str]) -> Result<(Exit, String), Failure> {
            let config = self.path("pullgate.toml");
            let line = [&["verify", "--config", &config], words].concat();
            let arguments = Line::try_parse_from(line).unwrap().arguments;
            let mut out = Vec::new();
            let ended =
                std::thread::scope(|scope| scope.spawn(|| run(&arguments, &mut out)).join().unwrap())?;
            Ok((ended, String::from_utf8(out).unwrap()))
        }
    }

    #[tokio::test]
    async fn a_whole_log_is_exit_status_zero_and_says_how_far_it_is_proven() {
        let place = Place::new().await;
        let (exit, text) = place.run(&[]).unwrap();
        assert_eq!(exit, Exit::Done);
        assert!(text.starts_with("the log is what was written: 3 events, 1 valid checkpoints\n"), "{text}");
        assert!(text.contains("proven complete up to 2; 1 later events"), "{text}");
        std::fs::write(place.path("note"), &place.note).unwrap();
        for key in [place.key.clone(), place.path("audit.pub")] {
            let words = ["--key", &key, "--checkpoint", &place.path("note"), "--json"];
            let (exit, text) = place.run(&words).unwrap();
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!((exit, &json["ok"], &json["proven"]), (Exit::Done, &true.into(), &2.into()));
        }
    }

    #[tokio::test]
    async fn a_log_that_was_cut_is_exit_status_one_and_what_cannot_be_read_is_two() {
        let (place, other) = (Place::new().await, Place::new().await);
        std::fs::write(place.path("note"), &place.note).unwrap();
        for name in ["audit.db", "audit.pub"] {
            std::fs::remove_file(place.path(name)).unwrap();
        }
        let settings = Settings {
            path: place.folder.path().to_owned(),
            max_size: 64 << 20,
            on_full: OnFull::Serve,
            refusals_per_minute: 60,
        };
        Log::open(settings, Clock::system()).await.unwrap().close().await;
        let (exit, text) = place.run(&["--checkpoint", &place.path("note")]).unwrap();
        assert_eq!(exit, Exit::No);
        assert!(text.contains("first bad place: 1: cut:"), "{text}");
        std::fs::write(place.path("other"), &other.note).unwrap();
        std::fs::write(place.path("events"), "{\"kind\":\"decision\"}\n").unwrap();
        for (words, says) in [
            (["--checkpoint", &*place.path("other")], "not known"),
            (["--checkpoint", &*place.path("events")], "holds no checkpoint"),
            (["--checkpoint", &*place.path("absent")], "absent"),
            (["--key", "nonsense"], "no verifier key"),
            (["--key", &*place.path("events")], "no verifier key"),
        ] {
            let failure = place.run(&words).unwrap_err();
            assert_eq!(failure.exit, Exit::Unjudged, "{words:?}");
            let report = failure.report.unwrap().to_string();
            assert!(report.contains(says), "{report}");
        }
    }
}

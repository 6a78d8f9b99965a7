//! Entries as people read them: a line, and their words below.

use std::fmt::Write as _;

use owo_colors::OwoColorize as _;

use crate::audit::{Entry, printable};

/// One entry for a person: a line, and for what was refused its words below.
pub(super) fn block(entry: &Entry) -> String {
    let text = |path: &[&str]| printable(entry.text(path).unwrap_or_default()).into_owned();
    let kind = text(&["kind"]);
    let mut lines = format!("{}  ", moment(&text(&["time"])).dimmed());
    let _ = match &*kind {
        "decision" => decision(entry, &mut lines),
        "flood" => flood(entry, &mut lines),
        "admin" => {
            let (name, via) = (text(&["actor", "name"]), text(&["actor", "via"]));
            let (action, note) = (text(&["action"]), text(&["note"]));
            let reference = text(&["subject", "reference"]);
            writeln!(lines, "{}  {action}  {reference}{}  {name} ({via})", "ADMIN".cyan(), reason(entry))
                .and_then(|()| below(&mut lines, &note))
        }
        "alert" => {
            let rule = text(&["alert", "rule"]);
            let times = entry.number(&["alert", "count"]).filter(|count| *count > 1);
            let times = times.map_or_else(String::new, |count| format!("  ×{count}"));
            let reference = text(&["subject", "reference"]);
            writeln!(lines, "{}  {}  {reference}{}{times}", "ALERT".red().bold(), rule.bold(), reason(entry))
                .and_then(|()| below(&mut lines, &text(&["alert", "text"])))
        }
        "auth" => {
            let (via, result) = (text(&["auth", "via"]), text(&["auth", "result"]));
            let times = entry.number(&["auth", "count"]).filter(|count| *count > 1);
            let times = times.map_or_else(String::new, |count| format!("  ×{count}"));
            writeln!(lines, "{}   {via} {result}  {}{times}", "AUTH".cyan(), client(entry))
                .and_then(|()| below(&mut lines, &text(&["auth", "text"])))
        }
        "exception" => {
            let (id, result) = (text(&["exception", "id"]), text(&["exception", "result"]));
            let reference = text(&["image", "reference"]);
            let needed = match entry.event.get("exception").and_then(|one| one.get("needed")) {
                Some(serde_json::Value::Bool(true)) => "  needed",
                Some(serde_json::Value::Bool(false)) => "  not needed",
                _ => "",
            };
            let expires = text(&["exception", "expires"]);
            let expires = if expires.is_empty() { expires } else { format!("  until {expires}") };
            let waived = listed(entry, &["exception", "waive"]);
            let waived = if waived.is_empty() { waived } else { format!("  waives {waived}") };
            writeln!(lines, "{}  {id} {result}{needed}  {reference}{waived}{expires}", "EXCEPTION".yellow())
        }
        "recall" => {
            let (id, result) = (text(&["recall", "id"]), text(&["recall", "result"]));
            let replace = text(&["recall", "replace"]);
            let replace = if replace.is_empty() { replace } else { format!("  pull {replace} instead") };
            let names = listed(entry, &["recall", "names"]);
            writeln!(lines, "{}  {id} {result}  {names}{replace}", "RECALL".red().bold())
                .and_then(|()| below(&mut lines, &text(&["recall", "reason"])))
        }
        "drift" | "pin" => {
            let (before, after) = (text(&["image", "previous_digest"]), text(&["image", "digest"]));
            let after = if after.is_empty() { "gone".to_owned() } else { short(&after) };
            let reference = text(&["image", "reference"]);
            writeln!(lines, "{:<5}  {reference}  {} → {after}", kind.to_uppercase().yellow(), short(&before))
        }
        "policy" => {
            let (result, error) = (text(&["result"]), text(&["error"]));
            let changes =
                entry.event.get("changes").and_then(serde_json::Value::as_array).map_or(0, Vec::len);
            let name = format!("{} {}", text(&["policy", "name"]), text(&["policy", "revision"]));
            let more = match (error.is_empty(), changes) {
                (false, _) => format!("  {error}"),
                (true, 0) => String::new(),
                (true, changes) => format!("  {changes} changes"),
            };
            writeln!(lines, "{}  {name} {result}{more}", "POLICY".cyan())
        }
        "upstream" => {
            let (state, said) = (text(&["upstream", "state"]), text(&["upstream", "text"]));
            writeln!(lines, "{}  {} {state}  {said}", "UPSTREAM".yellow(), text(&["upstream", "registry"]))
        }
        _ => writeln!(lines, "{}  {}", kind.to_uppercase(), text(&["id"])),
    };
    lines
}

/// The words of it, on a line of their own.
fn below(lines: &mut String, text: &str) -> std::fmt::Result {
    if text.is_empty() { Ok(()) } else { writeln!(lines, "      {text}") }
}

fn reason(entry: &Entry) -> String {
    entry.text(&["subject", "reason"]).map_or_else(String::new, |code| format!("  {}", printable(code)))
}

/// The first few words of a list.
fn listed(entry: &Entry, path: &[&str; 2]) -> String {
    let [outer, inner] = path;
    let words = entry.event.get(*outer).and_then(|one| one.get(*inner)).and_then(serde_json::Value::as_array);
    let words = words.map_or(&[][..], Vec::as_slice);
    let shown: Vec<_> = words.iter().filter_map(serde_json::Value::as_str).take(3).map(printable).collect();
    let more = words.len().saturating_sub(shown.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

fn decision(entry: &Entry, lines: &mut String) -> std::fmt::Result {
    let text = |path: &[&str]| printable(entry.text(path).unwrap_or_default()).into_owned();
    let verdict = text(&["verdict"]);
    let word = format!("{:<5}", verdict.to_uppercase());
    let word = match &*verdict {
        "allow" => word.green().to_string(),
        "deny" => word.red().bold().to_string(),
        _ => word.yellow().to_string(),
    };
    write!(lines, "{word}  {}", text(&["image", "reference"]).bold())?;
    let code = text(&["reason", "code"]);
    if !code.is_empty() {
        write!(lines, "  {code}")?;
    }
    let digest = text(&["image", "digest"]);
    if !digest.is_empty() && !text(&["image", "reference"]).contains(&*digest) {
        write!(lines, "  {}", short(&digest).dimmed())?;
    }
    write!(lines, "  {}", client(entry))?;
    let runtime = text(&["client", "runtime"]);
    if !matches!(&*runtime, "" | "other") {
        write!(lines, " {runtime}")?;
    }
    let bytes = entry.number(&["bytes"]).unwrap_or(0);
    if bytes > 0 {
        write!(lines, "  {}", bytesize::ByteSize(bytes))?;
    }
    let cache = text(&["cache"]);
    if !cache.is_empty() {
        write!(lines, "  {cache}")?;
    }
    writeln!(lines, "{}", count(entry))?;
    let said = text(&["reason", "text"]);
    if !said.is_empty() {
        writeln!(lines, "      {said}")?;
        if !said.contains(&text(&["id"])) {
            writeln!(lines, "      {}", text(&["id"]).dimmed())?;
        }
    }
    Ok(())
}

fn flood(entry: &Entry, lines: &mut String) -> std::fmt::Result {
    let text = |path: &[&str]| printable(entry.text(path).unwrap_or_default()).into_owned();
    let sample: Vec<String> = entry
        .event
        .get("sample")
        .and_then(serde_json::Value::as_array)
        .map_or(&[][..], Vec::as_slice)
        .iter()
        .filter_map(serde_json::Value::as_str)
        .take(5)
        .map(|reference| printable(reference).into_owned())
        .collect();
    writeln!(
        lines,
        "{}  {} refusals  {}  {}{}",
        "FLOOD".red().bold(),
        entry.number(&["count"]).unwrap_or(0),
        text(&["reason", "code"]),
        client(entry),
        until(entry),
    )?;
    if !sample.is_empty() {
        writeln!(lines, "      such as {}", sample.join(", "))?;
    }
    writeln!(lines, "      {}", text(&["id"]).dimmed())
}

/// Name and address, as far as they are known.
fn client(entry: &Entry) -> String {
    let part = |key| entry.text(&["client", key]).map(|text| printable(text).into_owned());
    match (part("name"), part("address")) {
        (Some(name), Some(address)) => format!("{name} ({address})"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => "many clients".to_owned(),
    }
}

fn count(entry: &Entry) -> String {
    match entry.number(&["count"]) {
        Some(count) if count > 1 => format!("  ×{count}{}", until(entry)),
        _ => String::new(),
    }
}

fn until(entry: &Entry) -> String {
    match (entry.text(&["first"]), entry.text(&["last"])) {
        (Some(first), Some(last)) if first != last => format!(" until {}", moment(&printable(last))),
        _ => String::new(),
    }
}

/// `2026-11-01T10:00:00.000Z` as people read it.
fn moment(time: &str) -> String {
    let seconds = time.split('.').next().unwrap_or_default();
    format!("{}Z", seconds.trim_end_matches('Z').replace('T', " "))
}

/// Enough of a digest to tell it from others.
fn short(digest: &str) -> String {
    match digest.split_once(':') {
        Some((algorithm, hex)) => format!("{algorithm}:{}…", hex.chars().take(12).collect::<String>()),
        None => digest.to_owned(),
    }
}

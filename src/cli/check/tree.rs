//! The files to look at: those that are named, and those of folders as git sees them.

use std::collections::HashSet;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::files::{Format, LENGTH_MAX};

/// Hidden folders that hold what is looked for.
const SHOWN: [&str; 4] = [".devcontainer", ".forgejo", ".gitea", ".github"];
/// Folders of others' files, and of results.
const SKIPPED: [&str; 2] = ["node_modules", "target"];

/// A file to be read.
pub(super) struct Source {
    /// Where it is; nothing for standard input.
    pub(super) path: Option<PathBuf>,
    /// What it is called, with `/` between the parts and relative where it can be.
    pub(super) name: String,
    pub(super) format: Format,
    pub(super) text: String,
}

/// A path that cannot be looked at.
pub(super) struct Unread {
    pub(super) name: String,
    pub(super) text: String,
}

/// Reads what the paths lead to, one file at a time, each once.
pub(super) fn sources(paths: &[PathBuf], each: &mut dyn FnMut(Result<Source, Unread>)) {
    let mut seen = HashSet::new();
    for path in paths {
        if path == Path::new("-") {
            each(standard_input());
        } else if path.is_dir() {
            for entry in walk(path) {
                match entry {
                    Err(error) => each(Err(Unread { name: name(path), text: error.to_string() })),
                    Ok(entry) if !entry.file_type().is_some_and(|kind| kind.is_file()) => {}
                    Ok(entry) => {
                        let Some(format) = Format::of_name(&name(entry.path())) else { continue };
                        if seen.insert(plain(entry.path())) {
                            // JSON that is no text or too long is nobody's manifest.
                            match read(entry.path(), Some(format)) {
                                Err(_) if format == Format::Json => {}
                                Ok(None) => {}
                                Ok(Some(source)) => each(Ok(source)),
                                Err(unread) => each(Err(unread)),
                            }
                        }
                    }
                }
            }
        } else if seen.insert(plain(path)) {
            match read(path, Format::of_name(&name(path))) {
                Ok(Some(source)) => each(Ok(source)),
                Ok(None) => {}
                Err(unread) => each(Err(unread)),
            }
        }
    }
}

fn walk(path: &Path) -> ignore::Walk {
    ignore::WalkBuilder::new(path)
        .hidden(false)
        .ignore(false)
        .git_global(false)
        .require_git(false)
        .sort_by_file_path(Path::cmp)
        .filter_entry(|entry| {
            let name = entry.file_name().to_string_lossy();
            let folder = entry.file_type().is_some_and(|kind| kind.is_dir());
            let hidden = name.starts_with('.') && !SHOWN.contains(&&*name);
            entry.depth() == 0 || !(hidden || (folder && SKIPPED.contains(&&*name)))
        })
        .build()
}

fn standard_input() -> Result<Source, Unread> {
    let name = "stdin".to_owned();
    let text = bounded(io::stdin().lock()).map_err(|text| Unread { name: name.clone(), text })?;
    let format = Format::of_text(&text).unwrap_or(Format::Yaml);
    Ok(Source { path: None, name, format, text })
}

/// Nothing when it is not a kind of file that names images.
fn read(path: &Path, format: Option<Format>) -> Result<Option<Source>, Unread> {
    let unread = |text| Unread { name: name(path), text };
    let file = std::fs::File::open(path).map_err(|error| unread(error.to_string()))?;
    let text = match (bounded(file), format) {
        (Ok(text), _) => text,
        (Err(text), Some(_)) => return Err(unread(text)),
        // Whatever it is, its name does not say that it concerns us.
        (Err(_), None) => return Ok(None),
    };
    let Some(format) = format.or_else(|| Format::of_text(&text)) else { return Ok(None) };
    Ok(Some(Source { path: Some(path.to_owned()), name: name(path), format, text }))
}

fn bounded(from: impl io::Read) -> Result<String, String> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(LENGTH_MAX).unwrap_or(u64::MAX).saturating_add(1);
    from.take(limit).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() > LENGTH_MAX {
        return Err(format!("it is longer than {} MiB", LENGTH_MAX >> 20));
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

/// A path without `./`.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|part| !matches!(part, std::path::Component::CurDir)).collect()
}

/// What a path is called: relative to the working directory where it lies in it.
fn name(path: &Path) -> String {
    let path = plain(path);
    let inside =
        std::env::current_dir().ok().and_then(|folder| path.strip_prefix(folder).ok().map(PathBuf::from));
    inside.unwrap_or(path).to_string_lossy().into_owned()
}

//! `$NAME`, `${NAME}` and `${NAME:-default}`, as compose files and Dockerfiles write them.

use super::Why;

/// No filled-in text is longer: doubling variables may not fill the memory.
const LENGTH_MAX: usize = 1024;
/// Defaults within defaults.
const DEPTH_MAX: usize = 16;

/// What is special besides `$`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Dialect {
    /// `$$` is a dollar sign (compose-spec, interpolation).
    Compose,
    /// Quotes are taken off, and this character escapes the next.
    Dockerfile(char),
}

/// Fills in variables: the value that is known, or the default that is written.
pub(super) fn fill(
    text: &str,
    dialect: Dialect,
    known: &dyn Fn(&str) -> Option<String>,
) -> Result<String, Why> {
    if dialect == Dialect::Compose && !text.contains('$') {
        return Ok(text.to_owned());
    }
    nested(text, dialect, known, DEPTH_MAX)
}

fn nested(
    text: &str,
    dialect: Dialect,
    known: &dyn Fn(&str) -> Option<String>,
    depth: usize,
) -> Result<String, Why> {
    let mut out = String::new();
    let mut rest = text;
    let mut quote = None;
    while let Some(character) = rest.chars().next() {
        rest = rest.get(character.len_utf8()..).unwrap_or_default();
        match (character, dialect) {
            ('\'' | '"', Dialect::Dockerfile(_)) if quote.is_none() => quote = Some(character),
            ('\'' | '"', Dialect::Dockerfile(_)) if quote == Some(character) => quote = None,
            (_, Dialect::Dockerfile(escape)) if character == escape && quote != Some('\'') => {
                let Some(next) = rest.chars().next() else { break };
                out.push(next);
                rest = rest.get(next.len_utf8()..).unwrap_or_default();
            }
            ('$', _) if quote != Some('\'') => {
                if dialect == Dialect::Compose
                    && let Some(after) = rest.strip_prefix('$')
                {
                    out.push('$');
                    rest = after;
                    continue;
                }
                let (value, after) = variable(rest, dialect, known, depth)?;
                out.push_str(&value);
                rest = after;
            }
            _ => out.push(character),
        }
        if out.len() > LENGTH_MAX {
            return Err(Why::Variable(name_of(text)));
        }
    }
    Ok(out)
}

/// The value of the variable that begins after a `$`, and what follows it.
fn variable<'a>(
    text: &'a str,
    dialect: Dialect,
    known: &dyn Fn(&str) -> Option<String>,
    depth: usize,
) -> Result<(String, &'a str), Why> {
    let braced = text.strip_prefix('{');
    let inside = braced.unwrap_or(text);
    let end = inside.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(inside.len());
    let (name, after) = inside.split_at(end);
    let lacking = || Why::Variable(if name.is_empty() { name_of(text) } else { name.to_owned() });
    if name.is_empty() || depth == 0 {
        return Err(lacking());
    }
    let value = known(name);
    if braced.is_none() {
        return Ok((value.ok_or_else(lacking)?, after));
    }
    let close = closing(after).ok_or_else(lacking)?;
    let (operation, after) = after.split_at(close);
    let after = after.strip_prefix('}').unwrap_or(after);
    let full = value.clone().filter(|value| !value.is_empty());
    let value = if operation.is_empty() || operation.starts_with('?') {
        value
    } else if operation.starts_with(":?") {
        full
    } else if let Some(default) = operation.strip_prefix(":-").or_else(|| operation.strip_prefix(":=")) {
        Some(full.map_or_else(|| nested(default, dialect, known, depth - 1), Ok)?)
    } else if let Some(default) = operation.strip_prefix('-').or_else(|| operation.strip_prefix('=')) {
        Some(value.map_or_else(|| nested(default, dialect, known, depth - 1), Ok)?)
    } else if let Some(other) = operation.strip_prefix(":+") {
        full.map(|_| nested(other, dialect, known, depth - 1)).transpose()?
    } else if let Some(other) = operation.strip_prefix('+') {
        value.map(|_| nested(other, dialect, known, depth - 1)).transpose()?
    } else {
        None
    };
    Ok((value.ok_or_else(lacking)?, after))
}

/// Where the brace ends that is already open.
fn closing(text: &str) -> Option<usize> {
    let mut open = 0_usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => open += 1,
            b'}' if open == 0 => return Some(at),
            b'}' => open -= 1,
            _ => {}
        }
    }
    None
}

/// What to call something that has no plain name.
fn name_of(text: &str) -> String {
    text.chars().filter(|character| !matches!(character, '{' | '}' | '$')).take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str) -> Option<String> {
        match name {
            "A" => Some("one".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn defaults_are_used_where_nothing_is_known() {
        for (text, filled) in [
            ("python", "python"),
            ("$A/x:$A", "one/x:one"),
            ("${A}-x", "one-x"),
            ("${B:-two}", "two"),
            ("${B-two}", "two"),
            ("${A:-two}", "one"),
            ("${EMPTY:-two}", "two"),
            ("${EMPTY-two}", ""),
            ("${A:+-slim}", "-slim"),
            ("${B:-${C:-three}}", "three"),
            ("${B:-${A}/x}:1", "one/x:1"),
            ("$$A", "$A"),
        ] {
            assert_eq!(fill(text, Dialect::Compose, &known).as_deref(), Ok(filled), "{text}");
        }
    }

    #[test]
    fn what_has_no_default_is_named() {
        for (text, name) in [
            ("$B", "B"),
            ("x/${B}", "B"),
            ("${B:?say which}", "B"),
            ("${EMPTY:?say which}", "EMPTY"),
            ("${B:+x}", "B"),
            ("${B", "B"),
            ("${A##x}", "A"),
            ("${B:-${C}}", "C"),
            ("$(params.image)", "(params.image)"),
        ] {
            assert_eq!(fill(text, Dialect::Compose, &known), Err(Why::Variable(name.to_owned())), "{text}");
        }
    }

    #[test]
    fn dockerfiles_have_quotes_and_escapes() {
        let dialect = Dialect::Dockerfile('\\');
        for (text, filled) in [(r#""$A""#, "one"), ("'$A'", "$A"), (r"\$A", "$A"), (r#""a"'b'c"#, "abc")] {
            assert_eq!(fill(text, dialect, &known).as_deref(), Ok(filled), "{text}");
        }
        assert_eq!(fill("a`$A", Dialect::Dockerfile('`'), &known).as_deref(), Ok("a$A"));
    }

    #[test]
    fn nothing_grows_without_bound() {
        let long = |_: &str| Some("x".repeat(1000));
        assert!(fill("$A$B", Dialect::Compose, &long).is_err());
        let deep = format!("{}x{}", "${A:-".repeat(10_000), "}".repeat(10_000));
        assert!(fill(&deep, Dialect::Compose, &|_| None).is_err());
    }
}

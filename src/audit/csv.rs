//! Tables for spreadsheets (RFC 4180), which run what looks like a formula.

use super::text::printable;

/// One line of a table, its CRLF included.
///
/// Control and direction characters are escaped as by [`printable`], so that a value is one line. One
/// that a spreadsheet would run as a formula (`=`, `+`, `-`, `@` at its beginning, also behind blanks)
/// gets an apostrophe in front, which spreadsheets do not show.
pub fn csv<T: AsRef<str>>(values: impl IntoIterator<Item = T>) -> String {
    let mut line = String::new();
    for (place, value) in values.into_iter().enumerate() {
        if place > 0 {
            line.push(',');
        }
        let value = printable(value.as_ref());
        let formula = value
            .trim_start()
            .starts_with(['=', '+', '-', '@', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}']);
        let quoted = formula || value.contains(['"', ',', ';', '\'']) || value.trim() != value;
        if quoted {
            line.push('"');
        }
        if formula {
            line.push('\'');
        }
        line.push_str(&value.replace('"', "\"\""));
        if quoted {
            line.push('"');
        }
    }
    line.push_str("\r\n");
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_formula_is_text() {
        assert_eq!(
            csv(["a", "=1+1", "-2", "+3", "@x", " =x", "\t=y"]),
            "a,\"'=1+1\",\"'-2\",\"'+3\",\"'@x\",\"' =x\",\\x09=y\r\n"
        );
        assert_eq!(csv(["\u{ff1d}cmd"]), "\"'\u{ff1d}cmd\"\r\n");
    }

    #[test]
    fn a_value_stays_one_field_of_one_line() {
        assert_eq!(
            csv(["a,b", "say \"x\"", "two\r\nlines", ""]),
            "\"a,b\",\"say \"\"x\"\"\",two\\x0d\\x0alines,\r\n"
        );
        assert_eq!(csv(["\u{202e}x"]), "\\u{202e}x\r\n");
    }
}

//! SQL identifiers in comma lists, as settings hold them: unquoted ones are folded to lower case,
//! quoted ones are taken as they are, with a double quote inside written twice.

/// Why an entry of a list is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentifierError {
    /// Two commas in a row, a comma at an end, or a name missing.
    #[error("a name is missing")]
    Missing,
    /// `""`.
    #[error("a quoted name is empty")]
    EmptyQuoted,
    /// A quote that is never closed.
    #[error("a double quote is not closed")]
    Unterminated,
    /// Something follows that does not belong to a name.
    #[error(
        "unexpected \"{rest}\" (a name with more than letters, digits, _ and $ needs double quotes)"
    )]
    Unexpected {
        /// The text from the first character that does not belong.
        rest: String,
    },
}

/// Splits a comma list into its trimmed entries; commas inside double quotes do not separate.
/// An empty list has no entries; an empty entry is kept, for the caller to refuse.
pub fn entries(list: &str) -> Vec<&str> {
    if list.trim().is_empty() {
        return Vec::new();
    }
    // A doubled quote closes and opens again at once, so toggling is enough.
    let mut quoted = false;
    list.split(|character| {
        if character == '"' {
            quoted = !quoted;
        }
        character == ',' && !quoted
    })
    .map(str::trim)
    .collect()
}

/// Reads the identifier that `text` begins with; returns it and the rest without leading space.
pub fn leading(text: &str) -> Result<(String, &str), IdentifierError> {
    let text = text.trim_start();
    let (name, rest) = match text.strip_prefix('"') {
        Some(inside) => quoted(inside)?,
        None => unquoted(text)?,
    };
    Ok((name, rest.trim_start()))
}

/// Reads a text that is one identifier.
pub fn whole(text: &str) -> Result<String, IdentifierError> {
    match leading(text)? {
        (name, "") => Ok(name),
        (_, rest) => Err(IdentifierError::Unexpected { rest: rest.to_owned() }),
    }
}

/// Writes a name so that [`whole`] reads it back, with quotes only where they are needed.
pub fn quote(name: &str) -> String {
    if whole(name).is_ok_and(|read| read == name) {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

fn quoted(inside: &str) -> Result<(String, &str), IdentifierError> {
    let mut name = String::new();
    let mut rest = inside;
    loop {
        let (part, after) = rest.split_once('"').ok_or(IdentifierError::Unterminated)?;
        name.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None if name.is_empty() => return Err(IdentifierError::EmptyQuoted),
            None => return Ok((name, after)),
        }
    }
}

fn unquoted(text: &str) -> Result<(String, &str), IdentifierError> {
    // As in the server's scanner, letters, underscore and everything beyond ASCII begin a name;
    // but not white space beyond ASCII, which nobody means when it gets in by copy and paste.
    let begins =
        |c: char| c.is_ascii_alphabetic() || c == '_' || (!c.is_ascii() && !c.is_whitespace());
    let continues = |c: char| begins(c) || c.is_ascii_digit() || c == '$';

    match text.chars().next() {
        None => return Err(IdentifierError::Missing),
        Some('.' | '=' | ',') => return Err(IdentifierError::Missing),
        Some(first) if !begins(first) => {
            return Err(IdentifierError::Unexpected { rest: text.to_owned() });
        }
        Some(_) => {}
    }
    let end = text.find(|c| !continues(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    // Beyond ASCII the server's folding depends on the encoding; in UTF-8 it leaves such letters.
    Ok((name.to_ascii_lowercase(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_list(list: &str) -> Result<Vec<String>, IdentifierError> {
        entries(list).into_iter().map(whole).collect()
    }

    #[test]
    fn unquoted_names_are_folded_and_quoted_ones_are_not() {
        assert_eq!(
            parse_list("Sales, \"Sales\" , \"a\"\"b\", \"x,y\", Überblick"),
            Ok(["sales", "Sales", "a\"b", "x,y", "Überblick"].map(str::to_owned).to_vec())
        );
    }

    #[test]
    fn an_empty_list_has_no_entries() {
        assert_eq!(parse_list("  "), Ok(Vec::new()));
    }

    #[test]
    fn malformed_lists_are_refused() {
        for (list, error) in [
            ("a,", IdentifierError::Missing),
            (",a", IdentifierError::Missing),
            ("a,,b", IdentifierError::Missing),
            ("\"\"", IdentifierError::EmptyQuoted),
            ("\"a", IdentifierError::Unterminated),
            ("my-db", IdentifierError::Unexpected { rest: "-db".to_owned() }),
            ("a b", IdentifierError::Unexpected { rest: "b".to_owned() }),
            ("2nd", IdentifierError::Unexpected { rest: "2nd".to_owned() }),
        ] {
            assert_eq!(parse_list(list), Err(error), "{list}");
        }
    }

    #[test]
    fn quotes_are_written_only_where_needed() {
        assert_eq!(quote("daily_2$"), "daily_2$");
        assert_eq!(quote("Daily"), "\"Daily\"");
        assert_eq!(quote("a\"b"), "\"a\"\"b\"");
        assert_eq!(quote("a\u{a0}"), "\"a\u{a0}\"");
    }
}

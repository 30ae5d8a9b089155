//! Owns: collecting all mistakes of one text, each with its place, so that they can be told at once.
//! Never: the meaning of any table or key, beyond finding the known word nearest to a mistyped one.

use std::ops::Range;

use super::error::ConfigError;

/// The mistakes found so far in one text.
pub(super) struct Report<'t> {
    file: &'t str,
    text: &'t str,
    errors: Vec<ConfigError>,
    /// Lines that are not TOML. What the parser made of them is a guess, so nothing more is said about them, and
    /// nothing is called missing in a text that has any.
    broken_lines: Vec<usize>,
}

impl<'t> Report<'t> {
    pub(super) fn new(file: &'t str, text: &'t str) -> Self {
        Report { file, text, errors: Vec::new(), broken_lines: Vec::new() }
    }

    /// A mistake of the language.
    pub(super) fn syntax(&mut self, error: &toml::de::Error) {
        let span = error.span().unwrap_or(0..0);
        let advice = if error.message() == "duplicate key" {
            "a key stands once in its table: remove one of them"
        } else if error.message().starts_with("invalid") || error.message().starts_with("string values") {
            "text, such as a name or an address, stands in double quotes"
        } else {
            "the line is not TOML: see https://toml.io"
        };
        let found = self.locate(span, error.message().to_owned(), advice.to_owned());
        if !self.broken_lines.contains(&found.line) {
            self.broken_lines.push(found.line);
            self.errors.push(found);
        }
    }

    /// A mistake in what stands at `span`.
    pub(super) fn error(&mut self, span: Range<usize>, message: impl Into<String>, advice: impl Into<String>) {
        let found = self.locate(span, message.into(), advice.into());
        if !self.broken_lines.contains(&found.line) {
            self.errors.push(found);
        }
    }

    /// Something that should be there is not. Not said of a text with broken lines: it may stand in one of them.
    pub(super) fn absent(&mut self, span: Range<usize>, message: impl Into<String>, advice: impl Into<String>) {
        if self.broken_lines.is_empty() {
            self.error(span, message, advice);
        }
    }

    /// The line of a byte offset, counted from 1.
    pub(super) fn line_of(&self, at: usize) -> usize {
        let before = self.text.as_bytes().get(..at).unwrap_or(self.text.as_bytes());
        before.iter().filter(|b| **b == b'\n').count() + 1
    }

    /// Whether nothing wrong was found.
    pub(super) fn is_clean(&self) -> bool {
        self.errors.is_empty()
    }

    /// All mistakes in the order of the text.
    pub(super) fn finish(mut self) -> Vec<ConfigError> {
        self.errors.sort_by_key(|e| (e.line, e.column));
        self.errors
    }

    fn locate(&self, span: Range<usize>, message: String, advice: String) -> ConfigError {
        let mut start = span.start.min(self.text.len());
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        let before = &self.text[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line_end = self.text[start..].find('\n').map_or(self.text.len(), |at| start + at);
        let source = self.text[line_start..line_end].trim_end_matches('\r');
        let end = span.end.clamp(start, line_end.max(start));
        let width = self.text.get(start..end).map_or(1, |s| s.chars().count()).max(1);
        ConfigError {
            file: self.file.to_owned(),
            line: self.line_of(start),
            column: self.text[line_start..start].chars().count() + 1,
            width,
            source: source.to_owned(),
            message,
            advice,
        }
    }
}

/// The known word that a mistyped one was probably meant to be: one that it begins, or that begins it, or that is
/// at most two edits away (one for words of up to four letters).
pub(super) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let begins = |k: &str| word.len() >= 2 && (k.starts_with(word) || word.starts_with(k));
    if let Some(found) = known.iter().find(|k| begins(k)) {
        return Some(found);
    }
    let allowed = if word.len() <= 4 { 1 } else { 2 };
    let nearest = known.iter().map(|k| (edits(word, k), *k)).min()?;
    (nearest.0 <= allowed).then_some(nearest.1)
}

/// The advice for an unknown word: the nearest known one, or all of them.
pub(super) fn did_you_mean(word: &str, known: &[&str], write: impl Fn(&str) -> String) -> String {
    match nearest(word, known) {
        Some(meant) => format!("did you mean {}?", write(meant)),
        None => format!("known are: {}", known.iter().map(|k| write(k)).collect::<Vec<_>>().join(", ")),
    }
}

/// Levenshtein distance in characters, by the rows of its table.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_counts_insertions_deletions_and_replacements() {
        for (a, b, want) in [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("idx", "idx", 0), ("ä", "a", 1)] {
            assert_eq!(edits(a, b), want, "{a} {b}");
            assert_eq!(edits(b, a), want, "{b} {a}");
        }
    }

    #[test]
    fn nearest_finds_typing_errors_and_nothing_far_away() {
        let known = ["name", "idx", "address", "replicas"];
        for (word, want) in [
            ("replica", Some("replicas")),
            ("addr", Some("address")),
            ("adress", Some("address")),
            ("id", Some("idx")),
            ("nam", Some("name")),
            ("port", None),
            ("x", None),
        ] {
            assert_eq!(nearest(word, &known), want, "{word}");
        }
    }

    #[test]
    fn a_place_past_the_end_or_inside_a_character_is_still_told() {
        let report = Report::new("f", "ä = 1");
        for span in [1..2, 90..99, 5..6, 6..6] {
            let found = report.locate(span.clone(), "m".into(), "a".into());
            assert_eq!(found.source, "ä = 1", "{span:?}");
            assert!(found.column >= 1 && found.width >= 1);
            let _ = found.to_string();
        }
    }
}

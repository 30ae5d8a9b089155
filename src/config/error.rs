//! Owns: how a mistake in the configuration is told: place, source line, caret, what to do.
//! Never: what a mistake is.

use std::fmt;

use serde::Serialize;

/// One mistake in a file, with its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfigError {
    /// The file's name as it was given.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// How many characters the caret underlines: at least 1.
    pub width: usize,
    /// The whole line of the file.
    pub source: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub advice: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConfigError { file, line, column, width, source, message, advice } = self;
        // Tabs are kept so that the caret stands under the same place however wide a terminal draws them.
        let indent: String = source.chars().take(column - 1).map(|c| if c == '\t' { c } else { ' ' }).collect();
        writeln!(f, "{file}:{line}:{column}: {message}")?;
        writeln!(f, "{line:>5} | {source}")?;
        writeln!(f, "      | {indent}{}", "^".repeat(*width))?;
        write!(f, "      = {advice}")
    }
}

/// Why a file gives no cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadError {
    /// It cannot be read as text.
    Read {
        /// The file's name as it was given.
        file: String,
        /// The reason, in words.
        reason: String,
    },
    /// All mistakes, in the order of the file.
    Invalid(Vec<ConfigError>),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Read { file, reason } => write!(f, "{file}: {reason}"),
            LoadError::Invalid(errors) => {
                let (many, s) = (errors.len(), if errors.len() == 1 { "" } else { "s" });
                let file = errors.first().map_or("the file", |e| &e.file);
                write!(f, "{file} does not describe a cluster: {many} error{s}")?;
                errors.iter().try_for_each(|error| write!(f, "\n{error}"))
            }
        }
    }
}

impl std::error::Error for LoadError {}

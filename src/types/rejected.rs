//! A source that could not be taken in, handed back.

use std::{error::Error, fmt, io};

/// Why a source was not taken into the poll set, and the source itself, unharmed.
///
/// It turns into the [`io::Error`] alone with `?` where the source is not wanted back.
pub struct Rejected<T> {
    /// Why.
    pub error: io::Error,
    /// What was to be inserted.
    pub source: T,
}

impl<T> From<Rejected<T>> for io::Error {
    fn from(rejected: Rejected<T>) -> io::Error {
        rejected.error
    }
}

impl<T> fmt::Debug for Rejected<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<T> fmt::Display for Rejected<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<T> Error for Rejected<T> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}

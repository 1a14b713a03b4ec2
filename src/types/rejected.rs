//! A source that was not put into the poll set, returned with the error.

use std::{error::Error, fmt, io};

/// A source that was not put into the poll set, and the error.
///
/// With `?` it converts to the [`io::Error`], and the source is dropped.
pub struct Rejected<T> {
    /// Why.
    pub error: io::Error,
    /// The source, unchanged.
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

//! Lines on standard output, for a program whose reader may leave (`… | head -1`).

use std::{
    fmt,
    io::{self, Write},
};

use ipc_reactor::PollSet;

/// Writes a line; stops the reactor when nobody reads any more, where `println!` would panic.
pub(crate) fn say<S>(set: &mut PollSet<S>, line: fmt::Arguments<'_>) {
    if writeln!(io::stdout(), "{line}").is_err() {
        set.stop();
    }
}

//! Lines on standard output, for a program whose reader may close early (`… | head -1`).

use std::{
    fmt,
    io::{self, Write},
};

use ipc_reactor::PollSet;

/// Writes a line. If standard output has no reader any more, stops the reactor, where `println!` would panic.
pub(crate) fn say<S>(set: &mut PollSet<S>, line: fmt::Arguments<'_>) {
    if writeln!(io::stdout(), "{line}").is_err() {
        set.stop();
    }
}

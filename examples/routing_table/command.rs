//! Sends one command to a manager and prints the answer: like `nc`, without the table that a manager sends first.

use std::{
    io::{self, BufRead, BufReader, Write},
    process::ExitCode,
    time::Duration,
};

use ipc_reactor::Address;

use crate::{connect, protocol::Line};

const PATIENCE: Duration = Duration::from_secs(10);

/// Prints the answer; fails if it is an `ERROR`.
pub(crate) fn run(address: &Address, command: &str) -> io::Result<ExitCode> {
    if command.trim().is_empty() || command.contains('\n') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "give one command, a line of its own; HELP lists them",
        ));
    }
    let mut socket = connect::connect(address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.write_all(format!("{command}\n").as_bytes())?;
    // The manager sends every client the table first.
    let mut greeted = false;
    for line in BufReader::new(socket).lines() {
        let line = line.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                io::Error::new(io::ErrorKind::TimedOut, "the manager does not answer")
            }
            _ => error,
        })?;
        match line.parse().map_err(io::Error::other)? {
            Line::End { .. } if !greeted => greeted = true,
            Line::Change { .. } => {}
            _ if !greeted => {}
            said => {
                writeln!(io::stdout(), "{line}")?;
                match said {
                    Line::Ok(_) => return Ok(ExitCode::SUCCESS),
                    Line::Error(_) => return Ok(ExitCode::FAILURE),
                    _ => {}
                }
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the manager closed the connection without an answer"))
}

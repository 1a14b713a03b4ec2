//! The manager's standard input and output: commands from a keyboard or a file, answers to a terminal that may be
//! paused. The manager blocks on neither.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    time::Duration,
};

use ipc_reactor::{Interest, PollSet, Progress};

use crate::{
    manager::Manager,
    protocol::{LINE_MAX, Line},
};

/// Bytes that may be buffered for the reader of standard output.
const WAITING_MAX: usize = 64 << 10;

pub(crate) struct Output {
    file: File,
    waiting: Vec<u8>,
    left_out: u64,
}

impl Output {
    pub(crate) fn open() -> io::Result<Output> {
        let given = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let kind = given.metadata()?.file_type();
        let may_block = kind.is_fifo() || kind.is_char_device();
        // Opened again: O_NONBLOCK on the inherited descriptor would also affect the shell, which shares it.
        let own = File::options().write(true).custom_flags(libc::O_NONBLOCK).open("/proc/self/fd/1");
        let file = if may_block { own.unwrap_or(given) } else { given };
        Ok(Output { file, waiting: Vec::new(), left_out: 0 })
    }

    /// Puts the output into the poll set, so that buffered lines are written as soon as there is room.
    pub(crate) fn watch(&self, set: &mut PollSet<Manager>) -> io::Result<()> {
        let watched = set.fd(self.file.try_clone()?, Interest::WRITABLE, |_, _, _, manager| {
            manager.output.flush();
            Ok(Progress::Drained)
        });
        match watched {
            // A file never blocks.
            Err(rejected) if rejected.error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            other => other.map(drop).map_err(io::Error::from),
        }
    }

    /// Writes lines; drops those that find no room, and reports their number later.
    pub(crate) fn say(&mut self, lines: &str) {
        if self.waiting.len() + lines.len() > WAITING_MAX {
            self.left_out += 1;
        } else {
            self.waiting.extend_from_slice(lines.as_bytes());
        }
        self.flush();
    }

    fn flush(&mut self) {
        while !self.waiting.is_empty() {
            match self.file.write(&self.waiting) {
                Ok(count) => drop(self.waiting.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Standard output has no reader any more.
                Err(_) => self.waiting.clear(),
            }
            if self.waiting.is_empty() && self.left_out > 0 {
                let missing =
                    Line::Error(format!("{} answers were left out: nobody read them", self.left_out));
                self.left_out = 0;
                self.waiting.extend_from_slice(format!("{missing}\n").as_bytes());
            }
        }
    }
}

/// Takes commands from standard input, one piece a turn, so that a long file delays no client. The manager continues
/// after the end of its input.
pub(crate) fn watch_input(set: &mut PollSet<Manager>) -> io::Result<()> {
    // Not `Stdin`, which reads ahead into a buffer of its own: epoll does not report what is in that buffer.
    let mut input = Input::new(io::stdin().as_fd().try_clone_to_owned()?);
    let fd = input.file.try_clone()?;
    let watched = set.fd(fd, Interest::READABLE, move |_, _, cx, manager| {
        // One read for one event: the parent process shares the descriptor, so it must stay blocking.
        if !input.take(cx, manager)? {
            cx.finish();
            return Ok(Progress::Drained);
        }
        let key = cx.key();
        // There may be more input, for which no further edge comes.
        cx.after(Duration::ZERO, move |cx, _| cx.set_interest(key, Interest::READABLE));
        Ok(Progress::Drained)
    });
    match watched {
        // epoll watches no files: they are always ready.
        Err(rejected) if rejected.error.kind() == io::ErrorKind::PermissionDenied => {
            by_turns(set, Input::new(rejected.source.into()));
            Ok(())
        }
        other => other.map(drop).map_err(io::Error::from),
    }
}

fn by_turns(set: &mut PollSet<Manager>, mut input: Input) {
    set.after(Duration::ZERO, move |cx, manager| {
        if input.take(cx, manager)? {
            by_turns(cx, input);
        }
        Ok(())
    });
}

struct Input {
    file: File,
    line: Vec<u8>,
}

impl Input {
    fn new(fd: OwnedFd) -> Input {
        Input { file: fd.into(), line: Vec::new() }
    }

    /// Reads once, and has the manager execute the commands that were read. False at the end of the input.
    fn take(&mut self, set: &mut PollSet<Manager>, manager: &mut Manager) -> io::Result<bool> {
        let mut piece = [0; LINE_MAX];
        let count = match self.file.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            count => count?,
        };
        for part in piece[..count].split_inclusive(|&byte| byte == b'\n') {
            // A line that is longer than the limit is not stored, only the fact that it is too long.
            let room = (LINE_MAX + 1).saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                self.carry_out(set, manager);
            }
        }
        if count == 0 && !self.line.is_empty() {
            self.carry_out(set, manager);
        }
        Ok(count > 0)
    }

    fn carry_out(&mut self, set: &mut PollSet<Manager>, manager: &mut Manager) {
        let line = self.line.trim_ascii_end();
        let answer = manager.answer(line, &"standard input", set);
        manager.output.say(&answer);
        self.line.clear();
    }
}

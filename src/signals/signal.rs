//! A signal's number and its name.

use std::{fmt, io, str::FromStr};

use crate::sys;

/// The number of a signal that a program may use: see `signal(7)`.
///
/// That is 1 to 31, and `SIGRTMIN` to `SIGRTMAX`. The C library uses the numbers between for its threads. It is
/// displayed as `SIGTERM` or `SIGRTMIN+3`, and parsed from that, from the same without `SIG`, and from a number, in
/// upper or lower case.
///
/// ```
/// use ipc_reactor::Signal;
///
/// assert_eq!("TERM".parse::<Signal>()?, Signal::TERM);
/// assert_eq!("15".parse::<Signal>()?.to_string(), "SIGTERM");
/// assert_eq!(Signal::rt(3)?.to_string(), "SIGRTMIN+3");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(i32);

macro_rules! signals {
    ($($name:ident = $number:ident, $meaning:literal;)*) => {
        impl Signal {
            $(#[doc = $meaning] pub const $name: Signal = Signal(libc::$number);)*
        }

        const NAMES: &[(Signal, &str)] = &[$((Signal::$name, stringify!($number))),*];
    };
}

signals! {
    HUP = SIGHUP, "The terminal was closed. By custom, servers read their configuration again.";
    INT = SIGINT, "Interrupt: Ctrl-C.";
    QUIT = SIGQUIT, "Quit: Ctrl-\\\\.";
    ILL = SIGILL, "Illegal instruction: a fault of the running code, which cannot be watched.";
    TRAP = SIGTRAP, "A breakpoint.";
    ABRT = SIGABRT, "From `abort(3)`. It *can* be blocked and watched, but `abort(3)` itself always ends the process.";
    BUS = SIGBUS, "Bus error: a fault of the running code, which cannot be watched.";
    FPE = SIGFPE, "Arithmetic error: a fault of the running code, which cannot be watched.";
    KILL = SIGKILL, "Ends a process. It cannot be blocked, so it cannot be watched.";
    USR1 = SIGUSR1, "For the program's own use, the first.";
    SEGV = SIGSEGV, "Bad memory access: a fault of the running code, which cannot be watched.";
    USR2 = SIGUSR2, "For the program's own use, the second.";
    PIPE = SIGPIPE, "A write to a pipe or socket without a reader. Rust programs ignore it.";
    ALRM = SIGALRM, "The timer of `alarm(2)`.";
    TERM = SIGTERM, "A request to end.";
    CHLD = SIGCHLD, "At least one child has ended, stopped or continued.";
    CONT = SIGCONT, "Continues a stopped process.";
    STOP = SIGSTOP, "Stops a process. It cannot be blocked, so it cannot be watched.";
    TSTP = SIGTSTP, "Stop from the terminal: Ctrl-Z.";
    TTIN = SIGTTIN, "A background process read from its terminal.";
    TTOU = SIGTTOU, "A background process wrote to its terminal.";
    URG = SIGURG, "Out-of-band data on a socket.";
    XCPU = SIGXCPU, "The limit of processor time is reached.";
    XFSZ = SIGXFSZ, "The limit of file size is reached.";
    VTALRM = SIGVTALRM, "The timer of the process's own processor time.";
    PROF = SIGPROF, "The profiling timer.";
    WINCH = SIGWINCH, "The size of the terminal has changed.";
    IO = SIGIO, "A descriptor with `O_ASYNC` is ready.";
    PWR = SIGPWR, "Power failure.";
    SYS = SIGSYS, "A bad system call, or one that a seccomp filter has refused.";
}

impl Signal {
    /// The real-time signal `SIGRTMIN + n`. Real-time signals queue, in order, each with a value: see
    /// [`queue`](crate::signals::queue).
    ///
    /// # Errors
    /// `InvalidInput`: it is above `SIGRTMAX`. With glibc the highest `n` is 30.
    pub fn rt(n: u32) -> io::Result<Signal> {
        let (min, max) = sys::signal::rt_range();
        match i32::try_from(n).ok().and_then(|n| min.checked_add(n)) {
            Some(raw) if raw <= max => Ok(Signal(raw)),
            _ => {
                Err(invalid(format!("no real-time signal SIGRTMIN+{n}: the last is SIGRTMIN+{}", max - min)))
            }
        }
    }

    /// The signal with this number.
    ///
    /// # Errors
    /// `InvalidInput`: programs have no such signal.
    pub fn from_raw(raw: i32) -> io::Result<Signal> {
        let (min, max) = sys::signal::rt_range();
        if (1..=31).contains(&raw) || (min..=max).contains(&raw) {
            return Ok(Signal(raw));
        }
        Err(invalid(format!("{raw} is no signal; the numbers are 1 to 31 and {min} to {max}")))
    }

    /// From the kernel, which has only numbers of signals.
    pub(super) fn from_kernel(raw: u32) -> Signal {
        Signal(raw.cast_signed())
    }

    /// The number, as in the C library.
    pub const fn as_raw(self) -> i32 {
        self.0
    }

    /// Its bit in a mask: bit n - 1.
    pub(crate) const fn bit(self) -> u64 {
        1 << (self.0 - 1)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((_, name)) = NAMES.iter().find(|(signal, _)| signal == self) {
            return f.pad(name);
        }
        match self.0 - sys::signal::rt_range().0 {
            0 => f.pad("SIGRTMIN"),
            n if n > 0 => f.pad(&format!("SIGRTMIN+{n}")),
            _ => fmt::Display::fmt(&self.0, f),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signal({self})")
    }
}

impl FromStr for Signal {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Signal> {
        if let Ok(raw) = text.parse() {
            return Signal::from_raw(raw);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some((signal, _)) = NAMES.iter().find(|(_, full)| full.strip_prefix("SIG") == Some(name)) {
            return Ok(*signal);
        }
        let rt = name.strip_prefix("RTMIN").and_then(|n| match n.strip_prefix('+') {
            Some(n) => n.parse().ok(),
            None => n.is_empty().then_some(0),
        });
        match rt {
            Some(n) => Signal::rt(n),
            None => Err(invalid(format!("{text:?} is no signal; write TERM, SIGTERM, 15 or SIGRTMIN+3"))),
        }
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

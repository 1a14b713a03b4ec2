//! This process's user, waiting for children, pidfds, and what a child does between fork and exec.

use std::{
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::{Command, ExitStatus},
    ptr,
};

use super::{check, check_long, own, signal};

/// The process id as the kernel's type. `InvalidInput` for 0, which would mean the caller's process group, and for a
/// number above `i32::MAX`, which would turn negative and mean another group.
pub(crate) fn pid_t(pid: u32) -> io::Result<libc::pid_t> {
    libc::pid_t::try_from(pid).ok().filter(|&pid| pid > 0).ok_or_else(|| {
        let message =
            format!("{pid} is not the id of one process: it must be from 1 to {}", libc::pid_t::MAX);
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })
}

/// The effective user of this process: `geteuid(2)`.
pub(crate) fn effective_uid() -> u32 {
    // SAFETY: the call takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Makes every child of `command` call [`signal::reset_for_exec`] before it runs the program.
pub(crate) fn reset_signals_in_child(command: &mut Command) {
    // SAFETY: the function is async-signal-safe, and changes no memory that the child shares with the parent.
    unsafe { command.pre_exec(signal::reset_for_exec) };
}

/// `waitpid(2)` with `WNOHANG`, for one child by its id. `None` while it runs.
pub(crate) fn try_wait(pid: libc::pid_t) -> io::Result<Option<ExitStatus>> {
    let mut status = 0;
    // SAFETY: `status` is writable and outlives the call.
    let reaped = check(unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) })?;
    Ok((reaped != 0).then(|| ExitStatus::from_raw(status)))
}

/// `pidfd_open(2)`. The kernel makes every pidfd close-on-exec.
pub(crate) fn pidfd_open(pid: libc::pid_t) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointer.
    own(check_long(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?)
}

/// `pidfd_send_signal(2)`, with the details that `kill(2)` would send.
pub(crate) fn pidfd_send_signal(fd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let no_details = ptr::null::<libc::siginfo_t>();
    // SAFETY: null asks the kernel to fill in the details itself.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), signal, no_details, 0) };
    check_long(sent).map(drop)
}

/// `waitid(2)` on a pidfd with `WNOHANG`. `None` while the process runs.
pub(crate) fn pidfd_try_wait(fd: BorrowedFd<'_>) -> io::Result<Option<ExitStatus>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let id = fd.as_raw_fd().cast_unsigned();
    // SAFETY: `info` is valid for one siginfo_t and outlives the call.
    check(unsafe { libc::waitid(libc::P_PIDFD, id, info.as_mut_ptr(), libc::WEXITED | libc::WNOHANG) })?;
    // SAFETY: it was made as zeroes, which are a valid siginfo_t.
    let info = unsafe { info.assume_init() };
    // SAFETY: waitid fills in the fields of SIGCHLD, or leaves the zeroes, which say that the process still runs.
    if unsafe { info.si_pid() } == 0 {
        return Ok(None);
    }
    // SAFETY: as above.
    Ok(Some(exit_status(info.si_code, unsafe { info.si_status() })))
}

/// The exit status, as `waitpid(2)` reports it, for the code and the status of `SIGCHLD` and of `waitid(2)`.
pub(crate) fn exit_status(code: i32, status: i32) -> ExitStatus {
    const CORE_DUMPED: i32 = 0x80;
    const STOPPED: i32 = 0x7f;
    const CONTINUED: i32 = 0xffff;
    ExitStatus::from_raw(match code {
        libc::CLD_EXITED => (status & 0xff) << 8,
        libc::CLD_DUMPED => status | CORE_DUMPED,
        libc::CLD_STOPPED | libc::CLD_TRAPPED => (status & 0xff) << 8 | STOPPED,
        libc::CLD_CONTINUED => CONTINUED,
        _ => status,
    })
}

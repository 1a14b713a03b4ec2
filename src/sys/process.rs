//! Waiting for children, pidfds, and what a child does between fork and exec.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::ptr;

use super::{check, signal};

/// One process as the kernel numbers it. Refused: 0 ("my process group") and what would turn negative ("a group").
pub(crate) fn pid_t(pid: u32) -> io::Result<libc::pid_t> {
    libc::pid_t::try_from(pid).ok().filter(|&pid| pid > 0).ok_or_else(|| {
        let message =
            format!("{pid} is not the id of one process: it must be from 1 to {}", libc::pid_t::MAX);
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })
}

/// The user whose rights this process has.
pub(crate) fn effective_uid() -> u32 {
    // SAFETY: takes and changes nothing.
    unsafe { libc::geteuid() }
}

/// Has every child of `command` begin with [`signal::reset_for_exec`].
pub(crate) fn reset_signals_in_child(command: &mut Command) {
    // SAFETY: what runs between fork and exec is async-signal-safe and touches no memory of the parent.
    unsafe { command.pre_exec(signal::reset_for_exec) };
}

/// waitpid(2) with WNOHANG, for one child by its id.
pub(crate) fn try_wait(pid: libc::pid_t) -> io::Result<Option<ExitStatus>> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let reaped = check(unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) })?;
    Ok((reaped != 0).then(|| ExitStatus::from_raw(status)))
}

/// pidfd_open(2). The kernel makes every pidfd CLOEXEC.
pub(crate) fn pidfd_open(pid: libc::pid_t) -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as libc::c_int)?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// pidfd_send_signal(2), with the details that kill(2) would send.
pub(crate) fn pidfd_send_signal(fd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let no_details = ptr::null::<libc::siginfo_t>();
    // SAFETY: null asks the kernel to fill in the details itself.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), signal, no_details, 0) };
    check(sent as libc::c_int).map(drop)
}

/// waitid(2) on a pidfd with WNOHANG.
pub(crate) fn pidfd_try_wait(fd: BorrowedFd<'_>) -> io::Result<Option<ExitStatus>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let id = fd.as_raw_fd() as libc::id_t;
    // SAFETY: `info` is valid for one siginfo_t and outlives the call.
    check(unsafe { libc::waitid(libc::P_PIDFD, id, info.as_mut_ptr(), libc::WEXITED | libc::WNOHANG) })?;
    // SAFETY: zeroed at birth, and siginfo_t is valid as zeroes.
    let info = unsafe { info.assume_init() };
    // SAFETY: waitid fills the fields of SIGCHLD, or leaves the zeroes that say "still running".
    if unsafe { info.si_pid() } == 0 {
        return Ok(None);
    }
    // SAFETY: as above.
    Ok(Some(exit_status(info.si_code, unsafe { info.si_status() })))
}

/// The status word of waitpid(2) for the code and status that SIGCHLD and waitid(2) carry.
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

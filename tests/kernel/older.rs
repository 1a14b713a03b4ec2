//! The filter with which other tests run as on an older kernel.
#![allow(unsafe_code)]

use std::{io, thread};

use libc::{EINVAL, ENOPROTOOPT, ENOSYS};

use crate::{
    kit::errno,
    support::old_kernel::{Version, become_old},
};

fn call(number: libc::c_long, arguments: [libc::c_long; 4]) -> i32 {
    let [a, b, c, d] = arguments;
    // SAFETY: the calls made here are given numbers that are no pointers, or null.
    let result = unsafe { libc::syscall(number, a, b, c, d) };
    errno(if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) })
}

fn option(name: libc::c_long) -> i32 {
    // On no descriptor: a kernel that has the option says EBADF, too.
    call(libc::SYS_getsockopt, [-1, libc::SOL_SOCKET.into(), name, 0])
}

#[test]
fn each_version_lacks_what_came_later_and_has_the_rest() -> io::Result<()> {
    let pidfd_open = || call(434, [-1, 0, 0, 0]);
    let waitid = || call(libc::SYS_waitid, [3, -1, 0, 0]);
    let (unlimited, close_on_exec) = (u32::MAX.into(), 4);
    let close_range = move |flags| call(436, [unlimited, unlimited, flags, 0]);
    let seal = || call(libc::SYS_fcntl, [-1, 1033, 0x10, 0]);
    // For one thread only.
    let (before, seen) = thread::spawn(move || {
        let look = || {
            let numbers = [option(83), option(77), close_range(close_on_exec), close_range(0)];
            (numbers, [waitid(), pidfd_open(), seal()])
        };
        // This may be an older kernel already.
        let before = look();
        let seen = ["6.15", "6.4", "5.10", "5.5", "5.3", "5.2", "5.0"].map(|version| {
            become_old(version.parse::<Version>().unwrap()).unwrap();
            let (numbers, calls) = look();
            (version, numbers, calls)
        });
        (before, seen)
    })
    .join()
    .unwrap();
    let ([_, peerpidfd, _, range], calls) = before;
    assert_eq!(seen[0].1[..2], [ENOPROTOOPT, peerpidfd]);
    assert_eq!(seen[1].1[..2], [ENOPROTOOPT; 2]);
    assert_eq!(seen[2].1[2], EINVAL, "CLOSE_RANGE_CLOEXEC came with 5.11");
    let [waitid, pidfd_open, seal] = calls;
    let table: Vec<_> =
        seen[2..].iter().map(|(version, numbers, calls)| (*version, numbers[3], *calls)).collect();
    assert_eq!(
        table,
        [
            ("5.10", range, [waitid, pidfd_open, seal]),
            ("5.5", ENOSYS, [waitid, pidfd_open, seal]),
            ("5.3", ENOSYS, [EINVAL, pidfd_open, seal]),
            ("5.2", ENOSYS, [EINVAL, ENOSYS, seal]),
            ("5.0", ENOSYS, [EINVAL, ENOSYS, EINVAL]),
        ]
    );
    Ok(())
}

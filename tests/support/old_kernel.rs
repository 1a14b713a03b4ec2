//! This process, answered as by an older kernel: a seccomp filter refuses the calls and options that came later.
//!
//! What a kernel *does* stays as it is; what it *has* does not. So a filter shows that the crate runs without what is new,
//! and a real old kernel (`.ci/old-kernel`) that it runs with what was different.
#![allow(unsafe_code)]

use std::{fmt, io, mem::offset_of, str::FromStr};

use libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
use libc::{EINVAL, ENOPROTOOPT, ENOSYS, SYS_fcntl, SYS_memfd_create, SYS_waitid, c_long};

/// The version of a kernel, such as 6.12.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u32, pub(crate) u32);

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Version, String> {
        let parse = |text: &str| text.parse().ok();
        text.split_once('.')
            .and_then(|(major, minor)| Some(Version(parse(major)?, parse(minor)?)))
            .ok_or_else(|| format!("{text:?} is no version of a kernel; 6.12 is one"))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// Something that a kernel may not have yet.
pub(crate) struct Feature {
    pub(crate) name: &'static str,
    pub(crate) since: Version,
    what: What,
    /// What kernels before it answer.
    errno: i32,
}

#[derive(Clone, Copy)]
enum What {
    Call(c_long),
    /// An option of `SOL_SOCKET`.
    SocketOption(i32),
    /// A call, if the bits of this argument that the mask selects are not all zero.
    Bits(c_long, u32, u32),
    /// A call, if this argument is this number.
    Number(c_long, u32, u32),
    /// A call, if argument 1 is this number, and some of these bits of argument 2 are set.
    NumberAndBits(c_long, u32, u32),
}

/// Not in every `libc`; the number is the same on all architectures, as of all calls since 5.1.
const fn since_5_1(number: c_long) -> What {
    What::Call(number)
}

const fn feature(name: &'static str, major: u32, minor: u32, what: What, errno: i32) -> Feature {
    Feature { name, since: Version(major, minor), what, errno }
}

/// What the crate and its tests ask for, beside some that a C library may ask for.
pub(crate) const FEATURES: &[Feature] = &[
    feature("SO_PASSRIGHTS", 6, 16, What::SocketOption(83), ENOPROTOOPT),
    feature("SO_PEERPIDFD", 6, 5, What::SocketOption(77), ENOPROTOOPT),
    feature("SO_PASSPIDFD", 6, 5, What::SocketOption(76), ENOPROTOOPT),
    // MFD_NOEXEC_SEAL and MFD_EXEC.
    feature("flags of memfd_create", 6, 3, What::Bits(SYS_memfd_create, 1, 0x18), EINVAL),
    feature("futex_waitv", 5, 16, since_5_1(449), ENOSYS),
    feature("epoll_pwait2", 5, 11, since_5_1(441), ENOSYS),
    feature("CLOSE_RANGE_CLOEXEC", 5, 11, What::Bits(436, 2, 4), EINVAL),
    feature("close_range", 5, 9, since_5_1(436), ENOSYS),
    feature("faccessat2", 5, 8, since_5_1(439), ENOSYS),
    feature("pidfd_getfd", 5, 6, since_5_1(438), ENOSYS),
    feature("openat2", 5, 6, since_5_1(437), ENOSYS),
    feature("waitid of a pidfd", 5, 4, What::Number(SYS_waitid, 0, 3), EINVAL),
    feature("pidfd_open", 5, 3, since_5_1(434), ENOSYS),
    feature("clone3", 5, 3, since_5_1(435), ENOSYS),
    feature("pidfd_send_signal", 5, 1, since_5_1(424), ENOSYS),
    feature("F_SEAL_FUTURE_WRITE", 5, 1, What::NumberAndBits(SYS_fcntl, 1033, 0x10), EINVAL),
];

/// From now on this thread, and all that it starts, runs on a kernel of this version, as far as that can be seen.
pub(crate) fn become_old(version: Version) -> io::Result<()> {
    install(&program(FEATURES.iter().filter(|feature| feature.since > version)))
}

/// Offsets in `struct seccomp_data`: the number of the call, and the low halves of its arguments.
const NUMBER: u32 = offset_of!(libc::seccomp_data, nr) as u32;
const fn argument(index: u32) -> u32 {
    let high_first = if cfg!(target_endian = "big") { 4 } else { 0 };
    offset_of!(libc::seccomp_data, args) as u32 + 8 * index + high_first
}

fn program<'a>(missing: impl Iterator<Item = &'a Feature>) -> Vec<libc::sock_filter> {
    let mut program = Program::default();
    for Feature { what, errno, .. } in missing {
        match *what {
            What::Call(number) => program.refuse(number, &[], *errno),
            What::SocketOption(name) => {
                for number in [libc::SYS_getsockopt, libc::SYS_setsockopt] {
                    let tests = [Test::Is(1, libc::SOL_SOCKET as u32), Test::Is(2, name as u32)];
                    program.refuse(number, &tests, *errno);
                }
            }
            What::Bits(number, at, mask) => program.refuse(number, &[Test::Any(at, mask)], *errno),
            What::Number(number, at, value) => program.refuse(number, &[Test::Is(at, value)], *errno),
            What::NumberAndBits(number, value, mask) => {
                program.refuse(number, &[Test::Is(1, value), Test::Any(2, mask)], *errno);
            }
        }
    }
    program.add(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW, 0);
    program.0
}

/// A question about an argument: its index, and a number or bits.
enum Test {
    Is(u32, u32),
    Any(u32, u32),
}

#[derive(Default)]
struct Program(Vec<libc::sock_filter>);

impl Program {
    /// `skip`: how many instructions a comparison that fails jumps over.
    fn add(&mut self, code: u32, k: u32, skip: usize) {
        self.0.push(libc::sock_filter { code: code as u16, jt: 0, jf: skip as u8, k });
    }

    /// Refuses a call whose arguments pass all the tests.
    fn refuse(&mut self, number: c_long, tests: &[Test], errno: i32) {
        let length = |test: &Test| if matches!(test, Test::Any(..)) { 3 } else { 2 };
        let mut left = tests.iter().map(length).sum::<usize>() + 1;
        self.add(BPF_LD | BPF_W | BPF_ABS, NUMBER, 0);
        self.add(BPF_JMP | BPF_JEQ | BPF_K, number as u32, left);
        for test in tests {
            left -= length(test);
            match *test {
                Test::Is(at, value) => {
                    self.add(BPF_LD | BPF_W | BPF_ABS, argument(at), 0);
                    self.add(BPF_JMP | BPF_JEQ | BPF_K, value, left);
                }
                Test::Any(at, mask) => {
                    self.add(BPF_LD | BPF_W | BPF_ABS, argument(at), 0);
                    self.add(BPF_ALU | BPF_AND | BPF_K, mask, 0);
                    let last = self.0.len();
                    self.add(BPF_JMP | BPF_JEQ | BPF_K, 0, 0);
                    // The other way round: zero is what lets the call through.
                    (self.0[last].jt, self.0[last].jf) = (left as u8, 0);
                }
            }
        }
        self.add(BPF_RET | BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32, 0);
    }
}

fn install(program: &[libc::sock_filter]) -> io::Result<()> {
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    let set = || {
        // SAFETY: `filter` describes `program`; the kernel copies it.
        let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) };
        if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    set().or_else(|error| {
        if error.raw_os_error() != Some(libc::EACCES) {
            return Err(error);
        }
        // Without root's rights the kernel wants a promise that no program will have more.
        // SAFETY: takes numbers only.
        unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        set()
    })
}

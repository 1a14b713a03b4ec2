//! Processes: what a fork shares, what an exec passes on, how the end of a process is reported.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;

use libc::EPOLLIN;

use crate::kit::{Edge, End, Epoll, alone, check, fork, own};

fn pidfd(pid: libc::pid_t) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    own(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as i32)
}

/// A fork shares the epoll set itself: what the child deletes, or adds, the parent's set has no more, or has too.
/// So a reactor in a forked child returns an error that explains this, before it touches the set.
#[test]
fn a_forked_child_edits_the_parents_set() -> io::Result<()> {
    alone(|| {
        let epoll = Epoll::new()?;
        let ((old_reader, old_writer), (new_reader, new_writer)) = (io::pipe()?, io::pipe()?);
        epoll.add(&old_reader, EPOLLIN, 1)?;
        let child = fork(|| {
            epoll.delete(&old_reader)?;
            epoll.add(&new_reader, EPOLLIN, 2)
        })?;
        assert_eq!(child.wait()?, End::Exit(0));
        io::Write::write_all(&mut &old_writer, b"x")?;
        assert_eq!(epoll.now(), [], "deleted by the child");
        io::Write::write_all(&mut &new_writer, b"x")?;
        assert_eq!(epoll.one(), Edge { data: 2, mask: EPOLLIN }, "added by the child");
        Ok(())
    })
}

/// An event taken by a forked child is gone for the parent. So even an `epoll_wait` of the child's is harmful.
#[test]
fn a_forked_child_takes_the_parents_edges() -> io::Result<()> {
    alone(|| {
        let (epoll, (reader, writer)) = (Epoll::new()?, io::pipe()?);
        epoll.add(&reader, EPOLLIN, 1)?;
        io::Write::write_all(&mut &writer, b"x")?;
        let child = fork(|| {
            assert_eq!(epoll.one().data, 1);
            Ok(())
        })?;
        assert_eq!(child.wait()?, End::Exit(0));
        assert_eq!(epoll.now(), []);
        Ok(())
    })
}

/// True when a program started now finds this descriptor open.
fn passes_exec(fd: &OwnedFd) -> io::Result<bool> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(Command::new("readlink").arg(path).output()?.status.success())
}

/// A descriptor without close-on-exec is open in every program started later, by whatever thread. So every descriptor
/// of the crate is created with the flag.
#[test]
fn a_descriptor_without_cloexec_is_open_in_every_child() -> io::Result<()> {
    alone(|| {
        let fd = OwnedFd::from(std::fs::File::open("/dev/null")?);
        assert!(!passes_exec(&fd)?);
        // SAFETY: no pointers.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) })?;
        assert!(passes_exec(&fd)?);
        Ok(())
    })
}

/// A pidfd makes an edge when its process ends, and also when it is added after that. So a child's end needs no
/// SIGCHLD, and no order of starting and adding.
#[test]
fn a_pidfd_tells_of_the_end_of_its_process() -> io::Result<()> {
    alone(|| {
        let (epoll, (go, gate)) = (Epoll::new()?, io::pipe()?);
        let child = fork(|| {
            // Only the parent's end may stay open.
            // SAFETY: this copy never uses the descriptor again: it leaves by `_exit`.
            unsafe { libc::close(gate.as_raw_fd()) };
            io::Read::read(&mut &go, &mut [0]).map(drop)
        })?;
        let pidfd = pidfd(child.pid())?;
        epoll.add(&pidfd, EPOLLIN, 1)?;
        assert_eq!(epoll.now(), []);
        drop(gate);
        assert!(epoll.next()[0].has(EPOLLIN));
        let late = Epoll::new()?;
        late.add(&pidfd, EPOLLIN, 2)?;
        assert!(late.one().has(EPOLLIN));
        assert_eq!(child.wait()?, End::Exit(0));
        Ok(())
    })
}

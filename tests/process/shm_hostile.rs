//! Hostile publishers and subscribers, with the rights of another user, or with descriptors that block.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use ipc_reactor::shm::{Publisher, Subscriber, Ticket};
use ipc_reactor::{Address, Delivery, Reactor};

use crate::support::child::{again, succeeds};
use crate::support::fds::{pair, recv_with, send_with};
use crate::support::fuse::Stuck;
use crate::support::isolated::{Case, cases};
use crate::support::shm::refused;
use crate::support::turns::until;
use crate::support::world::{Ear, World, address, numbers};
use crate::support::{have, needs_root};

pub(crate) const CASES: &[Case] = cases![
    another_user_gets_no_right_over_what_it_is_given,
    a_ticket_of_descriptors_that_block_is_refused_at_once,
    a_publisher_that_sends_descriptors_that_block_holds_up_no_loop,
    descriptors_that_block_in_a_doorbell_are_not_closed_there,
];

pub(crate) const ROLES: &[Case] = cases![child_of_another_user];

/// This binary as a user with no rights.
fn as_nobody(role: &str) -> Command {
    let child = again(&format!("shm_hostile::{role}"));
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(child.get_program()).args(child.get_args());
    command
}

/// A ticket goes to a process of another user, which tries what it can do with it.
fn another_user_gets_no_right_over_what_it_is_given() {
    if !needs_root("starts a process of another user") || !have("setpriv") {
        return;
    }
    let (ours, theirs) = pair(libc::SOCK_STREAM);
    let mut publisher = Publisher::latest(64).unwrap();
    publisher.publish(b"the first value").unwrap();
    let (bytes, fds) = publisher.subscribe().unwrap().1.into_fds();
    let passed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    send_with(&ours, &bytes, &passed).unwrap();
    drop((ours, fds));
    let mut child = as_nobody("child_of_another_user");
    succeeds(child.stdin(Stdio::from(theirs)));
}

#[track_caller]
fn fails(result: libc::c_int, with: &[i32]) {
    let errno = io::Error::last_os_error();
    assert_eq!(result, -1);
    assert!(errno.raw_os_error().is_some_and(|errno| with.contains(&errno)), "{errno}");
}

fn child_of_another_user() {
    let mut bytes = [0; Ticket::BYTES];
    let (_, fds) = recv_with(io::stdin(), &mut bytes).unwrap();
    let [segment, page, doorbell] =
        fds.iter().map(AsRawFd::as_raw_fd).collect::<Vec<_>>().try_into().unwrap();
    for memory in [segment, page] {
        let (name, value) = (c"user.name", [0u8; 64]);
        // SAFETY: the name is a C string, and the value has the length that is said.
        let set = unsafe { libc::fsetxattr(memory, name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
        fails(set, &[libc::EACCES, libc::EPERM, libc::EOPNOTSUPP]);
        // SAFETY: takes no pointer.
        fails(unsafe { libc::fchmod(memory, 0o666) }, &[libc::EPERM]);
        let again = File::options().read(true).write(true).open(format!("/proc/self/fd/{memory}"));
        assert_eq!(again.unwrap_err().kind(), ErrorKind::PermissionDenied);
        // SAFETY: takes no pointer.
        assert_eq!(unsafe { libc::fcntl(memory, libc::F_GETFL) } & libc::O_ACCMODE, libc::O_RDWR);
    }
    // Watches added to a publisher's epoll instance would be charged to its user.
    let (other, _end) = pair(libc::SOCK_STREAM);
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
    // SAFETY: the event outlives the call.
    let add = unsafe { libc::epoll_ctl(doorbell, libc::EPOLL_CTL_ADD, other.as_raw_fd(), &mut event) };
    fails(add, &[libc::EINVAL]);
    // Nothing can be put where the publisher would have to close it, or be kept from ringing.
    let refused = send_with(&fds[2], b"x", &[other.as_fd()]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::BrokenPipe);
    assert_eq!(send_with(&fds[2], b"x", &[]).unwrap_err().kind(), ErrorKind::BrokenPipe);

    // What is left are the rights that it needs.
    let mut subscriber = Subscriber::open(Ticket::from_fds(&bytes, fds).unwrap()).unwrap();
    assert_eq!(subscriber.latest().unwrap(), Some(&b"the first value"[..]));
    assert!(subscriber.arm());
}

/// A FUSE file blocks in `fstat`, `epoll_ctl` and `close`: none of them may be tried.
fn a_ticket_of_descriptors_that_block_is_refused_at_once() {
    let Some(stuck) = Stuck::mount() else { return };
    let mut publisher = Publisher::latest(8).unwrap();
    for at in 0..Ticket::FDS_MAX {
        let (bytes, mut fds) = publisher.subscribe().unwrap().1.into_fds();
        fds[at] = stuck.file();
        let what = ["the segment refused", "the subscriber's page refused", "the doorbell refused"][at];
        stuck.does_not_block(|| {
            let opened = Ticket::from_fds(&bytes, fds).and_then(Subscriber::open);
            refused(opened, ErrorKind::InvalidData, what);
        });
    }
    // Refused before they are looked at, or not opened at all.
    let (mut bytes, _) = publisher.subscribe().unwrap().1.into_fds();
    let fds = vec![stuck.file(), stuck.file(), stuck.file()];
    stuck.does_not_block(|| drop(Ticket::from_fds(&bytes, fds).unwrap()));
    bytes[0] = 0;
    let fds = vec![stuck.file(), stuck.file(), stuck.file()];
    stuck.does_not_block(|| refused(Ticket::from_fds(&bytes, fds), ErrorKind::InvalidData, "not a ticket"));
}

/// The files are passed, not closed here: that would block, too.
fn pass(socket: impl AsFd, bytes: &[u8], files: Vec<OwnedFd>) {
    send_with(socket, bytes, &files.iter().map(AsFd::as_fd).collect::<Vec<_>>()).unwrap();
    std::mem::forget(files);
}

fn a_publisher_that_sends_descriptors_that_block_holds_up_no_loop() {
    let Some(stuck) = Stuck::mount() else { return };
    let (_folder, address) = address();
    let Address::UnixStream(path) = &address else { unreachable!() };
    let listener = UnixListener::bind(path).unwrap();
    let mut reactor = Reactor::<World>::new().unwrap();
    let mut world = World::new(numbers(7));
    for at in 0..Ticket::FDS_MAX {
        reactor.connect_subscriber(&address, Delivery::Every, Ear).unwrap();
        let _ = reactor.turn(Some(Duration::ZERO), &mut world).unwrap();
        let (link, _) = listener.accept().unwrap();
        let (bytes, mut fds) = world.publisher.subscribe().unwrap().1.into_fds();
        fds[at] = stuck.file();
        pass(&link, &bytes, fds);
        stuck.does_not_block(|| until(&mut reactor, &mut world, World::has_ended));
        let said = format!("{:?}", world.take());
        assert!(said.contains("refused: it is no"), "{said}");
    }
}

/// A process that receives from a socket, or closes it, closes the descriptors in it.
fn descriptors_that_block_in_a_doorbell_are_not_closed_there() {
    let Some(stuck) = Stuck::mount() else { return };
    let mut publisher = Publisher::latest(8).unwrap();
    for is_read in [true, false] {
        let (bytes, mut fds) = publisher.subscribe().unwrap().1.into_fds();
        let (ours, theirs) = pair(libc::SOCK_STREAM);
        fds[2] = theirs;
        for _ in 0..3 {
            pass(&ours, b"x", vec![stuck.file(), stuck.file()]);
        }
        stuck.does_not_block(|| {
            let mut subscriber = Subscriber::open(Ticket::from_fds(&bytes, fds).unwrap()).unwrap();
            if is_read {
                assert!(!subscriber.wait(Some(Duration::from_millis(20))).unwrap());
            }
            drop(subscriber);
        });
    }
}

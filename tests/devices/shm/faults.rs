//! Damaged, forged and hostile memory: refused, or harmless.

use crate::support::can;
use crate::support::shm::{refused, subscribe};
use ipc_reactor::shm::{Access, Mapping, Memfd, Publisher, Subscriber, Ticket, Update};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

const PAYLOAD_MAX: usize = 24;
/// The header's words that are checked, and where the index and the slots are: as the module's
/// documentation has it.
const CHECKED: usize = 7 * 8;
const PUBLISHED: usize = 16 * 8;
const SLOTS: usize = 32 * 8;
const SLOT: usize = 64;

/// A genuine segment's bytes, with values 1 and 2 in it, and a ticket for it.
fn genuine() -> (Vec<u8>, [u8; Ticket::BYTES]) {
    let mut publisher = Publisher::every(PAYLOAD_MAX, 3).unwrap();
    publisher.publish(b"the first value").unwrap();
    publisher.publish(b"the second value").unwrap();
    let (description, mut fds) = publisher.subscribe().unwrap().1.into_fds();
    let file = File::from(fds.swap_remove(0));
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes.len(), SLOTS + 4 * SLOT);
    (bytes, description)
}

/// A memfd with these bytes, not sealed yet.
fn forged(bytes: &[u8]) -> Memfd {
    let memfd = Memfd::create("forged", bytes.len() as u64).unwrap();
    if !bytes.is_empty() {
        Mapping::of(&memfd, 0, bytes.len(), Access::ReadWrite).unwrap().write(0, bytes).unwrap();
    }
    memfd
}

fn page() -> OwnedFd {
    let page = Memfd::create("page", 4096).unwrap();
    page.seal_size().unwrap();
    page.into()
}

fn open(bytes: &[u8]) -> io::Result<Subscriber> {
    let segment = forged(bytes);
    segment.seal_published().unwrap();
    open_fd(segment.into())
}

fn open_fd(segment: OwnedFd) -> io::Result<Subscriber> {
    let mut description = genuine().1;
    description[6] = 2;
    Subscriber::open(Ticket::from_fds(&description, vec![segment, page()])?)
}

/// Reads in every way. Values may be nonsense; what matters is that all of it ends, within bounds.
fn exercise(subscriber: &mut Subscriber) {
    for _ in 0..3 {
        if let Ok(Some(value)) = subscriber.latest() {
            assert!(value.len() <= PAYLOAD_MAX);
        }
        for _ in 0..8 {
            if let Ok(Some(Update::Value(value))) = subscriber.recv() {
                assert!(value.len() <= PAYLOAD_MAX);
            }
        }
        let _ = subscriber.arm();
    }
}

#[test]
fn the_unchanged_copy_is_accepted() {
    let (bytes, _) = genuine();
    assert_eq!(open(&bytes).unwrap().latest().unwrap(), Some(&b"the second value"[..]));
}

#[test]
fn each_damaged_byte_is_refused_or_harmless() {
    let (bytes, _) = genuine();
    for at in 0..bytes.len() {
        for damage in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= damage;
            match open(&damaged) {
                Ok(mut subscriber) => {
                    assert!(at >= CHECKED, "byte {at} ^ {damage:#x} was accepted");
                    exercise(&mut subscriber);
                }
                Err(e) => {
                    assert!(at < CHECKED, "byte {at} ^ {damage:#x}: {e}");
                    assert_eq!(e.kind(), ErrorKind::InvalidData);
                    assert!(e.to_string().starts_with("not a segment: "), "{e}");
                }
            }
        }
    }
}

#[test]
fn a_wild_index_is_harmless() {
    let (bytes, _) = genuine();
    for published in [0, 3, 4, 5, 1 << 32, 1 << 63, u64::MAX - 3, u64::MAX - 2, u64::MAX - 1, u64::MAX] {
        let mut wild = bytes.clone();
        wild[PUBLISHED..][..8].copy_from_slice(&published.to_ne_bytes());
        exercise(&mut open(&wild).unwrap());
    }
}

/// Changes the index in every way while a reader reads.
#[test]
fn an_index_that_jumps_is_harmless() {
    let (bytes, _) = genuine();
    let segment = forged(&bytes);
    let hostile = Mapping::of(&segment, 0, bytes.len(), Access::ReadWrite).unwrap();
    segment.seal_published().unwrap();
    let mut subscriber = open_fd(segment.into()).unwrap();
    for published in [2, 1, 0, 7, u64::MAX, 3, 1 << 40, 0, u64::MAX - 1, 9] {
        hostile.write(PUBLISHED, &u64::to_ne_bytes(published)).unwrap();
        exercise(&mut subscriber);
    }
}

#[test]
fn a_wild_length_is_an_error_and_the_next_value_is_not() {
    let (mut bytes, _) = genuine();
    for len in [PAYLOAD_MAX as u64 + 1, 1 << 40, u64::MAX] {
        bytes[SLOTS + 3 * SLOT - 8..][..8].copy_from_slice(&len.to_ne_bytes());
        let mut subscriber = open(&bytes).unwrap();
        refused(subscriber.latest(), ErrorKind::InvalidData, "exceeds the segment's 24");
        assert_eq!(subscriber.latest().unwrap(), None, "the error is told once");
    }
}

#[test]
fn a_segment_of_another_size_is_refused() {
    let (bytes, _) = genuine();
    for len in [1, 7, 8, 64, SLOTS - 1, SLOTS, bytes.len() - 1] {
        refused(open(&bytes[..len]), ErrorKind::InvalidData, "not a segment");
    }
    refused(open(&[]), ErrorKind::InvalidData, "the segment is empty");
    let mut longer = bytes.clone();
    longer.resize(bytes.len() + 1, 0);
    refused(open(&longer), ErrorKind::InvalidData, "says 512 bytes, has 513");
}

#[test]
fn what_is_not_sealed_is_refused() {
    let (bytes, _) = genuine();
    refused(open_fd(forged(&bytes).into()), ErrorKind::InvalidData, "the segment refused: it bears seals");
    let sized = forged(&bytes);
    sized.seal_size().unwrap();
    refused(open_fd(sized.into()), ErrorKind::InvalidData, "the segment refused: it bears seals");

    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    refused(open_fd(file.into()), ErrorKind::InvalidData, "the segment refused");
    refused(open_fd(io::pipe().unwrap().0.into()), ErrorKind::InvalidData, "no memfd");
}

#[test]
fn a_page_that_could_shrink_is_refused() {
    let mut publisher = Publisher::latest(8).unwrap();
    let (description, mut fds) = publisher.subscribe().unwrap().1.into_fds();
    fds[1] = Memfd::create("page", 4096).unwrap().into();
    let ticket = Ticket::from_fds(&description, fds).unwrap();
    refused(Subscriber::open(ticket), ErrorKind::InvalidData, "the subscriber's page refused");

    let (description, mut fds) = publisher.subscribe().unwrap().1.into_fds();
    let empty = Memfd::create("page", 0).unwrap();
    empty.seal_size().unwrap();
    fds[1] = empty.into();
    let ticket = Ticket::from_fds(&description, fds).unwrap();
    refused(Subscriber::open(ticket), ErrorKind::InvalidData, "the subscriber's page is empty");
}

/// A memfd of huge pages. It takes no memory before it is touched, so it can be made where there are no such pages.
#[allow(unsafe_code)]
fn of_huge_pages(seals: libc::c_int) -> Option<OwnedFd> {
    use std::os::fd::FromRawFd;
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | libc::MFD_HUGETLB;
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"huge".as_ptr(), flags) };
    if !can(fd >= 0, "the kernel has no huge pages") {
        return None;
    }
    // SAFETY: the call has just made it, so nothing else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let file = File::from(fd.try_clone().unwrap());
    file.set_len(2 << 20).unwrap();
    // SAFETY: no pointers.
    assert_eq!(unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&fd), libc::F_ADD_SEALS, seals) }, 0);
    Some(fd)
}

/// It has the seals, but they do not guarantee that its pages stay.
#[test]
fn huge_pages_are_refused_though_they_are_sealed() {
    let size = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    let seals = [size | libc::F_SEAL_FUTURE_WRITE, size];
    let mut publisher = Publisher::latest(8).unwrap();
    for (at, what) in
        ["the segment refused: its pages", "the subscriber's page refused: its pages"].iter().enumerate()
    {
        let (bytes, mut fds) = publisher.subscribe().unwrap().1.into_fds();
        let Some(huge) = of_huge_pages(seals[at]) else { return };
        fds[at] = huge;
        let opened = Subscriber::open(Ticket::from_fds(&bytes, fds).unwrap());
        refused(opened, ErrorKind::InvalidData, what);
    }
    let Some(huge) = of_huge_pages(0) else { return };
    for access in [Access::ReadOnly, Access::ReadWrite] {
        refused(Mapping::of(&huge, 0, 4096, access), ErrorKind::InvalidInput, "map whole pages");
        refused(Mapping::of(&huge, 4096, 2 << 20, access), ErrorKind::InvalidInput, "map whole pages");
    }
}

#[test]
fn a_damaged_ticket_is_refused() {
    let mut publisher = Publisher::latest(8).unwrap();
    let mut parts = || publisher.subscribe().unwrap().1.into_fds();
    let (description, _) = parts();
    for at in 0..8 {
        let (mut bytes, fds) = parts();
        bytes[at] ^= 0x80;
        refused(Ticket::from_fds(&bytes, fds), ErrorKind::InvalidData, "not a ticket");
    }
    for at in 8..Ticket::BYTES {
        let (mut bytes, fds) = parts();
        bytes[at] ^= 0x80;
        let mut subscriber = Subscriber::open(Ticket::from_fds(&bytes, fds).unwrap()).unwrap();
        assert_eq!(subscriber.recv().unwrap(), None);
    }
    refused(Ticket::from_fds(&description[..15], parts().1), ErrorKind::InvalidData, "15 bytes");
    for count in 0..3 {
        let (bytes, mut fds) = parts();
        fds.truncate(count);
        refused(Ticket::from_fds(&bytes, fds), ErrorKind::InvalidData, "it names 3 descriptors");
    }
    for count in [0, 1, 4] {
        let (mut bytes, mut fds) = parts();
        fds.truncate(count);
        fds.resize_with(count, || io::pipe().unwrap().0.into());
        bytes[6] = count as u8;
        refused(Ticket::from_fds(&bytes, fds), ErrorKind::InvalidData, "descriptors instead of 2 or 3");
    }
}

/// All that a subscriber holds, used by a hostile one.
#[test]
fn a_hostile_subscriber_damages_nothing_and_holds_up_nobody() {
    let mut publisher = Publisher::latest(64).unwrap();
    let mut honest = subscribe(&mut publisher);
    let (_, fds) = publisher.subscribe().unwrap().1.into_fds();
    let [segment, page, doorbell] = <[OwnedFd; 3]>::try_from(fds).unwrap();

    let segment = File::from(segment);
    assert!(segment.set_len(0).is_err());
    assert!(segment.write_at(b"damage", 0).is_err());
    assert!(Mapping::of(&segment, 0, 512, Access::ReadWrite).is_err());

    // Were this the publisher's eventfd, its next ring would block for ever now.
    let doorbell = UnixStream::from(doorbell);
    doorbell.set_nonblocking(false).unwrap();
    let doorbell = File::from(OwnedFd::from(doorbell));
    assert!(doorbell.write_at(&(u64::MAX - 1).to_ne_bytes(), 0).is_err());
    assert!(io::Write::write(&mut &doorbell, &(u64::MAX - 1).to_ne_bytes()).is_err());

    let page = File::from(page);
    assert!(page.set_len(0).is_err());
    assert!(page.set_len(1 << 20).is_err());
    let nonsense = Mapping::of(&page, 0, 4096, Access::ReadWrite).unwrap();
    for round in 0..100u8 {
        nonsense.write(0, &[round.wrapping_mul(37); 4096]).unwrap();
        publisher.publish(&[round; 64]).unwrap();
        assert_eq!(honest.latest().unwrap(), Some(&[round; 64][..]));
    }
}

/// One that knows only the documented layout, never reads its doorbell, and sleeps after each value.
#[test]
fn a_doorbell_that_is_never_read_rings_each_time_and_holds_up_nobody() {
    let mut publisher = Publisher::latest(8).unwrap();
    let (_, fds) = publisher.subscribe().unwrap().1.into_fds();
    let page = Mapping::of(&fds[1], 0, 4096, Access::ReadWrite).unwrap();
    let doorbell = UnixStream::from(fds[2].try_clone().unwrap());
    doorbell.set_nonblocking(false).unwrap();
    let mut poll = mio::Poll::new().unwrap();
    let mut events = mio::Events::with_capacity(8);
    let raw = std::os::fd::AsRawFd::as_raw_fd(&fds[2]);
    poll.registry().register(&mut mio::unix::SourceFd(&raw), mio::Token(7), mio::Interest::READABLE).unwrap();
    for round in 0..10_000u32 {
        page.write(0, &1u64.to_ne_bytes()).unwrap();
        publisher.publish(&round.to_ne_bytes()).unwrap();
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!(events.iter().count(), 1, "round {round}");
    }
    // What it has not read is bounded.
    drop(publisher);
    let mut unread = Vec::new();
    io::Read::read_to_end(&mut &doorbell, &mut unread).unwrap();
    assert!((1..100).contains(&unread.len()), "{} rings", unread.len());
}

/// A publisher that rings without end, and publishes nothing.
#[test]
fn a_wait_ends_with_the_time_whatever_the_doorbell_does() {
    let mut publisher = Publisher::latest(8).unwrap();
    let (bytes, mut fds) = publisher.subscribe().unwrap().1.into_fds();
    let (ours, theirs) = UnixStream::pair().unwrap();
    fds[2] = theirs.into();
    let mut subscriber = Subscriber::open(Ticket::from_fds(&bytes, fds).unwrap()).unwrap();
    std::thread::scope(|scope| {
        let rings = scope.spawn(|| while io::Write::write_all(&mut &ours, &[1; 64]).is_ok() {});
        assert!(!subscriber.wait(Some(Duration::from_millis(50))).unwrap());
        assert!(!subscriber.wait(Some(Duration::from_nanos(1))).unwrap());
        drop(subscriber);
        rings.join().unwrap();
    });
}

#[test]
fn a_doorbell_of_another_kind_is_refused() {
    let mut publisher = Publisher::latest(8).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let listener = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
    let kinds: [(OwnedFd, &str); 6] = [
        (io::pipe().unwrap().0.into(), "it is no socket"),
        (epoll_instance(), "it is no socket"),
        (tempfile::tempfile().unwrap().into(), "it is no socket"),
        (listener.into(), "of another kind"),
        (std::os::unix::net::UnixDatagram::pair().unwrap().0.into(), "of another kind"),
        (std::net::TcpListener::bind("127.0.0.1:0").unwrap().into(), "of another kind"),
    ];
    for (kind, why) in kinds {
        let (bytes, mut fds) = publisher.subscribe().unwrap().1.into_fds();
        fds[2] = kind;
        let opened = Subscriber::open(Ticket::from_fds(&bytes, fds).unwrap());
        refused(opened, ErrorKind::InvalidData, why);
    }
}

/// This descriptor gave its holder the right to add watches, which are charged to the publisher's user.
fn epoll_instance() -> OwnedFd {
    rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap()
}

#[test]
fn a_subscriber_that_is_gone_costs_nothing_more() {
    let mut publisher = Publisher::latest(8).unwrap();
    for _ in 0..10 {
        let mut subscriber = subscribe(&mut publisher);
        assert!(subscriber.latest().unwrap().is_none() || publisher.published() > 0);
        while !subscriber.arm() {
            subscriber.latest().unwrap();
        }
        drop(subscriber);
        publisher.publish(b"x").unwrap();
        publisher.publish(b"y").unwrap();
    }
}

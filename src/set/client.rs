//! One stream connection without its session: the socket, what waits for it, and its state.
//!
//! Nothing here knows the service's state or the reactor, so it is compiled once, and tested over a socket pair.

use std::{
    cell::Cell,
    collections::VecDeque,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    rc::Rc,
    time::Duration,
};

use mio::Interest;

use crate::{
    bytes::{
        buffer::{Buffer, Pool},
        framing::Framing,
    },
    net::transport::Transport,
    sys::{closer, file, scm, sockaddr::SockAddr, socket},
    types::cause::{Cause, Limit},
};

/// The configuration that all connections of one listener share.
pub(crate) struct ConnectionConfig {
    pub(crate) framing: Framing,
    /// The socket keeps message boundaries (seqpacket): a read is a record, a reply is a record.
    pub(crate) records: bool,
    pub(crate) rights: Rights,
    /// A Unix socket: the kernel reports the peer's uid.
    pub(crate) unix: bool,
    first_request: FirstRequest,
}

/// What happens to descriptors that the peer passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rights {
    /// None arrive: the transport cannot pass them, or the kernel refuses them (`SO_PASSRIGHTS`, since Linux 6.16).
    Refused,
    /// They are closed, and so is the client, whose protocol has none.
    EndClient,
    /// They are closed: they may have been passed before the socket was adopted.
    Discarded,
    /// They are kept for the session.
    Wanted,
}

impl Rights {
    /// Whether each read must take descriptors. Otherwise the kernel would close them in this thread, which can block
    /// (`sys/closer.rs`).
    pub(crate) fn are_taken(self) -> bool {
        self != Rights::Refused
    }
}

/// Predicts from the latest clients whether a new client has sent a request by the time it is accepted.
#[derive(Default)]
struct FirstRequest(Cell<u8>);

impl ConnectionConfig {
    /// `unwanted`: what happens to descriptors if the framing allows none.
    pub(crate) fn new(transport: Transport, framing: Framing, unwanted: Rights) -> ConnectionConfig {
        let rights = match framing.descriptors_max() {
            _ if transport.is_tcp() => Rights::Refused,
            0 => unwanted,
            _ => Rights::Wanted,
        };
        ConnectionConfig {
            records: transport.is_seqpacket(),
            rights,
            unix: !transport.is_tcp(),
            first_request: FirstRequest::default(),
            framing,
        }
    }

    /// Whether the next client is expected to have sent a request when it is accepted.
    pub(crate) fn expects_request(&self) -> bool {
        self.first_request.0.get() >= 2
    }

    /// Notes whether a client had sent something by its first visit.
    pub(crate) fn note_first_visit(&self, sent: bool) {
        let before = self.first_request.0.get();
        self.first_request.0.set(if sent { (before + 1).min(3) } else { before.saturating_sub(1) });
    }
}

/// Why a connection that still has bytes to send is being closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Peer,
    PartialFrame,
    Closed,
    Drain,
}

impl From<Ending> for Cause {
    fn from(ending: Ending) -> Cause {
        match ending {
            Ending::Peer => Cause::Peer,
            Ending::PartialFrame => Cause::PartialFrame,
            Ending::Closed => Cause::Closed,
            Ending::Drain => Cause::Drain,
        }
    }
}

/// The state of a connection, one bit for each fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flags(u16);

impl Flags {
    /// The session's `on_open` has been called.
    pub(crate) const OPENED: Flags = Flags(1);
    /// The last send was complete.
    pub(crate) const WRITABLE: Flags = Flags(1 << 1);
    /// Reads return bytes, not records: a short read proves that nothing is left.
    const STREAM: Flags = Flags(1 << 2);
    /// Not registered with epoll yet: the first visit comes before the registration.
    pub(crate) const UNREGISTERED: Flags = Flags(1 << 3);
    /// The input buffer may hold whole frames.
    pub(crate) const FRAMES_PENDING: Flags = Flags(1 << 4);
    /// The peer has shut down its writing side.
    pub(crate) const READ_CLOSED: Flags = Flags(1 << 5);
    /// The peer does not read any more: output is discarded.
    pub(crate) const WRITE_CLOSED: Flags = Flags(1 << 6);
    /// Registered for `EPOLLOUT`.
    pub(crate) const WRITE_INTEREST: Flags = Flags(1 << 7);
    /// The peer reads its replies too slowly: its requests are not read.
    pub(crate) const THROTTLED: Flags = Flags(1 << 8);
    /// A drain has shut down our reading side.
    pub(crate) const READ_SHUTDOWN: Flags = Flags(1 << 9);
    /// `on_drain` has been called.
    pub(crate) const DRAIN_NOTIFIED: Flags = Flags(1 << 10);
    /// It has an input buffer, an output buffer or an [`Extra`], or it is being closed.
    const HOLDS: Flags = Flags(1 << 11);
    /// Each read must take the descriptors that come with it.
    const TAKES_RIGHTS: Flags = Flags(1 << 12);
    /// The kernel refuses more descriptors: those that are left to take came before.
    pub(crate) const REFUSES_RIGHTS: Flags = Flags(1 << 13);

    /// Nothing about the connection is unusual: one test instead of many.
    const PLAIN: Flags = Flags::OPENED.or(Flags::WRITABLE).or(Flags::STREAM);

    /// The same, if each read must take descriptors.
    const PLAIN_WITH_RIGHTS: Flags = Flags::PLAIN.or(Flags::TAKES_RIGHTS);

    #[inline]
    pub(crate) fn has(self, any: Flags) -> bool {
        self.0 & any.0 != 0
    }

    /// Sets flags where `on`, and leaves them otherwise.
    pub(crate) fn set_if(&mut self, flags: Flags, on: bool) {
        if on {
            self.set(flags, true);
        }
    }

    pub(crate) const fn or(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    #[inline]
    pub(crate) fn set(&mut self, flags: Flags, on: bool) {
        self.0 = if on { self.0 | flags.0 } else { self.0 & !flags.0 };
    }
}

/// State that few connections have.
#[derive(Default)]
pub(crate) struct Extra {
    /// Passed by the peer, and not taken by the session yet.
    pub(crate) descriptors: VecDeque<OwnedFd>,
    /// Set while [`PollSet::connect`](crate::PollSet::connect) is in progress.
    pub(crate) connecting: Option<Box<Connecting>>,
}

/// Domain and address.
pub(crate) type Target = (libc::c_int, SockAddr);

/// The state of a [`PollSet::connect`](crate::PollSet::connect) that is in progress.
pub(crate) struct Connecting {
    pub(crate) transport: Transport,
    /// The first is being tried. The others follow if it fails.
    pub(crate) targets: VecDeque<Target>,
    /// The error of the last one, if it failed at once; the first visit reports it.
    pub(crate) failure: Option<io::Error>,
    /// When a timer tries again; a visit before then does not.
    pub(crate) retry_ns: u64,
    pub(crate) pause: Duration,
}

/// Descriptors that the visited client has passed.
#[derive(Default)]
pub(crate) struct Inbox {
    /// Those that its session has not taken.
    pub(crate) descriptors: VecDeque<OwnedFd>,
    /// How many were closed instead. The end of the visit counts them.
    pub(crate) discarded: u64,
}

/// The result of a read.
pub(crate) enum Read {
    Bytes(usize),
    /// Bytes with descriptors. The kernel stops a read at them, so a short read proves nothing.
    BytesAndRights(usize),
    End,
    Failed(io::Error),
    /// The read exceeds a limit.
    Limit(Limit),
}

impl From<io::Result<usize>> for Read {
    fn from(received: io::Result<usize>) -> Read {
        match received {
            Ok(0) => Read::End,
            Ok(count) => Read::Bytes(count),
            Err(error) => Read::Failed(error),
        }
    }
}

/// The result of a send.
#[derive(Debug)]
pub(crate) enum Sent {
    /// This many bytes were sent; there may be more to send.
    Bytes(usize),
    /// The peer does not read any more: this many bytes were discarded.
    Dropped(usize),
    /// The socket is full; an event comes when there is room.
    Full,
    /// Too many descriptors of this user are in flight; no event comes when there is room.
    InFlight(io::Error),
    Failed(io::Error),
}

/// The I/O half of a client: the endpoint that stays in its slot while the session runs.
pub(crate) struct ClientIo {
    socket: OwnedFd,
    pub(crate) flags: Flags,
    ending: Option<Ending>,
    pub(crate) config: Rc<ConnectionConfig>,
    /// A partial frame, or frames that a budget left.
    input: Option<Box<Buffer>>,
    /// Bytes that are not sent yet.
    output: Option<Box<Buffer>>,
    extra: Option<Box<Extra>>,
    /// When the peer last sent or read a byte; for a client that is being closed, when the closing began.
    pub(crate) active_ns: u64,
    /// Its buffered bytes, as the accounts have them.
    pub(crate) buffered: u32,
    pub(crate) uid: u32,
}

impl ClientIo {
    pub(crate) fn new(socket: OwnedFd, config: Rc<ConnectionConfig>, now_ns: u64, uid: u32) -> ClientIo {
        let mut flags = Flags::WRITABLE;
        flags.set(Flags::STREAM, !config.records);
        flags.set(Flags::TAKES_RIGHTS, config.rights.are_taken());
        let mut io = ClientIo {
            socket,
            flags,
            ending: None,
            input: None,
            output: None,
            extra: None,
            active_ns: now_ns,
            buffered: 0,
            uid,
            config,
        };
        if io.config.rights == Rights::Wanted {
            io.set_extra(Some(Box::default()));
        }
        io
    }

    #[inline]
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    #[inline]
    pub(crate) fn raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Puts another socket in the place of this one.
    pub(crate) fn replace_socket(&mut self, socket: OwnedFd) -> OwnedFd {
        std::mem::replace(&mut self.socket, socket)
    }

    // ---- State ----

    /// Nothing about it is unusual: a readable event is handled by the straight line of a visit.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.flags == Flags::PLAIN
    }

    /// [`is_plain`](ClientIo::is_plain), for a client whose reads must take descriptors.
    #[inline]
    pub(crate) fn is_plain_with_rights(&self) -> bool {
        self.flags == Flags::PLAIN_WITH_RIGHTS
    }

    /// Whether it is plain, with rights or without, once its session is opened and it is registered.
    pub(crate) fn becomes_plain(&self) -> bool {
        let changes = Flags::UNREGISTERED.or(Flags::TAKES_RIGHTS).0;
        Flags(self.flags.0 & !changes | Flags::OPENED.0) == Flags::PLAIN
    }

    #[inline]
    pub(crate) fn takes_rights(&self) -> bool {
        self.flags.has(Flags::TAKES_RIGHTS)
    }

    /// All that has come is read. If the kernel refuses more descriptors, later reads need not take any.
    pub(crate) fn note_drained(&mut self) {
        if self.flags.has(Flags::REFUSES_RIGHTS) {
            self.flags.set(Flags::TAKES_RIGHTS.or(Flags::REFUSES_RIGHTS), false);
        }
    }

    /// Closes the socket and the descriptors that the peer has passed: on another thread if that could block. Returns
    /// how many of these there were.
    pub(crate) fn close(mut self) -> u64 {
        let discarded = self.extra.as_mut().map_or(0, |extra| closer::close_all(&mut extra.descriptors));
        // After the end of file nothing is unread.
        if !self.takes_rights() || self.flags.has(Flags::READ_CLOSED) {
            return discarded;
        }
        let refuses = !self.config.records && self.flags.has(Flags::REFUSES_RIGHTS);
        if refuses && file::unread(self.fd()).is_ok_and(|unread| unread == 0) {
            // It holds no descriptors, and the kernel refuses more: it is closed here.
            return discarded;
        }
        closer::close_soon(self.socket);
        discarded
    }

    pub(crate) fn is_open(&self) -> bool {
        self.ending.is_none()
    }

    pub(crate) fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// Closes it after its output is sent; no more is read. The flush deadline begins.
    pub(crate) fn end(&mut self, ending: Ending, now_ns: u64) {
        if self.is_open() {
            self.ending = Some(ending);
            self.active_ns = now_ns;
            self.update_holds();
        }
    }

    pub(crate) fn is_connecting(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.connecting.is_some())
    }

    /// Not registered yet: its first visit comes before that.
    pub(crate) fn is_unregistered(&self) -> bool {
        self.flags.has(Flags::UNREGISTERED)
    }

    /// Since when it has had a partial frame.
    pub(crate) fn partial_frame_since_ns(&self) -> Option<u64> {
        self.input.as_ref().filter(|_| !self.flags.has(Flags::FRAMES_PENDING)).map(|input| input.since_ns)
    }

    /// The interest for epoll.
    pub(crate) fn interest(&self) -> Interest {
        // PRIORITY reports an out-of-band byte, at which a read stops short.
        let read =
            if self.config.records { Interest::READABLE } else { Interest::READABLE | Interest::PRIORITY };
        if self.flags.has(Flags::WRITE_INTEREST) { read | Interest::WRITABLE } else { read }
    }

    /// Bytes that are buffered, in both directions.
    pub(crate) fn waiting(&self) -> usize {
        self.input.as_ref().map_or(0, |input| input.len()) + self.unsent()
    }

    pub(crate) fn unsent(&self) -> usize {
        self.output.as_ref().map_or(0, |output| output.len())
    }

    // ---- Buffers ----

    pub(crate) fn has_input(&self) -> bool {
        self.input.is_some()
    }

    pub(crate) fn take_input(&mut self) -> Option<Box<Buffer>> {
        let input = self.input.take();
        self.update_holds();
        input
    }

    pub(crate) fn put_input(&mut self, input: Box<Buffer>) {
        self.input = Some(input);
        self.update_holds();
    }

    pub(crate) fn has_output(&self) -> bool {
        self.output.is_some()
    }

    pub(crate) fn take_output(&mut self) -> Option<Box<Buffer>> {
        let output = self.output.take();
        self.update_holds();
        output
    }

    pub(crate) fn put_output(&mut self, output: Box<Buffer>) {
        self.output = Some(output);
        self.update_holds();
    }

    /// The output buffer, outside of a visit.
    pub(crate) fn output(&mut self, pool: &mut Pool) -> &mut Buffer {
        self.flags.set(Flags::HOLDS, true);
        self.output.get_or_insert_with(|| pool.take())
    }

    pub(crate) fn extra(&mut self) -> Option<&mut Extra> {
        self.extra.as_deref_mut()
    }

    pub(crate) fn set_extra(&mut self, extra: Option<Box<Extra>>) {
        self.extra = extra;
        self.update_holds();
    }

    fn update_holds(&mut self) {
        let holds =
            self.input.is_some() || self.output.is_some() || self.extra.is_some() || self.ending.is_some();
        self.flags.set(Flags::HOLDS, holds);
    }

    // ---- System calls ----

    /// The system call of [`recv`](ClientIo::recv).
    pub(crate) fn read_call(&self) -> &'static str {
        if self.takes_rights() || self.config.records { "recvmsg" } else { "recv" }
    }

    /// One read into `room`. Descriptors that come with it go to `inbox`; if they are too many, all in `inbox` are
    /// closed.
    ///
    /// A record must fit into `room`, and not exceed `frame_max`.
    pub(crate) fn recv(&self, room: &mut [u8], inbox: &mut Inbox, frame_max: usize) -> Read {
        let config = &*self.config;
        let before = inbox.descriptors.len();
        let record = match (self.takes_rights(), config.records) {
            (false, false) => return socket::recv(self.fd(), room).into(),
            (false, true) => socket::recv_record(self.fd(), room),
            (true, _) => scm::recv(self.fd(), room, &mut inbox.descriptors),
        };
        let record = match record {
            Ok(record) => record,
            Err(error) => return Read::Failed(error),
        };
        let has_rights = record.ctrunc || inbox.descriptors.len() > before;
        if has_rights && let Err(read) = self.check_rights(inbox, record.ctrunc) {
            return read;
        }
        if !config.records {
            return match record.len {
                0 => Read::End,
                len if has_rights => Read::BytesAndRights(len),
                len => Read::Bytes(len),
            };
        }
        if record.end {
            Read::End
        } else if record.truncated || record.len > config.framing.frame_max(frame_max) {
            Read::Limit(Limit::Frame)
        } else {
            Read::Bytes(record.len)
        }
    }

    /// Checks descriptors that have come. `Err`: they were closed, and the read ends so.
    #[cold]
    fn check_rights(&self, inbox: &mut Inbox, some_are_missing: bool) -> Result<(), Read> {
        let result = match self.config.rights {
            Rights::Refused | Rights::Discarded => Ok(()),
            Rights::EndClient => Err(Read::Limit(Limit::DescriptorsPerClient)),
            Rights::Wanted if some_are_missing => {
                // The kernel does not say which of them are missing, so none can be used.
                let why = "recvmsg: descriptors were lost (MSG_CTRUNC), because the process has no room for them; \
                           raise RLIMIT_NOFILE";
                Err(Read::Failed(io::Error::other(why)))
            }
            Rights::Wanted if inbox.descriptors.len() > self.config.framing.descriptors_max() => {
                Err(Read::Limit(Limit::DescriptorsPerClient))
            }
            Rights::Wanted => return Ok(()),
        };
        inbox.discarded += closer::close_all(&mut inbox.descriptors);
        result
    }

    /// One send of the bytes in `out`, which is not empty. What is sent is removed from it.
    pub(crate) fn send(&mut self, out: &mut Buffer) -> Sent {
        loop {
            if self.flags.has(Flags::WRITE_CLOSED) {
                let dropped = out.len();
                out.clear();
                return Sent::Dropped(dropped);
            }
            let (piece, descriptors) = out.next_piece();
            let (bytes, header) = if self.config.records {
                let (length, rest) =
                    piece.split_first_chunk::<4>().expect("a record has its length before it");
                (&rest[..u32::from_ne_bytes(*length) as usize], 4)
            } else {
                (piece, 0)
            };
            let attached = !descriptors.is_empty();
            let sent = if attached {
                scm::send(self.fd(), bytes, descriptors)
            } else {
                socket::send(self.fd(), bytes)
            };
            let error = match sent {
                Ok(sent) => {
                    if attached {
                        out.detach();
                    }
                    out.consume(header + sent);
                    return Sent::Bytes(sent);
                }
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(libc::EAGAIN) => {
                    self.flags.set(Flags::WRITABLE, false);
                    return Sent::Full;
                }
                Some(libc::EINTR) => {}
                Some(libc::ETOOMANYREFS) => {
                    self.flags.set(Flags::WRITABLE, false);
                    return Sent::InFlight(error);
                }
                // The peer does not read any more. What it sent before is still handled.
                Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN) => {
                    self.flags.set(Flags::WRITE_CLOSED, true)
                }
                _ => return Sent::Failed(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read as _, Write as _},
        os::unix::net::UnixStream,
    };

    fn stream(framing: Framing) -> (ClientIo, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let config = ConnectionConfig::new(Transport::UnixStream, framing, Rights::Refused);
        let mut io = ClientIo::new(ours.into(), Rc::new(config), 1, 0);
        io.flags.set(Flags::OPENED, true);
        (io, theirs)
    }

    fn recv(io: &ClientIo, room: &mut [u8]) -> Read {
        io.recv(room, &mut Inbox::default(), 1 << 20)
    }

    #[test]
    fn reads_tell_bytes_nothing_and_the_end_apart() {
        let (io, mut theirs) = stream(Framing::raw());
        let mut room = [0; 8];
        assert!(
            matches!(recv(&io, &mut room), Read::Failed(error) if error.kind() == io::ErrorKind::WouldBlock)
        );
        theirs.write_all(b"hello").unwrap();
        assert!(matches!(recv(&io, &mut room), Read::Bytes(5)));
        drop(theirs);
        assert!(matches!(recv(&io, &mut room), Read::End));
    }

    #[test]
    fn a_full_socket_keeps_the_rest_and_says_so() {
        let (mut io, mut theirs) = stream(Framing::raw());
        let mut out = Buffer::default();
        let bytes: Vec<u8> = (0..4_000_000_u32).map(|index| index as u8).collect();
        out.extend(&bytes).unwrap();
        let mut left = 0;
        loop {
            match io.send(&mut out) {
                Sent::Bytes(sent) => left += sent,
                Sent::Full => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(!io.flags.has(Flags::WRITABLE) && !io.is_plain());
        assert_eq!(left + out.len(), bytes.len());
        let mut taken = vec![0; left];
        theirs.read_exact(&mut taken).unwrap();
        assert_eq!(taken, bytes[..left]);
        assert_eq!(out.bytes(), &bytes[left..]);
    }

    #[test]
    fn what_a_peer_that_is_gone_would_get_is_dropped_and_counted() {
        let (mut io, theirs) = stream(Framing::raw());
        drop(theirs);
        let mut out = Buffer::default();
        out.extend(b"lost").unwrap();
        assert!(matches!(io.send(&mut out), Sent::Dropped(4)));
        assert!(io.flags.has(Flags::WRITE_CLOSED) && out.is_empty());
    }

    #[test]
    fn a_connection_is_plain_only_while_nothing_waits() {
        let (mut io, _theirs) = stream(Framing::raw());
        let mut pool = Pool::default();
        assert!(io.is_plain());
        io.output(&mut pool).extend(b"waits").unwrap();
        assert!(!io.is_plain());
        assert_eq!((io.unsent(), io.waiting()), (5, 5));
        io.take_output();
        assert!(io.is_plain());
        io.put_input(pool.take());
        assert!(!io.is_plain());
        assert_eq!(io.partial_frame_since_ns(), Some(0));
        io.take_input();
        io.set_extra(Some(Box::default()));
        assert!(!io.is_plain());
        io.set_extra(None);
        io.end(Ending::Closed, 9);
        assert!(!io.is_plain() && !io.is_open());
        io.end(Ending::Peer, 10);
        assert_eq!((io.ending(), io.active_ns), (Some(Ending::Closed), 9), "the first ending counts");
    }

    #[test]
    fn descriptors_past_the_limit_are_closed() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let config =
            ConnectionConfig::new(Transport::UnixStream, Framing::raw().descriptors(1), Rights::EndClient);
        let io = ClientIo::new(ours.into(), Rc::new(config), 1, 0);
        let file = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let mut inbox = Inbox::default();
        scm::send(theirs.as_fd(), b"1", &[file()]).unwrap();
        assert!(matches!(io.recv(&mut [0; 8], &mut inbox, 100), Read::BytesAndRights(1)));
        assert_eq!(inbox.descriptors.len(), 1);
        scm::send(theirs.as_fd(), b"2", &[file()]).unwrap();
        assert!(matches!(io.recv(&mut [0; 8], &mut inbox, 100), Read::Limit(Limit::DescriptorsPerClient)));
        assert!(inbox.descriptors.is_empty());
        assert_eq!(inbox.discarded, 2);
    }
}

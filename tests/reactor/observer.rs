//! What an observer is called for, and that it cannot change what the reactor does.

use std::{
    cell::RefCell,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    rc::Rc,
    time::Duration,
};

use ipc_reactor::{
    Cause, Context, Detail, Framing, Key, Limit, Limits, Listener, Observer, Reactor, Seen, Session,
    SourceKind, Turn, VisitEnd, What,
};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};

/// Replies to each line with the line, twice.
struct Twice;

impl Session<()> for Twice {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        match request {
            b"panic" => panic!("asked to"),
            b"fail" => Err(io::Error::other("asked to")),
            _ => {
                cx.reply_frame(request)?;
                cx.reply_frame(request)
            }
        }
    }
}

/// Records its calls, without the times.
#[derive(Clone, Default)]
struct Diary(Rc<RefCell<Vec<String>>>);

impl Diary {
    fn take(&self) -> Vec<String> {
        self.0.take()
    }
}

fn line(seen: &Seen<'_>) -> Option<String> {
    Some(match seen.what {
        What::Woke { events, .. } => format!("woke {events}"),
        What::Edge { source, ready } => format!("edge {:?} {}", source.kind, ready.is_readable()),
        What::Stale { .. } => "stale".into(),
        What::Visit { source, .. } => format!("visit {:?}", source.kind),
        What::Accepted { listener, client, peer, clients, .. } => {
            assert_eq!((listener.kind, client.kind), (SourceKind::Listener, SourceKind::Client));
            assert!(listener.fd.is_some() && client.fd.is_some() && listener.fd != client.fd);
            assert_eq!(peer.credentials().unwrap().pid, std::process::id() as i32);
            format!("CIR, clients {clients}")
        }
        What::Read { bytes, .. } => format!("read {bytes}"),
        What::Request { request, reply_bytes, .. } => {
            format!("SRM {:?} replied {reply_bytes}", str::from_utf8(request).unwrap())
        }
        What::Sent { bytes, left, .. } => format!("sent {bytes} left {left}"),
        What::Fault { cause, .. } => format!("fault: {cause}"),
        What::Limit { limit } => format!("limit {limit}"),
        What::Closed { source, cause } => format!("closed {:?}: {cause}", source.kind),
        What::Visited { end, .. } => format!("visited {end:?}"),
        What::Turned { ready, .. } => format!("turned {ready}"),
        _ => return None,
    })
}

impl Observer for Diary {
    fn observe(&mut self, seen: &Seen<'_>) {
        self.0.borrow_mut().extend(line(seen));
    }
}

struct Served {
    _folder: tempfile::TempDir,
    reactor: Reactor<()>,
    client: UnixStream,
}

/// A server with one client, the first two turns taken: the CIR, and the opening.
fn serve(limits: Limits, observer: impl Observer) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let mut reactor =
        Reactor::<()>::builder().limits(Limits { idle: None, queue_check: None, ..limits }).build().unwrap();
    reactor.observe(observer);
    reactor.listen(Listener::unix(&path).unwrap(), Framing::lines(), |_, ()| Ok(Twice)).unwrap();
    let client = UnixStream::connect(&path).unwrap();
    let mut served = Served { _folder: folder, reactor, client };
    while served.turn() == Turn::Pending {}
    served
}

impl Served {
    fn turn(&mut self) -> Turn {
        self.reactor.turn(None, &mut ()).unwrap()
    }

    /// Runs a turn with these bytes; returns whether work is left for the next.
    fn send(&mut self, bytes: &[u8]) -> bool {
        self.client.write_all(bytes).unwrap();
        self.turn() == Turn::Pending
    }
}

#[test]
fn a_cir_and_an_srm_are_told_from_the_edge_to_the_answer() {
    let diary = Diary::default();
    let mut served = serve(Limits::default(), diary.clone());
    let told = diary.take();
    assert_eq!(
        told[..5],
        ["woke 1", "edge Listener true", "visit Listener", "CIR, clients 1", "visited Drained"]
            .map(String::from)
    );
    assert!(!served.send(b"ab\nc\n"));
    assert_eq!(
        diary.take(),
        [
            "woke 1",
            "edge Client true",
            "visit Client",
            "read 5",
            "SRM \"ab\" replied 6",
            "SRM \"c\" replied 4",
            "sent 10 left 0",
            "visited Drained",
            "turned 0",
        ]
    );
    let mut answer = [0; 10];
    served.client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"ab\nab\nc\nc\n");

    served.client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(served.turn(), Turn::Idle);
    let told = diary.take();
    assert!(told.contains(&"read 0".to_owned()), "{told:?}");
    assert_eq!(told[4..], ["closed Client: closed by the peer", "visited Closed", "turned 0"], "{told:?}");
}

#[test]
fn faults_and_limits_are_told() {
    let diary = Diary::default();
    let mut served = serve(Limits { messages_per_visit: 1, ..Limits::default() }, diary.clone());
    diary.take();
    assert!(served.send(b"1\n2\n"));
    let told = diary.take();
    assert!(told.contains(&format!("limit {}", Limit::Messages)), "{told:?}");
    assert!(told.ends_with(&["visited Again".into(), "turned 1".into()]), "{told:?}");
    assert_eq!(served.turn(), Turn::Idle);
    diary.take();
    served.send(b"fail\n");
    let told = diary.take();
    assert!(told.contains(&"visited Closed".into()), "{told:?}");
    assert!(told.contains(&"closed Client: the handler failed: asked to".into()), "{told:?}");
    assert!(told.contains(&"fault: the handler failed: asked to".into()), "{told:?}");

    let diary = Diary::default();
    let mut served = serve(Limits::default(), diary.clone());
    served.send(b"panic\n");
    assert!(diary.take().contains(&"fault: the handler panicked: asked to".into()));
}

/// Times of one visit must add up, for every observer.
#[derive(Default)]
struct Times {
    handlers_ns: u64,
    last_ns: u64,
    visits: u64,
}

impl Observer for Times {
    fn observe(&mut self, seen: &Seen<'_>) {
        assert!(seen.at_ns >= self.last_ns, "time does not run backwards");
        self.last_ns = seen.at_ns;
        match seen.what {
            What::Request { handler_ns, .. } => self.handlers_ns += handler_ns,
            What::Visited { took_ns, end, source, .. } if source.kind == SourceKind::Client => {
                assert_eq!(end, VisitEnd::Drained);
                assert!(
                    took_ns >= self.handlers_ns,
                    "{took_ns} ns, of them {} ns in handlers",
                    self.handlers_ns
                );
                self.handlers_ns = 0;
                self.visits += 1;
            }
            _ => {}
        }
    }
}

#[test]
fn the_handlers_times_are_within_the_visits() {
    let mut served = serve(Limits::default(), Times::default());
    for _ in 0..10 {
        served.send(b"1\n2\n3\n");
    }
    let times = served.reactor.take_observer::<Times>().unwrap();
    assert!(times.visits >= 10 && times.last_ns > 0);
    assert!(served.reactor.take_observer::<Times>().is_none());
    assert!(served.reactor.observer_mut::<Diary>().is_none());
}

/// Observes visits only.
struct Visits(u64);

impl Observer for Visits {
    fn observe(&mut self, seen: &Seen<'_>) {
        let of_messages = matches!(
            seen.what,
            What::Edge { .. } | What::Request { .. } | What::Read { .. } | What::Sent { .. }
        );
        assert!(!of_messages, "{:?}", seen.what);
        self.0 += u64::from(matches!(seen.what, What::Visited { .. }));
    }

    fn detail(&self) -> Detail {
        Detail::Visits
    }
}

#[test]
fn each_observer_is_told_as_much_as_it_asked_for() {
    let diary = Diary::default();
    let mut served = serve(Limits::default(), Visits(0));
    served.reactor.observe(diary.clone());
    served.send(b"x\n");
    assert!(diary.take().contains(&"SRM \"x\" replied 4".into()));
    assert!(served.reactor.observer_mut::<Visits>().unwrap().0 >= 2, "it was not dropped for a panic");
}

/// Records visits, and what else is reported where messages are not.
#[derive(Clone, Default)]
struct VisitDiary(Diary);

impl Observer for VisitDiary {
    fn observe(&mut self, seen: &Seen<'_>) {
        self.0.observe(seen);
    }

    fn detail(&self) -> Detail {
        Detail::Visits
    }
}

#[test]
fn a_visit_is_told_in_one_event_unless_something_happens_in_it() {
    let diary = VisitDiary::default();
    let mut served = serve(Limits { messages_per_visit: 1, ..Limits::default() }, diary.clone());
    let told = diary.0.take();
    assert_eq!(
        told[..4],
        ["woke 1", "visit Listener", "CIR, clients 1", "visited Drained"].map(String::from)
    );
    assert!(!served.send(b"1\n"));
    assert_eq!(diary.0.take(), ["woke 1", "visited Drained", "turned 0"]);
    assert!(served.send(b"1\n2\n"));
    let limit = format!("limit {}", Limit::Messages);
    assert_eq!(diary.0.take(), ["woke 1", "visit Client", &limit, "visited Again", "turned 1"]);
}

/// Adds an observer at a request.
struct Curious(VisitDiary);

impl Session<()> for Curious {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        if request == b"look" {
            cx.observe(self.0.clone());
        }
        Ok(())
    }
}

#[test]
fn an_observer_that_is_put_in_by_a_handler_is_told_of_the_rest_of_the_turn() {
    let diary = VisitDiary::default();
    let mut reactor = Reactor::<()>::new().unwrap();
    let mut peers = [(); 2].map(|()| {
        let (theirs, ours) = UnixStream::pair().unwrap();
        reactor.adopt(ours, Framing::lines(), Curious(diary.clone())).unwrap();
        theirs
    });
    while reactor.turn(Some(Duration::ZERO), &mut ()).unwrap() == Turn::Pending {}
    peers[0].write_all(b"look\n").unwrap();
    peers[1].write_all(b"and be seen\n").unwrap();
    let _ = reactor.turn(None, &mut ()).unwrap();
    let told = diary.0.take();
    assert_eq!(told.iter().filter(|line| *line == "visited Drained").count(), 1, "{told:?}");
}

/// Sends back what it is sent, from where it was read.
struct Echo;

impl Session<()> for Echo {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        cx.reply(request)
    }
}

#[test]
fn a_reply_that_echoes_its_request_is_told_as_any_other() {
    let diary = Diary::default();
    let mut served = serve(Limits::default(), diary.clone());
    let (mut theirs, ours) = UnixStream::pair().unwrap();
    served.reactor.adopt(ours, Framing::fixed(2), Echo).unwrap();
    while served.turn() == Turn::Pending {}
    diary.take();
    theirs.write_all(b"abcd").unwrap();
    assert_eq!(served.turn(), Turn::Idle);
    let told = diary.take();
    let wanted =
        ["read 4", "SRM \"ab\" replied 2", "SRM \"cd\" replied 2", "sent 4 left 0", "visited Drained"];
    assert_eq!(told[3..8], wanted.map(String::from), "{told:?}");
}

/// Two replies to a record were reported as 8 bytes more: the lengths that are stored before them until they are
/// sent.
#[test]
fn the_lengths_of_records_were_told_as_bytes_of_the_reply() {
    let diary = Diary::default();
    let mut served = serve(Limits::default(), diary.clone());
    let (theirs, ours) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    served.reactor.adopt(ours, Framing::raw(), Twice).unwrap();
    send(&theirs, b"four", SendFlags::empty()).unwrap();
    while served.turn() == Turn::Pending {}
    let told = diary.take();
    assert!(told.contains(&"SRM \"four\" replied 8".into()), "{told:?}");
    assert!(told.contains(&"sent 4 left 8".into()), "in front of the second is its length: {told:?}");
}

/// Panics at the first SRM.
struct Clumsy;

impl Observer for Clumsy {
    fn observe(&mut self, seen: &Seen<'_>) {
        assert!(!matches!(seen.what, What::Request { .. }), "clumsy");
    }
}

#[test]
fn an_observer_that_panics_is_dropped_and_disturbs_nobody() {
    let diary = Diary::default();
    let mut served = serve(Limits::default(), Clumsy);
    served.reactor.observe(diary.clone());
    diary.take();
    served.send(b"x\n");
    assert!(diary.take().contains(&"SRM \"x\" replied 4".into()), "others are told all the same");
    assert!(served.reactor.observer_mut::<Clumsy>().is_none());
    assert_eq!(served.reactor.stats().panics, 1);
    let mut answer = [0; 4];
    served.client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"x\nx\n");
    served.send(b"y\n");
    served.client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"y\ny\n");
}

/// The reported keys are those of the interface.
struct Keys(Vec<Key>);

impl Observer for Keys {
    fn observe(&mut self, seen: &Seen<'_>) {
        match seen.what {
            What::Accepted { client, .. } => self.0.push(client.key),
            What::Closed { source, cause: Cause::Stop } => self.0.retain(|&key| key != source.key),
            _ => {}
        }
    }
}

#[test]
fn keys_are_those_of_the_interface_and_a_stop_is_told_too() {
    let mut served = serve(Limits::default(), Keys(Vec::new()));
    let clients: Vec<Key> = served.reactor.clients().collect();
    assert_eq!(served.reactor.observer_mut::<Keys>().unwrap().0, clients);
    served.reactor.stop();
    assert_eq!(served.turn(), Turn::Stopped);
    assert!(served.reactor.observer_mut::<Keys>().unwrap().0.is_empty());
}

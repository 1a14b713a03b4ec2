//! The flight recorder: what it keeps, when it writes by itself, and that it names the source that blocked the loop.

use std::{
    cell::RefCell,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    rc::Rc,
    thread,
    time::Duration,
};

use ipc_reactor::{
    Cause, Context, FlightRecorder, Framing, Limits, Listener, Observer, Reactor, Seen, Session, SourceInfo,
    SourceKind, TimerKey, Turn, VisitEnd, What,
};
use tempfile::TempDir;

/// Where dumps go, shared with the test.
#[derive(Clone, Default)]
struct Sink(Rc<RefCell<Vec<u8>>>);

impl Sink {
    fn take(&self) -> String {
        String::from_utf8(self.0.take()).unwrap()
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How long an `on_close`, or a timer's handler, holds up the loop. Only ever a lower bound.
const LONG: Duration = Duration::from_millis(20);

/// Echoes lines, and follows the orders in them.
struct Told;

impl Session<()> for Told {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        match request {
            b"panic" => panic!("asked to"),
            b"wake" => _ = cx.wake_after(Duration::ZERO),
            b"dump" => {
                let recorder = cx.observer_mut::<FlightRecorder>().unwrap();
                let dump = recorder.to_string();
                cx.reply_frame(dump.replace('\n', "|").as_bytes())?;
            }
            _ => cx.reply_frame(request)?,
        }
        Ok(())
    }

    fn on_timer(&mut self, _: TimerKey, cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        thread::sleep(LONG);
        cx.reply_frame(b"awake")
    }

    fn on_close(&mut self, _: &Cause, _: &mut Context<'_, ()>, (): &mut ()) {
        thread::sleep(LONG);
    }
}

struct Served {
    folder: TempDir,
    reactor: Reactor<()>,
}

fn serve(recorder: FlightRecorder) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { idle: None, queue_check: None, ..Limits::default() };
    let mut reactor = Reactor::<()>::builder().limits(limits).build().unwrap();
    reactor.observe(recorder);
    let listener = Listener::unix(folder.path().join("socket")).unwrap();
    reactor.listen(listener, Framing::lines(), |_, ()| Ok(Told)).unwrap();
    Served { folder, reactor }
}

impl Served {
    fn connect(&mut self) -> UnixStream {
        let client = UnixStream::connect(self.folder.path().join("socket")).unwrap();
        self.turn();
        client
    }

    fn turn(&mut self) {
        while self.reactor.turn(None, &mut ()).unwrap() == Turn::Pending {}
    }

    fn ask(&mut self, client: &mut UnixStream, line: &str) -> String {
        client.write_all(line.as_bytes()).unwrap();
        self.turn();
        let mut answer = [0; 1 << 16];
        let count = client.read(&mut answer).unwrap();
        String::from_utf8(answer[..count].to_vec()).unwrap()
    }

    fn dump(&mut self) -> String {
        self.reactor.observer_mut::<FlightRecorder>().unwrap().to_string()
    }

    /// How the last client is named in a dump.
    fn name(&self) -> String {
        let key = self.reactor.clients().last().unwrap();
        format!("client {key} fd ")
    }
}

#[test]
fn the_ring_keeps_the_latest_and_tells_them_in_their_order() {
    let mut served = serve(FlightRecorder::new().capacity(5));
    assert_eq!(served.dump(), "flight recorder: nothing yet\n");
    let mut client = served.connect();
    for _ in 0..20 {
        served.ask(&mut client, "x\n");
    }
    let dump = served.dump();
    let lines: Vec<&str> = dump.lines().collect();
    assert_eq!(lines.len(), 1 + 8, "a power of two: {dump}");
    let turns = served.reactor.stats().turns;
    for (pair, turn) in lines[1..].chunks(2).zip(turns - 3..=turns) {
        assert!(pair[0].contains(&format!("turn {turn}: slept ")), "{dump}");
        assert!(pair[1].contains(&served.name()) && pair[1].ends_with("Drained"), "{dump}");
    }
    assert!(lines[8].trim_start().starts_with("now ") && lines[1].trim_start().starts_with('-'), "{dump}");
}

#[test]
fn each_message_is_there_if_it_was_asked_for() {
    let mut served = serve(FlightRecorder::new().messages());
    let mut client = served.connect();
    served.ask(&mut client, "four\n");
    let dump = served.dump();
    let wanted =
        ["CIR: client", "read 5 bytes", "SRM of 4 bytes, replies 5, handler ", "sent 5 bytes, 0 left"];
    let mut at = 0;
    for wanted in wanted {
        at += dump[at..].find(wanted).unwrap_or_else(|| panic!("no {wanted:?} in {dump}"));
    }
    let visits = serve(FlightRecorder::new()).dump();
    assert!(!visits.contains("SRM"), "{visits}");
}

#[test]
fn a_dump_from_a_handler_shows_its_own_visit_unfinished() {
    let mut served = serve(FlightRecorder::new());
    let mut client = served.connect();
    let dump = served.ask(&mut client, "dump\n");
    let last = dump.trim_end().trim_end_matches('|').rsplit('|').next().unwrap();
    assert!(last.contains(&served.name()) && last.ends_with("not over yet"), "{dump}");
    assert_eq!(dump.matches("not over yet").count(), 2, "the turn's and the visit's: {dump}");
    assert!(!served.dump().contains("not over yet"));
}

#[test]
fn a_panic_is_dumped_with_the_name_of_who_panicked() {
    let sink = Sink::default();
    let mut served = serve(FlightRecorder::new().dump_to(sink.clone()).apart(Duration::ZERO));
    let mut bystander = served.connect();
    served.ask(&mut bystander, "x\n");
    let mut client = served.connect();
    let name = served.name();
    client.write_all(b"panic\n").unwrap();
    served.turn();
    let dump = sink.take();
    let first = dump.lines().next().unwrap();
    assert!(first.contains(&name) && first.ends_with("the handler panicked: asked to"), "{dump}");
    assert!(dump.contains("closed: the handler panicked"), "{dump}");
    served.ask(&mut bystander, "x\n");
    assert_eq!(sink.take(), "", "the rest is served, and makes no dump");
}

#[test]
fn an_on_close_that_holds_up_the_loop_is_not_laid_at_the_next_ones_door() {
    let sink = Sink::default();
    let recorder = FlightRecorder::new().slow(LONG).dump_to(sink.clone()).apart(Duration::ZERO);
    let mut served = serve(recorder);
    let first = served.connect();
    let mut second = served.connect();
    // Both in one batch, the one that closes before the other.
    drop(first);
    served.ask(&mut second, "x\n");
    let dump = sink.take();
    assert!(dump.contains(" between two visits, where on_close is called"), "{dump}");
}

/// The delay was attributed to the timers, of which none is named.
#[test]
fn a_sessions_timer_that_held_up_the_loop_was_blamed_on_the_timers() {
    let sink = Sink::default();
    let recorder = FlightRecorder::new().slow(LONG).dump_to(sink.clone()).apart(Duration::ZERO);
    let mut served = serve(recorder);
    let mut client = served.connect();
    client.write_all(b"wake\n").unwrap();
    while !served.dump().contains("TimerKey") {
        let _ = served.reactor.turn(None, &mut ()).unwrap();
    }
    assert_eq!(client.read(&mut [0; 16]).unwrap(), b"awake\n".len());
    let dump = sink.take();
    assert!(dump.starts_with(&format!("flight recorder: {}", served.name())), "{dump}");
    assert_eq!(
        dump.matches("held up the loop").count(),
        1,
        "and the timers' visit is not dumped again: {dump}"
    );
    let key = served.reactor.clients().next().unwrap();
    assert!(dump.contains(&format!(" of {key}, late ")), "{dump}");
}

/// Visits with invented times, recorded without a reactor.
struct Visits {
    recorder: FlightRecorder,
    source: SourceInfo,
}

impl Visits {
    fn new(recorder: FlightRecorder) -> Visits {
        let mut served = serve(FlightRecorder::new());
        let _client = served.connect();
        let key = served.reactor.clients().next().unwrap();
        Visits { recorder, source: SourceInfo { key, fd: Some(9), kind: SourceKind::Client } }
    }

    /// A visit that ends at that second, and took so many milliseconds.
    fn take(&mut self, second: u64, millis: u64) {
        let (source, ready, took_ns) = (self.source, Default::default(), millis * 1_000_000);
        let at_ns = second * 1_000_000_000;
        let mut see = |at_ns, what| self.recorder.observe(&Seen { at_ns, turn: second, what });
        see(at_ns - took_ns, What::Woke { events: 1, waited_ns: 0 });
        see(at_ns, What::Visited { source, ready, queued_ns: 0, took_ns, end: VisitEnd::Drained });
        see(at_ns, What::Turned { took_ns, ready: 0 });
    }
}

#[test]
fn a_slow_visit_is_dumped_and_a_storm_of_them_is_not() {
    let sink = Sink::default();
    let slow = Duration::from_millis(10);
    let mut visits = Visits::new(FlightRecorder::new().slow(slow).dump_to(sink.clone()));
    visits.take(1, 9);
    assert_eq!(sink.take(), "");
    visits.take(2, 10);
    let dump = sink.take();
    let name = format!("client {} fd 9", visits.source.key);
    let first = format!("flight recorder: {name} held up the loop for 10.0ms; slow is 10.0ms\n");
    assert!(dump.starts_with(&first), "{dump}");
    assert!(dump.contains("took 9.0ms, Drained") && dump.ends_with("took 10.0ms, Drained\n"), "{dump}");

    for second in 3..12 {
        visits.take(second, 500);
    }
    assert_eq!(sink.take(), "", "not within ten seconds of the last");
    visits.take(13, 700);
    let dump = sink.take();
    assert!(dump.contains("for 700.0ms; slow is 10.0ms (9 dumps were left out before this one)"), "{dump}");
}

/// For example a pipe whose reader is gone.
struct Broken;

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_sink_that_fails_disturbs_nobody() {
    let mut served = serve(FlightRecorder::new().slow(Duration::ZERO).dump_to(Broken));
    let mut client = served.connect();
    assert_eq!(served.ask(&mut client, "x\n"), "x\n");
    assert!(served.dump().contains(&served.name()));
    assert_eq!(served.reactor.stats().panics, 0);
    assert!(served.reactor.observer_mut::<FlightRecorder>().unwrap().dump(&mut Broken).is_err());
}

//! Hostile peers, and a process with no descriptors left: each server is a process of its own, whose descriptors can
//! be counted.

use crate::support::names::unique;
use std::{
    io::{Read, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use ipc_reactor::{Cause, Context, Framing, Limits, Listener, Reactor, Session};

use crate::support::clerk::*;
use crate::support::fds::*;
use libc::SOCK_STREAM as STREAM;

use crate::support::isolated::{Case, cases};

pub(crate) const CASES: &[Case] = cases![
    a_hundred_thousand_hostile_messages_leak_nothing,
    descriptors_for_which_there_is_no_room_close_the_peer_and_leak_nothing,
    too_many_descriptors_under_way_wait_until_some_have_arrived
];

const HELD: u16 = 16;

/// A clerk that also reports on its process, and how each client ended.
#[derive(Default)]
struct Watched(Clerk);

impl Session<Log> for Watched {
    fn on_request(
        &mut self,
        request: &[u8],
        cx: &mut Context<'_, Log>,
        log: &mut Log,
    ) -> std::io::Result<()> {
        let words = String::from_utf8_lossy(request).into_owned();
        match words.split_once(' ').unwrap_or((&words, "")) {
            ("count", _) => {
                let clients = cx.clients().count();
                cx.reply(format!("{clients} {}\n", open_descriptors()).as_bytes())
            }
            ("unsent", _) => {
                let others: Vec<_> = cx.clients().filter(|&key| key != cx.key()).collect();
                let unsent: usize =
                    others.iter().map(|&key| cx.client(key).map_or(0, |client| client.unsent())).sum();
                let turns = cx.stats().turns;
                cx.reply(format!("{unsent} {turns}\n").as_bytes())
            }
            ("room", more) => {
                let more: u64 = more.parse().unwrap();
                let highest = text_file("").as_raw_fd() as u64;
                limit_descriptors(highest + more);
                cx.reply(b"made\n")
            }
            ("stop", _) => {
                cx.stop();
                Ok(())
            }
            _ => self.0.on_request(request, cx, log),
        }
    }

    fn on_close(&mut self, cause: &Cause, _: &mut Context<'_, Log>, log: &mut Log) {
        if !matches!(cause, Cause::Stop) {
            log.push(cause.to_string());
        }
    }
}

/// The child: serves at an abstract name until it is told to stop; then its log is printed.
fn serve(name: &str) {
    let listener = Listener::unix_abstract(name).unwrap();
    let mut reactor = Reactor::<Log>::builder().limits(Limits::default()).build().unwrap();
    let framing = Framing::lines().max(4096).descriptors(HELD);
    reactor.listen(listener, framing, |_, _| Ok(Watched::default())).unwrap();
    println!("\nready");
    let mut log = Log::new();
    reactor.run(&mut log).unwrap();
    log.sort();
    for causes in log.chunk_by(|one, other| one == other) {
        println!("closed: {} × {}", causes.len(), causes[0]);
    }
    println!("no more");
    std::io::stdout().flush().unwrap();
}

struct Server {
    role: Role,
    name: String,
    /// Another client of it, which is not hostile.
    asker: OwnedFd,
}

impl Server {
    fn start(test: &str) -> Server {
        let name = unique();
        let mut role = Role::start(&format!("hostile::{test}"), &name);
        role.says("ready");
        let asker = connect(Path::new(&format!("@{name}")), STREAM).unwrap();
        Server { role, name, asker }
    }

    fn connect(&self) -> OwnedFd {
        connect(Path::new(&format!("@{}", self.name)), STREAM).unwrap()
    }

    /// Two numbers.
    fn ask(&self, what: &str) -> (usize, usize) {
        send_with(&self.asker, format!("{what}\n").as_bytes(), &[]).unwrap();
        let answer = line(&self.asker);
        let (one, other) = answer.split_once(' ').unwrap();
        (one.parse().unwrap(), other.parse().unwrap())
    }

    /// Its descriptors, once all its clients but the asker are gone.
    fn descriptors_alone(&self) -> usize {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            match self.ask("count") {
                (1, descriptors) => return descriptors,
                (clients, _) => assert!(std::time::Instant::now() < deadline, "{clients} clients stay"),
            }
        }
    }

    /// Stops it; returns how its clients ended, and how many each way.
    fn log(mut self) -> Vec<String> {
        send_with(&self.asker, b"stop\n", &[]).unwrap();
        let mut log = Vec::new();
        loop {
            let line = self.role.says("");
            if line == "no more" {
                self.role.ends_well();
                return log;
            }
            log.extend(line.strip_prefix("closed: ").map(str::to_owned));
        }
    }
}

/// One connection of a hostile client; returns how many messages it sent.
fn attack(client: OwnedFd, ending: usize, passed: BorrowedFd<'_>) -> u32 {
    let mut sent = 0;
    let mut message = |bytes: &[u8], count: usize| {
        sent += 1;
        // A server that has closed already is as good as one that takes it.
        send_with(&client, bytes, &vec![passed; count]).is_ok()
    };
    for _ in 0..10 {
        // Two with each request, which takes one.
        message(b"r", 1);
        message(b"ead 1\n", 1);
    }
    match ending {
        0 => message(b"x", usize::from(HELD) + 1),
        1 => (0..=HELD).all(|_| message(b"r", 1)),
        2 => message(b"\x80\xff garbage\n", 3),
        3 => message(&[b'x'; 5000], 3),
        4 => (0..5).all(|_| message(b"d3:50000\n", 1)),
        _ => message(b"half a reques", 5),
    };
    sent
}

fn a_hundred_thousand_hostile_messages_leak_nothing() {
    if let Some(name) = role() {
        return serve(&name);
    }
    let server = Server::start("a_hundred_thousand_hostile_messages_leak_nothing");
    let before = server.descriptors_alone();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let writer = OwnedFd::from(writer);
    let (mut sent, mut clients) = (0, 0);
    while sent < 100_000 {
        sent += attack(server.connect(), clients % 6, writer.as_fd());
        clients += 1;
    }
    drop(writer);
    assert_eq!(server.descriptors_alone(), before);
    // No process holds what was passed.
    assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
    let log = server.log();
    for cause in [
        "limit reached: descriptors per client",
        "limit reached: largest frame",
        "handler failed",
        "the peer",
    ] {
        assert!(log.iter().any(|line| line.contains(cause)), "{cause}: {log:?}");
    }
    let closed: usize =
        log.iter().map(|line| line.split_once(' ').unwrap().0.parse::<usize>().unwrap()).sum();
    assert_eq!(closed, clients, "each is told once: {log:?}");
}

/// dbus leaked the descriptors that came before the one that did not fit (CVE-2020-12049).
fn descriptors_for_which_there_is_no_room_close_the_peer_and_leak_nothing() {
    if let Some(name) = role() {
        return serve(&name);
    }
    let server = Server::start("descriptors_for_which_there_is_no_room_close_the_peer_and_leak_nothing");
    let client = server.connect();
    send_with(&client, b"read 1\n", &[text_file("before").as_fd()]).unwrap();
    assert_eq!(line(&client), "before");
    let (_, before) = server.ask("count");
    let (mut reader, writer) = std::io::pipe().unwrap();
    let writer = OwnedFd::from(writer);
    send_with(&client, b"r", &[writer.as_fd(); 2]).unwrap();
    assert_eq!(server.ask("count").1, before + 2);
    // Room for two more, and the client passes five.
    send_with(&server.asker, b"room 3\n", &[]).unwrap();
    assert_eq!(line(&server.asker), "made");
    send_with(&client, b"ead 7\n", &[writer.as_fd(); 5]).unwrap();
    drop(writer);
    assert!(ends(&client));
    assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
    // Its connection's own descriptor is gone, too.
    assert_eq!(server.descriptors_alone(), before - 1);
    let log = server.log();
    assert!(log.len() == 1 && log[0].contains("MSG_CTRUNC"), "{log:?}");
}

fn too_many_descriptors_under_way_wait_until_some_have_arrived() {
    if let Some(name) = role() {
        become_a_nobody(&[]);
        limit_descriptors(64);
        return serve(&name);
    }
    if !can(is_root(), "only root can become somebody else, whose descriptors under way the kernel limits") {
        return;
    }
    let server = Server::start("too_many_descriptors_under_way_wait_until_some_have_arrived");
    let client = server.connect();
    let orders = ["d20:1"; 6].join("\n") + "\n";
    for order in orders.split_inclusive('\n') {
        send_with(&client, order.as_bytes(), &[]).unwrap();
        server.ask("count");
    }
    let (unsent, turns) = server.ask("unsent");
    assert!((1..=3).contains(&unsent), "{unsent} of 6 bytes wait for their descriptors to be let through");
    let (_, open) = server.ask("count");
    let mut check = Check::default();
    check.all(&client, &orders, || 1);
    assert_eq!(check.descriptors, 120);
    assert_eq!(server.ask("count").1, open - 20 * unsent);
    // It was tried again by a timer, not in a loop.
    assert!(server.ask("unsent").1 < turns + 100);
    drop(client);
    server.descriptors_alone();
    assert_eq!(server.log(), ["1 × closed by the peer"]);
}

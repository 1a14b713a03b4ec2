//! As many clients as a process has descriptors for, wave after wave: each gets its own bytes, and no memory is kept
//! for them.
//!
//! The server is this test again, as a child process: so each side has a descriptor limit, and memory, of its own.

#![allow(unsafe_code)]

use crate::support::PATIENCE;
use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use ipc_reactor::{Context, Framing, HalfClose, Listener, Reactor, Session, children};

use crate::support::child::again;
use crate::support::isolated::{Case, cases};
use crate::support::limits::descriptors_max;
use crate::support::skip;

pub(crate) const CASES: &[Case] = cases![ten_waves_of_fifteen_thousand_clients_leave_nothing_behind];

const CLIENTS: usize = 15_000;
const WAVES: usize = 10;
/// What a process has open besides its clients, generously.
const OTHERS: usize = 200;
/// Connections made before the first of them sends a request; fewer than a backlog holds.
const BATCH: usize = 1_000;
const PATH: &str = "SCALE_SERVER_PATH";

fn ten_waves_of_fifteen_thousand_clients_leave_nothing_behind() {
    if let Some(path) = env::var_os(PATH) {
        return serve(Path::new(&path));
    }
    let clients = CLIENTS.min(descriptors_max() as usize - OTHERS);
    if clients < CLIENTS {
        skip(&format!("in part: the hard limit of descriptors allows {clients} clients of {CLIENTS}"));
    }
    let mut server = Server::start("ten_waves_of_fifteen_thousand_clients_leave_nothing_behind");
    let (descriptors, at_start) = (server.descriptors(), server.memory());
    let mut after_first = at_start;
    for wave in 1..=WAVES {
        let start = Instant::now();
        let full = server.serve_wave(wave, clients);
        server.until_clients(0);
        assert_eq!(server.descriptors(), descriptors, "descriptors after wave {wave}");
        let left = server.memory();
        println!(
            "wave {wave}: {:?}; private memory with clients {} KiB, rss {} KiB; when they had left {} KiB, rss {} KiB",
            start.elapsed(),
            full.private,
            full.rss,
            left.private,
            left.rss,
        );
        if wave == 1 {
            after_first = left;
        }
        for (what, before, now) in
            [("private memory", after_first.private, left.private), ("rss", after_first.rss, left.rss)]
        {
            assert!(now * 10 <= before * 11, "{what}: {now} KiB after wave {wave}, {before} after the first");
        }
    }
    println!("before the first wave: {} KiB, rss {} KiB", at_start.private, at_start.rss);
}

// ---- The server ----

struct Echo;

impl Session<()> for Echo {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        cx.reply(request)
    }
}

/// Reports how many clients there are, itself not counted; its close ends the server.
struct Control;

impl Session<()> for Control {
    fn on_open(&mut self, cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        cx.reply(b"ready\n")
    }

    fn on_request(&mut self, _: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        cx.reply(format!("{}\n", cx.stats().clients - 1).as_bytes())
    }

    fn on_half_close(&mut self, cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<HalfClose> {
        cx.stop();
        Ok(HalfClose::Close)
    }
}

fn serve(path: &Path) {
    let mut reactor = Reactor::<()>::new().unwrap();
    let control: OwnedFd = io::stdin().as_fd().try_clone_to_owned().unwrap();
    reactor.adopt(control, Framing::lines(), Control).unwrap();
    reactor.listen(Listener::unix(path).unwrap(), Framing::fixed(8), |_, ()| Ok(Echo)).unwrap();
    reactor.run(&mut ()).unwrap();
}

struct Server {
    child: Child,
    control: BufReader<UnixStream>,
    folder: tempfile::TempDir,
}

#[derive(Debug, Clone, Copy)]
struct Memory {
    /// Of this process alone, in KiB: what its end would free.
    private: u64,
    /// In KiB, with what is shared with others.
    rss: u64,
}

impl Server {
    fn start(test: &str) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let (control, theirs) = UnixStream::pair().unwrap();
        control.set_read_timeout(Some(PATIENCE)).unwrap();
        let child = children::spawn(
            again(&format!("scale::{test}"))
                .env(PATH, folder.path().join("socket"))
                .stdin(OwnedFd::from(theirs))
                .stdout(Stdio::null()),
        )
        .unwrap();
        let mut server = Server { child, control: BufReader::new(control), folder };
        assert_eq!(server.control_line(), "ready");
        server
    }

    fn control_line(&mut self) -> String {
        let mut line = String::new();
        self.control.read_line(&mut line).expect("the server answers");
        line.trim_end().to_owned()
    }

    fn until_clients(&mut self, wanted: usize) {
        let start = Instant::now();
        loop {
            self.control.get_mut().write_all(b"?\n").unwrap();
            let clients: usize = self.control_line().parse().unwrap();
            if clients == wanted {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{clients} clients, not {wanted}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    fn memory(&self) -> Memory {
        let map = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id())).unwrap();
        let kib = |field: &str| -> u64 {
            let line = map.lines().find(|line| line.starts_with(field)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        // Not `Private_Clean` and `Private_Dirty`: the pages of the program's file are among them from the moment at which
        // the last other process that runs it ends.
        Memory { private: kib("Anonymous:"), rss: kib("Rss:") }
    }

    /// All clients connect, send their requests at once, get their answers, and close; returns what the server needed
    /// for them.
    fn serve_wave(&mut self, wave: usize, count: usize) -> Memory {
        let path = self.folder.path().join("socket");
        let number = |client: usize| ((wave << 32 | client) as u64).to_be_bytes();
        let mut clients: Vec<UnixStream> = Vec::with_capacity(count);
        while clients.len() < count {
            let first = clients.len();
            for _ in first..count.min(first + BATCH) {
                let client = UnixStream::connect(&path).unwrap();
                client.set_read_timeout(Some(PATIENCE)).unwrap();
                clients.push(client);
            }
            // The last of the batch is answered when the backlog is empty again.
            exchange(&mut clients[count.min(first + BATCH) - 1..], |_| [0xff; 8]);
        }
        self.until_clients(count);
        exchange(&mut clients, number);
        let full = self.memory();
        exchange(&mut clients, |client| number(count - client));
        full
    }
}

/// All ask before the first reads its answer.
fn exchange(clients: &mut [UnixStream], number: impl Fn(usize) -> [u8; 8]) {
    for (index, client) in clients.iter_mut().enumerate() {
        client.write_all(&number(index)).unwrap();
    }
    for (index, client) in clients.iter_mut().enumerate() {
        let mut reply = [0; 8];
        client.read_exact(&mut reply).unwrap();
        assert_eq!(reply, number(index), "client {index}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! The cost of an idle client in user space: bytes allocated for it, and the growth of resident memory.
//!
//! ```text
//! cargo bench --bench idle_memory
//! ```
//!
//! The server is this program again, as a child process. Its clients have an empty session, and were answered once;
//! the kernel's own memory for a socket is not counted.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};

use ipc_reactor::{Context, Framing, HalfClose, Listener, Reactor, Session, children};

/// The goal: at most this many bytes a client.
const TARGET: usize = 200;
const COUNTS: [usize; 3] = [1_000, 10_000, 15_000];
/// Connections at once that wait to be accepted; fewer than a backlog holds.
const BATCH: usize = 1_000;
const PATH: &str = "IDLE_MEMORY_SERVER_PATH";

/// Bytes allocated at the moment.
static LIVE: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller upholds the conditions, which are the same for the system allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LIVE.fetch_add(size, Ordering::Relaxed);
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }
}

fn main() -> ExitCode {
    let limit = raise_descriptor_limit();
    if let Some(path) = env::var_os(PATH) {
        serve(Path::new(&path));
        return ExitCode::SUCCESS;
    }
    println!("user-space memory of an idle client, in bytes (target: at most {TARGET})");
    println!("{:>8} {:>10} {:>10}", "clients", "allocated", "resident");
    let mut met = true;
    for count in COUNTS {
        if count + 100 > limit {
            println!("{count:>8} skipped: the hard limit of descriptors is {limit}");
            continue;
        }
        let (allocated, resident) = measure(count);
        println!("{count:>8} {allocated:>10} {resident:>10}");
        met &= allocated <= TARGET;
    }
    if met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Sets the soft limit to the hard one; returns it.
fn raise_descriptor_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` outlives the call.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) }, 0);
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    limit.rlim_max as usize
}

// ---- The server ----

struct Echo;

impl Session<()> for Echo {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        cx.reply(request)
    }
}

/// Reports how much is allocated; the server ends when this connection ends.
struct Control;

impl Session<()> for Control {
    fn on_request(&mut self, _: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        let live = LIVE.load(Ordering::Relaxed);
        cx.reply(format!("{live}\n").as_bytes())
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
}

impl Server {
    fn start(path: &Path) -> Server {
        let (control, theirs) = UnixStream::pair().unwrap();
        let child = children::spawn(
            Command::new(env::current_exe().unwrap()).env(PATH, path).stdin(OwnedFd::from(theirs)),
        );
        Server { child: child.unwrap(), control: BufReader::new(control) }
    }

    /// Bytes allocated, and bytes resident.
    fn memory(&mut self) -> (usize, usize) {
        self.control.get_mut().write_all(b"?\n").unwrap();
        let mut line = String::new();
        self.control.read_line(&mut line).unwrap();
        let map = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id())).unwrap();
        let rss = map.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
        let kib: usize = rss.split_whitespace().next().unwrap().parse().unwrap();
        (line.trim_end().parse().unwrap(), kib << 10)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes allocated and bytes resident for each of `count` clients.
fn measure(count: usize) -> (usize, usize) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let mut server = Server::start(&path);
    server.memory();
    let mut clients = Vec::with_capacity(count + 1);
    // One client first, because the first client also causes one-time allocations.
    connect(&path, 1, &mut clients);
    let (live, resident) = server.memory();
    connect(&path, count, &mut clients);
    let (live_full, resident_full) = server.memory();
    ((live_full - live) / count, resident_full.saturating_sub(resident) / count)
}

/// Connects `count` more clients, and has each of them answered.
fn connect(path: &Path, count: usize, clients: &mut Vec<UnixStream>) {
    let target = clients.len() + count;
    while clients.len() < target {
        let first = clients.len();
        for _ in first..target.min(first + BATCH) {
            clients.push(UnixStream::connect(path).unwrap());
        }
        for client in &mut clients[first..] {
            client.write_all(&[7; 8]).unwrap();
        }
        for client in &mut clients[first..] {
            client.read_exact(&mut [0; 8]).unwrap();
        }
    }
}

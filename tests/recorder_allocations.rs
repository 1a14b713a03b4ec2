//! The flight recorder allocates nothing for what it records. Here the allocator counts.

#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
};

use ipc_reactor::{Context, FlightRecorder, Framing, Limits, Listener, Reactor, Session};

thread_local! {
    /// Of this thread alone: the test harness has one of its own.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps to the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: `start` came from `alloc` above, with this layout.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

struct Echo;

impl Session<()> for Echo {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        cx.reply_frame(request)
    }
}

#[test]
fn a_recorded_message_costs_no_allocation() {
    for recorder in [FlightRecorder::new().capacity(64), FlightRecorder::new().capacity(64).messages()] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let limits = Limits { idle: None, ..Limits::default() };
        let mut reactor = Reactor::<()>::builder().limits(limits).build().unwrap();
        reactor.observe(recorder);
        reactor.listen(Listener::unix(&path).unwrap(), Framing::lines(), |_, ()| Ok(Echo)).unwrap();
        let mut client = UnixStream::connect(&path).unwrap();
        let mut rounds = |rounds: u64| {
            for _ in 0..rounds {
                client.write_all(b"x\n").unwrap();
                // The first message waits for the CIR and the opening.
                let answered = reactor.stats().srms;
                while reactor.stats().srms == answered {
                    let _ = reactor.turn(None, &mut ()).unwrap();
                }
                client.read_exact(&mut [0; 2]).unwrap();
            }
            ALLOCATIONS.get()
        };
        let before = rounds(10);
        assert_eq!(rounds(1_000), before, "1,000 messages, many times the ring");
        let recorder = reactor.take_observer::<FlightRecorder>().unwrap();
        assert!(recorder.to_string().contains("the latest 64 of "), "{recorder}");
    }
}

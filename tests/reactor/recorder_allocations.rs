//! The flight recorder allocates nothing for what it records. Here the allocator counts.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
};

use ipc_reactor::{Context, FlightRecorder, Framing, Limits, Listener, Reactor, Session};

use crate::support::allocations::allocations;

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
                let answered = reactor.stats().requests;
                while reactor.stats().requests == answered {
                    let _ = reactor.turn(None, &mut ()).unwrap();
                }
                client.read_exact(&mut [0; 2]).unwrap();
            }
            allocations()
        };
        let before = rounds(10);
        assert_eq!(rounds(1_000), before, "1,000 messages, many times the ring");
        let recorder = reactor.take_observer::<FlightRecorder>().unwrap();
        assert!(recorder.to_string().contains("the latest 64 of "), "{recorder}");
    }
}

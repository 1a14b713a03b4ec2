//! Memory that cannot be allocated, for data that a peer made large: that peer alone is closed.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use ipc_reactor::{Cause, Context, Framing, Limits, Listener, Prefix, Reactor, Session};

use crate::support::allocations::OutOfMemory;

const LARGE: usize = 300 << 10;

#[derive(Default)]
struct Closed(Vec<io::ErrorKind>);

/// Answers a frame with as many bytes as its first four say.
struct Answers;

impl Session<Closed> for Answers {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, Closed>, _: &mut Closed) -> io::Result<()> {
        static BYTES: [u8; 2 * LARGE] = [7; 2 * LARGE];
        let count = u32::from_ne_bytes(request[..4].try_into().unwrap()) as usize;
        cx.reply(&BYTES[..count])
    }

    fn on_close(&mut self, cause: &Cause, _: &mut Context<'_, Closed>, closed: &mut Closed) {
        if let Cause::Io(error) | Cause::Handler(error) = cause {
            closed.0.push(error.kind());
        }
    }
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(payload);
    frame
}

#[test]
fn a_frame_and_a_reply_that_find_no_memory_cost_their_own_client_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let limits = Limits { frame_max: 4 * LARGE, output_max: 4 * LARGE, ..Limits::default() };
    let mut reactor = Reactor::<Closed>::builder().limits(limits).read_buffer(16 << 10).build().unwrap();
    let framing = Framing::prefixed(Prefix::U32Be);
    reactor.listen(Listener::unix(&path).unwrap(), framing, |_, _| Ok(Answers)).unwrap();
    let connect = || {
        let client = UnixStream::connect(&path).unwrap();
        client.set_nonblocking(true).unwrap();
        client
    };
    let (mut sender, mut asker, mut bystander) = (connect(), connect(), connect());
    let mut closed = Closed::default();
    while reactor.stats().clients < 3 {
        let _ = reactor.turn(Some(Duration::from_secs(5)), &mut closed).unwrap();
    }
    let large = frame(&[1; 2 * LARGE]);
    let ask = frame(&(2 * LARGE as u32).to_ne_bytes());

    let no_memory = OutOfMemory::from(LARGE);
    let mut sent = 0;
    while closed.0.is_empty() {
        sent += sender.write(&large[sent..]).unwrap_or(0);
        let _ = reactor.turn(Some(Duration::from_millis(20)), &mut closed).unwrap();
    }
    asker.write_all(&ask).unwrap();
    while closed.0.len() < 2 {
        let _ = reactor.turn(Some(Duration::from_millis(20)), &mut closed).unwrap();
    }
    drop(no_memory);

    assert_eq!(closed.0, [io::ErrorKind::OutOfMemory; 2]);
    bystander.write_all(&frame(&3_u32.to_ne_bytes())).unwrap();
    let mut answer = [0; 16];
    let count = loop {
        let _ = reactor.turn(Some(Duration::from_millis(20)), &mut closed).unwrap();
        match bystander.read(&mut answer) {
            Ok(count) => break count,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    };
    assert_eq!(&answer[..count], [7; 3]);
    assert_eq!(reactor.stats().clients, 1);
}

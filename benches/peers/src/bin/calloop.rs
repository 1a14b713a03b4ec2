//! calloop: an event source for each client around a `Generic`, level-triggered, one read and one write a dispatch;
//! the interest changes to writing while the peer does not read its answers.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use calloop::generic::Generic;
use calloop::signals::{Signal, Signals};
use calloop::{EventLoop, EventSource, Interest, Mode, Poll, PostAction, Readiness, Token, TokenFactory};
use peers::{BUFFER_BYTES, Server, say_ready};

type Buffer = Rc<RefCell<Vec<u8>>>;

struct Client {
    source: Generic<UnixStream>,
    unsent: Vec<u8>,
    buffer: Buffer,
}

impl Client {
    fn new(stream: UnixStream, buffer: Buffer) -> Self {
        Self { source: Generic::new(stream, Interest::READ, Mode::Level), unsent: Vec::new(), buffer }
    }
}

impl EventSource for Client {
    type Event = ();
    type Metadata = ();
    type Ret = ();
    type Error = io::Error;

    fn process_events<F>(&mut self, readiness: Readiness, token: Token, _: F) -> io::Result<PostAction>
    where
        F: FnMut((), &mut ()),
    {
        let Self { source, unsent, buffer } = self;
        let waited = !unsent.is_empty();
        let action = source.process_events(readiness, token, |_, stream| {
            Ok(match echo(stream, unsent, &mut buffer.borrow_mut()) {
                Ok(true) => PostAction::Continue,
                Ok(false) | Err(_) => PostAction::Remove,
            })
        })?;
        if action == PostAction::Continue && waited == unsent.is_empty() {
            source.interest = if waited { Interest::READ } else { Interest::WRITE };
            return Ok(PostAction::Reregister);
        }
        Ok(action)
    }

    fn register(&mut self, poll: &mut Poll, tokens: &mut TokenFactory) -> calloop::Result<()> {
        self.source.register(poll, tokens)
    }

    fn reregister(&mut self, poll: &mut Poll, tokens: &mut TokenFactory) -> calloop::Result<()> {
        self.source.reregister(poll, tokens)
    }

    fn unregister(&mut self, poll: &mut Poll) -> calloop::Result<()> {
        self.source.unregister(poll)
    }
}

/// Returns whether the client stays connected.
fn echo(mut stream: &UnixStream, unsent: &mut Vec<u8>, buffer: &mut [u8]) -> io::Result<bool> {
    if !unsent.is_empty() {
        let sent = write_some(stream, unsent)?;
        unsent.drain(..sent);
        return Ok(true);
    }
    match stream.read(buffer) {
        Ok(0) => Ok(false),
        Ok(got) => {
            let sent = write_some(stream, &buffer[..got])?;
            unsent.extend_from_slice(&buffer[sent..got]);
            Ok(true)
        }
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(true),
        Err(e) => Err(e),
    }
}

fn write_some(mut stream: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    match stream.write(bytes) {
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::from_args()?;
    let mut event_loop: EventLoop<'static, ()> = EventLoop::try_new()?;
    let handle = event_loop.handle();
    let signal = event_loop.get_signal();
    handle.insert_source(Signals::new(&[Signal::SIGTERM, Signal::SIGINT])?, move |_, _, _| signal.stop())?;
    let listener = Generic::new(server.listener.try_clone()?, Interest::READ, Mode::Level);
    let buffer = Rc::new(RefCell::new(vec![0; BUFFER_BYTES]));
    handle.clone().insert_source(listener, move |_, listener, _| {
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true)?;
            if let Err(e) = handle.insert_source(Client::new(stream, buffer.clone()), |_, _, _| {}) {
                eprintln!("{e}");
            }
        }
        Ok(PostAction::Continue)
    })?;
    say_ready();
    event_loop.run(None, &mut (), |_| {})?;
    Ok(())
}

//! The peers, their sessions, and the account of what passes between them.

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fs::File,
    io::{self, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    panic::resume_unwind,
    rc::Rc,
    time::Duration,
};

use ipc_reactor::{Cause, Context, Framing, Key, Limits, Session, TimerKey};

use crate::schedules::{Do, Then};
use crate::support::turns::available;

/// The outer end of a connection.
pub(crate) struct Outer {
    pub(crate) stream: Option<UnixStream>,
    /// Requests that the socket took whole.
    pub(crate) requested: usize,
    pub(crate) unparsed: Vec<u8>,
    pub(crate) received: usize,
    pub(crate) ended: bool,
}

/// What the reactor was asked to do for a connection, and what it reported of it.
#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) key: Option<Key>,
    pub(crate) handled: usize,
    /// How the messages begin that the reactor took for it.
    pub(crate) accepted: Vec<String>,
    /// What waits for it may be lost.
    pub(crate) lossy: bool,
    pub(crate) closed: Vec<String>,
}

/// More connections than this are not made from handlers.
pub(crate) const CONNECTIONS_MAX: usize = 60;

/// Requests of fixed size, if they are not lines, are filled up with blanks.
pub(crate) const REQUEST: usize = 24;

#[derive(Default)]
pub(crate) struct World {
    /// Requests are of fixed size, so that those of one read are one piece with their echoes.
    pub(crate) fixed: bool,
    /// The request, of all, whose handler begins a drain.
    pub(crate) drain_at: Option<u64>,
    pub(crate) draining: bool,
    pub(crate) script: Vec<Do>,
    pub(crate) connecting: VecDeque<usize>,
    pub(crate) outer: Vec<Outer>,
    pub(crate) inner: Vec<Inner>,
    pub(crate) tags: HashMap<Key, usize>,
    pub(crate) keys: HashSet<Key>,
    pub(crate) sessions: Rc<Cell<usize>>,
    pub(crate) panics: u64,
    pub(crate) faults: Vec<String>,
}

impl World {
    /// A connection's number, and its session's end of it.
    pub(crate) fn connection(&mut self, stream: UnixStream) -> usize {
        let outer =
            Outer { stream: Some(stream), requested: 0, unparsed: Vec::new(), received: 0, ended: false };
        self.outer.push(outer);
        self.inner.push(Inner::default());
        self.outer.len() - 1
    }

    pub(crate) fn session(&mut self, tag: usize) -> Tagged {
        self.sessions.set(self.sessions.get() + 1);
        Tagged { tag, timers: BTreeMap::new(), sessions: self.sessions.clone() }
    }

    pub(crate) fn framing(&self) -> Framing {
        if self.fixed { Framing::fixed(REQUEST) } else { Framing::lines() }
    }

    /// It has a session: a drain ends without accepting those who come after its beginning.
    pub(crate) fn was_accepted(&self, tag: usize) -> bool {
        !self.connecting.contains(&tag)
    }

    /// A client that is open has requests that are not handled, or messages that have not come.
    pub(crate) fn is_behind(&self) -> bool {
        self.outer.iter().zip(&self.inner).enumerate().any(|(tag, (outer, inner))| {
            let complete = outer.stream.is_some()
                && inner.handled == outer.requested
                && outer.received == inner.accepted.len();
            self.was_accepted(tag) && inner.closed.is_empty() && !complete
        })
    }

    fn key(&self, who: u8) -> Option<Key> {
        self.inner[usize::from(who) % self.inner.len()].key
    }

    pub(crate) fn request(&mut self, tag: usize, action: Do) -> Option<Vec<u8>> {
        self.script.push(action);
        let outer = &self.outer[tag];
        outer.stream.as_ref()?;
        let request = format!("{tag} {} {};", outer.requested, self.script.len() - 1);
        Some(if self.fixed { format!("{request:REQUEST$}") } else { request + "\n" }.into_bytes())
    }

    pub(crate) fn send(&mut self, tag: usize, actions: &[Do]) {
        for &action in actions {
            let Some(request) = self.request(tag, action) else { return };
            if self.write(tag, &request) {
                self.outer[tag].requested += 1;
            }
        }
    }

    /// The peer writes if that does not block, all of it or nothing.
    pub(crate) fn write(&mut self, tag: usize, bytes: &[u8]) -> bool {
        let Some(mut stream) = self.outer[tag].stream.as_ref() else { return false };
        stream.set_nonblocking(true).unwrap();
        let written = stream.write(bytes);
        assert!(!matches!(written, Ok(count) if count < bytes.len()), "small writes are whole");
        written.is_ok()
    }

    pub(crate) fn read(&mut self, tag: usize) {
        let (outer, accepted) = (&mut self.outer[tag], &self.inner[tag].accepted);
        let Some(stream) = &outer.stream else { return };
        let (bytes, ended) = available(stream);
        assert!(!outer.ended || bytes.is_empty(), "{tag}: bytes behind the end");
        outer.ended = ended;
        outer.unparsed.extend(bytes);
        while let Some(end) = outer.unparsed.iter().position(|&byte| byte == b';') {
            let message: Vec<u8> = outer.unparsed.drain(..=end).collect();
            let message = String::from_utf8(message).unwrap();
            if message == "all;" {
                continue;
            }
            let expected = accepted.get(outer.received).map_or("nothing", String::as_str);
            assert!(message.starts_with(expected), "{tag} received {message:.40}, not {expected}");
            outer.received += 1;
        }
    }

    /// The next message for a client.
    fn message(&self, tag: usize, size: usize) -> String {
        format!("{}{};", self.head(tag), ".".repeat(size))
    }

    fn head(&self, tag: usize) -> String {
        format!("to {tag} {} ", self.inner[tag].accepted.len())
    }

    fn accepted(&mut self, tag: usize) {
        let head = self.head(tag);
        self.inner[tag].accepted.push(head);
    }
}

pub(crate) struct Tagged {
    tag: usize,
    timers: BTreeMap<String, Then>,
    pub(crate) sessions: Rc<Cell<usize>>,
}

impl Drop for Tagged {
    fn drop(&mut self) {
        self.sessions.set(self.sessions.get() - 1);
    }
}

pub(crate) type Cx<'a> = Context<'a, World>;

impl Tagged {
    /// A handler's own assertions must not look like the panics that it was asked for.
    fn check(&self, world: &mut World, holds: bool, what: &str) {
        let inner = &world.inner[self.tag];
        if !holds || !inner.closed.is_empty() {
            world.faults.push(format!("{}: {what}; closed {:?}", self.tag, inner.closed));
        }
    }

    fn tell(tag: usize, key: Key, cx: &mut Cx<'_>, world: &mut World) {
        if let Some(mut client) = cx.client(key)
            && client.send(world.message(tag, 10).as_bytes()).is_ok()
        {
            world.accepted(tag);
        }
    }

    fn reply(&self, size: usize, cx: &mut Cx<'_>, world: &mut World) {
        let replied = cx.reply(world.message(self.tag, size).as_bytes());
        self.replied(replied, world);
    }

    fn replied(&self, replied: io::Result<()>, world: &mut World) {
        match replied {
            Ok(()) => world.accepted(self.tag),
            Err(error) => {
                self.check(world, error.kind() == io::ErrorKind::WouldBlock, &format!("reply: {error}"));
            }
        }
    }

    /// The request itself is the message, in so many pieces; nothing of it, where there is not room for all.
    fn echo(&self, request: &str, pieces: usize, cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        let key = cx.key();
        let waits = cx.client(key).map_or(0, |client| client.unsent());
        if waits + request.len() <= cx.limits().output_max {
            for piece in request.as_bytes().chunks(request.len().div_ceil(pieces)) {
                cx.reply(piece)?;
            }
            world.inner[self.tag].accepted.push(request.to_owned());
        }
        Ok(())
    }

    fn adopt(cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        if world.outer.len() < CONNECTIONS_MAX {
            let (peer, ours) = UnixStream::pair()?;
            let tag = world.connection(peer);
            let session = world.session(tag);
            cx.adopt(ours, world.framing(), session)?;
        }
        Ok(())
    }

    fn abort(key: Key, cx: &mut Cx<'_>, world: &mut World) {
        if cx.abort(key) {
            let tag = world.tags[&key];
            world.inner[tag].lossy = true;
        }
    }

    fn panic(&self, world: &mut World) -> ! {
        world.panics += 1;
        world.inner[self.tag].lossy = true;
        resume_unwind(Box::new("asked for"))
    }
}

impl Session<World> for Tagged {
    fn on_open(&mut self, cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        let key = cx.key();
        self.check(world, !world.keys.contains(&key), "its key was another's");
        world.keys.insert(key);
        world.tags.insert(key, self.tag);
        world.inner[self.tag].key = Some(key);
        Ok(())
    }

    fn on_request(&mut self, request: &[u8], cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        let text = str::from_utf8(request).unwrap().trim_end();
        let numbers = text.trim_end_matches(';').split(' ').map(|number| number.parse().unwrap());
        let numbers: Vec<usize> = numbers.collect();
        let own = numbers[..2] == [self.tag, world.inner[self.tag].handled];
        self.check(world, own, &format!("handled {text:?}"));
        world.inner[self.tag].handled += 1;
        if world.drain_at == Some(cx.stats().requests) {
            world.draining = true;
            cx.drain(Duration::from_secs(60))?;
        }
        match world.script[numbers[2]] {
            Do::Reply => self.reply(10, cx, world),
            Do::ReplyLarge => self.reply(100_000, cx, world),
            Do::Echo => self.echo(text, 1, cx, world)?,
            Do::EchoInPieces => self.echo(text, 3, cx, world)?,
            Do::EchoAndReply => {
                self.echo(text, 2, cx, world)?;
                self.reply(10, cx, world);
            }
            Do::ReplyAndEcho => {
                self.reply(10, cx, world);
                self.echo(text, 2, cx, world)?;
            }
            Do::EchoAndSendToSelf => {
                self.echo(text, 1, cx, world)?;
                Self::tell(self.tag, cx.key(), cx, world);
            }
            Do::EchoAndFinish => {
                self.echo(text, 1, cx, world)?;
                cx.finish();
            }
            Do::EchoAndPanic => {
                self.echo(text, 1, cx, world)?;
                self.panic(world);
            }
            Do::ReplyWithDescriptor => {
                let descriptor = OwnedFd::from(File::open("/dev/null")?);
                let replied = cx.reply_with(world.message(self.tag, 1).as_bytes(), vec![descriptor]);
                self.replied(replied, world);
            }
            Do::Limits(messages_per_visit, output_high_water) => {
                let limits = Limits { messages_per_visit, output_high_water, ..cx.limits().clone() };
                cx.set_limits(limits);
            }
            Do::Send(who) => {
                if let Some(key) = world.key(who) {
                    Self::tell(world.tags[&key], key, cx, world);
                }
            }
            Do::Close(who) => {
                if let Some(key) = world.key(who) {
                    cx.close(key);
                }
            }
            Do::Abort(who) => {
                if let Some(key) = world.key(who) {
                    Self::abort(key, cx, world);
                }
            }
            Do::Finish => cx.finish(),
            Do::FinishTwice => {
                cx.finish();
                cx.finish();
                self.reply(10, cx, world);
            }
            Do::AbortSelf => Self::abort(cx.key(), cx, world),
            Do::Adopt => Self::adopt(cx, world)?,
            Do::Broadcast => drop(cx.broadcast(b"all;")),
            Do::TellAll => {
                let keys: Vec<Key> = cx.clients().collect();
                for key in keys {
                    // Those that are not open yet have not recorded their key.
                    if let Some(&tag) = world.tags.get(&key) {
                        Self::tell(tag, key, cx, world);
                    }
                }
            }
            Do::Panic => self.panic(world),
            Do::Fail => {
                world.inner[self.tag].lossy = true;
                return Err(io::Error::other("asked for"));
            }
            Do::Timer(then) => {
                let timer = cx.wake_after(Duration::ZERO);
                self.timers.insert(format!("{timer:?}"), then);
            }
        }
        Ok(())
    }

    fn on_timer(&mut self, timer: TimerKey, cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        let then = self.timers.remove(&format!("{timer:?}"));
        self.check(world, then.is_some(), "a timer of another's");
        match then {
            Some(Then::Finish) => cx.finish(),
            Some(Then::Abort) => Self::abort(cx.key(), cx, world),
            Some(Then::Panic) => self.panic(world),
            Some(Then::Reply) | None => self.reply(10, cx, world),
        }
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Cx<'_>, world: &mut World) {
        let key = cx.key();
        self.check(world, cx.client(key).is_none(), "its key still names it");
        self.check(world, cx.reply(b"too late").is_err(), "it was replied to after its end");
        world.inner[self.tag].closed.push(format!("{cause:?}"));
        match self.tag % 7 {
            1 => drop(cx.broadcast(b"all;")),
            2 => {
                let next = (self.tag + 1) as u8;
                if let Some(key) = world.key(next) {
                    Self::abort(key, cx, world);
                }
            }
            3 => {
                if let Err(error) = Self::adopt(cx, world) {
                    world.faults.push(format!("adopt: {error}"));
                }
            }
            4 => self.panic(world),
            _ => {}
        }
    }
}

//! The peers, their sessions, and the reckoning of what passes between them.

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    io::{self, Write},
    os::unix::net::UnixStream,
    panic::resume_unwind,
    rc::Rc,
    time::Duration,
};

use ipc_reactor::{Cause, Context, Framing, Key, Session, TimerKey};

use crate::{Do, Then, turns::available};

/// The outer end of a connection.
pub(crate) struct Outer {
    pub(crate) stream: Option<UnixStream>,
    /// Requests that the socket took whole.
    pub(crate) requested: usize,
    pub(crate) unparsed: Vec<u8>,
    pub(crate) received: usize,
    pub(crate) ended: bool,
}

/// What the reactor was told, and told us, of a connection.
#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) key: Option<Key>,
    pub(crate) handled: usize,
    /// Messages that the reactor took for it.
    pub(crate) accepted: usize,
    /// What waits for it may be lost.
    pub(crate) lossy: bool,
    pub(crate) closed: Vec<String>,
}

/// More connections than this are not made from handlers.
pub(crate) const CONNECTIONS_MAX: usize = 60;

#[derive(Default)]
pub(crate) struct World {
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

    fn key(&self, who: u8) -> Option<Key> {
        self.inner[usize::from(who) % self.inner.len()].key
    }

    pub(crate) fn request(&mut self, tag: usize, action: Do) -> Option<Vec<u8>> {
        self.script.push(action);
        let outer = &self.outer[tag];
        outer.stream.as_ref()?;
        Some(format!("{tag} {} {}\n", outer.requested, self.script.len() - 1).into_bytes())
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
        let outer = &mut self.outer[tag];
        let Some(stream) = &outer.stream else { return };
        let (bytes, ended) = available(stream);
        assert!(!outer.ended || bytes.is_empty(), "{tag}: bytes behind the end");
        outer.ended = ended;
        outer.unparsed.extend(bytes);
        while let Some(end) = outer.unparsed.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = outer.unparsed.drain(..=end).collect();
            let line = String::from_utf8(line).unwrap();
            if line == "all\n" {
                continue;
            }
            let expected = format!("to {tag} {} ", outer.received);
            assert!(line.starts_with(&expected), "{tag} received {:.40}, not {expected}", line);
            outer.received += 1;
        }
    }

    /// The next message for a client, and the reckoning of it.
    fn message(&self, tag: usize, size: usize) -> String {
        format!("to {tag} {} {}\n", self.inner[tag].accepted, ".".repeat(size))
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
            world.inner[tag].accepted += 1;
        }
    }

    fn reply(&self, size: usize, cx: &mut Cx<'_>, world: &mut World) {
        match cx.reply(world.message(self.tag, size).as_bytes()) {
            Ok(()) => world.inner[self.tag].accepted += 1,
            Err(error) => {
                self.check(world, error.kind() == io::ErrorKind::WouldBlock, &format!("reply: {error}"));
            }
        }
    }

    fn adopt(cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        if world.outer.len() < CONNECTIONS_MAX {
            let (peer, ours) = UnixStream::pair()?;
            let tag = world.connection(peer);
            let session = world.session(tag);
            cx.adopt(ours, Framing::lines(), session)?;
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
        let text = str::from_utf8(request).unwrap();
        let numbers: Vec<usize> = text.split(' ').map(|number| number.parse().unwrap()).collect();
        let own = numbers[..2] == [self.tag, world.inner[self.tag].handled];
        self.check(world, own, &format!("handled {text:?}"));
        world.inner[self.tag].handled += 1;
        match world.script[numbers[2]] {
            Do::Reply => self.reply(10, cx, world),
            Do::ReplyLarge => self.reply(100_000, cx, world),
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
            Do::Broadcast => drop(cx.broadcast(b"all\n")),
            Do::TellAll => {
                let keys: Vec<Key> = cx.clients().collect();
                for key in keys {
                    // Those that are not open yet have not told their key.
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
            1 => drop(cx.broadcast(b"all\n")),
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

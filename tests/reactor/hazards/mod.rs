//! What handlers may do to each other, to themselves and to the reactor while it runs them.

mod batch;
mod closing;
mod inserting;
mod panics;

use std::{
    collections::VecDeque,
    io::{self, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
};

use crate::support::turns;
use ipc_reactor::{Cause, Context, Drain, Framing, HalfClose, Key, Limits, Reactor, Session, TimerKey};

/// What all handlers of a test have in common.
#[derive(Debug, Default)]
struct World {
    /// What each session received, in the order of the calls.
    heard: Vec<(u32, String)>,
    /// The sessions whose `on_close` was called, in the order of the calls, with the causes.
    closed: Vec<(u32, String)>,
    keys: Vec<Key>,
    /// Sockets for handlers to take in.
    spare: VecDeque<OwnedFd>,
    notes: Vec<String>,
}

impl World {
    fn heard_by(&self, id: u32) -> Vec<&str> {
        self.heard.iter().filter(|(who, _)| *who == id).map(|(_, what)| what.as_str()).collect()
    }

    fn closed(&self) -> Vec<(u32, &str)> {
        self.closed.iter().map(|(who, why)| (*who, why.as_str())).collect()
    }

    fn ids_closed(&self) -> Vec<u32> {
        self.closed.iter().map(|(who, _)| *who).collect()
    }
}

type Cx<'a> = Context<'a, World>;
type Reaction = Box<dyn FnMut(&str, &mut Cx<'_>, &mut World) -> io::Result<()>>;

/// A session of lines; each of its methods that has something to do is given to it.
struct Actor {
    id: u32,
    open: Option<Reaction>,
    request: Option<Reaction>,
    timer: Option<Reaction>,
    half_close: Option<Reaction>,
    flushed: Option<Reaction>,
    drain: Option<Reaction>,
    close: Option<Reaction>,
}

macro_rules! setters {
    ($($on:ident => $field:ident,)*) => {
        $(fn $on(
            mut self,
            reaction: impl FnMut(&str, &mut Cx<'_>, &mut World) -> io::Result<()> + 'static,
        ) -> Actor {
            self.$field = Some(Box::new(reaction));
            self
        })*
    };
}

impl Actor {
    fn new(id: u32) -> Actor {
        Actor {
            id,
            open: None,
            request: None,
            timer: None,
            half_close: None,
            flushed: None,
            drain: None,
            close: None,
        }
    }

    /// Sends every request back.
    fn echo(id: u32) -> Actor {
        Actor::new(id).on_request(|request, cx, _| cx.reply(format!("{request}\n").as_bytes()))
    }

    setters! {
        on_open => open,
        on_request => request,
        on_timer => timer,
        on_half_close => half_close,
        on_flushed => flushed,
        on_drain => drain,
        on_close => close,
    }
}

fn react(reaction: &mut Option<Reaction>, text: &str, cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
    reaction.as_mut().map_or(Ok(()), |reaction| reaction(text, cx, world))
}

impl Session<World> for Actor {
    fn on_open(&mut self, cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        react(&mut self.open, "", cx, world)
    }

    fn on_request(&mut self, request: &[u8], cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        let text = String::from_utf8_lossy(request);
        world.heard.push((self.id, text.clone().into_owned()));
        react(&mut self.request, &text, cx, world)
    }

    fn on_half_close(&mut self, cx: &mut Cx<'_>, world: &mut World) -> io::Result<HalfClose> {
        react(&mut self.half_close, "", cx, world).map(|()| HalfClose::Close)
    }

    fn on_flushed(&mut self, cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        react(&mut self.flushed, "", cx, world)
    }

    fn on_timer(&mut self, _: TimerKey, cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        react(&mut self.timer, "", cx, world)
    }

    fn on_drain(&mut self, cx: &mut Cx<'_>, world: &mut World) -> io::Result<Drain> {
        react(&mut self.drain, "", cx, world).map(|()| Drain::Close)
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Cx<'_>, world: &mut World) {
        world.closed.push((self.id, format!("{cause:?}")));
        let _ = react(&mut self.close, &format!("{cause:?}"), cx, world);
    }
}

/// A reactor with the state of a test.
struct Stage {
    reactor: Reactor<World>,
    world: World,
}

impl Stage {
    fn new() -> Stage {
        Stage::with(Limits::default())
    }

    fn with(limits: Limits) -> Stage {
        Stage { reactor: turns::reactor(limits), world: World::default() }
    }

    /// Adds an actor; its key is in the state, under its number in the order of adding.
    #[track_caller]
    fn enter(&mut self, actor: Actor) -> UnixStream {
        let (peer, key) = turns::client(&mut self.reactor, Framing::lines(), actor);
        self.world.keys.push(key);
        self.settle();
        peer
    }

    #[track_caller]
    fn settle(&mut self) {
        turns::settle(&mut self.reactor, &mut self.world);
    }

    /// What the peer has been sent, which can all be read by now.
    #[track_caller]
    fn received(&self, peer: &UnixStream) -> String {
        String::from_utf8(turns::available(peer).0).unwrap()
    }

    #[track_caller]
    fn has_ended(&self, peer: &UnixStream) -> bool {
        turns::available(peer).1
    }

    /// Asserts that the client is there, and is served.
    #[track_caller]
    fn echoes(&mut self, mut peer: &UnixStream, text: &str) {
        self.received(peer);
        peer.write_all(format!("{text}\n").as_bytes()).unwrap();
        self.settle();
        assert_eq!(self.received(peer), format!("{text}\n"));
    }
}

/// The slot in which a source is, out of its key's name.
fn slot(key: Key) -> String {
    key.to_string().split(':').next().unwrap().to_owned()
}

//! What a handler decides about its source and about the loop takes effect at once, for every source and every role:
//! after a stop, after a close of its own source, on its own key, and with durations beyond the range of the clock.

mod close;
mod durations;
mod members;
mod own;
mod stop;

use std::{
    collections::HashMap,
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use ipc_reactor::{
    Cause, Clock, Context, DatagramHandler, Decode, Decoded, FdSource, HalfClose, Incoming, Key, Limits,
    Message, Progress, Queue, QueueHandler, Reactor, Ready, Session, SubscriptionHandler, TimerKey,
    shm::{Publisher, Subscriber, Update},
};
use tempfile::TempDir;

use crate::support::turns::settle;

type Cx<'a> = Context<'a, World>;

/// What a handler does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Stop,
    Finish,
    Close,
    Abort,
}

impl Act {
    fn by(self, cx: &mut Cx<'_>) {
        let key = cx.key();
        match self {
            Act::Stop => cx.stop(),
            Act::Finish => cx.finish(),
            Act::Close => assert!(cx.close(key), "it runs still"),
            Act::Abort => assert!(cx.abort(key), "it runs still"),
        }
    }
}

/// Which handler does what, and which were called.
struct World {
    actor: String,
    act: Act,
    /// The actor acts at this call.
    at: usize,
    has_acted: bool,
    before: Vec<String>,
    after: Vec<String>,
    closed: Vec<(String, String)>,
    keys: HashMap<String, Key>,
    /// Whose subscribers are in the same reactor.
    publisher: Publisher,
}

impl World {
    fn new() -> World {
        World {
            actor: String::new(),
            act: Act::Stop,
            at: 1,
            has_acted: false,
            before: Vec::new(),
            after: Vec::new(),
            closed: Vec::new(),
            keys: HashMap::new(),
            publisher: Publisher::every(8, 7).unwrap(),
        }
    }

    /// A handler is called.
    fn called(&mut self, who: &str, cx: &mut Cx<'_>) {
        self.keys.insert(who.to_owned(), cx.key());
        self.noted(who);
        if !self.has_acted && who == self.actor && self.count(who) == self.at {
            self.has_acted = true;
            self.act.by(cx);
        }
    }

    fn noted(&mut self, who: &str) {
        let calls = if self.has_acted { &mut self.after } else { &mut self.before };
        calls.push(who.to_owned());
    }

    fn count(&self, who: &str) -> usize {
        self.before.iter().chain(&self.after).filter(|name| *name == who).count()
    }
}

/// A handler of any kind, which notes that it was called.
struct Noter(String);

impl Session<World> for Noter {
    fn on_open(&mut self, cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        world.called(&self.0, cx);
        Ok(())
    }

    fn on_request(&mut self, request: &[u8], cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        if request == b"set timers" {
            for _ in 0..3 {
                cx.wake_after(SECOND);
            }
            return Ok(());
        }
        if request == b"fill" {
            return cx.reply(&vec![0; FILL]);
        }
        world.called(&self.0, cx);
        Ok(())
    }

    fn on_half_close(&mut self, cx: &mut Cx<'_>, world: &mut World) -> io::Result<HalfClose> {
        world.called(&self.0, cx);
        Ok(HalfClose::KeepWriting)
    }

    fn on_flushed(&mut self, cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        world.called(&self.0, cx);
        Ok(())
    }

    fn on_timer(&mut self, _: TimerKey, cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        world.called(&self.0, cx);
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Cx<'_>, world: &mut World) {
        closed(&self.0, cause, cx, world);
    }
}

/// A source is closed. For one whose name says so, this counts as a call like others.
fn closed(who: &str, cause: &Cause, cx: &mut Cx<'_>, world: &mut World) {
    world.closed.push((who.to_owned(), format!("{cause:?}")));
    if world.actor == format!("on_close of {who}") && !world.has_acted {
        world.has_acted = true;
        world.act.by(cx);
    }
}

impl QueueHandler<World> for Noter {
    fn on_message(&mut self, _: Message<'_>, cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        world.called(&self.0, cx);
        Ok(())
    }

    fn on_unlinked(&mut self, cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        world.called(&self.0, cx);
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Cx<'_>, world: &mut World) {
        closed(&self.0, cause, cx, world);
    }
}

impl DatagramHandler<World> for Noter {
    fn on_datagram(&mut self, _: Incoming<'_>, cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        world.called(&self.0, cx);
        Ok(())
    }

    fn on_error(&mut self, _: &io::Error, cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        world.called(&self.0, cx);
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Cx<'_>, world: &mut World) {
        closed(&self.0, cause, cx, world);
    }
}

impl SubscriptionHandler<World> for Noter {
    fn on_open(&mut self, _: &Subscriber, cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        world.called(&self.0, cx);
        Ok(())
    }

    fn on_update(&mut self, _: Update<&[u8]>, cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        world.called(&self.0, cx);
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Cx<'_>, world: &mut World) {
        closed(&self.0, cause, cx, world);
    }
}

/// A descriptor that is read byte by byte.
struct NotingFd(String, UnixStream);

impl AsFd for NotingFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.1.as_fd()
    }
}

impl FdSource<World> for NotingFd {
    fn on_ready(&mut self, _: Ready, cx: &mut Cx<'_>, world: &mut World) -> io::Result<Progress> {
        self.1.read_exact(&mut [0])?;
        world.called(&self.0, cx);
        Ok(Progress::More)
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Cx<'_>, world: &mut World) {
        closed(&self.0, cause, cx, world);
    }
}

/// Each byte is a message.
struct Bytes;

impl Decode for Bytes {
    fn decode(&self, _: &[u8]) -> io::Result<Decoded> {
        Ok(Decoded::Frame { payload: 0..1, consumed: 1 })
    }
}

const SECOND: Duration = Duration::from_secs(1);
/// More than a socket and the high-water mark of a scene take, and less than two sockets do.
const FILL: usize = 300 << 10;

/// A queue name of this test's own, unlinked when it is dropped.
struct QueueName(String);

impl QueueName {
    fn new() -> QueueName {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        QueueName(format!("/ipc-reactor-control-{}-{number}", std::process::id()))
    }

    fn open(&self) -> Queue {
        Queue::options().create(true).capacity(4).message_size(8).open(&self.0).unwrap()
    }
}

impl Drop for QueueName {
    fn drop(&mut self) {
        let _ = Queue::unlink(&self.0);
    }
}

type Readies = Box<dyn FnMut(&mut Reactor<World>, &mut World)>;

/// A source of the scene, or several timers or jobs.
struct Member {
    name: String,
    /// How often its handler is called for one round of [`Member::readies`].
    calls: usize,
    /// Its handler is called when it is closed.
    is_told: bool,
    /// It has a source of its own, which it can close.
    closes: bool,
    readies: Readies,
}

/// One source of every kind in every role; they become ready together when the test makes them so.
struct Scene {
    reactor: Reactor<World>,
    world: World,
    clock: Clock,
    members: Vec<Member>,
    folder: TempDir,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Unix,
    Tcp,
    Seqpacket,
}

#[derive(Debug, Clone, Copy)]
enum Role {
    Accepted,
    Adopted,
    Connected,
}

/// Messages of a visit: all of a batch, one, or some and then the rest.
const BUDGETS: [usize; 3] = [1_024, 1, 2];

impl Scene {
    fn new(messages_per_visit: usize) -> Scene {
        let limits = Limits {
            messages_per_visit,
            output_high_water: 1_000,
            frame_max: 1_000,
            queue_check: Some(SECOND),
            ..Limits::default()
        };
        let clock = Clock::manual();
        let reactor = Reactor::<World>::builder().limits(limits).clock(clock.clone()).build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut scene = Scene { reactor, world: World::new(), clock, members: Vec::new(), folder };
        scene.add_clients();
        scene.add_events_of_clients();
        scene.add_newcomers();
        scene.add_timers_and_jobs();
        scene.add_queues();
        scene.add_datagrams();
        scene.add_fds();
        scene.add_subscriptions();
        scene.settle();
        let closed = scene.closed();
        assert!(closed.iter().all(|(who, _)| who.starts_with("newcomer")), "{closed:?}");
        scene
    }

    /// The names of the members of which this is true.
    fn names(of: impl Fn(&Member) -> bool) -> Vec<String> {
        Scene::new(BUDGETS[0])
            .members
            .iter()
            .filter(|member| of(member))
            .map(|member| member.name.clone())
            .collect()
    }

    fn add(
        &mut self,
        name: impl Into<String>,
        calls: usize,
        readies: impl FnMut(&mut Reactor<World>, &mut World) + 'static,
    ) -> &mut Member {
        let member =
            Member { name: name.into(), calls, is_told: true, closes: true, readies: Box::new(readies) };
        self.members.push(member);
        self.members.last_mut().unwrap()
    }

    fn settle(&mut self) {
        // What is done in a turn without events may make some.
        loop {
            let events = self.reactor.stats().events;
            settle(&mut self.reactor, &mut self.world);
            if self.reactor.stats().events == events {
                return;
            }
        }
    }

    /// From now on the actor acts, at this call.
    fn begin(&mut self, actor: &str, act: Act, at: usize) {
        self.world.before.clear();
        self.world.closed.clear();
        (self.world.actor, self.world.act, self.world.at) = (actor.to_owned(), act, at);
        // The actor's source becomes ready first, so that the others of its batch come after it.
        self.members.sort_by_key(|member| member.name != actor);
    }

    /// Makes all members ready.
    fn make_ready(&mut self) {
        for member in &mut self.members {
            (member.readies)(&mut self.reactor, &mut self.world);
        }
        self.clock.advance(SECOND);
    }

    /// The sources whose close was reported, and the cause, in the order of the names.
    fn closed(&self) -> Vec<(&str, &str)> {
        let mut closed: Vec<_> =
            self.world.closed.iter().map(|(who, how)| (who.as_str(), how.as_str())).collect();
        closed.sort_unstable();
        closed
    }
}

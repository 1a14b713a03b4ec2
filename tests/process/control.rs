//! The part of `reactor/control.rs` that needs a process of its own, with signals, exits and children: after a stop (class C1),
//! after a close of its own source (C2), and on its own key (C5).

use std::{
    fs,
    io::{self, ErrorKind},
    os::fd::AsFd,
    process::{Command, Stdio},
    time::Duration,
};

use ipc_reactor::{
    Cause, ChildHandler, Clock, Context, Key, Limits, Posted, Reactor, Signal, SignalInfo,
    children::{Exit, PidFd},
    signals,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{CWD, FileType, Mode, mknodat},
};

use crate::support::{
    isolated::{Case, cases},
    turns::{run, settle, until},
};

pub(crate) const CASES: &[Case] = cases![
    after_a_stop_by_any_handler_only_on_close_runs,
    after_a_stop_between_turns_only_on_close_runs,
    a_handler_that_closes_its_own_source_is_never_called_again,
    a_child_is_written_to_killed_and_closed_from_its_own_handler,
    signals_and_exits_are_closed_asked_for_and_spawned_from_their_own_handler,
];

type Cx<'a> = Context<'a, World>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Act {
    #[default]
    Stop,
    Finish,
    Close,
    Abort,
}

/// Which handler acts, at which of its calls, and which were called before and after.
#[derive(Debug, Default)]
struct World {
    actor: &'static str,
    act: Act,
    at: usize,
    has_acted: bool,
    before: Vec<&'static str>,
    after: Vec<&'static str>,
    closed: Vec<(&'static str, String)>,
}

impl World {
    fn called(&mut self, who: &'static str, cx: &mut Cx<'_>) {
        if self.has_acted {
            return self.after.push(who);
        }
        self.before.push(who);
        // A child is an actor with all of its methods, and with each.
        let is_actor = |name: &&str| *name == self.actor || name.split(':').next() == Some(self.actor);
        if is_actor(&who) && self.before.iter().filter(|name| is_actor(name)).count() == self.at {
            self.has_acted = true;
            let key = cx.key();
            match self.act {
                Act::Stop => cx.stop(),
                Act::Finish => cx.finish(),
                Act::Close => assert!(cx.close(key), "it runs still"),
                Act::Abort => assert!(cx.abort(key), "it runs still"),
            }
        }
    }
}

/// A child's handler, with the names of its methods.
struct Noter {
    name: &'static str,
    methods: [&'static str; 4],
}

impl ChildHandler<World> for Noter {
    fn on_stdout(&mut self, _: &[u8], cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        world.called(self.methods[0], cx);
        Ok(())
    }

    fn on_stderr(&mut self, _: &[u8], cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        world.called(self.methods[1], cx);
        Ok(())
    }

    fn on_flushed(&mut self, cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        world.called(self.methods[2], cx);
        Ok(())
    }

    fn on_exit(&mut self, _: Exit, cx: &mut Cx<'_>, world: &mut World) -> io::Result<()> {
        world.called(self.methods[3], cx);
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, _: &mut Cx<'_>, world: &mut World) {
        world.closed.push((self.name, format!("{cause:?}")));
    }
}

/// Those that can act, and how many calls there are for them.
const ACTORS: [(&str, usize); 13] = [
    ("real-time signals", 99),
    ("signals", 2),
    ("exits", 3),
    ("one child", 8),
    ("one child:on_stdout", 3),
    ("one child:on_stderr", 3),
    ("one child:on_flushed", 1),
    ("one child:on_exit", 1),
    ("another child", 8),
    ("another child:on_exit", 1),
    ("timers", 2),
    ("on_exit alone", 1),
    ("remote jobs", 2),
];

/// A reactor with signals, exits and children that are all ready.
fn all_ready(messages_per_visit: usize) -> (Reactor<World>, World) {
    let limits = Limits { messages_per_visit, ..Limits::default() };
    let clock = Clock::manual();
    let mut reactor = Reactor::<World>::builder().limits(limits).clock(clock.clone()).build().unwrap();
    let rt = Signal::rt(3).unwrap();
    let noting = |name: &'static str| {
        move |_: SignalInfo, cx: &mut Cx<'_>, world: &mut World| {
            world.called(name, cx);
            Ok(())
        }
    };
    reactor.signals([rt], noting("real-time signals")).unwrap();
    reactor.signals([Signal::USR1, Signal::USR2], noting("signals")).unwrap();
    reactor
        .children(|_, cx, world: &mut World| {
            world.called("exits", cx);
            Ok(())
        })
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let go = folder.path().join("go");
    mknodat(CWD, &go, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let mut pids = Vec::new();
    for _ in 0..3 {
        pids.push(reactor.spawn(&mut Command::new("true")).unwrap());
    }
    // More than two pieces of what is read at once on either output, while there is room for it in the pipes.
    let script = "read -r go < $0; head -c 40000 /dev/zero; head -c 40000 /dev/zero >&2";
    for (name, methods) in [
        (
            "one child",
            ["one child:on_stdout", "one child:on_stderr", "one child:on_flushed", "one child:on_exit"],
        ),
        (
            "another child",
            [
                "another child:on_stdout",
                "another child:on_stderr",
                "another child:on_flushed",
                "another child:on_exit",
            ],
        ),
    ] {
        let mut command = Command::new("sh");
        command
            .args(["-c", script])
            .arg(&go)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let key = reactor.run_child(&mut command, Noter { name, methods }).unwrap();
        // More than the pipe has room for, and the child reads none of it.
        assert_eq!(reactor.child(key).unwrap().write(&vec![0; 1 << 20]).unwrap(), Posted::Buffered);
        fs::write(&go, "go\n").unwrap();
        let pid = reactor.child(key).unwrap().pid();
        // The next one reads from the same pipe.
        has_ended(pid);
    }
    let (name, methods) = ("on_exit alone", ["", "", "", "on_exit alone"]);
    let key = reactor.run_child(&mut Command::new("true"), Noter { name, methods }).unwrap();
    pids.push(reactor.child(key).unwrap().pid());
    for pid in pids {
        has_ended(pid);
    }
    for value in 0..99 {
        signals::queue(std::process::id(), rt, value).unwrap();
    }
    signals::kill(std::process::id(), Signal::USR1).unwrap();
    signals::kill(std::process::id(), Signal::USR2).unwrap();
    for _ in 0..2 {
        reactor.after(Duration::ZERO, |cx, world| {
            world.called("timers", cx);
            Ok(())
        });
        reactor.remote().run(|cx, world| world.called("remote jobs", cx)).unwrap();
    }
    clock.advance(Duration::from_secs(1));
    (reactor, World::default())
}

/// Waits until a child has ended, without taking its status.
fn has_ended(pid: u32) {
    let pidfd = PidFd::open(pid).unwrap();
    let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    assert_eq!(poll(&mut fds, None).unwrap(), 1);
}

/// C1: each handler stops the loop at its first and at its second call, while all others are ready; children whose
/// exit is not reported get the stop.
fn after_a_stop_by_any_handler_only_on_close_runs() {
    for (actor, calls) in ACTORS {
        for budget in [1_024, 1] {
            for at in [1, 2, calls] {
                let (mut reactor, mut world) = all_ready(budget);
                let at = at.min(calls);
                (world.actor, world.at) = (actor, at);
                run(&mut reactor, &mut world);
                assert!(world.has_acted, "{actor}, call {at}, {budget}: {:?}", world.before);
                assert!(world.after.is_empty(), "{actor}, call {at}, {budget}: {:?}", world.after);
                told_once(&world);
            }
        }
    }
}

/// Each child's handler is called either for its exit or for the stop.
fn told_once(world: &World) {
    for (name, exit) in [
        ("one child", "one child:on_exit"),
        ("another child", "another child:on_exit"),
        ("on_exit alone", "on_exit alone"),
    ] {
        let exits = world.before.iter().filter(|who| **who == exit).count();
        let closes: Vec<_> = world.closed.iter().filter(|(who, _)| *who == name).collect();
        assert_eq!(exits + closes.len(), 1, "{name}: {world:?}");
        assert!(closes.iter().all(|(_, how)| how == "Stop"), "{name}: {world:?}");
    }
}

/// C1: a stop between turns.
fn after_a_stop_between_turns_only_on_close_runs() {
    let (mut reactor, mut world) = all_ready(1_024);
    reactor.stop();
    run(&mut reactor, &mut world);
    assert!(world.before.is_empty(), "{world:?}");
    told_once(&world);
}

/// C2: each handler closes its own source in each way, at its first call, its second and its last; all others are
/// called for each of their events.
fn a_handler_that_closes_its_own_source_is_never_called_again() {
    for (actor, calls) in ACTORS.into_iter().filter(|(actor, _)| !matches!(*actor, "timers" | "remote jobs"))
    {
        for (budget, act) in [(1_024, Act::Finish), (1, Act::Close), (1, Act::Finish), (1_024, Act::Abort)] {
            for at in [1, 2, calls] {
                let (mut reactor, mut world) = all_ready(budget);
                let at = at.min(calls);
                let case = format!("{actor}, {act:?} at call {at}, {budget}");
                (world.actor, world.act, world.at) = (actor, act, at);
                until(&mut reactor, &mut world, |world| world.has_acted);
                settle(&mut reactor, &mut world);
                let own = actor.split(':').next().unwrap();
                let of =
                    |who: &&&'static str, name: &str| **who == name || who.split(':').next() == Some(name);
                assert!(!world.after.iter().any(|who| of(&who, own)), "{case}: {:?}", world.after);
                for (other, calls) in
                    ACTORS.into_iter().filter(|(other, _)| other.split(':').next() != Some(own))
                {
                    let count = world.before.iter().chain(&world.after).filter(|who| of(who, other)).count();
                    assert_eq!(count, calls, "{case}: {other}");
                }
                let is_told =
                    own.contains("child") && !world.before.iter().any(|who| *who == format!("{own}:on_exit"));
                let closed: Vec<_> = world.closed.iter().map(|(who, how)| (*who, how.as_str())).collect();
                assert_eq!(closed, if is_told { vec![(own, "Closed")] } else { Vec::new() }, "{case}");
            }
        }
    }
}

/// A child's handler that follows orders on its own child.
struct Master {
    heard: Vec<u8>,
}

#[derive(Debug, Default)]
struct Told {
    key: Option<Key>,
    lines: Vec<String>,
}

impl ChildHandler<Told> for Master {
    fn on_stdout(&mut self, bytes: &[u8], cx: &mut Context<'_, Told>, told: &mut Told) -> io::Result<()> {
        self.heard.extend_from_slice(bytes);
        let Some(line) = self.heard.strip_suffix(b"\n") else { return Ok(()) };
        let line = String::from_utf8_lossy(line).into_owned();
        self.heard.clear();
        told.lines.push(line.clone());
        let key = cx.key();
        told.key = Some(key);
        let pid = cx.child(key).expect("it is there while it runs").pid();
        assert_eq!(cx.child_process().expect("the same").pid(), pid);
        match line.as_str() {
            "write" => {
                assert_eq!(cx.child(key).unwrap().write(b"by key\n")?, Posted::Sent);
                assert_eq!(cx.child_process().unwrap().unsent(), 0);
            }
            "by key" => {
                cx.child_process().unwrap().write(b"by context\n")?;
            }
            "by context" => {
                let child = cx.child(key).unwrap();
                child.write(b"last\n")?;
                child.close_stdin();
                assert_eq!(child.write(b"").unwrap_err().kind(), ErrorKind::NotConnected);
            }
            "kill" => cx.child(key).unwrap().kill(Signal::TERM)?,
            "close" => {
                assert!(cx.close(key));
                assert!(cx.child(key).is_some(), "it is there until the handler returns");
            }
            _ => {}
        }
        Ok(())
    }

    fn on_exit(&mut self, exit: Exit, cx: &mut Context<'_, Told>, told: &mut Told) -> io::Result<()> {
        let key = cx.key();
        let child = cx.child(key).expect("it is there while it runs");
        assert!(child.kill(Signal::TERM).is_err(), "it has ended");
        told.lines.push(format!("exit: {:?}", exit.status.map(|status| status.to_string())));
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, Told>, told: &mut Told) {
        let key = cx.key();
        assert!(cx.child(key).is_none() && cx.child_process().is_none());
        told.lines.push(format!("{cause:?}"));
    }
}

/// C5: a child's handler writes to its child, ends its input, signals it, and closes it, by its own key.
fn a_child_is_written_to_killed_and_closed_from_its_own_handler() {
    let exit = |status: &str| format!("exit: {:?}", Some(status));
    let written = ["write", "by key", "by context", "last", &exit("exit status: 0")].map(str::to_owned);
    let killed = ["kill", &exit("signal: 15 (SIGTERM)")].map(str::to_owned);
    let closed = ["close", "Closed"].map(str::to_owned);
    for (first, expected) in [("write", &written[..]), ("kill", &killed), ("close", &closed)] {
        let mut reactor = Reactor::<Told>::new().unwrap();
        let mut cat = Command::new("cat");
        cat.stdin(Stdio::piped()).stdout(Stdio::piped());
        let key = reactor.run_child(&mut cat, Master { heard: Vec::new() }).unwrap();
        reactor.child(key).unwrap().write(format!("{first}\n").as_bytes()).unwrap();
        let mut told = Told::default();
        until(&mut reactor, &mut told, |told| told.lines.len() == expected.len());
        settle(&mut reactor, &mut told);
        assert_eq!(told.lines, expected);
        assert_eq!(told.key, Some(key));
        assert!(reactor.child(key).is_none());
    }
}

/// C5: a handler of signals closes its source, which has its signals until it returns; one of
/// exits spawns the next child, and closes itself at last.
fn signals_and_exits_are_closed_asked_for_and_spawned_from_their_own_handler() {
    let mut reactor = Reactor::<Vec<String>>::new().unwrap();
    reactor
        .signals([Signal::USR1], |_, cx, heard: &mut Vec<String>| {
            heard.push("signal".into());
            let key = cx.key();
            let none = |_: SignalInfo, _: &mut Context<'_, Vec<String>>, _: &mut Vec<String>| Ok(());
            assert_eq!(cx.signals([Signal::USR1], none).unwrap_err().kind(), ErrorKind::ResourceBusy);
            assert!(cx.close(key) && cx.abort(key));
            Ok(())
        })
        .unwrap();
    let exits = reactor
        .children(|exit, cx, heard: &mut Vec<String>| {
            heard.push(format!("exit {}", exit.status.unwrap()));
            if heard.iter().filter(|line| line.starts_with("exit")).count() < 3 {
                cx.spawn(&mut Command::new("true"))?;
            } else {
                let key = cx.key();
                assert!(cx.close(key));
            }
            Ok(())
        })
        .unwrap();
    let mut heard = Vec::new();
    signals::kill(std::process::id(), Signal::USR1).unwrap();
    settle(&mut reactor, &mut heard);
    assert_eq!(heard, ["signal"]);
    reactor.spawn(&mut Command::new("true")).unwrap();
    until(&mut reactor, &mut heard, |heard| heard.len() == 4);
    settle(&mut reactor, &mut heard);
    assert_eq!(heard[1..], ["exit exit status: 0"; 3]);
    assert!(!reactor.close(exits));
    assert_eq!(reactor.spawn(&mut Command::new("true")).unwrap_err().kind(), ErrorKind::NotFound);
}

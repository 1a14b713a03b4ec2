//! Signals and children in a reactor, each case in a process of its own.

use std::collections::HashSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::support::isolated::{Case, mask, this_binary};
use crate::support::turns::{run, settle, until};
use ipc_reactor::children::{self, Exit, PidFd};
use ipc_reactor::signals::{self, Signal, SignalInfo};
use ipc_reactor::{Context, Interest, Limits, Progress, Reactor};

pub(crate) const CASES: &[Case] = &[
    ("a_signal_comes_with_its_sender_in_normal_control_flow", with_its_sender),
    ("real_time_signals_come_one_by_one_with_their_values", real_time),
    ("what_was_pending_before_is_delivered", pending_before),
    ("a_storm_of_signals_coalesces_and_is_seen", storm),
    ("a_signal_during_a_handler_waits_for_its_end", during_a_handler),
    ("a_handler_that_fails_or_panics_leaves_the_signals", faults),
    ("a_closed_signal_source_leaves_the_mask_as_it_was", closed_source),
    ("a_thousand_children_in_bursts_and_none_foreign", a_thousand_children),
    ("a_child_that_ended_before_is_told_of", ended_before),
    ("a_child_spawned_by_an_exit_is_watched_too", spawned_by_an_exit),
    ("a_spawned_child_blocks_nothing", blocks_nothing),
    ("nothing_is_spawned_that_nobody_would_reap", nobody_would_reap),
];

pub(crate) const ROLES: &[Case] = &[("pending", role_pending)];

fn own_pid() -> u32 {
    std::process::id()
}

/// A reactor that records its signals.
fn noting(signals: impl IntoIterator<Item = Signal>) -> Reactor<Vec<SignalInfo>> {
    let mut reactor = Reactor::<Vec<SignalInfo>>::new().unwrap();
    reactor
        .signals(signals, |signal, _, noted| {
            noted.push(signal);
            Ok(())
        })
        .unwrap();
    reactor
}

fn with_its_sender() {
    let mut reactor = noting([Signal::TERM, Signal::HUP]);
    let mut noted = Vec::new();
    signals::kill(own_pid(), Signal::TERM).unwrap();
    until(&mut reactor, &mut noted, |noted| noted.len() == 1);
    let mut stranger = Command::new("kill").args(["-HUP", &own_pid().to_string()]).spawn().unwrap();
    until(&mut reactor, &mut noted, |noted| noted.len() == 2);
    stranger.wait().unwrap();
    let uid = std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").unwrap());
    let told: Vec<_> = noted.iter().map(|info| (info.signal(), info.pid(), info.uid())).collect();
    assert_eq!(told, [(Signal::TERM, own_pid(), uid), (Signal::HUP, stranger.id(), uid)]);
    assert_eq!(reactor.stats().signals, 2);
}

fn real_time() {
    let rt = Signal::rt(3).unwrap();
    let mut reactor = noting([rt]);
    // More than one read brings, and more than a visit handles.
    reactor.set_limits(Limits { messages_per_visit: 20, ..Limits::default() });
    for value in 0..100 {
        signals::queue(own_pid(), rt, value).unwrap();
    }
    let mut noted = Vec::new();
    until(&mut reactor, &mut noted, |noted| noted.len() == 100);
    assert!(noted.iter().map(SignalInfo::value).eq((0..100).map(Some)));
}

fn pending_before() {
    // A child of std's inherits what is blocked here.
    let _reactor = noting([Signal::USR1]);
    let status = this_binary("reactor_signals::pending").status().unwrap();
    assert!(status.success(), "{status}");
}

fn role_pending() {
    assert_ne!(mask("/proc/self/status", "SigBlk"), 0, "this role starts with a signal blocked");
    signals::kill(own_pid(), Signal::USR1).unwrap();
    let mut reactor = noting([Signal::USR1]);
    let mut noted = Vec::new();
    until(&mut reactor, &mut noted, |noted| noted.len() == 1);
    assert_eq!(noted[0].signal(), Signal::USR1);
}

fn storm() {
    const SIGNALS: usize = 2_000;
    let mut reactor = noting([Signal::USR1]);
    let remote = reactor.remote();
    // Made after the mask was set, so it blocks the signal too.
    let sender = thread::spawn(move || {
        for _ in 0..SIGNALS {
            signals::kill(own_pid(), Signal::USR1).unwrap();
        }
        remote.stop().unwrap();
    });
    let mut noted = Vec::new();
    run(&mut reactor, &mut noted);
    sender.join().unwrap();
    assert!((1..=SIGNALS).contains(&noted.len()), "{}", noted.len());

    let mut reactor = {
        drop(reactor);
        noting([Signal::USR1])
    };
    noted.clear();
    for _ in 0..SIGNALS {
        signals::kill(own_pid(), Signal::USR1).unwrap();
    }
    settle(&mut reactor, &mut noted);
    assert_eq!(noted.len(), 1, "while one waits unread, the others vanish");
    signals::kill(own_pid(), Signal::USR1).unwrap();
    until(&mut reactor, &mut noted, |noted| noted.len() == 2);
}

fn during_a_handler() {
    let mut reactor = Reactor::<Vec<&str>>::new().unwrap();
    reactor
        .signals([Signal::USR1], |_, _, log: &mut Vec<&str>| {
            log.push("signal");
            Ok(())
        })
        .unwrap();
    reactor.after(Duration::ZERO, |_, log| {
        log.push("begins");
        for _ in 0..50 {
            signals::kill(own_pid(), Signal::USR1)?;
        }
        log.push("ends");
        Ok(())
    });
    let mut log = Vec::new();
    until(&mut reactor, &mut log, |log| log.contains(&"signal"));
    settle(&mut reactor, &mut log);
    assert_eq!(log, ["begins", "ends", "signal"]);
}

fn faults() {
    let mut reactor = Reactor::<u32>::new().unwrap();
    reactor
        .signals([Signal::USR1], |_, _, count| {
            *count += 1;
            match *count {
                1 => Err(io::Error::other("the first fails")),
                2 => panic!("the second panics"),
                _ => Ok(()),
            }
        })
        .unwrap();
    let mut count = 0;
    for expected in 1..=3 {
        signals::kill(own_pid(), Signal::USR1).unwrap();
        until(&mut reactor, &mut count, |&count| count == expected);
    }
    assert_eq!((reactor.stats().handler_errors, reactor.stats().panics), (1, 1));
}

fn closed_source() {
    let before = mask("/proc/self/status", "SigBlk");
    let mut reactor = Reactor::<u32>::new().unwrap();
    let count = |_: SignalInfo, cx: &mut Context<'_, u32>, count: &mut u32| {
        *count += 1;
        cx.finish();
        Ok(())
    };
    for expected in 1..=2 {
        reactor.signals([Signal::USR2], count).unwrap();
        assert_ne!(mask("/proc/self/status", "SigBlk"), before);
        let twice = reactor.signals([Signal::USR2], count).unwrap_err();
        assert_eq!(twice.kind(), ErrorKind::ResourceBusy);
        signals::kill(own_pid(), Signal::USR2).unwrap();
        let mut calls = expected - 1;
        until(&mut reactor, &mut calls, |&calls| calls == expected);
        settle(&mut reactor, &mut calls);
        assert_eq!(mask("/proc/self/status", "SigBlk"), before);
    }
}

/// A reactor that records the exits of its children.
fn reaping() -> Reactor<Vec<Exit>> {
    let mut reactor = Reactor::<Vec<Exit>>::new().unwrap();
    reactor
        .children(|exit, _, exits| {
            exits.push(exit);
            Ok(())
        })
        .unwrap();
    reactor
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::null());
    command
}

fn a_thousand_children() {
    const BURSTS: usize = 20;
    const EACH: usize = 50;
    let mut reactor = reaping();
    // Ended before all others, and not a child of the reactor's.
    let mut foreign = children::spawn(&mut Command::new("true")).unwrap();
    let (mut exits, mut pids) = (Vec::new(), HashSet::new());
    for burst in 1..=BURSTS {
        for _ in 0..EACH {
            pids.insert(reactor.spawn(&mut Command::new("true")).unwrap());
        }
        // Now and then the bursts run into each other.
        if burst % 3 == 0 {
            until(&mut reactor, &mut exits, |exits| exits.len() >= (burst - 1) * EACH);
        }
    }
    until(&mut reactor, &mut exits, |exits| exits.len() == BURSTS * EACH);
    assert!(exits.iter().all(|exit| exit.status.unwrap().success()));
    // A pid may have been given out again, so there may be fewer of them.
    assert!(exits.iter().all(|exit| pids.contains(&exit.pid)));
    assert!(!pids.contains(&foreign.id()));
    assert!(foreign.wait().unwrap().success(), "it is left for us to wait for");
    assert_eq!(reactor.stats().handler_errors, 0);
}

fn ended_before() {
    let child = children::spawn(&mut shell("exit 7")).unwrap();
    let pid = child.id();
    let mut waiter = Reactor::<()>::new().unwrap();
    let pidfd = PidFd::from_child(&child).unwrap();
    waiter
        .fd(pidfd, Interest::READABLE, |_, _, cx, ()| {
            cx.stop();
            Ok(Progress::Drained)
        })
        .unwrap();
    run(&mut waiter, &mut ());

    let mut reactor = Reactor::<Vec<Exit>>::new().unwrap();
    let error = reactor.watch_child(shell("exit 1").spawn().unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "there is no handler for exits; call PollSet::children first");
    drop(reactor);
    let mut reactor = reaping();
    // Its SIGCHLD came before this reactor watched for it.
    let mut exits = Vec::new();
    settle(&mut reactor, &mut exits);
    assert_eq!(reactor.watch_child(child).unwrap(), pid);
    until(&mut reactor, &mut exits, |exits| exits.len() == 1);
    assert_eq!((exits[0].pid, exits[0].status.unwrap().code()), (pid, Some(7)));
}

fn spawned_by_an_exit() {
    let mut reactor = Reactor::<Vec<Option<i32>>>::new().unwrap();
    reactor
        .children(|exit, cx, codes| {
            let code = exit.status.unwrap().code();
            codes.push(code);
            match code {
                Some(0) => return Ok(()),
                Some(3) => panic!("the third panics"),
                _ => {}
            }
            cx.spawn(&mut shell(&format!("exit {}", code.unwrap() - 1)))?;
            Err(io::Error::other("the others fail"))
        })
        .unwrap();
    reactor.spawn(&mut shell("exit 5")).unwrap();
    let mut codes = Vec::new();
    until(&mut reactor, &mut codes, |codes| codes.len() == 3);
    reactor.spawn(&mut shell("exit 1")).unwrap();
    until(&mut reactor, &mut codes, |codes| codes.len() == 5);
    assert_eq!(codes, [5, 4, 3, 1, 0].map(Some));
    assert_eq!((reactor.stats().handler_errors, reactor.stats().panics), (3, 1));
}

fn blocks_nothing() {
    let mut reactor = reaping();
    let key = reactor.signals([Signal::TERM, Signal::INT], |_, _, _| Ok(())).unwrap();
    assert_ne!(mask("/proc/self/status", "SigBlk"), 0);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("status");
    let mut exits = Vec::new();
    let mut grep = Command::new("cat");
    grep.arg("/proc/self/status").stdout(fs::File::create(&path).unwrap());
    reactor.spawn(&mut grep).unwrap();
    until(&mut reactor, &mut exits, |exits| exits.len() == 1);
    assert_eq!(mask(path.to_str().unwrap(), "SigBlk"), 0);

    let pid = reactor.spawn(Command::new("sleep").arg("60")).unwrap();
    signals::kill(pid, Signal::TERM).unwrap();
    until(&mut reactor, &mut exits, |exits| exits.len() == 2);
    assert_eq!((exits[1].pid, exits[1].status.unwrap().signal()), (pid, Some(libc::SIGTERM)));
    assert!(reactor.close(key));
}

fn nobody_would_reap() {
    let directory = tempfile::tempdir().unwrap();
    let witness = directory.path().join("witness");
    let mut touch = Command::new("touch");
    touch.arg(&witness);
    let mut reactor = Reactor::<Vec<Exit>>::new().unwrap();
    let refused = |reactor: &mut Reactor<Vec<Exit>>, touch: &mut Command| {
        let error = reactor.spawn(touch).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.to_string(), "there is no handler for exits; call PollSet::children first");
        let children = fs::read_to_string("/proc/thread-self/children").unwrap();
        assert_eq!(children, "", "no child was started");
        assert!(!witness.exists());
    };
    refused(&mut reactor, &mut touch);
    let key = reactor.children(|_, _, _| Ok(())).unwrap();
    reactor.close(key);
    settle(&mut reactor, &mut Vec::new());
    refused(&mut reactor, &mut touch);
}

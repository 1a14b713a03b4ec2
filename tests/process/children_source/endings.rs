//! How children end: by themselves, while grandchildren still run, or with their source.

use super::*;
use crate::support::old_kernel::become_old;

pub(crate) fn silent_grandchild() {
    let (mut reactor, mut seen) = new();
    // Output that is unread when the child ends is reported before its end.
    start(&mut reactor, &mut shell("sleep 60 & echo $!; head -c 50000 /dev/zero"));
    until(&mut reactor, &mut seen, |seen| !seen.exits.is_empty());
    let grandchild = PidFd::open(first_number(&seen.out).unwrap()).expect("it lives");
    grandchild.kill(Signal::KILL).unwrap();
    assert!(seen.exit().status.unwrap().success());
    let first_line = seen.out.iter().position(|&byte| byte == b'\n').unwrap() + 1;
    assert_eq!(seen.out.len(), first_line + 50_000);
}

pub(crate) fn noisy_grandchild() {
    // Read so slowly that the pipe is never found empty.
    let (mut reactor, mut seen) = slow(8);
    let key = start(&mut reactor, &mut shell("echo $$; cat /dev/zero & read x; exit 5"));
    until(&mut reactor, &mut seen, |seen| seen.out.len() > 5000);
    reactor.child(key).unwrap().write(b"\n").unwrap();
    until(&mut reactor, &mut seen, |seen| !seen.exits.is_empty());
    assert_eq!(seen.exit().status.unwrap().code(), Some(5));
    assert!(seen.out.len() < 4 << 20, "no more is read than was there at the exit, and what came before it");
    assert!(seen.out.starts_with(format!("{}\n", seen.exit().pid).as_bytes()));
}

pub(crate) fn closing() {
    let (mut reactor, mut seen) = new();
    let key = start(&mut reactor, &mut piped("sleep", &["60"]));
    let pid = reactor.child(key).unwrap().pid();
    assert!(reactor.close(key));
    assert!(reactor.child(key).is_none());
    until_gone(pid, &mut reactor, &mut seen);
    assert_eq!(seen.closes, [Cause::Closed.to_string()]);
    assert!(seen.exits.is_empty(), "on_exit or on_close, never both");
}

pub(crate) fn end_of_reactor() {
    let (mut reactor, mut seen) = new();
    let pids: Vec<u32> = (0..3)
        .map(|_| {
            let key = start(&mut reactor, &mut piped("sleep", &["60"]));
            reactor.child(key).unwrap().pid()
        })
        .collect();
    reactor.stop();
    run(&mut reactor, &mut seen);
    assert_eq!(seen.closes, vec![Cause::Stop.to_string(); 3]);
    assert!(!pids.iter().any(|&pid| is_there(pid)), "gone when run returns");

    let (mut dropped, _) = new();
    let key = start(&mut dropped, &mut piped("sleep", &["60"]));
    let pid = dropped.child(key).unwrap().pid();
    drop(dropped);
    assert!(!is_there(pid), "gone with the reactor");
}

pub(crate) fn failing_handlers() {
    struct Fails;
    impl ChildHandler<Seen> for Fails {
        fn on_stdout(&mut self, bytes: &[u8], _: &mut Context<'_, Seen>, _: &mut Seen) -> io::Result<()> {
            if bytes == b"panic\n" {
                panic!("as it was told");
            }
            Err(io::Error::other("as it was told"))
        }
        fn on_exit(&mut self, _: Exit, _: &mut Context<'_, Seen>, _: &mut Seen) -> io::Result<()> {
            Err(io::Error::other("at the exit"))
        }
        fn on_close(&mut self, cause: &Cause, _: &mut Context<'_, Seen>, seen: &mut Seen) {
            seen.closes.push(cause.to_string());
        }
    }
    let (mut reactor, mut seen) = new();
    let mut pids = Vec::new();
    for script in ["echo fail; exec sleep 60", "echo panic; exec sleep 60", "exit 0"] {
        let key = reactor.run_child(&mut shell(script), Fails).unwrap();
        pids.push(reactor.child(key).unwrap().pid());
    }
    let other = start(&mut reactor, &mut piped("cat", &[]));
    until(&mut reactor, &mut seen, |seen| seen.closes.len() == 2);
    for pid in pids {
        until_gone(pid, &mut reactor, &mut seen);
    }
    reactor.child(other).unwrap().write(b"alive").unwrap();
    until(&mut reactor, &mut seen, |seen| seen.out == b"alive");
    assert!(seen.closes.iter().all(|cause| cause.contains("as it was told")), "{:?}", seen.closes);
    assert_eq!((reactor.stats().handler_errors, reactor.stats().panics), (2, 1));
}

pub(crate) fn finishing() {
    struct Impatient;
    impl ChildHandler<Seen> for Impatient {
        fn on_stdout(&mut self, bytes: &[u8], cx: &mut Context<'_, Seen>, seen: &mut Seen) -> io::Result<()> {
            seen.out.extend_from_slice(&bytes[..1]);
            cx.finish();
            Ok(())
        }
        fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, Seen>, seen: &mut Seen) {
            Record.on_close(cause, cx, seen);
        }
    }
    let (mut reactor, mut seen) = new();
    let key = reactor.run_child(&mut piped("yes", &[]), Impatient).unwrap();
    let pid = reactor.child(key).unwrap().pid();
    until_gone(pid, &mut reactor, &mut seen);
    assert_eq!(seen.out, b"y", "nothing is told behind a finish");
    assert_eq!(seen.closes, [Cause::Closed.to_string()]);
}

pub(crate) fn not_started() {
    let (mut reactor, mut seen) = new();
    let error = reactor.run_child(&mut Command::new("/nonexistent/program"), Record).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    settle(&mut reactor, &mut seen);
    assert!(seen.closes.is_empty() && seen.exits.is_empty());
}

pub(super) fn without_pidfds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("started");
    for (version, call, needed) in [("5.3", "waitid(2)", "Linux 5.4"), ("5.2", "pidfd_open(2)", "Linux 5.3")]
    {
        become_old(version.parse().unwrap()).unwrap();
        let mut reactor = Reactor::<Seen>::new().unwrap();
        let mut touch = Command::new("touch");
        let error = reactor.run_child(touch.arg(&path), Record).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported, "{error}");
        let text = error.to_string();
        assert!(text.contains(call) && text.contains(needed), "{text}");
        assert!(!path.exists());
    }
}

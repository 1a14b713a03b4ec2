//! Standard input of children: what is written, flushed or lost.

use super::*;

/// Bytes that depend on their position, so that a lost or repeated part shows.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i / 4).to_le_bytes()[i % 4]).collect()
}

pub(crate) fn through_cat() {
    const LENGTH: usize = 4 << 20;
    /// Writes as long as nothing is buffered, and goes on when all is flushed.
    struct Producer(Vec<u8>, usize);
    impl Producer {
        fn produce(&mut self, cx: &mut Context<'_, Seen>) -> io::Result<()> {
            let cat = cx.child_process().expect("its handler runs");
            while self.1 < self.0.len() {
                let piece = &self.0[self.1..(self.1 + 50_000).min(self.0.len())];
                self.1 += piece.len();
                if cat.write(piece)? == Posted::Buffered {
                    return Ok(());
                }
            }
            cat.close_stdin();
            Ok(())
        }
    }
    impl ChildHandler<Seen> for Producer {
        fn on_stdout(&mut self, bytes: &[u8], cx: &mut Context<'_, Seen>, seen: &mut Seen) -> io::Result<()> {
            if bytes == b"ready\n" {
                return self.produce(cx);
            }
            Record.on_stdout(bytes, cx, seen)
        }
        fn on_flushed(&mut self, cx: &mut Context<'_, Seen>, seen: &mut Seen) -> io::Result<()> {
            assert_eq!(cx.child_process().unwrap().unsent(), 0);
            seen.flushed += 1;
            self.produce(cx)
        }
        fn on_exit(&mut self, exit: Exit, cx: &mut Context<'_, Seen>, seen: &mut Seen) -> io::Result<()> {
            Record.on_exit(exit, cx, seen)
        }
    }
    let (mut reactor, mut seen) = new();
    reactor.run_child(&mut shell("echo ready; exec cat"), Producer(pattern(LENGTH), 0)).unwrap();
    until(&mut reactor, &mut seen, |seen| !seen.exits.is_empty());
    assert!(seen.exit().status.unwrap().success());
    assert!(seen.out == pattern(LENGTH), "{} bytes came back", seen.out.len());
    assert!(seen.flushed > 1, "the pipe was full at times");
}

pub(crate) fn bounded() {
    const MOST: usize = 1 << 20;
    let limits = Limits { output_max: MOST, ..Limits::default() };
    let mut reactor = Reactor::<Seen>::builder().limits(limits).build().unwrap();
    let mut seen = Seen::default();
    let key = start(&mut reactor, &mut shell("kill -STOP $$; exec wc -c"));
    let child = reactor.child(key).unwrap();
    let mut taken = 0;
    let refused = loop {
        match child.write(&[0; 60_000]) {
            Ok(_) => taken += 60_000,
            Err(error) => break error,
        }
        assert!(child.unsent() <= MOST);
    };
    assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    let pid = child.pid();
    child.close_stdin();
    assert_eq!(child.write(b"late").unwrap_err().kind(), io::ErrorKind::NotConnected);
    assert!(child.unsent() > 0, "it is closed behind what waits");
    // It may not have stopped itself yet: then the signal that wakes it must be sent again.
    let waker = Command::new("sh")
        .args(["-c", &format!("while kill -CONT {pid} 2>/dev/null; do sleep 0.01; done")])
        .spawn();
    until(&mut reactor, &mut seen, |seen| !seen.exits.is_empty());
    waker.unwrap().wait().unwrap();
    assert_eq!(first_number(&seen.out), Some(taken), "what was taken came, what was refused did not");
    assert_eq!(reactor.stats().limit_count(Limit::Output), 1);
}

/// Puts SIGPIPE at its default, as a program has it that does not begin with Rust's main.
pub(crate) fn sigpipe_kills() {
    // SAFETY: SIG_DFL is a valid disposition, and no handler of ours is involved.
    assert_ne!(unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) }, libc::SIG_ERR);
}

pub(crate) fn closes_input() {
    sigpipe_kills();
    let (mut reactor, mut seen) = new();
    let key = start(&mut reactor, &mut shell("exec 0<&-; echo closed; exec sleep 60"));
    until(&mut reactor, &mut seen, |seen| !seen.out.is_empty());
    let child = reactor.child(key).unwrap();
    for _ in 0..3 {
        assert_eq!(child.write(b"anybody?").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
    child.close_stdin();
    child.kill(Signal::KILL).unwrap();
    until(&mut reactor, &mut seen, |seen| !seen.exits.is_empty());
}

pub(crate) fn dies_with_input_waiting() {
    sigpipe_kills();
    let (mut reactor, mut seen) = new();
    let key = start(&mut reactor, &mut piped("sleep", &["60"]));
    let child = reactor.child(key).unwrap();
    assert_eq!(child.write(&[0; 1 << 20]).unwrap(), Posted::Buffered);
    settle(&mut reactor, &mut seen);
    assert_eq!(seen.flushed, 0);
    reactor.child(key).unwrap().kill(Signal::KILL).unwrap();
    until(&mut reactor, &mut seen, |seen| !seen.exits.is_empty());
    assert_eq!(seen.flushed, 1, "it is told that nothing waits any more");
}

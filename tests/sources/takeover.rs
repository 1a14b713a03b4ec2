//! One server after the other at the same path, while clients keep connecting.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use crate::support::fds::*;
use ipc_reactor::{Cause, Context, Framing, Limits, Listener, Session};

/// How long an old server goes on accepting: longer than a client that has looked the path up may take to connect.
/// With no such time, about one run in three fails.
const GRACE: Duration = Duration::from_millis(100);
const TAKEOVERS: usize = 1_000;

/// What one server has done.
#[derive(Debug, Default)]
struct Done {
    answered: u64,
    strange: Vec<String>,
}

struct Answer;

impl Session<Done> for Answer {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, Done>, done: &mut Done) -> io::Result<()> {
        done.answered += 1;
        cx.reply(request)
    }

    fn on_close(&mut self, cause: &Cause, _: &mut Context<'_, Done>, done: &mut Done) {
        if !matches!(cause, Cause::Peer | Cause::Drain) {
            done.strange.push(cause.to_string());
        }
    }
}

fn serve(path: &Path) -> Running<Done> {
    let listener = Listener::options().takeover(true).unix(path).unwrap();
    Running::start(Limits::default(), Done::default(), move |reactor| {
        reactor.listen(listener, Framing::fixed(8), |_, _| Ok(Answer)).unwrap();
    })
}

/// Sends requests repeatedly, each over a new connection; returns their number and the errors.
fn ask(path: &Path, stop: &AtomicBool) -> (u64, Vec<String>) {
    let (mut asked, mut wrong) = (0_u64, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let once = || {
            let mut stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(&asked.to_ne_bytes())?;
            let mut answer = [0; 8];
            stream.read_exact(&mut answer)?;
            assert_eq!(answer, asked.to_ne_bytes());
            io::Result::Ok(())
        };
        match once() {
            Ok(()) => asked += 1,
            Err(error) => wrong.push(error.to_string()),
        }
    }
    (asked, wrong)
}

#[test]
fn a_thousand_takeovers_refuse_no_connection_and_leave_none_unanswered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let stop = AtomicBool::new(false);
    let (clients, servers) = thread::scope(|scope| {
        let end = Raise(&stop);
        let first = serve(&path);
        let clients: Vec<_> = (0..2).map(|_| scope.spawn(|| ask(&path, &stop))).collect();
        let (mut current, mut leaving, mut gone) = (first, Vec::new(), Vec::new());
        for _ in 0..TAKEOVERS {
            let old = std::mem::replace(&mut current, serve(&path));
            // The successor listens already. Only now may the old one start its grace time.
            old.ask(|cx, _| cx.after(GRACE, |cx, _| cx.drain(PATIENCE)));
            leaving.push(old);
            if leaving.len() > 100 {
                gone.push(leaving.remove(0).ended());
            }
        }
        drop(end);
        let clients: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        gone.extend(leaving.into_iter().map(Running::ended));
        gone.push(current.stop());
        (clients, gone)
    });
    let wrong: Vec<_> = clients.iter().flat_map(|(_, wrong)| wrong).collect();
    let asked: u64 = clients.iter().map(|(asked, _)| asked).sum();
    assert!(wrong.is_empty(), "{} of {asked}: {:?}", wrong.len(), &wrong[..wrong.len().min(5)]);
    assert!(asked > TAKEOVERS as u64, "there was load: {asked}");
    assert_eq!(servers.iter().map(|done| done.answered).sum::<u64>(), asked);
    assert!(servers.iter().all(|done| done.strange.is_empty()), "{servers:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the last one has tidied up");
}

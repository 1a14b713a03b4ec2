//! Every kind of handler adds new sources.

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use ipc_reactor::{Framing, Interest, Listener, Progress};

use crate::hazards::{Actor, Cx, Stage, World};
use crate::support::turns;

/// Adds one source of each kind; the client that it adopts sends the name of the handler that added it.
fn insert(from: &'static str, path: PathBuf, cx: &mut Cx<'_>, world: &mut World) -> std::io::Result<()> {
    let greet = move |_: &str, cx: &mut Cx<'_>, _: &mut World| cx.reply(format!("from {from}\n").as_bytes());
    cx.adopt(world.spare.pop_front().unwrap(), Framing::lines(), Actor::echo(100).on_open(greet))?;
    cx.listen(Listener::unix(path)?, Framing::lines(), |_, _| Ok(Actor::echo(101)))?;
    let (mut writer, reader) = UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    writer.write_all(b"seen")?;
    cx.fd(reader, Interest::READABLE, move |reader, _, _, world: &mut World| {
        let mut text = String::new();
        match reader.read_to_string(&mut text) {
            Err(error) if error.kind() == ErrorKind::WouldBlock && !text.is_empty() => {}
            other => drop(other?),
        }
        world.notes.push(format!("{from}: fd {text}"));
        // Keeps the other end open.
        let _ = &writer;
        Ok(Progress::Drained)
    })?;
    cx.after(Duration::ZERO, move |_, world: &mut World| {
        world.notes.push(format!("{from}: timer"));
        Ok(())
    });
    Ok(())
}

#[test]
fn every_handler_may_insert_sources() {
    let origins: [&'static str; 7] = ["open", "request", "timer", "close", "remote", "fd", "after"];
    for from in origins {
        let mut stage = Stage::new();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let (newcomer, ours) = UnixStream::pair().unwrap();
        let newcomer = turns::patient(newcomer);
        stage.world.spare.push_back(ours.into());
        let at = path.clone();
        let insert = move |cx: &mut Cx<'_>, world: &mut World| insert(from, at.clone(), cx, world);
        let mut actor = Actor::new(0);
        match from {
            "open" => actor = actor.on_open(move |_, cx, world| insert(cx, world)),
            "request" => actor = actor.on_request(move |_, cx, world| insert(cx, world)),
            "timer" => {
                actor = actor
                    .on_open(|_, cx, _| {
                        cx.wake_after(Duration::ZERO);
                        Ok(())
                    })
                    .on_timer(move |_, cx, world| insert(cx, world));
            }
            "close" => actor = actor.on_close(move |_, cx, world| insert(cx, world)),
            "remote" => {
                let remote = stage.reactor.remote();
                remote.run(move |cx, world: &mut World| insert(cx, world).unwrap()).unwrap();
            }
            "fd" => {
                let (kept, watched) = UnixStream::pair().unwrap();
                stage
                    .reactor
                    .fd(watched, Interest::WRITABLE, move |_, _, cx, world: &mut World| {
                        let _ = &kept;
                        insert(cx, world)?;
                        cx.finish();
                        Ok(Progress::Drained)
                    })
                    .unwrap();
            }
            _ => drop(stage.reactor.after(Duration::ZERO, move |cx, world| insert(cx, world))),
        }
        let mut peer = stage.enter(actor);
        peer.write_all(b"x\n").unwrap();
        let peer = Some(peer).filter(|_| from != "close");
        turns::until(&mut stage.reactor, &mut stage.world, |world| world.notes.len() == 2);
        stage.settle();
        assert_eq!(stage.received(&newcomer), format!("from {from}\n"));
        stage.echoes(&newcomer, "adopted");
        stage.world.notes.sort();
        assert_eq!(stage.world.notes, [format!("{from}: fd seen"), format!("{from}: timer")]);
        let connected = turns::patient(UnixStream::connect(&path).unwrap());
        stage.settle();
        stage.echoes(&connected, "accepted");
        drop(peer);
        stage.settle();
        assert_eq!(stage.reactor.stats().panics, 0, "{from}");
        assert_eq!(stage.world.closed(), [(0, "Peer")], "{from}");
    }
}

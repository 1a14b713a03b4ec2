//! An echo server under a service manager: socket activation, readiness, watchdog, and restarts that refuse no client.
//!
//! The manager passes the listening sockets (`LISTEN_FDS`, `sd_listen_fds(3)`); if it passes none, the program
//! creates them at the given addresses. It notifies the manager when it is ready, when it stops, and, at half the
//! watchdog's interval, that its loop runs (`sd_notify(3)`). With `--store` it stores its sockets in the manager, which
//! passes them to the next start: clients that connect in between wait in the backlog until then.
//!
//! ```text
//! cargo build --release --example activated
//! systemd-socket-activate -l /tmp/echo target/release/examples/activated
//! echo hello | nc -U /tmp/echo
//! ```
//!
//! As a service: `Type=notify`, `WatchdogSec=10`, `FileDescriptorStoreMax=8`.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use ipc_reactor::{Address, Context, Framing, Key, Listener, PollSet, Reactor, Session, Signal};
use sd_notify::NotifyState;

/// Echo server for a service manager: sends back whatever arrives.
#[derive(Parser)]
struct Arguments {
    /// Where to listen if the service manager passes no sockets: unix:/path, tcp:host:port, …
    addresses: Vec<Address>,
    /// Leave the sockets made here in the manager's descriptor store
    #[arg(long)]
    store: bool,
}

struct Echo;

impl Session<()> for Echo {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        cx.reply(request)
    }
}

/// The sockets that the manager has passed, by `LISTEN_FDS`.
#[allow(unsafe_code)]
fn passed() -> io::Result<Vec<Listener>> {
    let adopt = |fd| {
        // SAFETY: the manager opened it for this process alone, which takes it once, before it opens any descriptor.
        Listener::try_from(unsafe { OwnedFd::from_raw_fd(fd) })
    };
    sd_notify::listen_fds()?.map(adopt).collect()
}

fn serve(arguments: &Arguments) -> io::Result<()> {
    let mut listeners = passed()?;
    if listeners.is_empty() {
        listeners = arguments.addresses.iter().map(Listener::bind).collect::<io::Result<Vec<Listener>>>()?;
        if arguments.store {
            // The path stays, because the manager keeps the socket after this process ends.
            listeners.iter_mut().for_each(Listener::leave_path);
            let fds: Vec<BorrowedFd<'_>> = listeners.iter().map(AsFd::as_fd).collect();
            sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName("master")], &fds)?;
        }
    }
    if listeners.is_empty() {
        let why = "no LISTEN_FDS from a service manager, and no address given to listen on";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }

    let mut reactor = Reactor::<()>::new()?;
    let mut masters = Vec::new();
    for listener in listeners {
        eprintln!("activated: listening on {}", listener.local_address()?);
        masters.push(reactor.listen(listener, Framing::raw(), |_, ()| Ok(Echo))?);
    }
    reactor.signals([Signal::INT, Signal::TERM], move |_, cx, ()| {
        sd_notify::notify(&[NotifyState::Stopping])?;
        wind_down(cx, &masters);
        Ok(())
    })?;
    if let Some(interval) = sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero()) {
        // A timer of the loop sends it, so it proves to the watchdog that the loop runs.
        reactor.every(interval / 2, |_, ()| sd_notify::notify(&[NotifyState::Watchdog]));
    }
    sd_notify::notify(&[NotifyState::Ready])?;
    reactor.run(&mut ())
}

/// Ends in order. A socket that the manager also holds stays open: clients that connect from now on wait in its backlog
/// for the next start, and this process serves only those that it has accepted already.
fn wind_down(cx: &mut PollSet<()>, masters: &[Key]) {
    for &master in masters {
        cx.close(master);
    }
    // A drain closes a client that has sent nothing yet; this gives a new client the time to send a request.
    let begun = cx.now();
    cx.every(Duration::from_millis(10), move |cx, ()| {
        if cx.stats().clients == 0 || cx.now() - begun > Duration::from_secs(1) {
            cx.drain(Duration::from_secs(5))?;
        }
        Ok(())
    });
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    match serve(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("activated: {error}");
            ExitCode::FAILURE
        }
    }
}

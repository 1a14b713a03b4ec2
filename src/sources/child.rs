//! A child process as a source: its output, its input and its exit.

use std::{io, os::fd::AsFd, process::Command};

use mio::Interest;

use crate::{
    children::process::{ChildPort, ChildProcess, Output},
    set::{
        call::{Called, call, call_closed, report},
        handlers::{ChildHandler, Progress},
        lifecycle::Phase,
        poll_set::PollSet,
        source::{Source, Visited},
    },
    types::{
        cause::{Cause, Limit},
        key::Key,
        ready::Ready,
    },
};

/// Bytes read from a pipe at once.
const CHUNK: usize = 16 << 10;

impl<S> PollSet<S> {
    /// Starts a child with an empty signal mask, and puts it into the poll set: its exit, and the pipes that `command`
    /// sets with [`Stdio::piped`](std::process::Stdio::piped). Other streams are inherited.
    ///
    /// | | `run_child` | [`spawn`](PollSet::spawn) with [`children`](PollSet::children) |
    /// |---|---|---|
    /// | reports | output, room for input, the exit, each child to its own handler | exits, all to one handler |
    /// | by | pidfd and pipes | SIGCHLD |
    /// | descriptors per child | two, and one for each pipe | none |
    /// | needs | Linux 5.4 | SIGCHLD blocked in every thread: first thing in `main` |
    /// | signals go | to this child, by pidfd | to a pid, which may be another process by then |
    /// | closed early | kills the child | does not affect the child |
    ///
    /// Use this for children that exchange data with the service, or in a process that cannot block SIGCHLD. Use
    /// SIGCHLD for many children of which only the exit matters. One reactor can use both.
    ///
    /// ```
    /// use ipc_reactor::{ChildHandler, Context, Reactor, children::Exit};
    /// use std::{io, process::{Command, Stdio}};
    ///
    /// struct Listing;
    ///
    /// impl ChildHandler<String> for Listing {
    ///     fn on_stdout(&mut self, bytes: &[u8], _: &mut Context<'_, String>, output: &mut String) -> io::Result<()> {
    ///         output.push_str(&String::from_utf8_lossy(bytes));
    ///         Ok(())
    ///     }
    ///     fn on_exit(&mut self, exit: Exit, cx: &mut Context<'_, String>, _: &mut String) -> io::Result<()> {
    ///         assert!(exit.status.expect("ours to wait for").success());
    ///         cx.stop();
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let mut reactor = Reactor::new()?;
    /// let key = reactor.run_child(Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()), Listing)?;
    /// let cat = reactor.child(key).expect("it was just started");
    /// cat.write(b"hello")?;
    /// cat.close_stdin();
    /// let mut output = String::new();
    /// reactor.run(&mut output)?;
    /// assert_eq!(output, "hello");
    /// # std::io::Result::Ok(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Command::spawn`], `pidfd_open(2)` and `epoll_ctl(2)`. A child that was started already is killed.
    /// `Unsupported` before Linux 5.4, and nothing is started then.
    pub fn run_child(
        &mut self,
        command: &mut Command,
        handler: impl ChildHandler<S> + 'static,
    ) -> io::Result<Key> {
        self.registry.check_not_forked()?;
        let port = Box::new(ChildPort::start(command, self.limits.output_max)?);
        self.register(port.as_fd(), Interest::READABLE)?;
        Ok(self.place(Source::Child { port, handler: Some(Box::new(handler)) }))
    }

    /// The child of this key, to write to or to signal, the running handler's included. `None` once it has ended.
    pub fn child(&mut self, key: Key) -> Option<&mut ChildProcess> {
        self.child_of(key)
    }
}

/// The endpoint of the child that is visited.
fn port<S>(set: &mut PollSet<S>, key: Key) -> &mut ChildPort {
    match set.registry.get_mut(key) {
        Some(Source::Child { port, .. }) => port,
        _ => unreachable!("a child is not removed while it is visited"),
    }
}

/// One visit: delivers the output in the pipes, within the budget, and after all output the exit.
pub(crate) fn visit<S>(
    set: &mut PollSet<S>,
    key: Key,
    ready: Ready,
    scratch: &mut [u8],
    state: &mut S,
) -> Visited {
    match read(set, key, ready, scratch, state) {
        Ok(visited) | Err(visited) => {
            for _ in 0..std::mem::take(&mut port(set, key).process.refused) {
                set.report_limit(Limit::Output, format_args!("the standard input of child {key}"));
            }
            visited
        }
    }
}

fn read<S>(
    set: &mut PollSet<S>,
    key: Key,
    ready: Ready,
    scratch: &mut [u8],
    state: &mut S,
) -> Result<Visited, Visited> {
    match port(set, key).poll() {
        Ok(true) => {
            let called =
                call(set, key, |handler: &mut Box<dyn ChildHandler<S>>, cx| handler.on_flushed(cx, state));
            applied(set, key, called, ready)?;
        }
        Ok(false) => {}
        Err(error) => return Err(Visited::closed(Cause::Io(error))),
    }
    let mut budget = set.limits.bytes_per_visit.max(1);
    while budget > 0 {
        let room = budget.min(CHUNK).min(scratch.len());
        let chunk = &mut scratch[..room];
        let out = next(port(set, key), |port| &mut port.stdout, chunk);
        if out > 0 {
            let called = call(set, key, |handler: &mut Box<dyn ChildHandler<S>>, cx| {
                handler.on_stdout(&chunk[..out], cx, state)
            });
            applied(set, key, called, ready)?;
        }
        let err = next(port(set, key), |port| &mut port.stderr, chunk);
        if err > 0 {
            let called = call(set, key, |handler: &mut Box<dyn ChildHandler<S>>, cx| {
                handler.on_stderr(&chunk[..err], cx, state)
            });
            applied(set, key, called, ready)?;
        }
        if out + err == 0 {
            return exit(set, key, ready, state);
        }
        budget = budget.saturating_sub(out + err);
    }
    set.report_limit(Limit::Bytes, format_args!("child {key}"));
    Ok(Visited::Again(ready))
}

fn next(port: &mut ChildPort, output: impl Fn(&mut ChildPort) -> &mut Output, chunk: &mut [u8]) -> usize {
    let mut taken = std::mem::take(output(port));
    let count = taken.next(&port.process.poll, chunk);
    *output(port) = taken;
    count
}

/// All output is delivered: delivers the exit, if the child has ended.
fn exit<S>(set: &mut PollSet<S>, key: Key, ready: Ready, state: &mut S) -> Result<Visited, Visited> {
    let port = port(set, key);
    let Some(exit) = port.exit else { return Ok(Visited::Drained) };
    port.exit_delivered = true;
    let called =
        call(set, key, |handler: &mut Box<dyn ChildHandler<S>>, cx| handler.on_exit(exit, cx, state));
    applied(set, key, called, ready)?;
    Ok(Visited::closed(Cause::Closed))
}

/// Checks a call. `Err`: how the visit ends.
fn applied<S>(set: &mut PollSet<S>, key: Key, called: Called<()>, ready: Ready) -> Result<(), Visited> {
    let Called { result, asked } = called;
    match result {
        Ok(()) => asked.ends_visit(ready).map_or(Ok(()), Err),
        Err(cause) if matches!(*cause, Cause::Stop) => Err(Visited::Again(ready)),
        Err(cause) => {
            report(set, key, "child", &cause);
            Err(Visited::Closed(cause))
        }
    }
}

/// A child was removed from the poll set. If it has not ended, it is killed and reaped.
pub(crate) fn closed<S>(
    set: &mut PollSet<S>,
    key: Key,
    mut port: ChildPort,
    mut handler: Box<dyn ChildHandler<S>>,
    cause: &Cause,
    state: &mut S,
) {
    if !port.exit_delivered {
        call_closed(set, key, move |cx| handler.on_close(cause, cx, state));
    }
    if let Some(process) = port.process.process.take_if(|process| !process.collected)
        && set.lifecycle.phase() != Phase::Stopped
    {
        process.kill();
        // The poll set waits for its end. If it cannot, the drop of the process does.
        let _ = set.fd(process, Interest::READABLE, |process, _, cx, _| {
            if process.collect().is_some() {
                cx.finish();
            }
            Ok(Progress::Drained)
        });
    }
}

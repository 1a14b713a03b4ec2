//! The observers of the server: which of them are enabled, and where their output goes.

use std::{
    env, io,
    io::{IsTerminal, Stderr},
    path::PathBuf,
    time::Duration,
};

use ipc_reactor::{FlightRecorder, Key, PollSet, SourceKind};

use crate::{
    explain::{Explain, Style},
    names::Names,
    timeline::Timeline,
    trace::Trace,
};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Explain each transition of the state machine on standard error, with the system call behind it
    #[arg(long)]
    explain: bool,
    /// Whether --explain prints times; without them, two runs can be compared
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, requires = "explain")]
    explain_times: bool,
    /// Write a Chrome trace, for ui.perfetto.dev or chrome://tracing
    #[arg(long, value_name = "FILE.json")]
    trace: Option<PathBuf>,
    /// Draw the latest turns at the end, and on SIGUSR2: which sources waited, which ran, and for how long
    #[arg(long, value_name = "FILE.svg")]
    timeline: Option<PathBuf>,
    /// How many turns the timeline shows
    #[arg(long, value_name = "TURNS", default_value_t = 24, requires = "timeline", value_parser = turns)]
    timeline_turns: usize,
    /// The flight recorder dumps when a visit takes this long, in milliseconds
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 100)]
    slow: u64,
}

fn turns(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(turns @ 1..=1000) => Ok(turns),
        _ => Err("a number from 1 to 1000; more cannot be seen in one picture".into()),
    }
}

impl Options {
    /// Adds the enabled observers, and the flight recorder, which is always enabled.
    pub(crate) fn start<S>(&self, set: &mut PollSet<S>, sources: &[(Key, SourceKind)]) -> io::Result<()> {
        let names = Names::new(sources);
        set.observe(FlightRecorder::new().slow(Duration::from_millis(self.slow)).dump_to(io::stderr()));
        if self.explain {
            // https://no-color.org: any value but an empty one.
            let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            let style = Style { colour: io::stderr().is_terminal() && !plain, times: self.explain_times };
            set.observe(Explain::<Stderr>::new(io::stderr(), style, names.clone()));
        }
        if let Some(file) = &self.trace {
            set.observe(Trace::create(file, names.clone(), sources)?);
        }
        if let Some(file) = &self.timeline {
            set.observe(Timeline::new(file, self.timeline_turns, names));
        }
        Ok(())
    }
}

/// Writes the timeline and the flight recorder's dump while the server runs.
pub(crate) fn show<S>(set: &mut PollSet<S>) -> io::Result<()> {
    if let Some(recorder) = set.observer_mut::<FlightRecorder>() {
        recorder.dump(&mut io::stderr())?;
    }
    set.observer_mut::<Timeline>().map_or(Ok(()), |timeline| timeline.draw())
}

/// Completes the files at the end.
pub(crate) fn end<S>(set: &mut PollSet<S>) -> io::Result<()> {
    // It has no lines for the reactor's own sources, which are closed when the reactor is dropped.
    set.take_observer::<Explain<Stderr>>();
    set.take_observer::<Timeline>().map_or(Ok(()), |timeline| timeline.draw())?;
    set.take_observer::<Trace>().map_or(Ok(()), |mut trace| trace.end())
}

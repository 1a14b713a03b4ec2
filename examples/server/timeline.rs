//! `--timeline`: a picture of the latest turns: which sources waited, which ran, and for how long.

use std::{
    collections::{HashMap, VecDeque},
    fs, io, mem,
    path::{Path, PathBuf},
};

use ipc_reactor::{Key, Observer, Seen, SourceInfo, SourceKind, VisitEnd, What};

use crate::{names::Names, picture};

/// One turn: when it slept, woke up and ended.
#[derive(Default)]
pub(crate) struct Turn {
    pub(crate) number: u64,
    pub(crate) asleep_ns: u64,
    pub(crate) awake_ns: u64,
    pub(crate) over_ns: u64,
    pub(crate) visits: Vec<Visit>,
    pub(crate) births: Vec<Birth>,
}

/// One visit: when its source became ready, when it began and when it ended.
pub(crate) struct Visit {
    pub(crate) source: Source,
    pub(crate) ready_ns: u64,
    pub(crate) begun_ns: u64,
    pub(crate) over_ns: u64,
    pub(crate) closed: bool,
}

/// A CIR that was accepted.
pub(crate) struct Birth {
    pub(crate) at_ns: u64,
    pub(crate) listener: Key,
    pub(crate) client: Key,
}

#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) key: Key,
    pub(crate) kind: SourceKind,
    pub(crate) name: String,
}

/// Keeps the latest turns, and draws them on request.
pub(crate) struct Timeline {
    path: PathBuf,
    /// How many turns it keeps.
    keep: usize,
    names: Names,
    turns: VecDeque<Turn>,
    turn: Turn,
    /// When each source's last visit ended: a source that becomes ready during its visit waits from then on.
    over_ns: HashMap<Key, u64>,
}

impl Timeline {
    pub(crate) fn new(path: &Path, keep: usize, names: Names) -> Timeline {
        Timeline {
            path: path.into(),
            keep,
            names,
            turns: VecDeque::new(),
            turn: Turn::default(),
            over_ns: HashMap::new(),
        }
    }

    pub(crate) fn draw(&self) -> io::Result<()> {
        fs::write(&self.path, picture::svg(&self.turns))
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.path.display())))
    }

    fn source(&mut self, source: SourceInfo) -> Source {
        Source { key: source.key, kind: source.kind, name: self.names.of(source).to_owned() }
    }
}

impl Observer for Timeline {
    fn observe(&mut self, seen: &Seen<'_>) {
        let at_ns = seen.at_ns;
        match seen.what {
            What::Woke { waited_ns, .. } => {
                self.names.forget_those_gone();
                self.turn.number = seen.turn;
                (self.turn.asleep_ns, self.turn.awake_ns) = (at_ns - waited_ns, at_ns);
            }
            What::Accepted { listener, client, .. } => {
                // Named in the order of the CIRs, not of the first visits.
                self.names.of(client);
                self.turn.births.push(Birth { at_ns, listener: listener.key, client: client.key });
            }
            What::Visited { source, queued_ns, took_ns, end, .. } => {
                let begun_ns = at_ns - took_ns;
                let last_ns = self.over_ns.insert(source.key, at_ns).unwrap_or(0);
                let ready_ns = (begun_ns - queued_ns).max(last_ns);
                let (source, closed) = (self.source(source), end == VisitEnd::Closed);
                if closed {
                    self.over_ns.remove(&source.key);
                }
                self.turn.visits.push(Visit { source, ready_ns, begun_ns, over_ns: at_ns, closed });
            }
            What::Closed { source, .. } => {
                self.names.left(source.key);
                self.over_ns.remove(&source.key);
            }
            What::Turned { .. } => {
                self.turn.over_ns = at_ns;
                if self.turns.len() == self.keep {
                    self.turns.pop_front();
                }
                self.turns.push_back(mem::take(&mut self.turn));
            }
            _ => {}
        }
    }

    fn detail(&self) -> ipc_reactor::Detail {
        ipc_reactor::Detail::Visits
    }
}

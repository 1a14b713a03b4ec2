//! The names of sources and the format of times and bytes in `--explain`, `--trace` and `--timeline`.

use std::{collections::HashMap, fmt};

use ipc_reactor::{Key, SourceInfo, SourceKind};

/// Names: M for the master socket, Q for a queue, S for signals, C#1, C#2, … for clients in the order of their CIRs.
#[derive(Clone, Default)]
pub(crate) struct Names {
    names: HashMap<Key, String>,
    clients: u32,
    gone: Vec<Key>,
}

impl Names {
    /// The sources that exist from the start. Those of one kind are numbered if there are several.
    pub(crate) fn new(sources: &[(Key, SourceKind)]) -> Names {
        let mut names = Names::default();
        for (at, &(key, kind)) in sources.iter().enumerate() {
            let is_same = |other: &&(Key, SourceKind)| other.1 == kind;
            let number = sources[..=at].iter().filter(is_same).count();
            let name = match sources.iter().filter(is_same).count() {
                1 => letter(kind).into(),
                _ => format!("{}{number}", letter(kind)),
            };
            names.names.insert(key, name);
        }
        names
    }

    pub(crate) fn of(&mut self, source: SourceInfo) -> &str {
        self.names.entry(source.key).or_insert_with(|| match source.kind {
            SourceKind::Client => {
                self.clients += 1;
                format!("C#{}", self.clients)
            }
            kind => letter(kind).into(),
        })
    }

    /// The name of a source, if it has one.
    pub(crate) fn get(&self, key: Key) -> Option<&str> {
        self.names.get(&key).map(String::as_str)
    }

    /// A source was removed from the poll set. Its name is kept until the next turn.
    pub(crate) fn left(&mut self, key: Key) {
        self.gone.push(key);
    }

    /// A turn begins.
    pub(crate) fn forget_those_gone(&mut self) {
        for key in self.gone.drain(..) {
            self.names.remove(&key);
        }
    }
}

fn letter(kind: SourceKind) -> &'static str {
    match kind {
        SourceKind::Listener => "M",
        SourceKind::Client => "C",
        SourceKind::Datagram => "D",
        SourceKind::Queue => "Q",
        SourceKind::Signals => "S",
        SourceKind::SharedMemory => "shm",
        SourceKind::Timers => "T",
        SourceKind::Remote => "R",
        SourceKind::Child => "P",
        _ => "F",
    }
}

/// Nanoseconds, in three digits and the unit that fits.
pub(crate) struct Time(pub(crate) u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0 as f64;
        let (value, unit) = match self.0 {
            0..1_000 => return write!(f, "{} ns", self.0),
            1_000..1_000_000 => (ns / 1e3, "µs"),
            1_000_000..1_000_000_000 => (ns / 1e6, "ms"),
            _ => (ns / 1e9, "s"),
        };
        let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
        write!(f, "{value:.digits$} {unit}")
    }
}

/// The most characters of a message that are shown.
const SHOWN: usize = 24;

/// A message in quotes: a number if it is one of the adder's, else its bytes, escaped and cut.
pub(crate) struct Payload<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Payload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Ok(number) = self.0.try_into().map(i32::from_ne_bytes) {
            return write!(f, "\"{number}\"");
        }
        text(self.0, f)
    }
}

/// Text in quotes, escaped and cut.
pub(crate) struct Text<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        text(self.0, f)
    }
}

fn text(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let escaped: String =
        bytes.iter().take(SHOWN + 1).flat_map(|byte| byte.escape_ascii()).map(char::from).collect();
    match escaped.char_indices().nth(SHOWN) {
        Some((end, _)) => write!(f, "\"{}\"…", &escaped[..end]),
        None => write!(f, "\"{escaped}\""),
    }
}

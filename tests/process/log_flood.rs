//! A peer's errors must not flood the log. The only test of its process: the logger counts all its lines.

use std::{
    io::{self, Write},
    os::unix::net::UnixStream,
    sync::Mutex,
};

use crate::support::turns;
use ipc_reactor::{Context, Framing, Limit, Limits, Prefix, Session};

use crate::support::isolated::{Case, cases};

pub(crate) const CASES: &[Case] = cases![twenty_thousand_bad_frames_are_few_lines_and_an_exact_count];

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Lines;

impl log::Log for Lines {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Info
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            LINES.lock().unwrap().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

struct Nothing;

impl Session<()> for Nothing {
    fn on_request(&mut self, _: &[u8], _: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        Ok(())
    }
}

/// The number of suppressed lines that a line reports, if it does.
fn suppressed(line: &str) -> u64 {
    let end = line.find(" more limit warnings suppressed");
    let number = |end: usize| line[..end].rsplit(['(', ' ']).next().unwrap().parse::<u64>().unwrap();
    end.map_or(0, number)
}

fn twenty_thousand_bad_frames_are_few_lines_and_an_exact_count() {
    const FRAMES: u64 = 20_000;
    log::set_logger(&Lines).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    let mut reactor = turns::reactor::<()>(Limits { frame_max: 10, ..Limits::default() });
    for _ in 0..FRAMES / 100 {
        let peers: Vec<_> = (0..100)
            .map(|_| {
                let (mut peer, ours) = UnixStream::pair().unwrap();
                peer.write_all(&[11]).unwrap();
                reactor.adopt(ours, Framing::prefixed(Prefix::U8), Nothing).unwrap();
                peer
            })
            .collect();
        turns::settle(&mut reactor, &mut ());
        assert!(peers.iter().all(|peer| turns::available(peer).1));
    }
    assert_eq!(reactor.stats().limit_count(Limit::Frame), FRAMES);
    assert_eq!((reactor.stats().clients, reactor.stats().closed), (0, FRAMES));
    // The count of suppressed lines is logged at the end.
    drop(reactor);
    let lines = LINES.lock().unwrap();
    let written = lines.iter().filter(|line| line.contains("limit reached")).count() as u64;
    assert!(lines.len() <= 100, "{} lines", lines.len());
    let told: u64 = lines.iter().map(|line| suppressed(line)).sum();
    assert_eq!(written + told, FRAMES, "{lines:#?}");
}

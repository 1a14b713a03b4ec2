//! Signals, each case in a process of its own.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::support::isolated::{Case, mask, this_binary};
use ipc_reactor::children;
use ipc_reactor::signals::{self, Signal, SignalBatch, Signals};
use mio::unix::SourceFd;

pub(crate) const CASES: &[Case] = &[
    ("names_and_numbers_agree", names_and_numbers_agree),
    ("what_is_no_signal_is_refused", what_is_no_signal_is_refused),
    ("uncatchable_signals_faults_and_an_empty_set_are_refused", uncatchable_are_refused),
    ("what_was_pending_before_is_found", pending_before_is_found),
    ("standard_signals_coalesce", standard_signals_coalesce),
    ("real_time_signals_queue_in_order_with_their_sender", real_time_signals_queue),
    ("a_short_batch_proves_that_the_queue_is_empty", short_batch_is_proof),
    ("an_earlier_thread_takes_the_signal_and_is_named", earlier_thread_takes_the_signal),
    ("a_later_thread_inherits_the_mask", later_thread_inherits),
    ("a_raise_is_for_its_own_thread_and_a_kill_for_the_process", raise_is_for_its_thread),
    ("drop_restores_the_mask_and_frees_the_signals", drop_restores),
    ("drop_discards_what_would_end_the_process", drop_discards),
    ("drop_leaves_what_was_blocked_before", drop_leaves_what_was_blocked_before),
    ("drop_on_another_thread_leaves_the_masks", drop_on_another_thread),
    ("a_signal_is_watched_once", overlap_is_refused),
    ("a_refused_set_changes_nothing", refused_set_changes_nothing),
    ("abort_can_be_blocked_but_abort_still_ends", abort_can_be_blocked),
    ("an_ignored_signal_is_read_all_the_same", ignored_signal_is_read),
    ("the_descriptor_is_cloexec_and_nonblocking", descriptor_flags),
    ("senders_refuse_what_is_not_one_process", senders_refuse_groups),
];

pub(crate) const ROLES: &[Case] = &[
    ("dies_by_its_earlier_thread", dies_by_its_earlier_thread),
    ("aborts", aborts),
    ("has_no_descriptors_left", has_no_descriptors_left),
];

const THREAD: &str = "/proc/thread-self/status";

fn me() -> u32 {
    std::process::id()
}

fn bit(signal: Signal) -> u64 {
    1 << (signal.as_raw() - 1)
}

/// Runs a role to its end: how it ended, and what it printed.
fn role(mut command: Command) -> (ExitStatus, String) {
    let child = children::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped())).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status, String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A thread that lives until this is dropped.
struct Parked(Option<(mpsc::Sender<()>, thread::JoinHandle<()>)>);

impl Parked {
    fn new(name: &str) -> Parked {
        let (end, ended) = mpsc::channel::<()>();
        let (ready, started) = mpsc::channel();
        let run = move || {
            ready.send(()).unwrap();
            let _ = ended.recv();
        };
        let thread = thread::Builder::new().name(name.into()).spawn(run).unwrap();
        // Its first instructions run with every signal blocked.
        started.recv().unwrap();
        Parked(Some((end, thread)))
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        let (end, thread) = self.0.take().unwrap();
        drop(end);
        thread.join().unwrap();
    }
}

fn names_and_numbers_agree() {
    let mut seen = 0;
    for raw in -2..100 {
        let Ok(signal) = Signal::from_raw(raw) else { continue };
        seen += 1;
        let name = signal.to_string();
        assert_eq!(signal.as_raw(), raw);
        for text in [&name, &name.to_lowercase(), name.trim_start_matches("SIG"), &raw.to_string()] {
            assert_eq!(text.parse::<Signal>().unwrap(), signal, "{text}");
        }
    }
    assert!(seen >= 31 + 8, "{seen} signals");
    assert_eq!(Signal::TERM.to_string(), "SIGTERM");
    assert_eq!(Signal::rt(0).unwrap().to_string(), "SIGRTMIN");
    assert_eq!(Signal::rt(3).unwrap().to_string(), "SIGRTMIN+3");
    assert_eq!(format!("{:>8}|{:?}", Signal::HUP, Signal::HUP), "  SIGHUP|Signal(SIGHUP)");
}

fn what_is_no_signal_is_refused() {
    for raw in [i32::MIN, -1, 0, 32, 33, 65, i32::MAX] {
        assert_eq!(Signal::from_raw(raw).unwrap_err().kind(), ErrorKind::InvalidInput, "{raw}");
    }
    for n in [31, 64, i32::MAX as u32, u32::MAX] {
        assert_eq!(Signal::rt(n).unwrap_err().kind(), ErrorKind::InvalidInput, "{n}");
    }
    for text in ["", "SIG", "TERMS", "SIGSIGTERM", "0", "33", "RTMIN+", "RTMIN+99", "RTMIN3", "1.5"] {
        assert_eq!(text.parse::<Signal>().unwrap_err().kind(), ErrorKind::InvalidInput, "{text:?}");
    }
}

fn uncatchable_are_refused() {
    let before = mask(THREAD, "SigBlk");
    for signal in [Signal::KILL, Signal::STOP, Signal::SEGV, Signal::BUS, Signal::FPE, Signal::ILL] {
        let refused = Signals::new([Signal::TERM, signal]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        assert!(refused.to_string().starts_with(&signal.to_string()), "{refused}");
    }
    assert_eq!(Signals::new([]).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(mask(THREAD, "SigBlk"), before);
}

fn pending_before_is_found() {
    let first = Signals::new([Signal::TERM]).unwrap();
    // A thread made now has SIGTERM blocked of its own, whatever becomes of `first`.
    thread::scope(|scope| {
        let (go, gone) = mpsc::channel::<()>();
        let inherits = scope.spawn(move || {
            gone.recv().unwrap();
            signals::raise(Signal::TERM).unwrap();
            let second = Signals::new([Signal::TERM]).unwrap();
            assert_eq!(second.recv().unwrap().expect("raised before").signal(), Signal::TERM);
            assert!(second.recv().unwrap().is_none());
        });
        drop(first);
        go.send(()).unwrap();
        inherits.join().unwrap();
    });
}

fn standard_signals_coalesce() {
    let signals = Signals::new([Signal::USR1]).unwrap();
    for _ in 0..101 {
        signals::kill(me(), Signal::USR1).unwrap();
    }
    let mut records = 0;
    while signals.recv().unwrap().is_some() {
        records += 1;
    }
    assert!((1..101).contains(&records), "{records} records of 101 signals");
}

fn real_time_signals_queue() {
    let signal = Signal::rt(2).unwrap();
    let signals = Signals::new([signal, Signal::USR1]).unwrap();
    let values = [7, -1, i32::MAX, i32::MIN, 0];
    for value in values {
        signals::queue(me(), signal, value).unwrap();
    }
    let uid = fs::metadata("/proc/self").unwrap().uid();
    for value in values {
        let info = signals.recv().unwrap().expect("queued");
        assert_eq!((info.signal(), info.value()), (signal, Some(value)));
        assert_eq!((info.pid(), info.uid()), (me(), uid));
        assert!(info.status().is_none());
    }
    assert!(signals.recv().unwrap().is_none());

    signals::kill(me(), Signal::USR1).unwrap();
    let info = signals.recv().unwrap().unwrap();
    assert_eq!((info.value(), info.code()), (None, 0), "{info:?}");
}

fn short_batch_is_proof() {
    let signal = Signal::rt(0).unwrap();
    let signals = Signals::new([signal]).unwrap();
    let mut poll = mio::Poll::new().unwrap();
    let mut events = mio::Events::with_capacity(4);
    let fd = signals.as_fd().as_raw_fd();
    poll.registry().register(&mut SourceFd(&fd), mio::Token(1), mio::Interest::READABLE).unwrap();

    let mut batch = SignalBatch::new();
    let mut next = 0;
    for count in [1, SignalBatch::CAPACITY - 1, SignalBatch::CAPACITY, SignalBatch::CAPACITY + 1, 3] {
        for value in 0..count {
            signals::queue(me(), signal, next + value as i32).unwrap();
        }
        // Edge-triggered: an event here says that the reads of the last round left the kernel no edge behind.
        poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
        assert!(!events.is_empty(), "no edge for {count} signals");
        let mut read = 0;
        loop {
            let filled = signals.read_into(&mut batch).unwrap();
            assert_eq!(batch.len(), filled);
            for info in batch.iter() {
                assert_eq!(info.value(), Some(next));
                next += 1;
            }
            read += filled;
            if filled < SignalBatch::CAPACITY {
                break;
            }
        }
        assert_eq!(read, count);
    }
    assert_eq!(signals.read_into(&mut batch).unwrap(), 0);
    assert!(batch.is_empty());
}

fn earlier_thread_takes_the_signal() {
    let (status, printed) = role(this_binary("signals::dies_by_its_earlier_thread"));
    assert_eq!(status.signal(), Some(Signal::TERM.as_raw()), "{status}: {printed}");
    assert_eq!(printed, "named\nwarned\n");
}

static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Collect;

impl log::Log for Collect {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        WARNINGS.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

fn dies_by_its_earlier_thread() {
    log::set_logger(&Collect).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    let _earlier = Parked::new("earlier");
    let signals = Signals::new([Signal::TERM, Signal::USR1]).unwrap();
    let unblocked = signals.unblocked_threads().unwrap();
    let [thread] = &unblocked[..] else { panic!("{unblocked:?}") };
    assert_eq!((thread.name.as_str(), &thread.signals[..]), ("earlier", &[Signal::USR1, Signal::TERM][..]));
    assert!(thread.tid != me());
    println!("named");
    let warnings = WARNINGS.lock().unwrap().join("\n");
    assert!(warnings.contains("(earlier)") && warnings.contains("SIGUSR1, SIGTERM"), "{warnings}");
    println!("warned");
    signals::kill(me(), Signal::TERM).unwrap();
    loop {
        thread::park();
    }
}

fn later_thread_inherits() {
    let signals = Signals::new([Signal::TERM]).unwrap();
    let _later = Parked::new("later");
    assert_eq!(signals.unblocked_threads().unwrap(), []);
    signals::kill(me(), Signal::TERM).unwrap();
    assert_eq!(signals.recv().unwrap().expect("not taken by the thread").signal(), Signal::TERM);
}

fn raise_is_for_its_thread() {
    let signals = Signals::new([Signal::USR1]).unwrap();
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            signals::raise(Signal::USR1).unwrap();
            signals::kill(me(), Signal::USR1).unwrap();
        });
        other.join().unwrap();
    });
    assert!(signals.recv().unwrap().is_some(), "the kill");
    assert!(signals.recv().unwrap().is_none(), "the raise ended with its thread");
}

fn drop_restores() {
    let before = mask(THREAD, "SigBlk");
    for _ in 0..3 {
        let signals = Signals::new([Signal::TERM, Signal::rt(1).unwrap(), Signal::TERM]).unwrap();
        assert!(signals.watched().eq([Signal::TERM, Signal::rt(1).unwrap()]));
        assert_eq!(mask(THREAD, "SigBlk"), before | bit(Signal::TERM) | bit(Signal::rt(1).unwrap()));
        drop(signals);
        assert_eq!(mask(THREAD, "SigBlk"), before);
    }
}

fn drop_discards() {
    let rt = Signal::rt(0).unwrap();
    let signals = Signals::new([Signal::TERM, rt]).unwrap();
    signals::raise(Signal::TERM).unwrap();
    for value in 0..100 {
        signals::queue(me(), rt, value).unwrap();
    }
    drop(signals);
    assert_eq!(mask(THREAD, "SigPnd") | mask(THREAD, "ShdPnd"), 0);
}

fn drop_leaves_what_was_blocked_before() {
    let first = Signals::new([Signal::USR1]).unwrap();
    thread::scope(|scope| {
        let (go, gone) = mpsc::channel::<()>();
        let inherits = scope.spawn(move || {
            gone.recv().unwrap();
            let second = Signals::new([Signal::USR1, Signal::USR2]).unwrap();
            signals::raise(Signal::USR1).unwrap();
            signals::raise(Signal::USR2).unwrap();
            drop(second);
            assert_eq!(mask(THREAD, "SigBlk"), bit(Signal::USR1));
            assert_eq!(mask(THREAD, "SigPnd"), bit(Signal::USR1));
        });
        drop(first);
        go.send(()).unwrap();
        inherits.join().unwrap();
    });
}

fn drop_on_another_thread() {
    let signals = Signals::new([Signal::USR1]).unwrap();
    let blocked = mask(THREAD, "SigBlk");
    let other = move || {
        drop(signals);
        assert_eq!(mask(THREAD, "SigBlk"), blocked);
    };
    thread::spawn(other).join().unwrap();
    assert_eq!(mask(THREAD, "SigBlk"), blocked);
    Signals::new([Signal::USR1]).expect("free again");
}

fn overlap_is_refused() {
    let first = Signals::new([Signal::INT, Signal::TERM]).unwrap();
    let _other = Signals::new([Signal::HUP]).expect("no overlap");
    let before = mask(THREAD, "SigBlk");
    let refused = Signals::new([Signal::USR1, Signal::TERM]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ResourceBusy);
    assert!(refused.to_string().starts_with("SIGTERM is watched"), "{refused}");
    assert_eq!(mask(THREAD, "SigBlk"), before);
    drop(first);
    Signals::new([Signal::USR1, Signal::TERM]).expect("free again, and USR1 never was taken");
}

fn refused_set_changes_nothing() {
    let this = this_binary("signals::has_no_descriptors_left");
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 32; exec \"$0\" \"$@\""]).arg(this.get_program()).args(this.get_args());
    let (status, printed) = role(limited);
    assert!(status.success(), "{status}: {printed}");
}

fn has_no_descriptors_left() {
    let before = mask(THREAD, "SigBlk");
    let mut held = Vec::new();
    let full = loop {
        match fs::File::open("/dev/null") {
            Ok(file) => held.push(file),
            Err(e) => break e,
        }
    };
    let refused = Signals::new([Signal::TERM]).unwrap_err();
    assert_eq!(refused.raw_os_error(), full.raw_os_error());
    drop(held);
    assert_eq!(mask(THREAD, "SigBlk"), before);
    Signals::new([Signal::TERM]).expect("not claimed by the failure");
}

fn abort_can_be_blocked() {
    let (status, printed) = role(this_binary("signals::aborts"));
    assert_eq!(printed, "read\n");
    assert_eq!(status.signal(), Some(Signal::ABRT.as_raw()), "{status}");
}

fn aborts() {
    let signals = Signals::new([Signal::ABRT]).unwrap();
    signals::kill(me(), Signal::ABRT).unwrap();
    assert_eq!(signals.recv().unwrap().expect("blocked, so still here").signal(), Signal::ABRT);
    println!("read");
    std::process::abort();
}

fn ignored_signal_is_read() {
    assert!(mask(THREAD, "SigIgn") & bit(Signal::PIPE) != 0, "Rust programs ignore SIGPIPE");
    let signals = Signals::new([Signal::PIPE, Signal::WINCH]).unwrap();
    signals::kill(me(), Signal::PIPE).unwrap();
    signals::kill(me(), Signal::WINCH).unwrap();
    let mut batch = SignalBatch::new();
    assert_eq!(signals.read_into(&mut batch).unwrap(), 2, "{batch:?}");
    assert_eq!(batch[0].signal(), Signal::PIPE);
    assert_eq!(batch[1].signal(), Signal::WINCH);
}

fn descriptor_flags() {
    let signals = Signals::new([Signal::TERM]).unwrap();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", signals.as_fd().as_raw_fd())).unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
    assert_eq!(flags & 0o2_004_000, 0o2_004_000, "O_CLOEXEC and O_NONBLOCK in {flags:o}");
}

fn senders_refuse_groups() {
    for pid in [0, i32::MAX as u32 + 1, u32::MAX] {
        assert_eq!(signals::kill(pid, Signal::TERM).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(signals::queue(pid, Signal::TERM, 1).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    // Beyond the largest pid_max, 4,194,304.
    const ESRCH: i32 = 3;
    assert_eq!(signals::kill(i32::MAX as u32, Signal::TERM).unwrap_err().raw_os_error(), Some(ESRCH));
    assert_eq!(signals::queue(i32::MAX as u32, Signal::TERM, 1).unwrap_err().raw_os_error(), Some(ESRCH));
}

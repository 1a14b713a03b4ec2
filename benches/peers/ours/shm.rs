//! Shared memory on this crate: a 64-byte value published and received.
//! The same as `../src/bin/iceoryx2.rs` and `../c/shm.c`.

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut, Read},
    mem::MaybeUninit,
    os::unix::{fs::FileExt, net::UnixStream},
    process::{Child, Command, ExitCode},
    thread,
    time::{Duration, Instant},
};

use clap::{Parser, ValueEnum};
use ipc_reactor::{
    Delivery, Reactor,
    shm::{Publisher, Subscriber, Ticket, Update},
};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Measures the cost of a 64-byte value in shared memory. Reports on standard output, as JSON.
#[derive(Parser)]
struct Arguments {
    mode: Mode,
    /// Values, or round trips
    count: u64,
    /// The core for the process at the other end
    other_cpu: Option<usize>,
    /// Run as the process at the other end; standard input is the socket to the first process
    #[arg(long, hide = true)]
    other: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    /// One process: publish, receive
    Loop,
    /// Two processes, each on a reactor and woken by the other's doorbell
    Pingpong,
    /// One process publishes a value each time that the other, on a reactor, sleeps; for counting
    Wake,
    /// Two processes that spin: half a round trip
    Spin,
    /// One process publishes as fast as it can, the other spins and receives
    Flood,
}

const SIZE: usize = 64;
const CAPACITY: usize = 63;

fn stamped(i: u64) -> [u8; SIZE] {
    let mut value = [0; SIZE];
    value[..8].copy_from_slice(&i.to_ne_bytes());
    value
}

fn stamp(value: &[u8]) -> u64 {
    u64::from_ne_bytes(value[..8].try_into().expect("a value of 64 bytes"))
}

fn report(start: Instant, messages: u64) {
    println!("{{\"elapsed_ns\": {}, \"messages\": {messages}}}", start.elapsed().as_nanos());
}

/// One publish and one receive; the instructions of this are counted.
fn publish_and_receive(count: u64) -> io::Result<()> {
    let mut publisher = Publisher::every(SIZE, CAPACITY)?;
    let mut subscriber = Subscriber::open(publisher.subscribe()?.1)?;
    let start = Instant::now();
    for i in 0..count {
        publisher.publish(&stamped(i))?;
        let Some(Update::Value(value)) = subscriber.recv()? else { panic!("nothing received") };
        assert_eq!(stamp(value), i);
    }
    report(start, count);
    Ok(())
}

/// Both directions: a publisher and a subscription.
struct Link {
    publisher: Publisher,
    subscriber: Subscriber,
}

impl Link {
    /// Exchanges tickets with the process at the other end.
    fn new(socket: &UnixStream) -> io::Result<Link> {
        let mut publisher = Publisher::every(SIZE, CAPACITY)?;
        let (bytes, fds) = publisher.subscribe()?.1.into_fds();
        let fds: Vec<_> = fds.iter().map(std::os::fd::AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(Ticket::FDS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::empty())?;

        let mut bytes = [0; Ticket::BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(Ticket::FDS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let got =
            recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        let fds = ancillary
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .collect();
        let subscriber = Subscriber::open(Ticket::from_fds(&bytes[..got.bytes], fds)?)?;
        Ok(Link { publisher, subscriber })
    }

    fn spin(&mut self) -> io::Result<u64> {
        loop {
            match self.subscriber.recv()? {
                Some(Update::Value(value)) => return Ok(stamp(value)),
                Some(Update::Lost(_)) => panic!("a value was lost in lockstep"),
                // No `spin_loop` hint, as in the other programs: in a virtual machine it takes longer than a value.
                None => {}
            }
        }
    }
}

/// This program again, at the other end of the socket.
fn start_other(arguments: &Arguments) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let program = std::env::current_exe()?;
    let mut command = match arguments.other_cpu {
        None => Command::new(program),
        Some(cpu) => {
            let mut command = Command::new("taskset");
            command.args(["-c", &cpu.to_string()]).arg(program);
            command
        }
    };
    let mode = arguments.mode.to_possible_value().expect("no mode is skipped");
    command.args([mode.get_name(), &arguments.count.to_string(), "--other"]);
    let child = command.stdin(std::os::fd::OwnedFd::from(theirs)).spawn()?;
    Ok((child, ours))
}

struct Player {
    publisher: Publisher,
    asked: u64,
    count: u64,
}

/// The loop of both ends: each answers a value with the next one.
fn pingpong(link: Link, count: u64, mut socket: UnixStream, first: bool) -> io::Result<()> {
    let mut reactor = Reactor::<Player>::new()?;
    let mut player = Player { publisher: link.publisher, asked: 0, count };
    reactor.subscribe(link.subscriber, Delivery::Every, move |update, cx, player: &mut Player| {
        let Update::Value(value) = update else { panic!("a value was lost in lockstep") };
        // The first side gets its own time stamp back.
        assert_eq!(stamp(value) + u64::from(first), player.asked);
        if player.asked == player.count {
            cx.stop();
            return Ok(());
        }
        player.publisher.publish(&stamped(player.asked))?;
        player.asked += 1;
        if !first && player.asked == player.count {
            cx.stop();
        }
        Ok(())
    })?;
    let start = Instant::now();
    if first {
        player.publisher.publish(&stamped(0))?;
        player.asked = 1;
    }
    reactor.run(&mut player)?;
    if first {
        report(start, count);
    } else {
        // When a publisher ends, a notification that was not received yet is lost, so this end waits for the other.
        socket.read_exact(&mut [0]).expect_err("the other end only hangs up");
    }
    Ok(())
}

/// Waits until a process sleeps: only then does the publisher have to wake the subscriber.
fn await_sleep(stat: &File) -> io::Result<()> {
    let mut bytes = [0; 512];
    loop {
        let len = stat.read_at(&mut bytes, 0)?;
        // PID (NAME) STATE
        let name_end = bytes[..len].iter().rposition(|&byte| byte == b')').unwrap_or(0);
        if bytes.get(name_end + 2) == Some(&b'S') {
            return Ok(());
        }
        thread::sleep(Duration::from_micros(50));
    }
}

fn wake(mut link: Link, count: u64, other: Option<&Child>) -> io::Result<()> {
    if let Some(other) = other {
        let stat = File::open(format!("/proc/{}/stat", other.id()))?;
        for i in 0..count {
            await_sleep(&stat)?;
            link.publisher.publish(&stamped(i))?;
        }
        return Ok(());
    }
    let mut reactor = Reactor::<u64>::new()?;
    reactor.subscribe(link.subscriber, Delivery::Every, move |update, cx, received: &mut u64| {
        let Update::Value(value) = update else { panic!("a value was lost in lockstep") };
        assert_eq!(stamp(value), *received);
        *received += 1;
        if *received == count {
            cx.stop();
        }
        Ok(())
    })?;
    reactor.run(&mut 0)
}

fn spin(mut link: Link, count: u64, first: bool) -> io::Result<()> {
    let mut round_trips_ns = Vec::with_capacity(count as usize);
    for i in 0..count {
        if first {
            let start = Instant::now();
            link.publisher.publish(&stamped(i))?;
            assert_eq!(link.spin()?, i);
            round_trips_ns.push(start.elapsed().as_nanos());
        } else {
            let i = link.spin()?;
            link.publisher.publish(&stamped(i))?;
        }
    }
    if first {
        round_trips_ns.sort_unstable();
        let at = |percent| round_trips_ns[round_trips_ns.len() * percent / 100] / 2;
        println!("{{\"messages\": {count}, \"p50_ns\": {}, \"p99_ns\": {}}}", at(50), at(99));
    }
    Ok(())
}

fn flood(mut link: Link, count: u64, first: bool) -> io::Result<()> {
    if !first {
        // The process that floods waits for this value.
        link.publisher.publish(&stamped(0))?;
        let (mut received, mut last) = (0, 0);
        while last + 1 < count {
            match link.subscriber.recv()? {
                Some(Update::Value(value)) => (received, last) = (received + 1, stamp(value)),
                Some(Update::Lost(_)) | None => {}
            }
        }
        return link.publisher.publish(&stamped(received));
    }
    link.spin()?;
    let start = Instant::now();
    for i in 0..count {
        link.publisher.publish(&stamped(i))?;
    }
    let elapsed_ns = start.elapsed().as_nanos();
    let received = link.spin()?;
    println!("{{\"elapsed_ns\": {elapsed_ns}, \"messages\": {count}, \"received\": {received}}}");
    Ok(())
}

fn run(arguments: &Arguments) -> io::Result<()> {
    let (mut child, socket) = match (arguments.mode, arguments.other) {
        (Mode::Loop, _) => return publish_and_receive(arguments.count),
        (_, false) => start_other(arguments).map(|(child, socket)| (Some(child), socket))?,
        (_, true) => {
            // The end that spins would not notice that the other has ended.
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            (None, UnixStream::from(rustix::io::dup(io::stdin())?))
        }
    };
    let (link, first) = (Link::new(&socket)?, child.is_some());
    match arguments.mode {
        Mode::Pingpong => pingpong(link, arguments.count, socket, first),
        Mode::Wake => wake(link, arguments.count, child.as_ref()),
        Mode::Spin => spin(link, arguments.count, first),
        Mode::Flood => flood(link, arguments.count, first),
        Mode::Loop => unreachable!("done above"),
    }?;
    match child.as_mut().map(Child::wait).transpose()? {
        Some(status) if !status.success() => {
            Err(io::Error::other(format!("the other end ended with {status}")))
        }
        _ => Ok(()),
    }
}

fn main() -> ExitCode {
    env_logger::init();
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shm: {error}");
            ExitCode::FAILURE
        }
    }
}

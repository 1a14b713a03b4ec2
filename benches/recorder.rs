//! What the flight recorder costs: user instructions a message, with it and without.
//!
//! ```text
//! cargo bench --bench recorder
//! ```
//!
//! This program runs itself under callgrind (`valgrind` must be installed): an echo server and its clients in one
//! thread, so that the counts do not depend on time. Each count is the difference of a short and a long run, divided by
//! the difference in messages: start and end cancel. All rows include the same work of the clients.

use std::{
    env,
    error::Error,
    io::{self, Read, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixStream},
    },
    process::{Command, ExitCode},
};

use ipc_reactor::{Context, FlightRecorder, Framing, Limits, Listener, Reactor, Session, Turn};

const CLIENTS: [u64; 2] = [1, 64];
const MODES: [&str; 3] = ["none", "visits", "messages"];
/// Messages of the short run and of the long one.
const MESSAGES: [u64; 2] = [6_400, 12_800];
/// Bytes of a message.
const SIZE: usize = 64;
const RUN: &str = "RECORDER_BENCH_RUN";

fn main() -> ExitCode {
    let done = match env::var(RUN) {
        Ok(run) => serve(&run),
        Err(_) => compare(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("recorder: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare() -> Result<(), Box<dyn Error>> {
    println!("user instructions a message (clock readings not counted: valgrind makes them system calls)");
    println!("{:>8} {:>10} {:>10} {:>10}", "clients", "none", "visits", "messages");
    for clients in CLIENTS {
        let mut row = format!("{clients:>8}");
        let mut without = None;
        for mode in MODES {
            let [short, long] = MESSAGES.map(|messages| instructions(mode, clients, messages));
            let each = (long? - short?) as f64 / (MESSAGES[1] - MESSAGES[0]) as f64;
            match without {
                None => row.push_str(&format!(" {each:>10.1}")),
                Some(without) => row.push_str(&format!(" {:>+10.1}", each - without)),
            }
            without = without.or(Some(each));
        }
        println!("{row}");
    }
    Ok(())
}

fn instructions(mode: &str, clients: u64, messages: u64) -> Result<u64, Box<dyn Error>> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe()?)
        .env(RUN, format!("{mode} {clients} {messages}"))
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let count = said.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, count)| count.trim());
    match count {
        Some(count) if output.status.success() => Ok(count.parse()?),
        _ => Err(format!("callgrind has not counted: {said}").into()),
    }
}

struct Echo;

impl Session<()> for Echo {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        cx.reply(request)
    }
}

/// One run: rounds in which each client sends a message and receives its echo.
fn serve(run: &str) -> Result<(), Box<dyn Error>> {
    let words: Vec<&str> = run.split(' ').collect();
    let (clients, messages): (u64, u64) = (words[1].parse()?, words[2].parse()?);
    let limits = Limits { idle: None, clients_per_uid: usize::MAX, ..Limits::default() };
    let mut reactor = Reactor::<()>::builder().limits(limits).build()?;
    match words[0] {
        "visits" => reactor.observe(FlightRecorder::new()),
        "messages" => reactor.observe(FlightRecorder::new().messages()),
        _ => {}
    }
    let name = format!("ipc-reactor-recorder-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name)?;
    reactor.listen(Listener::unix_abstract(&name)?, Framing::raw(), |_, ()| Ok(Echo))?;
    let mut sockets = Vec::new();
    for _ in 0..clients {
        sockets.push(UnixStream::connect_addr(&address)?);
        while reactor.turn(None, &mut ())? == Turn::Pending {}
    }
    let mut answer = [0; SIZE];
    for _ in 0..messages / clients {
        for socket in &mut sockets {
            socket.write_all(&[7; SIZE])?;
        }
        let _ = reactor.turn(None, &mut ())?;
        for socket in &mut sockets {
            socket.read_exact(&mut answer)?;
        }
    }
    Ok(())
}

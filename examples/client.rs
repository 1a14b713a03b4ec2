//! A client for every address that the examples serve.
//!
//! ```text
//! cargo run --release --example client -- unix:/tmp/DemoSocket 1 2 3        # Result = 6
//! seq 100 | cargo run --release --example client -- tcp:127.0.0.1:4000     # Result = 5050
//! cargo run --release --example client -- unix:/tmp/echo --echo hello
//! cargo run --release --example client -- unix:/tmp/echo --raw < file
//! cargo run --release --example client -- mq:/adder 1 2 3
//! ```
//!
//! Ctrl-C ends it at once: it has nothing to clean up.

use std::{
    io::{self, BufRead, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    process::ExitCode,
    str::FromStr,
    thread,
    time::Duration,
};

use clap::Parser;
use ipc_reactor::{Address, Queue};

#[path = "shared/connect.rs"]
mod connect;

/// Sends numbers to an adder and prints its answer; or text, or raw bytes, to any server.
#[derive(Parser)]
struct Arguments {
    /// unix:/path, unix-seq:/path, abstract:name, abstract-seq:name, tcp:host:port or mq:/name
    #[arg(value_parser = address)]
    address: Address,
    /// Numbers to add; without any, those on standard input. A 0 ends a series, and the last one need not be given
    #[arg(allow_negative_numbers = true, conflicts_with_all = ["echo", "raw"])]
    numbers: Vec<i32>,
    /// Send this text, and print what comes back
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    echo: Option<String>,
    /// Standard input to the socket, answers to standard output, as nc does
    #[arg(long)]
    raw: bool,
    /// How long to wait for the connection, and for each answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

fn address(text: &str) -> Result<Address, String> {
    match text.parse() {
        Ok(Address::UnixDatagram(_) | Address::AbstractDatagram(_) | Address::Udp(_)) => {
            Err("this client wants a connection or a queue: unix:PATH, unix-seq:PATH, abstract:NAME, \
                 abstract-seq:NAME, tcp:HOST:PORT, mq:/NAME"
                .into())
        }
        parsed => parsed.map_err(|error| error.to_string()),
    }
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let arguments = Arguments::parse();
    if matches!(arguments.address, Address::Queue(_)) && (arguments.raw || arguments.echo.is_some()) {
        eprintln!("client: a queue gives no answers: --echo and --raw are for sockets");
        return ExitCode::from(2);
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("client: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> io::Result<()> {
    let timeout = Duration::from_secs(arguments.timeout);
    if let Address::Queue(name) = &arguments.address {
        return post(name, numbers(arguments), timeout);
    }
    let connect = || connect::connect(&arguments.address, timeout);
    if arguments.raw {
        return relay(&connect()?);
    }
    if let Some(text) = &arguments.echo {
        return ask(connect()?, timeout, |socket| socket.write_all(text.as_bytes()));
    }
    let mut numbers = numbers(arguments).peekable();
    loop {
        ask(connect()?, timeout, |socket| add(socket, &mut numbers))?;
        if numbers.peek().is_none() {
            return Ok(());
        }
    }
}

/// Prints the answer to what `send` sends. The answer has no marked end, so this half-closes the connection and reads
/// to the end of file: the server sees the half-close, answers, and closes.
fn ask(
    mut socket: UnixStream,
    timeout: Duration,
    send: impl FnOnce(&mut UnixStream) -> io::Result<()>,
) -> io::Result<()> {
    send(&mut socket)?;
    socket.shutdown(Shutdown::Write)?;
    socket.set_read_timeout(Some(timeout))?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => {
            io::Error::new(io::ErrorKind::TimedOut, format!("no end of the answer within {timeout:?}"))
        }
        _ => error,
    })?;
    if answer.is_empty() {
        return Err(io::Error::other("the server closed the connection without an answer"));
    }
    answer.push(b'\n');
    io::stdout().write_all(&answer)
}

/// Sends one series, with the 0 that ends it. One write a number: on a seqpacket socket, a record each.
fn add(socket: &mut UnixStream, numbers: &mut impl Iterator<Item = io::Result<i32>>) -> io::Result<()> {
    for number in numbers {
        let number = number?;
        socket.write_all(&number.to_ne_bytes())?;
        if number == 0 {
            return Ok(());
        }
    }
    socket.write_all(&0_i32.to_ne_bytes())
}

/// Sends numbers to a queue, in decimal; waits while it is full.
fn post(name: &str, numbers: impl Iterator<Item = io::Result<i32>>, timeout: Duration) -> io::Result<()> {
    let queue = Queue::options().write(true).open(name)?;
    let mut sent = 0;
    for number in numbers {
        queue.send_timeout(number?.to_string().as_bytes(), 0, timeout)?;
        sent += 1;
    }
    eprintln!("client: {sent} messages sent to {name}");
    Ok(())
}

/// Copies both directions at once, until the server closes.
fn relay(socket: &UnixStream) -> io::Result<()> {
    let mut sender = socket.try_clone()?;
    let to_server = thread::spawn(move || {
        let sent = copy(&mut io::stdin().lock(), &mut sender, 4 << 10);
        sender.shutdown(Shutdown::Write).and(sent)
    });
    copy(&mut &*socket, &mut io::stdout().lock(), 1 << 20)?;
    // Do not wait for the end of standard input: the server takes no more requests.
    if to_server.is_finished() {
        to_server.join().expect("copying does not panic")?;
    }
    Ok(())
}

/// Not `io::copy`: if a seqpacket record is larger than its buffer, the rest of the record would be lost.
fn copy(from: &mut impl Read, to: &mut impl Write, at_once: usize) -> io::Result<()> {
    let mut buffer = vec![0; at_once];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&buffer[..count]).and_then(|()| to.flush())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The numbers in the arguments, or on standard input.
fn numbers(arguments: &Arguments) -> Box<dyn Iterator<Item = io::Result<i32>> + '_> {
    if !arguments.numbers.is_empty() {
        return Box::new(arguments.numbers.iter().map(|&number| Ok(number)));
    }
    Box::new(io::stdin().lock().lines().flat_map(|line| match line {
        Ok(line) => line.split_whitespace().map(number).collect(),
        Err(error) => vec![Err(error)],
    }))
}

fn number(text: &str) -> io::Result<i32> {
    i32::from_str(text)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("{text:?}: {error}")))
}

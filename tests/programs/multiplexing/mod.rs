//! The echo service of `examples/multiplexing` behaves alike in every style, to clients that know nothing
//! of this crate.
#![warn(missing_docs)]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::{fs, thread};

mod cli;
mod crowd;
mod foreign;
mod harness;
use crowd::*;
use foreign::*;
use harness::*;

/// What every style must do, `blocking` too.
macro_rules! every_style {
    ($module:ident, $style:literal $(, $more:ident)?) => {
        mod $module {
            const STYLE: &str = $style;
            tests!(
                answers_on_every_address,
                serves_one_client_after_the_other,
                answers_500_clients_who_ask_at_once,
                answers_byte_by_byte,
                loses_nothing_to_a_slow_reader,
                loses_nothing_to_a_slow_reader_over_tcp,
                answers_before_it_closes_on_half_close,
                survives_clients_that_vanish,
                serves_a_python_client,
                serves_socat,
                serves_a_c_client,
                ends_cleanly_on_sigint_and_sigterm,
                ends_cleanly_amid_an_unread_answer,
                takes_over_a_dead_path_only,
                survives_accept_errors,
            );
            $($more!();)?
        }
    };
}

macro_rules! tests {
    ($($name:ident),+ $(,)?) => { $(#[test] fn $name() { super::$name(STYLE); })+ };
}

/// What takes more than one client at a time.
macro_rules! multiplexed {
    () => {
        tests!(
            serves_500_clients_at_once,
            a_deaf_client_holds_nobody_up,
            an_answer_that_was_stuck_goes_out,
            a_talker_starves_nobody,
            clients_come_and_go,
        );
    };
}

/// What takes any descriptor, whatever its number.
macro_rules! unbounded {
    () => {
        multiplexed!();
        tests!(serves_15000_clients_at_once);
    };
}

every_style!(blocking, "blocking");
every_style!(select, "select", multiplexed);
every_style!(poll, "poll", unbounded);
every_style!(epoll_level, "epoll-level", unbounded);
every_style!(epoll_edge, "epoll-edge", unbounded);
every_style!(reactor, "reactor", unbounded);

fn answers_on_every_address(style: &str) {
    ask(&mut Server::start(style).connect(), b"on a path");
    for address in [unique_abstract(), "tcp:127.0.0.1:0".to_owned(), "tcp:localhost:0".to_owned()] {
        let server = Server::start_on(style, &address);
        ask(&mut *connect_any(&server.address), b"hello");
        server.end(libc::SIGTERM);
    }
}

fn serves_one_client_after_the_other(style: &str) {
    let server = Server::start(style);
    for i in 0..50u32 {
        ask(&mut server.connect(), &i.to_le_bytes());
    }
    server.end(libc::SIGTERM);
}

fn answers_byte_by_byte(style: &str) {
    let server = Server::start(style);
    let mut client = server.connect();
    for byte in 0..=255 {
        ask(&mut client, &[byte]);
    }
    // And many bytes on their way at once, each sent alone.
    // No more than both sockets hold, at a buffer for each byte: no one reads meanwhile.
    let message = pattern(200);
    for byte in &message {
        client.write_all(&[*byte]).unwrap();
    }
    let mut answer = vec![0; message.len()];
    client.read_exact(&mut answer).unwrap();
    assert!(answer == message);
    server.end(libc::SIGTERM);
}

/// More than all the buffers between the two hold, so that the server's `send` takes a part only.
const LARGE: usize = 8 << 20;

fn loses_nothing_to_a_slow_reader(style: &str) {
    let server = Server::start(style);
    let client = server.connect();
    set_receive_buffer(&client, 4096);
    slow_reader(client.try_clone().unwrap(), client, |stream| stream.shutdown(Shutdown::Write).unwrap());
    server.end(libc::SIGTERM);
}

fn loses_nothing_to_a_slow_reader_over_tcp(style: &str) {
    let server = Server::start_on(style, "tcp:127.0.0.1:0");
    let client = std::net::TcpStream::connect(server.address.strip_prefix("tcp:").unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    // Less than loopback's segments of 64 KiB would make TCP wait for its timers.
    set_receive_buffer(&client, 1 << 17);
    slow_reader(client.try_clone().unwrap(), client, |stream| stream.shutdown(Shutdown::Write).unwrap());
    server.end(libc::SIGTERM);
}

/// Sends on one thread, and reads small pieces on this one: first a few, then what is left.
fn slow_reader<S: Read + Write + Send + 'static>(mut sender: S, mut reader: S, end: fn(&S)) {
    let sending = thread::spawn(move || {
        sender.write_all(&pattern(LARGE)).unwrap();
        end(&sender);
    });
    let mut answer = Vec::with_capacity(LARGE);
    let mut piece = [0; 1499];
    loop {
        let len = reader.read(&mut piece).unwrap();
        if len == 0 {
            break;
        }
        answer.extend_from_slice(&piece[..len]);
        if answer.len() < 1 << 16 {
            thread::yield_now();
        }
    }
    sending.join().unwrap();
    assert_eq!(answer.len(), LARGE);
    assert!(answer == pattern(LARGE), "parts of the answer are out of place");
}

fn answers_before_it_closes_on_half_close(style: &str) {
    let server = Server::start(style);
    let mut client = server.connect();
    client.write_all(b"the last word").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "the last word");
    // Also from a client that sends nothing at all.
    let mut silent = server.connect();
    silent.shutdown(Shutdown::Write).unwrap();
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    server.end(libc::SIGTERM);
}

fn survives_clients_that_vanish(style: &str) {
    let server = Server::start(style);
    for _ in 0..20 {
        // Gone with an answer under way: the server's `send` meets EPIPE, or would meet SIGPIPE.
        let mut client = server.connect();
        client.write_all(&pattern(100_000)).unwrap();
        drop(client);
        drop(server.connect());
    }
    ask(&mut server.connect(), b"still there?");
    server.end(libc::SIGTERM);
}

fn ends_cleanly_on_sigint_and_sigterm(style: &str) {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // Without a client, and with a client whose next message is awaited.
        Server::start(style).end(signal);
        let server = Server::start(style);
        assert_eq!(fs::metadata(server.path()).unwrap().permissions().mode() & 0o777, 0o600);
        let mut client = server.connect();
        ask(&mut client, b"hello");
        server.end(signal);
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "the client hears of the end");
    }
}

fn ends_cleanly_amid_an_unread_answer(style: &str) {
    let server = Server::start(style);
    let mut client = server.connect();
    client.set_nonblocking(true).unwrap();
    // Until no more bytes move: the server waits with an answer that we do not read.
    let piece = pattern(1 << 16);
    while !matches!(client.write(&piece), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock) {}
    server.end(libc::SIGINT);
}

fn takes_over_a_dead_path_only(style: &str) {
    let server = Server::start(style);
    let address = server.address.clone();
    let path = server.path().to_owned();
    // A running server's: it must not be removed.
    let second = Command::new(executable()).args(["serve", style, &address]).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let complaint = String::from_utf8_lossy(&second.stderr).into_owned();
    let alive = ["in use by another server", "is served already"];
    assert!(alive.iter().any(|words| complaint.contains(words)), "{complaint}");
    ask(&mut server.connect(), b"unharmed");

    let directory = server.kill();
    assert!(path.exists(), "a killed server leaves its path");
    let successor = Server::start_on(style, &address);
    ask(&mut successor.connect(), b"taken over");
    successor.end(libc::SIGTERM);
    assert!(!path.exists());

    // Not a socket: not ours to remove.
    fs::write(&path, "precious").unwrap();
    let third = Command::new(executable()).args(["serve", style, &address]).output().unwrap();
    assert_eq!(third.status.code(), Some(1));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    drop(directory);
}

fn survives_accept_errors(style: &str) {
    if !have("strace") {
        return;
    }
    // Without memory, the client stays in the backlog and is served later, with no further CIR.
    for error in ["ENOMEM", "ENOBUFS", "EPERM", "ECONNABORTED"] {
        let server = Server::start_with_faults(style, &format!("accept4:error={error}:when=1..3"));
        ask(&mut server.connect(), error.as_bytes());
        server.end(libc::SIGTERM);
    }
    // Without a descriptor, it is refused, and the next one is served.
    let server = Server::start_with_faults(style, "accept4:error=EMFILE:when=1");
    if style == "reactor" {
        // Here it waits until there is one, and so does every client behind it.
        ask(&mut server.connect(), b"waited");
        return server.end(libc::SIGTERM);
    }
    assert_eq!(server.connect().read(&mut [0]).unwrap(), 0);
    assert!(server.errors().contains("RLIMIT_NOFILE"), "{}", server.errors());
    ask(&mut server.connect(), b"next");
    server.end(libc::SIGTERM);
}

fn a_deaf_client_holds_nobody_up(style: &str) {
    let server = Server::start(style);
    let mut deaf = server.connect();
    deaf.set_nonblocking(true).unwrap();
    let mut asked = 0;
    let mut heard = server.connect();
    // Fill it until it is full and stays full, though the server has had time to take more.
    let mut full = 0;
    while full < 10 {
        match deaf.write(&pattern(1 << 16)) {
            Ok(len) => (asked, full) = (asked + len, 0),
            Err(_) => full += 1,
        }
        ask(&mut heard, b"is anybody there?");
    }
    server.await_sleep();
    // What the kernel's buffers hold, and one buffer of the server's: it does not buffer answers without limit.
    assert!(asked < 4 << 20, "{asked} bytes were taken from a client that never reads");
    ask(&mut server.connect(), b"newcomers too");
    // And when the client reads at last, it gets all of it.
    deaf.set_nonblocking(false).unwrap();
    deaf.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    deaf.read_to_end(&mut answer).unwrap();
    assert_eq!(answer.len(), asked);
    server.end(libc::SIGTERM);
}

fn an_answer_that_was_stuck_goes_out(style: &str) {
    // Somewhere among these sizes the server has read all, so that nothing but room can wake it, and still
    // holds a part of its answer.
    for size in (64..=768).step_by(32) {
        let server = Server::start(style);
        let mut client = server.connect();
        client.set_nonblocking(true).unwrap();
        let message = pattern(size << 10);
        let mut sent = 0;
        while sent < message.len() {
            match client.write(&message[sent..]) {
                Ok(len) => sent += len,
                // No more will fit, and from here on there is unread input to wake it.
                Err(_) => break,
            }
            server.await_sleep();
        }
        client.set_nonblocking(false).unwrap();
        let mut answer = vec![0; sent];
        client.read_exact(&mut answer).unwrap();
        assert!(answer == message[..sent]);
        server.await_sleep();
        server.end(libc::SIGTERM);
    }
}

fn a_talker_starves_nobody(style: &str) {
    let server = Server::start(style);
    let talker = server.connect();
    let (mut sender, mut reader) = (talker.try_clone().unwrap(), talker.try_clone().unwrap());
    let sending = thread::spawn(move || while sender.write_all(&[7; 4096]).is_ok() {});
    let reading = thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while reader.read(&mut buffer).is_ok_and(|len| len > 0) {}
    });
    for i in 0..200u32 {
        ask(&mut server.connect(), &i.to_le_bytes());
    }
    talker.shutdown(Shutdown::Both).unwrap();
    sending.join().unwrap();
    reading.join().unwrap();
    server.end(libc::SIGTERM);
}

fn clients_come_and_go(style: &str) {
    let server = Server::start(style);
    let mut clients = Vec::new();
    for i in 0..400usize {
        clients.push(server.connect());
        // Some leave from the middle, so that their descriptors are reused amid the others.
        if i % 3 == 2 {
            clients.swap_remove(i % clients.len());
        }
        let asked = i % clients.len();
        ask(&mut clients[asked], &i.to_le_bytes());
    }
    for client in &mut clients {
        ask(client, b"everyone who is left");
    }
    server.end(libc::SIGTERM);
}

#[test]
fn blocking_leaves_the_second_client_waiting_until_the_first_is_done() {
    let server = Server::start("blocking");
    let mut first = server.connect();
    ask(&mut first, b"me first");
    let mut second = server.connect();
    second.write_all(b"and I?").unwrap();
    ask(&mut first, b"still me");
    second.set_nonblocking(true).unwrap();
    assert_eq!(second.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    second.set_nonblocking(false).unwrap();
    drop(first);
    let mut answer = [0; 6];
    second.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"and I?");
    server.end(libc::SIGTERM);
}

//! Many clients at once.

use std::io::{Read, Write};
use std::net::Shutdown;

use super::foreign::python;
use super::harness::*;
use crate::support::crowd;

/// All of them have connected before the first is done. Here `blocking` can keep up, though it has one at a time.
pub(crate) fn answers_500_clients_who_ask_at_once(style: &str) {
    let Some(_alone) = crowd(500) else { return };
    let server = Server::start(style);
    let mut clients: Vec<_> = (0..500).map(|_| server.connect()).collect();
    for (i, client) in clients.iter_mut().enumerate() {
        client.write_all(format!("{i:08}").as_bytes()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
    }
    for (i, client) in clients.iter_mut().enumerate() {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, format!("{i:08}"));
    }
    server.end(libc::SIGTERM);
}

pub(crate) fn serves_500_clients_at_once(style: &str) {
    serves_at_once(style, 500);
}

pub(crate) fn serves_15000_clients_at_once(style: &str) {
    serves_at_once(style, 15_000);
}

fn serves_at_once(style: &str, count: usize) {
    // Theirs, and what the harness holds. The server is another process, and raises a limit of its own.
    let Some(_alone) = crowd(count as u64) else { return };
    let server = Server::start(style);
    let mut clients: Vec<_> = (0..count).map(|_| server.connect()).collect();
    for round in 0..3 {
        for (i, client) in clients.iter_mut().enumerate() {
            client.write_all(format!("{round}/{i:08}").as_bytes()).unwrap();
        }
        for (i, client) in clients.iter_mut().enumerate() {
            let mut answer = [0; 10];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer[..], *format!("{round}/{i:08}").as_bytes(), "each gets its own answer");
        }
    }
    // One among many, with answers in parts and a half-close.
    if have("python3") {
        python(&server);
    }
    drop(clients);
    ask(&mut server.connect(), b"and afterwards");
    server.end(libc::SIGTERM);
}

#[test]
fn select_refuses_what_its_set_cannot_hold() {
    let Some(_alone) = crowd(4096) else { return };
    let server = Server::start("select");
    let mut clients: Vec<_> = (0..libc::FD_SETSIZE + 50).map(|_| server.connect()).collect();
    let mut refused = 0;
    for client in &mut clients {
        // A refused client's message may meet a closed socket already.
        let _ = client.write_all(b"x");
        match client.read(&mut [0]) {
            Ok(1) => assert_eq!(refused, 0, "a client was served after one had been refused"),
            _ => refused += 1,
        }
    }
    assert!((51..100).contains(&refused), "{refused} were refused");
    let errors = server.errors();
    assert!(errors.contains("descriptor 1024 is not below FD_SETSIZE (1024)"), "{errors}");
    assert_eq!(errors.matches("refused a client").count(), refused, "{errors}");
    // Accepted clients are served as before, and the slot of one that leaves is free again.
    ask(&mut clients[0], b"still served");
    drop(clients.swap_remove(1));
    loop {
        let mut client = server.connect();
        // Until the server has seen that close, a new client may still be refused.
        let _ = client.write_all(b"y");
        if client.read(&mut [0]).is_ok_and(|len| len == 1) {
            break;
        }
    }
    server.end(libc::SIGTERM);
}

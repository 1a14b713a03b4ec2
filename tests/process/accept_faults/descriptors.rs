//! A limit on descriptors that is really reached.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use ipc_reactor::WhenFull;

use crate::accept_faults::kit::{Client, NEVER, RETRY, Server, askers};

pub(crate) fn limit_is_raised() {
    let mut server = Server::start(RETRY, WhenFull::Wait);
    let mut places = Vec::new();
    for episode in 1..=2 {
        let room = server.leave_descriptors(4);
        let mut clients = askers(&server, room + 20);
        clients[..room].iter_mut().for_each(Client::is_answered);
        let before = server.until(|numbers| numbers.descriptors >= episode);
        server.assert_idle(RETRY);
        assert_eq!(server.numbers().accepted, before.accepted, "accepted without a descriptor");
        // No client leaves: the retry timer finds the free descriptor.
        server.limit_descriptors(1_000);
        clients[room..].iter_mut().for_each(Client::is_answered);
        clients.iter_mut().for_each(Client::is_served);
        let told = server
            .log()
            .lines()
            .filter(|line| line.contains("is paused, connections wait in its backlog"))
            .count();
        assert_eq!(told as u64, episode, "one line an episode\n{}", server.log());
        places.push(clients);
    }
}

pub(crate) fn room_by_leaving() {
    let mut server = Server::start(NEVER, WhenFull::Wait);
    let room = server.leave_descriptors(4);
    let mut clients = askers(&server, room + 20);
    clients[..room].iter_mut().for_each(Client::is_answered);
    server.until(|numbers| numbers.descriptors > 0);
    server.assert_idle(NEVER);
    for waiting in room..clients.len() {
        // This drops a client, which frees a descriptor of the server; a socket whose peer is closed takes its place
        // here.
        clients[waiting - room] = Client(UnixStream::pair().unwrap().0);
        clients[waiting].is_answered();
    }
}

pub(crate) fn newcomers_are_shed() {
    let mut server = Server::start(NEVER, WhenFull::Shed);
    // The reserve descriptor counts, too.
    let room = server.leave_descriptors(4) - 1;
    let mut clients: Vec<Client> = (0..room).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(Client::is_served);
    for shed in 1..=5 {
        assert!(server.connect().is_dropped(), "an end of file, not silence");
        assert_eq!(server.numbers().refused, shed);
    }
    clients.pop();
    // The server may see the new client before it sees that the other one left.
    let newcomer = (0..1_000).find_map(|_| {
        let mut newcomer = server.connect();
        let mut reply = [0; 6];
        let asked = newcomer.0.write_all(b"hello\n").and_then(|()| newcomer.0.read_exact(&mut reply));
        asked.is_ok().then_some(newcomer)
    });
    newcomer.expect("there is room again").is_served();
    clients.iter_mut().for_each(Client::is_served);
    assert_eq!(server.log().lines().count(), 1, "{}", server.log());
}

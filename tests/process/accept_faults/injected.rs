//! System calls that a tracer makes fail.

use crate::support::have;
use std::io::Write;

use ipc_reactor::WhenFull;

use crate::accept_faults::kit::{RETRY, Server, Tracer, askers};

pub(crate) fn errnos_of_accept() {
    if !have("strace") {
        return;
    }
    let mut server = Server::start(RETRY, WhenFull::Wait);
    let mut resident = server.connect();
    for errno in ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "ECONNABORTED", "EPERM", "EPROTO", "EINTR"] {
        for (when, faults) in [("1", 1), ("1..3", 3)] {
            let tracer = Tracer::attach(&server, "accept4", &format!("error={errno}:when={when}"));
            let mut alone = askers(&server, 1);
            alone[0].is_answered();
            let mut more = askers(&server, 3);
            more.iter_mut().for_each(|client| client.is_answered());
            assert_eq!(tracer.detach(), faults, "{errno}");
        }
        resident.is_served();
    }
    let numbers = server.numbers();
    assert_eq!((numbers.accepted, numbers.refused), (1 + 8 * 2 * 4, 0));
}

pub(crate) fn accept_keeps_failing() {
    if !have("strace") {
        return;
    }
    let mut server = Server::start(RETRY, WhenFull::Wait);
    let mut resident = server.connect();
    resident.is_served();
    let tracer = Tracer::attach(&server, "accept4", "error=EMFILE:when=1+");
    let mut clients = askers(&server, 5);
    server.until(|numbers| numbers.descriptors > 0);
    server.assert_idle(RETRY);
    resident.is_served();
    assert!(tracer.detach() > 1, "it was tried again");
    clients.iter_mut().for_each(|client| client.is_answered());
    assert_eq!(server.log().lines().count(), 1, "{}", server.log());
}

pub(crate) fn interrupted_wait() {
    if !have("strace") {
        return;
    }
    let mut server = Server::start(RETRY, WhenFull::Wait);
    let mut client = server.connect();
    client.is_served();
    let before = server.numbers();
    let tracer = Tracer::attach(&server, "?epoll_wait,epoll_pwait", "error=EINTR:when=1..50");
    client.is_served();
    let after = server.numbers();
    assert_eq!(tracer.detach(), 50);
    assert!(after.turns - before.turns < 10, "{before:?} {after:?}");
}

pub(crate) fn registration_fails() {
    if !have("strace") {
        return;
    }
    let mut server = Server::start(RETRY, WhenFull::Wait);
    let mut resident = server.connect();
    resident.is_served();
    let tracer = Tracer::attach(&server, "epoll_ctl", "error=ENOSPC:when=2");
    let mut clients = askers(&server, 3);
    clients[0].is_answered();
    assert!(clients[1].is_dropped());
    clients[2].is_answered();
    assert_eq!(tracer.detach(), 1);
    resident.is_served();
    let numbers = server.numbers();
    assert_eq!((numbers.accepted, numbers.refused), (3, 1));
    assert!(server.log().contains("max_user_watches"), "{}", server.log());
}

pub(crate) fn write_registration_fails() {
    if !have("strace") {
        return;
    }
    let server = Server::start(RETRY, WhenFull::Wait);
    let [mut resident, mut deaf] = [server.connect(), server.connect()];
    resident.is_served();
    deaf.is_served();
    let tracer = Tracer::attach(&server, "epoll_ctl", "error=ENOMEM:when=1");
    deaf.0.write_all(b"large 4000000\n").unwrap();
    resident.is_served();
    let mut received = 0;
    while let Ok(count @ 1..) = std::io::Read::read(&mut deaf.0, &mut [0; 65_536]) {
        received += count;
    }
    assert!(received < 4_000_000);
    assert_eq!(tracer.detach(), 1);
    resident.is_served();
    server.connect().is_served();
}

pub(crate) fn credentials_fail() {
    if !have("strace") {
        return;
    }
    let mut server = Server::start(RETRY, WhenFull::Wait);
    let mut resident = server.connect();
    resident.is_served();
    let tracer = Tracer::attach(&server, "getsockopt", "error=ENOBUFS:when=2");
    let mut clients = askers(&server, 3);
    clients[0].is_answered();
    assert!(clients[1].is_dropped());
    clients[2].is_answered();
    // The count is each thread's own, and a thread that closes clients on an older kernel asks for options, too.
    assert!(tracer.detach() >= 1);
    resident.is_served();
    let numbers = server.numbers();
    assert_eq!((numbers.accepted, numbers.refused), (3, 1));
}

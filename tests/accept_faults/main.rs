//! What a kernel that refuses does to a server: no client is stranded, nothing spins, only the connection at fault is lost.
//!
//! The server is this binary again, so that it has limits of its own and a tracer (`strace`, which makes system calls
//! fail) can be attached to it. It is asked for its numbers over its standard input, a socket.

#![allow(unsafe_code)]

mod descriptors;
mod injected;
#[allow(dead_code)]
#[path = "../isolated/mod.rs"]
mod isolated;
mod kit;

use std::process::{Command, ExitCode, Stdio};

fn main() -> ExitCode {
    let is_child = std::env::args().any(|arg| arg == "--case" || arg == "--list");
    let traced = Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_ok();
    if !traced && !is_child {
        eprintln!("SKIPPED: strace is not installed; nothing was tested with failing system calls");
        assert!(std::env::var_os("CI").is_none(), "CI needs strace");
    }
    let mut cases: Vec<isolated::Case> = vec![
        ("clients_wait_out_a_descriptor_limit_and_none_is_stranded", descriptors::limit_is_raised),
        ("a_client_that_leaves_makes_room_for_one_that_waits", descriptors::room_by_leaving),
        ("newcomers_are_shed_where_that_is_wanted", descriptors::newcomers_are_shed),
    ];
    if traced {
        cases.extend([
            ("no_errno_of_accept_strands_a_client", injected::errnos_of_accept as fn()),
            ("accept_that_keeps_failing_does_not_spin", injected::accept_keeps_failing),
            ("an_interrupted_wait_is_no_turn", injected::interrupted_wait),
            ("a_client_that_cannot_be_watched_is_dropped_alone", injected::registration_fails),
            (
                "a_client_that_cannot_be_watched_for_writing_is_dropped_alone",
                injected::write_registration_fails,
            ),
            ("a_client_whose_credentials_cannot_be_read_is_dropped_alone", injected::credentials_fail),
        ]);
    }
    isolated::main(&cases, &[("server", kit::serve)])
}

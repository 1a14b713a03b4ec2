//! A server whose system calls fail: no client waits for ever, nothing spins, only the affected connection is lost.
//!
//! The server is this binary again, so that it has limits of its own and a tracer (`strace`, which makes system calls
//! fail) can be attached to it. The tests request its numbers over its standard input, a socket.

#![allow(unsafe_code)]

mod descriptors;
mod injected;
mod kit;

use crate::support::isolated::Case;

pub(crate) const CASES: &[Case] = &[
    ("clients_wait_out_a_descriptor_limit_and_none_is_stranded", descriptors::limit_is_raised),
    ("a_client_that_leaves_makes_room_for_one_that_waits", descriptors::room_by_leaving),
    ("newcomers_are_shed_where_that_is_wanted", descriptors::newcomers_are_shed),
    ("no_errno_of_accept_strands_a_client", injected::errnos_of_accept),
    ("accept_that_keeps_failing_does_not_spin", injected::accept_keeps_failing),
    ("an_interrupted_wait_is_no_turn", injected::interrupted_wait),
    ("a_client_that_cannot_be_watched_is_dropped_alone", injected::registration_fails),
    ("a_client_that_cannot_be_watched_for_writing_is_dropped_alone", injected::write_registration_fails),
    ("a_client_whose_credentials_cannot_be_read_is_dropped_alone", injected::credentials_fail),
];

pub(crate) const ROLES: &[Case] = &[("server", kit::serve)];

//! What needs a process of its own: signals, masks, children, limits, the umask, counts of descriptors, a logger. Each case is
//! this binary again; see `support::isolated`.

mod accept_faults;
mod children;
mod children_source;
mod control;
mod drain;
mod fork;
mod hostile;
mod kernel_events;
mod listener;
mod log_flood;
mod passed;
mod pipes;
mod queue;
mod reactor_signals;
mod scale;
mod schedules;
mod shm;
mod shm_hostile;
mod signals;
mod sigpipe;
mod subscribers;
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;

use support::isolated::{self, Suite};

fn main() -> ExitCode {
    isolated::main(&[
        Suite { name: "accept_faults", cases: accept_faults::CASES, roles: accept_faults::ROLES },
        Suite { name: "children", cases: children::CASES, roles: &[] },
        Suite { name: "children_source", cases: children_source::CASES, roles: &[] },
        Suite { name: "control", cases: control::CASES, roles: &[] },
        Suite { name: "drain", cases: drain::CASES, roles: drain::ROLES },
        Suite { name: "fork", cases: fork::CASES, roles: fork::ROLES },
        Suite { name: "hostile", cases: hostile::CASES, roles: &[] },
        Suite { name: "kernel_events", cases: kernel_events::CASES, roles: kernel_events::ROLES },
        Suite { name: "listener", cases: listener::CASES, roles: &[] },
        Suite { name: "log_flood", cases: log_flood::CASES, roles: &[] },
        Suite { name: "passed", cases: passed::CASES, roles: &[] },
        Suite { name: "pipes", cases: pipes::CASES, roles: pipes::ROLES },
        Suite { name: "queue", cases: queue::CASES, roles: &[] },
        Suite { name: "reactor_signals", cases: reactor_signals::CASES, roles: reactor_signals::ROLES },
        Suite { name: "scale", cases: scale::CASES, roles: &[] },
        Suite { name: "schedules", cases: schedules::CASES, roles: &[] },
        Suite { name: "shm", cases: shm::CASES, roles: shm::ROLES },
        Suite { name: "shm_hostile", cases: shm_hostile::CASES, roles: shm_hostile::ROLES },
        Suite { name: "signals", cases: signals::CASES, roles: signals::ROLES },
        Suite { name: "sigpipe", cases: sigpipe::CASES, roles: &[] },
        Suite { name: "subscribers", cases: subscribers::CASES, roles: subscribers::ROLES },
    ])
}

//! The loop itself: turns, timers, its end, what it reports to observers, and what handlers may do to it. No test
//! here starts a process: see `devices`.

mod control;
mod drain;
mod hazards;
mod nesting;
mod observer;
mod recorder;
mod recorder_allocations;
mod regressions;
mod remote;
mod session_timers;
mod spin;
#[path = "../support/mod.rs"]
mod support;
mod timers;
mod timers_model;

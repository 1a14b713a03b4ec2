//! The load generator: its accounting against calculations by hand, its reports against their schema, and the program itself against servers of
//! our own and of others.

#[path = "../../../examples/stress/protocol.rs"]
#[allow(dead_code, reason = "the example uses what this test does not")]
mod protocol;

mod accounting;
mod answers;
mod commands;
mod delays;
mod foreign;
mod program;
mod runs;
mod schema;

use crate::{dispatch, hdr_log, record, schedule, values};

//! The load generator: its accounting against calculations by hand, its reports against their schema, and the program itself against servers of
//! our own and of others.

#[path = "../../examples/stress/dispatch.rs"]
#[allow(dead_code, reason = "the example uses what this test does not")]
mod dispatch;
#[path = "../../examples/stress/hdr_log.rs"]
#[allow(dead_code, reason = "the example uses what this test does not")]
mod hdr_log;
#[path = "../../examples/stress/protocol.rs"]
#[allow(dead_code, reason = "the example uses what this test does not")]
mod protocol;
#[path = "../../examples/stress/random.rs"]
#[allow(dead_code, reason = "the example uses what this test does not")]
mod random;
#[path = "../../examples/stress/record.rs"]
#[allow(dead_code, reason = "the example uses what this test does not")]
mod record;
#[path = "../../examples/stress/schedule.rs"]
#[allow(dead_code, reason = "the example uses what this test does not")]
mod schedule;
#[path = "../../examples/stress/values.rs"]
#[allow(dead_code, reason = "the example uses what this test does not")]
mod values;

#[path = "../examples/kit.rs"]
#[allow(dead_code, reason = "shared with the other examples' tests")]
mod kit;

mod accounting;
mod answers;
mod commands;
mod delays;
mod foreign;
mod program;
mod runs;
mod schema;

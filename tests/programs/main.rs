//! The examples and the tools, as their users run them, and the guide.

mod activation;
mod client;
mod explain;
mod guide;
mod kernel_examples;
mod load;
mod multiplexing;
mod render_svg;
mod routing_table;
mod running;
mod server;
mod shm;
mod stress;
#[path = "../support/mod.rs"]
mod support;

// Parts of the examples that are tested by themselves. They name each other from the root of their crate.
#[path = "../../examples/stress/dispatch.rs"]
#[allow(dead_code, reason = "the example uses what its tests do not")]
mod dispatch;
#[path = "../../examples/stress/hdr_log.rs"]
#[allow(dead_code, reason = "the example uses what its tests do not")]
mod hdr_log;
#[path = "../../examples/routing_table/macs.rs"]
#[allow(dead_code, reason = "the example uses what its tests do not")]
mod macs;
#[path = "../../examples/stress/random.rs"]
#[allow(dead_code, reason = "the example uses what its tests do not")]
mod random;
#[path = "../../examples/stress/record.rs"]
#[allow(dead_code, reason = "the example uses what its tests do not")]
mod record;
#[path = "../../examples/stress/schedule.rs"]
#[allow(dead_code, reason = "the example uses what its tests do not")]
mod schedule;
#[path = "../../examples/routing_table/table.rs"]
#[allow(dead_code, reason = "the example uses what its tests do not")]
mod table;
#[path = "../../examples/stress/values.rs"]
#[allow(dead_code, reason = "the example uses what its tests do not")]
mod values;

//! The routing-table example: its tables against models of them, and all its processes together.

#[path = "../../examples/routing_table/macs.rs"]
#[allow(dead_code, reason = "the example uses what this test does not")]
mod macs;
#[path = "../../examples/routing_table/protocol.rs"]
#[allow(dead_code, reason = "the example uses what this test does not")]
mod protocol;
#[path = "../../examples/routing_table/table.rs"]
#[allow(dead_code, reason = "the example uses what this test does not")]
mod table;

#[path = "../examples/kit.rs"]
#[allow(dead_code, reason = "shared with the other examples' tests")]
mod kit;

mod commands;
mod convergence;
mod faults;
mod properties;
mod system;

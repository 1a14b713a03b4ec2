//! The routing-table example: its tables against models of them, and all its processes together.

#[path = "../../../examples/routing_table/protocol.rs"]
#[allow(dead_code, reason = "the example uses what this test does not")]
mod protocol;

mod commands;
mod convergence;
mod faults;
mod properties;
mod system;

use crate::{macs, table};

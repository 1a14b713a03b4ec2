//! What the tests of all crates share.
#![allow(dead_code, unused_imports, unused_macros, reason = "each test crate uses a part of it")]

pub(crate) mod allocations;
pub(crate) mod child;
pub(crate) mod clerk;
pub(crate) mod fds;
pub(crate) mod fuse;
pub(crate) mod isolated;
pub(crate) mod limits;
pub(crate) mod names;
pub(crate) mod old_kernel;
pub(crate) mod shm;
mod skip;
pub(crate) mod sockets;
pub(crate) mod turns;
pub(crate) mod world;

pub(crate) use limits::{crowd, masked, needs_descriptors};
pub(crate) use skip::{SKIPPED, can, have, is_root, needs_root, skip};

use std::time::Duration;

/// How long something that must happen may take before the test fails. No passing test waits that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

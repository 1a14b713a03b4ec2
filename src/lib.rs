//! One poll set for all inter-process communication of a process.
//!
#![doc = include_str!("../README.md")]
#![warn(missing_docs)]
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("ipc-reactor is for 64-bit Linux: its keys fill a 64-bit epoll token");

mod bytes;
pub mod children;
mod client;
pub mod guide;
mod net;
mod observe;
pub mod pipe;
mod poll;
pub mod queue;
mod reactor;
mod set;
pub mod shm;
pub mod signals;
mod sources;
mod sys;
mod types;

pub use bytes::framing::{Decode, Decoded, Framing, Prefix};
pub use children::process::ChildProcess;
pub use mio::Interest;
pub use net::{
    address::Address,
    allow::Allow,
    datagram::{Datagram, DatagramOptions, Received, SocketAddress},
    listener::{Listener, ListenerOptions},
    peer::{Credentials, Peer, PeerAddress},
    transport::Transport,
};
pub use observe::{
    event::{Detail, Observer, Seen, SourceInfo, SourceKind, VisitEnd, What},
    recorder::FlightRecorder,
};
pub use poll::clock::Clock;
pub use queue::{Queue, QueueOptions, TrySendError};
pub use reactor::{
    builder::Builder,
    event_loop::{Reactor, Turn},
};
pub use set::{
    context::{ClientHandle, Context},
    handlers::{
        ChildHandler, DatagramHandler, Delivery, FdSource, Incoming, Message, Progress, QueueHandler,
        SubscriptionHandler,
    },
    poll_set::PollSet,
    remote::Remote,
    session::{Drain, HalfClose, Session},
};
pub use signals::{Signal, SignalInfo, Signals};
pub use sources::shm_link::SubscriberSession;
pub use types::{
    cause::{Cause, Limit},
    key::{Key, TimerKey},
    limits::{Limits, SlowConsumer, WhenFull},
    posted::Posted,
    ready::Ready,
    rejected::Rejected,
    stats::Stats,
};

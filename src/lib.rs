//! One poll set for a process's whole inter-process communication.
//!
#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

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
pub use mio::Interest;
pub use net::address::Address;
pub use net::allow::Allow;
pub use net::datagram::{Datagram, DatagramOptions, Received, SocketAddress};
pub use net::listener::{Listener, ListenerKind, ListenerOptions};
pub use net::peer::{Credentials, Peer, PeerAddress};
pub use observe::event::{Detail, Observer, Seen, SourceKind, VisitEnd, What, Who};
pub use observe::recorder::FlightRecorder;
pub use poll::timers::TimerKey;
pub use queue::{Queue, QueueOptions, TrySendError};
pub use reactor::builder::Builder;
pub use reactor::event_loop::{Reactor, Turn};
pub use set::context::{ClientHandle, Context};
pub use set::poll_set::PollSet;
pub use set::remote::Remote;
pub use set::session::{Drain, HalfClose, Session};
pub use set::source::Ready;
pub use signals::{Signal, SignalInfo, Signals};
pub use sources::child::{ChildHandler, ChildProcess};
pub use sources::datagram::{DatagramHandler, Incoming};
pub use sources::fd::{FdSource, Progress};
pub use sources::queue::{Message, Posted, QueueHandler};
pub use sources::shm::{Delivery, SubscriptionHandler};
pub use types::cause::{Cause, Limit};
pub use types::key::Key;
pub use types::limits::{Limits, SlowConsumer, WhenFull};
pub use types::rejected::Rejected;
pub use types::stats::Stats;

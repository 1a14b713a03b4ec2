//! One poll set for a process's whole inter-process communication.
//!
#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("ipc-reactor is for 64-bit Linux: its keys fill a 64-bit epoll token");

mod address;
mod allow;
mod buffer;
mod cause;
mod child_source;
pub mod children;
mod client;
mod closing;
mod connect;
mod context;
mod datagram;
mod datagram_source;
mod descriptors;
mod framing;
mod guard;
pub mod guide;
mod heap;
mod intake;
mod key;
mod limits;
mod listener;
mod master;
mod observe;
mod open;
mod output;
mod path;
mod peer;
pub mod pipe;
pub mod queue;
mod queue_source;
mod reactor;
mod recorder;
mod rejected;
mod remote;
mod session;
mod set;
pub mod shm;
mod shm_link;
mod shm_source;
mod signal_source;
pub mod signals;
mod source;
mod srm;
mod stats;
mod sys;
mod throttle;
mod timers;
mod watch;

pub use address::Address;
pub use allow::Allow;
pub use cause::{Cause, Limit};
pub use child_source::{ChildHandler, ChildProcess};
pub use context::{ClientHandle, Context};
pub use datagram::{Datagram, DatagramOptions, Received, SocketAddress};
pub use datagram_source::{DatagramHandler, Incoming};
pub use framing::{Decode, Decoded, Framing, Prefix};
pub use key::Key;
pub use limits::{Limits, SlowConsumer, WhenFull};
pub use listener::{Listener, ListenerKind, ListenerOptions};
pub use mio::Interest;
pub use observe::{Detail, Observer, Seen, SourceKind, VisitEnd, What, Who};
pub use open::{FdSource, Progress};
pub use peer::{Credentials, Peer, PeerAddress};
pub use queue::{Queue, QueueOptions, TrySendError};
pub use queue_source::{Message, Posted, QueueHandler};
pub use reactor::{Builder, Reactor, Turn};
pub use recorder::FlightRecorder;
pub use rejected::Rejected;
pub use remote::Remote;
pub use session::{Drain, HalfClose, Session};
pub use set::PollSet;
pub use shm_source::{Delivery, SubscriptionHandler};
pub use signals::{Signal, SignalInfo, Signals};
pub use source::Ready;
pub use stats::Stats;
pub use timers::TimerKey;

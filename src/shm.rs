//! Shared memory: one publisher, any number of subscribers, and the notification "shared memory
//! has been updated".
//!
//! | for | use |
//! |---|---|
//! | whole values from one process to others | [`Publisher`], [`Subscriber`] |
//! | the same with a type instead of bytes | `TypedPublisher`, `TypedSubscriber` (feature `bytemuck`) |
//! | C programs that share a string by name | [`NamedText`] |
//! | an event loop on either side | [`Handout`], [`PollSet::connect_subscriber`](crate::PollSet::connect_subscriber), [`PollSet::subscribe`](crate::PollSet::subscribe) |
//! | bare memory | [`Mapping`] of a file, a [`Memfd`] or a [`SharedObject`] |
//!
//! # The segment
//!
//! A [`Publisher`] makes a sealed memfd: its size is final, and nobody but the publisher can write
//! to it, ever. Each subscriber is handed a [`Ticket`] with descriptors of the segment, of a page
//! of its own, and of a [`Doorbell`]. No name exists that a crash could leave behind, and nothing
//! that a subscriber could damage: the segment is read-only to it, and in its page stands a hint.
//!
//! All in 64-bit words of the machine's byte order:
//!
//! | word | content |
//! |---|---|
//! | 0 | magic number, stored last when the segment is made |
//! | 1 to 5 | layout version, longest value in bytes, number of slots (a power of two), tag, segment's size in bytes |
//! | 6 | check over words 1 to 5 |
//! | 16 | `published`: the number of the newest whole value; the first is 1 |
//! | 32 and on | the slots, each of a whole number of 64-byte lines: the value, and in the last word its length in bytes |
//!
//! Value `n` lies in slot `n mod slots`. The publisher fills the slot after the newest one's and
//! stores `published` last; a reader copies a value and then looks at `published` again, to see
//! whether the publisher may have come round to that slot meanwhile. So
//!
//! - a reader sees whole values only, and never waits for the publisher, not even for one that was
//!   killed half-way;
//! - the publisher never waits for a reader: one that is too slow *loses* values and is told how
//!   many;
//! - a publisher so fast that it writes the whole ring while a reader copies one value can starve
//!   that reader: [`Subscriber::recv`] reports losses, [`Subscriber::latest`] gives up with
//!   `WouldBlock` after a thousand attempts.
//!
//! The first word of a subscriber's page is not 0 while it sleeps.

mod doorbell;
mod header;
mod mapping;
mod notifiers;
mod object;
mod protocol;
mod publisher;
mod subscriber;
mod text;
mod ticket;
#[cfg(feature = "bytemuck")]
mod typed;

pub use crate::sources::shm_link::Handout;
pub use doorbell::{Doorbell, Notify};
pub use header::PAYLOAD_MAX;
pub use mapping::{Access, Mapping};
pub use notifiers::{QueueNotifier, SocketNotifier, UPDATED};
pub use object::{Memfd, SharedObject};
pub use publisher::{Loan, Publisher, PublisherOptions, SubscriberId};
pub use subscriber::{Subscriber, Update};
pub use text::NamedText;
pub use ticket::Ticket;
#[cfg(feature = "bytemuck")]
pub use typed::{TypedPublisher, TypedSubscriber};

//! Shared memory: one publisher, any number of subscribers, and the notification "shared memory has been updated".
//!
//! | for | use |
//! |---|---|
//! | whole values from one process to others | [`Publisher`], [`Subscriber`] |
//! | the same with a type instead of bytes | `TypedPublisher`, `TypedSubscriber` (feature `bytemuck`) |
//! | C programs that share a string by name | [`NamedText`] |
//! | an event loop on either side | [`SubscriberSession`], [`PollSet::connect_subscriber`], [`PollSet::subscribe`] |
//! | memory alone | [`Mapping`] of a file, a [`Memfd`] or a [`SharedObject`] |
//!
//! [`SubscriberSession`]: crate::SubscriberSession
//! [`PollSet::connect_subscriber`]: crate::PollSet::connect_subscriber
//! [`PollSet::subscribe`]: crate::PollSet::subscribe
//!
//! # The segment
//!
//! A [`Publisher`] makes a sealed memfd: its size is final, and only the publisher can ever write to it. Each
//! subscriber gets a [`Ticket`] with the descriptors of the segment, of a page of its own, and of a [`Doorbell`]. There
//! is no name that a crash could leave behind. A subscriber cannot do damage: it can only read the segment, and its
//! page contains only a hint.
//!
//! The segment, in 64-bit words of the machine's byte order:
//!
//! | word | content |
//! |---|---|
//! | 0 | the magic number, stored last when the segment is made |
//! | 1 to 3 | the layout version, the longest value in bytes, the number of slots (a power of two) |
//! | 4 to 5 | the tag, the segment's size in bytes |
//! | 6 | a checksum over words 1 to 5 |
//! | 16 | `published`: the number of the newest whole value; the first value has 1 |
//! | from 32 | the slots, each a whole number of 64-byte lines: the value, and in the last word its length in bytes |
//!
//! Value `n` is in slot `n mod slots`. The publisher fills the slot after that of the newest value, and stores
//! `published` last. A reader copies a value and then reads `published` again, to see whether the publisher may have
//! overwritten that slot in the meantime. So:
//!
//! - A reader gets whole values only. It never waits for the publisher, also not for one that was killed while it
//!   wrote.
//! - The publisher never waits for a reader. A reader that is too slow *loses* values, and is told how many.
//! - A publisher that writes the whole ring while a reader copies one value can starve that reader:
//!   [`Subscriber::recv`] reports losses, and [`Subscriber::latest`] returns `WouldBlock` after a thousand attempts.
//!
//! The first word of a subscriber's page is not 0 while the subscriber sleeps. The publisher then sets it to 0 and
//! rings: it sends one byte to the subscriber's doorbell, a Unix stream socket. If the word was 2, or the doorbell is
//! full, there is an unread byte already, and the publisher only wakes a thread that polls that socket (a
//! `shutdown(2)` of what is shut down already). So a subscriber that polls edge-triggered need never read.

mod doorbell;
mod foreign;
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

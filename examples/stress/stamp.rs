//! Values in shared memory that say when they were due and when they were published, on the clock that all processes of
//! a machine share.
//!
//! Values are not requested, so there is no round trip: **latency** is from when the value was due at the publisher to
//! when a subscriber's handler has it, **service time** is from when it was published. Each subscriber's copy of a
//! value is a message.

use std::io;

use ipc_reactor::shm::Subscriber;

/// The tag of such a segment: "stress" and a version.
pub(crate) const TAG: u64 = u64::from_le_bytes(*b"stress\0\x01");
/// Two times of 8 bytes.
const BYTES: usize = 16;

pub(crate) fn write(value: &mut [u8], intended_ns: u64, sent_ns: u64) {
    value[..8].copy_from_slice(&intended_ns.to_ne_bytes());
    value[8..BYTES].copy_from_slice(&sent_ns.to_ne_bytes());
}

pub(crate) fn read(value: &[u8]) -> io::Result<(u64, u64)> {
    let time = |at: usize| value.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes);
    time(0)
        .zip(time(8))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a value too short for its stamps"))
}

/// # Errors
/// Such a value has no room for its stamps.
pub(crate) fn check_size(bytes: usize) -> io::Result<()> {
    if bytes >= BYTES {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("a value of {bytes} bytes has no room for its stamps; ask for {BYTES} or more"),
    ))
}

/// # Errors
/// The values bear no stamps.
pub(crate) fn check(subscriber: &Subscriber) -> io::Result<()> {
    if subscriber.tag() == TAG {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "this publisher's values do not say when they were published; `stress server shm:unix:PATH --rate RATE` does",
    ))
}

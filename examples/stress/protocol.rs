//! Makes requests, and checks answers.
//!
//! A request depends only on its number and its size, so the generator need not store it to check its echo: it can
//! compute each byte again. A request begins with its number, by which late and lost datagrams are recognised; then
//! follows a piece of one random text, a different piece for consecutive requests.

use std::{io::Write, str::FromStr};

use crate::{random::Random, values::Sizes};

/// Bytes of a request's number, at its front.
const STAMP: usize = 8;
/// How many requests have texts with different starts.
const PLACES: usize = 4096;
/// `Result = ` and the longest sum.
const ANSWER_OF_ADDER_MAX: usize = 32;

/// A length before each message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prefix {
    bytes: usize,
    little: bool,
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Prefix, String> {
        Ok(match text {
            "u8" => Prefix { bytes: 1, little: false },
            "u16be" => Prefix { bytes: 2, little: false },
            "u16le" => Prefix { bytes: 2, little: true },
            "u32be" => Prefix { bytes: 4, little: false },
            "u32le" => Prefix { bytes: 4, little: true },
            _ => return Err("u8, u16be, u16le, u32be or u32le is wanted".into()),
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// The server returns the same bytes.
    Echo,
    /// The server returns the same line.
    Lines,
    /// The server returns the same message; each message has its length before it.
    Prefixed(Prefix),
    /// Numbers and the 0 that ends them; the server returns their sum.
    Adder,
    /// These bytes, for any server; the answer has a known end, and is compared with the expected bytes if they are
    /// given.
    Fixed { request: Vec<u8>, answer: Answer },
    /// No answer comes: a request counts once the kernel has taken it.
    OneWay,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Exactly(Vec<u8>),
    Length(usize),
    /// Up to its line feed.
    Line,
}

impl Protocol {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Protocol::Echo => "echo",
            Protocol::Lines => "lines",
            Protocol::Prefixed(_) => "prefixed",
            Protocol::Adder => "adder",
            Protocol::Fixed { .. } => "fixed",
            Protocol::OneWay => "one-way",
        }
    }

    /// Which sizes are possible, if this one is not.
    pub(crate) fn refuses(&self, sizes: Sizes) -> Option<String> {
        match self {
            Protocol::Adder
                if !sizes.least.is_multiple_of(4) || sizes.least < 8 || sizes.least != sizes.most =>
            {
                Some("an adder's request has one size, a multiple of 4 bytes, at least 8".into())
            }
            // The line feed is one of them.
            Protocol::Lines if sizes.least < 2 => {
                Some("a line has at least 2 bytes, its line feed included".into())
            }
            Protocol::Prefixed(prefix) if prefix.bytes < 4 && sizes.most >> (8 * prefix.bytes) > 0 => {
                Some(format!("a prefix of {} bytes tells no length of {}", prefix.bytes, sizes.most))
            }
            _ => None,
        }
    }

    /// Bytes of the longest request and of the longest answer, as sent over the socket.
    pub(crate) fn wire_max(&self, sizes: Sizes) -> (usize, usize) {
        match self {
            Protocol::Echo | Protocol::Lines => (sizes.most, sizes.most),
            Protocol::OneWay => (sizes.most, 0),
            Protocol::Prefixed(prefix) => (sizes.most + prefix.bytes, sizes.most + prefix.bytes),
            Protocol::Adder => (sizes.most, ANSWER_OF_ADDER_MAX),
            Protocol::Fixed { request, answer } => (
                request.len(),
                match answer {
                    Answer::Exactly(bytes) => bytes.len(),
                    Answer::Length(length) => *length,
                    Answer::Line => 64 << 10,
                },
            ),
        }
    }
}

/// The expected answer to a request that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    Echo {
        number: u64,
        size: usize,
    },
    Sum(i64),
    /// As the protocol defines it.
    Fixed,
}

/// How received bytes relate to an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Checked {
    /// All of them belong to it, and more must come.
    Partial,
    /// This many of them complete it.
    Whole(usize),
    Wrong,
}

/// Makes requests, and checks answers.
pub(crate) struct Requests {
    protocol: Protocol,
    sizes: Sizes,
    count: u64,
    random: Random,
    text: Vec<u8>,
}

impl Requests {
    pub(crate) fn new(protocol: Protocol, sizes: Sizes, seed: u64) -> Requests {
        let mut random = Random::new(seed);
        let printable = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/";
        let is_text = protocol == Protocol::Lines;
        let text = (0..sizes.most + PLACES)
            .map(|_| match random.bits() {
                bits if is_text => printable[(bits & 63) as usize],
                bits => bits as u8,
            })
            .collect();
        Requests { protocol, sizes, count: 0, random, text }
    }

    /// Writes the next request to `out`; returns the expected answer.
    pub(crate) fn make(&mut self, out: &mut Vec<u8>) -> Expected {
        out.clear();
        let (number, size) = (self.count, self.random.between(self.sizes.least, self.sizes.most));
        self.count += 1;
        match &self.protocol {
            Protocol::Adder => {
                let mut sum = 0;
                for _ in 1..size / 4 {
                    let number = self.random.number();
                    sum += i64::from(number);
                    out.extend_from_slice(&number.to_ne_bytes());
                }
                out.extend_from_slice(&0_i32.to_ne_bytes());
                Expected::Sum(sum)
            }
            Protocol::Fixed { request, .. } => {
                out.extend_from_slice(request);
                Expected::Fixed
            }
            _ => {
                for part in self.echo(number, size, &mut [0; 16]) {
                    out.extend_from_slice(part);
                }
                Expected::Echo { number, size }
            }
        }
    }

    /// The parts of an echoed request: header and number, text, end.
    fn echo<'a>(&'a self, number: u64, size: usize, head: &'a mut [u8; 16]) -> [&'a [u8]; 3] {
        let mut header = 0;
        let mut end: &[u8] = b"";
        let mut stamp = number.to_le_bytes();
        let mut text = size;
        match self.protocol {
            Protocol::Prefixed(prefix) => {
                header = prefix.bytes;
                match prefix.little {
                    true => head[..header].copy_from_slice(&size.to_le_bytes()[..header]),
                    false => head[..header].copy_from_slice(&size.to_be_bytes()[STAMP - header..]),
                }
            }
            Protocol::Lines => {
                (end, text) = (b"\n", size - 1);
                for (place, byte) in stamp.iter_mut().enumerate() {
                    *byte = b"0123456789abcdef"[(number >> (4 * place)) as usize & 15];
                }
            }
            _ => {}
        }
        let stamped = text.min(STAMP);
        head[header..header + stamped].copy_from_slice(&stamp[..stamped]);
        let from = (number as usize).wrapping_mul(61) % PLACES;
        [&head[..header + stamped], &self.text[from..from + text - stamped], end]
    }

    /// The number that an answer bears, where it bears one.
    pub(crate) fn number_in(&self, answer: &[u8]) -> Option<u64> {
        let stamp = answer.first_chunk().filter(|_| self.protocol == Protocol::Echo)?;
        Some(u64::from_le_bytes(*stamp))
    }

    pub(crate) fn has_made(&self, number: u64) -> bool {
        number < self.count
    }

    /// Whether `bytes` are what must come after the first `received` bytes of an answer.
    pub(crate) fn check(&self, expected: Expected, received: usize, bytes: &[u8]) -> Checked {
        match (expected, &self.protocol) {
            (Expected::Echo { number, size }, _) => {
                let mut head = [0; 16];
                compare(&self.echo(number, size, &mut head), received, bytes)
            }
            (Expected::Sum(sum), _) => {
                let mut text = [0; ANSWER_OF_ADDER_MAX];
                let length = answer_of_adder(sum, &mut text);
                compare(&[&text[..length]], received, bytes)
            }
            (Expected::Fixed, Protocol::Fixed { answer, .. }) => match answer {
                Answer::Exactly(answer) => compare(&[answer], received, bytes),
                Answer::Length(length) if bytes.len() < length - received => Checked::Partial,
                Answer::Length(length) => Checked::Whole(length - received),
                Answer::Line => match bytes.iter().position(|&byte| byte == b'\n') {
                    Some(end) => Checked::Whole(end + 1),
                    None => Checked::Partial,
                },
            },
            (Expected::Fixed, _) => Checked::Wrong,
        }
    }

    /// The answer itself, to show what was expected.
    pub(crate) fn answer(&self, expected: Expected) -> Vec<u8> {
        match (expected, &self.protocol) {
            (Expected::Echo { number, size }, _) => self.echo(number, size, &mut [0; 16]).concat(),
            (Expected::Sum(sum), _) => {
                let mut text = [0; ANSWER_OF_ADDER_MAX];
                let length = answer_of_adder(sum, &mut text);
                text[..length].to_vec()
            }
            (_, Protocol::Fixed { answer: Answer::Exactly(answer), .. }) => answer.clone(),
            _ => Vec::new(),
        }
    }
}

/// Returns its length.
fn answer_of_adder(sum: i64, text: &mut [u8; ANSWER_OF_ADDER_MAX]) -> usize {
    let mut rest = &mut text[..];
    write!(rest, "Result = {sum}").expect("the longest sum fits");
    ANSWER_OF_ADDER_MAX - rest.len()
}

/// Compares `bytes` with what follows the first `received` bytes of the concatenated parts.
fn compare(parts: &[&[u8]], received: usize, bytes: &[u8]) -> Checked {
    let (mut skip, mut at) = (received, 0);
    for part in parts {
        let (gone, part) = part.split_at(skip.min(part.len()));
        skip -= gone.len();
        let length = part.len().min(bytes.len() - at);
        if part[..length] != bytes[at..at + length] {
            return Checked::Wrong;
        }
        at += length;
        if length < part.len() {
            return Checked::Partial;
        }
    }
    Checked::Whole(at)
}

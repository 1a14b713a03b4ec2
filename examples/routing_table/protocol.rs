//! The protocol between manager and clients: lines of text, so that `nc` and a keyboard are enough.
//!
//! On connect, the manager sends a client the whole table, and then every change by any client:
//!
//! ```text
//! TABLE 17 1                                 the table after change 17 has 1 route:
//! ROUTE 10.0.0.0/8 10.1.1.1 eth0
//! END 17
//! CHANGE 18 CREATE 10.2.0.0/16 10.1.1.2 eth1
//! CHANGE 19 UPDATE 10.2.0.0/16 10.1.1.9 eth1
//! CHANGE 20 DELETE 10.0.0.0/8
//! CHANGE 21 FLUSH                            every route is gone
//! ```
//!
//! Changes are numbered without a gap: a client whose last one was 17 and whose next is 19 has missed one.
//!
//! A client may send commands, and so may the manager's standard input:
//!
//! | command | answer |
//! |---|---|
//! | `CREATE 10.0.0.0/8 10.1.1.1 eth0`, `UPDATE …` | `OK 18`: the change's number |
//! | `DELETE 10.0.0.0/8` | `OK 19` |
//! | `FLUSH` | `OK 20`; the MAC table is emptied, too |
//! | `LOOKUP 10.2.3.4` | `OK 10.2.0.0/16 10.1.1.2 eth1`: the route with the longest mask |
//! | `SHOW` | `TABLE`, `ROUTE` and `END` lines as above, `OK` |
//! | `MAC-ADD 10.1.1.1 02:00:00:00:00:01` | `OK 3`: the MAC table's revision |
//! | `MAC-DELETE 10.1.1.1` | `OK 4` |
//! | `MAC-SHOW` | a `MAC 10.1.1.1 02:00:00:00:00:01` line each, `OK 4` |
//! | `SUBSCRIBE-MACS` | `TICKET 73686d…`, with the descriptors of the shared memory; `OK` |
//! | `STATUS` | `OK sequence=17 routes=1 …` |
//! | `HELP` | `OK` and the commands |
//!
//! The last line of an answer begins with `OK` or `ERROR`. `CHANGE` lines come between answers, never within one, and a
//! client's own change comes before its `OK`. If a command fails, the answer is `ERROR` and the reason, and nothing
//! changes. Commands may be in lower case; empty lines are ignored.
//!
//! A line of more than [`COMMAND_MAX`] bytes is refused like any bad command. The manager closes a client that sends a
//! line of more than [`LINE_MAX`] bytes, and one that does not read what the manager sends.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use crate::macs::Mac;
use crate::table::{Change, Destination, Refused, Route, address, refuse};

/// The longest command, in bytes.
pub(crate) const COMMAND_MAX: usize = 256;

/// The longest line that is read, in bytes.
pub(crate) const LINE_MAX: usize = 4_096;

const COMMANDS: &str = "CREATE, UPDATE, DELETE, FLUSH, LOOKUP, SHOW, MAC-ADD, MAC-DELETE, MAC-SHOW, \
                        SUBSCRIBE-MACS, STATUS, HELP";

/// A command to the manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Change(Change),
    Lookup(Ipv4Addr),
    Show,
    MacAdd(Ipv4Addr, Mac),
    MacDelete(Ipv4Addr),
    MacShow,
    SubscribeMacs,
    Status,
    Help,
}

/// A line from the manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    Table {
        sequence: u64,
        routes: usize,
    },
    Route(Route),
    End {
        sequence: u64,
    },
    Change {
        sequence: u64,
        change: Change,
    },
    Mac(Ipv4Addr, Mac),
    /// The ticket in hexadecimal; its descriptors come with the text.
    Ticket(String),
    Ok(String),
    Error(String),
}

impl Command {
    /// The list of commands, for `HELP`.
    pub(crate) const fn all() -> &'static str {
        COMMANDS
    }

    /// Parses a line without its line feed. `None` for an empty line.
    pub(crate) fn parse(line: &[u8]) -> Result<Option<Command>, Refused> {
        if line.len() > COMMAND_MAX {
            return refuse(format!("a line of {} bytes; a command has at most {COMMAND_MAX}", line.len()));
        }
        let Ok(text) = str::from_utf8(line) else {
            return refuse("the line is not UTF-8 text".into());
        };
        let (word, rest) = first_word(text);
        if word.is_empty() {
            return Ok(None);
        }
        let plain = |command| match rest {
            "" => Ok(command),
            _ => refuse(format!("{word} stands alone; {rest:?} is too much")),
        };
        Ok(Some(match word.to_ascii_uppercase().as_str() {
            "LOOKUP" => Command::Lookup(address(rest)?),
            "SHOW" => plain(Command::Show)?,
            "MAC-ADD" => {
                let (ip, mac) = first_word(rest);
                Command::MacAdd(address(ip)?, mac.parse()?)
            }
            "MAC-DELETE" => Command::MacDelete(address(rest)?),
            "MAC-SHOW" => plain(Command::MacShow)?,
            "SUBSCRIBE-MACS" => plain(Command::SubscribeMacs)?,
            "STATUS" => plain(Command::Status)?,
            "HELP" => plain(Command::Help)?,
            known if is_change(known) => Command::Change(text.parse()?),
            _ => return refuse(format!("{word:?} is no command; there are {COMMANDS}")),
        }))
    }
}

/// The first word, and the rest.
fn first_word(text: &str) -> (&str, &str) {
    let text = text.trim_ascii();
    let (word, rest) = text.split_once(|c: char| c.is_ascii_whitespace()).unwrap_or((text, ""));
    (word, rest.trim_ascii())
}

fn is_change(word: &str) -> bool {
    ["CREATE", "UPDATE", "DELETE", "FLUSH"].contains(&word)
}

impl FromStr for Change {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Change, Refused> {
        let (word, rest) = first_word(text);
        match word.to_ascii_uppercase().as_str() {
            "CREATE" => Ok(Change::Create(rest.parse()?)),
            "UPDATE" => Ok(Change::Update(rest.parse()?)),
            "DELETE" => rest.parse::<Destination>().map(Change::Delete),
            "FLUSH" if rest.is_empty() => Ok(Change::Flush),
            "FLUSH" => refuse(format!("FLUSH stands alone; {rest:?} is too much")),
            _ => refuse(format!("{word:?} is no change")),
        }
    }
}

impl FromStr for Line {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Line, Refused> {
        let (word, rest) = first_word(text);
        let (second, third) = first_word(rest);
        Ok(match word {
            "TABLE" => Line::Table { sequence: number(second)?, routes: number(third)? },
            "ROUTE" => Line::Route(rest.parse()?),
            "END" => Line::End { sequence: number(rest)? },
            "CHANGE" => Line::Change { sequence: number(second)?, change: third.parse()? },
            "MAC" => Line::Mac(address(second)?, third.parse()?),
            "TICKET" => Line::Ticket(rest.into()),
            "OK" => Line::Ok(rest.into()),
            "ERROR" => Line::Error(rest.into()),
            _ => return refuse(format!("{word:?} is nothing that a manager says")),
        })
    }
}

fn number<T: FromStr>(text: &str) -> Result<T, Refused> {
    text.parse().map_err(|_| Refused(format!("{text:?} is no number")))
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Create(route) => write!(f, "CREATE {route}"),
            Change::Update(route) => write!(f, "UPDATE {route}"),
            Change::Delete(destination) => write!(f, "DELETE {destination}"),
            Change::Flush => f.write_str("FLUSH"),
        }
    }
}

/// Without the line feed.
impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Line::Table { sequence, routes } => write!(f, "TABLE {sequence} {routes}"),
            Line::Route(route) => write!(f, "ROUTE {route}"),
            Line::End { sequence } => write!(f, "END {sequence}"),
            Line::Change { sequence, change } => write!(f, "CHANGE {sequence} {change}"),
            Line::Mac(ip, mac) => write!(f, "MAC {ip} {mac}"),
            Line::Ticket(hex) => write!(f, "TICKET {hex}"),
            Line::Ok(text) if text.is_empty() => f.write_str("OK"),
            Line::Ok(text) => write!(f, "OK {text}"),
            Line::Error(why) => write!(f, "ERROR {why}"),
        }
    }
}

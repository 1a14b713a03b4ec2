//! The options that describe a load, and the plan that they make.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use crate::{
    descriptors,
    hdr_log::HdrLog,
    plan::{Load, Plan},
    protocol::{Answer, Prefix, Protocol},
    schedule::Arrival,
    target::Target,
    values::{self, Sizes},
};

/// Why nothing was measured: exit code 2 for wrong options, 3 for a failure.
pub(crate) enum Refusal {
    Usage(String),
    Failed(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal::Failed(error)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ProtocolName {
    /// The server returns the same bytes; each byte is checked
    Echo,
    /// The server returns the same line
    Lines,
    /// The server returns the same message; each message has its length before it (--prefix)
    Prefixed,
    /// 32-bit numbers and a 0; the answer is "Result = SUM" (--size counts bytes, the 0 included)
    Adder,
    /// --request, and an answer with a known end: --expect, --response-length or --response-line
    Fixed,
    /// No answer: a request counts once the kernel has taken it (datagrams and queues)
    OneWay,
}

/// The target and the load.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Work {
    /// unix:PATH, unix-seq:PATH, abstract:NAME, abstract-seq:NAME, unix-dgram:PATH, abstract-dgram:NAME, tcp:HOST:PORT,
    /// udp:HOST:PORT, mq:/NAME, or shm:unix:PATH for a publisher in shared memory
    pub(crate) target: Target,
    /// Connections (sockets, subscribers), all at once [default: 50, and 1 for a queue]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: Option<u32>,
    /// Make this many connections a second, instead of as fast as the server accepts them
    #[arg(long, value_name = "RATE", value_parser = values::rate)]
    ramp: Option<f64>,
    /// Outstanding requests on each connection at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pipeline: u32,
    /// How arrivals are spaced in an open loop: constant or poisson
    #[arg(long, value_name = "HOW", default_value_t = Arrival::Constant)]
    pub(crate) arrival: Arrival,
    /// Bytes of each request, or a range: 64, 1k, 64..4096 [default: 64]
    #[arg(short, long, value_name = "BYTES", value_parser = values::sizes)]
    size: Option<Sizes>,
    /// How long to measure
    #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = values::duration)]
    pub(crate) duration: Duration,
    /// How long to load before measuring
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = values::duration)]
    pub(crate) warmup: Duration,
    /// Timeout for an answer, for a connection, and for a request that finds no free connection
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = values::duration)]
    timeout: Duration,
    /// The requests and the expected answers [default: echo; one-way for a queue without --reply]
    #[arg(short, long, value_name = "PROTOCOL")]
    protocol: Option<ProtocolName>,
    /// The length before each message: u8, u16be, u16le, u32be, u32le
    #[arg(long, value_name = "FORM", default_value = "u32be")]
    prefix: Prefix,
    /// The bytes of each request, with \r \n \t \0 \\ \xNN
    #[arg(long, value_name = "BYTES", value_parser = parsed_bytes)]
    request: Option<Bytes>,
    /// The bytes of each answer
    #[arg(long, value_name = "BYTES", value_parser = parsed_bytes, group = "response")]
    expect: Option<Bytes>,
    /// How many bytes each answer has; their values are not checked
    #[arg(long, value_name = "BYTES", group = "response", value_parser = clap::value_parser!(u32).range(1..))]
    response_length: Option<u32>,
    /// Each answer is a line; its text is not checked
    #[arg(long, group = "response")]
    response_line: bool,
    /// The queue from which the answers of a queue are received
    #[arg(long, value_name = "mq:/NAME")]
    reply: Option<Target>,
    /// The server's process, for its processor time [default: the listener, as the kernel reports it for Unix sockets]
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    /// Seed of the random numbers: the same seed gives the same load
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The length of the intervals in the HDR log, and in the plot over time
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = values::duration)]
    interval: Duration,
    /// The run is invalid if the generator itself sends one request in a hundred later than this
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = values::duration)]
    pub(crate) max_lag: Duration,
}

/// A newtype, because clap would take each byte as a separate value.
#[derive(Debug, Clone)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

pub(crate) fn parsed_bytes(text: &str) -> Result<Bytes, String> {
    values::bytes(text).map(Bytes)
}

impl Work {
    /// The plan for this load. `active`: how many of the connections are loaded, if not all.
    pub(crate) fn plan(&self, load: Load, active: Option<u32>) -> Result<Plan, Refusal> {
        let usage = |why: &str| Err(Refusal::Usage(why.into()));
        let mut target = self.target.clone();
        if let Target::Queue { answers, .. } = &mut target {
            *answers = match &self.reply {
                None => None,
                Some(Target::Queue { requests, .. }) => Some(requests.clone()),
                Some(_) => return usage("--reply is a queue: mq:/NAME"),
            };
        } else if self.reply.is_some() {
            return usage("--reply is for queues; sockets are answered where they asked");
        }
        let is_queue = matches!(target, Target::Queue { .. });
        let connections = self.connections.unwrap_or(if is_queue { 1 } else { 50 });
        if is_queue && connections > 1 {
            return usage(
                "a queue has no connections: it is --pipeline that says how many messages are under way",
            );
        }
        let protocol = self.protocol(&target)?;
        let sizes = match (&protocol, self.size) {
            (Protocol::Fixed { .. }, Some(_)) => {
                return usage("--request says how long a request is, not --size");
            }
            (Protocol::Fixed { request, .. }, None) => Sizes { least: request.len(), most: request.len() },
            (_, sizes) => sizes.unwrap_or(Sizes { least: 64, most: 64 }),
        };
        if let Some(why) = protocol.refuses(sizes) {
            return usage(&why);
        }
        match (&target, load) {
            (Target::Memory(_), Load::Published) => {}
            (Target::Memory(_), _) => {
                return usage("a publisher sends at its own rate: neither --rate nor --closed is for shm:");
            }
            (_, Load::Published) => {
                return usage(
                    "say how much: --rate RATE for an open loop, or --closed for as much as the server takes",
                );
            }
            _ => {}
        }
        if self.timeout.is_zero() || self.duration.is_zero() {
            return usage("--duration and --timeout are more than 0");
        }
        let active = active.unwrap_or(connections);
        if active > connections {
            return usage("more connections are to be loaded than there are");
        }
        Ok(Plan {
            target: target.resolved()?,
            protocol,
            sizes,
            connections,
            active,
            ramp: self.ramp,
            load,
            pipeline: self.pipeline,
            warmup: self.warmup,
            duration: self.duration,
            timeout: self.timeout,
            interval: self.interval.max(Duration::from_millis(10)),
            seed: self.seed,
            server_pid: self.server_pid,
        })
    }

    fn protocol(&self, target: &Target) -> Result<Protocol, Refusal> {
        let usage = |why: &str| Err(Refusal::Usage(why.into()));
        let is_one_way = matches!(target, Target::Queue { answers: None, .. });
        let name = match self.protocol {
            Some(name) => name,
            None if self.request.is_some() => ProtocolName::Fixed,
            None if is_one_way => ProtocolName::OneWay,
            None => ProtocolName::Echo,
        };
        if self.request.is_some() && name != ProtocolName::Fixed {
            return usage("--request is for --protocol fixed");
        }
        if is_one_way && name != ProtocolName::OneWay {
            return usage(
                "no answer comes out of a queue without --reply mq:/NAME; --protocol one-way counts what the queue takes",
            );
        }
        let has_messages = !matches!(target, Target::Connections(_));
        Ok(match name {
            ProtocolName::Echo => Protocol::Echo,
            ProtocolName::Lines => Protocol::Lines,
            ProtocolName::Prefixed => Protocol::Prefixed(self.prefix),
            ProtocolName::Adder if has_messages => return usage("an adder has connections"),
            ProtocolName::Adder => Protocol::Adder,
            ProtocolName::OneWay if has_messages => Protocol::OneWay,
            ProtocolName::OneWay => {
                return usage(
                    "that a stream has taken bytes says nothing of the server; one-way is for datagrams and queues",
                );
            }
            ProtocolName::Fixed => {
                let answer = match (&self.expect, self.response_length, self.response_line) {
                    (Some(Bytes(bytes)), ..) if !bytes.is_empty() => Answer::Exactly(bytes.clone()),
                    (_, Some(length), _) => Answer::Length(length as usize),
                    (_, _, true) => Answer::Line,
                    _ => {
                        return usage(
                            "how does an answer end? say --expect BYTES, --response-length N or --response-line",
                        );
                    }
                };
                match &self.request {
                    Some(Bytes(request)) if !request.is_empty() => {
                        Protocol::Fixed { request: request.clone(), answer }
                    }
                    _ => return usage("--protocol fixed wants --request BYTES"),
                }
            }
        })
    }
}

/// Open or closed.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LoadOptions {
    /// An open loop: this many requests a second, independent of the server
    #[arg(short, long, value_name = "RATE", value_parser = values::rate, conflicts_with = "closed")]
    rate: Option<f64>,
    /// A closed loop: each connection sends again when it has its answer. Measures the highest throughput, but hides
    /// how slow a stall is
    #[arg(long)]
    closed: bool,
}

impl LoadOptions {
    pub(crate) fn load(&self, arrival: Arrival) -> Load {
        match (self.rate, self.closed) {
            (Some(rate), _) => Load::Open { rate, arrival },
            (None, true) => Load::Closed,
            (None, false) => Load::Published,
        }
    }

    /// The same, with this rate as the default.
    pub(crate) fn or_rate(&self, rate: f64) -> Load {
        match self.load(Arrival::Constant) {
            Load::Published => Load::Open { rate, arrival: Arrival::Constant },
            load => load,
        }
    }
}

/// Where results go.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct JsonOption {
    /// The report as JSON, to a file or (-, the default) to standard output, with the text on standard error then
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
}

pub(crate) struct JsonOutput(Option<Box<dyn Write>>, bool);

impl JsonOption {
    /// Opens the file before the load, so that an error appears before the time is spent.
    pub(crate) fn open(&self) -> io::Result<JsonOutput> {
        Ok(match &self.json {
            None => JsonOutput(None, false),
            Some(file) if file.as_os_str() == "-" => JsonOutput(Some(Box::new(io::stdout())), true),
            Some(file) => JsonOutput(Some(Box::new(create(file, "report")?)), false),
        })
    }
}

impl JsonOutput {
    /// Text for users: on standard error if the JSON goes to standard output.
    pub(crate) fn say(&self, text: &str) -> io::Result<()> {
        match self.1 {
            true => write!(io::stderr(), "{text}"),
            false => write!(io::stdout(), "{text}"),
        }
    }

    pub(crate) fn write(&mut self, json: &Value) -> io::Result<()> {
        match &mut self.0 {
            Some(to) => writeln!(to, "{json:#}"),
            None => Ok(()),
        }
    }
}

pub(crate) fn create(path: &Path, what: &str) -> io::Result<File> {
    File::create(path).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot write the {what} to {}: {error}", path.display()))
    })
}

/// The files beside the report.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Files {
    /// An HDR interval log (format 1.3), in nanoseconds
    #[arg(long, value_name = "FILE")]
    hdr: Option<PathBuf>,
    /// An SVG with the percentile curve, and with throughput over time
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
}

impl Files {
    pub(crate) fn hdr(&self, about: &str) -> io::Result<Option<HdrLog>> {
        self.hdr.as_deref().map(|path| HdrLog::create(path, about)).transpose()
    }
}

/// Makes room for the descriptors that a plan needs, and says so.
pub(crate) fn make_room(connections: u32) -> io::Result<()> {
    if let Some(raised) = descriptors::raise_for(connections)? {
        eprintln!("stress: {raised}");
    }
    Ok(())
}

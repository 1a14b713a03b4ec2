//! `matrix`: the same load on an echo server of our own, over each transport, in messages of each size.

use std::{fs, io, time::Duration};

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::{
    engine,
    options::{JsonOption, LoadOptions, Refusal, make_room},
    plan::{Load, Plan},
    protocol::Protocol,
    report::{Report, VERSION},
    server::Server,
    stamp,
    target::Target,
    values::{self, Sizes, Time, grouped},
    verdict::{self, Verdict},
};

/// The default of requests a second.
const RATE: f64 = 5_000.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Transport {
    Unix,
    UnixSeq,
    UnixDgram,
    Abstract,
    AbstractSeq,
    AbstractDgram,
    Tcp,
    Udp,
    Mq,
    Shm,
}

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Transports, separated by commas
    #[arg(value_enum, value_delimiter = ',', default_value = "unix,unix-seq,unix-dgram,tcp,udp,mq,shm")]
    transports: Vec<Transport>,
    /// Bytes of a message, separated by commas
    #[arg(short, long, value_name = "BYTES", value_delimiter = ',', default_value = "64,1k", value_parser = values::sizes)]
    size: Vec<Sizes>,
    /// Connections; for a queue, outstanding messages
    #[arg(short, long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    #[command(flatten)]
    load: LoadOptions,
    /// How long to measure each
    #[arg(short, long, value_name = "TIME", default_value = "2s", value_parser = values::duration)]
    duration: Duration,
    /// How long to load before measuring
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = values::duration)]
    warmup: Duration,
    /// Timeout for an answer, and for a connection
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = values::duration)]
    timeout: Duration,
    /// A cell is invalid if the generator itself sends one request in a hundred later than this
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = values::duration)]
    max_lag: Duration,
    #[command(flatten)]
    json: JsonOption,
}

pub(crate) fn run(arguments: &Arguments) -> Result<u8, Refusal> {
    let mut json = arguments.json.open()?;
    make_room(arguments.connections)?;
    json.say(&format!(
        "{:<15} {:>9} {:>11} {:>10} {:>10} {:>10} {:>7} {:>7}\n",
        "transport", "bytes", "messages/s", "p50", "p99", "p99.9", "client", "server"
    ))?;
    let (mut cells, mut codes) = (Vec::new(), Vec::new());
    'cells: for &transport in &arguments.transports {
        for &sizes in &arguments.size {
            let (mut cell, code, row) = match measure(arguments, transport, sizes) {
                Ok(measured) => measured,
                Err(Refusal::Failed(error)) if error.kind() == io::ErrorKind::InvalidInput => {
                    let row =
                        format!("{:<15} {:>9} not possible: {error}\n", name(transport), sizes.to_string());
                    let size = json!({ "min": sizes.least, "max": sizes.most });
                    (json!({ "size": size, "refused": error.to_string() }), 0, row)
                }
                Err(refusal) => return Err(refusal),
            };
            json.say(&row)?;
            let is_interrupted = cell["interrupted"] == true;
            cell["transport"] = name(transport).into();
            cells.push(cell);
            codes.push(code);
            if is_interrupted {
                json.say("ended early\n")?;
                codes.push(3);
                break 'cells;
            }
        }
    }
    json.say("messages/s with a > in front: the generator used all of its core, the transport may do more; -: not known\n")?;
    let code = if codes.contains(&1) { 1 } else { codes.into_iter().max().unwrap_or_default() };
    json.write(&json!({
        "format": "ipc-reactor-stress",
        "version": VERSION,
        "mode": "matrix",
        "cells": cells,
        "valid": code != 3,
        "ok": code == 0,
    }))?;
    Ok(code)
}

fn name(transport: Transport) -> String {
    transport.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// One cell: its JSON, its exit code and its row.
fn measure(
    arguments: &Arguments,
    transport: Transport,
    sizes: Sizes,
) -> Result<(Value, u8, String), Refusal> {
    let folder = tempfile::Builder::new().prefix("ipc-reactor-stress-").tempdir()?;
    // As random as the folder's name.
    let unique = folder.path().file_name().unwrap_or_default().display();
    let path = folder.path().join("socket");
    let answers = format!("/{unique}.replies");
    let size = sizes.to_string();
    let (at, mut options) = match transport {
        Transport::Tcp => ("tcp:127.0.0.1:0".into(), vec![]),
        Transport::Udp => ("udp:127.0.0.1:0".into(), vec![]),
        Transport::Mq => (
            format!("mq:/{unique}"),
            vec!["--reply".into(), format!("mq:{answers}"), "--size".into(), sizes.most.to_string()],
        ),
        Transport::Shm => {
            (format!("shm:unix:{}", path.display()), vec!["--size".into(), sizes.most.to_string()])
        }
        Transport::Unix | Transport::UnixSeq | Transport::UnixDgram => {
            (format!("{}:{}", name(transport), path.display()), vec![])
        }
        Transport::Abstract | Transport::AbstractSeq | Transport::AbstractDgram => {
            (format!("{}:{unique}", name(transport)), vec![])
        }
    };
    let mut load = arguments.load.or_rate(RATE);
    match (transport, load) {
        (Transport::Shm, Load::Open { rate, .. }) => {
            stamp::check_size(sizes.most)?;
            options.extend(["--rate".into(), rate.to_string()]);
            load = Load::Published;
        }
        (Transport::Shm, _) => {
            return Err(impossible("a publisher has no closed loop; give --rate".into()).into());
        }
        (Transport::Mq, _) => check_system_queue(sizes.most)?,
        _ => {}
    }
    let server = Server::start(&at, &options.iter().map(String::as_str).collect::<Vec<_>>())?;
    let mut target = server.target.clone();
    let (mut connections, mut pipeline) = (arguments.connections, 1);
    if let Target::Queue { answers: to, .. } = &mut target {
        *to = Some(answers);
        (connections, pipeline) = (1, arguments.connections);
    }
    let plan = Plan {
        target,
        protocol: Protocol::Echo,
        sizes,
        connections,
        active: connections,
        ramp: None,
        load,
        pipeline,
        warmup: arguments.warmup,
        duration: arguments.duration,
        timeout: arguments.timeout,
        interval: Duration::from_secs(1),
        seed: 1,
        server_pid: Some(server.pid()),
    };
    let outcome = engine::run(&plan, None)?;
    let verdict = Verdict::of(&plan, &outcome, arguments.max_lag);
    let report = Report { mode: "run", plan: &plan, outcome: &outcome, verdict: &verdict, syscalls: None };
    let latency = |quantile| Time(outcome.record.latency.value_at_quantile(quantile)).to_string();
    let share = |share: Option<f64>| share.map_or("-".into(), |share| format!("{:.0} %", share * 100.0));
    let client = outcome.shares.map(|shares| shares.client);
    let is_bottleneck = outcome.shares.is_some_and(verdict::is_busy);
    let rate = grouped(outcome.rate().round() as u64);
    let mut row = format!(
        "{:<15} {size:>9} {:>11} {:>10} {:>10} {:>10} {:>7} {:>7}\n",
        name(transport),
        if is_bottleneck { format!(">{rate}") } else { rate },
        latency(0.5),
        latency(0.99),
        latency(0.999),
        share(client),
        share(outcome.shares.and_then(|shares| shares.server)),
    );
    for why in verdict.failed.iter().chain(&verdict.invalid) {
        row += &format!("{:<15} {why}\n", "");
    }
    Ok((report.json(), verdict.exit_code(), row))
}

/// # Errors
/// The system does not allow a queue with messages of this size.
fn check_system_queue(bytes: usize) -> io::Result<()> {
    let limit = fs::read_to_string("/proc/sys/fs/mqueue/msgsize_max")?;
    let most: usize = limit.trim().parse().map_err(io::Error::other)?;
    if bytes <= most {
        return Ok(());
    }
    Err(impossible(format!(
        "a queue's messages have {most} bytes at most: raise it with `sysctl fs.mqueue.msgsize_max={bytes}`"
    )))
}

fn impossible(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

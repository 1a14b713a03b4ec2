//! Runs the styles in turn, each as a child process, and measures what a message costs the server.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{CompareArgs, Style, limits, signals, style};

mod load;
mod machine;
mod plot;
mod report;
mod server;

use load::{Halt, Idle, Load};
use machine::Machine;
use report::{Cell, Measured, Outcome, Report, Spread};
use server::Server;

/// Each combination is measured in this many slices; how far they differ is the noise.
const SLICES: u32 = 5;
/// Descriptors of this process that are not clients: its streams, pipes, poller, files.
const OWN_DESCRIPTORS: u64 = 32;
/// How system calls are counted: every active client sends once, all are answered, a pause.
///
/// Tracing slows the server. Without the pause, a client's next message arrives before the `recv` that
/// should return `EAGAIN`, and edge-triggered seems to need two calls a message.
const TRACED_BURSTS: u32 = 50;
const TRACED_PAUSE: Duration = Duration::from_millis(2);

/// Status of a run that Ctrl-C cut short, by the shell's custom: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

pub(crate) fn run(args: &CompareArgs) -> io::Result<ExitCode> {
    signals::remember()?;
    let limit = limits::raise_descriptors()?;
    limit.say();
    // Create the files now: an error after minutes of measuring would lose the results.
    // The folder comes first: the file may lie in it.
    args.svg.as_ref().map(|path| named(path, fs::create_dir_all(path))).transpose()?;
    let json = args.json.as_ref().map(|path| named(path, fs::File::create(path))).transpose()?;

    // Waking another, sleeping processor can cost several times as much as the whole message, and how often
    // the scheduler does so varies: the differences between the styles would be lost in that noise.
    let pinned = if args.unpinned { None } else { machine::pin() };
    let mut report = Report::new(Machine::before(pinned)?, args.seconds, server::strace_version());
    let interrupted = measure_all(args, limit.to, &mut report)?;
    report.machine.after()?;
    report.interrupted = interrupted;

    report.print(&mut io::stdout().lock())?;
    if let Some(mut file) = json {
        serde_json::to_writer_pretty(&mut file, &report.to_json())?;
        file.write_all(b"\n")?;
    }
    if let Some(directory) = &args.svg {
        for path in plot::draw_all(&report, directory)? {
            println!("drew {}", path.display());
        }
    }
    Ok(if interrupted { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
}

/// Says in an error which path it is about.
fn named<T>(path: &Path, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Returns whether the user interrupted it. What was measured is in `report` either way.
fn measure_all(args: &CompareArgs, descriptors: u64, report: &mut Report) -> io::Result<bool> {
    let (idles, actives) = (ascending(&args.idle), ascending(&args.active));
    let styles: Vec<&Style> =
        crate::STYLES.iter().filter(|s| args.styles.iter().any(|n| n == s.name)).collect();
    let bar = progress_bar(styles.len() * idles.len() * actives.len());
    // Idle numbers outside, styles inside: a disturbance of the machine then hits all styles alike.
    for &idle in &idles {
        for style in &styles {
            bar.set_message(format!("{} with {idle} idle", style.name));
            match measure_server(style.name, idle, &actives, descriptors, args.seconds, &bar, report) {
                Ok(()) => {}
                Err(Halt::Interrupted) => {
                    bar.finish_and_clear();
                    return Ok(true);
                }
                Err(Halt::Impossible(why)) => {
                    // The whole row: the idle clients could not connect, however many active ones follow.
                    let done =
                        report.cells.iter().filter(|c| c.style == style.name && c.idle == idle).count();
                    for &active in &actives[done..] {
                        report.cells.push(Cell::impossible(style.name, idle, active, why.clone()));
                        bar.inc(1);
                    }
                }
                Err(Halt::Failed(error)) => {
                    let what = format!("{} with {idle} idle clients: {error}", style.name);
                    return Err(io::Error::new(error.kind(), what));
                }
            }
        }
    }
    bar.finish_and_clear();
    Ok(false)
}

/// One server, its idle clients, and each number of active ones.
fn measure_server(
    name: &'static str,
    idle: usize,
    actives: &[usize],
    descriptors: u64,
    seconds: f64,
    bar: &ProgressBar,
    report: &mut Report,
) -> Result<(), Halt> {
    let possible = |active: usize| -> Result<(), Halt> {
        let clients = idle + active;
        if let Some(max) = style(name).clients_max.filter(|&max| clients > max) {
            let each = if max == 1 { "client" } else { "clients" };
            return Err(Halt::Impossible(format!("it serves {max} {each} at a time")));
        }
        if clients as u64 + OWN_DESCRIPTORS > descriptors {
            return Err(Halt::Impossible(format!(
                "{clients} clients need more than the {descriptors} descriptors of this machine's hard limit (ulimit -Hn)"
            )));
        }
        Ok(())
    };
    possible(actives[0])?;

    let server = Server::start(name)?;
    let idle_clients =
        Idle::connect(server.address(), idle).map_err(|halt| halt.because(server.refusal()))?;
    for &active in actives {
        let outcome = possible(active)
            .and_then(|()| Load::connect(server.address(), active))
            .and_then(|mut load| measure(&server, &mut load, seconds));
        let outcome = match outcome {
            Ok(measured) => Outcome::Measured(measured),
            Err(halt) => match halt.because(server.refusal()) {
                Halt::Impossible(why) => Outcome::Impossible(why),
                halt => return Err(halt),
            },
        };
        report.cells.push(Cell { style: name, idle, active, outcome });
        bar.inc(1);
    }
    drop(idle_clients);
    Ok(server.end()?)
}

fn measure(server: &Server, load: &mut Load, seconds: f64) -> Result<Measured, Halt> {
    let slice = Duration::from_secs_f64(seconds / f64::from(SLICES));
    load.run(slice / 4)?; // warm up
    let mut slices = Vec::new();
    for _ in 0..SLICES {
        let before = server.cpu_time()?;
        let run = load.run(slice)?;
        let cpu = server.cpu_time()?.saturating_sub(before);
        slices.push((run, cpu));
    }
    let calls = server.count_calls(|| load.run_in_bursts(TRACED_BURSTS, TRACED_PAUSE))?;
    let spread = |value: &dyn Fn(&load::Run, Duration) -> f64| {
        Spread::of(slices.iter().map(|(run, cpu)| value(run, *cpu)).collect())
    };
    Ok(Measured {
        rate: spread(&|run, _| run.messages as f64 / run.elapsed.as_secs_f64()),
        cpu_us: spread(&|run, cpu| cpu.as_secs_f64() * 1e6 / run.messages as f64),
        p50_us: spread(&|run, _| run.latency_ns.value_at_quantile(0.50) as f64 / 1e3),
        p99_us: spread(&|run, _| run.latency_ns.value_at_quantile(0.99) as f64 / 1e3),
        calls,
    })
}

fn ascending(numbers: &[usize]) -> Vec<usize> {
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

fn progress_bar(len: usize) -> ProgressBar {
    let target =
        if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(len as u64), target);
    bar.set_style(
        ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}  (about {eta} left)")
            .expect("a valid template"),
    );
    bar
}

//! `run`: one load, measured. `idle`: the same, while most of the connections are idle.

use std::fmt::Write;

use crate::{
    engine::{self, Outcome},
    options::{Files, JsonOption, LoadOptions, Refusal, Work, make_room},
    plan::{Load, Plan},
    plot,
    report::Report,
    syscalls::{self, Syscalls},
    values,
    verdict::Verdict,
};

/// Connections that `idle` loads unless told otherwise.
const ACTIVE: u32 = 100;
/// And requests a second for them.
const RATE: f64 = 1_000.0;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    work: Work,
    #[command(flatten)]
    load: LoadOptions,
    /// Count the server's system calls a message, under strace, in a run of its own after the measured one
    #[arg(long)]
    syscalls: bool,
    #[command(flatten)]
    json: JsonOption,
    #[command(flatten)]
    files: Files,
}

#[derive(clap::Args)]
pub(crate) struct IdleArguments {
    #[command(flatten)]
    run: Arguments,
    /// How many of the connections are loaded; the others only stand there [default: 100, or all if there are fewer]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    active: Option<u32>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<u8, Refusal> {
    let plan = arguments.work.plan(arguments.load.load(arguments.work.arrival), None)?;
    measure("run", plan, arguments)
}

pub(crate) fn idle(arguments: &IdleArguments) -> Result<u8, Refusal> {
    let run = &arguments.run;
    // What matters is how the idle ones weigh on the others: any load will show that.
    let load = run.load.or_rate(RATE);
    let mut plan = run.work.plan(load, arguments.active)?;
    if arguments.active.is_none() {
        plan.active = plan.active.min(ACTIVE);
    }
    measure("idle", plan, run)
}

fn measure(mode: &str, plan: Plan, arguments: &Arguments) -> Result<u8, Refusal> {
    let mut json = arguments.json.open()?;
    let log = arguments.files.hdr(&format!("{} {}", plan.target, plan.protocol.name()))?;
    make_room(plan.connections)?;
    let outcome = engine::run(&plan, log)?;
    let verdict = Verdict::of(&plan, &outcome, arguments.work.max_lag);
    let syscalls = match arguments.syscalls && !outcome.interrupted {
        true => Some(syscalls_of(&plan, &outcome)?),
        false => None,
    };
    let report =
        Report { mode, plan: &plan, outcome: &outcome, verdict: &verdict, syscalls: syscalls.as_ref() };
    json.say(&report.to_string())?;
    json.write(&report.json())?;
    if let Some(path) = &arguments.files.plot {
        let mut title = format!("{}: {}, {} bytes", plan.target, plan.protocol.name(), plan.sizes);
        match plan.load {
            Load::Open { rate, .. } => write!(title, ", {}/s asked", values::grouped(rate as u64)),
            Load::Closed => write!(title, ", closed loop"),
            Load::Published => Ok(()),
        }
        .expect("text can be appended to text");
        plot::write(path, &title, &outcome)?;
    }
    Ok(verdict.exit_code())
}

fn syscalls_of(plan: &Plan, outcome: &Outcome) -> Result<Syscalls, Refusal> {
    let Some(pid) = outcome.server_pid else {
        return Err(Refusal::Usage("--syscalls wants the server's process: --server-pid PID".into()));
    };
    Ok(syscalls::count(plan, pid)?)
}

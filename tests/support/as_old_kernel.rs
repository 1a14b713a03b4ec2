//! `as_old_kernel VERSION PROGRAM [ARGUMENT…]`: runs a program as on an older kernel, as far as a filter can show that.

mod old_kernel;

use std::{
    convert::Infallible,
    env,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

fn main() -> ExitCode {
    let Err(why) = run();
    eprintln!("{why}");
    ExitCode::from(2)
}

/// Returns only if the program cannot be run.
fn run() -> Result<Infallible, String> {
    let mut arguments = env::args_os().skip(1);
    let (Some(version), Some(program)) = (arguments.next(), arguments.next()) else {
        let later = old_kernel::FEATURES.iter().map(|it| format!("\n  {} has {}", it.since, it.name));
        let later: String = later.collect();
        return Err(format!("usage: as_old_kernel VERSION PROGRAM [ARGUMENT…]\n{later}"));
    };
    let version: old_kernel::Version = version.to_string_lossy().parse()?;
    old_kernel::become_old(version).map_err(|error| format!("installing the filter: {error}"))?;
    let error = Command::new(&program).args(arguments).exec();
    Err(format!("{}: {error}", program.display()))
}

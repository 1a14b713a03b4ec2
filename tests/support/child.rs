//! This binary once more, as a child process that runs one test or case alone.

use std::{
    env,
    process::{Child, Command},
};

use super::isolated;

/// The arguments with which this binary runs one test alone, named `MODULE::NAME`. In the crate of isolated cases a role has
/// such a name, too.
pub(crate) fn alone(test: &str) -> Vec<String> {
    let arguments: &[&str] = match isolated::case() {
        Some(_) => &["--case", test],
        None => &["--exact", test, "--nocapture", "--test-threads=1"],
    };
    arguments.iter().map(|&argument| argument.to_owned()).collect()
}

/// This binary, about to run that test alone.
pub(crate) fn again(test: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(alone(test));
    command
}

/// Runs a child to its end. It must have run its test, and passed.
#[track_caller]
pub(crate) fn succeeds(command: &mut Command) {
    let output = command.output().unwrap();
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    // The usual harness succeeds if a name fits no test; the runner of isolated cases fails.
    let has_run = isolated::case().is_some() || text.contains("1 passed");
    assert!(output.status.success() && has_run, "{command:?}: {}\n{text}", output.status);
}

/// A child process that does not outlive its test.
pub(crate) struct KillOnDrop(pub(crate) Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

//! Loggers and subscribers that do not keep up, and a manager that is killed.

use std::{
    io::{BufRead, BufReader, Write},
    process::Stdio,
    sync::mpsc,
    time::Instant,
};

use ipc_reactor::Signal;

use crate::routing_table::system::{Log, Subscriber, System, answers, start_logger};
use crate::running::{PATIENCE, Running, example, lines, run, text};

/// Types so many changes, and waits for the answers.
fn change(system: &mut System, count: usize) {
    for from in (0..count).step_by(500) {
        let many = 500.min(count - from);
        let mut updates = String::new();
        for n in from..from + many {
            updates += &format!("UPDATE 10.0.0.0/8 10.1.1.{} eth{}\n", n % 250 + 1, n % 2);
        }
        system.type_in(&updates);
        assert!(answers(&system.manager, many).iter().all(|answer| answer.starts_with("OK ")));
    }
}

#[test]
fn a_logger_that_does_not_read_holds_up_nobody_and_is_told_what_it_missed() {
    let mut system = System::start();
    let mut logger = start_logger(&system);
    let mut log = Log::default();
    system.command("CREATE 10.0.0.0/8 10.1.1.1 eth0");
    while log.lines.is_empty() {
        log.take(&logger.stdout.recv_timeout(PATIENCE).unwrap());
    }
    logger.signal(Signal::STOP);
    change(&mut system, 1_000);
    assert!(system.status("dropped") > 0, "queue and outbox are bounded");
    logger.signal(Signal::CONT);
    while log.told == 0 {
        log.take(&logger.stdout.recv_timeout(PATIENCE).unwrap());
    }
    let [written, dropped, untold] = system.end();
    assert_eq!(logger.wait().code(), Some(0));
    while let Ok(line) = logger.stdout.recv_timeout(PATIENCE) {
        log.take(&line);
    }
    assert_eq!(log.lines.len() as u64 + dropped, written);
    assert_eq!(log.told + untold, dropped);
    system.assert_nothing_left();
}

#[test]
fn a_subscriber_that_does_not_read_is_closed_and_gets_the_whole_table_when_it_comes_back() {
    let mut system = System::start();
    system.command("CREATE 10.0.0.0/8 10.1.1.1 eth0");
    let (mut slow, mut quick) = (Subscriber::start(&system), Subscriber::start(&system));
    slow.await_tables();
    quick.await_tables();
    slow.running.signal(Signal::STOP);
    let mut changes = 1;
    // More than its socket and its share of the manager's memory can hold.
    while system.status("slow") == 0 {
        assert!(changes < 100_000, "a slow subscriber is never noticed");
        change(&mut system, 2_000);
        changes += 2_000;
        quick.await_changes(changes, 0);
    }
    assert_eq!(system.status("subscribers"), 1, "it is closed at once");
    slow.running.signal(Signal::CONT);
    slow.running.says("without a manager");
    while slow.tables()["connections"] != 2 {}
    slow.await_changes(changes, 0);
    let (slow, quick) = (slow.tables(), quick.tables());
    assert_eq!(
        (&slow["sequence"], &slow["routes"], &slow["missed"]),
        (&quick["sequence"], &quick["routes"], &0.into())
    );
    assert_eq!((&slow["connections"], &quick["connections"]), (&2.into(), &1.into()));
}

#[test]
fn subscribers_survive_their_manager() {
    let mut system = System::start();
    let mut subscriber = Subscriber::start(&system);
    system.command("CREATE 10.0.0.0/8 10.1.1.1 eth0");
    system.command("MAC-ADD 10.1.1.1 02:00:00:00:00:01");
    subscriber.await_changes(1, 1);

    system.manager.child.kill().unwrap();
    system.manager.wait();
    subscriber.running.says("without a manager");
    let tables = subscriber.tables();
    assert_eq!(
        (tables["routes"].as_array().unwrap().len(), tables["macs"].as_object().unwrap().len()),
        (1, 1)
    );

    // The path and the queue that the killed manager has left do not prevent a start.
    system.restart();
    assert_eq!(subscriber.await_event("table")["routes"], 0);
    assert_eq!(subscriber.await_event("macs")["macs"], 0);
    system.command("CREATE 10.2.0.0/16 10.1.1.2 eth1");
    assert_eq!(subscriber.await_event("change")["change"], "CREATE 10.2.0.0/16 10.1.1.2 eth1");

    system.end();
    assert_eq!(subscriber.end()["connections"], 2);
    system.assert_nothing_left();
}

#[test]
fn a_terminal_that_is_paused_holds_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("unix:{}", folder.path().join("routes").display());
    let mut command = example("routing_table");
    command.args(["manager", &address]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut stdout, stderr) = (BufReader::new(child.stdout.take().unwrap()), child.stderr.take().unwrap());
    let mut manager = Running { child, stdout: mpsc::channel().1, stderr: lines(stderr) };
    let mut ready = String::new();
    stdout.read_line(&mut ready).unwrap();
    // Their answers are more than a pipe holds, and than the manager keeps.
    let help = "HELP\n".repeat(4_000) + "CREATE 10.0.0.0/8 10.1.1.1 eth0\n";
    manager.stdin().write_all(help.as_bytes()).unwrap();
    let start = Instant::now();
    // Until the last of them is carried out, with no reader.
    while !run(example("routing_table").args(["command", &address, "LOOKUP 10.0.0.1"])).status.success() {
        assert!(start.elapsed() < PATIENCE);
    }

    manager.stdout = lines(stdout);
    let mut said = String::new();
    while !said.starts_with("ERROR ") {
        said = manager.stdout.recv_timeout(PATIENCE).unwrap();
    }
    assert!(said.contains("answers were left out"), "{said}");
    manager.signal(Signal::TERM);
    assert_eq!(manager.wait().code(), Some(0));
}

#[test]
fn a_logger_can_be_killed_and_be_started_first() {
    let mut system = System::start();
    let logger = start_logger(&system);
    system.command("CREATE 10.0.0.0/8 10.1.1.1 eth0");
    assert!(logger.stdout.recv_timeout(PATIENCE).unwrap().starts_with("info "));
    drop(logger);
    // What is in the queue waits for the next one.
    system.command("DELETE 10.0.0.0/8");
    let mut logger = start_logger(&system);
    while !logger.stdout.recv_timeout(PATIENCE).unwrap().contains("CHANGE 2 DELETE 10.0.0.0/8") {}
    system.end();
    assert_eq!(logger.wait().code(), Some(0));

    let mut early = start_logger(&system);
    early.says("waiting for a manager");
    system.restart();
    system.command("STATUS");
    assert!(early.stdout.recv_timeout(PATIENCE).unwrap().contains("has come"));
    system.end();
    assert_eq!(early.wait().code(), Some(0));
    system.assert_nothing_left();
}

#[test]
fn the_demonstration_shows_everything_and_ends() {
    let output = run(example("routing_table").args(["demo", "--pace", "250"]));
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}{complained}");
    for wanted in
        ["OK 10.2.0.0/16 10.1.1.2 eth1", "the network is 10.2.0.0/16", "SIGKILL", "FLUSH", "the manager ends"]
    {
        assert!(said.contains(wanted), "no {wanted:?} in {said}");
    }
}

#[test]
fn a_demonstration_that_nobody_watches_ends_with_all_its_children() {
    let mut command = example("routing_table");
    command.args(["demo", "--pace", "100"]);
    let mut demo = Running::start(&mut command);
    demo.stdout.recv_timeout(PATIENCE).unwrap();
    // The pipe is closed with the next line.
    demo.stdout = mpsc::channel().1;
    assert_eq!(demo.wait().code(), Some(1));
    demo.says("Broken pipe");
}

//! Commands, good and bad, from all the places that they can come from.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    process::Stdio,
};

use ipc_reactor::Signal;

use crate::routing_table::system::{Foreign, System, answers, has};
use crate::running::{PATIENCE, Running, example, run, text};

/// A connection by hand.
struct Talk {
    to: UnixStream,
    from: BufReader<UnixStream>,
}

impl Talk {
    fn to(system: &System) -> Talk {
        let to = UnixStream::connect(system.path()).unwrap();
        to.set_read_timeout(Some(PATIENCE)).unwrap();
        Talk { from: BufReader::new(to.try_clone().unwrap()), to }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        line
    }

    /// The last line of the answer.
    fn ask(&mut self, command: &[u8]) -> String {
        self.to.write_all(command).unwrap();
        loop {
            let line = self.line();
            if line.starts_with("OK") || line.starts_with("ERROR") {
                return line.trim_end().to_owned();
            }
            assert!(
                !line.is_empty(),
                "closed instead of an answer to {:?}",
                command.escape_ascii().to_string()
            );
        }
    }
}

#[test]
fn a_bad_command_gets_a_clear_error_and_loses_nobody() {
    let system = System::start();
    let mut talk = Talk::to(&system);
    assert_eq!(talk.ask(b"CREATE 10.0.0.0/8 10.1.1.1 eth0\n"), "OK 1");
    assert_eq!(talk.ask(b"MAC-ADD 10.1.1.1 02:00:00:00:00:01\n"), "OK 1");
    let long = [b"LOOKUP ".as_slice(), &[b'1'; 300], b"\n"].concat();
    for (command, why) in [
        (b"CREATE 10.0.0.0/8 10.1.1.2 eth1\n".as_slice(), "already"),
        (b"CREATE 10.1.0.0/8 10.1.1.2 eth1\n", "the network is 10.0.0.0/8"),
        (b"CREATE 10.0.0.0/33 10.1.1.2 eth1\n", "exceeds the 32 bits"),
        (b"CREATE 10.0.0.0/-1 10.1.1.2 eth1\n", "from 0 to 32"),
        (b"CREATE 10.0.0.0/+8 10.1.1.2 eth1\n", "from 0 to 32"),
        (b"CREATE 10.0.0.0 10.1.1.2 eth1\n", "no mask"),
        (b"CREATE 10.0.0/8 10.1.1.2 eth1\n", "no IPv4 address"),
        (b"CREATE 11.0.0.0/8 10.1.1.2\n", "3 words, not 2"),
        (b"CREATE 11.0.0.0/8 10.1.1.2 eth1 eth2\n", "3 words, not 4"),
        (b"CREATE 11.0.0.0/8 0.0.0.0 eth1\n", "single host"),
        (b"CREATE 11.0.0.0/8 10.1.1.2 abcdefghijklmnop\n", "15"),
        (b"UPDATE 11.0.0.0/8 10.1.1.2 eth1\n", "no route to 11.0.0.0/8"),
        (b"DELETE 11.0.0.0/8\n", "no route to 11.0.0.0/8"),
        (b"LOOKUP 11.0.0.1\n", "no route to 11.0.0.1"),
        (b"LOOKUP\n", "no IPv4 address"),
        (b"SHOW me\n", "stands alone"),
        (b"FLUSH all\n", "stands alone"),
        (b"MAC-ADD 10.1.1.1 02:00:00:00:00:02\n", "already"),
        (b"MAC-ADD 10.1.1.2 02:00:00:00:00\n", "no MAC address"),
        (b"MAC-ADD 10.1.1.2 ff:ff:ff:ff:ff:ff\n", "single card"),
        (b"MAC-DELETE 10.1.1.2\n", "no MAC address is known"),
        (b"DANCE\n", "HELP"),
        (b"\xff\xfe\n", "UTF-8"),
        (long.as_slice(), "at most 256"),
    ] {
        let answer = talk.ask(command);
        assert!(answer.starts_with("ERROR ") && answer.contains(why), "{}: {answer}", text(command));
    }
    // An empty line is nothing, a carriage return no part of a line, and small letters are letters.
    assert_eq!(talk.ask(b"\n\r\nlookup 10.200.0.1\r\n"), "OK 10.0.0.0/8 10.1.1.1 eth0");
    assert_eq!(system.status("sequence"), 1);
    assert_eq!(talk.ask(b"SUBSCRIBE-MACS\n"), "OK", "whoever cannot take descriptors is not harmed");
    assert!(talk.ask(b"SUBSCRIBE-MACS\n").contains("already"));

    let mut babbler = Talk::to(&system);
    babbler.to.write_all(&[b'x'; 5_000]).unwrap();
    while !babbler.line().is_empty() {}
    assert_eq!(talk.ask(b"DELETE 10.0.0.0/8\n"), "OK 2", "only the one that sent no text was closed");
}

#[test]
fn a_client_is_sent_the_whole_table_and_then_every_change_before_its_own_answer() {
    let system = System::start();
    let mut first = Talk::to(&system);
    assert_eq!([first.line(), first.line()], ["TABLE 0 0\n", "END 0\n"]);
    first.to.write_all(b"CREATE 10.0.0.0/8 10.1.1.1 eth0\nCREATE 10.2.0.0/16 10.1.1.2 eth1\n").unwrap();
    let heard: Vec<_> = (0..4).map(|_| first.line()).collect();
    let changes =
        ["CHANGE 1 CREATE 10.0.0.0/8 10.1.1.1 eth0\n", "CHANGE 2 CREATE 10.2.0.0/16 10.1.1.2 eth1\n"];
    assert_eq!(heard, [changes[0], "OK 1\n", changes[1], "OK 2\n"]);

    let mut second = Talk::to(&system);
    let table: Vec<_> = (0..4).map(|_| second.line()).collect();
    let whole =
        ["TABLE 2 2\n", "ROUTE 10.0.0.0/8 10.1.1.1 eth0\n", "ROUTE 10.2.0.0/16 10.1.1.2 eth1\n", "END 2\n"];
    assert_eq!(table, whole);
    assert_eq!(first.ask(b"LOOKUP 10.2.3.4\n"), "OK 10.2.0.0/16 10.1.1.2 eth1", "the longest mask");
    assert_eq!(first.ask(b"LOOKUP 10.3.3.4\n"), "OK 10.0.0.0/8 10.1.1.1 eth0");
    assert_eq!(first.ask(b"DELETE 10.2.0.0/16\n"), "OK 3");
    assert_eq!(second.line(), "CHANGE 3 DELETE 10.2.0.0/16\n");
    system.manager.signal(Signal::USR1);
    assert_eq!(second.line(), "CHANGE 4 FLUSH\n");
}

#[test]
fn commands_come_from_the_keyboard_from_files_and_from_foreign_clients() {
    let mut system = System::start();
    system.type_in("CREATE 10.0.0.0/8 10.1.1.1 eth0\nnonsense\n");
    assert_eq!(answers(&system.manager, 1), ["OK 1"]);
    assert!(answers(&system.manager, 1)[0].contains("is no command"));
    system.type_in("LOOKUP 10.2");
    assert_eq!(system.command("SHOW")[1], "ROUTE 10.0.0.0/8 10.1.1.1 eth0", "half a line holds up nobody");
    // The keyboard's end is not the manager's, and ends a last line.
    system.type_in(".3.4");
    drop(system.manager.child.stdin.take());
    assert_eq!(answers(&system.manager, 1), ["OK 10.0.0.0/8 10.1.1.1 eth0"]);

    if has("python3") {
        let mut python = Foreign::python(&system);
        python.send("UPDATE 10.0.0.0/8 10.1.1.9 eth0\nMAC-ADD 10.1.1.9 02:00:00:00:00:09\n");
        assert_eq!(python.answers(2), ["OK 2", "OK 1"]);
    }
    if has("socat") {
        let mut socat = Foreign::socat(&system);
        socat.send("LOOKUP 10.2.3.4\nHELP\n");
        assert!(socat.answers(1)[0].starts_with("OK 10.0.0.0/8 "));
        assert!(socat.answers(1)[0].contains("MAC-DELETE"));
    }
    system.end();
    system.assert_nothing_left();
}

#[test]
fn a_file_of_commands_is_read_piece_by_piece() {
    let folder = tempfile::tempdir().unwrap();
    let commands: String =
        (0..1_000).map(|n| format!("CREATE 10.{}.{}.0/24 10.1.1.1 eth0\n", n / 250, n % 250)).collect();
    let file = folder.path().join("commands");
    std::fs::write(&file, commands).unwrap();
    let address = format!("unix:{}", folder.path().join("routes").display());
    let mut command = example("routing_table");
    command.args(["manager", &address]);
    command.stdin(File::open(&file).unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let mut manager =
        Running { child, stdout: crate::running::lines(stdout), stderr: crate::running::lines(stderr) };
    assert_eq!(answers(&manager, 1_000).last().map(String::as_str), Some("OK 1000"));
    let output = run(example("routing_table").args(["command", &address, "LOOKUP 10.3.249.7"]));
    assert_eq!(text(&output.stdout), "OK 10.3.249.0/24 10.1.1.1 eth0\n");
    let output = run(example("routing_table").args(["command", &address, "DELETE 10.4.0.0/24"]));
    assert_eq!(output.status.code(), Some(1));
    manager.signal(Signal::INT);
    assert_eq!(manager.wait().code(), Some(0));
}

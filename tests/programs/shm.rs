//! `shm_publish` and `shm_subscribe`, as their users run them, and the C programs that share a named object with
//! them.

use std::{fs, io::Write, path::Path, process::Command, thread, time::Instant};

use crate::running::{PATIENCE, Running, example, run, text};
use crate::support::shm::{ShmName, skip};
use ipc_reactor::Signal;
use tempfile::TempDir;

/// A publisher, and where it is.
struct Published {
    running: Running,
    address: String,
    _folder: TempDir,
}

impl Published {
    fn start(options: &[&str]) -> Published {
        let folder = tempfile::tempdir().unwrap();
        let address = format!("unix:{}", folder.path().join("rates").display());
        let running = Running::start(example("shm_publish").arg(&address).args(options));
        assert_eq!(running.stdout.recv_timeout(PATIENCE).unwrap(), "ready");
        Published { running, address, _folder: folder }
    }

    fn subscriber(&self, options: &[&str]) -> Running {
        let subscriber = Running::start(example("shm_subscribe").arg(&self.address).args(options));
        subscriber.says("subscribed at unix:");
        subscriber
    }

    fn line(&mut self, line: &str) {
        writeln!(self.running.stdin(), "{line}").unwrap();
    }
}

#[track_caller]
fn prints(running: &Running, line: &str) {
    assert_eq!(running.stdout.recv_timeout(PATIENCE).expect("a value"), line);
}

#[test]
fn lines_go_to_every_subscriber_in_each_way_of_notification() {
    let queue = ShmName::new();
    for way in ["doorbell", "socket", &format!("mq:{}", queue.0)] {
        let mut published = Published::start(&["--notify", way]);
        let by_queue = ["--every", "--queue", &queue.0];
        let options = if way.starts_with("mq:") { &by_queue[..] } else { &by_queue[..1] };
        let mut subscribers = vec![published.subscriber(options)];
        if !way.starts_with("mq:") {
            subscribers.push(published.subscriber(&["--every"]));
            subscribers.push(published.subscriber(&[]));
        }
        // One by one: they sleep at each.
        for line in ["1 EUR = 1.17 USD", "", "1 EUR = 1.18 USD"] {
            published.line(line);
            for subscriber in &subscribers {
                prints(subscriber, line);
            }
        }
        // The end of the input is the end of the publisher, and a message to each.
        drop(published.running.child.stdin.take());
        published.running.says("3 values published");
        assert_eq!(published.running.wait().code(), Some(0));
        for subscriber in &mut subscribers {
            subscriber.says("the publisher at unix:");
            assert_eq!(subscriber.wait().code(), Some(3), "{way}");
        }
    }
    assert!(!Path::new(&format!("/dev/mqueue{}", queue.0)).exists());
}

#[test]
fn a_killed_publisher_is_gone_with_a_clear_message() {
    let mut published = Published::start(&[]);
    let mut subscribers = [published.subscriber(&["--every"]), published.subscriber(&[])];
    published.line("the last");
    for subscriber in &subscribers {
        prints(subscriber, "the last");
    }
    published.running.child.kill().unwrap();
    for subscriber in &mut subscribers {
        let said = subscriber.says("is gone");
        assert!(said.ends_with("/rates is gone: closed by the peer"), "{said}");
        assert_eq!(subscriber.wait().code(), Some(3));
    }
}

#[test]
fn a_slow_subscriber_is_told_how_many_it_lost_and_holds_up_nobody() {
    let mut published = Published::start(&["--capacity", "7"]);
    let slow = published.subscriber(&["--every"]);
    let quick = published.subscriber(&[]);
    slow.signal(Signal::STOP);
    let lines: String = (1..=5000).map(|number| format!("{number}\n")).collect();
    published.running.stdin().write_all(lines.as_bytes()).unwrap();
    while quick.stdout.recv_timeout(PATIENCE).unwrap() != "5000" {}
    slow.signal(Signal::CONT);
    let lost = slow.says("values lost");
    let lost: u64 = lost.split(' ').nth(1).unwrap().parse().unwrap();
    assert_eq!(lost, 4993);
    for number in 4994..=5000 {
        prints(&slow, &number.to_string());
    }
}

#[test]
fn ctrl_c_ends_either_in_order() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut published = Published::start(&["--keep"]);
        let mut subscriber = published.subscriber(&["--every"]);
        subscriber.signal(signal);
        assert_eq!(subscriber.wait().code(), Some(0));

        published.line("kept");
        drop(published.running.child.stdin.take());
        let mut late = published.subscriber(&["--once"]);
        prints(&late, "kept");
        assert_eq!(late.wait().code(), Some(0), "one value was wanted");
        published.running.signal(signal);
        assert_eq!(published.running.wait().code(), Some(0));
        let path = published.address.strip_prefix("unix:").unwrap();
        assert!(!Path::new(path).exists(), "the socket's path is gone");
    }
}

#[test]
fn nothing_is_in_dev_shm_and_no_descriptor_is_left_of_those_who_have_gone() {
    let mut published = Published::start(&[]);
    let pid = published.running.child.id();
    let links = || {
        fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok())
    };
    let descriptors = || links().count();
    let fds_of_memory = || links().filter(|link| link.to_string_lossy().starts_with("/memfd:")).count();
    let mut before = None;
    for round in 0..20 {
        let mut subscriber = published.subscriber(&["--every"]);
        let line = round.to_string();
        published.line(&line);
        prints(&subscriber, &line);
        subscriber.child.kill().unwrap();
        subscriber.child.wait().unwrap();
        // Its hang-up is seen before the next one's connection, which comes after it.
        let mut barrier = published.subscriber(&["--once"]);
        assert_eq!(barrier.wait().code(), Some(0));
        let barrier = published.subscriber(&[]);
        prints(&barrier, &line);
        // The publisher closes its copies of what it has sent when the subscriber may have printed the value already.
        let since = Instant::now();
        while fds_of_memory() > 1 || *before.get_or_insert_with(descriptors) != descriptors() {
            assert!(since.elapsed() < PATIENCE, "{before:?} descriptors have become {}", descriptors());
            thread::yield_now();
        }
        drop(barrier);
    }
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    assert!(maps.contains("/memfd:ipc-segment") && !maps.contains("/dev/shm/"), "{maps}");
}

#[test]
fn a_line_that_is_too_long_is_said_and_the_rest_goes_on() {
    let mut published = Published::start(&["--size", "5"]);
    let subscriber = published.subscriber(&["--every"]);
    published.line("too long");
    published.line("short");
    prints(&subscriber, "short");
    drop(published.running.child.stdin.take());
    published.running.says("a value of 8 bytes exceeds payload_max 5");
    published.running.says("1 lines could not be published");
    assert_eq!(published.running.wait().code(), Some(1));
}

#[test]
fn what_cannot_work_is_said() {
    let cases: [(&str, &[&str], i32, &str); 8] = [
        ("shm_subscribe", &["unix:/nonexistent/rates"], 1, "is the publisher running?"),
        ("shm_subscribe", &["tcp:127.0.0.1:1"], 1, "use a Unix socket"),
        ("shm_subscribe", &[], 2, "--name"),
        ("shm_subscribe", &["--name", "/ipc-reactor-never-made", "--once"], 1, "cannot open"),
        ("shm_publish", &[], 2, "ADDRESS|TEXT"),
        ("shm_publish", &["tcp:127.0.0.1:0"], 1, "use unix:PATH"),
        ("shm_publish", &["unix:/x", "--notify", "pigeon"], 2, "doorbell, socket or mq:/NAME"),
        ("shm_publish", &["--name", "/ipc-reactor-never-made", "--unlink"], 1, "cannot unlink"),
    ];
    for (program, arguments, code, says) in cases {
        let output = run(example(program).args(arguments));
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{program} {arguments:?}: {said}");
        assert!(said.contains(says), "{program} {arguments:?}: {said}");
    }
    for program in ["shm_publish", "shm_subscribe"] {
        let output = run(example(program).arg("--help"));
        assert!(output.status.success() && text(&output.stdout).contains("Exit codes:"));
    }
}

const C_WRITER: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
int main(int argc, char **argv) {
    umask(022);
    int fd = shm_open(argv[1], O_CREAT | O_RDWR, 0666);
    if (fd < 0 || ftruncate(fd, 4096) < 0) return 1;
    char *ptr = mmap(0, 4096, PROT_WRITE, MAP_SHARED, fd, 0);
    if (ptr == MAP_FAILED) return 2;
    sprintf(ptr, "%s", argv[2]);
    return argc != 3;
}
"#;

const C_READER: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
int main(int argc, char **argv) {
    int fd = shm_open(argv[1], O_RDONLY, 0666);
    if (fd < 0) return 1;
    void *ptr = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
    if (ptr == MAP_FAILED) return 2;
    printf("%s", (char *)ptr);
    return argc != 2;
}
"#;

/// A C program, unless there is no compiler.
fn compiled(folder: &Path, name: &str, source: &str) -> Option<Command> {
    let (program, file) = (folder.join(name), folder.join(format!("{name}.c")));
    fs::write(&file, source).unwrap();
    match Command::new("cc").arg("-o").arg(&program).arg(&file).arg("-lrt").output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", text(&output.stderr));
            Some(Command::new(program))
        }
        Err(error) => {
            skip(&format!("a peer in C takes cc: {error}"));
            None
        }
    }
}

#[test]
fn by_name_with_c_programs() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut writer) = compiled(folder.path(), "writer", C_WRITER) else { return };
    let Some(mut reader) = compiled(folder.path(), "reader", C_READER) else { return };
    let name = ShmName::new();

    assert!(run(writer.args([&name.0, "Hello World"])).status.success());
    let mut watching = Running::start(example("shm_subscribe").args(["--name", &name.0]));
    prints(&watching, "Hello World");
    let once = run(example("shm_subscribe").args(["--name", &name.0, "--once"]));
    assert_eq!((once.status.code(), text(&once.stdout)), (Some(0), "Hello World\n".into()));

    let published = run(example("shm_publish").args(["--name", &name.0, "and back"]));
    assert!(published.status.success(), "{}", text(&published.stderr));
    assert_eq!(text(&run(reader.arg(&name.0)).stdout), "and back");
    prints(&watching, "and back");

    assert!(run(example("shm_publish").args(["--name", &name.0, "--unlink"])).status.success());
    watching.says("cannot open");
    assert_eq!(watching.wait().code(), Some(3));
    assert!(!Path::new(&name.path()).exists());

    // And with an object of our making.
    assert!(run(example("shm_publish").args(["--name", &name.0, "from Rust"])).status.success());
    assert_eq!(text(&run(&mut reader).stdout), "from Rust");
    let python = "import sys; print(open(sys.argv[1], 'rb').read().split(b'\\0')[0].decode())";
    match Command::new("python3").args(["-S", "-c", python, &name.path()]).output() {
        Ok(output) => assert_eq!(text(&output.stdout), "from Rust\n"),
        Err(error) => skip(&format!("a peer in Python takes python3: {error}")),
    }
}

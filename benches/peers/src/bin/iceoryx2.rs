//! iceoryx2, for the shared-memory side: a 64-byte sample published and received.
//!
//!     iceoryx2 loop N           one process and no wake-up: publish, receive
//!     iceoryx2 pingpong N       two processes, each woken by the other's event: N round trips
//!     iceoryx2 wake N           one process publishes a sample each time that the other sleeps; for counting
//!     iceoryx2 spin N [CPU]     two processes that spin: half a round trip
//!     iceoryx2 flood N [CPU]    one process publishes as fast as it can, the other, on CPU, spins and receives

use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use iceoryx2::port::{listener::Listener, notifier::Notifier, publisher::Publisher, subscriber::Subscriber};
use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::publish_subscribe::PortFactory;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
type Payload = [u8; 64];

fn stamped(i: u64) -> Payload {
    let mut payload = [0; 64];
    payload[..8].copy_from_slice(&i.to_ne_bytes());
    payload
}

fn stamp(payload: &Payload) -> u64 {
    u64::from_ne_bytes(payload[..8].try_into().unwrap())
}

fn report(start: Instant, messages: u64) {
    println!("{{\"elapsed_ns\": {}, \"messages\": {messages}}}", start.elapsed().as_nanos());
}

type Samples = PortFactory<ipc::Service, Payload, ()>;

/// A ring of the same length as in the other programs; when it is full, a sample overwrites the oldest (the default).
fn samples(node: &Node<ipc::Service>, name: &str) -> Result<Samples> {
    let service = node.service_builder(&name.try_into()?).publish_subscribe::<Payload>();
    Ok(service.subscriber_max_buffer_size(63).open_or_create()?)
}

fn publish_and_receive(node: &Node<ipc::Service>, name: &str, count: u64) -> Result<()> {
    let service = samples(node, name)?;
    let publisher = service.publisher_builder().create()?;
    let subscriber = service.subscriber_builder().create()?;
    let start = Instant::now();
    for i in 0..count {
        publisher.loan_uninit()?.write_payload(stamped(i)).send()?;
        let sample = subscriber.receive()?.ok_or("nothing received")?;
        assert_eq!(stamp(sample.payload()), i);
    }
    report(start, count);
    Ok(())
}

/// Both directions: a publisher and a subscriber; an event with each sample.
struct Link {
    publisher: Publisher<ipc::Service, Payload, ()>,
    subscriber: Subscriber<ipc::Service, Payload, ()>,
    notifier: Notifier<ipc::Service>,
    listener: Listener<ipc::Service>,
}

impl Link {
    fn new(node: &Node<ipc::Service>, out: &str, back: &str) -> Result<Self> {
        let samples_out = samples(node, out)?;
        let samples_back = samples(node, back)?;
        let events_out = node.service_builder(&out.try_into()?).event().open_or_create()?;
        let events_back = node.service_builder(&back.try_into()?).event().open_or_create()?;
        Ok(Self {
            publisher: samples_out.publisher_builder().create()?,
            subscriber: samples_back.subscriber_builder().create()?,
            notifier: events_out.notifier_builder().create()?,
            listener: events_back.listener_builder().create()?,
        })
    }

    fn publish(&self, payload: Payload) -> Result<()> {
        self.publisher.loan_uninit()?.write_payload(payload).send()?;
        Ok(())
    }

    fn spin(&self) -> Result<u64> {
        loop {
            if let Some(sample) = self.subscriber.receive()? {
                return Ok(stamp(sample.payload()));
            }
        }
    }

    fn send(&self, payload: Payload) -> Result<()> {
        self.publish(payload)?;
        self.notifier.notify()?;
        Ok(())
    }

    fn receive(&self) -> Result<Payload> {
        loop {
            // Before the samples are received: events that are not received fill the peer's queue.
            self.listener.blocking_wait(|_| {})?;
            if let Some(sample) = self.subscriber.receive()? {
                return Ok(*sample.payload());
            }
        }
    }
}

/// This program again, which ends with the other end's part of `mode`.
fn start_other(mode: &str, count: u64, name: &str, cpu: Option<&str>) -> Result<Child> {
    let program = std::env::current_exe()?;
    let mut command = match cpu {
        None => Command::new(program),
        Some(cpu) => {
            let mut command = Command::new("taskset");
            command.args(["-c", cpu]).arg(program);
            command
        }
    };
    Ok(command.args(["other", &count.to_string(), mode, name]).stdin(Stdio::null()).spawn()?)
}

fn pingpong(link: &Link, count: u64) -> Result<()> {
    let start = Instant::now();
    for i in 0..count {
        link.send(stamped(i))?;
        assert_eq!(stamp(&link.receive()?), i);
    }
    report(start, count);
    Ok(())
}

fn spin(link: &Link, count: u64) -> Result<()> {
    let mut round_trips_ns = Vec::with_capacity(count as usize);
    for i in 0..count {
        let start = Instant::now();
        link.publish(stamped(i))?;
        assert_eq!(link.spin()?, i);
        round_trips_ns.push(start.elapsed().as_nanos());
    }
    round_trips_ns.sort_unstable();
    let at = |percent| round_trips_ns[round_trips_ns.len() * percent / 100] / 2;
    println!("{{\"messages\": {count}, \"p50_ns\": {}, \"p99_ns\": {}}}", at(50), at(99));
    Ok(())
}

fn flood(link: &Link, count: u64) -> Result<()> {
    let start = Instant::now();
    for i in 0..count {
        link.publish(stamped(i))?;
    }
    let elapsed_ns = start.elapsed().as_nanos();
    let received = link.spin()?;
    println!("{{\"elapsed_ns\": {elapsed_ns}, \"messages\": {count}, \"received\": {received}}}");
    Ok(())
}

fn wake(link: &Link, count: u64, other: &Child) -> Result<()> {
    let stat = peers::open_stat(other.id())?;
    for i in 0..count {
        peers::await_sleep(&stat)?;
        link.send(stamped(i))?;
    }
    Ok(())
}

fn first(node: &Node<ipc::Service>, mode: &str, count: u64, cpu: Option<&str>) -> Result<()> {
    let name = own_name();
    let link = Link::new(node, &format!("{name}-ask"), &format!("{name}-answer"))?;
    let mut child = start_other(mode, count, &name, cpu)?;
    // The first sample of the other end shows that it is ready.
    link.receive()?;
    match mode {
        "pingpong" => pingpong(&link, count),
        "wake" => wake(&link, count, &child),
        "spin" => spin(&link, count),
        _ => flood(&link, count),
    }?;
    match child.wait()? {
        status if status.success() => Ok(()),
        status => Err(format!("the other end ended with {status}").into()),
    }
}

fn other(node: &Node<ipc::Service>, mode: &str, name: &str, count: u64) -> Result<()> {
    let link = Link::new(node, &format!("{name}-answer"), &format!("{name}-ask"))?;
    link.send(stamped(0))?;
    match mode {
        "pingpong" => (0..count).try_for_each(|_| link.send(link.receive()?)),
        "wake" => {
            for i in 0..count {
                assert_eq!(stamp(&link.receive()?), i);
            }
            Ok(())
        }
        "spin" => (0..count).try_for_each(|_| link.publish(stamped(link.spin()?))),
        _ => {
            let (mut received, mut last) = (0, 0);
            while last + 1 < count {
                (received, last) = (received + 1, link.spin()?);
            }
            link.publish(stamped(received))
        }
    }
}

fn own_name() -> String {
    format!("peers-{}", std::process::id())
}

fn main() -> Result<ExitCode> {
    set_log_level(LogLevel::Error);
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let node = NodeBuilder::new().create::<ipc::Service>()?;
    match args[..] {
        ["loop", n] => publish_and_receive(&node, &own_name(), n.parse()?)?,
        [mode @ ("pingpong" | "wake" | "spin" | "flood"), n] => first(&node, mode, n.parse()?, None)?,
        [mode @ ("pingpong" | "wake" | "spin" | "flood"), n, cpu] => {
            first(&node, mode, n.parse()?, Some(cpu))?
        }
        ["other", n, mode, name] => other(&node, mode, name, n.parse()?)?,
        _ => {
            eprintln!("usage: iceoryx2 loop|pingpong|wake|spin|flood N [CPU of the other end]");
            return Ok(ExitCode::from(2));
        }
    }
    Ok(ExitCode::SUCCESS)
}

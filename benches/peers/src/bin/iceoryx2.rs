//! iceoryx2, for the shared-memory side: a 64-byte sample published and received.
//!
//!     iceoryx2 loop N       one process and no wake-up: publish, receive
//!     iceoryx2 pingpong N   two processes, each woken by the other's event: N round trips

use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use iceoryx2::port::{listener::Listener, notifier::Notifier, publisher::Publisher, subscriber::Subscriber};
use iceoryx2::prelude::*;

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

fn publish_and_receive(node: &Node<ipc::Service>, name: &str, count: u64) -> Result<()> {
    let service = node.service_builder(&name.try_into()?).publish_subscribe::<Payload>().open_or_create()?;
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

/// One direction out, one in; an event with each sample.
struct Link {
    publisher: Publisher<ipc::Service, Payload, ()>,
    subscriber: Subscriber<ipc::Service, Payload, ()>,
    notifier: Notifier<ipc::Service>,
    listener: Listener<ipc::Service>,
}

impl Link {
    fn new(node: &Node<ipc::Service>, out: &str, back: &str) -> Result<Self> {
        let samples_out =
            node.service_builder(&out.try_into()?).publish_subscribe::<Payload>().open_or_create()?;
        let samples_back =
            node.service_builder(&back.try_into()?).publish_subscribe::<Payload>().open_or_create()?;
        let events_out = node.service_builder(&out.try_into()?).event().open_or_create()?;
        let events_back = node.service_builder(&back.try_into()?).event().open_or_create()?;
        Ok(Self {
            publisher: samples_out.publisher_builder().create()?,
            subscriber: samples_back.subscriber_builder().create()?,
            notifier: events_out.notifier_builder().create()?,
            listener: events_back.listener_builder().create()?,
        })
    }

    fn send(&self, payload: Payload) -> Result<()> {
        self.publisher.loan_uninit()?.write_payload(payload).send()?;
        self.notifier.notify()?;
        Ok(())
    }

    fn receive(&self) -> Result<Payload> {
        loop {
            // Before the look at the samples: events not taken fill the peer's queue.
            self.listener.blocking_wait_all(|_| {})?;
            if let Some(sample) = self.subscriber.receive()? {
                return Ok(*sample.payload());
            }
        }
    }
}

fn pingpong(node: &Node<ipc::Service>, name: &str, count: u64) -> Result<()> {
    let link = Link::new(node, &format!("{name}-ask"), &format!("{name}-answer"))?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["answer", &count.to_string(), name])
        .stdin(Stdio::null())
        .spawn()?;
    // The child's first sample says that it is there.
    link.receive()?;
    let start = Instant::now();
    for i in 0..count {
        link.send(stamped(i))?;
        assert_eq!(stamp(&link.receive()?), i);
    }
    report(start, count);
    child.wait()?;
    Ok(())
}

fn answer(node: &Node<ipc::Service>, name: &str, count: u64) -> Result<()> {
    let link = Link::new(node, &format!("{name}-answer"), &format!("{name}-ask"))?;
    link.send(stamped(0))?;
    for _ in 0..count {
        link.send(link.receive()?)?;
    }
    Ok(())
}

fn main() -> Result<ExitCode> {
    set_log_level(LogLevel::Error);
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let node = NodeBuilder::new().create::<ipc::Service>()?;
    let own_name = format!("peers-{}", std::process::id());
    match args[..] {
        ["loop", n] => publish_and_receive(&node, &own_name, n.parse()?)?,
        ["pingpong", n] => pingpong(&node, &own_name, n.parse()?)?,
        ["answer", n, name] => answer(&node, name, n.parse()?)?,
        _ => {
            eprintln!("usage: iceoryx2 loop|pingpong N");
            return Ok(ExitCode::from(2));
        }
    }
    Ok(ExitCode::SUCCESS)
}

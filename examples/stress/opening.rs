//! Opens the lanes: at the asked pace, a bounded number at a time, and again those that were lost.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd},
    rc::Rc,
    time::Duration,
};

use ipc_reactor::{
    Address, Cause, Context, Datagram, Delivery, FdSource, Framing, Interest, Key, Limit, PollSet, Progress,
    Queue, Ready, Session, SubscriptionHandler,
    shm::{Subscriber, Update},
};

use crate::{
    clock,
    connect::connect,
    engine::Run,
    lane::Way,
    plan::Plan,
    protocol::Protocol,
    record::Phase,
    schedule::{Arrival, Schedule},
    stamp,
    target::{Target, check_datagram, check_queue},
    usage::peer_pid,
};

/// Connections that are on their way at a time.
const AT_A_TIME: u32 = 256;
/// Before a connection that was lost or refused is made again.
const PAUSE: Duration = Duration::from_millis(100);

/// Lanes that are to be opened.
pub(crate) struct Opening {
    /// With the time before which they are not.
    waiting: VecDeque<(u64, u32)>,
    under_way: u32,
    pace: Option<Schedule>,
}

impl Opening {
    pub(crate) fn new(plan: &Plan) -> Opening {
        Opening {
            // The first is opened by itself.
            waiting: (1..plan.connections).map(|lane| (0, lane)).collect(),
            under_way: 0,
            pace: plan.ramp.map(|ramp| Schedule::new(Arrival::Constant, ramp, clock::now_ns(), 0)),
        }
    }

    fn next(&mut self, now_ns: u64) -> Option<u32> {
        let &(not_before_ns, lane) = self.waiting.front()?;
        if not_before_ns > now_ns || self.under_way >= AT_A_TIME {
            return None;
        }
        if let Some(pace) = &mut self.pace {
            if pace.next_ns() > now_ns {
                return None;
            }
            pace.advance();
        }
        self.waiting.pop_front();
        Some(lane)
    }
}

impl Run {
    /// Opens the first lane, and waits for it: if there is no server, the error comes at once.
    pub(crate) fn open_first(&mut self, set: &mut PollSet<Run>) -> io::Result<()> {
        match self.plan.target.clone() {
            Target::Connections(address) => {
                let socket = connect(&address, self.plan.timeout)?;
                if self.plan.target.is_seqpacket() {
                    check_datagram(&socket, &address, self.request_max())?;
                }
                if self.plan.server_pid.is_none() && !matches!(address, Address::Tcp(_)) {
                    self.plan.server_pid = peer_pid(&socket);
                }
                self.opening.under_way += 1;
                set.adopt(socket, Framing::raw(), Caller { lane: 0 }).map(drop)
            }
            Target::Memory(address) => {
                // Only checks whether there is a server.
                drop(connect(&address, self.plan.timeout)?);
                self.open(0, set)
            }
            Target::Datagrams(_) | Target::Queue { .. } => self.open(0, set),
        }
    }

    fn request_max(&self) -> usize {
        self.plan.protocol.wire_max(self.plan.sizes).0
    }

    /// Opens what may be opened now; begins the load when there is no more to wait for.
    pub(crate) fn open_more(&mut self, set: &mut PollSet<Run>) {
        if !self.wants_lanes() {
            return;
        }
        let now_ns = clock::now_ns();
        while let Some(lane) = self.opening.next(now_ns) {
            if let Err(error) = self.open(lane, set) {
                self.record.error(self.phase, format!("cannot connect: {error}"));
                self.lost(lane);
            }
        }
        if self.phase == Phase::Connect && self.opening.waiting.is_empty() && self.opening.under_way == 0 {
            self.start(set);
        }
    }

    fn open(&mut self, lane: u32, set: &mut PollSet<Run>) -> io::Result<()> {
        match &self.plan.target {
            Target::Connections(address) => {
                set.connect(address, Framing::raw(), Caller { lane })?;
                self.opening.under_way += 1;
                Ok(())
            }
            Target::Memory(address) => {
                set.connect_subscriber(address, Delivery::Every, Reader { lane })?;
                self.opening.under_way += 1;
                Ok(())
            }
            Target::Datagrams(address) => {
                let socket = Rc::new(Datagram::connected(address).map_err(|error| {
                    io::Error::new(error.kind(), format!("{address}: {error}; is the server running?"))
                })?);
                check_datagram(&*socket, address, self.request_max())?;
                let receiver = Receiver { way: socket.clone(), lane };
                set.fd_source(receiver, Interest::READABLE | Interest::WRITABLE)?;
                self.up(lane, Way::Datagram(socket), set);
                Ok(())
            }
            Target::Queue { requests, answers } => {
                let queue = Queue::options().write(true).nonblocking(true).open(requests)?;
                check_queue(&queue, requests, self.request_max())?;
                let queue = Rc::new(queue);
                if let Some(name) = answers {
                    let from = Queue::options().read(true).nonblocking(true).open(name)?;
                    self.buffer.resize(from.message_size(), 0);
                    // Answers that an earlier run did not wait for bear the same numbers.
                    while from.try_recv(&mut self.buffer)?.is_some() {}
                    set.fd_source(Receiver { way: Rc::new(from), lane }, Interest::READABLE)?;
                }
                // Each message that the server takes is an edge here.
                set.fd_source(Room { queue: queue.clone(), lane }, Interest::WRITABLE)?;
                self.up(lane, Way::Queue(queue), set);
                Ok(())
            }
        }
    }

    /// It is to be opened again, unless it is the load that has not begun: then it stays away, and is counted.
    fn lost(&mut self, lane: u32) {
        if self.phase != Phase::Connect && self.wants_lanes() {
            self.opening.waiting.push_back((clock::now_ns() + PAUSE.as_nanos() as u64, lane));
        }
    }

    /// In a drain only those that wait to be sent still want any.
    fn wants_lanes(&self) -> bool {
        self.phase != Phase::Drain || self.dispatch.waiting() > 0
    }

    fn opened(&mut self, lane: u32, key: Key, set: &mut PollSet<Run>) {
        self.opening.under_way -= 1;
        // An adder takes each number as a record.
        let record_each =
            (self.plan.target.is_seqpacket() && self.plan.protocol == Protocol::Adder).then_some(4);
        self.up(lane, Way::Connection { key, record_each }, set);
        self.open_more(set);
    }

    fn closed(&mut self, lane: u32, cause: &Cause, set: &mut PollSet<Run>) {
        if matches!(cause, Cause::Stop) {
            return self.down(lane, "not waited for");
        }
        self.reach(clock::now_ns());
        if self.lanes[lane as usize].is_up() {
            let owed = !self.lanes[lane as usize].asked.is_empty();
            self.withdraw(lane);
            match cause {
                Cause::Closed => self.down(lane, "its connection was given up"),
                cause => self.down(lane, &cause.to_string()),
            }
            if !owed && !matches!(cause, Cause::Closed) {
                self.record.error(self.phase, format!("connection lost: {cause}"));
            }
        } else {
            self.opening.under_way -= 1;
            self.record.error(
                self.phase,
                match cause {
                    Cause::Connect(error) => format!("cannot connect: {error}"),
                    Cause::Limit(Limit::Connect) => format!("no connection within {:?}", self.plan.timeout),
                    cause => format!("cannot connect: {cause}"),
                },
            );
        }
        self.lost(lane);
        self.open_more(set);
        self.pump(set);
    }
}

/// A connection's session: raw bytes either way, which the lane knows how to read.
struct Caller {
    lane: u32,
}

impl Session<Run> for Caller {
    fn on_open(&mut self, cx: &mut Context<'_, Run>, run: &mut Run) -> io::Result<()> {
        run.opened(self.lane, cx.key(), cx);
        Ok(())
    }

    fn on_request(&mut self, bytes: &[u8], cx: &mut Context<'_, Run>, run: &mut Run) -> io::Result<()> {
        if !run.arrived(self.lane, bytes, cx) {
            let key = cx.key();
            cx.abort(key);
        }
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, Run>, run: &mut Run) {
        run.closed(self.lane, cause, cx);
    }
}

/// Where messages come in: a datagram socket, which also reports room for more, or a queue of answers.
struct Receiver<T> {
    way: Rc<T>,
    lane: u32,
}

impl<T: AsFd> AsFd for Receiver<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.way.as_fd()
    }
}

impl FdSource<Run> for Receiver<Datagram> {
    fn on_ready(&mut self, _: Ready, cx: &mut Context<'_, Run>, run: &mut Run) -> io::Result<Progress> {
        run.unblock(self.lane, cx);
        let mut buffer = std::mem::take(&mut run.buffer);
        let received = self.way.recv_from(&mut buffer);
        if let Ok(received) = &received {
            run.arrived(self.lane, &buffer[..received.len], cx);
        }
        run.buffer = buffer;
        match received {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                run.record.error(run.phase, error.to_string());
                Ok(Progress::More)
            }
            received => received.map(|_| Progress::More),
        }
    }
}

impl FdSource<Run> for Receiver<Queue> {
    fn on_ready(&mut self, _: Ready, cx: &mut Context<'_, Run>, run: &mut Run) -> io::Result<Progress> {
        let mut buffer = std::mem::take(&mut run.buffer);
        let received = self.way.try_recv(&mut buffer);
        if let Ok(Some(received)) = &received {
            run.arrived(self.lane, &buffer[..received.len], cx);
        }
        run.buffer = buffer;
        Ok(if received?.is_some() { Progress::More } else { Progress::Drained })
    }
}

/// Reports room in a queue.
struct Room {
    queue: Rc<Queue>,
    lane: u32,
}

impl AsFd for Room {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

impl FdSource<Run> for Room {
    fn on_ready(&mut self, _: Ready, cx: &mut Context<'_, Run>, run: &mut Run) -> io::Result<Progress> {
        run.unblock(self.lane, cx);
        Ok(Progress::Drained)
    }
}

/// A subscription to shared memory.
struct Reader {
    lane: u32,
}

impl SubscriptionHandler<Run> for Reader {
    fn on_open(
        &mut self,
        subscriber: &Subscriber,
        cx: &mut Context<'_, Run>,
        run: &mut Run,
    ) -> io::Result<()> {
        stamp::check(subscriber)?;
        run.opened(self.lane, cx.key(), cx);
        Ok(())
    }

    fn on_update(
        &mut self,
        update: Update<&[u8]>,
        _: &mut Context<'_, Run>,
        run: &mut Run,
    ) -> io::Result<()> {
        match update {
            Update::Value(value) => {
                let (intended_ns, sent_ns) = stamp::read(value)?;
                run.published(self.lane, intended_ns, sent_ns, value.len());
            }
            Update::Lost(count) => {
                for _ in 0..count {
                    run.record.missing += 1;
                    run.record.error(run.phase, "overwritten before it was read");
                }
            }
        }
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, Run>, run: &mut Run) {
        run.closed(self.lane, cause, cx);
    }
}

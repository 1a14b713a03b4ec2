//! The way of a request: sent when it is due and there is room, answered, or given up.

use std::{mem, time::Duration};

use ipc_reactor::PollSet;

use crate::{
    clock,
    dispatch::Due,
    engine::Run,
    lane::{Arrived, Asked, Way},
    plan::Load,
    protocol::Protocol,
    record::{Phase, Times},
    target::Target,
};

/// Requests sent in one go: answers wait meanwhile.
const BATCH: usize = 256;

impl Run {
    /// Sends what is due, as far as there is room, and sees to it that it is called again for what is due next.
    pub(crate) fn pump(&mut self, set: &mut PollSet<Run>) {
        for _ in 0..BATCH {
            let now_ns = clock::now_ns();
            let Some((due, lane)) = self.dispatch.next(now_ns) else {
                if let Some(upcoming_ns) = self.dispatch.upcoming_ns() {
                    self.alarm(now_ns, upcoming_ns, set);
                }
                return;
            };
            let mut request = mem::take(&mut self.request);
            let expected = self.requests.make(&mut request);
            let sent = self.lanes[lane as usize].send(&request, set);
            let asked = Asked { due, sent_ns: now_ns, expected, bytes: request.len() };
            self.request = request;
            match sent {
                Ok(true) => self.sent(lane, asked),
                Ok(false) => {
                    self.record.no_room += 1;
                    self.dispatch.put_back(due);
                    self.blocked.push(lane);
                }
                Err(error) => {
                    self.record.requests += u64::from(self.is_measured(due.intended_ns));
                    self.record.missing += 1;
                    self.record.error(self.phase, format!("cannot send: {error}"));
                    self.blocked.push(lane);
                }
            }
        }
        let now_ns = clock::now_ns();
        self.alarm(now_ns, now_ns, set);
    }

    /// Has `pump` called at `due_ns`, or sooner.
    fn alarm(&mut self, now_ns: u64, due_ns: u64, set: &mut PollSet<Run>) {
        if self.alarm_ns <= due_ns {
            return;
        }
        self.alarm_ns = due_ns;
        set.after(Duration::from_nanos(due_ns.saturating_sub(now_ns)), move |cx, run: &mut Run| {
            // If not, a sooner one has taken its place.
            if run.alarm_ns == due_ns {
                run.alarm_ns = u64::MAX;
                run.reach(clock::now_ns());
                run.pump(cx);
            }
            Ok(())
        });
    }

    fn sent(&mut self, lane: u32, asked: Asked) {
        let Due { intended_ns, held } = asked.due;
        if self.is_measured(intended_ns) {
            self.record.requests += 1;
            self.record.bytes_out += asked.bytes as u64;
            if !held {
                self.record.lag.saturating_record(asked.sent_ns.saturating_sub(intended_ns));
            }
        }
        if self.plan.protocol == Protocol::OneWay {
            self.answered(lane, asked, 0, clock::now_ns());
        } else {
            self.lanes[lane as usize].asked.push_back(asked);
        }
    }

    /// The lane has room for one request more.
    pub(crate) fn release(&mut self, lane: u32) {
        let takes_part = self.lanes[lane as usize].is_up() && self.lanes[lane as usize].is_active;
        if takes_part && self.plan.load != Load::Published {
            self.dispatch.release(lane);
        }
    }

    fn answered(&mut self, lane: u32, asked: Asked, bytes: usize, now_ns: u64) {
        let intended_ns = asked.due.intended_ns;
        let times = Times { intended_ns, sent_ns: Some(asked.sent_ns), ended_ns: now_ns };
        let measured = self.is_measured(intended_ns);
        self.record.bytes_in += if measured { bytes as u64 } else { 0 };
        self.record.answered(self.phase, times, measured);
        self.release(lane);
    }

    /// Takes in what a lane has received: on a stream any number of answers, else one message. False: the lane is of no
    /// more use.
    pub(crate) fn arrived(&mut self, lane: u32, mut bytes: &[u8], set: &mut PollSet<Run>) -> bool {
        let now_ns = clock::now_ns();
        self.reach(now_ns);
        if self.plan.protocol == Protocol::OneWay {
            // A server that answers all the same.
            return true;
        }
        let is_message = !matches!(self.plan.target, Target::Connections(_));
        let is_record = self.plan.target.is_seqpacket();
        loop {
            let state = &mut self.lanes[lane as usize];
            let owed = state.asked.len();
            let arrived = match is_message {
                true => state.message(bytes, &self.requests),
                false => state.stream(bytes, is_record, &self.requests),
            };
            match arrived {
                Arrived::Answer(asked, used) => {
                    self.answered(lane, asked, used, now_ns);
                    bytes = &bytes[used..];
                }
                Arrived::Partial => break,
                Arrived::Stray => self.record.error(self.phase, "an answer that came too late, or twice"),
                Arrived::Wrong(why) => {
                    self.record.wrong += 1;
                    self.record.error(self.phase, "wrong answer");
                    self.record.first_wrong.get_or_insert(why);
                    if !is_message {
                        // The beginning of the next answer is unknown.
                        return false;
                    }
                    if self.lanes[lane as usize].asked.len() < owed {
                        self.release(lane);
                    }
                }
            }
            if bytes.is_empty() || is_message {
                break;
            }
        }
        self.pump(set);
        true
    }

    /// A value from a publisher in shared memory, which says when it was due and when it was published.
    pub(crate) fn published(&mut self, lane: u32, intended_ns: u64, sent_ns: u64, bytes: usize) {
        let now_ns = clock::now_ns();
        self.reach(now_ns);
        self.lanes[lane as usize].last_due_ns = intended_ns;
        if self.phase == Phase::Connect || intended_ns < self.origin_ns {
            return;
        }
        let measured = self.is_measured(intended_ns);
        if measured {
            self.record.requests += 1;
            self.record.bytes_in += bytes as u64;
            self.record.lag.saturating_record(sent_ns.saturating_sub(intended_ns));
        }
        let times = Times { intended_ns, sent_ns: Some(sent_ns), ended_ns: now_ns };
        self.record.answered(self.phase, times, measured);
    }

    /// Gives up what has waited for too long.
    pub(crate) fn expire(&mut self, now_ns: u64, set: &mut PollSet<Run>) {
        let before_ns = now_ns.saturating_sub(self.plan.timeout.as_nanos() as u64);
        while let Some(Due { intended_ns, .. }) = self.dispatch.expire(before_ns) {
            let measured = self.is_measured(intended_ns);
            self.record.requests += u64::from(measured);
            let why = format!("not sent within {:?}: no connection had room", self.plan.timeout);
            let times = Times { intended_ns, sent_ns: None, ended_ns: now_ns };
            self.record.given_up(self.phase, times, measured, why);
        }
        for lane in 0..self.lanes.len() {
            while let Some(&asked) = self.lanes[lane].asked.front().filter(|asked| asked.sent_ns <= before_ns)
            {
                self.lanes[lane].asked.pop_front();
                let intended_ns = asked.due.intended_ns;
                let times = Times { intended_ns, sent_ns: Some(asked.sent_ns), ended_ns: now_ns };
                let why = format!("no answer within {:?}", self.plan.timeout);
                self.record.given_up(self.phase, times, self.is_measured(intended_ns), why);
                match self.lanes[lane].way {
                    // Its answer may still come, and would be taken for the next one's.
                    Way::Connection { key, .. } => {
                        set.abort(key);
                        break;
                    }
                    _ => self.release(lane as u32),
                }
            }
        }
    }

    /// There may be room now, on this lane.
    pub(crate) fn unblock(&mut self, lane: u32, set: &mut PollSet<Run>) {
        let before = self.blocked.len();
        self.blocked.retain(|&blocked| blocked != lane);
        for _ in self.blocked.len()..before {
            self.release(lane);
        }
        if self.blocked.len() < before {
            self.pump(set);
        }
    }

    /// Perhaps there is room somewhere.
    pub(crate) fn unblock_all(&mut self, set: &mut PollSet<Run>) {
        for lane in mem::take(&mut self.blocked) {
            self.release(lane);
        }
        self.pump(set);
    }

    /// The lane's connection is closed, and its outstanding answers are lost.
    pub(crate) fn down(&mut self, lane: u32, why: &str) {
        let state = &mut self.lanes[lane as usize];
        state.way = Way::None;
        state.received = 0;
        let owed = mem::take(&mut state.asked);
        for _ in owed {
            self.record.missing += 1;
            self.record.error(self.phase, format!("no answer: {why}"));
        }
    }

    /// It is not to be asked any more, until it is up again.
    pub(crate) fn withdraw(&mut self, lane: u32) {
        self.dispatch.withdraw(lane);
        self.blocked.retain(|&blocked| blocked != lane);
    }

    /// A lane is open (again).
    pub(crate) fn up(&mut self, lane: u32, way: Way, set: &mut PollSet<Run>) {
        self.lanes[lane as usize].way = way;
        if self.phase != Phase::Connect {
            for _ in 0..self.plan.pipeline {
                self.release(lane);
            }
            self.pump(set);
        }
    }
}

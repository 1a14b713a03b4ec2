//! Sessions on either end, and what they record.

use std::io;

use ipc_reactor::{Cause, Context, Session};

/// What has happened, a line each.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) lines: Vec<String>,
}

/// Sends a message when its connection is established, and finishes after so many answers; the reactor stops with it.
pub(crate) struct Asker {
    name: &'static str,
    answers: usize,
}

impl Asker {
    pub(crate) fn new(name: &'static str) -> Asker {
        Asker { name, answers: usize::MAX }
    }

    pub(crate) fn answers(mut self, count: usize) -> Asker {
        self.answers = count;
        self
    }
}

impl Session<Told> for Asker {
    fn on_open(&mut self, cx: &mut Context<'_, Told>, told: &mut Told) -> io::Result<()> {
        told.lines.push(format!("{} open", self.name));
        cx.reply_frame(b"open")
    }

    fn on_request(&mut self, answer: &[u8], cx: &mut Context<'_, Told>, told: &mut Told) -> io::Result<()> {
        told.lines.push(format!("{} got {}", self.name, String::from_utf8_lossy(answer)));
        self.answers -= 1;
        if self.answers == 0 {
            cx.finish();
        }
        Ok(())
    }

    fn on_close(&mut self, cause: &Cause, cx: &mut Context<'_, Told>, told: &mut Told) {
        told.lines.push(format!("{} closed: {cause}", self.name));
        if !matches!(cause, Cause::Limit(_)) || cx.stats().clients == 0 {
            cx.stop();
        }
    }
}

pub(crate) struct Echo;

impl<S> Session<S> for Echo {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, S>, _: &mut S) -> io::Result<()> {
        cx.reply_frame(request)
    }
}

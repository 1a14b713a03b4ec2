//! A pipe's outbox as a source.

use std::io;

use crate::{
    pipe::Outbox,
    set::{
        context::Context,
        handlers::{FdSource, Progress},
    },
    types::ready::Ready,
};

impl<S> FdSource<S> for Outbox {
    fn on_ready(&mut self, ready: Ready, _: &mut Context<'_, S>, _: &mut S) -> io::Result<Progress> {
        if ready.is_write_closed() {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the pipe has no reader any more"));
        }
        self.flush()?;
        Ok(Progress::Drained)
    }
}

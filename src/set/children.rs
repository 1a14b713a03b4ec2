//! Children that are reaped by SIGCHLD.

use crate::{
    children::{Exit, Reaper},
    types::key::Key,
};

pub(crate) struct Children {
    pub(crate) reaper: Reaper,
    /// The source whose handler is called with the exits.
    pub(crate) source: Option<Key>,
    /// Kept between visits, so that a visit allocates nothing.
    exits: Vec<Exit>,
}

impl Default for Children {
    fn default() -> Children {
        Children { reaper: Reaper::new(), source: None, exits: Vec::new() }
    }
}

impl Children {
    /// The children that have ended. [`give_back`](Children::give_back) returns the list.
    pub(crate) fn reap(&mut self) -> Vec<Exit> {
        let mut exits = std::mem::take(&mut self.exits);
        self.reaper.reap(|exit| exits.push(exit));
        exits
    }

    pub(crate) fn give_back(&mut self, mut exits: Vec<Exit>) {
        exits.clear();
        self.exits = exits;
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;
    use crate::children::{PidFd, spawn};

    fn ended(children: &mut Children, command: &str) -> u32 {
        let child = spawn(&mut Command::new(command)).unwrap();
        let pidfd = PidFd::from_child(&child).unwrap();
        let pid = children.reaper.watch(child);
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).unwrap();
        pid
    }

    #[test]
    fn each_exit_is_reported_once_and_the_list_is_kept() {
        let mut children = Children::default();
        assert!(children.reap().is_empty());
        let pids = [ended(&mut children, "true"), ended(&mut children, "false")];
        let exits = children.reap();
        let codes = exits.iter().map(|exit| (exit.pid, exit.status.and_then(|status| status.code())));
        assert!(codes.eq([(pids[0], Some(0)), (pids[1], Some(1))]));
        let room = exits.capacity();
        children.give_back(exits);
        let none = children.reap();
        assert_eq!((none.len(), none.capacity(), children.reaper.len()), (0, room, 0));
    }
}

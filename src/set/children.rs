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

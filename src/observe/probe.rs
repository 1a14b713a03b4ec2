//! Whether observers are told, as a type: the loop is one text, compiled once with them and once without.

pub(crate) trait Probe {
    const ON: bool;
}

/// There are no observers, and requests are not logged: nothing is asked on their behalf.
pub(crate) struct Off;

/// There are observers, or each request is logged.
pub(crate) struct On;

impl Probe for Off {
    const ON: bool = false;
}

impl Probe for On {
    const ON: bool = true;
}

//! Whether there are observers, as a type: the loop is compiled twice, with and without them.

pub(crate) trait Probe {
    const ON: bool;
}

/// There are no observers, and requests are not logged: the loop checks for neither.
pub(crate) struct Off;

/// There are observers, or each request is logged.
pub(crate) struct On;

impl Probe for Off {
    const ON: bool = false;
}

impl Probe for On {
    const ON: bool = true;
}

//! How a queue is opened or created, and what a refusal by the kernel means.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};

use super::Queue;
use crate::sys::mq;

/// The longest name in bytes, its slash not counted: `NAME_MAX`.
const NAME_MAX: usize = 255;

/// What even `CAP_SYS_RESOURCE` cannot exceed (`HARD_MSGMAX` and `HARD_MSGSIZEMAX` of the kernel).
const CAPACITY_MAX: usize = 65_536;
const MESSAGE_SIZE_MAX: usize = 16 << 20;

/// How often an opener may lose the race against others who create and unlink the same name.
const OPEN_ATTEMPTS: usize = 16;

/// What a [`Queue`] is to be opened for, and how it is made where it does not exist: `mq_open(3)`.
///
/// Modelled on [`std::fs::OpenOptions`]. Without further ado an existing queue is opened, to send and to
/// receive, with calls that wait.
///
/// ```no_run
/// # fn main() -> std::io::Result<()> {
/// use ipc_reactor::queue::Queue;
///
/// let jobs = Queue::options().read(true).create(true).mode(0o622).message_size(512).open("/adder-jobs")?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct QueueOptions {
    read: bool,
    write: bool,
    create: bool,
    create_new: bool,
    mode: u32,
    capacity: Option<usize>,
    message_size: Option<usize>,
    nonblocking: bool,
    trusted_owner: Option<u32>,
}

impl Default for QueueOptions {
    fn default() -> QueueOptions {
        QueueOptions {
            read: false,
            write: false,
            create: false,
            create_new: false,
            mode: 0o600,
            capacity: None,
            message_size: None,
            nonblocking: false,
            trusted_owner: None,
        }
    }
}

impl QueueOptions {
    /// Whether to receive. Where neither this nor [`write`](Self::write) is asked, both are meant.
    pub fn read(&mut self, read: bool) -> &mut Self {
        self.read = read;
        self
    }

    /// Whether to send. Where neither this nor [`read`](Self::read) is asked, both are meant.
    pub fn write(&mut self, write: bool) -> &mut Self {
        self.write = write;
        self
    }

    /// Creates the queue where it does not exist.
    ///
    /// One that exists is opened only if it belongs to this user, to root or to the
    /// [`trusted_owner`](Self::trusted_owner), and is not open to more users than [`mode`](Self::mode) would
    /// make it: anyone can create a queue under a name first, and then read what was meant for another.
    pub fn create(&mut self, create: bool) -> &mut Self {
        self.create = create;
        self
    }

    /// Creates the queue, and fails where it exists already. [`create`](Self::create) then does not matter.
    pub fn create_new(&mut self, create_new: bool) -> &mut Self {
        self.create_new = create_new;
        self
    }

    /// The permissions of a queue that is created; by default `0o600`. The queue gets exactly these, whatever
    /// the umask is.
    ///
    /// To send one needs write permission, to receive read permission: `0o622` lets everyone send to its
    /// owner.
    pub fn mode(&mut self, mode: u32) -> &mut Self {
        self.mode = mode;
        self
    }

    /// How many messages a queue that is created holds; by default what `/proc/sys/fs/mqueue/msg_default`
    /// says, mostly 10.
    ///
    /// An existing queue keeps its own: see [`Queue::attributes`]. The most is `/proc/sys/fs/mqueue/msg_max`,
    /// or with `CAP_SYS_RESOURCE` 65,536.
    pub fn capacity(&mut self, messages: usize) -> &mut Self {
        self.capacity = Some(messages);
        self
    }

    /// The longest message in bytes of a queue that is created; by default what
    /// `/proc/sys/fs/mqueue/msgsize_default` says, mostly 8,192.
    ///
    /// An existing queue keeps its own: see [`Queue::message_size`]. The most is
    /// `/proc/sys/fs/mqueue/msgsize_max`, or with `CAP_SYS_RESOURCE` 16 MiB.
    pub fn message_size(&mut self, bytes: usize) -> &mut Self {
        self.message_size = Some(bytes);
        self
    }

    /// Whether calls fail with [`WouldBlock`](ErrorKind::WouldBlock) where they would wait, from the start.
    pub fn nonblocking(&mut self, nonblocking: bool) -> &mut Self {
        self.nonblocking = nonblocking;
        self
    }

    /// Accepts an existing queue of user `uid`, beside those of this user and of root, and of nobody else.
    ///
    /// A client that knows its server's user asks this, lest it talks to whoever took the name first. Without
    /// it, [`create`](Self::create) accepts this user's and root's, and plain opening accepts anyone's.
    pub fn trusted_owner(&mut self, uid: u32) -> &mut Self {
        self.trusted_owner = Some(uid);
        self
    }

    /// Opens the queue `name`: a slash, then 1 to 255 bytes with no further slash, as `/adder-jobs`.
    ///
    /// # Errors
    /// - [`InvalidInput`](ErrorKind::InvalidInput): the name, mode, capacity or message size cannot be; the
    ///   message names the limit.
    /// - [`NotFound`](ErrorKind::NotFound): there is no such queue, and none was to be created.
    /// - [`AlreadyExists`](ErrorKind::AlreadyExists): there is one, with [`create_new`](Self::create_new).
    /// - [`PermissionDenied`](ErrorKind::PermissionDenied): the queue's mode forbids it, or the queue is not
    ///   to be trusted (see [`create`](Self::create)).
    /// - [`QuotaExceeded`](ErrorKind::QuotaExceeded): the user's queues would take more memory than
    ///   `RLIMIT_MSGQUEUE` (for which C has `EMFILE`).
    /// - [`StorageFull`](ErrorKind::StorageFull): the system has as many queues as
    ///   `/proc/sys/fs/mqueue/queues_max` allows.
    /// - The plain `EMFILE` or `ENFILE`: no descriptor is free.
    pub fn open(&self, name: &str) -> io::Result<Queue> {
        let path = checked_name(name)?;
        if self.mode & !0o777 != 0 {
            return Err(invalid(format!(
                "queue mode {:#o} has more than permission bits; use at most 0o777",
                self.mode
            )));
        }
        if self.create_new {
            return Queue::try_from(self.make(&path).map_err(|error| self.explain_create(name, error))?);
        }
        let mut attempts = if self.create { OPEN_ATTEMPTS } else { 1 };
        loop {
            attempts -= 1;
            // Create and open are two calls, as one O_CREAT would not tell whose queue it opened.
            if self.create {
                match self.make(&path) {
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                    made => return Queue::try_from(made.map_err(|error| self.explain_create(name, error))?),
                }
            }
            match mq::open(&path, self.flags()) {
                Err(error) if error.kind() == ErrorKind::NotFound && attempts > 0 => {}
                opened => {
                    let queue = Queue::try_from(opened.map_err(|error| explain_open(name, error))?)?;
                    self.check_trust(name, &queue)?;
                    return Ok(queue);
                }
            }
        }
    }

    fn make(&self, path: &CStr) -> io::Result<OwnedFd> {
        let attributes = (self.capacity.is_some() || self.message_size.is_some()).then(|| {
            let (capacity, message_size) = self.sizes();
            let mut asked = mq::attributes();
            // What is too large for `long` is too large for the kernel, which says so.
            asked.mq_maxmsg = capacity.try_into().unwrap_or(libc::c_long::MAX);
            asked.mq_msgsize = message_size.try_into().unwrap_or(libc::c_long::MAX);
            asked
        });
        let fd = mq::create(path, self.flags(), self.mode, attributes.as_ref())?;
        // The umask can only have narrowed the mode, so nobody unwanted came in before this.
        if let Err(error) = mq::fchmod(fd.as_fd(), self.mode) {
            let _ = mq::unlink(path);
            return Err(error);
        }
        Ok(fd)
    }

    fn flags(&self) -> libc::c_int {
        let access = match (self.read, self.write) {
            (true, false) => libc::O_RDONLY,
            (false, true) => libc::O_WRONLY,
            _ => libc::O_RDWR,
        };
        if self.nonblocking { access | libc::O_NONBLOCK } else { access }
    }

    /// Capacity and message size as the kernel would choose them where they were not asked.
    fn sizes(&self) -> (usize, usize) {
        let default = |kind: &str, otherwise: usize| {
            let default = limit(&format!("{kind}_default")).unwrap_or(otherwise);
            default.min(limit(&format!("{kind}_max")).unwrap_or(otherwise))
        };
        (
            self.capacity.unwrap_or_else(|| default("msg", 10)),
            self.message_size.unwrap_or_else(|| default("msgsize", 8192)),
        )
    }

    fn check_trust(&self, name: &str, queue: &Queue) -> io::Result<()> {
        if !self.create && self.trusted_owner.is_none() {
            return Ok(());
        }
        let owner = queue.owner()?;
        if ![mq::effective_uid(), 0].contains(&owner.uid) && self.trusted_owner != Some(owner.uid) {
            return Err(io::Error::new(
                ErrorKind::PermissionDenied,
                format!(
                    "queue {name} belongs to user {}, who is not trusted; \
                     unlink it, or name that user as trusted_owner",
                    owner.uid
                ),
            ));
        }
        if self.create && owner.mode & !self.mode != 0 {
            return Err(io::Error::new(
                ErrorKind::PermissionDenied,
                format!(
                    "queue {name} exists with mode {:#o}, looser than {:#o} as asked; \
                     unlink it, or ask for that mode",
                    owner.mode, self.mode
                ),
            ));
        }
        Ok(())
    }

    fn explain_create(&self, name: &str, error: io::Error) -> io::Error {
        let (capacity, message_size) = self.sizes();
        match error.raw_os_error() {
            Some(libc::EINVAL) => impossible(capacity, message_size).map_or(error, invalid),
            // Two limits share this errno, and the descriptors' is tried first.
            Some(libc::EMFILE) if !descriptors_exhausted() => io::Error::new(
                ErrorKind::QuotaExceeded,
                format!(
                    "queue {name} of {capacity} messages of {message_size} bytes needs {} bytes, and \
                     RLIMIT_MSGQUEUE allows {} for all queues of this user together; raise it (ulimit -q, \
                     LimitMSGQUEUE=) or unlink unused queues",
                    memory(capacity, message_size),
                    mq::memory_limit().map_or("fewer".into(), |bytes| bytes.to_string()),
                ),
            ),
            Some(libc::EMFILE | libc::ENFILE) => error,
            Some(libc::ENOSPC) => io::Error::new(
                error.kind(),
                format!(
                    "cannot create queue {name}: queues_max {} is reached; \
                     raise /proc/sys/fs/mqueue/queues_max or unlink unused queues",
                    limit("queues_max").map_or("(unknown)".into(), |n| n.to_string()),
                ),
            ),
            Some(libc::EEXIST) => io::Error::new(
                error.kind(),
                format!("queue {name} exists already; unlink it, or use create instead of create_new"),
            ),
            _ => io::Error::new(error.kind(), format!("cannot create queue {name}: {error}")),
        }
    }
}

fn explain_open(name: &str, error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => error,
        Some(libc::ENOENT) => io::Error::new(
            error.kind(),
            format!("queue {name} does not exist; start the process that creates it, or use create"),
        ),
        Some(libc::EACCES) => io::Error::new(
            error.kind(),
            format!("queue {name} does not admit this user; receiving needs read, sending write permission"),
        ),
        _ => io::Error::new(error.kind(), format!("cannot open queue {name}: {error}")),
    }
}

/// A name that the kernel would take for a queue, NUL-terminated.
pub(super) fn checked_name(name: &str) -> io::Result<CString> {
    let refuse = |why: &str| Err(invalid(format!("queue name {name:?} {why}")));
    let Some(rest) = name.strip_prefix('/') else {
        return refuse(&format!("does not begin with a slash; use {:?}", format!("/{name}")));
    };
    match rest {
        "" => refuse("is empty; use a slash and a word, as \"/jobs\""),
        "." | ".." => refuse("is a directory's; use a slash and a word, as \"/jobs\""),
        _ if rest.contains('/') => {
            refuse("has a second slash; queues have no directories, use '-' or '.' instead")
        }
        _ if rest.len() > NAME_MAX => {
            refuse(&format!("has {} bytes after its slash; use at most {NAME_MAX}", rest.len()))
        }
        _ => CString::new(name).or_else(|_| refuse("contains a NUL byte; leave it out")),
    }
}

/// Says which bound a queue's sizes offend, if one does.
fn impossible(capacity: usize, message_size: usize) -> Option<String> {
    let sizes = [
        ("capacity", capacity, CAPACITY_MAX, "msg_max"),
        ("message size", message_size, MESSAGE_SIZE_MAX, "msgsize_max"),
    ];
    if let Some((what, ..)) = sizes.iter().find(|&&(_, asked, ..)| asked == 0) {
        return Some(format!("queue {what} 0 is too small; use at least 1"));
    }
    // Before the adjustable limits, as those do not bind a privileged process, and these bind every one.
    if let Some((what, asked, hard, _)) = sizes.iter().find(|&&(_, asked, hard, _)| asked > hard) {
        return Some(format!("queue {what} {asked} exceeds the kernel's hard limit {hard}; use less"));
    }
    sizes.iter().find_map(|&(what, asked, _, file)| {
        let max = limit(file).filter(|&max| asked > max)?;
        Some(format!("queue {what} {asked} exceeds {file} {max}; raise /proc/sys/fs/mqueue/{file}"))
    })
}

fn limit(file: &str) -> Option<usize> {
    fs::read_to_string(format!("/proc/sys/fs/mqueue/{file}")).ok()?.trim().parse().ok()
}

/// What a queue counts against `RLIMIT_MSGQUEUE`: its messages, and the kernel's book-keeping as
/// `getrlimit(2)` has it.
fn memory(capacity: usize, message_size: usize) -> usize {
    const MESSAGE_HEAD: usize = 48;
    const TREE_NODE: usize = 48;
    let nodes = capacity.min(Queue::PRIORITY_MAX as usize + 1);
    capacity * (message_size + MESSAGE_HEAD) + nodes * TREE_NODE
}

fn descriptors_exhausted() -> bool {
    File::open("/").is_err_and(|error| error.raw_os_error() == Some(libc::EMFILE))
}

fn invalid(why: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, why)
}

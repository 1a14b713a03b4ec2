//! How a queue is opened or created, and explanations of the kernel's errors.

use std::{
    ffi::{CStr, CString},
    fs::{self, File},
    io::{self, ErrorKind},
    os::fd::{AsFd, OwnedFd},
};

use super::Queue;
use crate::sys::{file, mq, process};

/// Bytes of the longest name, without its slash: `NAME_MAX`.
const NAME_MAX: usize = 255;

/// The kernel's limits for every process, also one with `CAP_SYS_RESOURCE`: its `HARD_MSGMAX` and `HARD_MSGSIZEMAX`.
const CAPACITY_MAX: usize = 65_536;
const MESSAGE_SIZE_MAX: usize = 16 << 20;

/// How often to try again. An attempt fails if another process creates or unlinks the same name at that moment.
const OPEN_ATTEMPTS: usize = 16;

/// How to open a [`Queue`], and how to create one that does not exist: `mq_open(3)`.
///
/// It works like [`std::fs::OpenOptions`]. By default it opens an existing queue to send and to receive, with calls
/// that wait.
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
    /// Opens the queue to receive. With neither this nor [`write`](Self::write), it is opened for both.
    pub fn read(&mut self, read: bool) -> &mut Self {
        self.read = read;
        self
    }

    /// Opens the queue to send. With neither this nor [`read`](Self::read), it is opened for both.
    pub fn write(&mut self, write: bool) -> &mut Self {
        self.write = write;
        self
    }

    /// Creates the queue if it does not exist.
    ///
    /// An existing one is opened only if it belongs to this user, to root or to the
    /// [`trusted_owner`](Self::trusted_owner), and its permissions do not exceed [`mode`](Self::mode). Otherwise
    /// another user could create the queue first, and read what was meant for this one.
    pub fn create(&mut self, create: bool) -> &mut Self {
        self.create = create;
        self
    }

    /// Creates the queue, and fails if it exists. [`create`](Self::create) has no effect then.
    pub fn create_new(&mut self, create_new: bool) -> &mut Self {
        self.create_new = create_new;
        self
    }

    /// The permissions of a queue that is created, exactly as given, whatever the umask. Default `0o600`.
    ///
    /// A sender needs write permission, a receiver read permission: with `0o622` every user can send to the owner.
    pub fn mode(&mut self, mode: u32) -> &mut Self {
        self.mode = mode;
        self
    }

    /// The most messages that a queue holds which is created. Default: the number in `/proc/sys/fs/mqueue/msg_default`,
    /// usually 10.
    ///
    /// An existing queue keeps its own number ([`Queue::attributes`]). The maximum is in `/proc/sys/fs/mqueue/msg_max`,
    /// and is 65,536 with `CAP_SYS_RESOURCE`.
    pub fn capacity(&mut self, messages: usize) -> &mut Self {
        self.capacity = Some(messages);
        self
    }

    /// Bytes of the longest message of a queue that is created. Default: the number in
    /// `/proc/sys/fs/mqueue/msgsize_default`, usually 8,192.
    ///
    /// An existing queue keeps its own number ([`Queue::message_size`]). The maximum is in
    /// `/proc/sys/fs/mqueue/msgsize_max`, and is 16 MiB with `CAP_SYS_RESOURCE`.
    pub fn message_size(&mut self, bytes: usize) -> &mut Self {
        self.message_size = Some(bytes);
        self
    }

    /// Opens the queue non-blocking: calls fail with [`WouldBlock`](ErrorKind::WouldBlock) where they would wait.
    pub fn nonblocking(&mut self, nonblocking: bool) -> &mut Self {
        self.nonblocking = nonblocking;
        self
    }

    /// Opens an existing queue only if it belongs to the user `uid`, to this user, or to root.
    ///
    /// A client that knows its server's user calls this, because another user could have created the queue first.
    /// Without it, [`create`](Self::create) accepts queues of this user and of root, and opening alone accepts those of
    /// any user.
    pub fn trusted_owner(&mut self, uid: u32) -> &mut Self {
        self.trusted_owner = Some(uid);
        self
    }

    /// Opens the queue `name`: a slash, then 1 to 255 bytes with no further slash, as `/adder-jobs`.
    ///
    /// # Errors
    /// - [`InvalidInput`](ErrorKind::InvalidInput): the name, the mode, the capacity or the message size is not
    ///   possible. The text names the limit.
    /// - [`NotFound`](ErrorKind::NotFound): there is no such queue, and neither [`create`](Self::create) nor
    ///   [`create_new`](Self::create_new) is set.
    /// - [`AlreadyExists`](ErrorKind::AlreadyExists): there is one, and [`create_new`](Self::create_new) is set.
    /// - [`PermissionDenied`](ErrorKind::PermissionDenied): the queue's mode forbids it, or its owner or its mode is
    ///   not trusted (see [`create`](Self::create)).
    /// - [`QuotaExceeded`](ErrorKind::QuotaExceeded): the user's queues would take more memory than `RLIMIT_MSGQUEUE`.
    ///   (In C this is `EMFILE`.)
    /// - [`StorageFull`](ErrorKind::StorageFull): the system has as many queues as `/proc/sys/fs/mqueue/queues_max`
    ///   allows.
    /// - `EMFILE` or `ENFILE`: this process or the system has no free descriptor.
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
            // Two calls, because one with O_CREAT would not tell whether it has created the queue.
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
            let mut asked = mq::zeroed_attributes();
            // A number that is too large for `long` is too large for the kernel, too, which returns the error.
            asked.mq_maxmsg = capacity.try_into().unwrap_or(libc::c_long::MAX);
            asked.mq_msgsize = message_size.try_into().unwrap_or(libc::c_long::MAX);
            asked
        });
        let fd = mq::create(path, self.flags(), self.mode, attributes.as_ref())?;
        // The umask can only remove bits, so no process could open the queue before this that may not do so after it.
        if let Err(error) = file::fchmod(fd.as_fd(), self.mode) {
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

    /// The capacity and the message size: as given, or else as the kernel chooses them.
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
        if ![process::effective_uid(), 0].contains(&owner.uid) && self.trusted_owner != Some(owner.uid) {
            return Err(io::Error::new(
                ErrorKind::PermissionDenied,
                format!(
                    "queue {name} belongs to user {}, who is not trusted; \
                     unlink it, or pass that user to trusted_owner",
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
            Some(libc::EINVAL) => exceeded_limit(capacity, message_size).map_or(error, invalid),
            // Two limits have this errno. The kernel checks that of descriptors first.
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
            format!(
                "queue {name} does not admit this user; give it read permission to receive, write permission to send"
            ),
        ),
        _ => io::Error::new(error.kind(), format!("cannot open queue {name}: {error}")),
    }
}

/// The name as the kernel takes it, ending with a NUL byte. `InvalidInput` if no queue can have it.
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

/// Which limit a queue's sizes exceed, if any.
fn exceeded_limit(capacity: usize, message_size: usize) -> Option<String> {
    let sizes = [
        ("capacity", capacity, CAPACITY_MAX, "msg_max"),
        ("message size", message_size, MESSAGE_SIZE_MAX, "msgsize_max"),
    ];
    if let Some((what, ..)) = sizes.iter().find(|&&(_, asked, ..)| asked == 0) {
        return Some(format!("queue {what} 0 is too small; use at least 1"));
    }
    // Before the adjustable limits, which do not apply to a privileged process. These apply to every process.
    if let Some((what, asked, hard, _)) = sizes.iter().find(|&&(_, asked, hard, _)| asked > hard) {
        return Some(format!("queue {what} {asked} exceeds the kernel's hard limit {hard}; use less"));
    }
    sizes.iter().find_map(|&(what, asked, _, file)| {
        let max = limit(file).filter(|&max| asked > max)?;
        Some(format!("queue {what} {asked} exceeds {file} {max}; raise /proc/sys/fs/mqueue/{file}"))
    })
}

/// A limit of the system, from `mq_overview(7)`.
fn limit(file: &str) -> Option<usize> {
    fs::read_to_string(format!("/proc/sys/fs/mqueue/{file}")).ok()?.trim().parse().ok()
}

/// Bytes that a queue counts against `RLIMIT_MSGQUEUE`: its messages, and the kernel's overhead by the formula of
/// `getrlimit(2)`.
fn memory(capacity: usize, message_size: usize) -> usize {
    const MESSAGE_HEADER: usize = 48;
    const TREE_NODE: usize = 48;
    let nodes = capacity.min(Queue::PRIORITY_MAX as usize + 1);
    capacity * (message_size + MESSAGE_HEADER) + nodes * TREE_NODE
}

/// Whether this process has no free descriptor.
fn descriptors_exhausted() -> bool {
    File::open("/").is_err_and(|error| error.raw_os_error() == Some(libc::EMFILE))
}

fn invalid(why: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, why)
}

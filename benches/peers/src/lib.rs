//! What the Rust servers share: the listening socket, and how they end.

use std::fs::File;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

/// Larger than the largest message, so that one read takes a whole 64 KiB message. For the loops whose user provides
/// the buffer; all clients share one.
pub const BUFFER_BYTES: usize = 128 * 1024;

/// For the loops in which each client is a task with a buffer of its own.
pub const TASK_BUFFER_BYTES: usize = 8 * 1024;

/// A listening socket, and its path, removed on drop.
pub struct Server {
    pub listener: UnixListener,
    path: Option<PathBuf>,
}

impl Server {
    /// Listens on the program's only argument: a path, or an abstract address if it begins with `@`.
    pub fn from_args() -> io::Result<Self> {
        let mut args = std::env::args().skip(1);
        let (Some(path), None) = (args.next(), args.next()) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "usage: NAME SOCKET_PATH ('@name' for an abstract address)",
            ));
        };
        let (listener, path) = match path.strip_prefix('@') {
            Some(name) => (UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?, None),
            None => {
                let _ = std::fs::remove_file(&path);
                (UnixListener::bind(&path)?, Some(path.into()))
            }
        };
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

pub fn say_ready() {
    println!("ready");
}

/// A stream that has a byte after SIGTERM or SIGINT, for the loops that have no signal handling of their own.
pub fn end_signals() -> io::Result<UnixStream> {
    let (read, write) = UnixStream::pair()?;
    read.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGTERM, write.try_clone()?)?;
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGINT, write)?;
    Ok(read)
}

/// The file that [`await_sleep`] reads.
pub fn open_stat(pid: u32) -> io::Result<File> {
    File::open(format!("/proc/{pid}/stat"))
}

/// Waits until the process sleeps.
pub fn await_sleep(stat: &File) -> io::Result<()> {
    let mut bytes = [0; 512];
    loop {
        let len = stat.read_at(&mut bytes, 0)?;
        // PID (NAME) STATE
        let name_end = bytes[..len].iter().rposition(|&byte| byte == b')').unwrap_or(0);
        if bytes.get(name_end + 2) == Some(&b'S') {
            return Ok(());
        }
        std::thread::sleep(Duration::from_micros(50));
    }
}

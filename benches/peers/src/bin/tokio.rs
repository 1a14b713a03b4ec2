//! tokio on its current-thread runtime: a task for each client, which reads into a buffer of its own
//! (8 KiB, as `tokio::io::copy` has it) and writes all of it back.

use std::io;

use peers::{Server, TASK_BUFFER_BYTES, say_ready};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};

async fn echo(mut client: UnixStream) -> io::Result<()> {
    let mut buffer = vec![0; TASK_BUFFER_BYTES];
    loop {
        match client.read(&mut buffer).await? {
            0 => return Ok(()),
            got => client.write_all(&buffer[..got]).await?,
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let server = Server::from_args()?;
    let listener = UnixListener::from_std(server.listener.try_clone()?)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    say_ready();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((client, _)) = accepted {
                tokio::spawn(echo(client));
            },
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
}

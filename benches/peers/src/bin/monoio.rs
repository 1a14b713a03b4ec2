//! monoio on io_uring: a task for each client, which passes a buffer of its own (8 KiB) to the kernel.

use std::io;

use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{UnixListener, UnixStream};
use monoio::{IoUringDriver, RuntimeBuilder};
use peers::{Server, TASK_BUFFER_BYTES, end_signals, say_ready};

async fn echo(mut client: UnixStream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(TASK_BUFFER_BYTES);
    loop {
        let (read, lent) = client.read(buffer).await;
        if read? == 0 {
            return Ok(());
        }
        let (written, lent) = client.write_all(lent).await;
        written?;
        buffer = lent;
        buffer.clear();
    }
}

fn main() -> io::Result<()> {
    let server = Server::from_args()?;
    let signals = end_signals()?;
    let mut runtime = RuntimeBuilder::<IoUringDriver>::new().with_entries(1024).build()?;
    runtime.block_on(async {
        let listener = UnixListener::from_std(server.listener.try_clone()?)?;
        let mut signals = UnixStream::from_std(signals)?;
        say_ready();
        monoio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                monoio::spawn(echo(client));
            }
        });
        let (received, _) = signals.read(vec![0; 1]).await;
        received.map(|_| ())
    })
}

//! Shell commands that talk to an adder.

use ipc_reactor::Address;

/// Adds 1 and 2: the numbers and the 0 that ends them, in the machine's byte order.
const NUMBERS: [i32; 3] = [1, 2, 0];

/// How to talk to the adder at `address`, a line each.
pub(crate) fn lines(address: &Address) -> Vec<String> {
    let text = address.to_string();
    let (_, name) = text.split_once(':').unwrap_or_default();
    let mut lines = vec![format!("cargo run --release --example client -- {} 1 2", quoted(&text))];
    let plain = is_plain(name);
    let bytes =
        NUMBERS.map(i32::to_ne_bytes).concat().iter().map(|b| format!("\\{b:03o}")).collect::<String>();
    let shell = |command: String| format!("printf '{bytes}' | {command}");
    let python = |open: &str, send: &str| {
        format!(
            "python3 -c 'import socket,struct,sys; {open}; {send}; print(s.recv(128).decode())' {}",
            quoted(name)
        )
    };
    let all_at_once = "s.sendall(struct.pack(\"=3i\",1,2,0))";
    let record_by_record = "[s.send(struct.pack(\"=i\",n)) for n in (1,2,0)]";
    match address {
        Address::UnixStream(_) => {
            if plain {
                lines.push(shell(format!("socat - UNIX-CONNECT:{name}")));
                lines.push(shell(format!("nc -N -U {name}")));
            }
            lines.push(python("s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])", all_at_once));
        }
        // Neither socat nor nc keeps record boundaries.
        Address::UnixSeqpacket(_) => lines.push(python(
            "s=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET); s.connect(sys.argv[1])",
            record_by_record,
        )),
        Address::AbstractStream(_) if plain => {
            lines.push(shell(format!("socat - ABSTRACT-CONNECT:{name}")));
            lines
                .push(python("s=socket.socket(socket.AF_UNIX); s.connect(\"\\0\"+sys.argv[1])", all_at_once));
        }
        Address::AbstractSeqpacket(_) if plain => lines.push(python(
            "s=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET); s.connect(\"\\0\"+sys.argv[1])",
            record_by_record,
        )),
        Address::Tcp(_) => {
            let (host, port) = name.rsplit_once(':').unwrap_or((name, "0"));
            lines.push(shell(format!("socat - TCP:{name}")));
            lines.push(shell(format!("nc -N {} {port}", host.trim_matches(['[', ']']))));
            lines.push(python(
                "h,p=sys.argv[1].rsplit(\":\",1); s=socket.create_connection((h.strip(\"[]\"),int(p)))",
                all_at_once,
            ));
        }
        Address::Queue(name) => lines.push(format!(
            "python3 -c 'import ctypes,sys; c=ctypes.CDLL(None); q=c.mq_open(sys.argv[1].encode(),1); \
             c.mq_send(q,b\"42\",2,0)' {}",
            quoted(name)
        )),
        _ => {}
    }
    lines
}

fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte))
}

/// Quotes the text as one word for a shell.
fn quoted(text: &str) -> String {
    if text.bytes().all(|byte| is_plain(&char::from(byte).to_string()) || byte == b':') {
        return text.into();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

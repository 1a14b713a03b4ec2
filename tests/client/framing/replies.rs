//! Replies in the framing of the requests, and how many of them leave at once.

use crate::support::child::{alone, succeeds};
use crate::support::have;
use std::{
    io::{self, Read, Write},
    process::{Command, Stdio},
};

use ipc_reactor::{Context, Framing, Limits, Prefix, Session};

use crate::framing::{KINDS, Kind};
use crate::support::turns::{available, client, reactor, settle};

/// Replies with all of its messages, and notes what became of each.
struct Reply(Vec<Vec<u8>>);

type Outcomes = Vec<Result<(), io::ErrorKind>>;

impl Session<Outcomes> for Reply {
    fn on_request(
        &mut self,
        _: &[u8],
        cx: &mut Context<'_, Outcomes>,
        outcomes: &mut Outcomes,
    ) -> io::Result<()> {
        for reply in &self.0 {
            outcomes.push(cx.reply_frame(reply).map_err(|error| error.kind()));
        }
        let key = cx.key();
        for reply in &self.0 {
            let sent = cx.client(key).expect("itself").send_frame(reply);
            outcomes.push(sent.map_err(|error| error.kind()));
        }
        Ok(())
    }
}

/// What the peer receives for one request, and the result that the session got for each reply.
fn replies(kind: Kind, replies: &[&[u8]]) -> (Vec<u8>, Outcomes) {
    let mut reactor = reactor(Limits::default());
    let mut outcomes = Outcomes::new();
    let session = Reply(replies.iter().map(|reply| reply.to_vec()).collect());
    let (mut peer, _) = client(&mut reactor, kind.framing(), session);
    peer.write_all(&kind.wire(&kind.message(b"hello".to_vec()))).unwrap();
    settle(&mut reactor, &mut outcomes);
    let (received, ended) = available(&peer);
    assert!(!ended);
    (received, outcomes)
}

#[test]
fn a_reply_is_framed_as_the_requests_are() {
    for kind in KINDS {
        // A line of ours ends with a line feed alone.
        let sent = if matches!(kind, Kind::CrLines) { Kind::Lines } else { kind };
        let (messages, wire) = sent.conversation();
        let given: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
        let (received, outcomes) = replies(kind, &given);
        assert_eq!(received, wire.repeat(2), "{kind:?}");
        assert!(outcomes.iter().all(Result::is_ok), "{kind:?}: {outcomes:?}");
    }
}

#[test]
fn a_reply_that_does_not_fit_the_framing_is_refused_and_nothing_of_it_sent() {
    let (u8, u16) = ([b'8'; 256], vec![b'6'; 65_536]);
    let misfits: [(Kind, &[u8], &[u8]); 6] = [
        (Kind::Fixed(5), b"four", b"fiver"),
        (Kind::Fixed(5), b"sixsix", b"fiver"),
        (Kind::Lines, b"two\nlines", b"one"),
        (Kind::Prefixed(Prefix::U8), &u8, &u8[1..]),
        (Kind::Prefixed(Prefix::U16Le), &u16, &u16[1..]),
        (Kind::Netstring, &u16, b"short"),
    ];
    for (kind, misfit, fitting) in misfits {
        let (received, outcomes) = replies(kind, &[misfit, fitting]);
        assert_eq!(received, kind.wire(fitting).repeat(2), "{kind:?}");
        let once = [Err(io::ErrorKind::InvalidInput), Ok(())];
        assert_eq!(outcomes, [once, once].concat(), "{kind:?}");
    }
}

struct Answer;

impl Session<()> for Answer {
    fn on_request(&mut self, request: &[u8], cx: &mut Context<'_, ()>, (): &mut ()) -> io::Result<()> {
        cx.reply(format!("answer to {}\n", String::from_utf8_lossy(request)).as_bytes())
    }
}

const TRACED: &str = "FRAMING_TRACED";

#[test]
fn many_requests_in_one_write_are_answered_by_one_send() {
    let name = "framing::replies::many_requests_in_one_write_are_answered_by_one_send";
    let answers: String = (0..100).map(|n| format!("answer to {n}\n")).collect();
    if std::env::var_os(TRACED).is_some() {
        let mut reactor = reactor(Limits::default());
        let (mut peer, _) = client(&mut reactor, Framing::lines(), Answer);
        settle(&mut reactor, &mut ());
        peer.write_all((0..100).map(|n| format!("{n}\n")).collect::<String>().as_bytes()).unwrap();
        let _ = reactor.turn(None, &mut ()).unwrap();
        let mut received = vec![0; answers.len()];
        peer.read_exact(&mut received).unwrap();
        return assert_eq!(String::from_utf8(received).unwrap(), answers);
    }
    if !have("strace") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-s", "32", "-e", "trace=sendto,sendmsg,write,writev", "-o"]).arg(&trace);
    strace.arg(std::env::current_exe().unwrap()).args(alone(name)).env(TRACED, "1").stdin(Stdio::null());
    succeeds(&mut strace);
    let trace = std::fs::read_to_string(trace).unwrap();
    let sends: Vec<&str> = trace.lines().filter(|line| line.contains("\"answer to ")).collect();
    assert_eq!(sends.len(), 1, "{sends:#?}");
    assert!(sends[0].contains(&format!(", {}, ", answers.len())), "{}", sends[0]);
}

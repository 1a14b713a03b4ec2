//! Addresses in their written form.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt;

use ipc_reactor::Address;
use proptest::prelude::*;

fn parse(text: &str) -> Address {
    text.parse().unwrap()
}

#[test]
fn every_form_displays_as_it_is_written() {
    for text in [
        "unix:/run/a.sock",
        "unix-seq:relative",
        "unix-dgram:/a b:c",
        r"abstract:a\x00\\b",
        "abstract-seq:é",
        r"abstract-dgram:\xff",
        "tcp:localhost:0",
        "tcp:[::1]:65535",
        "udp:127.0.0.1:53",
        "mq:/jobs",
    ] {
        assert_eq!(parse(text).to_string(), text);
    }
}

#[test]
fn a_bare_path_is_a_stream() {
    assert_eq!(parse("/tmp/DemoSocket"), Address::UnixStream("/tmp/DemoSocket".into()));
    assert_eq!(parse("./a:b"), Address::UnixStream("./a:b".into()));
}

#[test]
fn errors_list_what_is_accepted() {
    for text in ["", "adder", "http://x", "unix:", "abstract:", "TCP:a:1"] {
        let error = text.parse::<Address>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        for form in
            ["unix:PATH", "unix-seq:PATH", "abstract:NAME", "tcp:HOST:PORT", "udp:HOST:PORT", "mq:/NAME"]
        {
            assert!(error.to_string().contains(form), "{text:?}: {error}");
        }
    }
}

#[test]
fn malformed_rests_are_refused_with_a_hint() {
    for (text, hint) in [
        ("tcp:localhost", "HOST:PORT"),
        ("tcp::80", "HOST:PORT"),
        ("tcp:a:65536", "65535"),
        ("tcp:a:+1", "65535"),
        ("tcp:a:", "65535"),
        ("tcp:::1:80", "brackets"),
        ("tcp:[::g]:80", "brackets"),
        ("mq:jobs", "mq:/jobs"),
        ("mq:/", "mq:/jobs"),
        ("mq:/a/b", "mq:/jobs"),
        (r"unix:/a\x00", "NUL"),
        (r"unix:/a\", "backslash"),
        (r"abstract:\x1", "backslash"),
        (r"abstract:\x+1", "backslash"),
        (r"abstract:\xé1", "backslash"),
        (r"abstract:\n", "backslash"),
    ] {
        let error = text.parse::<Address>().expect_err(text).to_string();
        assert!(error.contains(hint), "{text}: {error}");
    }
}

#[test]
fn resolving_is_for_ip_addresses() {
    assert_eq!(parse("tcp:[::1]:7").resolve().unwrap(), ["[::1]:7".parse().unwrap()]);
    assert!(parse("udp:localhost:7").resolve().unwrap().iter().all(|address| address.ip().is_loopback()));
    assert_eq!(parse("mq:/jobs").resolve().unwrap_err().kind(), ErrorKind::InvalidInput);
}

proptest! {
    #[test]
    fn names_and_paths_survive(name in proptest::collection::vec(any::<u8>(), 1..108)) {
        for address in [
            Address::AbstractStream(name.clone()),
            Address::AbstractSeqpacket(name.clone()),
            Address::AbstractDatagram(name.clone()),
        ] {
            prop_assert_eq!(&parse(&address.to_string()), &address);
        }
        let path = OsString::from_vec(name.iter().map(|&byte| byte.max(1)).collect());
        for address in [Address::UnixStream(path.clone().into()), Address::UnixSeqpacket(path.clone().into())] {
            prop_assert_eq!(&parse(&address.to_string()), &address);
        }
    }

    #[test]
    fn text_survives(name in "[^/\0]{1,20}", port: u16, host in "[a-z0-9.-]{1,20}") {
        for address in [
            Address::UnixDatagram(format!("/{name}").into()),
            Address::Queue(format!("/{name}")),
            Address::Udp(format!("{host}:{port}")),
        ] {
            prop_assert_eq!(&parse(&address.to_string()), &address);
        }
    }

    #[test]
    fn no_text_panics(text in ".{0,40}", kind in "(unix|abstract|tcp|udp|mq):") {
        let _ = text.parse::<Address>();
        if let Ok(address) = format!("{kind}{text}").parse::<Address>() {
            prop_assert_eq!(parse(&address.to_string()), address);
        }
    }
}

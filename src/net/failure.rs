//! The texts of errors at start: what was tried, with which object, the errno's name, and what to do.

use std::{fmt, io};

/// An error with the kind of `cause` and a text such as `cannot listen on tcp:0.0.0.0:80: EACCES, Permission denied (os
/// error 13); …`.
#[cold]
pub(crate) fn failed(action: &str, object: impl fmt::Display, cause: io::Error) -> io::Error {
    let text = match cause.raw_os_error().and_then(advice) {
        Some((name, advice)) => format!("{action} {object}: {name}, {cause}; {advice}"),
        None => format!("{action} {object}: {cause}"),
    };
    io::Error::new(cause.kind(), text)
}

/// The name of an errno of `socket(2)`, `bind(2)`, `listen(2)` or `open(2)`, and what helps.
fn advice(errno: i32) -> Option<(&'static str, &'static str)> {
    Some(match errno {
        libc::EACCES => (
            "EACCES",
            "a port below 1024 needs CAP_NET_BIND_SERVICE, a path needs write permission for its directory",
        ),
        libc::EADDRINUSE => ("EADDRINUSE", "stop the program that has this address, or choose another one"),
        libc::EADDRNOTAVAIL => ("EADDRNOTAVAIL", "choose an address of this host (ip address)"),
        libc::EAFNOSUPPORT => ("EAFNOSUPPORT", "this system has no such addresses (is IPv6 off?)"),
        libc::EMFILE => {
            ("EMFILE", "raise the limit of descriptors of this process (ulimit -n, LimitNOFILE=)")
        }
        libc::ENFILE => ("ENFILE", "raise the limit of open files of the system (sysctl fs.file-max)"),
        libc::ENOENT => ("ENOENT", "make the directory first"),
        libc::ENOSPC => ("ENOSPC", "free some space on the filesystem"),
        libc::EROFS => ("EROFS", "choose a path on a filesystem that is not read-only"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_names_the_action_the_object_the_errno_and_a_remedy() {
        let error = failed("cannot listen on", "tcp:[::]:80", io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        let text = error.to_string();
        for part in ["cannot listen on tcp:[::]:80: EACCES, ", "(os error 13); a port below 1024 needs"] {
            assert!(text.contains(part), "{text}");
        }
        let error = failed("cannot bind", "/run/x", io::Error::from_raw_os_error(libc::ELOOP));
        assert!(error.to_string().starts_with("cannot bind /run/x: "), "{error}");
    }
}

//! Programs that know nothing of this crate: C and Python, through `/dev/shm`.

use crate::support::shm::{ShmName, is_root, refused, skip};
use ipc_reactor::shm::{Access, NamedText, SharedObject};
use std::fs::Permissions;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

const C_WRITER: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
int main(int argc, char **argv) {
    umask(022);
    int fd = shm_open(argv[1], O_CREAT | O_RDWR, 0666);
    if (fd < 0 || ftruncate(fd, 4096) < 0) return 1;
    char *ptr = mmap(0, 4096, PROT_WRITE, MAP_SHARED, fd, 0);
    if (ptr == MAP_FAILED) return 2;
    sprintf(ptr, "%s", argv[2]);
    ptr += 5;
    return argc != 3;
}
"#;

const C_READER: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
int main(int argc, char **argv) {
    int fd = shm_open(argv[1], O_RDONLY, 0666);
    if (fd < 0) return 1;
    void *ptr = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
    if (ptr == MAP_FAILED) return 2;
    printf("%s", (char *)ptr);
    return argc != 2;
}
"#;

/// Compiles a C program, unless there is no compiler.
fn compiled(dir: &Path, source: &str) -> Option<Command> {
    std::fs::write(dir.join("peer.c"), source).unwrap();
    let program = dir.join("peer");
    match Command::new("cc").arg("-o").arg(&program).arg(dir.join("peer.c")).arg("-lrt").output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(Command::new(program))
        }
        Err(e) => {
            skip(&format!("a peer in C takes cc: {e}"));
            None
        }
    }
}

#[test]
fn a_c_program_reads_our_text() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut reader) = compiled(dir.path(), C_READER) else { return };
    let name = ShmName::new();
    let text = NamedText::new(&name.0);
    reader.arg(&name.0);
    for value in [c"Hello World", c"", c"a longer text than the first", c"short again"] {
        text.write(value).unwrap();
        let output = reader.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(output.stdout, value.to_bytes());
    }
}

#[test]
fn we_read_a_c_programs_text_and_answer_in_its_object() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut writer) = compiled(dir.path(), C_WRITER) else { return };
    let name = ShmName::new();
    assert!(writer.args([&name.0, "from C"]).status().unwrap().success());
    let text = NamedText::new(&name.0);
    assert_eq!(text.read().unwrap().as_c_str(), c"from C");

    text.write(c"and back").unwrap();
    assert_eq!(text.read().unwrap().as_c_str(), c"and back");
    let metadata = std::fs::metadata(name.path()).unwrap();
    assert_eq!((metadata.len(), metadata.mode() & 0o777), (4096, 0o644), "the object is as C made it");
}

#[test]
fn python_reads_and_writes_the_file() {
    let script = r#"
import sys
with open(sys.argv[1], "r+b") as f:
    text = f.read().split(b"\0")[0]
    f.seek(0)
    f.write(text + b" and Python\0")
"#;
    let name = ShmName::new();
    let text = NamedText::new(&name.0);
    text.write(c"Rust").unwrap();
    match Command::new("python3").args(["-c", script, &name.path()]).status() {
        Ok(status) => assert!(status.success()),
        Err(e) => return skip(&format!("a peer in Python takes python3: {e}")),
    }
    assert_eq!(text.read().unwrap().as_c_str(), c"Rust and Python");
}

#[test]
fn a_new_object_is_private_and_long_enough_for_a_page_sized_map() {
    let name = ShmName::new();
    NamedText::new(&name.0).write(c"x").unwrap();
    let metadata = std::fs::metadata(name.path()).unwrap();
    assert_eq!((metadata.len(), metadata.mode() & 0o7777), (4096, 0o600));
    let long = std::ffi::CString::new(vec![b'y'; 5000]).unwrap();
    NamedText::new(&name.0).write(&long).unwrap();
    assert_eq!(NamedText::new(&name.0).read().unwrap(), long);
    NamedText::new(&name.0).write(c"x").unwrap();
    assert_eq!(std::fs::metadata(name.path()).unwrap().len(), 5001, "a mapped object must not shrink");

    let shared = ShmName::new();
    NamedText::new(&shared.0).mode(0o644).size(100).write(c"x").unwrap();
    let metadata = std::fs::metadata(shared.path()).unwrap();
    assert_eq!((metadata.len(), metadata.mode() & 0o7777), (100, 0o644));
}

#[test]
fn a_text_without_an_end_is_refused() {
    let name = ShmName::new();
    let text = NamedText::new(&name.0);
    refused(text.read(), ErrorKind::NotFound, "cannot open");
    SharedObject::create(&name.0, 4096, 0o600).unwrap();
    assert_eq!(text.read().unwrap().as_c_str(), c"");
    std::fs::write(name.path(), [b'z'; 4096]).unwrap();
    refused(text.read(), ErrorKind::InvalidData, "no NUL ends the text within the first 4096 bytes");
    std::fs::write(name.path(), [b'z'; 100_000]).unwrap();
    refused(text.read(), ErrorKind::InvalidData, "no NUL");
    std::fs::write(name.path(), "ends with the object").unwrap();
    assert_eq!(text.read().unwrap().as_c_str(), c"ends with the object");
    std::fs::write(name.path(), "").unwrap();
    refused(text.read(), ErrorKind::InvalidData, "first 0 bytes");
}

#[test]
fn an_object_that_others_may_write_is_refused() {
    let name = ShmName::new();
    let text = NamedText::new(&name.0);
    text.write(c"x").unwrap();
    std::fs::set_permissions(name.path(), Permissions::from_mode(0o620)).unwrap();
    refused(text.read(), ErrorKind::PermissionDenied, "mode 0620");
    refused(text.write(c"y"), ErrorKind::PermissionDenied, "mode 0620");
    assert_eq!(text.any_owner(true).read().unwrap().as_c_str(), c"x");
}

#[test]
fn another_users_object_is_refused() {
    if !is_root() {
        return skip("playing another user takes root");
    }
    let name = ShmName::new();
    let squat = format!("umask 022; head -c 4096 /dev/zero > {}", name.path());
    assert!(Command::new("sh").args(["-c", &squat]).uid(65534).gid(65534).status().unwrap().success());
    let text = NamedText::new(&name.0);
    refused(text.write(c"secret"), ErrorKind::PermissionDenied, "belongs to uid 65534");
    refused(text.read(), ErrorKind::PermissionDenied, "belongs to uid 65534");
    refused(SharedObject::create(&name.0, 1, 0o600), ErrorKind::AlreadyExists, "cannot create");
    SharedObject::open_any(&name.0, Access::ReadOnly).unwrap();
}

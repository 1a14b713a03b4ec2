//! `.ci/render-svg` renders the plots in a browser and checks them. These tests check that it finds each fault.
#![warn(missing_docs)]

use crate::support::{can, have};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const START: &str = r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 200 100" width="200" height="100"><rect width="200" height="100" fill="white"/>"#;

/// A good picture, its size aside.
const GOOD: &str = "<path d='M0 50H200' stroke='red'/><text x='30' y='60'>beside</text></svg>";

/// The rest of a picture, and what must be reported of it; nothing if it is good.
const PICTURES: [(&str, &str, &str); 9] = [
    ("good", GOOD, ""),
    (
        "turned",
        "<path d='M0 50H200' stroke='red'/><text transform='translate(20 90) rotate(-90)'>turned</text>\
         <text x='30' y='60'>beside</text><!-- </script> --></svg>",
        "",
    ),
    ("empty", "</svg>", "nothing is drawn but words"),
    ("words", "<text x='10' y='20'>words</text></svg>", "nothing is drawn but words"),
    (
        "beyond",
        "<path d='M0 50H200' stroke='red'/><text x='150' y='20'>far too long for here</text></svg>",
        "beyond",
    ),
    (
        "over",
        "<path d='M0 50H200' stroke='red'/><text x='10' y='60'>one</text><text x='14' y='62'>two</text></svg>",
        "\"two\" lies over \"one\"",
    ),
    (
        "small",
        "<path d='M0 50H200' stroke='red'/><text x='9' y='9' font-size='4'>small</text></svg>",
        "4.0 pixels",
    ),
    ("nan", "<path d='M0 50H200' stroke='red'/><circle cx='NaN' r='4'/></svg>", "cx=\"NaN\""),
    ("broken", "<path></svg>", "not an SVG"),
];

/// The program, if it can run here.
fn render_svg() -> Option<PathBuf> {
    let render = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/render-svg");
    let ready = can(render.exists(), "there is no .ci/render-svg") && have("python3") && have("chromium");
    ready.then_some(render)
}

#[test]
fn a_picture_that_nobody_could_read_is_refused() {
    let Some(render) = render_svg() else { return };
    let folder = tempfile::tempdir().unwrap();
    let files = PICTURES.map(|(name, rest, _)| {
        let file = folder.path().join(name).with_extension("svg");
        fs::write(&file, format!("{START}{rest}")).unwrap();
        file
    });
    let png = folder.path().join("png");
    let output = Command::new(&render).arg("--png").arg(&png).args(&files).output().unwrap();
    let (good, bad) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(1), "{bad}");
    for (name, _, fault) in PICTURES {
        let said =
            |text: &str| text.lines().find(|line| line.contains(&format!("{name}.svg:"))).map(str::to_owned);
        match said(&bad) {
            None => {
                assert!(fault.is_empty() && said(&good).is_some(), "{name}: nothing was said; {bad}{good}")
            }
            Some(line) => assert!(!fault.is_empty() && line.contains(fault), "{name}: {line}"),
        }
    }
    assert!(fs::read(png.join("good.png")).unwrap().starts_with(b"\x89PNG"));

    let output = Command::new(&render).arg(&files[0]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let output = Command::new(&render).arg(folder.path().join("missing.svg")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let output =
        Command::new(&render).arg(&files[0]).env("BROWSER_FOR_SVG", "no-such-browser").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("apt-get install chromium"));
}

/// It ended in "Maximum call stack size exceeded", where each byte was an argument.
#[test]
fn a_large_picture_could_not_be_rendered() {
    let Some(render) = render_svg() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("large.svg");
    fs::write(&file, format!("{START}<!-- {} -->{GOOD}", "x".repeat(500_000))).unwrap();
    let output = Command::new(&render).arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

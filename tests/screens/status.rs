//! `status` as text: what a snapshot says in lines, with ages, times and amounts as people read them.

use std::{fs, path::PathBuf};

use portcullis::status::status_text;

use crate::pictures;

#[test]
fn status_is_as_it_was() {
    let mut wrong = vec![];
    for (name, snapshot) in [("degraded", pictures::degraded()), ("healthy", pictures::healthy())] {
        let text = format!("{}\n", status_text(&pictures::judged(snapshot)));
        let file = format!("tests/golden/status/{name}.txt");
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file);
        if std::env::var_os("PORTCULLIS_BLESS").is_some_and(|value| value == "1") {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, &text).unwrap();
        }
        if fs::read_to_string(&file).unwrap_or_default() != text {
            wrong.push(format!("{name}:\n{text}"));
        }
    }
    crate::report(&wrong);
}

//! Pictures for docs/operate.md of what no recording shows: a fleet, and the list of profiles.
//!
//! `PORTCULLIS_BLESS=1` draws `assets/*.svg` again, as it does the golden files.

use std::{fs, path::PathBuf, sync::Arc};

use portcullis::{
    gateway::handle::{AdminAccess, CommandAnswer},
    tui::{app::App, screen::Screen, source::Attachment, style::ScreenStyle},
};

use crate::{fleet, pictures, press, styled, svg};

fn of_fleet(keys: &str) -> App {
    let mut app = App::new(Arc::new(fleet::fleet()), ScreenStyle::FULL);
    app.set_attachment(Attachment::Fleet(AdminAccess::Full));
    press(&mut app, keys);
    app
}

fn of_profiles() -> App {
    let mut app = App::new(Arc::new(pictures::judged(pictures::healthy())), ScreenStyle::FULL);
    press(&mut app, "6");
    app.take_answer(CommandAnswer::Profiles(pictures::profiles()));
    press(&mut app, "jj");
    app
}

#[test]
fn the_images_of_the_docs_match_the_screen() {
    let mut wrong = vec![];
    for (name, app, width) in [
        ("fleet", of_fleet("1"), 120),
        ("fleet-gateways", of_fleet("8j"), 120),
        ("fleet-sessions", of_fleet("3jj"), 160),
        ("fleet-path", of_fleet("9"), 120),
        ("profiles", of_profiles(), 120),
    ] {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("assets").join(format!("{name}.svg"));
        let drawn = svg::of(&styled::draw(&app, width, 36));
        if std::env::var_os("PORTCULLIS_BLESS").is_some_and(|value| value == "1") {
            fs::write(&file, &drawn).unwrap();
        }
        if fs::read_to_string(&file).unwrap_or_default() != drawn {
            wrong.push(name);
        }
    }
    let how = "PORTCULLIS_BLESS=1 cargo test --test screens draws them again; look at them";
    assert!(wrong.is_empty(), "{wrong:?} differ; {how}");
}

#[test]
fn each_screen_has_its_picture_in_the_docs() {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operate.md")).unwrap();
    for screen in Screen::ALL {
        let name = screen.name().to_lowercase();
        let name = if screen == Screen::Gateways { "fleet-gateways" } else { &name };
        assert!(text.contains(&format!("](../assets/{name}.svg)")), "{name} is not in docs/operate.md");
    }
}

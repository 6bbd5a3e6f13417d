//! `check` and `profiles`: what is wrong with profiles, and which profiles there are. Nothing is bound or dialled: a
//! profile that is fine here can still meet a port that is taken.

use std::{path::Path, process::ExitCode};

use serde_json::{Value, json};

use crate::{
    admin::socket_path,
    cli::Cli,
    exit,
    output::{OutputError, OutputForm, print, print_line, print_note},
    profile::{self, DmzMode, InternalMode, Problem, Profile, ServerAddress},
    source::{self, ChosenProfile, LoadedProfile, ProfileSource},
    text,
};

/// Prints every problem of the named profiles, or of all in the folders. Profiles that are named one by one are
/// also compared, as the halves of one pair.
pub fn run(
    cli: &Cli,
    source: &ProfileSource,
    names: &[String],
    form: OutputForm,
) -> Result<ExitCode, OutputError> {
    let named: Vec<_> = names.iter().chain(cli.profile.as_ref()).map(|name| source.choose(name)).collect();
    let is_named = !named.is_empty();
    let all = match is_named {
        true => named,
        false => source.list().into_iter().map(|file| Ok(ChosenProfile::File(file))).collect(),
    };
    if all.is_empty() {
        print_note(format_args!("portcullis: {}", no_profiles(source)));
        return Ok(exit::BAD_INPUT.into());
    }
    let (mut found, mut good) = (Vec::new(), Vec::new());
    for chosen in all {
        match chosen.and_then(|chosen| source.load(&chosen, cli.mode)) {
            Ok(loaded) => {
                print_good(&loaded.profile, form)?;
                good.push(loaded);
            }
            Err(problems) => {
                print_problems(&problems, form)?;
                found.extend(problems);
            }
        }
    }
    let apart = if is_named { compare_halves(cli, &good) } else { Vec::new() };
    print_problems(&apart, form)?;
    found.extend(apart);
    match (form, found.is_empty()) {
        (OutputForm::Json, _) => print_line(format_args!("{:#}", problems_json(&found)))?,
        (OutputForm::Text, true) => print_plan(cli, &good, is_named)?,
        (OutputForm::Text, false) => {}
    }
    Ok(if found.is_empty() { ExitCode::SUCCESS } else { exit::BAD_INPUT.into() })
}

/// Prints a profile with everything it extends, if nothing is wrong with it.
pub fn print_effective(cli: &Cli, source: &ProfileSource, name: &str) -> Result<ExitCode, OutputError> {
    let text = source.choose(name).and_then(|chosen| {
        source.load(&chosen, cli.mode)?;
        match chosen.file() {
            Some(file) => profile::effective_text(file, source.pipes),
            None => Ok(profile::DEMO_TEXT.to_owned()),
        }
    });
    match text {
        Ok(text) => {
            print(&text)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(problems) => {
            problems.iter().for_each(print_note);
            Ok(exit::BAD_INPUT.into())
        }
    }
}

fn print_good(profile: &Profile, form: OutputForm) -> Result<(), OutputError> {
    if form == OutputForm::Json {
        return Ok(());
    }
    let file = text::clean_path(profile.file.as_deref().unwrap_or(Path::new("demo")));
    print_line(format_args!("{file}: ok, {}", describe(profile)))?;
    let warnings = [profile::warnings(profile), warn_of_admin_sockets(profile)].concat();
    warnings.iter().try_for_each(|warning| print_line(format_args!("{file}: warning: {warning}")))
}

/// A backend at the admin socket of a gateway would give its clients the rights of that gateway's operators.
fn warn_of_admin_sockets(profile: &Profile) -> Vec<String> {
    let direct = profile.dmz.iter().flat_map(|half| match &half.mode {
        DmzMode::Direct(backends) => backends.iter().collect(),
        DmzMode::Forward { .. } | DmzMode::Reverse { .. } => Vec::new(),
    });
    let direct = direct.map(|(name, connect)| ("dmz", name, connect));
    let inside = profile.internal.iter().flat_map(|half| &half.services);
    let inside = inside.map(|service| ("internal", &service.name, &service.connect));
    let mut warnings = Vec::new();
    for (half, name, connect) in direct.chain(inside) {
        let sockets = connect.list.iter().filter_map(|listed| match &listed.backend.remote()?.at {
            ServerAddress::Unix(file) => Some((file, &listed.backend)),
            ServerAddress::Network(_) => None,
        });
        for (_, backend) in sockets.filter(|(file, _)| socket_path::is_in_runtime_folder(file)) {
            warnings.push(format!(
                "{half}.services.{name}.connect: `{backend}` is where admin sockets of gateways are: clients would give \
                 commands there; write the socket of the server itself"
            ));
        }
    }
    warnings
}

fn problems_json(problems: &[Problem]) -> Value {
    let row = |Problem { location, what, advice }: &Problem| {
        json!({
            "file": &*location.file, "line": location.line, "column": location.column, "key": location.key, "text": what,
            "advice": advice,
        })
    };
    problems.iter().map(row).collect()
}

/// What would run now: in detail for named profiles, otherwise how to run one.
fn print_plan(cli: &Cli, good: &[LoadedProfile], is_named: bool) -> Result<(), OutputError> {
    if !is_named {
        return print_line("no problem found; `portcullis --profile NAME` runs one of them");
    }
    let option = |name: &str, value: Value| value.as_str().map(|word| format!(" --{name} {word}"));
    let options = [option("mode", json!(cli.mode)), option("role", json!(cli.half))];
    let options = options.into_iter().flatten().collect::<String>();
    for profile in good.iter().map(|loaded| &loaded.profile) {
        let file = profile.file.as_deref().map_or_else(|| "demo".into(), text::clean_path);
        print_line(format_args!("`portcullis --profile {file}{options}` would run:"))?;
        what_runs(profile).iter().try_for_each(|line| print_line(format_args!("  {line}")))?;
    }
    Ok(())
}

/// What each half of a profile opens and dials.
fn what_runs(profile: &Profile) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(half) = &profile.dmz {
        lines.push(match &half.mode {
            DmzMode::Direct(_) => "the DMZ half, which reaches the backends itself".to_owned(),
            DmzMode::Forward { connect, .. } => format!("the DMZ half, which dials {}", list(connect)),
            DmzMode::Reverse { listen, .. } => format!("the DMZ half, which waits for links at {listen}"),
        });
        for service in &half.services {
            let accepts: Vec<_> = service.accept.iter().map(|accept| accept.address.to_string()).collect();
            let backend = match &half.mode {
                DmzMode::Direct(backends) => backends.get(&service.name),
                DmzMode::Forward { .. } | DmzMode::Reverse { .. } => None,
            };
            let backend = backend.map_or_else(String::new, |backend| format!(" → {backend}"));
            lines.push(format!("{}: clients at {}{backend}", service.name, list(&accepts)));
        }
    }
    if let Some(half) = &profile.internal {
        lines.push(match &half.mode {
            InternalMode::Forward { listen, .. } => {
                format!("the internal half, which waits for links at {listen}")
            }
            InternalMode::Reverse { connect, .. } => {
                format!("the internal half, which dials {}, and opens no port", list(connect))
            }
        });
        let services = half.services.iter();
        lines.extend(services.map(|service| format!("{}: backend {}", service.name, service.connect)));
    }
    lines
}

fn list(things: &[impl ToString]) -> String {
    things.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Prints them as they are found; programs get all of them at the end.
fn print_problems(problems: &[Problem], form: OutputForm) -> Result<(), OutputError> {
    match form {
        OutputForm::Text => problems.iter().try_for_each(print_line),
        OutputForm::Json => Ok(()),
    }
}

/// Where no profile was found, and why.
fn no_profiles(source: &ProfileSource) -> String {
    let looked = source.folders.iter().map(|folder| {
        let state = match folder.read_dir() {
            Ok(_) => "holds none".to_owned(),
            Err(error) => error.to_string(),
        };
        format!("{} ({state})", text::clean_path(folder))
    });
    let looked = looked.collect::<Vec<_>>().join(", ");
    format!(
        "no profiles found: {looked}; name a profile, or its folder with --profiles, or write a first one with \
         `portcullis init pair`"
    )
}

/// Problems that appear only when the halves of a pair are compared.
fn compare_halves(cli: &Cli, loaded: &[LoadedProfile]) -> Vec<Problem> {
    let files: Vec<_> = loaded.iter().filter_map(|loaded| loaded.profile.file.as_deref()).collect();
    let mut problems = profile::compare_files(&files, cli.mode);
    let lone_dmz = loaded.iter().filter(|loaded| loaded.profile.internal.is_none());
    for dmz in lone_dmz {
        for internal in loaded.iter().filter(|loaded| loaded.profile.dmz.is_none()) {
            problems.extend(source::compare_certificates(dmz, internal));
        }
    }
    problems
}

/// Lists the profiles found, with mode, halves and whether each is valid.
pub fn list_profiles(source: &ProfileSource) -> Result<(), OutputError> {
    let files = source.list();
    if files.is_empty() {
        print_note(format_args!("portcullis: {}", no_profiles(source)));
    }
    for file in files {
        let name = text::clean_path(Path::new(file.file_stem().unwrap_or_default()));
        let path = text::clean_path(&file);
        match source.load(&ChosenProfile::File(file), None) {
            Ok(loaded) => {
                print_line(format_args!("{name:<24} {:<32} valid    {path}", describe(&loaded.profile)))?;
            }
            Err(problems) => {
                let count = match problems.len() {
                    1 => "1 problem".to_owned(),
                    count => format!("{count} problems"),
                };
                print_line(format_args!("{name:<24} {:<32} invalid  {path} ({count}, see `check`)", "-"))?;
            }
        }
    }
    Ok(())
}

fn describe(profile: &Profile) -> String {
    let halves = match (&profile.dmz, &profile.internal) {
        (Some(_), Some(_)) => "dmz and internal",
        (Some(_), None) => "dmz",
        (None, _) => "internal",
    };
    format!("{}, {halves}", json!(profile.mode).as_str().unwrap_or_default())
}

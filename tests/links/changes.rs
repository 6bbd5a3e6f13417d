//! Inputs of `fuzz/corpus`, and what a few random changes make of them.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use fastrand::Rng;

const SECONDS: f64 = 2.0;
/// Longer inputs show nothing that a shorter one does not.
const INPUT_MAX: usize = 64 * 1024;

/// `PORTCULLIS_FUZZ_SECONDS`.
pub fn seconds() -> f64 {
    env::var("PORTCULLIS_FUZZ_SECONDS").ok().map_or(SECONDS, |text| text.parse().unwrap())
}

/// The files of a folder of the repository.
pub fn files(folder: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.is_file()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// `PORTCULLIS_WRITE_CORPUS=1` writes an input of the corpus; without it, it has to be there. What a
/// fuzzer has added is left alone.
pub fn keep(target: &str, name: &str, input: &[u8]) {
    let file: PathBuf = [env!("CARGO_MANIFEST_DIR"), "fuzz/corpus", target, name].iter().collect();
    if env::var_os("PORTCULLIS_WRITE_CORPUS").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, input).unwrap();
    }
    assert!(fs::read(&file).unwrap() == input, "{}", file.display());
}

/// Decodes each input as it is, and then changed at random for this long.
pub fn endure<T>(inputs: &[Vec<u8>], seconds: f64, decode: impl Fn(&[u8]) -> T) {
    // Shows the input that fails.
    let received = |input: &[u8]| {
        let hearing = std::panic::AssertUnwindSafe(|| drop(decode(input)));
        if std::panic::catch_unwind(hearing).is_err() {
            panic!("the input {}", input.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        }
    };
    let mut rng = Rng::with_seed(crate::seed());
    inputs.iter().for_each(|input| received(input));
    let ends = Instant::now() + Duration::from_secs_f64(seconds);
    let mut count = 0_u64;
    while Instant::now() < ends {
        let mut input = rng.choice(inputs).unwrap().clone();
        for _ in 0..rng.usize(1..5) {
            change(&mut input, inputs, &mut rng);
        }
        received(&input);
        count += 1;
    }
    println!("{count} inputs");
    assert!(count > 0 || seconds == 0.0);
}

fn change(input: &mut Vec<u8>, corpus: &[Vec<u8>], rng: &mut Rng) {
    let at = rng.usize(..=input.len());
    let until = at + rng.usize(..=(input.len() - at).min(24));
    match rng.u8(0..6) {
        0 if at < input.len() => input[at] ^= 1 << rng.u8(0..8),
        1 if at < input.len() => input[at] = rng.choice([0, 1, 7, 8, 0x7f, 0x80, 0xff]).unwrap_or_default(),
        2 => input.insert(at, rng.u8(..)),
        3 => drop(input.drain(at..until)),
        4 => {
            let again = input[at..until].to_vec();
            input.splice(at..at, again).for_each(drop);
        }
        _ => {
            let other = rng.choice(corpus).unwrap();
            let from = rng.usize(..=other.len());
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
    }
    input.truncate(INPUT_MAX);
}

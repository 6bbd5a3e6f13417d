//! PEM files, found by libFuzzer: `cargo +nightly fuzz run pem`.
#![no_main]

#[path = "../readers.rs"]
#[expect(dead_code, reason = "each target runs one of them")]
mod readers;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let file = std::env::temp_dir().join(format!("portcullis-fuzz-{}.pem", std::process::id()));
    readers::pem(&file, input);
});

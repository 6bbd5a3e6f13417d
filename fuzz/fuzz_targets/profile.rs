//! Texts of profiles, found by libFuzzer: `cargo +nightly fuzz run profile corpus/profile ../profiles`.
#![no_main]

#[path = "../readers.rs"]
#[expect(dead_code, reason = "each target runs one of them")]
mod readers;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let file = std::env::temp_dir().join(format!("portcullis-fuzz-{}.yaml", std::process::id()));
    readers::profile(&file, input);
});

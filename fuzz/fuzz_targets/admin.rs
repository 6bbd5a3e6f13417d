//! What `readers::admin` reads, found by libFuzzer: `cargo +nightly fuzz run admin`.
#![no_main]

#[path = "../readers.rs"]
#[expect(dead_code, reason = "each target runs one of them")]
mod readers;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    readers::admin(input);
});

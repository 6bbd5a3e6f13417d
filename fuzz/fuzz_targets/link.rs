//! Bytes of a link, found by libFuzzer: `cargo +nightly fuzz run link`.
#![no_main]

#[path = "../driver.rs"]
mod driver;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    driver::drive(input);
});

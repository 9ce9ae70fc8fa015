#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| waxseal_e2e::fuzz::ethereum(data));
